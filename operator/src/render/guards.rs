//! Small objects around the pods: the account without rights, the disruption budget, the
//! PodMonitor.

use serde_json::{Value, json};

use super::{names, object};
use crate::crd::KVCluster;

/// The account of the pods: it has no rights and its token is not mounted.
pub fn service_account(cluster: &KVCluster) -> Value {
    let mut account = object(cluster, "v1", "ServiceAccount", names::cluster(cluster));
    account["automountServiceAccountToken"] = json!(false);
    account
}

/// At most one node may be taken away on purpose at a time. A cluster of one node has no budget,
/// which would only block its worker's drain for good. A node that does not serve may always go.
pub fn disruption_budget(cluster: &KVCluster) -> Option<Value> {
    if cluster.spec.nodes < 2 {
        return None;
    }
    let mut budget = object(cluster, "policy/v1", "PodDisruptionBudget", names::cluster(cluster));
    budget["spec"] = json!({
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": names::selector(cluster)},
    });
    Some(budget)
}

/// The PodMonitor, if it is wanted.
pub fn pod_monitor(cluster: &KVCluster) -> Option<Value> {
    let monitoring = &cluster.spec.monitoring;
    if !monitoring.pod_monitor {
        return None;
    }
    let mut monitor =
        object(cluster, "monitoring.coreos.com/v1", "PodMonitor", names::cluster(cluster));
    for (key, value) in &monitoring.labels {
        monitor["metadata"]["labels"][key] = json!(value);
    }
    monitor["spec"] = json!({
        "selector": {"matchLabels": names::selector(cluster)},
        // The alerts and dashboards of the chart tell clusters apart by it.
        "podTargetLabels": [names::CLUSTER],
        "podMetricsEndpoints": [
            {"port": "admin", "path": "/metrics", "interval": monitoring.interval},
        ],
    });
    Some(monitor)
}
