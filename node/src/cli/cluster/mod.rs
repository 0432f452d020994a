//! `kvasir status`, `ring` and `where`: what the nodes say about themselves, as tables.
//!
//! The node judges (is the data safe, who owns what); these commands only ask and draw. With
//! `-o json` the answer of the node is passed on.

pub mod apply;
mod draw;
pub mod operate;
pub mod plan;
pub(crate) mod progress;
pub mod running;
pub(super) mod view;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use kvasir_core::admin_api::{
    DocumentAnswer, NodeStatus, Problem, ReplicaRead, Status, Verdict, problem::code, routes,
};
use kvasir_core::id::NodeId;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::client::{Ask, Client};
use super::failure::{Exit, Failure};
use super::output::{self, Format};
use super::simulate::{Simulate, simulate};
use super::{AdminTarget, servers};
use view::RingView;

/// Arguments of `kvasir status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir status
  kvasir status --admin http://10.0.0.7:9098 -o json

The first line answers: is my data safe now? SAFE and DEGRADED end with exit code 0, UNAVAILABLE,
MISSING and NOT FORMED with 4.

ST: first letter U up, S suspected, D down, ? unknown; second letter M member, - not a member.")]
pub struct StatusArguments {
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// Arguments of `kvasir ring`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kvasir ring
  kvasir ring --partitions
  kvasir ring -o json        the cluster document
  kvasir ring plan join 7c1d66f0
  kvasir ring apply join 7c1d66f0
  kvasir ring status
  kvasir ring simulate --nodes 3..100"
)]
pub struct RingArguments {
    /// What else about the ring
    #[command(subcommand)]
    pub word: Option<RingWord>,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
    /// List every partition with its owners
    #[arg(long)]
    pub partitions: bool,
}

/// Further words about the ring.
#[derive(Debug, Clone, Subcommand)]
pub enum RingWord {
    /// What a change of the cluster would move; nothing is changed
    Plan(plan::PlanArguments),
    /// Carry a change out: show what it moves, ask, post it, and watch it to its end
    Apply(apply::ApplyArguments),
    /// Take a running change back, as far as data does not depend on it yet
    Cancel(apply::CancelArguments),
    /// Changes that run and that ran: what moved from whom to whom, and how much
    Status(running::RunningArguments),
    /// How a cluster of some shape balances and moves as it grows and shrinks; needs no cluster
    Simulate(Simulate),
}

/// Arguments of `kvasir where`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir where default cart/42
  kvasir where default cart/42 -o json

Every owner is asked alone and nothing is repaired: equal digests are equal sets. Replica reads need
the bearer token (--token) where the admin port does not listen on loopback.")]
pub struct WhereArguments {
    /// Name of the bucket
    pub bucket: String,
    /// The key
    pub key: String,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// Is my data safe now?
pub async fn status(arguments: &StatusArguments) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let status: Status = ask(&client, routes::STATUS).await?;
    match arguments.admin.target.output {
        Format::Json => output::say_json(&status)?,
        Format::Table => output::say(&draw::status(&status, output::colour_stdout()))?,
    }
    Ok(match status.safety.verdict {
        Verdict::Safe | Verdict::Degraded => Exit::Ok,
        Verdict::Unavailable | Verdict::Missing | Verdict::Unformed => Exit::Unavailable,
    })
}

/// Who owns how much.
pub async fn ring(arguments: &RingArguments) -> Result<Exit, Failure> {
    match &arguments.word {
        Some(RingWord::Plan(arguments)) => return plan::plan(arguments).await,
        Some(RingWord::Apply(arguments)) => return apply::apply(arguments).await,
        Some(RingWord::Cancel(arguments)) => return apply::cancel(arguments).await,
        Some(RingWord::Status(arguments)) => return running::running(arguments).await,
        Some(RingWord::Simulate(arguments)) => return simulate(arguments),
        None => {}
    }
    let client = arguments.admin.client()?;
    let answer: DocumentAnswer = ask(&client, routes::DOCUMENT).await?;
    if arguments.admin.target.output == Format::Json {
        output::say_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let view = RingView::of(&answer)?;
    let status: Status = ask(&client, routes::STATUS).await?;
    output::say(&draw::ring(&answer, &view, &status.nodes, arguments.partitions))?;
    Ok(Exit::Ok)
}

/// What one node said about a key, or why it said nothing.
pub type Told = Result<ReplicaRead, String>;

/// Who owns a key, and what each replica holds of it.
pub async fn locate(arguments: &WhereArguments) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let status: Status = ask(&client, routes::STATUS).await?;
    let answer: DocumentAnswer = ask(&client, routes::DOCUMENT).await?;
    let view = RingView::of(&answer)?;
    let told = ask_all(arguments, &status.nodes).await;
    let Some(first) = told.values().find_map(|told| told.as_ref().ok()) else {
        let reasons: Vec<String> = told
            .iter()
            .filter_map(|(node, told)| Some(format!("{node}: {}", told.as_ref().err()?)))
            .collect();
        return Err(Failure::new(
            Exit::Unavailable,
            format!("no node told what it holds: {}", reasons.join("; ")),
            "check the admin ports with `kvasir status`; off loopback --token is needed",
        ));
    };
    let owners = view.owners(first.partition.index);
    let nothing = told.values().flatten().all(|read| !read.found);
    match arguments.admin.target.output {
        Format::Table => {
            let name = format!("{}/{}", arguments.bucket, arguments.key);
            output::say(&draw::replicas(&name, first, &owners, &told, &status.nodes))?;
        }
        Format::Json => output::say_json(&json!({
            "bucket": arguments.bucket,
            "key": arguments.key,
            "keyHash": first.key_hash,
            "partition": first.partition,
            "owners": owners,
            "replicas": told.values().filter_map(|told| told.as_ref().ok()).collect::<Vec<_>>(),
            "silent": told.iter().filter_map(|(node, told)| {
                Some(json!({"node": node, "reason": told.as_ref().err()?}))
            }).collect::<Vec<_>>(),
        }))?,
    }
    Ok(if nothing { Exit::NotFound } else { Exit::Ok })
}

/// Asks every node for what it alone holds, all at once.
async fn ask_all(arguments: &WhereArguments, nodes: &[NodeStatus]) -> BTreeMap<NodeId, Told> {
    let target =
        routes::fill(routes::REPLICA, &[arguments.bucket.as_bytes(), arguments.key.as_bytes()]);
    let asked = nodes.iter().map(|node| {
        let target = target.clone();
        async move { (node.id, ask_replica(arguments, node, &target).await) }
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask_replica(arguments: &WhereArguments, node: &NodeStatus, target: &str) -> Told {
    if node.admin.is_empty() {
        return Err("its address is not known".to_owned());
    }
    let servers = servers::parse("--admin", &node.admin, super::ADMIN_PORT)
        .map_err(|failure| failure.message)?;
    let bounds = super::bounds(arguments.admin.timeout, 1, false);
    let client = Client::new("--admin", servers, bounds).with_bearer(arguments.admin.token.clone());
    ask(&client, target).await.map_err(|failure| failure.message)
}

/// Reads one answer of an admin port.
pub(super) async fn ask<T: DeserializeOwned>(client: &Client, target: &str) -> Result<T, Failure> {
    let reply = client.ask(&Ask::get(target)).await?;
    if reply.status != 200 {
        let problem = serde_json::from_slice::<Problem>(&reply.body).ok();
        if problem.is_some_and(|problem| problem.code == code::NOT_FORMED) {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("{} belongs to no cluster yet", reply.server),
                "form one: POST /v1/cluster/init on the admin port, or use `kvasir dev`",
            ));
        }
        return Err(reply.failure());
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        Failure::error(
            format!("the answer of {} to {target} cannot be read: {error}", reply.server),
            "check that it is an admin port, and that `kvasir version` fits the nodes",
        )
    })
}
