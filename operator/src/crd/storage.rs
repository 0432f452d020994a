//! The volumes of the nodes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The volume of each node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(concat!(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && ",
        "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)"
    ))
    .message("storageClassName cannot change: volumes do not move between classes; create another KVCluster"))]
pub struct Storage {
    /// Size of each volume. It may grow, where the storage class lets volumes grow.
    #[schemars(schema_with = "schema::quantity")]
    #[x_kube(validation = Rule::new(
            "quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0")
        .message("storage.size cannot shrink: a volume never gets smaller"))]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity('64Mi')) >= 0")
        .message("storage.size is at least 64Mi"))]
    pub size: Quantity,
    /// Class of the volumes; when absent, the default of the Kubernetes cluster. It cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of volumes that no node uses any more.
    #[serde(default)]
    pub retention: Retention,
}

/// What becomes of volumes that no node uses any more.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// After a node left the cluster: Delete only once the cluster document no longer names it.
    #[serde(default)]
    pub when_scaled: Keep,
    /// After the KVCluster was deleted. A new KVCluster of the same name finds kept data again.
    #[serde(default)]
    pub when_deleted: Keep,
}

/// Keep a volume or not.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Keep it.
    #[default]
    Retain,
    /// Delete it with its data.
    Delete,
}
