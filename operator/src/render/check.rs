//! What the API server cannot check: the free-form parts, and counts per data center.
//!
//! A spec that fails here sets `Valid=False` with these messages, and nothing is changed.

use kvasir_core::quorum::LevelError;
use serde_json::Value;

use super::{names, racks};
use crate::crd::KVClusterSpec;

/// Why a spec cannot be carried out. Nothing was changed; the message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A data center has fewer nodes than copies.
    #[error(
        "data center {datacenter} gets {nodes} of the nodes and needs {factor} for its copies: \
         raise spec.nodes or give it more racks"
    )]
    TooFewNodes {
        /// Which.
        datacenter: String,
        /// Nodes that it gets.
        nodes: i32,
        /// Copies that it holds.
        factor: i32,
    },
    /// A level that is none.
    #[error("spec.replication.{field}: {why}")]
    BadLevel {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: LevelError,
    },
    /// A section of `config` is not one.
    #[error("spec.config.{0} must be a section of settings: see `kvasir config example`")]
    NoSection(String),
    /// A setting that the operator makes itself.
    #[error("spec.config.{0} is set by the operator: remove it")]
    ReservedSetting(String),
    /// A part of the pod that the operator needs for itself.
    #[error("spec.podTemplate.{0} is used by the operator and cannot be replaced: remove it")]
    ReservedPart(String),
    /// Something in `podTemplate` that is not what a pod template has there.
    #[error(
        "spec.podTemplate.{0} is not known: it takes metadata.labels, metadata.annotations and spec"
    )]
    UnknownPart(String),
}

impl Invalid {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooFewNodes { .. } => "TooFewNodes",
            Self::BadLevel { .. } => "BadLevel",
            Self::NoSection(_) => "BadConfig",
            Self::ReservedSetting(_) => "ReservedSetting",
            Self::ReservedPart(_) => "ReservedPodTemplate",
            Self::UnknownPart(_) => "UnknownPodTemplate",
        }
    }
}

/// Settings that the environment of the container holds.
const SETTINGS: [(&str, &[&str]); 4] = [
    (
        "node",
        &[
            "data_dir",
            "seeds",
            "advertise",
            "machine",
            "rack",
            "zone",
            "datacenter",
            "drain_delay",
            "grace",
        ],
    ),
    ("http", &["listen"]),
    ("peer", &["listen"]),
    ("admin", &["listen", "token_file"]),
];

/// Fields of a pod's spec that cannot be replaced.
const POD: [&str; 14] = [
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "ephemeralContainers",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "nodeName",
    "restartPolicy",
    "serviceAccount",
    "serviceAccountName",
    "subdomain",
    "terminationGracePeriodSeconds",
];

/// Fields of the node's container that may be given.
const CONTAINER: [&str; 4] = ["name", "env", "envFrom", "volumeMounts"];

/// Names of the volumes that the operator makes.
const VOLUMES: [&str; 3] = [names::DATA, "config", "admin"];

/// Everything that is wrong with a spec that the API server took.
pub fn check(spec: &KVClusterSpec) -> Vec<Invalid> {
    let mut found = counts(spec);
    let replication = &spec.replication;
    for (field, level) in
        [("readQuorum", replication.read_level()), ("writeQuorum", replication.write_level())]
    {
        found.extend(level.err().map(|why| Invalid::BadLevel { field, why }));
    }
    settings(spec, &mut found);
    let template = &spec.pod_template;
    for (part, value) in template {
        match part.as_str() {
            "metadata" => metadata(value, &mut found),
            "spec" => pod(value, &mut found),
            other => found.push(Invalid::UnknownPart(other.to_owned())),
        }
    }
    found
}

fn counts(spec: &KVClusterSpec) -> Vec<Invalid> {
    let spread = racks::spread(spec, &Default::default());
    let nodes = racks::by_datacenter(spec, &spread);
    let short = |datacenter: &str, factor: i32| {
        let nodes = nodes.get(datacenter).copied().unwrap_or(0);
        let datacenter = datacenter.to_owned();
        (nodes < factor).then_some(Invalid::TooFewNodes { datacenter, nodes, factor })
    };
    let factors = spec.replication.factors.iter();
    factors.filter_map(|factor| short(&factor.datacenter, factor.factor)).collect()
}

fn settings(spec: &KVClusterSpec, found: &mut Vec<Invalid>) {
    for (section, value) in &spec.config {
        let Some(settings) = value.as_object() else {
            found.push(Invalid::NoSection(section.clone()));
            continue;
        };
        let reserved = SETTINGS.iter().find(|(name, _)| name == section);
        for key in reserved.map_or(&[][..], |(_, keys)| keys) {
            if settings.contains_key(*key) {
                found.push(Invalid::ReservedSetting(format!("{section}.{key}")));
            }
        }
    }
}

fn metadata(value: &Value, found: &mut Vec<Invalid>) {
    for (part, entries) in value.as_object().into_iter().flatten() {
        if part != "labels" && part != "annotations" {
            found.push(Invalid::UnknownPart(format!("metadata.{part}")));
            continue;
        }
        for name in entries.as_object().into_iter().flat_map(|entries| entries.keys()) {
            let ours = name.starts_with("kvasir.dev/")
                || ["name", "instance", "managed-by"]
                    .iter()
                    .any(|last| *name == format!("app.kubernetes.io/{last}"));
            if ours {
                found.push(Invalid::ReservedPart(format!("metadata.{part}[{name}]")));
            }
        }
    }
}

fn pod(value: &Value, found: &mut Vec<Invalid>) {
    for field in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if POD.contains(&field.as_str()) {
            found.push(Invalid::ReservedPart(format!("spec.{field}")));
        }
    }
    for volume in list(&value["volumes"]) {
        let name = volume["name"].as_str().unwrap_or_default();
        if VOLUMES.contains(&name) {
            found.push(Invalid::ReservedPart(format!("spec.volumes[{name}]")));
        }
    }
    for container in list(&value["containers"]) {
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            found.push(Invalid::UnknownPart("spec.containers without a name".to_owned()));
        }
        if name == names::CONTAINER {
            node_container(container, found);
        }
    }
}

fn node_container(container: &Value, found: &mut Vec<Invalid>) {
    let place = |part: &str| format!("spec.containers[{}].{part}", names::CONTAINER);
    for field in container.as_object().into_iter().flat_map(|fields| fields.keys()) {
        if !CONTAINER.contains(&field.as_str()) {
            found.push(Invalid::ReservedPart(place(field)));
        }
    }
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str().unwrap_or_default();
        // Settings go through spec.config, where they are seen.
        if name == "POD_NAME" || name.starts_with("KVASIR_") {
            found.push(Invalid::ReservedPart(place(&format!("env[{name}]"))));
        }
    }
    for mount in list(&container["volumeMounts"]) {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if path.starts_with("/etc/kvasir") || path.starts_with("/var/lib/kvasir") {
            found.push(Invalid::ReservedPart(place(&format!("volumeMounts[{path}]"))));
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
