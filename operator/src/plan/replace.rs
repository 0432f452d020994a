//! A member that is lost: its pod came up on an empty volume, so that another identity runs in its
//! place. The nodes make its copies anew on that one, from those that are left.
//!
//! A pod that is not ready, a worker that does not answer, a claim that is not there are no evidence
//! that a volume is lost. Evidence is that the pod of the member answers and shows an identity that
//! no document names, while the members do not hear the old one. Deleting the claim and the pod is
//! how a person says that a volume will not come back.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::NodeStatus as Row;
use kvasir_core::id::NodeId;

use super::journal::Doing;
use super::membership::{about, operation};
use super::moves;
use super::view::View;
use crate::crd::{Operation, OperationType};
use crate::snapshot::{NodeSeen, PodSeen, Snapshot};

/// A member that is lost, and the pod that has its place.
#[derive(Debug, Clone, Copy)]
pub struct Lost<'a> {
    /// The member.
    pub member: &'a Row,
    /// The pod.
    pub pod: &'a PodSeen,
    /// Who runs in it.
    pub by: NodeId,
}

/// The members that are lost, by their ids.
pub fn lost<'a>(seen: &'a Snapshot, view: &View<'a>) -> Vec<Lost<'a>> {
    let mut strangers = strangers(view);
    let mut lost = being_replaced(view);
    let rows = seen.cluster.status.as_ref().map_or(&[][..], |status| &status.node_statuses);
    let mut unknown = Vec::new();
    let handled: BTreeSet<NodeId> =
        moves::moving(view).filter_map(|status| status.request.replaces).collect();
    let away = |row: &&Row| !row.liveness.is_up() && !handled.contains(&row.id);
    for member in view.members().filter(away) {
        let id = member.id.to_string();
        let row = rows.iter().find(|row| row.node_id == id && !row.pod.is_empty());
        match row {
            Some(row) => {
                if let Some((by, pod)) = strangers.remove(row.pod.as_str()) {
                    lost.push(Lost { member, pod, by });
                }
            }
            None => unknown.push(member),
        }
    }
    if !unknown.is_empty() && nothing_else_holds_a_member(seen, view) {
        for member in unknown {
            let name = strangers.iter().find(|(_, (_, pod))| pod.rack == member.rack);
            let Some(name) = name.map(|(name, _)| *name) else { continue };
            let Some((by, pod)) = strangers.remove(name) else { continue };
            lost.push(Lost { member, pod, by });
        }
    }
    lost.sort_by_key(|lost| lost.member.id);
    lost
}

/// The lost members in whose place others stand already, while the nodes make the copies anew.
fn being_replaced<'a>(view: &View<'a>) -> Vec<Lost<'a>> {
    let requests = moves::moving(view).map(|status| &status.request);
    let found = requests.filter_map(|request| {
        let (member, by) = (view.member(request.replaces?)?, request.node?);
        Some(Lost { member, pod: view.pod_of(by)?, by })
    });
    found.filter(|lost| !lost.member.liveness.is_up()).collect()
}

/// Pods that run an identity which no document names, by name.
fn strangers<'a>(view: &View<'a>) -> BTreeMap<&'a str, (NodeId, &'a PodSeen)> {
    let all = view.blank.iter().chain(&view.ours);
    all.filter(|(id, answer)| view.member(**id).is_none() && !answer.pod.deleting)
        .map(|(id, answer)| (answer.pod.name.as_str(), (*id, answer.pod)))
        .collect()
}

/// For a member whose pod no status remembers: there is no pod left that could be it, since there
/// are no more pods than members and all of them answer, and no volume that no pod has.
fn nothing_else_holds_a_member(seen: &Snapshot, view: &View) -> bool {
    let answers = |pod: &PodSeen| matches!(pod.node, NodeSeen::Answered(_));
    let mounted: BTreeSet<&str> = seen.pods.values().map(|pod| pod.volume.as_str()).collect();
    view.members().count() >= seen.pods.len()
        && seen.pods.values().all(answers)
        && view.foreign.is_empty()
        && seen.volumes.keys().all(|volume| mounted.contains(volume.as_str()))
}

/// A replace that is due: the first lost member whose successor the members hear.
pub fn due(seen: &Snapshot, view: &View) -> Option<Operation> {
    let known = |id: NodeId| view.newest().is_some_and(|s| s.nodes.iter().any(|row| row.id == id));
    let lost = lost(seen, view).into_iter().find(|lost| known(lost.by))?;
    let replaces = lost.member.id.to_string();
    let begun = operation(seen, view, OperationType::Replace, lost.by);
    moves::due(view, about(seen, lost.pod, Operation { replaces, ..begun })).ok()
}

/// Whether a replace that is due takes the place of this operation in the journal at once. One that
/// moves data is taken back first: what it streams from or to the lost member cannot come to its end.
pub fn may_interrupt(view: &View, operation: &Operation, due: &Operation) -> bool {
    let running = moves::told(view, operation).is_some_and(moves::runs);
    match operation.kind {
        OperationType::Repair => true,
        OperationType::Join | OperationType::Rebalance | OperationType::Relocate => !running,
        OperationType::Leave => !running && !super::shrinks(operation),
        // The successor is lost as well.
        OperationType::Replace => {
            due.replaces != operation.replaces && !view.runs_named(&operation.node_id)
        }
        OperationType::Form | OperationType::Restart => false,
    }
}

/// Goes on with a replace.
pub fn go_on(view: &View, operation: &Operation) -> Doing {
    match moves::told(view, operation) {
        Some(status) if moves::runs(status) => moves::go_on(view, operation, status, false),
        Some(status) => moves::end(view, operation, status),
        None if view.majority().is_err() => Doing::Waits,
        None if view.member_named(&operation.replaces).is_none() => Doing::Over,
        // The pod shows yet another identity by now, or none: it is looked at anew.
        None if !view.runs_named(&operation.node_id) => Doing::Over,
        None => moves::post(view, operation),
    }
}
