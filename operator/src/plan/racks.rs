//! How many nodes each rack has and should have.
//!
//! The spec says how they are spread ([`render::racks::spread`]); what there is differs from it while
//! nodes come and go, and where racks were added or removed. A rack that the spec does not name any more
//! is known by its StatefulSet, or by its members, until it has no node left. The highest ordinal of a
//! rack is the only one that can go, since a StatefulSet has no other way to get smaller.

use std::collections::{BTreeMap, BTreeSet};

use super::refusal::Refusal;
use super::view::View;
use crate::crd::{NodeStatus, OperationType, Rack};
use crate::render;
use crate::snapshot::{ObjectName, PodSeen, Snapshot};

/// A rack: those of the spec in its order, then those that it does not name any more.
#[derive(Debug, Clone, PartialEq)]
pub struct RackPlan {
    /// The rack.
    pub rack: Rack,
    /// Nodes that it has: pods that its StatefulSet is told to keep.
    pub nodes: i32,
    /// Nodes that it should have.
    pub wanted: i32,
    /// Whether the spec does not name it any more.
    pub retired: bool,
}

/// The racks with what they have. Where a StatefulSet is missing, that is what its pods and the
/// last status show, so that making it anew takes nothing away.
pub fn held(seen: &Snapshot, view: &View) -> Vec<RackPlan> {
    let spec = &seen.cluster.spec;
    let named = render::racks::of(spec);
    let retired = retired(seen, view, &named);
    let nodes = |rack: &Rack| match seen.sets.get(&rack.name) {
        // A set that somebody else made smaller keeps the members whose pods were just there.
        Some(set) => set.replicas.max(remembered(seen, &rack.name, true)),
        None => remembered(seen, &rack.name, false),
    };
    let now: BTreeMap<String, i32> =
        named.iter().map(|rack| (rack.name.clone(), nodes(rack))).collect();
    let spread = render::racks::spread(spec, &now);
    let plan = |rack: Rack, retired: bool| RackPlan {
        nodes: nodes(&rack),
        wanted: spread.get(&rack.name).copied().filter(|_| !retired).unwrap_or(0),
        retired,
        rack,
    };
    let named = named.into_iter().map(|rack| plan(rack, false));
    named.chain(retired.into_iter().map(|rack| plan(rack, true))).collect()
}

/// The racks that the spec does not name any more and that have nodes, by name.
fn retired(seen: &Snapshot, view: &View, named: &[Rack]) -> Vec<Rack> {
    let sets = seen.sets.iter().filter(|(_, set)| set.ours).map(|(name, _)| name.as_str());
    let members = view.members().map(|row| row.rack.as_str());
    let names: BTreeSet<&str> = sets.chain(members).collect();
    let gone = |name: &&str| !name.is_empty() && named.iter().all(|rack| rack.name != **name);
    let names = names.into_iter().filter(gone);
    names.filter_map(|name| by_its_set(seen, name).or_else(|| by_its_members(view, name))).collect()
}

fn by_its_set(seen: &Snapshot, name: &str) -> Option<Rack> {
    let set = seen.sets.get(name).filter(|set| set.ours)?;
    let object = seen.objects.get(&ObjectName::new("StatefulSet", set.name.clone()))?;
    render::racks::rendered(object)
}

/// Its StatefulSet is gone; the volumes of its nodes say on which workers they can run.
fn by_its_members(view: &View, name: &str) -> Option<Rack> {
    let row = view.members().find(|row| row.rack == name)?;
    Some(Rack {
        name: name.to_owned(),
        datacenter: row.datacenter.clone(),
        zone: row.zone.clone(),
        node_selector: BTreeMap::new(),
    })
}

/// Racks of the spec whose members are elsewhere by the cluster document: a rack of the same name was
/// removed and has not lost all its nodes yet.
pub fn elsewhere(seen: &Snapshot, view: &View) -> Vec<Refusal> {
    let place = |datacenter: &str, zone: &str| match zone {
        "" => format!("data center {datacenter}"),
        zone => format!("data center {datacenter}, zone {zone}"),
    };
    let racks = render::racks::of(&seen.cluster.spec).into_iter();
    let found = racks.filter_map(|rack| {
        let other = view.members().find(|row| {
            row.rack == rack.name && (row.datacenter != rack.datacenter || row.zone != rack.zone)
        })?;
        Some(Refusal::RackElsewhere {
            found: place(&other.datacenter, &other.zone),
            wanted: place(&rack.datacenter, &rack.zone),
            rack: rack.name,
        })
    });
    found.collect()
}

/// Does the spec want this pod, by its rack and number?
pub fn wants(seen: &Snapshot, racks: &[RackPlan], pod: &str) -> bool {
    let (Some(rack), Some(number)) = (rack_of(seen, pod), ordinal(pod)) else { return false };
    racks.iter().any(|plan| plan.rack.name == rack && number < plan.wanted)
}

/// Racks with as many pods as there should be, and one more where as many as are wanted are not where
/// they are wanted: a node comes before another one leaves for it. Never fewer in any rack.
pub fn filled(racks: &[RackPlan], wanted: i32) -> Vec<RackPlan> {
    let mut racks = racks.to_vec();
    let uneven = racks.iter().any(|rack| rack.nodes < rack.wanted);
    let more = match wanted - total(&racks) {
        0 if uneven => 1,
        more => more,
    };
    for _ in 0..more {
        let lacking = racks.iter_mut().filter(|rack| rack.nodes < rack.wanted);
        // The first among equals.
        let Some(emptiest) = lacking.min_by_key(|rack| rack.nodes - rack.wanted) else { break };
        emptiest.nodes += 1;
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

/// The pods that could go next: the highest ordinal of each rack that has more nodes than it should, if
/// its data center has more than copies. Those of racks that have most too many first, later racks
/// first among equals.
pub fn last_pods<'a>(
    seen: &'a Snapshot,
    racks: &[RackPlan],
) -> Vec<(RackPlan, Option<&'a PodSeen>)> {
    let spec = &seen.cluster.spec;
    let in_center = |center: &str| -> i32 {
        racks.iter().filter(|plan| plan.rack.datacenter == center).map(|plan| plan.nodes).sum()
    };
    let spare = |plan: &&RackPlan| {
        let center = &plan.rack.datacenter;
        let mut factors = spec.replication.factors.iter();
        let factor = factors.find(|factor| factor.datacenter == *center);
        let least = factor.map_or(0, |factor| factor.factor);
        plan.nodes > plan.wanted && in_center(center) > least
    };
    let mut racks: Vec<(usize, &RackPlan)> =
        racks.iter().enumerate().filter(|(_, plan)| spare(plan)).collect();
    racks.sort_by_key(|(place, plan)| {
        (std::cmp::Reverse(plan.nodes - plan.wanted), std::cmp::Reverse(*place))
    });
    let pod = |plan: &RackPlan| {
        let mut pods = seen.pods.values();
        pods.find(|pod| pod.rack == plan.rack.name && pod.ordinal == plan.nodes - 1)
    };
    racks.into_iter().map(|(_, plan)| (plan.clone(), pod(plan))).collect()
}
