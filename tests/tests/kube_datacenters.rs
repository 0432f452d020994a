//! Two data centers on a real Kubernetes, three copies in each: one is killed under a judged load and comes back.
//! The other one does not fail a request meanwhile; what asks for both is refused and says which one is short.
//!
//! Both lie on the same three workers, so that each has its copies on three machines. The dead one stays away
//! because its StatefulSet has no pods while the operator is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvasir_core::ring::PartitionEntry;
use kvasir_tests::kube::{
    Forward, Kvc, LoadPod, Scenario, install_operator, replicas_agree, uninstall_operator, until,
};
use serde_json::{Value, json};

/// Longest wait for a whole cluster to be well again.
const WELL: Duration = Duration::from_secs(240);
/// Keys of the load.
const KEYS: u32 = 1_000;

/// Every document that a node had while somebody looked, by epoch.
struct Documents {
    seen: Arc<Mutex<BTreeMap<u64, Value>>>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Documents {
    fn watch(namespace: &str, pod: &str) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let over = Arc::new(AtomicBool::new(false));
        let admin = Forward::to(namespace, &format!("pod/{pod}"), 9098);
        let (all, stop) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let said = admin.curl("/v1/cluster/document", &[]);
                let answer: Value = serde_json::from_str(&said.out).unwrap_or_default();
                if let Some(epoch) = answer["epoch"].as_u64() {
                    all.lock().expect("no panic").insert(epoch, answer["document"].clone());
                }
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        Self { seen, over, thread }
    }

    /// In every document each data center has three copies of each partition on three machines, and would have
    /// them were every move at its end.
    fn judge(self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic");
        let seen = self.seen.lock().expect("no panic");
        for (epoch, document) in seen.iter() {
            let machine = |id: String| document["members"][id]["machine"].to_string();
            for entry in document["table"].as_array().expect("a table") {
                let entry: PartitionEntry =
                    serde_json::from_value(entry.clone()).expect("an entry");
                for (center, slots) in &entry.slots {
                    let now = slots.iter().map(|slot| slot.owner);
                    let then = slots
                        .iter()
                        .map(|slot| slot.state.successor().map_or(slot.owner, |next| next.node));
                    for owners in [now.collect::<Vec<_>>(), then.collect()] {
                        let machines: BTreeSet<String> =
                            owners.iter().map(|id| machine(id.to_string())).collect();
                        assert_eq!(machines.len(), 3, "epoch {epoch}, {center}: {slots:?}");
                    }
                }
                assert_eq!(entry.slots.len(), 2, "epoch {epoch}");
            }
        }
        println!("{} documents, each with three machines in each data center", seen.len());
        assert!(seen.len() > 5, "{:?}", seen.keys());
    }
}

fn manifest() -> Value {
    let mut manifest = Kvc::manifest("ring");
    let rack = |name: &str| json!({"name": name, "datacenter": name});
    let factor = |name: &str| json!({"datacenter": name, "factor": 3});
    let spec = &mut manifest["spec"];
    spec["nodes"] = json!(6);
    spec["ring"] = json!({"initialPartitions": 64});
    spec["replication"] = json!({
        "factors": [factor("east"), factor("west")],
        "readQuorum": "local_quorum", "writeQuorum": "local_quorum",
    });
    spec["topology"] =
        json!({"racks": [rack("east"), rack("west")], "allowMultipleNodesPerWorker": true});
    manifest
}

/// The nodes of one data center for its clients.
fn service(scenario: &Scenario, center: &str) -> String {
    scenario.apply_value(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": center},
        "spec": {
            "selector": {"kvasir.dev/cluster": "ring", "kvasir.dev/datacenter": center},
            "ports": [{"name": "http", "port": 8098, "targetPort": "http"}],
        },
    }));
    format!("{center}.{}.svc.cluster.local:8098", scenario.namespace)
}

/// Every node of a data center dies at once and does not come back.
fn killed(kvc: &Kvc<'_>, center: &str) {
    let scenario = kvc.scenario;
    kvc.change(&json!({"paused": true}));
    kvc.until_condition("Paused", "True", WELL);
    scenario.kubectl(&["scale", &format!("statefulset/ring-{center}"), "--replicas=0"]);
    let selector = format!("kvasir.dev/rack={center}");
    scenario.kubectl(&["delete", "pod", "-l", &selector, "--grace-period=0", "--force"]);
    until("its pods are gone", WELL, || match scenario.list("pod", &selector).len() {
        0 => Ok(()),
        left => Err(format!("{left} pods")),
    });
}

/// What asks for a majority in each data center is refused by the living one, with the name of the dead one.
fn refused_by_name(client: &Forward, dead: &str) {
    for arguments in [&["-X", "PUT", "-d", "v"][..], &[]] {
        let level = if arguments.is_empty() { "r" } else { "w" };
        let path = format!("/v1/kv/other/key?{level}=each_quorum&timeout=5s");
        until("it is refused", WELL, || {
            let said = client.curl(&path, arguments);
            let problem: Value = serde_json::from_str(&said.out).unwrap_or_default();
            let named = problem["data_centers"] == json!([dead]);
            let code = problem["status"] == 503 && problem["code"] == "quorum_not_reached";
            if !said.ok && code && named { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn a_data_center_dies_and_comes_back_and_the_other_one_does_not_notice() {
    let begun = Instant::now();
    let step = |what: &str| println!("{:>4}s  {what}", begun.elapsed().as_secs());
    let scenario = Scenario::new("kvasir-datacenters");
    install_operator(&scenario, &[]);
    let kvc = Kvc::apply(&scenario, &manifest());
    kvc.wait_ready(WELL);
    let documents = Documents::watch(&scenario.namespace, "ring-east-0");
    let east = service(&scenario, "east");
    let local = ["--strict", "--level", "local_quorum"];
    let load = LoadPod::start(&scenario, &east, KEYS, &local);
    step("two data centers of three nodes, and a load in one of them");
    scenario.kubectl(&["scale", "kvc/ring", "--replicas=8"]);
    kvc.until_condition("Ready", "True", WELL);
    let status = kvc.object()["status"].clone();
    assert_eq!(status["ring"]["members"], 8, "{status}");
    step("each has four nodes now");

    let failed = load.failed();
    killed(&kvc, "west");
    step("one is dead");
    let client = Forward::to(&scenario.namespace, "pod/ring-east-0", 8098);
    // The level by default is that of the spec.
    let put = client.curl("/v1/kv/other/here", &["-X", "PUT", "-d", "v"]);
    assert!(put.ok, "{put:?}");
    refused_by_name(&client, "west");
    load.goes_on(1_000);
    assert_eq!(load.failed(), failed, "requests of the other one failed");
    step("what asks for both is refused, what asks for the other one is served");

    kvc.change(&json!({"paused": false}));
    kvc.until_condition("Ready", "True", WELL);
    until("both answer", WELL, || {
        let said = client.curl("/v1/kv/other/key?w=each_quorum", &["-X", "PUT", "-d", "v"]);
        if said.ok { Ok(()) } else { Err(format!("{said:?}")) }
    });
    load.goes_on(300);
    assert_eq!(load.failed(), failed, "requests failed while the other one came back");
    load.judge();
    step("it is back, and the history is good");
    let pods = kvc.pods();
    let pods: Vec<&str> = pods.keys().map(String::as_str).collect();
    replicas_agree(&scenario, &pods, "ring-admin", KEYS, 6);
    documents.judge();
    step("the replicas are equal");
    scenario.kubectl(&["delete", "kvc", "ring", "--timeout=120s"]);
    uninstall_operator(&scenario);
    scenario.remove();
}
