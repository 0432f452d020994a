//! The nodes' configuration file: what the spec says, as it stands there.
//!
//! The name of the ConfigMap holds the hash of its contents, so a pod keeps the settings that it
//! was made with: a new configuration reaches a node only through the rollout, one at a time. What
//! the operator sets itself goes into the environment, which wins over the file.

use serde_json::{Value, json};

use super::{hash, names, object};
use crate::crd::KVCluster;

/// Name of the file.
pub const FILE: &str = "kvasir.yaml";

/// Name of the ConfigMap with the configuration of the spec.
pub fn name(cluster: &KVCluster) -> String {
    let config = Value::Object(cluster.spec.config.clone());
    format!("{}-config-{}", names::cluster(cluster), &hash::of(&config)[..10])
}

/// The ConfigMap.
pub fn config_map(cluster: &KVCluster) -> Value {
    let config = &cluster.spec.config;
    let text = if config.is_empty() {
        "{}\n".to_owned()
    } else {
        // A JSON value always has a YAML form; JSON itself is one.
        serde_yaml::to_string(config).unwrap_or_else(|_| Value::Object(config.clone()).to_string())
    };
    let mut map = object(cluster, "v1", "ConfigMap", &name(cluster));
    map["data"] = json!({FILE: text});
    map
}
