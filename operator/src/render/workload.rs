//! The StatefulSet of a rack.
//!
//! It is `OnDelete` and `Parallel`: Kubernetes makes pods, the operator alone decides when one is
//! replaced, so a template that does not start never costs more than one pod. Claims are kept by
//! the StatefulSet in every case; the operator deletes them, by UID.

use serde_json::{Value, json};

use super::{config, hash, names, object, overlay, racks};
use crate::crd::{KVCluster, Rack};

/// Where the volume is mounted.
const DATA_DIR: &str = "/var/lib/kvasir";
/// Where the configuration file is mounted.
const CONFIG_DIR: &str = "/etc/kvasir/config";
/// Where the admin token is mounted.
const ADMIN_DIR: &str = "/etc/kvasir/admin";
/// User and group of the node.
const USER: i64 = 65532;
/// Seconds between the end of a node's own grace and that of its pod.
const MARGIN: i64 = 4;
/// Seconds in which Services take note that a node stops, while it serves as before.
const NOTICE: i64 = 5;

/// Where other nodes reach a pod's node (`host:port`).
pub fn peer_address(cluster: &KVCluster, pod: &str) -> String {
    format!("{pod}.{}:{}", peers_domain(cluster), names::PEER)
}

fn peers_domain(cluster: &KVCluster) -> String {
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or("default");
    format!("{}.{namespace}.svc", names::peers(cluster))
}

/// The StatefulSet of a rack with this many pods. `live` is the one that is there: its claim
/// template cannot be changed, so it is kept; volumes grow one by one.
pub fn stateful_set(
    cluster: &KVCluster,
    rack: &Rack,
    replicas: i32,
    live: Option<&Value>,
) -> Value {
    let selector = json!({names::CLUSTER: names::cluster(cluster), names::RACK: rack.name});
    let mut set = object(cluster, "apps/v1", "StatefulSet", &names::set(cluster, &rack.name));
    set["metadata"]["labels"][names::RACK] = json!(rack.name);
    set["spec"] = json!({
        "replicas": replicas,
        "serviceName": names::peers(cluster),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector},
        "template": template(cluster, rack),
        "volumeClaimTemplates": [claim(cluster, rack, live)],
    });
    set
}

fn claim(cluster: &KVCluster, rack: &Rack, live: Option<&Value>) -> Value {
    let created_with =
        live.map(|set| &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]);
    let size = created_with
        .and_then(|requests| requests["storage"].as_str())
        .unwrap_or(&cluster.spec.storage.size.0);
    let mut claim = json!({
        "metadata": {
            "name": names::DATA,
            "labels": {names::CLUSTER: names::cluster(cluster), names::RACK: rack.name},
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        },
    });
    if let Some(class) = &cluster.spec.storage.storage_class_name {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

fn template(cluster: &KVCluster, rack: &Rack) -> Value {
    let mut labels = names::labels(cluster);
    labels.insert(names::RACK.to_owned(), json!(rack.name));
    labels.insert(names::DATACENTER.to_owned(), json!(rack.datacenter));
    let mut template = json!({
        "metadata": {
            "labels": labels,
            "annotations": {names::INPUTS: hash::inputs(&cluster.spec, rack)},
        },
        "spec": pod(cluster, rack),
    });
    overlay::overlay(&mut template, &Value::Object(cluster.spec.pod_template.clone()));
    template
}

fn pod(cluster: &KVCluster, rack: &Rack) -> Value {
    let spec = &cluster.spec;
    let mut node_selector = json!(rack.node_selector);
    if !rack.zone.is_empty() {
        node_selector[racks::ZONE_LABEL] = json!(rack.zone);
    }
    json!({
        "serviceAccountName": names::cluster(cluster),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
        "imagePullSecrets": spec.image_pull_secrets,
        "nodeSelector": node_selector,
        "affinity": affinity(cluster, rack),
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": racks::ZONE_LABEL,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names::selector(cluster)},
        }],
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(cluster, rack)],
        "volumes": [
            {"name": "config", "configMap": {"name": config::name(cluster)}},
            {"name": "admin", "secret": {"secretName": names::token_secret(cluster)}},
        ],
    })
}

/// Two nodes never share a worker, unless the spec takes that. Then those of one data center keep apart first: each
/// of its copies needs a worker of its own, while copies of different data centers may share one.
fn affinity(cluster: &KVCluster, rack: &Rack) -> Value {
    let apart = |labels: Value| {
        json!({
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": labels},
        })
    };
    let all = json!(names::selector(cluster));
    let rule = if cluster.spec.topology.allow_multiple_nodes_per_worker {
        let mut near = all.clone();
        near[names::DATACENTER] = json!(rack.datacenter);
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": apart(near)},
            {"weight": 50, "podAffinityTerm": apart(all)},
        ]})
    } else {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [apart(all)]})
    };
    json!({"podAntiAffinity": rule})
}

fn container(cluster: &KVCluster, rack: &Rack) -> Value {
    let spec = &cluster.spec;
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "admin"},
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    json!({
        "name": names::CONTAINER,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "args": ["serve", "--config", format!("{CONFIG_DIR}/{}", config::FILE)],
        "env": environment(cluster, rack),
        "ports": [
            {"name": "http", "containerPort": names::HTTP, "protocol": "TCP"},
            {"name": "peer", "containerPort": names::PEER, "protocol": "TCP"},
            {"name": "admin", "containerPort": names::ADMIN, "protocol": "TCP"},
        ],
        // Recovery reads the log before the port opens: up to an hour of it.
        "startupProbe": probe("/startupz", 2, 1800),
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 2, 2),
        "resources": spec.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": names::DATA, "mountPath": DATA_DIR},
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": true},
            {"name": "admin", "mountPath": ADMIN_DIR, "readOnly": true},
        ],
    })
}

/// What the operator sets itself; it wins over the file. `check` refuses the same settings there.
fn environment(cluster: &KVCluster, rack: &Rack) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let set = |name: &str, value: String| json!({"name": name, "value": value});
    let whole = (cluster.spec.termination_grace_period_seconds - MARGIN).max(1);
    let notice = NOTICE.min(whole / 3);
    let grace = whole - notice;
    json!([
        field("POD_NAME", "metadata.name"),
        field("KVASIR_NODE__MACHINE", "spec.nodeName"),
        set("KVASIR_NODE__DATA_DIR", DATA_DIR.to_owned()),
        set("KVASIR_NODE__ADVERTISE", format!("$(POD_NAME).{}", peers_domain(cluster))),
        set("KVASIR_NODE__SEEDS", format!("{}:{}", peers_domain(cluster), names::PEER)),
        set("KVASIR_NODE__RACK", rack.name.clone()),
        set(racks::ZONE, rack.zone.clone()),
        set(racks::DATACENTER, rack.datacenter.clone()),
        set("KVASIR_NODE__DRAIN_DELAY", format!("{notice}s")),
        set("KVASIR_NODE__GRACE", format!("{grace}s")),
        set("KVASIR_HTTP__LISTEN", format!("0.0.0.0:{}", names::HTTP)),
        set("KVASIR_PEER__LISTEN", format!("0.0.0.0:{}", names::PEER)),
        set("KVASIR_ADMIN__LISTEN", format!("0.0.0.0:{}", names::ADMIN)),
        set("KVASIR_ADMIN__TOKEN_FILE", format!("{ADMIN_DIR}/{}", names::TOKEN)),
    ])
}
