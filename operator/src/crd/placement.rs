//! Copies, the ring and the racks: what the cluster document is made from.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use kvasir_core::quorum::{Level, LevelError};
use serde::{Deserialize, Serialize};

use super::schema;

/// The rack when `topology.racks` is empty.
pub const DEFAULT_RACK: &str = "default";

/// Copies of the data, and how many must answer by default.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(at_most_all("readQuorum"))
    .message("readQuorum is at most the number of copies (the sum of the factors)"))]
#[x_kube(validation = Rule::new(at_most_all("writeQuorum"))
    .message("writeQuorum is at most the number of copies (the sum of the factors)"))]
#[x_kube(validation = Rule::new(overlap())
    .message("a read may miss an acknowledged write: readQuorum and writeQuorum together must be more than the number of copies, or each of them local_quorum or each_quorum; raise one, or set allowWeakQuorum"))]
pub struct Replication {
    /// Copies (N) in each data center.
    #[serde(default = "one_datacenter")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["datacenter".into()]))]
    pub factors: Vec<DatacenterFactor>,
    /// Replicas (R) that must answer a read of a bucket without settings of its own: a count, or
    /// one, quorum, all, local_one, local_quorum (a majority in the data center of the node that was
    /// asked) or each_quorum (a majority in each). When absent, quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::level")]
    pub read_quorum: Option<IntOrString>,
    /// Copies (W) that must be stored before a write is confirmed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::level")]
    pub write_quorum: Option<IntOrString>,
    /// Take a readQuorum and writeQuorum that do not overlap. Two of local_quorum do, as long as a
    /// client stays with one data center.
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

    /// What a read asks for by default.
    ///
    /// # Errors
    /// The text names no level: only where the API server does not know the schema.
    pub fn read_level(&self) -> Result<Level, LevelError> {
        level(self.read_quorum.as_ref())
    }

    /// What a write asks for by default; errors as for reads.
    pub fn write_level(&self) -> Result<Level, LevelError> {
        level(self.write_quorum.as_ref())
    }
}

fn level(given: Option<&IntOrString>) -> Result<Level, LevelError> {
    match given {
        None => Ok(Level::Quorum),
        Some(IntOrString::Int(count)) => count.to_string().parse(),
        Some(IntOrString::String(name)) => name.parse(),
    }
}

/// All copies of a key, in a rule of [`Replication`].
const COPIES: &str = "self.factors.map(f, f.factor).sum()";

/// Rule: a count is at most the number of copies.
fn at_most_all(field: &str) -> String {
    let named = format!("string(self.{field}).matches('^[a-z_]+$')");
    format!("!has(self.{field}) || {named} || int(self.{field}) <= {COPIES}")
}

/// Rule: whatever replicas a write waited for, a read asks one of them. Majorities of one data center
/// do so within it; all others count over all data centers.
fn overlap() -> String {
    let center = |field: &str| {
        format!("has(self.{field}) && string(self.{field}) in ['local_quorum', 'each_quorum']")
    };
    let (read, write) = ("readQuorum", "writeQuorum");
    let within = format!("({} && {})", center(read), center(write));
    format!("self.allowWeakQuorum || {within} || {} + {} > {COPIES}", least(read), least(write))
}

/// The fewest replicas that a level has asked, wherever they are.
fn least(field: &str) -> String {
    let name = format!("string(self.{field})");
    let majorities = "self.factors.map(f, f.factor / 2 + 1)";
    format!(
        "(!has(self.{field}) || {name} == 'quorum' ? {COPIES} / 2 + 1 : \
         {name} == 'one' || {name} == 'local_one' ? 1 : \
         {name} == 'all' ? {COPIES} : \
         {name} == 'local_quorum' ? {majorities}.min() : \
         {name} == 'each_quorum' ? {majorities}.sum() : int(self.{field}))"
    )
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
        "oldSelf.racks.all(o, self.racks.all(r, ",
        "r.name != o.name || (r.datacenter == o.datacenter && r.zone == o.zone))) && ",
        // Without racks there is one of this name, anywhere.
        "((size(self.racks) == 0) == (size(oldSelf.racks) == 0) || ",
        "(self.racks.all(r, r.name != 'default' || r.zone == '') && ",
        "oldSelf.racks.all(o, o.name != 'default' || o.zone == '')))"
    ))
    .message("a rack cannot be given another data center or zone: remove it and add one of another name"))]
pub struct Topology {
    /// Racks; the nodes are spread over them evenly. Without any there is one, `default`, in the
    /// one data center. Where racks are added or removed nodes come in the ones that have too few
    /// and leave those that have too many, one after the other, each with what it stores.
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
    /// Name; part of the names of its pods. Another name is another rack.
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
