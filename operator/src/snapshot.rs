//! What was seen, as one plain value: the input of the planner.
//!
//! `observe` fills it from live reads of the API server and of every node's admin API; nothing in
//! it comes from a cache. Identity is by UID and node id, ages are durations up to `now`. The
//! planner reads nothing else, so a test writes a snapshot by hand and a crash loses nothing that
//! is not in the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use kvasir_core::admin_api::{OperationStatus, Problem, RepairStatus, Status};
use serde_json::Value;

use crate::crd::KVCluster;

/// Everything that is known about one `KVCluster` at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken; times in the status are made from it.
    pub now: Timestamp,
    /// The resource itself, with the status that was last written: the journal is in there.
    pub cluster: KVCluster,
    /// StatefulSets of this cluster, by name of the rack.
    pub sets: BTreeMap<String, SetSeen>,
    /// Pods of these, by name.
    pub pods: BTreeMap<String, PodSeen>,
    /// Claims of the nodes' volumes, by name; also those that no pod uses.
    pub volumes: BTreeMap<String, VolumeSeen>,
    /// Every other object that carries this cluster's label and StatefulSets too, whole, for the
    /// comparison with what is wanted. Secrets are there without their data.
    pub objects: BTreeMap<ObjectName, Value>,
    /// What the operator knows about the place it runs in.
    pub surroundings: Surroundings,
    /// The step that failed last in this process, if no pass went through since. A hint for the
    /// conditions only: it is forgotten with the process.
    pub failure: Option<Failure>,
}

/// Kind and name of an object in the namespace of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind, such as `Service`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// The name of a kind.
    pub fn new(kind: &str, name: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), name: name.into() }
    }

    /// The name of an object that was read or rendered.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self { kind: text(&object["kind"]), name: text(&object["metadata"]["name"]) }
    }
}

/// The StatefulSet of a rack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version, for preconditions.
    pub resource_version: String,
    /// Pods that it is told to keep.
    pub replicas: i32,
    /// Whether it belongs to this very `KVCluster` (by UID).
    pub ours: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its rack.
    pub rack: String,
    /// Its number in the StatefulSet.
    pub ordinal: i32,
    /// Since its creation.
    pub age: Duration,
    /// Since when it is ready; none when it is not.
    pub ready_for: Option<Duration>,
    /// Whether the container of the node runs.
    pub running: bool,
    /// Why the container waits or ended last, such as `ImagePullBackOff`.
    pub trouble: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its address.
    pub ip: Option<String>,
    /// The worker that it runs on; empty before it is scheduled.
    pub worker: String,
    /// Hash of the inputs that its template was made from (annotation): see
    /// `render::inputs`.
    pub inputs: String,
    /// The ConfigMap that it mounts.
    pub config_map: String,
    /// The claim that it mounts.
    pub volume: String,
    /// What its node says.
    pub node: NodeSeen,
}

impl PodSeen {
    /// The answer of its node, if there was one.
    pub fn status(&self) -> Option<&Status> {
        self.node_answer().map(|answer| &answer.status)
    }

    /// Everything that its node answered, if it did.
    pub fn node_answer(&self) -> Option<&NodeAnswer> {
        match &self.node {
            NodeSeen::Answered(answer) => Some(answer),
            NodeSeen::Unasked | NodeSeen::Silent(_) => None,
        }
    }
}

/// What a node said when it was asked.
#[derive(Debug, Clone)]
pub enum NodeSeen {
    /// It was not asked: no address yet, or its container does not run.
    Unasked,
    /// It did not answer; why.
    Silent(String),
    /// It answered.
    Answered(Box<NodeAnswer>),
}

/// The answer of a node.
#[derive(Debug, Clone)]
pub struct NodeAnswer {
    /// `GET /v1/status`.
    pub status: Status,
    /// `GET /v1/operations/{id}` with the id in the journal.
    pub operation: OperationSeen,
    /// `GET /v1/repair` while a repair is in the journal; none where the node has no such answer.
    pub repair: Option<Box<RepairStatus>>,
}

/// What a node knows about the operation in the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum OperationSeen {
    /// There is none in the journal, or it is not one that is posted to nodes.
    Unasked,
    /// The document does not hold it. It keeps the last 64 that are over, so this never means that
    /// it did not happen.
    Unknown,
    /// The document holds it.
    Known(Box<OperationStatus>),
    /// The node answered with another problem, or not at all.
    Failed(String),
}

/// The claim of a node's volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version, for preconditions.
    pub resource_version: String,
    /// Its rack.
    pub rack: String,
    /// The number of the pod that it belongs to.
    pub ordinal: i32,
    /// The size that it asks for.
    pub requested: Quantity,
    /// The size that it has, once it is bound.
    pub capacity: Option<Quantity>,
    /// Whether it is deleted together with this `KVCluster` (an owner reference by UID).
    pub owned: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What the operator knows about the place it runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The namespace of the operator itself: its pods are let to the admin port.
    pub operator_namespace: String,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What was tried, in words.
    pub step: String,
    /// What kind of failure: see `apply`.
    pub reason: String,
    /// What happened, and what to do.
    pub message: String,
    /// The answer of a node, where one refused.
    pub problem: Option<Box<Problem>>,
}
