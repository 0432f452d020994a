//! `kvasir repair`: compare the replicas of a node with the other copies now, see how far it is, pause it.
//!
//! Nodes compare all the time by themselves; this is for somebody who does not want to wait, and for
//! watching. A command speaks to one node, the first admin server that answers.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use kvasir_core::admin_api::{
    DocumentAnswer, PartitionName, RepairAction, RepairRequest, RepairStatus, routes,
};

use super::AdminTarget;
use super::client::{Ask, Client, Repeat};
use super::cluster::{ask, view::RingView};
use super::failure::{Exit, Failure};
use super::output::{self, Format};

/// From one look at the progress to the next.
const LOOK: Duration = Duration::from_millis(500);

/// What to do about anti-entropy.
#[derive(Debug, Clone, Subcommand)]
pub enum RepairWord {
    /// Compare now: all of the node's replicas, or some partitions, or one bucket
    Start(Start),
    /// How far the comparison is, and how the replicas are
    Status(Plain),
    /// Compare nothing, not in the background either, until it is resumed or the node restarts
    Pause(Plain),
    /// Go on after a pause
    Resume(Plain),
}

/// Arguments of `kvasir repair start`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir repair start --wait
  kvasir repair start --bucket cart
  kvasir repair start --partitions 3,8-15

Exit code 4 with --wait: some pairs of replicas could not be compared.")]
pub struct Start {
    /// Only keys of this bucket
    #[arg(long)]
    pub bucket: Option<String>,
    /// Only these partitions: 3,8-15
    #[arg(long, value_name = "LIST", value_parser = partitions)]
    pub partitions: Option<Indexes>,
    /// Wait until it is over, and show how far it is
    #[arg(long)]
    pub wait: bool,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// Arguments of the other words.
#[derive(Debug, Clone, Args)]
pub struct Plain {
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// Indexes of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexes(Vec<u32>);

/// Reads `3,8-15`.
fn partitions(text: &str) -> Result<Indexes, String> {
    let form = || "expected indexes and ranges of partitions, as in 3,8-15".to_owned();
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < 1 << 16).ok_or_else(form);
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(form());
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(Indexes(all))
}

/// Runs the command.
pub async fn run(word: &RepairWord) -> Result<Exit, Failure> {
    match word {
        RepairWord::Start(arguments) => start(arguments).await,
        RepairWord::Status(Plain { admin }) => {
            let status: RepairStatus = ask(&admin.client()?, routes::REPAIR).await?;
            say(admin, &status)
        }
        RepairWord::Pause(Plain { admin }) => act(admin, RepairAction::Pause).await,
        RepairWord::Resume(Plain { admin }) => act(admin, RepairAction::Resume).await,
    }
}

async fn act(admin: &AdminTarget, action: RepairAction) -> Result<Exit, Failure> {
    let request = RepairRequest { action, ..RepairRequest::default() };
    let (status, _) = post(&admin.client()?, &request).await?;
    say(admin, &status)
}

async fn start(arguments: &Start) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let partitions = match &arguments.partitions {
        None => None,
        Some(Indexes(indexes)) => {
            let answer: DocumentAnswer = ask(&client, routes::DOCUMENT).await?;
            let bits = RingView::of(&answer)?.partition_bits;
            let name = |index: &u32| PartitionName { bits, index: *index };
            Some(indexes.iter().map(name).collect())
        }
    };
    let bucket = arguments.bucket.clone();
    let request = RepairRequest { action: RepairAction::Start, partitions, bucket };
    let (mut status, server) = post(&client, &request).await?;
    if !arguments.wait {
        return say(&arguments.admin, &status);
    }
    // The round is the one of the node that took it.
    let client = AdminTarget { admin: Some(server), ..arguments.admin.clone() }.client()?;
    while status.running {
        if output::lively_stderr() {
            eprint!("\r{}", progress(&status));
        }
        tokio::time::sleep(LOOK).await;
        status = ask(&client, routes::REPAIR).await?;
    }
    if output::lively_stderr() {
        eprintln!("\r{}", progress(&status));
    }
    say(&arguments.admin, &status)?;
    Ok(if status.comparisons_skipped == 0 { Exit::Ok } else { Exit::Unavailable })
}

async fn post(client: &Client, request: &RepairRequest) -> Result<(RepairStatus, String), Failure> {
    let body = serde_json::to_vec(request)
        .map_err(|e| Failure::error(format!("the request has no JSON form: {e}"), "report it"))?;
    let ask = Ask {
        method: Method::POST,
        target: routes::REPAIR.to_owned(),
        headers: vec![("content-type", "application/json".to_owned())],
        body: Bytes::from(body),
        // Asked for twice it is compared twice.
        repeat: Repeat::Always,
    };
    let reply = client.ask(&ask).await?;
    if reply.status != 202 {
        return Err(reply.failure());
    }
    let status = serde_json::from_slice(&reply.body).map_err(|error| {
        Failure::error(
            format!("the answer of {} cannot be read: {error}", reply.server),
            "check that it is an admin port, and that `kvasir version` fits the nodes",
        )
    })?;
    Ok((status, reply.server))
}

fn say(admin: &AdminTarget, status: &RepairStatus) -> Result<Exit, Failure> {
    match admin.target.output {
        Format::Json => output::say_json(status)?,
        Format::Table => output::say(&drawn(status))?,
    }
    Ok(Exit::Ok)
}

fn progress(status: &RepairStatus) -> String {
    format!(
        "{} of {} comparisons done, {} skipped; {} keys mended with {}",
        output::grouped(status.comparisons_done.into()),
        output::grouped(status.comparisons_total.into()),
        output::grouped(status.comparisons_skipped.into()),
        output::grouped(status.keys_repaired),
        output::bytes(status.exchanged_bytes),
    )
}

fn drawn(status: &RepairStatus) -> String {
    let mut lines = Vec::new();
    let state = match (status.running, status.comparisons_total) {
        (true, _) => "running",
        (false, 0) => "none was asked for",
        (false, _) => "over",
    };
    let whose = match (&status.operation, &status.bucket) {
        (Some(id), _) => format!(" (operation {id})"),
        (None, Some(bucket)) => format!(" (bucket {bucket})"),
        (None, None) => String::new(),
    };
    lines.push(format!("round       {state}{whose}"));
    if status.comparisons_total > 0 {
        lines.push(format!("            {}", progress(status)));
    }
    let paused = if status.paused { "PAUSED; " } else { "" };
    lines.push(format!(
        "replicas    {paused}{} partitions known to differ, {} pairs never compared, oldest comparison {} ago",
        output::grouped(status.differing_partitions),
        output::grouped(status.never_compared),
        output::age(Duration::from_millis(status.oldest_comparison_ms)),
    ));
    lines.push(format!(
        "since start {} comparisons, {} keys mended, {}",
        output::grouped(status.comparisons_ever),
        output::grouped(status.keys_repaired_ever),
        output::bytes(status.bytes_ever),
    ));
    if !status.compared_first.is_empty() {
        let first = status.compared_first.iter();
        let first = first.map(|one| format!("{} ({} partitions)", one.node, one.partitions));
        lines.push(format!("first       {}", first.collect::<Vec<_>>().join(", ")));
    }
    match status.tree {
        None => lines.push("tree        off".to_owned()),
        Some(tree) => lines.push(format!(
            "tree        2^{} leaves, {} of at most {}, {} parts in doubt, {} rebuilt, {} wrong leaves",
            tree.bits,
            output::bytes(tree.memory_bytes),
            output::bytes(tree.memory_max_bytes),
            output::grouped(tree.doubtful_chunks),
            output::grouped(tree.rebuilt_chunks),
            output::grouped(tree.wrong_leaves),
        )),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_read_as_indexes_and_ranges() {
        assert_eq!(partitions("3,8-10,9"), Ok(Indexes(vec![3, 8, 9, 10])));
        for bad in ["", "a", "3,", "9-8", "-1", "70000", "1-70000", "1-2-3"] {
            assert!(partitions(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_says_what_matters() {
        let status = RepairStatus {
            running: true,
            comparisons_total: 128,
            comparisons_done: 17,
            keys_repaired: 3,
            exchanged_bytes: 2_048,
            differing_partitions: 2,
            oldest_comparison_ms: 61_000,
            paused: true,
            ..RepairStatus::default()
        };
        let text = drawn(&status);
        for part in
            ["running", "17 of 128", "3 keys", "2.0 KiB", "PAUSED", "2 partitions", "1 m ago"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("tree        off"));
    }
}
