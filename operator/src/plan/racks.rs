//! How many nodes each rack has and should have.
//!
//! A larger number never takes a node from any rack. The highest ordinal of a rack is the only one
//! that can go, since a StatefulSet has no other way to get smaller.

use crate::crd::{KVClusterSpec, NodeStatus, OperationType};
use crate::render;
use crate::snapshot::{PodSeen, Snapshot};

/// A rack in the order of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RackPlan {
    /// Its name.
    pub name: String,
    /// Its data center.
    pub datacenter: String,
    /// Nodes that it has: pods that its StatefulSet is told to keep.
    pub nodes: i32,
}

/// The racks of a spec, empty.
fn empty(spec: &KVClusterSpec) -> Vec<RackPlan> {
    let racks = render::racks::of(spec).into_iter();
    racks.map(|rack| RackPlan { name: rack.name, datacenter: rack.datacenter, nodes: 0 }).collect()
}

/// The racks with what they have. Where a StatefulSet is missing, that is what its pods and the
/// last status show, so that making it anew takes nothing away.
pub fn held(seen: &Snapshot) -> Vec<RackPlan> {
    let mut racks = empty(&seen.cluster.spec);
    for rack in &mut racks {
        rack.nodes = match seen.sets.get(&rack.name) {
            // A set that somebody else made smaller keeps the members whose pods were just there.
            Some(set) => set.replicas.max(remembered(seen, &rack.name, true)),
            None => remembered(seen, &rack.name, false),
        };
    }
    racks
}

/// Pods of a rack that the last status and the pods themselves show; only those of members that
/// showed a pod, or all.
fn remembered(seen: &Snapshot, rack: &str, members: bool) -> i32 {
    let status = seen.cluster.status.as_ref();
    let rows = status.into_iter().flat_map(|status| &status.node_statuses);
    let there = |row: &&NodeStatus| !row.machine.is_empty() && !row.pod_uid.is_empty();
    let rows = rows
        .filter(|row| row.rack == rack && (!members || there(row)))
        .filter_map(|row| ordinal(&row.pod));
    let pods = seen.pods.values().filter(|pod| !members && pod.rack == rack).map(|pod| pod.ordinal);
    let count = rows.chain(pods).max().map_or(0, |highest| highest + 1);
    match status.and_then(|status| status.operation.as_ref()) {
        Some(operation) if operation.kind == OperationType::Leave => {
            let past = super::shrinks(operation);
            let here = seen.pods.values().any(|pod| pod.name == operation.pod && pod.rack == rack)
                || rack_of(seen, &operation.pod).as_deref() == Some(rack);
            match ordinal(&operation.pod) {
                Some(gone) if past && here => count.min(gone),
                _ => count,
            }
        }
        _ => count,
    }
}

/// The rack of a pod, as the last status has it.
pub fn rack_of(seen: &Snapshot, pod: &str) -> Option<String> {
    if let Some(pod) = seen.pods.get(pod) {
        return Some(pod.rack.clone());
    }
    if let Some((rack, _)) = seen.sets.iter().find(|(_, set)| {
        pod.strip_prefix(&set.name).is_some_and(|rest| {
            rest.strip_prefix('-').is_some_and(|digits| digits.parse::<i32>().is_ok())
        })
    }) {
        return Some(rack.clone());
    }
    let status = seen.cluster.status.as_ref()?;
    let row = status.node_statuses.iter().find(|row| row.pod == pod)?;
    Some(row.rack.clone())
}

/// The number at the end of a pod's name.
pub fn ordinal(pod: &str) -> Option<i32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// All nodes of all racks.
pub fn total(racks: &[RackPlan]) -> i32 {
    racks.iter().map(|rack| rack.nodes).sum()
}

/// The pods that could go next: the highest ordinal of each rack whose data center has more nodes
/// than copies, those of the fullest racks first, later racks first among equals.
pub fn last_pods<'a>(
    seen: &'a Snapshot,
    racks: &[RackPlan],
) -> Vec<(RackPlan, Option<&'a PodSeen>)> {
    let spec = &seen.cluster.spec;
    let in_center = |center: &str| -> i32 {
        racks.iter().filter(|rack| rack.datacenter == center).map(|rack| rack.nodes).sum()
    };
    let spare = |rack: &&RackPlan| {
        let mut factors = spec.replication.factors.iter();
        let factor = factors.find(|factor| factor.datacenter == rack.datacenter);
        rack.nodes > 0 && in_center(&rack.datacenter) > factor.map_or(0, |factor| factor.factor)
    };
    let mut racks: Vec<(usize, &RackPlan)> =
        racks.iter().enumerate().filter(|(_, rack)| spare(rack)).collect();
    racks.sort_by_key(|(place, rack)| (std::cmp::Reverse(rack.nodes), std::cmp::Reverse(*place)));
    let pod = |rack: &RackPlan| {
        seen.pods.values().find(|pod| pod.rack == rack.name && pod.ordinal == rack.nodes - 1)
    };
    racks.into_iter().map(|(_, rack)| (rack.clone(), pod(rack))).collect()
}
