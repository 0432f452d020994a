//! Which racks there are, and how many nodes stand in each.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use super::names;
use crate::crd::{DEFAULT_RACK, KVClusterSpec, Rack};

/// Variable of the node's container: the data center of its rack.
pub const DATACENTER: &str = "KVASIR_NODE__DATACENTER";
/// Variable of the node's container: the zone of its rack.
pub const ZONE: &str = "KVASIR_NODE__ZONE";
/// Label of a worker: its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

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

/// How many nodes each rack should have, as evenly as can be. The racks that have one more than others
/// are those of data centers that have too few for their copies, then those that have most `now`, so
/// that none moves without need; ties go by the order of the spec.
pub fn spread(spec: &KVClusterSpec, now: &BTreeMap<String, i32>) -> BTreeMap<String, i32> {
    let racks = of(spec);
    let (nodes, all) = (spec.nodes.max(0), i32::try_from(racks.len()).unwrap_or(i32::MAX).max(1));
    let even = nodes / all;
    let mut counts: BTreeMap<String, i32> =
        racks.iter().map(|rack| (rack.name.clone(), even)).collect();
    for _ in 0..nodes % all {
        let in_centers = by_datacenter(spec, &counts);
        let short = |rack: &Rack| {
            let mut factors = spec.replication.factors.iter();
            let factor = factors.find(|factor| factor.datacenter == rack.datacenter);
            let has = in_centers.get(&rack.datacenter).copied().unwrap_or(0);
            factor.is_some_and(|factor| has < factor.factor)
        };
        let has = |rack: &Rack| now.get(&rack.name).copied().unwrap_or(0);
        let open = racks.iter().filter(|rack| counts.get(&rack.name) == Some(&even));
        let Some(next) = open.min_by_key(|rack| (!short(rack), Reverse(has(rack)))) else { break };
        counts.insert(next.name.clone(), even + 1);
    }
    counts
}

/// The rack that a StatefulSet was rendered from: all that is left of one that the spec does not name
/// any more.
pub fn rendered(set: &Value) -> Option<Rack> {
    let name = set["metadata"]["labels"][names::RACK].as_str()?.to_owned();
    let pod = &set["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array()?;
    let node = containers.iter().find(|container| container["name"] == names::CONTAINER)?;
    let setting = |name: &str| {
        let mut all = node["env"].as_array().into_iter().flatten();
        let found = all.find(|variable| variable["name"] == name);
        found.and_then(|found| found["value"].as_str()).unwrap_or_default().to_owned()
    };
    let zone = setting(ZONE);
    let mut node_selector: BTreeMap<String, String> =
        serde_json::from_value(pod["nodeSelector"].clone()).unwrap_or_default();
    if !zone.is_empty() {
        node_selector.remove(ZONE_LABEL);
    }
    Some(Rack { name, datacenter: setting(DATACENTER), zone, node_selector })
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
