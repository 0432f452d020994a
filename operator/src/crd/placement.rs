//! Copies, the ring and the racks: what the cluster document is made from.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The rack when `topology.racks` is empty.
pub const DEFAULT_RACK: &str = "default";

/// Copies of the data, and how many must answer by default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
        "!has(self.readQuorum) || self.readQuorum <= self.factors.map(f, f.factor).sum()")
    .message("readQuorum is at most the number of copies (the sum of the factors)"))]
#[x_kube(validation = Rule::new(
        "!has(self.writeQuorum) || self.writeQuorum <= self.factors.map(f, f.factor).sum()")
    .message("writeQuorum is at most the number of copies (the sum of the factors)"))]
#[x_kube(validation = Rule::new(concat!(
        "self.allowWeakQuorum || ",
        "(has(self.readQuorum) ? self.readQuorum : self.factors.map(f, f.factor).sum() / 2 + 1) + ",
        "(has(self.writeQuorum) ? self.writeQuorum : self.factors.map(f, f.factor).sum() / 2 + 1) > ",
        "self.factors.map(f, f.factor).sum()"
    ))
    .message("readQuorum + writeQuorum must be more than the number of copies, or a read may miss an acknowledged write; raise one, or set allowWeakQuorum"))]
pub struct Replication {
    /// Copies (N) in each data center.
    #[serde(default = "one_datacenter")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["datacenter".into()]))]
    pub factors: Vec<DatacenterFactor>,
    /// Replicas (R) that must answer a read of a bucket without settings of its own; when absent, a
    /// majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 56))]
    pub read_quorum: Option<i32>,
    /// Copies (W) that must be stored before a write is confirmed, likewise; when absent, a
    /// majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 56))]
    pub write_quorum: Option<i32>,
    /// Take a readQuorum and writeQuorum that do not overlap.
    #[serde(default)]
    pub allow_weak_quorum: bool,
    /// Whether stand-in copies count while owners are down.
    #[serde(default = "yes")]
    pub sloppy_quorum: bool,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            factors: one_datacenter(),
            read_quorum: None,
            write_quorum: None,
            allow_weak_quorum: false,
            sloppy_quorum: true,
        }
    }
}

impl Replication {
    /// Copies over all data centers.
    pub fn copies(&self) -> i32 {
        self.factors.iter().map(|factor| factor.factor).sum()
    }
}

fn one_datacenter() -> Vec<DatacenterFactor> {
    vec![DatacenterFactor { datacenter: default_datacenter(), factor: 3 }]
}

fn default_datacenter() -> String {
    "dc1".to_owned()
}

fn yes() -> bool {
    true
}

/// Copies in one data center.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatacenterFactor {
    /// Name of the data center.
    #[schemars(length(min = 1, max = 40), pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub datacenter: String,
    /// Copies of every key there.
    #[schemars(range(min = 1, max = 7))]
    pub factor: i32,
}

/// How the ring is cut.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(concat!(
        "has(self.initialPartitions) == has(oldSelf.initialPartitions) && ",
        "(!has(self.initialPartitions) || self.initialPartitions == oldSelf.initialPartitions)"
    ))
    .message("initialPartitions cannot change: the ring is cut when the cluster is created"))]
#[x_kube(validation = Rule::new(concat!(
        "!has(self.initialPartitions) || self.initialPartitions in ",
        "[16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]"
    ))
    .message("initialPartitions is a power of two from 16 to 65536"))]
pub struct Ring {
    /// Partitions at the beginning, a power of two; when absent, near 64 partition replicas for
    /// each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 65536))]
    pub initial_partitions: Option<i32>,
}

/// Racks, and which workers they are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(concat!(
        "size(oldSelf.racks) == 0 ? size(self.racks) == 0 : ",
        "oldSelf.racks.all(o, self.racks.exists(r, ",
        "r.name == o.name && r.datacenter == o.datacenter && r.zone == o.zone))"
    ))
    .message("a rack cannot be removed or given another data center or zone, and a cluster without racks gets none: add new racks beside the old ones"))]
pub struct Topology {
    /// Racks; the nodes are spread over them evenly. Without any there is one, `default`, in the
    /// one data center.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub racks: Vec<Rack>,
    /// Take two nodes on one worker. Copies of a key never share a worker all the same, so this
    /// needs as many workers as copies; meant for trials.
    #[serde(default)]
    pub allow_multiple_nodes_per_worker: bool,
}

/// One rack: a StatefulSet of its own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rack {
    /// Name; part of the names of its pods. It cannot change.
    #[schemars(length(min = 1, max = 11), pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The data center that it belongs to. It cannot change.
    #[serde(default = "default_datacenter")]
    #[schemars(length(min = 1, max = 40))]
    pub datacenter: String,
    /// Only workers with this `topology.kubernetes.io/zone`; empty for any. It cannot change.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub zone: String,
    /// Only workers with these labels.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: std::collections::BTreeMap<String, String>,
}
