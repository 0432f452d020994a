//! What is read off a pod and a claim, from objects as the API server gives them.

use serde_json::{Value, json};

use super::*;

fn pod(status: Value) -> PodSeen {
    let pod = serde_json::from_value(json!({
        "metadata": {
            "name": "demo-r1-12", "namespace": "prod", "uid": "p-1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {names::CLUSTER: "demo", names::RACK: "r1"},
            "annotations": {names::INPUTS: "abc"},
        },
        "spec": {
            "nodeName": "w1",
            "containers": [{"name": "kvasir"}],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-demo-r1-12"}},
                {"name": "config", "configMap": {"name": "demo-config-1"}},
            ],
        },
        "status": status,
    }))
    .unwrap();
    of_pod(&pod, "2026-01-01T00:01:00Z".parse().unwrap())
}

fn state(state: Value) -> Value {
    json!({"podIP": "10.0.0.7", "containerStatuses": [
        {"name": "side", "state": {"running": {}}, "ready": true, "restartCount": 0, "image": "", "imageID": ""},
        {"name": "kvasir", "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": ""},
    ]})
}

#[test]
fn a_running_pod_is_read_with_its_identities() {
    let mut status = state(json!({"running": {"startedAt": "2026-01-01T00:00:10Z"}}));
    status["conditions"] = json!([
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:20Z"},
    ]);
    let seen = pod(status);
    assert_eq!((seen.rack.as_str(), seen.ordinal, seen.uid.as_str()), ("r1", 12, "p-1"));
    assert_eq!((seen.age.as_secs(), seen.ready_for.unwrap().as_secs()), (60, 40));
    assert!(seen.running && !seen.deleting && seen.trouble.is_none());
    assert_eq!(
        (seen.volume.as_str(), seen.config_map.as_str()),
        ("data-demo-r1-12", "demo-config-1")
    );
    assert_eq!((seen.inputs.as_str(), seen.worker.as_str()), ("abc", "w1"));
    assert_eq!(seen.ip.as_deref(), Some("10.0.0.7"));
}

#[test]
fn trouble_is_told_and_mere_waiting_is_not() {
    let waiting = |reason: &str| pod(state(json!({"waiting": {"reason": reason}}))).trouble;
    assert_eq!(waiting("ContainerCreating"), None);
    assert_eq!(waiting("ImagePullBackOff").as_deref(), Some("ImagePullBackOff"));
    let ended = state(json!({"terminated": {"exitCode": 65, "reason": "Error"}}));
    assert_eq!(pod(ended).trouble.as_deref(), Some("Error (exit code 65)"));
    let homeless = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
    ]});
    let seen = pod(homeless);
    assert_eq!(seen.trouble.as_deref(), Some("Unschedulable"));
    assert!(!seen.running && seen.ready_for.is_none() && seen.ip.is_none());
    assert_eq!(pod(json!({})).trouble, None);
}

#[test]
fn a_claim_is_owned_only_by_this_very_cluster() {
    let cluster = |uid: &str| -> KVCluster {
        serde_json::from_value(json!({
            "apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster",
            "metadata": {"name": "demo", "namespace": "prod", "uid": uid},
            "spec": {"nodes": 3, "clusterName": "d", "image": "i", "storage": {"size": "1Gi"}},
        }))
        .unwrap()
    };
    let claim = serde_json::from_value(json!({
        "metadata": {
            "name": "data-demo-r1-3", "uid": "c-1", "resourceVersion": "9",
            "labels": {names::RACK: "r1"},
            "ownerReferences": [
                {"apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster", "name": "demo", "uid": "u-1"},
            ],
        },
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        "status": {"capacity": {"storage": "2Gi"}},
    }))
    .unwrap();
    let seen = volume(&cluster("u-1"), &claim);
    assert!(seen.owned && !seen.deleting);
    assert_eq!((seen.ordinal, seen.requested.0.as_str()), (3, "1Gi"));
    assert_eq!(seen.capacity.unwrap().0, "2Gi");
    assert!(!volume(&cluster("u-2"), &claim).owned);
}
