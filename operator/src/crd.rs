//! `KVCluster` (`kvasir.dev/v1alpha1`): what a person asks for and what the operator answers.
//!
//! These structs are the source: `crdgen` writes the CustomResourceDefinition from them into
//! `crds/`, and a test holds the two equal. What must hold stands here as schema bounds and CEL
//! rules, each with a message that says what to do, so that the API server refuses it at once and
//! no webhook is needed. Defaults are in the schema too: `kubectl get -o yaml` shows what holds.
//!
//! Invariants: a field stands here only if its effect is built. Every list and string is bounded,
//! or the API server would refuse the rules for their cost. Free-form parts (`config`,
//! `podTemplate`) are kept as they are given and judged by [`crate::render`] instead.

mod placement;
mod pods;
mod repair;
mod schema;
mod status;
mod storage;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};

pub use placement::{DEFAULT_RACK, DatacenterFactor, Rack, Replication, Ring, Topology};
pub use pods::{
    FreeForm, Monitoring, NetworkPolicySpec, PullPolicy, Resources, SecretName, UpdateStrategy,
    UpdateType,
};
pub use repair::RepairSpec;
pub use status::{
    KVClusterStatus, NodeState, NodeStatus, Operation, OperationStep, OperationType, RepairRecord,
    RingStatus, condition,
};
pub use storage::{Keep, Retention, Storage};

/// A Kvasir cluster.
///
/// Nodes are pods of one StatefulSet per rack; data copies per data center are `replication`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "kvasir.dev",
    version = "v1alpha1",
    kind = "KVCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "all",
    namespaced,
    cel,
    status = "KVClusterStatus",
    derive = "PartialEq",
    doc = "A Kvasir cluster: a Dynamo-style key-value store, formed, watched and changed by the Kvasir operator.",
    scale(
        spec_replicas_path = ".spec.nodes",
        status_replicas_path = ".status.nodes",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.nodes", description = "Nodes wanted"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes", description = "Nodes that serve"),
    printcolumn(name = "Available", type_ = "string", json_path = r#".status.conditions[?(@.type=="Available")].status"#),
    printcolumn(name = "Progressing", type_ = "string", json_path = r#".status.conditions[?(@.type=="Progressing")].status"#),
    printcolumn(name = "Degraded", type_ = "string", json_path = r#".status.conditions[?(@.type=="Degraded")].status"#),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", priority = 1),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.ring.epoch", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name has at most 40 characters: the names of pods and their labels are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name begins with a letter and has only a-z, 0-9 and -: Services are named after it")
)]
#[x_kube(validation = Rule::new("self.nodes >= self.replication.factors.map(f, f.factor).sum()")
    .message("nodes must be at least the sum of the replication factors: raise nodes, or lower a factor before the cluster is created"))]
#[x_kube(validation = Rule::new(concat!(
        "size(self.topology.racks) == 0 ? size(self.replication.factors) == 1 : ",
        "self.replication.factors.all(f, self.topology.racks.exists(r, r.datacenter == f.datacenter))"
    ))
    .message("every data center in replication.factors needs a rack in topology.racks that names it; without racks there is one data center"))]
#[x_kube(validation = Rule::new(
        "self.topology.racks.all(r, self.replication.factors.exists(f, f.datacenter == r.datacenter))")
    .message("every rack names a data center that stands in replication.factors"))]
#[serde(rename_all = "camelCase")]
pub struct KVClusterSpec {
    /// Storage nodes over all racks, 1 to 512; what `kubectl scale` changes. A node that is added
    /// takes its share of the data; one that is taken away first gives all that it has to the others.
    #[schemars(range(min = 1, max = 512))]
    pub nodes: i32,

    /// Name of the cluster, for people and against mix-ups. It cannot change.
    #[schemars(length(min = 1, max = 63), pattern("^[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("clusterName cannot change: the nodes carry it in the cluster document; create another KVCluster"))]
    pub cluster_name: String,

    /// Image of the node. A tag or a digest; changing it restarts the nodes one at a time.
    #[schemars(length(min = 1, max = 512), pattern(r"^[^\s]+$"))]
    pub image: String,

    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,

    /// Secrets in the same namespace for pulling the image.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<SecretName>,

    /// Copies of the data, and how many must answer. Fixed when the cluster is created.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("replication is fixed when the cluster is created: it stands in the cluster document from then on"))]
    pub replication: Replication,

    /// How the ring is cut. Fixed when the cluster is created.
    #[serde(default)]
    pub ring: Ring,

    /// Racks, and which workers they are.
    #[serde(default)]
    pub topology: Topology,

    /// The volume of each node.
    pub storage: Storage,

    /// CPU and memory of the node container.
    #[serde(default)]
    pub resources: Resources,

    /// Settings of the nodes, as `kvasir config example` prints them (sections of settings). A
    /// wrong one costs one pod: it does not start, and the rollout stops there.
    #[serde(default)]
    #[schemars(schema_with = "schema::free_form")]
    pub config: FreeForm,

    /// Additions to the pods: metadata.labels, metadata.annotations and spec, merged by name over
    /// what the operator makes. What the operator needs for itself cannot be replaced.
    #[serde(default)]
    #[schemars(schema_with = "schema::free_form")]
    pub pod_template: FreeForm,

    /// How pods are replaced when their template changes.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,

    /// Seconds a node gets to stop: it stops taking requests, finishes those in flight and closes
    /// its store.
    #[serde(default = "pods::default_grace")]
    #[schemars(range(min = 5, max = 3600))]
    pub termination_grace_period_seconds: i64,

    /// When all replicas are compared with each other from beginning to end.
    #[serde(default)]
    pub repair: RepairSpec,

    /// Objects for Prometheus.
    #[serde(default)]
    pub monitoring: Monitoring,

    /// Which traffic reaches the nodes, where the network of the Kubernetes cluster enforces it.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,

    /// Nothing is changed while this is true; the status is still kept.
    #[serde(default)]
    pub paused: bool,
}

/// The CustomResourceDefinition. A field that is left out is absent, never null: rules ask with
/// `has()`, which is true for a null.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = <KVCluster as CustomResourceExt>::crd();
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(root) = root {
            without_null(root);
        }
    }
    crd
}

fn without_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for inner in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        without_null(inner);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        without_null(items);
    }
}

/// The CustomResourceDefinition as YAML, as `crds/` holds it.
pub fn crd_yaml() -> Result<String, serde_yaml::ser::Error> {
    let body = serde_yaml::to_string(&crd())?;
    let head = "# Written by `cargo run -p kvasir-operator --bin crdgen`; do not edit.";
    Ok(format!("{head}\n{}\n", body.trim_end()))
}

#[cfg(test)]
mod tests;
