//! From what was seen to what to do next: pure, with a reason for everything that is not done.
//!
//! One pass: put the answers of the nodes together ([`view`]), judge whether anything may be done at
//! all, go on with the operation in the journal or begin the one that is due ([`journal`]), and
//! bring the objects around it to what they should be ([`wanted`]). The status that comes out holds
//! the journal and is written before any step is taken.
//!
//! Rules that hold throughout: at most one operation; absence is never evidence; whatever takes
//! something away names a UID; a pod goes only while every copy is up, or when it does not run.

pub mod form;
pub mod journal;
pub mod leave;
pub mod membership;
pub mod moves;
pub mod racks;
pub mod rebalance;
pub mod refusal;
pub mod repair;
pub mod replace;
pub mod rollout;
pub mod shrink;
pub mod status;
pub mod step;
pub mod view;
pub mod volumes;
pub mod wanted;

use std::collections::BTreeMap;
use std::time::Duration;

use kvasir_core::admin_api::{OperationState, OperationStatus};
use kvasir_core::id::NodeId;

pub use refusal::Refusal;
pub use step::{Plan, PodTarget, Step};

use crate::crd::{Operation, OperationStep, OperationType};
use crate::render::check;
use crate::snapshot::Snapshot;
use journal::Turn;
use racks::RackPlan;
use status::Findings;
use view::View;

/// How soon an operation is looked at again.
const BUSY: Duration = Duration::from_secs(2);
/// How soon a cluster at rest is looked at again: nodes change without telling Kubernetes.
const AT_REST: Duration = Duration::from_secs(30);

/// The next steps, and the status as it should stand.
pub fn plan(seen: &Snapshot) -> Plan {
    let (view, split) = View::of(seen);
    let mut refusals: Vec<Refusal> = split.into_iter().collect();
    refusals.extend(unusable(seen, &view));
    refusals.extend(troubles(seen, &view));
    let held = racks::held(seen, &view);
    let stopped = seen.cluster.spec.paused
        || seen.cluster.metadata.deletion_timestamp.is_some()
        || refusals.iter().any(Refusal::stops_everything);
    let (steps, operation) = if stopped {
        let journal = seen.cluster.status.as_ref().and_then(|status| status.operation.clone());
        (Vec::new(), journal)
    } else {
        let turn = journal::turn(seen, &view, &held);
        act(seen, &view, &held, turn, &mut refusals)
    };
    let changing = !steps.is_empty();
    let found = Findings { view: &view, operation, refusals: &refusals, changing };
    let status = status::status(seen, &found);
    let busy = changing || status.operation.is_some() || status.phase != "Running";
    Plan { steps, status, requeue: if busy { BUSY } else { AT_REST } }
}

/// The steps of a pass: objects first, then the operation.
fn act(
    seen: &Snapshot,
    view: &View,
    held: &[RackPlan],
    turn: Turn,
    refusals: &mut Vec<Refusal>,
) -> (Vec<Step>, Option<Operation>) {
    refusals.extend(turn.refusals);
    let racks = wished(seen, view, held, turn.operation.as_ref());
    let (mut steps, taken) = wanted::upkeep(seen, &racks);
    refusals.extend(taken);
    steps.extend(volumes::upkeep(seen));
    let shrinks = turn.steps.iter().any(|step| matches!(step, Step::Shrink { .. }));
    if shrinks {
        // The version that the shrink names would be spoilt by another write to the same set.
        steps
            .retain(|step| !matches!(step, Step::Apply(object) if object["kind"] == "StatefulSet"));
    }
    steps.extend(turn.steps);
    (steps, turn.operation)
}

/// Pods per rack: what there is, and more where the spec wants more, or where members have no pod,
/// and no node is leaving.
fn wished(
    seen: &Snapshot,
    view: &View,
    held: &[RackPlan],
    operation: Option<&Operation>,
) -> Vec<RackPlan> {
    let mut racks = held.to_vec();
    if operation.is_some_and(|operation| operation.kind == OperationType::Leave) {
        return racks;
    }
    for plan in &mut racks {
        plan.nodes = plan.nodes.max(members(seen, view, &plan.rack.name));
    }
    racks::filled(&racks, seen.cluster.spec.nodes)
}

/// Members of a rack that need a pod, whatever the spec and the StatefulSets say: those may be older
/// than the ring, as after the API server was put back to an older state. A member that is being
/// replaced needs none beside its successor.
fn members(seen: &Snapshot, view: &View, rack: &str) -> i32 {
    if view.majority().is_err() {
        return 0;
    }
    let running = view.newest().map_or(&[][..], |status| &status.operations);
    let lost = replace::lost(seen, view);
    let replaced = |id: NodeId| {
        let replaces = |status: &OperationStatus| status.request.replaces == Some(id);
        running.iter().any(|status| moves::runs(status) && replaces(status))
            || lost.iter().any(|lost| lost.member.id == id)
    };
    let here = view.members().filter(|row| row.rack == rack);
    let count = here.filter(|row| !replaced(row.id)).count();
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Is the operation one that takes a pod away for good, and past the point of turning back?
pub fn shrinks(operation: &Operation) -> bool {
    operation.kind == OperationType::Leave
        && matches!(operation.step, OperationStep::Shrinking | OperationStep::Volume)
}

/// What makes the spec unusable.
fn unusable(seen: &Snapshot, view: &View) -> Vec<Refusal> {
    let spec = &seen.cluster.spec;
    let mut refusals: Vec<Refusal> =
        check::check(spec).iter().map(|invalid| Refusal::Unusable(invalid.to_string())).collect();
    refusals.extend(racks::elsewhere(seen, view));
    if let Some(cluster) = view.cluster() {
        if cluster.cluster_name != spec.cluster_name {
            refusals.push(Refusal::OtherName {
                found: cluster.cluster_name.clone(),
                wanted: spec.cluster_name.clone(),
            });
        }
        let wanted = form::factors(spec);
        if cluster.replication != wanted {
            let words = |factors: &BTreeMap<String, u32>| {
                let all: Vec<String> =
                    factors.iter().map(|(center, copies)| format!("{center}={copies}")).collect();
                all.join(",")
            };
            refusals.push(Refusal::OtherReplication {
                found: words(&cluster.replication),
                wanted: words(&wanted),
            });
        }
    }
    refusals
}

/// What is wrong with the cluster, whoever is to blame.
fn troubles(seen: &Snapshot, view: &View) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (pod, found) in &view.foreign {
        refusals.push(Refusal::ForeignVolume {
            pod: pod.name.clone(),
            claim: pod.volume.clone(),
            found: found.clone(),
        });
    }
    let lost = replace::lost(seen, view);
    for lost in &lost {
        refusals.push(Refusal::LostVolume {
            pod: lost.pod.name.clone(),
            node: lost.member.id.to_string(),
            claim: lost.pod.volume.clone(),
        });
    }
    let status = seen.cluster.status.as_ref();
    let rows = status.map_or(&[][..], |status| &status.node_statuses);
    let mut down = Vec::new();
    for row in view.members().filter(|row| !row.liveness.is_up()) {
        let id = row.id.to_string();
        let known = rows.iter().find(|known| known.node_id == id && !known.pod.is_empty());
        if lost.iter().all(|lost| lost.member.id != row.id) {
            down.push(known.map_or(format!("node {id}"), |known| known.pod.clone()));
        }
    }
    if !down.is_empty() {
        let message = format!("{} down: see its pod and the worker it ran on", down.join(", "));
        refusals.push(Refusal::MembersDown(message));
    }
    let operations = view.newest().map_or(&[][..], |status| &status.operations);
    let failed = operations.iter().filter(|status| status.state == OperationState::Failed);
    refusals.extend(failed.map(|status| Refusal::OperationFailed {
        id: status.request.id.clone(),
        why: status.message.clone().unwrap_or_default(),
    }));
    let shared = view.newest().map_or(&[][..], |status| &status.shared_machines);
    refusals.extend(shared.iter().map(|group| {
        let name = |id: &NodeId| view.pod_of(*id).map_or(id.to_string(), |pod| pod.name.clone());
        let names: Vec<String> = group.nodes.iter().map(name).collect();
        let (count, machine) = (group.partitions.len(), &group.machine);
        let names = names.join(" and ");
        Refusal::SharedMachine(format!(
            "{names} run on worker {machine} and hold copies of the same {count} partitions"
        ))
    }));
    refusals
}

#[cfg(test)]
mod tests;
