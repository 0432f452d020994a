//! Partitions that move, in simulation: nodes come, go and are replaced while clients write and read with
//! strict quorums, and the checker judges every history: nothing acknowledged is lost, no read goes back.

use std::time::Duration;

use hyper::Method;
use kvasir_core::id::NodeId;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, History, check};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive, fill, settle};
use kvasir_tests::sim::{Conditions, Sim, run};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest virtual wait for an operation.
const PATIENCE: Duration = Duration::from_secs(180);

/// Five hosts of which the first three are a cluster of three copies.
async fn three_of_five(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, 5, &[]);
    for host in 0..5 {
        sim.start(host);
    }
    let nodes = ["n0:8099", "n1:8099", "n2:8099"];
    let body = json!({ "clusterName": "sim", "replication": { "dc1": 3 }, "nodes": nodes });
    let until = Instant::now() + PATIENCE;
    loop {
        let path = "/v1/cluster/init";
        let answer = sim.admin(0, Method::POST, path, Some(body.clone())).await;
        match answer {
            Some(answer) if answer.status < 300 => break,
            other => assert!(Instant::now() < until, "init: {other:?}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
    for host in 0..3 {
        sim.until_ready(host).await;
    }
    // Gossip has to know who may join.
    sleep(Duration::from_secs(5)).await;
    sim
}

/// Posts an operation; what the node said.
async fn post(sim: &Sim, by: usize, body: Value) -> (u16, Value) {
    let answer = sim.admin(by, Method::POST, "/v1/operations", Some(body)).await;
    let answer = answer.expect("an answer");
    (answer.status, serde_json::from_str(&answer.text()).expect("JSON"))
}

/// What has become of an operation.
async fn state(sim: &Sim, by: usize, id: &str) -> Value {
    let path = format!("/v1/operations/{id}");
    let answer = sim.admin(by, Method::GET, &path, None).await.expect("an answer");
    serde_json::from_str(&answer.text()).expect("JSON")
}

/// Waits until an operation has ended.
async fn ended(sim: &Sim, by: usize, id: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = state(sim, by, id).await;
        if now["state"] != "running" {
            return now;
        }
        assert!(Instant::now() < until, "{id} does not end: {now}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// Posts an operation that must be taken, and waits until it is done.
async fn done(sim: &Sim, by: usize, body: Value) -> Value {
    let id = body["id"].as_str().expect("an id").to_string();
    let (status, answer) = post(sim, by, body).await;
    assert_eq!(status, 200, "{answer}");
    let end = ended(sim, by, &id).await;
    assert_eq!(end["state"], "done", "{end}");
    end
}

/// The newest document that a host knows.
async fn document(sim: &Sim, host: usize) -> Value {
    let answer = sim.admin(host, Method::GET, "/v1/cluster/document", None).await;
    let answer = answer.expect("an answer");
    let answer: Value = serde_json::from_str(&answer.text()).expect("JSON");
    answer["document"].clone()
}

/// How many slots of the table name a node, and whether any slot is in motion.
fn owned(document: &Value, node: NodeId) -> (usize, bool) {
    let entries = document["table"].as_array().expect("a table");
    let slots = entries.iter().flat_map(|e| e["slots"]["dc1"].as_array().expect("slots"));
    let slots: Vec<&Value> = slots.collect();
    let moving = slots.iter().any(|slot| slot["state"] != "stable");
    (slots.iter().filter(|slot| slot["owner"] == node.to_string().as_str()).count(), moving)
}

fn plan(seed: u64, operations: u32) -> Plan {
    Plan {
        seed,
        clients: 6,
        operations,
        keys: 120,
        read_percent: 40,
        delete_percent: 5,
        token_percent: 60,
        padding: 200,
    }
}

fn aim(sim: &Sim) -> Aim {
    Aim {
        servers: sim.servers()[..3].to_vec(),
        level: "quorum".to_string(),
        query: "timeout=4s&sloppy=false".to_string(),
        think_ms: 150,
    }
}

/// Clients that write and read until their plan is done.
fn load(sim: &Sim, plan: &Plan, to: &Recorder) -> Vec<JoinHandle<()>> {
    let session = |client| {
        let (plan, aim, to, http) =
            (plan.clone(), aim(sim), to.clone(), sim.client(Duration::from_secs(6)));
        tokio::task::spawn_local(async move { drive(&plan, client, &aim, &http, &to).await })
    };
    (0..plan.clients).map(session).collect()
}

/// Lets the load end, reads everything once more, and gives the history.
async fn history(
    sim: &Sim,
    plan: &Plan,
    sessions: Vec<JoinHandle<()>>,
    recorder: &Recorder,
) -> History {
    for session in sessions {
        session.await.expect("a session ends");
    }
    sim.weather.set(Conditions::default());
    sim.heal();
    settle(plan, &aim(sim), &sim.client(Duration::from_secs(5)), recorder).await;
    recorder.history()
}

fn judged(history: &History, name: &str, ok_percent: usize) {
    let report = check(history, Demand { operations: 500, ok_percent, settled_keys: 100 });
    println!("{name}: ok/fail/unknown {:?}", report.outcomes);
    report.assert_good();
}

/// Three nodes become five and three again, under load.
async fn there_and_back(seed: u64, weather: Conditions) -> History {
    let sim = three_of_five(seed).await;
    let (plan, recorder) = (plan(seed, 300), Recorder::new(Clock::start()));
    fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
    sim.weather.set(weather);
    let sessions = load(&sim, &plan, &recorder);
    let mut joined = Vec::new();
    for host in [3, 4] {
        let node = sim.node_id(host).await;
        let id = format!("join-{host}");
        let end = done(&sim, 0, json!({ "id": id, "kind": "join", "node": node })).await;
        let now = document(&sim, 0).await;
        let (share, moving) = owned(&now, node);
        let slots = now["table"].as_array().expect("a table").len() * 3;
        let even = slots / (host + 1);
        assert!((even..=even + 1).contains(&share) && !moving, "{share} of {slots} slots");
        let (moved, bytes) = (end["movesDone"].clone(), end["movedBytes"].clone());
        println!("seed {seed}, join of node {}: {moved} slots for {even}, {bytes} B", host + 1);
        assert_eq!(moved, share, "no slot moved that need not");
        joined.push(node);
    }
    for node in joined {
        let id = format!("leave-{node}");
        done(&sim, 1, json!({ "id": id, "kind": "leave", "node": node })).await;
        let now = document(&sim, 1).await;
        assert!(now["members"].get(node.to_string()).is_none(), "it is a member still");
        assert_eq!(owned(&now, node), (0, false));
    }
    history(&sim, &plan, sessions, &recorder).await
}

#[test]
fn three_become_five_and_three_again_under_load() {
    judged(&run(there_and_back(1, Conditions::default())), "calm", 99);
}

#[test]
fn frames_that_are_lost_doubled_and_late_lose_nothing() {
    let weather = Conditions {
        loss_permille: 5,
        twice_permille: 20,
        delay_ms: 5,
        late_permille: 2,
        late_ms: 3_000,
    };
    for seed in 2..=4 {
        judged(&run(there_and_back(seed, weather)), &format!("seed {seed}"), 85);
    }
}

#[test]
fn a_joiner_that_crashes_in_the_middle_comes_back_and_goes_on() {
    let history = run(async {
        let mut sim = three_of_five(11).await;
        let (plan, recorder) = (plan(11, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let node = sim.node_id(3).await;
        let (status, answer) =
            post(&sim, 0, json!({ "id": "j", "kind": "join", "node": node })).await;
        assert_eq!(status, 200, "{answer}");
        for _ in 0..3 {
            sleep(Duration::from_millis(900)).await;
            sim.crash(3, Crash::DropAll).await;
            sleep(Duration::from_secs(2)).await;
            sim.start(3);
        }
        let end = ended(&sim, 0, "j").await;
        assert_eq!(end["state"], "done", "{end}");
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "joiner crashes", 90);
}

#[test]
fn a_join_is_taken_back_and_asked_for_again() {
    let history = run(async {
        let sim = three_of_five(12).await;
        let (plan, recorder) = (plan(12, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let node = sim.node_id(3).await;
        for wait_ms in [0, 300, 700, 1_500] {
            let id = format!("j{wait_ms}");
            let body = json!({ "id": id, "kind": "join", "node": node });
            assert_eq!(post(&sim, 0, body).await.0, 200);
            sleep(Duration::from_millis(wait_ms)).await;
            let path = format!("/v1/operations/{id}");
            let back = sim.admin(0, Method::DELETE, &path, None).await.expect("an answer");
            assert_eq!(back.status, 200, "{}", back.text());
            let end = ended(&sim, 0, &id).await;
            assert_eq!(end["state"], "cancelled", "{end}");
            println!("taken back after {wait_ms} ms: {} slots had moved", end["movesDone"]);
            assert!(!owned(&document(&sim, 0).await, node).1, "a slot is still in motion");
        }
        done(&sim, 0, json!({ "id": "j", "kind": "join", "node": node })).await;
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "taken back", 99);
}

#[test]
fn a_node_that_died_is_replaced_and_its_old_disk_is_refused() {
    let history = run(async {
        let mut sim = three_of_five(13).await;
        let (plan, recorder) = (plan(13, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let (dead, new) = (sim.node_id(2).await, sim.node_id(3).await);
        sim.crash(2, Crash::DropAll).await;
        sleep(Duration::from_secs(20)).await;
        let body = json!({ "id": "r", "kind": "replace", "node": new, "replaces": dead });
        let end = done(&sim, 0, body).await;
        println!("replaced: {} slots, {} B", end["movesDone"], end["movedBytes"]);
        let now = document(&sim, 0).await;
        assert!(now["members"].get(dead.to_string()).is_none());
        assert_eq!(owned(&now, dead), (0, false));
        // The old disk comes back: no member any more, so it must not serve.
        sim.start(2);
        sleep(Duration::from_secs(10)).await;
        let ready = sim.admin(2, Method::GET, "/readyz", None).await.expect("an answer");
        assert_eq!(ready.status, 503, "a retired node serves: {}", ready.text());
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "replaced", 60);
}

#[test]
fn the_ring_is_cut_more_finely_under_load() {
    let history = run(async {
        let sim = three_of_five(14).await;
        let (plan, recorder) = (plan(14, 150), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let before = document(&sim, 0).await["table"].as_array().expect("a table").len();
        sleep(Duration::from_secs(2)).await;
        done(&sim, 0, json!({ "id": "d", "kind": "double" })).await;
        let after = document(&sim, 0).await["table"].as_array().expect("a table").len();
        assert_eq!(after, before * 2);
        let node = sim.node_id(3).await;
        done(&sim, 0, json!({ "id": "j", "kind": "join", "node": node })).await;
        done(&sim, 0, json!({ "id": "e", "kind": "double" })).await;
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "doubled", 99);
}
