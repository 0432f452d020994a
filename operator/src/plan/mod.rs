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
pub mod membership;
pub mod racks;
pub mod refusal;
pub mod repair;
pub mod rollout;
pub mod shrink;
pub mod status;
pub mod step;
pub mod view;
pub mod volumes;
pub mod wanted;

use std::collections::BTreeMap;
use std::time::Duration;

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
    let held = racks::held(seen);
    let stopped = seen.cluster.spec.paused
        || seen.cluster.metadata.deletion_timestamp.is_some()
        || refusals.iter().any(Refusal::stops_everything);
    let (steps, operation) = if stopped {
        let journal = seen.cluster.status.as_ref().and_then(|status| status.operation.clone());
        (Vec::new(), journal)
    } else {
        let turn = journal::turn(seen, &view, &held);
        act(seen, &held, turn, &mut refusals)
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
    held: &[RackPlan],
    turn: Turn,
    refusals: &mut Vec<Refusal>,
) -> (Vec<Step>, Option<Operation>) {
    refusals.extend(turn.refusals);
    let racks = wished(seen, held, turn.operation.as_ref());
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

/// Pods per rack: what there is, and more where the spec wants more and no node is leaving.
fn wished(seen: &Snapshot, held: &[RackPlan], operation: Option<&Operation>) -> Vec<RackPlan> {
    let mut racks = held.to_vec();
    if operation.is_some_and(|operation| operation.kind == OperationType::Leave) {
        return racks;
    }
    if racks::total(&racks) < seen.cluster.spec.nodes {
        let now: BTreeMap<String, i32> =
            racks.iter().map(|rack| (rack.name.clone(), rack.nodes)).collect();
        let spread = crate::render::racks::spread(&seen.cluster.spec, &now);
        for rack in &mut racks {
            rack.nodes = spread.get(&rack.name).copied().unwrap_or(rack.nodes);
        }
    }
    racks
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
    let status = seen.cluster.status.as_ref();
    let rows = status.map_or(&[][..], |status| &status.node_statuses);
    let mut down = Vec::new();
    for row in view.members().filter(|row| !row.liveness.is_up()) {
        let id = row.id.to_string();
        let known = rows.iter().find(|known| known.node_id == id && !known.pod.is_empty());
        let pod = known.map_or(format!("node {id}"), |known| known.pod.clone());
        let mut blank = view.blank.values().map(|answer| answer.pod);
        match blank.find(|there| there.name == pod) {
            Some(there) => {
                let claim = there.volume.clone();
                refusals.push(Refusal::LostVolume { pod, node: id, claim });
            }
            None => down.push(pod),
        }
    }
    if !down.is_empty() {
        let message = format!("{} down: see its pod and the worker it ran on", down.join(", "));
        refusals.push(Refusal::MembersDown(message));
    }
    let mut machines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in view.members().filter(|row| row.partitions > 0) {
        let pod = view.pod_of(row.id).map_or(row.id.to_string(), |pod| pod.name.clone());
        machines.entry(row.machine.as_str()).or_default().push(pod);
    }
    let shared = machines.into_values().filter(|pods| pods.len() > 1);
    refusals.extend(shared.map(|pods| Refusal::SharedMachine(pods.join(" and "))));
    refusals
}

#[cfg(test)]
mod tests;
