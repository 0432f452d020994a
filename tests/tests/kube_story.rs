//! The whole story on a real Kubernetes: installed by helm, applied, loaded with 10,000 keys by a client pod
//! whose history is judged, while the operator dies, a pod is deleted, a worker is drained, a worker loses its
//! power, a change of the configuration rolls, two nodes come and leave and a volume is lost; uninstalled down to the
//! volumes and installed on them again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvasir_tests::kube::{
    Kvc, LoadPod, OPERATOR, Scenario, install_operator, kill_worker, kubectl, replicas_agree,
    start_worker, try_kubectl, uninstall_operator, until,
};
use serde_json::{Value, json};

/// Longest wait for a whole cluster to be well again.
const WELL: Duration = Duration::from_secs(240);
/// Longest wait for data to be where it should be.
const SCALED: Duration = Duration::from_secs(300);

fn worker_of(pod: &Value) -> String {
    pod["spec"]["nodeName"].as_str().unwrap_or_default().to_string()
}

/// A pod that does not share its worker with the load.
fn pod_apart(kvc: &Kvc<'_>, load: &LoadPod<'_>) -> (String, String) {
    let other = load.worker();
    let pods = kvc.pods();
    let found = pods.iter().find(|(_, pod)| worker_of(pod) != other);
    let (name, pod) = found.expect("three workers and one load pod");
    (name.clone(), worker_of(pod))
}

fn columns(kvc: &Kvc<'_>) {
    let table = kvc.scenario.kubectl(&["get", "kvc", &kvc.name]).out;
    let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().expect("a head");
    for column in ["NAME", "NODES", "READY", "AVAILABLE", "PROGRESSING", "DEGRADED", "AGE"] {
        assert!(head.contains(&column), "no column {column}: {table}");
    }
    let row = lines.next().expect("a row");
    assert_eq!(row[..6], [&kvc.name, "3", "3", "True", "False", "False"], "{table}");
}

fn the_operator_dies(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let before = kvc.identities();
    let selector = format!("app.kubernetes.io/name={OPERATOR}");
    kvc.scenario.kubectl(&["delete", "pod", "-l", &selector, "--grace-period=0", "--force"]);
    load.goes_on(300);
    kvc.scenario.kubectl(&[
        "rollout",
        "status",
        &format!("deployment/{OPERATOR}"),
        "--timeout=90s",
    ]);
    kvc.stays(&before, Duration::from_secs(5));
}

fn a_pod_is_deleted(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let (pod, _) = pod_apart(kvc, load);
    let before = kvc.identities();
    kvc.scenario.kubectl(&["delete", "pod", &pod]);
    load.goes_on(300);
    until("the pod is made anew", WELL, || {
        let now = kvc.identities();
        if now.get(&pod).is_some_and(|uid| uid != &before[&pod]) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    kvc.scenario.until_ready(&pod, WELL);
    kvc.wait_ready(WELL);
    let now = kvc.identities();
    assert!(now.iter().all(|(name, uid)| *name == pod || *uid == before[name]), "others restarted");
}

fn a_worker_is_drained(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let (pod, worker) = pod_apart(kvc, load);
    let selector = format!("--pod-selector=kvasir.dev/cluster={}", kvc.name);
    kubectl(&["drain", &worker, &selector, "--delete-emptydir-data", "--timeout=120s"]);
    load.goes_on(300);
    // The budget of the cluster is spent: a second worker cannot be drained.
    let pods = kvc.pods();
    let second = pods.values().map(worker_of).find(|w| *w != worker && !w.is_empty());
    let second = second.expect("another worker");
    let refused = try_kubectl(&["drain", &second, &selector, "--timeout=8s"], "");
    kubectl(&["uncordon", &second]);
    assert!(!refused.ok && refused.err.contains("disruption budget"), "{refused:?}");
    kubectl(&["uncordon", &worker]);
    kvc.scenario.until_ready(&pod, WELL);
    kvc.wait_ready(WELL);
}

fn a_worker_is_killed(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let (pod, worker) = pod_apart(kvc, load);
    kill_worker(&worker);
    let degraded = kvc.until_condition("Degraded", "True", Duration::from_secs(90));
    println!("while {worker} is dead: {} {}", degraded["reason"], degraded["message"]);
    load.goes_on(300);
    start_worker(&worker);
    kvc.scenario.until_ready(&pod, WELL);
    kvc.wait_ready(WELL);
    // It was away for longer than the spec allows: all that it has is compared.
    until("what the node has is compared", WELL, || {
        let events = kvc.scenario.kubectl(&["get", "events", "-o", "json"]).json();
        let words = format!("of pod {pod} ");
        let found = events["items"].as_array().into_iter().flatten().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "RepairBegan" && message.contains(&words)
        });
        if found { Ok(()) } else { Err(kvc.object()["status"].to_string()) }
    });
}

fn a_change_rolls(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let before = kvc.identities();
    kvc.change(&json!({
        "config": {"log": {"filter": "info,kvasir::peer=debug"}},
        "topology": {"allowMultipleNodesPerWorker": true},
        "storage": {"retention": {"whenScaled": "Delete"}},
    }));
    until("every pod is made anew", WELL, || {
        let out = kvc.out_of_service();
        assert!(out.len() <= 1, "more than one node at a time: {out:?}");
        let now = kvc.identities();
        let all = now.len() == 3 && now.iter().all(|(name, uid)| before.get(name) != Some(uid));
        if all { Ok(()) } else { Err(format!("{now:?}")) }
    });
    kvc.wait_ready(WELL);
    load.goes_on(100);
}

/// The number of nodes changes, and with it who has what.
fn scaled(kvc: &Kvc<'_>, load: &LoadPod<'_>, nodes: usize) {
    let begun = Instant::now();
    let target = format!("kvc/{}", kvc.name);
    kvc.scenario.kubectl(&["scale", &target, &format!("--replicas={nodes}")]);
    let mut told = BTreeMap::new();
    until(&format!("{nodes} nodes have their share"), SCALED, || {
        let object = kvc.object();
        let operation = &object["status"]["operation"];
        if operation["movesTotal"].as_u64() > Some(0) {
            let figures = [&operation["movesDone"], &operation["movedBytes"]];
            told.insert(operation["id"].to_string(), format!("{figures:?}"));
        }
        let rows = object["status"]["nodeStatuses"].as_array().cloned().unwrap_or_default();
        let own = rows.iter().filter(|row| row["partitions"].as_u64() > Some(0)).count();
        let pods = kvc.pods().len();
        if own == nodes && rows.len() == nodes && pods == nodes {
            Ok(())
        } else {
            Err(format!("{pods} pods: {}", object["status"]))
        }
    });
    kvc.until_condition("Ready", "True", WELL);
    let seconds = begun.elapsed().as_secs();
    println!("{nodes} nodes after {seconds} s; copies and bytes moved, as last seen: {told:?}");
    assert!(!told.is_empty(), "how far it is stands in the status");
    load.goes_on(300);
}

/// A volume is lost for good: a new node takes the place of the one that it held.
fn a_lost_volume_is_replaced(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let begun = Instant::now();
    let (pod, _) = pod_apart(kvc, load);
    let claim = format!("data-{pod}");
    let rows = || kvc.object()["status"]["nodeStatuses"].as_array().cloned().unwrap_or_default();
    let node = rows().iter().find(|row| row["pod"] == pod.as_str()).cloned().expect("its row");
    kvc.scenario.kubectl(&["delete", "pvc", &claim, "--wait=false"]);
    kvc.scenario.kubectl(&["delete", "pod", &pod]);
    until("another node has its place", SCALED, || {
        let rows = rows();
        let old = rows.iter().any(|row| row["nodeID"] == node["nodeID"]);
        let new = rows.iter().find(|row| row["pod"] == pod.as_str());
        let owns = new.is_some_and(|new| new["partitions"].as_u64() > Some(0));
        if owns && !old { Ok(()) } else { Err(kvc.object()["status"].to_string()) }
    });
    kvc.until_condition("Ready", "True", WELL);
    println!("replaced in {} s", begun.elapsed().as_secs());
    load.goes_on(300);
}

/// What is left in the namespace once the release and the cluster are gone.
fn only_the_volumes_are_left(scenario: &Scenario) {
    let kinds = "statefulset,deployment,service,configmap,secret,poddisruptionbudget,networkpolicy,\
                 role,rolebinding,serviceaccount,lease";
    let ours = |o: &Value| {
        let name = o["metadata"]["name"].as_str().unwrap_or_default();
        !matches!(name, "kube-root-ca.crt" | "default")
    };
    until("nothing but the volumes is left", Duration::from_secs(120), || {
        let said = scenario.kubectl(&["get", kinds, "-o", "json"]).json();
        let left: Vec<String> = said["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|o| ours(o))
            .map(|o| format!("{} {}", o["kind"], o["metadata"]["name"]))
            .collect();
        let pods = scenario.list("pod", "kvasir.dev/cluster").len();
        if left.is_empty() && pods == 0 { Ok(()) } else { Err(format!("{left:?}, {pods} pods")) }
    });
    assert_eq!(scenario.list("pvc", "").len(), 3, "the volumes stay");
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn ten_thousand_keys_survive_everything_that_may_happen_to_a_cluster() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:>4}s  {what}", begun.elapsed().as_secs());
    let scenario = Scenario::new("kvasir-story");
    install_operator(&scenario, &[]);
    step("the operator is installed");
    let mut manifest = Kvc::manifest("demo");
    manifest["spec"]["repair"] = json!({"afterAwaySeconds": 1});
    let kvc = Kvc::apply(&scenario, &manifest);
    kvc.wait_ready(WELL);
    columns(&kvc);
    let cluster_id = kvc.object()["status"]["clusterID"].clone();
    step("the cluster is formed");

    let service = format!("demo.{}.svc.cluster.local:8098", scenario.namespace);
    let load = LoadPod::start(&scenario, &service, 10_000, &["--strict"]);
    step("10,000 keys are written");
    the_operator_dies(&kvc, &load);
    step("the operator died");
    a_pod_is_deleted(&kvc, &load);
    step("a pod was deleted");
    a_worker_is_drained(&kvc, &load);
    step("a worker was drained");
    a_worker_is_killed(&kvc, &load);
    step("a worker was killed");
    a_change_rolls(&kvc, &load);
    step("a change rolled");
    scaled(&kvc, &load, 5);
    step("two nodes came");
    scaled(&kvc, &load, 3);
    step("two nodes left");
    a_lost_volume_is_replaced(&kvc, &load);
    step("a lost volume was replaced");
    load.judge();
    step("the history is good");
    let pods = kvc.pods();
    let pods: Vec<&str> = pods.keys().map(String::as_str).collect();
    replicas_agree(&scenario, &pods, "demo-admin", 10_000, 3);
    step("the replicas are equal");

    scenario.kubectl(&["delete", "kvc", "demo", "--timeout=120s"]);
    uninstall_operator(&scenario);
    only_the_volumes_are_left(&scenario);
    step("uninstalled");
    install_operator(&scenario, &[]);
    let mut manifest = Kvc::manifest("demo");
    manifest["spec"]["topology"] = json!({"allowMultipleNodesPerWorker": true});
    let kvc = Kvc::apply(&scenario, &manifest);
    kvc.wait_ready(WELL);
    assert_eq!(kvc.object()["status"]["clusterID"], cluster_id, "the cluster that it was");
    load.judge();
    step("installed again: all data is there");
    scenario.kubectl(&["delete", "kvc", "demo", "--timeout=120s"]);
    uninstall_operator(&scenario);
    scenario.remove();
}
