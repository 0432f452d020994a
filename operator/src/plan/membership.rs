//! Which change of the members is due: one at a time, each by an operation that the nodes carry out
//! among themselves.
//!
//! A lost member is replaced before anything else. Nodes that come together join one after the other,
//! all but the last without data, so that everything moves once and to where it stays. The id of an
//! operation names the epoch that it began on, so that no two operations ever share one, and asking
//! again after a crash is asking for the same.

use kvasir_core::admin_api::OperationKind;
use kvasir_core::id::NodeId;

use super::journal::Doing;
use super::racks::{RackPlan, total, wants};
use super::refusal::Refusal;
use super::view::View;
use super::{leave, moves, rebalance, replace};
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::{PodSeen, Snapshot};

/// The change that is due, the most urgent first; what stands against one that is.
pub fn due(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Option<Operation>, Refusal> {
    if let Some(replace) = replace::due(seen, view) {
        return Ok(Some(replace));
    }
    if let Some(moved) = moved(seen, view) {
        return moves::due(view, moved).map(Some);
    }
    if let Some(join) = joining(seen, view) {
        return moves::due(view, join).map(Some);
    }
    if let Some(join) = newcomer(seen, view, racks) {
        return moves::due(view, join).map(Some);
    }
    if total(racks) <= seen.cluster.spec.nodes {
        // Nodes are on their way to where they are wanted: what is moved now would move again.
        let on_the_way = racks.iter().any(|plan| plan.nodes < plan.wanted);
        return if on_the_way { Ok(None) } else { rebalance::due(seen, view) };
    }
    match leave::due(seen, view, racks) {
        Err(waits @ Refusal::RackWaits { .. }) => {
            rebalance::due(seen, view)?.map(Some).ok_or(waits)
        }
        due => due.map(Some),
    }
}

/// Are there more members than the spec has nodes, so that some are to leave?
pub fn too_many(seen: &Snapshot, view: &View) -> bool {
    let wanted = usize::try_from(seen.cluster.spec.nodes).unwrap_or(0);
    view.members().count() > wanted
}

/// A new operation about a node.
pub fn operation(seen: &Snapshot, view: &View, kind: OperationType, id: NodeId) -> Operation {
    let word = match kind {
        OperationType::Join => "join",
        OperationType::Leave => "leave",
        OperationType::Relocate => "relocate",
        OperationType::Replace => "replace",
        _ => "change",
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
pub fn about(seen: &Snapshot, pod: &PodSeen, operation: Operation) -> Operation {
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

/// A node that is being given its share already, though no journal says so.
fn joining(seen: &Snapshot, view: &View) -> Option<Operation> {
    let mut requests = moves::moving(view).map(|status| &status.request);
    let id = requests.find(|request| request.kind == OperationKind::Join)?.node?;
    Some(about(seen, view.pod_of(id)?, operation(seen, view, OperationType::Join, id)))
}

/// A node that runs where the spec wants it and is no member, while there are more pods than members:
/// the first by pod name. One that has the place of a lost member does not join beside it, or members
/// that never come back would pile up until no majority is left. It takes no data where others join
/// right after it, or where one leaves for it: whoever is last moves everything in one go.
fn newcomer(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Option<Operation> {
    let members = i32::try_from(view.members().count()).unwrap_or(i32::MAX);
    let missing = total(racks) - members;
    let one_leaves = total(racks) > seen.cluster.spec.nodes;
    let speaker = view.speaker()?;
    let knows = |id: NodeId| {
        speaker.status().is_some_and(|status| status.nodes.iter().any(|row| row.id == id))
    };
    let lost = replace::lost(seen, view);
    let takes_over = |id: NodeId| lost.iter().any(|lost| lost.by == id);
    let (id, pod) = view
        .blank
        .iter()
        .chain(&view.ours)
        .map(|(id, answer)| (*id, answer.pod))
        .filter(|(id, pod)| !pod.deleting && view.member(*id).is_none() && knows(*id))
        .filter(|(id, pod)| missing > 0 && !takes_over(*id) && wants(seen, racks, &pod.name))
        .min_by(|a, b| a.1.name.cmp(&b.1.name))?;
    let begun = operation(seen, view, OperationType::Join, id);
    Some(about(seen, pod, Operation { without_data: missing > 1 || one_leaves, ..begun }))
}

/// Goes on with a join. It is taken back when the spec does not want that node any more.
pub fn join(seen: &Snapshot, view: &View, racks: &[RackPlan], operation: &Operation) -> Doing {
    let unwanted = !wants(seen, racks, &operation.pod) || replace::due(seen, view).is_some();
    match moves::told(view, operation) {
        Some(status) if moves::runs(status) => moves::go_on(view, operation, status, unwanted),
        Some(status) => moves::end(view, operation, status),
        None if view.member_named(&operation.node_id).is_some() => {
            if view.settled() {
                Doing::Over
            } else {
                Doing::Waits
            }
        }
        None if unwanted || operation.step == OperationStep::Cancelling => Doing::Over,
        None if !view.runs_named(&operation.node_id) && view.majority().is_ok() => Doing::Over,
        None => moves::post(view, operation),
    }
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
    moves::post(view, operation)
}
