//! What concerns the pods and the objects around them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schema;

/// An object that is kept as it was given.
pub type FreeForm = Map<String, Value>;

/// When the image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// If the worker does not have it.
    #[default]
    IfNotPresent,
    /// At every start.
    Always,
    /// Not at all.
    Never,
}

/// The name of a Secret in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// CPU and memory of the node container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default = "default_requests")]
    #[schemars(schema_with = "schema::amounts")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most. A memory limit must leave room for the caches in `config`.
    #[serde(default = "default_limits")]
    #[schemars(schema_with = "schema::amounts")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { requests: default_requests(), limits: default_limits() }
    }
}

fn default_requests() -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity("250m".to_owned())),
        ("memory".to_owned(), Quantity("512Mi".to_owned())),
    ])
}

fn default_limits() -> BTreeMap<String, Quantity> {
    BTreeMap::from([("memory".to_owned(), Quantity("1Gi".to_owned()))])
}

/// How pods are replaced when their template changes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Who replaces them.
    #[serde(default, rename = "type")]
    pub kind: UpdateType,
    /// Seconds that a replaced node must be ready before the next one goes.
    #[serde(default = "default_min_ready")]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: i32,
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self { kind: UpdateType::default(), min_ready_seconds: default_min_ready() }
    }
}

fn default_min_ready() -> i32 {
    10
}

/// Seconds a node gets to stop.
pub fn default_grace() -> i64 {
    60
}

/// Who replaces pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateType {
    /// The operator: one at a time, and only while the ring is healthy.
    #[default]
    RollingUpdate,
    /// Whoever deletes a pod.
    OnDelete,
}

/// Objects for Prometheus.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Make a PodMonitor; needs the CRDs of the Prometheus operator.
    #[serde(default)]
    pub pod_monitor: bool,
    /// How often it scrapes.
    #[serde(default = "default_interval")]
    #[schemars(length(max = 16), pattern("^[0-9]+(ms|s|m|h)$"))]
    pub interval: String,
    /// Labels of the PodMonitor, by which a Prometheus chooses it.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub labels: BTreeMap<String, String>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { pod_monitor: false, interval: default_interval(), labels: BTreeMap::new() }
    }
}

fn default_interval() -> String {
    "30s".to_owned()
}

/// Which traffic reaches the nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Make a NetworkPolicy: peers among themselves, clients to the client port, the operator and
    /// metrics to the admin port.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: true }
    }
}

fn enabled() -> bool {
    true
}
