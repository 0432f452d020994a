//! What a person may do to a running cluster by mistake or on purpose, on a real Kubernetes: an image
//! that does not exist, objects deleted or edited, a pause, a new operator, scaling, volumes of another cluster.

use std::time::Duration;

use kvasir_tests::kube::{
    Kvc, OPERATOR, Scenario, install_operator, kubectl, uninstall_operator, until,
};
use serde_json::{Value, json};

/// Longest wait for a whole cluster to be well again.
const WELL: Duration = Duration::from_secs(240);
/// What the operator undoes within this time.
const RESTORED: Duration = Duration::from_secs(60);

fn an_image_that_does_not_exist_costs_one_pod(kvc: &Kvc<'_>) {
    let before = kvc.identities();
    kvc.change(&json!({"image": "localhost/kvasir:no-such-tag"}));
    let out = until("one pod is lost", WELL, || match kvc.out_of_service() {
        out if out.is_empty() => Err("all serve".to_string()),
        out => Ok(out),
    });
    for _ in 0..40 {
        assert_eq!(kvc.out_of_service().len(), 1, "more than {out:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    kvc.until_condition("Ready", "False", RESTORED);
    kvc.change(&json!({"image": "localhost/kvasir:dev"}));
    kvc.wait_ready(WELL);
    let now = kvc.identities();
    let kept = now.iter().filter(|(name, uid)| before.get(*name) == Some(uid)).count();
    assert_eq!(kept, 2, "only the lost one was replaced: {before:?} {now:?}");
}

fn deleted_and_edited_objects_come_back(kvc: &Kvc<'_>) {
    let (scenario, before) = (kvc.scenario, kvc.identities());
    let selector = format!("kvasir.dev/cluster={}", kvc.name);
    for kind in ["service", "configmap", "poddisruptionbudget", "networkpolicy"] {
        for object in scenario.list(kind, &selector) {
            let name = object["metadata"]["name"].as_str().expect("a name").to_string();
            scenario.kubectl(&["delete", kind, &name, "--wait=false"]);
            until(&format!("{kind} {name} is back"), RESTORED, || {
                let back = scenario.get(kind, &name).ok_or("it is not there")?;
                let new = back["metadata"]["uid"] != object["metadata"]["uid"];
                if new { Ok(()) } else { Err("it is the old one".to_string()) }
            });
        }
    }
    let set = &scenario.list("statefulset", &selector)[0];
    let name = set["metadata"]["name"].as_str().expect("a name");
    let wanted = set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone();
    let patch = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":7}}}}"#;
    scenario.kubectl(&["patch", "statefulset", name, "--type=merge", "-p", patch]);
    until("the StatefulSet is as it was", RESTORED, || {
        let set = scenario.get("statefulset", name).ok_or("it is not there")?;
        let now = &set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        if *now == wanted { Ok(()) } else { Err(now.to_string()) }
    });
    // Its pods stay when only the StatefulSet goes, and the new one takes them over.
    scenario.kubectl(&["delete", "statefulset", name, "--cascade=orphan"]);
    until("the StatefulSet is back", RESTORED, || {
        scenario.get("statefulset", name).ok_or("it is not there".to_string())
    });
    kvc.stays(&before, Duration::from_secs(5));
    kvc.wait_ready(WELL);
}

fn a_pause_changes_nothing(kvc: &Kvc<'_>) {
    let (scenario, before) = (kvc.scenario, kvc.identities());
    kvc.change(&json!({"paused": true}));
    kvc.until_condition("Paused", "True", RESTORED);
    kvc.change(&json!({"config": {"log": {"filter": "debug"}}}));
    let selector = format!("kvasir.dev/cluster={}", kvc.name);
    scenario.kubectl(&["delete", "poddisruptionbudget", "-l", &selector]);
    kvc.stays(&before, Duration::from_secs(15));
    assert!(scenario.list("poddisruptionbudget", &selector).is_empty(), "restored in a pause");
    kvc.change(&json!({"paused": false, "config": {"log": null}}));
    kvc.until_condition("Paused", "False", RESTORED);
    kvc.wait_ready(WELL);
    assert_eq!(kvc.identities(), before, "the change was taken back before it was made");
}

fn a_new_operator_restarts_nothing(kvc: &Kvc<'_>) {
    let before = kvc.identities();
    install_operator(kvc.scenario, &["--set", "podAnnotations.kvasir\\.dev/release=next"]);
    let deployment = format!("deployment/{OPERATOR}");
    kvc.scenario.kubectl(&["rollout", "restart", &deployment]);
    kvc.scenario.kubectl(&["rollout", "status", &deployment, "--timeout=90s"]);
    kvc.stays(&before, Duration::from_secs(10));
    kvc.wait_ready(WELL);
}

fn ordinal_zero_comes_back_as_the_member_that_it_was(kvc: &Kvc<'_>) {
    let cluster_id = kvc.object()["status"]["clusterID"].clone();
    let pod = kvc.pods().keys().find(|n| n.ends_with("-0")).expect("ordinal 0").clone();
    let address = |p: Option<Value>| p.map(|p| p["status"]["podIP"].clone()).unwrap_or_default();
    let before = address(kvc.scenario.get("pod", &pod));
    kvc.scenario.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    until("it has another address", WELL, || {
        let now = address(kvc.scenario.get("pod", &pod));
        if now.is_string() && now != before { Ok(()) } else { Err(now.to_string()) }
    });
    kvc.scenario.until_ready(&pod, WELL);
    kvc.wait_ready(WELL);
    let status = kvc.object()["status"].clone();
    assert_eq!(status["clusterID"], cluster_id);
    assert_eq!(status["ring"]["members"], 3, "{status}");
}

/// A fourth node takes its share and gives it back.
fn scaled_up_and_down(kvc: &Kvc<'_>) {
    let target = format!("kvc/{}", kvc.name);
    for nodes in [4, 3] {
        kvc.scenario.kubectl(&["scale", &target, &format!("--replicas={nodes}")]);
        kvc.until_condition("Ready", "True", WELL);
        let status = kvc.object()["status"].clone();
        let rows = status["nodeStatuses"].as_array().cloned().unwrap_or_default();
        let own = rows.iter().filter(|row| row["partitions"].as_u64() > Some(0)).count();
        assert_eq!((own, kvc.pods().len()), (nodes, nodes), "{status}");
        assert_eq!(status["ring"]["members"], nodes, "{status}");
    }
}

/// A cluster of one node in the same namespace, gone again: its volume holds another identity. The name of the
/// PersistentVolume.
fn volume_of_another_cluster(scenario: &Scenario) -> String {
    let mut manifest = Kvc::manifest("alien");
    manifest["spec"]["nodes"] = json!(1);
    manifest["spec"]["replication"] = json!({"factors": [{"datacenter": "dc1", "factor": 1}]});
    let alien = Kvc::apply(scenario, &manifest);
    alien.wait_ready(WELL);
    scenario.kubectl(&["delete", "kvc", "alien", "--timeout=120s"]);
    until("its pod is gone", WELL, || {
        if alien.pods().is_empty() { Ok(()) } else { Err("it is there".to_string()) }
    });
    let claims = scenario.list("pvc", "kvasir.dev/cluster=alien");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let (claim, volume) =
        (text(&claims[0]["metadata"]["name"]), text(&claims[0]["spec"]["volumeName"]));
    let keep = r#"{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#;
    kubectl(&["patch", "pv", &volume, "--type=merge", "-p", keep]);
    scenario.kubectl(&["delete", "pvc", &claim, "--timeout=60s"]);
    kubectl(&["patch", "pv", &volume, "--type=merge", "-p", r#"{"spec":{"claimRef":null}}"#]);
    volume
}

/// The fourth pod finds a volume of another cluster under its name: it is not joined, what it holds is not touched,
/// and the way out that the message names works.
fn a_volume_of_another_cluster_is_refused(kvc: &Kvc<'_>) {
    let scenario = kvc.scenario;
    let volume = volume_of_another_cluster(scenario);
    let pod = format!("{}-default-3", kvc.name);
    let claim = format!("data-{pod}");
    // The claim that an earlier scale-up left goes, so that the one with the other volume takes its place.
    scenario.kubectl(&["delete", "pvc", &claim, "--ignore-not-found", "--timeout=60s"]);
    scenario.apply_value(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }));
    let before = kvc.object()["status"].clone();
    scenario.kubectl(&["scale", &format!("kvc/{}", kvc.name), "--replicas=4"]);
    let degraded = kvc.until_condition("Degraded", "True", WELL);
    assert_eq!(degraded["reason"], "ForeignVolume", "{degraded}");
    let message = degraded["message"].as_str().unwrap_or_default();
    assert!(message.contains(&pod) && message.contains(&claim), "{message}");
    for _ in 0..20 {
        let status = kvc.object()["status"].clone();
        let ring = &status["ring"];
        // A repair that was still due is recorded in a document of its own, which changes nothing else.
        let repairs =
            status["operation"]["type"] == "Repair" || status["repair"] != before["repair"];
        let same = ring["epoch"] == before["ring"]["epoch"] || repairs;
        assert!(ring["members"] == 3 && same, "{ring}, before: {}", before["ring"]);
        std::thread::sleep(Duration::from_millis(500));
    }
    // What the message says: the claim and the pod go, and it starts on an empty volume.
    scenario.kubectl(&["delete", "pvc", &claim, "--wait=false"]);
    scenario.kubectl(&["delete", "pod", &pod]);
    kvc.until_condition("Degraded", "False", WELL);
    until("it joins as a new node", WELL, || {
        let ring = kvc.object()["status"]["ring"].clone();
        if ring["members"] == 4 { Ok(()) } else { Err(ring.to_string()) }
    });
    kvc.wait_ready(WELL);
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn mistakes_are_refused_or_undone_and_cost_no_more_than_they_must() {
    let scenario = Scenario::new("kvasir-changes");
    install_operator(&scenario, &[]);
    let mut manifest = Kvc::manifest("ring");
    manifest["spec"]["topology"] = json!({"allowMultipleNodesPerWorker": true});
    let kvc = Kvc::apply(&scenario, &manifest);
    kvc.wait_ready(WELL);
    deleted_and_edited_objects_come_back(&kvc);
    a_pause_changes_nothing(&kvc);
    a_new_operator_restarts_nothing(&kvc);
    ordinal_zero_comes_back_as_the_member_that_it_was(&kvc);
    an_image_that_does_not_exist_costs_one_pod(&kvc);
    scaled_up_and_down(&kvc);
    a_volume_of_another_cluster_is_refused(&kvc);
    kubectl(&["get", "kvc", "--all-namespaces"]);
    scenario.kubectl(&["delete", "kvc", "ring", "--timeout=120s"]);
    uninstall_operator(&scenario);
    scenario.remove();
}
