//! Members come, go and move to other workers, one at a time, each change by an operation that the
//! nodes carry out among themselves.
//!
//! Until data can be moved a node joins owning nothing, and only a node that owns nothing leaves.
//! The id of an operation names the epoch that it began on, so that no two operations ever share
//! one, and asking again after a crash is asking for the same.

use kvasir_core::admin_api::{OperationKind, OperationRequest};
use kvasir_core::id::NodeId;

use super::form::target;
use super::journal::Doing;
use super::racks::{RackPlan, last_pods, owned_by};
use super::refusal::Refusal;
use super::step::Step;
use super::view::View;
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::{PodSeen, Snapshot};

/// A join, a leave or a relocation that is due; what stands against one that is.
pub fn due(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Option<Operation>, Refusal> {
    let Some(change) = wanted(seen, view, racks)? else { return Ok(None) };
    view.majority().map_err(Refusal::NoMajority)?;
    Ok(Some(change))
}

fn wanted(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Option<Operation>, Refusal> {
    if let Some(moved) = moved(seen, view) {
        return Ok(Some(moved));
    }
    if super::racks::total(racks) > seen.cluster.spec.nodes {
        return leave(seen, view, racks).map(Some);
    }
    // A pod that came up on an empty volume does not join beside the member whose place it has:
    // members that never come back would pile up until no majority is left.
    let owners = view.members().filter(|row| row.partitions > 0).count();
    let room = i32::try_from(owners).is_ok_and(|owners| owners < super::racks::total(racks));
    Ok(if room { newcomer(seen, view) } else { None })
}

fn operation(seen: &Snapshot, view: &View, kind: OperationType, id: NodeId) -> Operation {
    let word = match kind {
        OperationType::Join => "join",
        OperationType::Leave => "leave",
        OperationType::Relocate => "relocate",
        OperationType::Form | OperationType::Restart | OperationType::Repair => "change",
    };
    let text = id.to_string();
    let epoch = view.epoch();
    Operation {
        id: format!("{word}-{epoch}-{}", text.get(..18).unwrap_or(&text)),
        node_id: text,
        base_epoch: epoch,
        ..super::journal::blank(seen, kind)
    }
}

/// The operation with the identity of the pod and its volume.
fn about(seen: &Snapshot, pod: &PodSeen, operation: Operation) -> Operation {
    let volume = seen.volumes.get(&pod.volume);
    Operation {
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        volume: pod.volume.clone(),
        volume_uid: volume.map(|volume| volume.uid.clone()).unwrap_or_default(),
        ..operation
    }
}

/// A member that runs on another worker than the document says.
fn moved(seen: &Snapshot, view: &View) -> Option<Operation> {
    let (id, pod) = view.ours.iter().map(|(id, answer)| (*id, answer.pod)).find(|(id, pod)| {
        let row = view.member(*id);
        !pod.deleting && !pod.worker.is_empty() && row.is_some_and(|row| row.machine != pod.worker)
    })?;
    let operation = operation(seen, view, OperationType::Relocate, id);
    let id = format!("{}-{:08x}", operation.id, short_hash(&pod.worker));
    Some(about(seen, pod, Operation { id, machine: pod.worker.clone(), ..operation }))
}

/// FNV-1a, 32 bits: keeps the name of a worker out of an id that it may not fit.
fn short_hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A node that runs and is no member: the first by pod name.
fn newcomer(seen: &Snapshot, view: &View) -> Option<Operation> {
    let speaker = view.speaker()?;
    let knows = |id: NodeId| {
        speaker.status().is_some_and(|status| status.nodes.iter().any(|row| row.id == id))
    };
    let (id, pod) = view
        .blank
        .iter()
        .chain(&view.ours)
        .map(|(id, answer)| (*id, answer.pod))
        .filter(|(id, pod)| !pod.deleting && view.member(*id).is_none() && knows(*id))
        .min_by(|a, b| a.1.name.cmp(&b.1.name))?;
    Some(about(seen, pod, operation(seen, view, OperationType::Join, id)))
}

/// Who leaves: the highest ordinal of a rack that owns nothing.
fn leave(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Operation, Refusal> {
    let candidates = last_pods(seen, racks);
    let free = candidates.iter().find_map(|(_, pod)| {
        let pod = (*pod)?;
        view.id_in(pod).filter(|_| owned_by(view, pod).is_none()).map(|id| (id, pod))
    });
    if let Some((id, pod)) = free {
        return Ok(about(seen, pod, operation(seen, view, OperationType::Leave, id)));
    }
    let owning = candidates.iter().find_map(|(_, pod)| {
        let pod = (*pod)?;
        owned_by(view, pod).map(|partitions| (pod, partitions))
    });
    if let Some((pod, partitions)) = owning {
        return Err(Refusal::OwnsData {
            pod: pod.name.clone(),
            partitions,
            wanted: seen.cluster.spec.nodes,
            now: super::racks::total(racks),
        });
    }
    if let Some(pod) = never_joined(view, &candidates) {
        return Ok(Operation {
            id: format!("leave-{}-{}", view.epoch(), pod.ordinal),
            step: OperationStep::Verified,
            ..about(seen, pod, super::journal::blank(seen, OperationType::Leave))
        });
    }
    let what = candidates.first().map_or_else(
        || "any rack that has more nodes than its data center has copies".to_owned(),
        |(rack, _)| format!("pod {} of rack {}", rack.nodes - 1, rack.name),
    );
    Err(Refusal::Unidentified(what))
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

/// Goes on with a join.
pub fn join(view: &View, operation: &Operation) -> Doing {
    if view.member_named(&operation.node_id).is_some() {
        return if view.settled() { Doing::Over } else { Doing::Waits };
    }
    let there = view.blank.keys().chain(view.ours.keys());
    let gone = !there.into_iter().any(|id| id.to_string() == operation.node_id);
    if gone && view.majority().is_ok() {
        return Doing::Over;
    }
    post(view, operation, OperationKind::Join)
}

/// Goes on with a relocation.
pub fn relocate(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    let Some(row) = view.member_named(&operation.node_id) else {
        return if view.majority().is_ok() { Doing::Over } else { Doing::Waits };
    };
    if row.machine == operation.machine {
        return if view.settled() { Doing::Over } else { Doing::Waits };
    }
    let elsewhere =
        seen.pods.get(&operation.pod).is_some_and(|pod| pod.worker != operation.machine);
    if elsewhere {
        return Doing::Over;
    }
    post(view, operation, OperationKind::Relocate)
}

/// Goes on with the part of a leave that concerns the ring: done when a majority of the members,
/// each by its own word, hold a document that does not name the node.
pub fn leaving(view: &View, operation: &Operation) -> Doing {
    if view.majority().is_err() {
        return Doing::Waits;
    }
    match view.member_named(&operation.node_id) {
        None if view.settled() => Doing::Next(Operation {
            step: OperationStep::Verified,
            done_epoch: Some(view.epoch()),
            ..operation.clone()
        }),
        None => Doing::Waits,
        Some(row) if row.partitions > 0 => Doing::Over,
        Some(_) => post(view, operation, OperationKind::Leave),
    }
}

fn post(view: &View, operation: &Operation, kind: OperationKind) -> Doing {
    let (Some(speaker), Ok(node)) = (view.speaker(), operation.node_id.parse::<NodeId>()) else {
        return Doing::Waits;
    };
    let relocate = kind == OperationKind::Relocate;
    let request = OperationRequest {
        id: operation.id.clone(),
        kind,
        node: Some(node),
        replaces: None,
        machine: relocate.then(|| operation.machine.clone()),
        rebalance: (!relocate).then_some(false),
    };
    Doing::Step(Step::Post { pod: target(speaker), request })
}
