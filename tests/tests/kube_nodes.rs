//! Nodes on a real Kubernetes without the operator: pods, Services, volumes and names are enough to form a
//! cluster, serve it and keep it through lost pods. What fails here is the node's, not the operator's.

use std::time::Duration;

use kvasir_tests::kube::{Forward, LoadPod, Scenario, kubectl, replicas_agree, top, until};
use serde_json::json;

/// Bearer token of the admin API in this scenario.
const TOKEN: &str = "a-token-of-the-test";

fn formed(scenario: &Scenario) {
    for pod in ["ring-0", "ring-1", "ring-2"] {
        // Not ready before the cluster is formed, by design: it runs and has started.
        until(&format!("{pod} has started"), Duration::from_secs(120), || {
            let pod = scenario.get("pod", pod).ok_or("there is no such pod")?;
            let started = pod["status"]["containerStatuses"][0]["started"] == true;
            if started { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }
    let admin = Forward::to(&scenario.namespace, "pod/ring-0", 9098);
    let peer = |i: u32| format!("ring-{i}.ring.{}.svc.cluster.local:8099", scenario.namespace);
    let init = json!({
        "clusterName": "ring", "replication": {"dc1": 3}, "nodes": [peer(0), peer(1), peer(2)],
    })
    .to_string();
    let bearer = format!("Authorization: Bearer {TOKEN}");
    until("the cluster is formed", Duration::from_secs(60), || {
        let said = admin.curl("/v1/cluster/init", &["-X", "POST", "-H", &bearer, "-d", &init]);
        if said.ok { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    });
    for pod in ["ring-0", "ring-1", "ring-2"] {
        scenario.until_ready(pod, Duration::from_secs(60));
    }
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn three_pods_form_a_cluster_and_keep_what_they_acknowledged() {
    let scenario = Scenario::new("kvasir-nodes");
    scenario.apply_value(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ring-token"},
        "stringData": {"token": TOKEN},
    }));
    let manifest = std::fs::read_to_string(top().join("tests/kube/nodes.yaml"));
    scenario.apply(&manifest.expect("tests/kube/nodes.yaml is there"));
    formed(&scenario);

    let client = Forward::to(&scenario.namespace, "service/ring-client", 8098);
    let put = client.curl("/v1/kv/default/cart", &["-X", "PUT", "-d", "milk"]);
    assert!(put.ok, "{put:?}");
    assert_eq!(client.curl("/v1/kv/default/cart", &[]).out, "milk");
    drop(client);

    let service = format!("ring-client.{}.svc.cluster.local:8098", scenario.namespace);
    let load = LoadPod::start(&scenario, &service, 2_000, &["--strict"]);
    // Without warning, then with one: both come back as the same member with a new address.
    for (pod, grace) in [("ring-0", "0"), ("ring-1", "20")] {
        let before = scenario.get("pod", pod).expect("it runs");
        let machine = before["spec"]["nodeName"].clone();
        scenario.kubectl(&["delete", "pod", pod, "--grace-period", grace]);
        load.goes_on(300);
        until("the pod is made anew", Duration::from_secs(60), || {
            let after = scenario.get("pod", pod).ok_or("there is no such pod")?;
            let other = after["metadata"]["uid"] != before["metadata"]["uid"];
            if other { Ok(()) } else { Err("it is still the old one".to_string()) }
        });
        scenario.until_ready(pod, Duration::from_secs(120));
        let after = scenario.get("pod", pod).expect("it is ready");
        assert_eq!(after["spec"]["nodeName"], machine, "its volume is there");
    }
    load.goes_on(300);
    let report = load.judge();
    assert!(report["ok"].as_u64() > Some(2_000), "{report}");
    replicas_agree(&scenario, &["ring-0", "ring-1", "ring-2"], "ring-token", 2_000, 3);

    let admin = Forward::to(&scenario.namespace, "pod/ring-2", 9098);
    let status = admin.curl("/v1/status", &[]).json();
    assert_eq!(status["cluster"]["members"], 3, "nobody joined anew: {status}");
    assert_eq!(status["safety"]["verdict"], "safe", "{status}");
    drop(admin);
    kubectl(&["get", "nodes", "-o", "wide"]);
    scenario.remove();
}
