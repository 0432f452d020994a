//! From the spec to Kubernetes objects: pure, and the same bytes for the same input.
//!
//! Objects are JSON values, since what is sent by server-side apply is exactly what is meant:
//! a typed struct would carry fields that nobody asked for. Everything that the operator makes
//! carries the labels of [`names`], an owner reference to the `KVCluster` (volumes only if they go
//! with it) and a hash of itself, by which [`compare`] sees what was changed since.

pub mod check;
pub mod compare;
mod config;
mod guards;
mod hash;
pub mod names;
mod network;
mod overlay;
pub mod racks;
mod workload;

use std::collections::BTreeMap;

use kube::Resource;
use serde_json::{Value, json};

pub use hash::inputs;
pub use workload::peer_address;

use crate::crd::{KVCluster, Rack};
use crate::snapshot::{ObjectName, Surroundings};

/// What objects are made from.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The resource.
    pub cluster: &'a KVCluster,
    /// The racks that have a StatefulSet, with its pods: the planner decides.
    pub racks: &'a [(Rack, i32)],
    /// Objects that are there. A StatefulSet keeps the claim template it was created with, since
    /// that cannot be changed.
    pub live: &'a BTreeMap<ObjectName, Value>,
    /// Where the operator runs.
    pub surroundings: &'a Surroundings,
}

/// Every object that should be there, in the order in which they are made. Not among them: the
/// Secret, see [`token_secret`].
pub fn objects(wanted: Wanted) -> Vec<Value> {
    let cluster = wanted.cluster;
    let mut all = vec![
        guards::service_account(cluster),
        config::config_map(cluster),
        network::peers(cluster),
        network::clients(cluster),
    ];
    all.extend(network::policy(cluster, wanted.surroundings));
    all.extend(guards::disruption_budget(cluster));
    for (rack, replicas) in wanted.racks {
        let name = ObjectName::new("StatefulSet", names::set(cluster, &rack.name));
        all.push(workload::stateful_set(cluster, rack, *replicas, wanted.live.get(&name)));
    }
    all.extend(guards::pod_monitor(cluster));
    for object in &mut all {
        hash::sign(object);
    }
    all
}

/// The Secret with the admin token, without the token: whoever creates it draws one.
pub fn token_secret(cluster: &KVCluster) -> Value {
    let mut secret = object(cluster, "v1", "Secret", &names::token_secret(cluster));
    secret["type"] = json!("Opaque");
    secret
}

/// Name of the ConfigMap that pods should mount. Others of this cluster may go once no pod mounts
/// them.
pub fn config_map_name(cluster: &KVCluster) -> String {
    config::name(cluster)
}

/// Kinds that the operator makes; nothing of another kind is ever touched.
pub const KINDS: [(&str, &str); 9] = [
    ("v1", "ServiceAccount"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "StatefulSet"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("v1", "PersistentVolumeClaim"),
];

fn object(cluster: &KVCluster, api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": cluster.metadata.namespace.as_deref().unwrap_or("default"),
            "labels": names::labels(cluster),
            "ownerReferences": [owner(cluster)],
        },
    })
}

/// The owner reference to the resource, by UID. It does not block the deletion of the resource: that
/// would take one right more where owner references are guarded.
pub fn owner(cluster: &KVCluster) -> Value {
    json!({
        "apiVersion": KVCluster::api_version(&()),
        "kind": KVCluster::kind(&()),
        "name": names::cluster(cluster),
        "uid": cluster.metadata.uid.as_deref().unwrap_or_default(),
        "controller": true,
        "blockOwnerDeletion": false,
    })
}

#[cfg(test)]
mod tests;
