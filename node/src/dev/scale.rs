//! `add` and `remove N` at the console of `kvasir dev`: a running cluster grows and shrinks.
//!
//! Both are operations that anybody could post (`kvasir ring apply`): a node joins and is given its share of
//! the data, or gives its data to the others and leaves. Its process stops only after it has left. Its folder
//! stays where it is: nothing in it is served any more, and its number is not given again.

use std::time::Duration;

use kvasir_core::admin_api::{
    OperationKind, OperationPlan, OperationRequest, OperationState, OperationStatus, routes,
};
use kvasir_core::id::NodeId;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::{RESTART, exports, lesson, tell};
use crate::cli::client::Client;
use crate::cli::cluster::progress::{Progress, sentence};
use crate::cli::cluster::{operate, plan};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{bytes, grouped};

/// Longest time for one question to the cluster.
const QUESTION: Duration = Duration::from_secs(15);
/// Longest time that a change is watched; it goes on by itself afterwards.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Starts one more node, has it join, and waits until it has its share.
pub(super) async fn add(cluster: &mut Cluster) -> Result<(), Failure> {
    quiet(cluster, "add")?;
    let number = cluster.grow()?;
    let begun = begin(cluster, number).await;
    let posted = match begun {
        Ok(posted) => posted,
        Err(failure) => {
            cluster.shrink().await;
            return Err(failure);
        }
    };
    // From here on the cluster knows the node.
    cluster.save()?;
    let client = cluster.admin_beside(number, QUESTION)?;
    let ended = watched(&client, posted).await?;
    cluster.wait(number, Instant::now() + RESTART, routes::READYZ).await?;
    tell(&format!("{}; node {number} is ready\n", sentence(&ended)));
    tell(&exports(&cluster.plans()));
    Ok(())
}

/// Starts the node and posts its join.
async fn begin(cluster: &mut Cluster, number: usize) -> Result<OperationStatus, Failure> {
    let deadline = Instant::now() + RESTART;
    cluster.start(number).await?;
    cluster.wait(number, deadline, routes::STATUS).await?;
    let id = cluster.meet(number).await?;
    cluster.wait_for_each_other(deadline).await?;
    tell(&format!("node {number} runs; it joins as {id}"));
    let client = cluster.admin_beside(number, QUESTION)?;
    posted(&client, OperationKind::Join, id).await
}

/// Has a node give its data away and leave, and stops it.
pub(super) async fn remove(cluster: &mut Cluster, number: usize) -> Result<(), Failure> {
    quiet(cluster, &format!("remove {number}"))?;
    if cluster.numbers().len() == 1 {
        return Err(Failure::usage("it is the only node", "`add` first"));
    }
    let client = cluster.admin_beside(number, QUESTION)?;
    let begun = posted(&client, OperationKind::Leave, cluster.id_of(number)).await?;
    let ended = watched(&client, begun).await?;
    let stopped = cluster.retire(number).await?;
    let how = if stopped { "has stopped" } else { "did not stop in time and was killed" };
    let folder = cluster.nodes[number].plan.folder.display().to_string();
    tell(&format!("{}; node {number} {how}", sentence(&ended)));
    tell(&format!("its folder is kept, and nothing in it is served any more: {folder}\n"));
    tell(&exports(&cluster.plans()));
    Ok(())
}

/// Refuses while links are cut or slow, or a node does not run: data would wait for it.
fn quiet(cluster: &Cluster, then: &str) -> Result<(), Failure> {
    if !cluster.links().are_whole() {
        return Err(Failure::usage("the links are cut or slow", "type `heal` first"));
    }
    lesson::all_run(cluster, then)
}

/// Tells what a change of the ring moves, and posts it.
async fn posted(
    client: &Client,
    kind: OperationKind,
    node: NodeId,
) -> Result<OperationStatus, Failure> {
    let request = OperationRequest {
        id: operate::id_for(kind, Some(node)),
        kind,
        node: Some(node),
        replaces: None,
        machine: None,
        rebalance: None,
    };
    let plan = plan::planned(client, &request).await?;
    tell(&moves(&plan));
    operate::post(client, &request).await
}

fn moves(plan: &OperationPlan) -> String {
    let (count, size) = (grouped(plan.moves.len() as u64), bytes(plan.total_bytes));
    format!("{count} partition replicas move, about {size}; clients go on meanwhile")
}

/// Watches a change to its end, which must be that it is done.
async fn watched(client: &Client, posted: OperationStatus) -> Result<OperationStatus, Failure> {
    let id = posted.request.id;
    let mut progress = Progress::begin();
    let ended = operate::watch(client, &id, PATIENCE, |status| progress.show(status)).await?;
    if ended.state == OperationState::Done {
        return Ok(ended);
    }
    let next = "the node goes on as before; `status` shows the cluster";
    Err(Failure::new(Exit::Error, sentence(&ended), next))
}
