//! Which racks there are, and how many nodes stand in each.

use std::collections::BTreeMap;

use crate::crd::{DEFAULT_RACK, KVClusterSpec, Rack};

/// The racks of the spec, in its order; without any, the one that is there by default.
pub fn of(spec: &KVClusterSpec) -> Vec<Rack> {
    if !spec.topology.racks.is_empty() {
        return spec.topology.racks.clone();
    }
    let datacenter = spec.replication.factors.first().map(|factor| factor.datacenter.clone());
    vec![Rack {
        name: DEFAULT_RACK.to_owned(),
        datacenter: datacenter.unwrap_or_default(),
        zone: String::new(),
        node_selector: BTreeMap::new(),
    }]
}

/// How many nodes each rack should have, from how many it has now: a node is added to the emptiest
/// rack and taken from the fullest, ties go by the order of the spec (added to the first, taken
/// from the last). Racks that are added later are filled by new nodes; none is moved for them.
pub fn spread(spec: &KVClusterSpec, now: &BTreeMap<String, i32>) -> BTreeMap<String, i32> {
    share_out(spec, spec.nodes, now)
}

/// The same for another number of nodes than that of the spec.
pub fn share_out(
    spec: &KVClusterSpec,
    nodes: i32,
    now: &BTreeMap<String, i32>,
) -> BTreeMap<String, i32> {
    let racks = of(spec);
    let mut counts: Vec<i32> =
        racks.iter().map(|rack| now.get(&rack.name).copied().unwrap_or(0).max(0)).collect();
    let mut total: i64 = counts.iter().copied().map(i64::from).sum();
    while total < i64::from(nodes) {
        let Some(least) = counts.iter_mut().min_by_key(|count| **count) else { break };
        *least += 1;
        total += 1;
    }
    while total > i64::from(nodes.max(0)) {
        let Some(most) = counts.iter_mut().max_by_key(|count| **count) else { break };
        *most -= 1;
        total -= 1;
    }
    racks.into_iter().map(|rack| rack.name).zip(counts).collect()
}

/// How many nodes stand in each data center.
pub fn by_datacenter(
    spec: &KVClusterSpec,
    counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, i32> {
    let mut sums = BTreeMap::new();
    for rack in of(spec) {
        *sums.entry(rack.datacenter).or_insert(0) += counts.get(&rack.name).copied().unwrap_or(0);
    }
    sums
}
