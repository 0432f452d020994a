//! The end of a leave: the StatefulSet gets smaller by the pod of the node that left, then its
//! volume is kept or deleted.
//!
//! Identity is by UID all along: a pod or a claim that only has the same name is never touched.

use super::form::target;
use super::journal::Doing;
use super::leave;
use super::racks::{self, RackPlan, last_pods};
use super::refusal::Refusal;
use super::step::{PodTarget, Step};
use super::view::{View, initialized};
use super::wanted::sized;
use crate::crd::{Keep, Operation, OperationStep, OperationType};
use crate::snapshot::Snapshot;

/// Makes the StatefulSet smaller once the node left.
pub fn shrink(seen: &Snapshot, view: &View, racks: &[RackPlan], operation: &Operation) -> Doing {
    if let Some(instead) = not_out(seen, view, operation) {
        return instead;
    }
    let rack = racks::rack_of(seen, &operation.pod);
    let (Some(rack), Some(ordinal)) = (rack, racks::ordinal(&operation.pod)) else {
        return Doing::Over;
    };
    let shrinking = Operation { step: OperationStep::Shrinking, ..operation.clone() };
    let smaller = seen.sets.get(&rack).is_none_or(|set| set.replicas <= ordinal);
    let pod = seen.pods.get(&operation.pod).filter(|pod| pod.uid == operation.pod_uid);
    if smaller {
        let volume = Operation { step: OperationStep::Volume, ..operation.clone() };
        return if pod.is_none() { Doing::Next(volume) } else { Doing::Waits };
    }
    if operation.step == OperationStep::Verified {
        return Doing::Next(shrinking);
    }
    let Some(set) = seen.sets.get(&rack) else { return Doing::Waits };
    if set.replicas > ordinal + 1 {
        // Somebody made the set larger: another pod would go.
        return Doing::Over;
    }
    let plan = racks.iter().find(|plan| plan.rack.name == rack);
    let Some(object) = plan.and_then(|plan| sized(seen, plan, ordinal)) else {
        return Doing::Waits;
    };
    let gone = PodTarget {
        name: operation.pod.clone(),
        uid: operation.pod_uid.clone(),
        ip: String::new(),
    };
    Doing::Step(Step::Shrink {
        object: Box::new(object),
        uid: set.uid.clone(),
        resource_version: set.resource_version.clone(),
        pod: pod.map_or(gone, target),
    })
}

/// Looks again whether the node is out: the journal may be older than the ring, as after the API
/// server was put back to an older state, and the node a member again.
fn not_out(seen: &Snapshot, view: &View, operation: &Operation) -> Option<Doing> {
    if operation.node_id.is_empty() {
        return None;
    }
    if view.member_named(&operation.node_id).is_some() {
        return Some(Doing::Over);
    }
    if !leave::is_out(view, operation) {
        return Some(Doing::Waits);
    }
    leave::rebound(seen, view, operation).map(Doing::Next)
}

/// Deletes the volume of the node that left, where the spec says so and the document said that it
/// left; keeps it otherwise.
pub fn volume(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    if let Some(instead) = not_out(seen, view, operation) {
        return instead;
    }
    let keep = seen.cluster.spec.storage.retention.when_scaled == Keep::Retain;
    let volume = seen.volumes.get(&operation.volume);
    let same = volume.filter(|volume| volume.uid == operation.volume_uid);
    match same {
        None => Doing::Over,
        Some(_) if keep || operation.done_epoch.is_none() => Doing::Over,
        Some(volume) if volume.deleting => Doing::Over,
        Some(volume) => {
            Doing::Step(Step::DeleteVolume { name: volume.name.clone(), uid: volume.uid.clone() })
        }
    }
}

/// Before a cluster is formed a pod goes without a leave: there is nothing to leave. Its volume is
/// kept whatever the spec says, since nobody said that it is empty.
pub fn due_unformed(
    seen: &Snapshot,
    view: &View,
    racks: &[RackPlan],
) -> Result<Option<Operation>, Refusal> {
    if initialized(seen) || racks::total(racks) <= seen.cluster.spec.nodes {
        return Ok(None);
    }
    if let Some((pod, found)) = view.foreign.first() {
        let (pod, claim) = (pod.name.clone(), pod.volume.clone());
        return Err(Refusal::ForeignVolume { pod, claim, found: found.clone() });
    }
    let candidates = last_pods(seen, racks);
    let Some((_, Some(pod))) = candidates.first() else {
        return Err(Refusal::Unidentified("the pod that would go".to_owned()));
    };
    Ok(Some(Operation {
        id: format!("shrink-{}", pod.ordinal),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        volume: pod.volume.clone(),
        ..super::journal::blank(seen, OperationType::Leave)
    }))
}

/// Goes on with a shrink of a cluster that is not formed; forgets it when it was formed meanwhile.
pub fn unformed(view: &View, operation: &Operation) -> Doing {
    if view.cluster_id.is_some() {
        return Doing::Over;
    }
    Doing::Next(Operation { step: OperationStep::Verified, ..operation.clone() })
}
