//! Operators that die, that are two, and that lose their lease in the middle of a step, on a real Kubernetes:
//! the cluster ends as it was asked for, and of all that the operators wrote one wrote at a time.
//!
//! `KVASIR_KUBE_KILLS` (6) operators are killed at moments drawn from `KVASIR_KUBE_SEED` (1) while nodes come, go
//! and are replaced and changes roll; `tests/run kube` runs this once, a longer search is the same test with larger numbers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kvasir_tests::kube::{
    Kvc, LoadPod, OPERATOR, Scenario, command, install_operator, local_ground, uninstall_operator,
    until, written,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Longest wait for a whole cluster to be well again.
const WELL: Duration = Duration::from_secs(300);

fn number(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

fn lease(scenario: &Scenario) -> Value {
    scenario.get("lease", OPERATOR).map(|lease| lease["spec"].clone()).unwrap_or_default()
}

/// How often the lease was taken so far.
fn transitions(scenario: &Scenario) -> u64 {
    lease(scenario)["leaseTransitions"].as_u64().unwrap_or(0)
}

/// The pod that leads; waits until one does.
fn leader(scenario: &Scenario) -> String {
    until("an operator leads", Duration::from_secs(90), || {
        let holder = lease(scenario)["holderIdentity"].as_str().unwrap_or_default().to_string();
        let there = scenario.get("pod", &holder).is_some();
        if there { Ok(holder) } else { Err(format!("the lease is held by `{holder}`")) }
    })
}

/// Members that are out of service; a pod beyond the first three owns nothing.
fn owners_out(kvc: &Kvc<'_>) -> Vec<String> {
    let owners = ["-0", "-1", "-2"];
    let out = kvc.out_of_service().into_iter();
    out.filter(|name| owners.iter().any(|ordinal| name.ends_with(ordinal))).collect()
}

/// Changes the configuration and waits until a pod is down for it: the middle of a step.
fn in_the_middle_of_a_rollout(kvc: &Kvc<'_>, filter: &str) {
    kvc.change(&json!({"config": {"log": {"filter": filter}}}));
    until("a pod goes for the change", WELL, || {
        if owners_out(kvc).is_empty() { Err("all serve".to_string()) } else { Ok(()) }
    });
}

/// Waits until the rollout is done; never are two owners down.
fn rolled(kvc: &Kvc<'_>) {
    let begun = Instant::now();
    until("the rollout is done", WELL, || {
        let out = owners_out(kvc);
        assert!(out.len() <= 1, "two at a time: {out:?}");
        let status = kvc.object()["status"].clone();
        let done = status["updatedNodes"] == 3 && status["readyNodes"] == 3;
        if done { Ok(()) } else { Err(status.to_string()) }
    });
    kvc.wait_ready(WELL);
    println!("rolled in {} s", begun.elapsed().as_secs());
}

/// Somebody else has the lease all of a sudden, and does nothing with it.
fn lease_is_stolen(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let scenario = kvc.scenario;
    let first = leader(scenario);
    let before = transitions(scenario);
    in_the_middle_of_a_rollout(kvc, "info,kvasir::peer=debug");
    let thief = r#"{"spec":{"holderIdentity":"a-thief"}}"#;
    scenario.kubectl(&["patch", "lease", OPERATOR, "--type=merge", "-p", thief]);
    load.goes_on(200);
    until("an operator took the lease again", Duration::from_secs(90), || {
        let now = transitions(scenario);
        if now > before { Ok(()) } else { Err(lease(scenario).to_string()) }
    });
    println!("the lease of {first} was taken away; now {} leads", leader(scenario));
    rolled(kvc);
}

/// Processes of a pod, by the control group that its uid names.
fn processes(uid: &str, program: &str) -> Vec<String> {
    let folders = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = folders.map(|f| f.file_name().to_string_lossy().into_owned());
    let pids = pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let read = |pid: &str, file: &str| {
        std::fs::read(Path::new("/proc").join(pid).join(file)).unwrap_or_default()
    };
    pids.filter(|pid| String::from_utf8_lossy(&read(pid, "cgroup")).contains(uid))
        .filter(|pid| read(pid, "cmdline").starts_with(program.as_bytes()))
        .collect()
}

/// The leader stands still in the middle of a step, another one goes on, and the first wakes up again.
fn leader_is_paused(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    if !local_ground() {
        println!("not run: processes of the workers cannot be paused on this cluster");
        return;
    }
    let scenario = kvc.scenario;
    let first = leader(scenario);
    let before = transitions(scenario);
    let pod = scenario.get("pod", &first).expect("the leader is there");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    in_the_middle_of_a_rollout(kvc, "info");
    let pids = processes(uid, "/kvasir-operator");
    assert_eq!(pids.len(), 1, "the process of {first}");
    let signal = |name: &str| command("kill", &[name, &pids[0]], "").ok;
    assert!(signal("-STOP"), "{pids:?}");
    load.goes_on(200);
    until("the other one took the lease", Duration::from_secs(90), || {
        let lease = lease(scenario);
        let other = lease["holderIdentity"] != first.as_str();
        if other && transitions(scenario) > before { Ok(()) } else { Err(lease.to_string()) }
    });
    // Unless the kubelet has killed it by then for not answering.
    let woken = signal("-CONT");
    println!("{first} stood still (woken: {woken}); now {} leads", leader(scenario));
    rolled(kvc);
}

/// What happens to the cluster, over and over, while operators die.
const HAPPENS: [fn(&Kvc<'_>); 5] = [
    |kvc| kvc.change(&json!({"nodes": 4})),
    a_volume_is_lost,
    |kvc| kvc.change(&json!({"config": {"log": {"filter": "info,kvasir::tasks=debug"}}})),
    |kvc| kvc.change(&json!({"nodes": 3})),
    |kvc| kvc.change(&json!({"config": {"log": {"filter": "info"}}})),
];

/// The volume of a member is lost, and with it the member: another one has to take its place.
fn a_volume_is_lost(kvc: &Kvc<'_>) {
    let pod = format!("{}-default-1", kvc.name);
    kvc.scenario.kubectl(&["delete", "pvc", &format!("data-{pod}"), "--wait=false"]);
    kvc.scenario.kubectl(&["delete", "pod", &pod, "--wait=false"]);
}

/// The node that a pod had when the status was written.
fn node_of(kvc: &Kvc<'_>, pod: &str) -> Value {
    let rows = kvc.object()["status"]["nodeStatuses"].as_array().cloned().unwrap_or_default();
    rows.iter().find(|row| row["pod"] == pod).map(|row| row["nodeID"].clone()).unwrap_or_default()
}

fn operators_are_killed(kvc: &Kvc<'_>, load: &LoadPod<'_>) {
    let (kills, seed) = (number("KVASIR_KUBE_KILLS", 6), number("KVASIR_KUBE_SEED", 1));
    println!(
        "{kills} operators are killed; again by: KVASIR_KUBE_SEED={seed} KVASIR_KUBE_KILLS={kills}"
    );
    let mut rng = SmallRng::seed_from_u64(seed);
    let scenario = kvc.scenario;
    let lost = node_of(kvc, &format!("{}-default-1", kvc.name));
    let mut changes = 0;
    for _ in 0..kills {
        // Each of them once for certain, also among few kills.
        if changes < HAPPENS.len() || rng.random_bool(0.7) {
            let happens = changes % HAPPENS.len();
            // Two at a time would be our doing.
            if happens == 1 {
                kvc.until_condition("Ready", "True", WELL);
            }
            println!("change {happens}");
            HAPPENS[happens](kvc);
            changes += 1;
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..8_000)));
        let victim = leader(scenario);
        scenario.kubectl(&["delete", "pod", &victim, "--grace-period=0", "--force"]);
        let out = owners_out(kvc);
        assert!(out.len() <= 1, "two at a time: {out:?}");
        load.goes_on(50);
    }
    kvc.change(&json!({"nodes": 3}));
    until("three nodes are left", WELL, || {
        let status = kvc.object()["status"].clone();
        let done = status["ring"]["members"] == 3 && kvc.pods().len() == 3;
        if done { Ok(()) } else { Err(status.to_string()) }
    });
    rolled(kvc);
    let rows = kvc.object()["status"]["nodeStatuses"].clone();
    let there = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["nodeID"] == lost));
    assert!(kills < 2 || !there, "node {lost} lost its volume and is still a member: {rows}");
}

/// Of all that was written, one operator wrote at a time: the writer changed no more often than the lease did.
fn one_wrote_at_a_time(scenario: &Scenario) {
    let Some(written) = written(&scenario.namespace) else {
        println!("not judged: only the API server of tests/kube/up keeps a record of calls");
        return;
    };
    let taken = transitions(scenario);
    let mut turns: Vec<&str> = written.iter().map(|w| w.pod.as_str()).collect();
    turns.dedup();
    let writers: BTreeSet<&str> = turns.iter().copied().collect();
    println!(
        "{} writes by {} operators in {} turns; the lease was taken {taken} times",
        written.len(),
        writers.len(),
        turns.len()
    );
    assert!(writers.len() > 2 && !writers.contains(""), "the record shows who wrote: {writers:?}");
    assert!(turns.len() as u64 <= taken, "operators wrote in turns: {written:#?}");
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn one_operator_writes_whatever_happens_to_them() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:>4}s  {what}", begun.elapsed().as_secs());
    let scenario = Scenario::new("kvasir-operators");
    install_operator(&scenario, &["--set", "replicas=2"]);
    let kvc = Kvc::apply(&scenario, &{
        let mut manifest = Kvc::manifest("ring");
        manifest["spec"]["topology"] = json!({"allowMultipleNodesPerWorker": true});
        manifest
    });
    kvc.wait_ready(WELL);
    let cluster_id = kvc.object()["status"]["clusterID"].clone();
    let service = format!("ring.{}.svc.cluster.local:8098", scenario.namespace);
    let load = LoadPod::start(&scenario, &service, 2_000, &["--strict"]);
    step("two operators, one cluster, load");
    lease_is_stolen(&kvc, &load);
    step("the lease was taken away in the middle of a step");
    leader_is_paused(&kvc, &load);
    step("a leader stood still in the middle of a step");
    operators_are_killed(&kvc, &load);
    step("operators were killed");
    load.judge();
    let status = kvc.object()["status"].clone();
    assert_eq!((&status["clusterID"], &status["ring"]["members"]), (&cluster_id, &json!(3)));
    one_wrote_at_a_time(&scenario);
    step("one wrote at a time");
    scenario.kubectl(&["delete", "kvc", "ring", "--timeout=120s"]);
    uninstall_operator(&scenario);
    scenario.remove();
}
