//! A member leaves: it gives all that it owns to the others, and only when that is shown its pod may
//! go.
//!
//! What shows it, all by positive words and by node id: a majority of the members and everybody who
//! should know holds a document that does not name the node, so that none of its slots does; and the
//! node says of itself that it is no member, owns nothing and keeps no copies for others. Where the
//! node does not run any more, what it last said through gossip counts. A member that is down does not
//! leave: what it alone has could not be given away.

use std::collections::BTreeSet;

use kvasir_core::admin_api::{NodeLoad, NodeStatus as Row, Status};

use super::journal::{Doing, blank};
use super::membership::{about, operation, too_many};
use super::racks::{RackPlan, last_pods, wants};
use super::refusal::Refusal;
use super::view::View;
use super::{moves, replace};
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::{PodSeen, Snapshot};

/// Who leaves: the highest ordinal of a rack, one that owns nothing before others. Where there are no
/// more members than the spec wants, none of them does: one is on its way to another rack.
pub fn due(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Operation, Refusal> {
    let mut candidates = last_pods(seen, racks);
    if !too_many(seen, view) {
        let rack = candidates.first().map(|(plan, _)| plan.rack.name.clone());
        candidates.retain(|(_, pod)| pod.is_some_and(|pod| !view.has_member(pod)));
        if let (Some(rack), true) = (rack, candidates.is_empty()) {
            return Err(Refusal::RackWaits { rack, why: coming(seen, view, racks) });
        }
    }
    let owns = |pod: &PodSeen| {
        let row = view.id_in(pod).and_then(|id| view.member(id));
        row.filter(|row| row.partitions > 0)
    };
    let leave = |pod: &PodSeen| {
        let id = view.id_in(pod)?;
        let begun = operation(seen, view, OperationType::Leave, id);
        let without_data = owns(pod).is_none();
        Some(moves::due(view, about(seen, pod, Operation { without_data, ..begun })))
    };
    // A pod in the place of a lost member does not go before that member is replaced.
    let lost = replace::lost(seen, view);
    let is_known = |pod: &PodSeen| {
        view.id_in(pod).is_some() && lost.iter().all(|lost| lost.pod.uid != pod.uid)
    };
    let known = || candidates.iter().filter_map(|(_, pod)| pod.filter(|pod| is_known(pod)));
    if let Some(free) = known().find(|pod| owns(pod).is_none()).and_then(leave) {
        return free;
    }
    if let Some((pod, row)) = known().find_map(|pod| owns(pod).map(|row| (pod, row))) {
        stands_against(seen, view, pod, row)?;
        if let Some(owner) = leave(pod) {
            return owner;
        }
    }
    if let Some(pod) = never_joined(view, &candidates) {
        return Ok(Operation {
            id: format!("leave-{}-{}", view.epoch(), pod.ordinal),
            step: OperationStep::Verified,
            ..about(seen, pod, blank(seen, OperationType::Leave))
        });
    }
    let what = candidates.first().map_or_else(
        || "any rack that has more nodes than its data center has copies".to_owned(),
        |(plan, _)| format!("pod {} of rack {}", plan.nodes - 1, plan.rack.name),
    );
    Err(Refusal::Unidentified(what))
}

/// The pod that is to join before another one leaves for it, and how it is.
fn coming(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> String {
    let mut pods = seen.pods.values().filter(|pod| wants(seen, racks, &pod.name));
    match pods.find(|pod| !view.has_member(pod)) {
        Some(pod) => {
            let how = pod.trouble.as_deref().unwrap_or("its node has not joined yet");
            format!("pod {}: {how}", pod.name)
        }
        None => "a pod is being made".to_owned(),
    }
}

/// What stands against it that a member which owns data leaves now.
fn stands_against(seen: &Snapshot, view: &View, pod: &PodSeen, row: &Row) -> Result<(), Refusal> {
    let stays =
        |other: &&Row| other.id != row.id && other.datacenter == row.datacenter && other.weight > 0;
    let machines: BTreeSet<&str> =
        view.members().filter(stays).map(|other| other.machine.as_str()).collect();
    let mut factors = seen.cluster.spec.replication.factors.iter();
    let factor = factors.find(|factor| factor.datacenter == row.datacenter);
    let copies = factor.map_or(0, |factor| factor.factor);
    if (machines.len() as i64) < i64::from(copies) {
        return Err(Refusal::TooFewMachines {
            pod: pod.name.clone(),
            datacenter: row.datacenter.clone(),
            machines: machines.len(),
            copies,
        });
    }
    view.healthy().map_err(Refusal::ChangeWaits)?;
    let load = |row: &Row| own_load(view.ours.get(&row.id)?.status);
    let bytes = load(row).map_or(0, |load| load.disk_bytes + load.memory_bytes);
    let frees: Option<Vec<u64>> =
        view.members().filter(stays).map(|other| load(other)?.free_bytes).collect();
    let free = frees.map(|all| all.into_iter().fold(0, u64::saturating_add));
    match free.filter(|free| *free < bytes.saturating_add(bytes / 5)) {
        Some(free) => Err(Refusal::TooLittleSpace { pod: pod.name.clone(), bytes, free }),
        None => Ok(()),
    }
}

fn own_row(status: &Status) -> Option<&Row> {
    status.nodes.iter().find(|row| row.id == status.answered_by)
}

fn own_load(status: &Status) -> Option<&NodeLoad> {
    own_row(status)?.load.as_ref()
}

/// A pod that does not answer and yet can be no member: a majority holds the newest document, and
/// every member that it names answers from another pod. What its volume holds is not known, so the
/// volume is kept: no epoch is noted in which it left.
fn never_joined<'a>(
    view: &View,
    candidates: &[(RackPlan, Option<&'a PodSeen>)],
) -> Option<&'a PodSeen> {
    view.majority().ok()?;
    let elsewhere = |pod: &PodSeen| {
        view.members().all(|row| view.pod_of(row.id).is_some_and(|shown| shown.uid != pod.uid))
    };
    let silent = candidates.iter().filter_map(|(_, pod)| *pod);
    silent.into_iter().find(|pod| view.id_in(pod).is_none() && elsewhere(pod))
}

/// Goes on with the part of a leave that concerns the ring.
pub fn go_on(seen: &Snapshot, view: &View, racks: &[RackPlan], operation: &Operation) -> Doing {
    if view.majority().is_err() {
        return Doing::Waits;
    }
    if view.member_named(&operation.node_id).is_none() {
        return gone(seen, view, operation);
    }
    let unwanted = wants(seen, racks, &operation.pod) || replace::due(seen, view).is_some();
    match moves::told(view, operation) {
        Some(status) if moves::runs(status) => moves::go_on(view, operation, status, unwanted),
        // It ended or was taken back, and the node is a member all the same.
        Some(_) => Doing::Over,
        None if unwanted || operation.step == OperationStep::Cancelling => Doing::Over,
        None => moves::post(view, operation),
    }
}

/// The document does not name the node. Its pod goes once the rest is shown as well.
fn gone(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    if !view.settled() || !keeps_nothing(view, operation) {
        return Doing::Waits;
    }
    if let Some(rebound) = rebound(seen, view, operation) {
        return Doing::Next(rebound);
    }
    let told = moves::told(view, operation);
    let recorded = told.and_then(|status| status.ended_epoch);
    let epoch = recorded.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(view.epoch());
    let last = told.map_or(operation.clone(), |status| moves::counted(operation, status));
    Doing::Next(Operation { step: OperationStep::Verified, done_epoch: Some(epoch), ..last })
}

/// The pod that shows the identity, where it was made anew since the journal was written.
pub fn rebound(seen: &Snapshot, view: &View, operation: &Operation) -> Option<Operation> {
    let id = operation.node_id.parse().ok()?;
    let pod = view.pod_of(id)?;
    let renewed = pod.name == operation.pod && pod.uid != operation.pod_uid && !pod.deleting;
    renewed.then(|| about(seen, pod, operation.clone()))
}

/// Does the node keep nothing, by its own word or, where it does not run, by its last through gossip?
fn keeps_nothing(view: &View, operation: &Operation) -> bool {
    let Ok(id) = operation.node_id.parse() else { return false };
    let free = |row: &Row| row.member.is_none() && row.partitions == 0 && !row.keeps_copies;
    match view.ours.get(&id).or_else(|| view.blank.get(&id)) {
        Some(answer) => own_row(answer.status).is_some_and(|row| {
            let handoff = row.load.as_ref().and_then(|load| load.handoff.as_ref());
            free(row) && handoff.is_none_or(|kept| kept.stand_in_copies == 0)
        }),
        None => view.newest().is_some_and(|status| {
            status.nodes.iter().any(|row| row.id == id && free(row) && row.boot.is_some())
        }),
    }
}

/// Is it shown that the node is no member, so that what it left behind may go?
pub fn is_out(view: &View, operation: &Operation) -> bool {
    view.majority().is_ok() && view.member_named(&operation.node_id).is_none()
}
