//! The driver of operations: on the living member with the lowest id, a loop that asks the nodes of all
//! moves what they did and proposes the next document (`kvasir_core::ring::driver`). Two drivers at once
//! do no harm: of two children of one document at most one is chosen.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use kvasir_core::gossip::{MemberView, Status};
use kvasir_core::id::NodeId;
use kvasir_core::ring::driver::{Limits, Report, Seems, asked, next_child};
use kvasir_core::ring::{Document, OperationRecord, Sealed};
use tokio::time::Instant;

use super::ballots;
use super::control::Control;
use super::unfit::Unfit;
use crate::peer::{Reply, Request};

/// Between two looks.
const BEAT: Duration = Duration::from_millis(200);
/// Longest wait for a report.
const ANSWER: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    loop {
        tokio::time::sleep(BEAT).await;
        let Some(document) = control.newest().filter(|document| drives(&control, document)) else {
            continue;
        };
        let reports = reports(&control, &document).await;
        let up = up(&control);
        let seems = |node: NodeId| if up.contains(&node) { Seems::Up } else { Seems::Away };
        let Some(child) = next_child(&document, &reports, seems, &Limits::default()) else {
            continue;
        };
        let members = control.gossip.borrow().members(control.now_ms());
        if let Some(leaver) = keeps_copies(&members, &document, &child) {
            tracing::debug!(%leaver, "it stays a member until its stand-in copies were handed back");
            continue;
        }
        match ballots::propose(&control, Sealed::new(child)).await {
            Ok(chosen) => tracing::debug!(epoch = chosen.epoch, "moves went a step further"),
            Err(error) => tracing::debug!(%error, "moves did not go further yet"),
        }
    }
}

/// Whether an operation runs and it is this node that drives.
fn drives(control: &Control, document: &Sealed) -> bool {
    let runs = document.operations.values().any(OperationRecord::is_running);
    // Who is to be rebuilt does not drive: it would be waited for.
    let serving = serving(control);
    let lowest = document.members.keys().find(|node| serving.contains(node));
    runs && Unfit::of(control).is_none() && lowest == Some(&control.identity.node)
}

/// Who is alive and said nothing of serving no data, this node too.
fn serving(control: &Control) -> Vec<NodeId> {
    let members = control.gossip.borrow().members(control.now_ms());
    let serves = |m: &MemberView| m.me || (m.status == Status::Alive && m.not_serving.is_none());
    members.iter().filter(|m| serves(m)).map(|m| m.id).collect()
}

/// A member that the child no longer names though it is up and keeps writes that were counted there in the
/// place of other owners: it hands them back as long as it is a member, and is not heard afterwards.
fn keeps_copies(members: &[MemberView], document: &Document, child: &Document) -> Option<NodeId> {
    let goes = |id: &NodeId| document.members.contains_key(id) && !child.members.contains_key(id);
    let keeps = |m: &&MemberView| m.status.is_up() && m.keeps_copies && goes(&m.id);
    members.iter().find(keeps).map(|m| m.id)
}

/// Who is alive, this node too.
fn up(control: &Control) -> Vec<NodeId> {
    let members = control.gossip.borrow().members(control.now_ms());
    members.into_iter().filter(|m| m.me || m.status == Status::Alive).map(|m| m.id).collect()
}

/// What the nodes of all moves say that they did; of those that answer.
async fn reports(control: &Rc<Control>, document: &Sealed) -> BTreeMap<NodeId, Report> {
    let ask = asked(document)
        .into_iter()
        .map(|node| async move { Some((node, report_of(control, node).await?)) });
    join_all(ask).await.into_iter().flatten().collect()
}

/// What a node says that it did for moves, and what it lost; none if it does not answer.
pub async fn report_of(control: &Control, node: NodeId) -> Option<Report> {
    if node == control.identity.node {
        return Some(control.moving.report(&control.views, control.replica.store()));
    }
    let address = control.gossip.borrow().peer_address(node).map(str::to_string)?;
    let deadline = Instant::now() + ANSWER;
    let call = control.peers.call(Some(node), &address, None, Request::MoveReport, deadline);
    match call.await {
        Ok(Reply::MoveReport(bytes)) => postcard::from_bytes(&bytes).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasir_core::gossip::{Gossip, GossipConfig, Me};
    use kvasir_core::id::ClusterId;
    use kvasir_core::ring::{BucketSettings, Member, MemberState, NewCluster, TokenSecret};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn document(numbers: &[u8]) -> Document {
        let place = |number: u8| Member {
            machine: format!("m{number}"),
            rack: String::new(),
            zone: String::new(),
            datacenter: "dc1".into(),
            weight: 1,
            state: MemberState::Active,
        };
        let new = NewCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
            cluster_name: "test".into(),
            seed: 1,
            token_secret: TokenSecret([1; 32]),
            partition_bits: 1,
            members: numbers.iter().map(|number| (id(*number), place(*number))).collect(),
            replication: BTreeMap::from([("dc1".into(), 1)]),
            defaults: BucketSettings::default(),
        };
        Document::first(new).expect("machines enough").0
    }

    fn heard(number: u8, status: Status, keeps_copies: bool) -> MemberView {
        let me = Me {
            id: id(number),
            boot: 1,
            nonce: 0,
            cluster: ClusterId::nil(),
            addresses: Default::default(),
            labels: Default::default(),
            version: String::new(),
            mark: 1,
            document: None,
            generation: 0,
        };
        let gossip = Gossip::new(me, vec![], GossipConfig::default()).expect("a member");
        MemberView { status, keeps_copies, ..gossip.members(0).remove(0) }
    }

    #[test]
    fn who_leaves_stays_a_member_while_it_keeps_what_was_counted_there() {
        let (before, after) = (document(&[1, 2, 3]), document(&[1, 2]));
        let waits =
            |members: &[MemberView], child: &Document| keeps_copies(members, &before, child);
        let up = |keeps| [heard(1, Status::Alive, false), heard(3, Status::Alive, keeps)];
        assert_eq!(waits(&up(true), &after), Some(id(3)));
        assert_eq!(waits(&up(false), &after), None, "it has handed them back");
        assert_eq!(waits(&up(true), &before), None, "it does not go in this child");
        // Suspected is not down: it may still hand them back. One that is down for good cannot.
        assert_eq!(waits(&[heard(3, Status::Suspect, true)], &after), Some(id(3)));
        assert_eq!(waits(&[heard(3, Status::Down, true)], &after), None);
        // That another one keeps copies holds nobody up who has none.
        assert_eq!(waits(&[heard(1, Status::Alive, true)], &after), None);
    }
}
