//! Services and who may speak to whom.

use serde_json::{Value, json};

use super::{names, object};
use crate::crd::KVCluster;
use crate::snapshot::Surroundings;

/// The headless Service: a name for every pod, also while it is not ready, since nodes must find
/// each other before they form a cluster.
pub fn peers(cluster: &KVCluster) -> Value {
    let mut service = object(cluster, "v1", "Service", &names::peers(cluster));
    service["spec"] = json!({
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": names::selector(cluster),
        "ports": [
            {"name": "peer", "port": names::PEER, "targetPort": "peer", "protocol": "TCP"},
            {"name": "admin", "port": names::ADMIN, "targetPort": "admin", "protocol": "TCP"},
        ],
    });
    service
}

/// The Service for clients: ready nodes only.
pub fn clients(cluster: &KVCluster) -> Value {
    let mut service = object(cluster, "v1", "Service", names::cluster(cluster));
    service["spec"] = json!({
        "type": "ClusterIP",
        "selector": names::selector(cluster),
        "ports": [{
            "name": "http", "port": names::HTTP, "targetPort": "http", "protocol": "TCP",
            "appProtocol": "http",
        }],
    });
    service
}

/// The NetworkPolicy, if it is wanted. Probes come from the worker and are not covered by policies.
pub fn policy(cluster: &KVCluster, surroundings: &Surroundings) -> Option<Value> {
    if !cluster.spec.network_policy.enabled {
        return None;
    }
    let port = |port: u16| json!([{"port": port, "protocol": "TCP"}]);
    let mut admin = vec![json!({
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": surroundings.operator_namespace},
        },
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": names::OPERATOR}},
    })];
    if cluster.spec.monitoring.pod_monitor {
        // Where Prometheus runs is not known; whatever changes something there needs the token.
        admin.push(json!({"namespaceSelector": {}}));
    }
    let peers = json!([{"podSelector": {"matchLabels": names::selector(cluster)}}]);
    let mut policy =
        object(cluster, "networking.k8s.io/v1", "NetworkPolicy", names::cluster(cluster));
    policy["spec"] = json!({
        "podSelector": {"matchLabels": names::selector(cluster)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": port(names::HTTP)},
            {"from": peers, "ports": port(names::PEER)},
            {"from": admin, "ports": port(names::ADMIN)},
        ],
    });
    Some(policy)
}
