//! Hashes of what was asked for and of what was made from it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::names;
use crate::crd::{KVClusterSpec, Rack};

/// Hash of what a person asked for in the pods of a rack. A pod whose annotation says the same
/// runs what is wanted, whatever a newer operator would render: so an upgrade of the operator
/// restarts nothing. A field that a later version adds enters the hash only when it is set.
pub fn inputs(spec: &KVClusterSpec, rack: &Rack) -> String {
    let asked = json!({
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "imagePullSecrets": spec.image_pull_secrets,
        "resources": spec.resources,
        "config": spec.config,
        "podTemplate": spec.pod_template,
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
        "allowMultipleNodesPerWorker": spec.topology.allow_multiple_nodes_per_worker,
        "nodeSelector": rack.node_selector,
    });
    of(&asked)
}

/// Puts the hash of an object into its annotations.
pub fn sign(object: &mut Value) {
    let hash = of(object);
    object["metadata"]["annotations"][names::RENDERED] = Value::String(hash);
}

/// First 16 hexadecimal digits of the SHA-256 of the canonical text: keys in order.
pub fn of(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(&fields[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}
