//! Names, labels and ports that everything shares.
//!
//! Longest: a cluster has 40 characters, a rack 11, so a StatefulSet has at most 52: with the
//! revision hash that Kubernetes appends, 63 hold as the value of a label.

use serde_json::{Map, Value, json};

use crate::crd::KVCluster;

/// Label: the name of the `KVCluster`. The selector of everything.
pub const CLUSTER: &str = "kvasir.dev/cluster";
/// Label: the rack.
pub const RACK: &str = "kvasir.dev/rack";
/// Label of a pod: the data center. Selects the nodes that clients of one data center speak to.
pub const DATACENTER: &str = "kvasir.dev/datacenter";
/// Annotation of a pod: hash of what a person asked for in its template.
pub const INPUTS: &str = "kvasir.dev/inputs";
/// Annotation of every object: hash of itself as it was rendered.
pub const RENDERED: &str = "kvasir.dev/rendered";
/// Label value `app.kubernetes.io/name` of the operator's own pods.
pub const OPERATOR: &str = "kvasir-operator";
/// The field manager of everything that is applied.
pub const MANAGER: &str = "kvasir-operator";

/// Port of the client API.
pub const HTTP: u16 = 8098;
/// Port between nodes.
pub const PEER: u16 = 8099;
/// Port of the admin API.
pub const ADMIN: u16 = 9098;

/// Name of the container of the node.
pub const CONTAINER: &str = "kvasir";
/// Name of the claim template, the first part of every claim's name.
pub const DATA: &str = "data";

/// The name of the `KVCluster`: that of its client Service, budget and policy too.
pub fn cluster(cluster: &KVCluster) -> &str {
    cluster.metadata.name.as_deref().unwrap_or_default()
}

/// The StatefulSet of a rack.
pub fn set(owner: &KVCluster, rack: &str) -> String {
    format!("{}-{rack}", cluster(owner))
}

/// A pod of a rack.
pub fn pod(owner: &KVCluster, rack: &str, ordinal: i32) -> String {
    format!("{}-{ordinal}", set(owner, rack))
}

/// The claim of a pod.
pub fn volume(pod: &str) -> String {
    format!("{DATA}-{pod}")
}

/// The headless Service that gives every pod a name.
pub fn peers(owner: &KVCluster) -> String {
    format!("{}-peers", cluster(owner))
}

/// The Secret with the admin token.
pub fn token_secret(owner: &KVCluster) -> String {
    format!("{}-admin", cluster(owner))
}

/// Key of the token in the Secret, and the file that it is mounted as.
pub const TOKEN: &str = "token";

/// Labels of every object.
pub fn labels(owner: &KVCluster) -> Map<String, Value> {
    let labels = json!({
        CLUSTER: cluster(owner),
        "app.kubernetes.io/name": "kvasir",
        "app.kubernetes.io/instance": cluster(owner),
        "app.kubernetes.io/managed-by": OPERATOR,
    });
    match labels {
        Value::Object(labels) => labels,
        _ => Map::new(),
    }
}

/// Labels that select the pods of the cluster.
pub fn selector(owner: &KVCluster) -> Value {
    json!({CLUSTER: cluster(owner)})
}

/// The same as text, as `status.selector` has it.
pub fn selector_text(owner: &KVCluster) -> String {
    format!("{CLUSTER}={}", cluster(owner))
}
