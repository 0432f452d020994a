//! Real nodes come, go and are replaced under a checking load: three become five and three again, and one that
//! was killed for good is replaced. Correctness and counts are asserted; bytes and times are printed.

use std::time::{Duration, Instant};

use hyper::Method;
use kvasir_tests::check::Demand;
use kvasir_tests::load::Plan;
use kvasir_tests::load::http::Ask;
use kvasir_tests::load::run::Aim;
use kvasir_tests::process::{Cluster, Load, PATIENCE, run};
use serde_json::{Value, json};

const KEYS: u32 = 80;
/// Operations of the load that must end in every part of a story.
const ENOUGH: usize = 300;

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        clients: 6,
        operations: u32::MAX,
        keys: KEYS,
        read_percent: 40,
        delete_percent: 4,
        token_percent: 60,
        padding: 1_000,
    }
}

/// The load at these nodes.
async fn load(cluster: &Cluster, seed: u64, nodes: &[usize]) -> Load {
    let servers = nodes.iter().map(|node| cluster.nodes[*node].http.clone()).collect();
    let (level, query) = ("quorum".to_string(), "timeout=10s&sloppy=false".to_string());
    Load::start(plan(seed), Aim { servers, level, query, think_ms: 20 }).await
}

/// How many slots of the table name a node, and all slots.
fn owned(document: &Value, node: &str) -> (usize, usize) {
    let entries = document["document"]["table"].as_array().expect("a table");
    let slots = entries.iter().flat_map(|e| e["slots"]["dc1"].as_array().expect("slots"));
    let owners: Vec<&Value> = slots.map(|slot| &slot["owner"]).collect();
    (owners.iter().filter(|owner| **owner == node).count(), owners.len())
}

/// Waits until a node has heard that this one is alive.
async fn until_heard(cluster: &Cluster, node: usize, id: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, status) = cluster.json(node, Method::GET, "/v1/status", None).await;
        let rows = status["nodes"].as_array().cloned().unwrap_or_default();
        if rows.iter().any(|row| row["id"] == id && row["liveness"] == "alive") {
            return;
        }
        assert!(Instant::now() < until, "node {node} does not hear of {id}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Carries a change out, prints what it took, and gives what it says in the end.
async fn change(cluster: &Cluster, load: &Load, by: usize, body: Value) -> Value {
    let (begun, from_ms) = (Instant::now(), load.recorder.now_ms());
    let said = cluster.operate(by, body).await;
    let took = begun.elapsed();
    let bytes = said["movedBytes"].as_u64().expect("a number");
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    println!(
        "{} {}: {} of {} replicas moved, {bytes} B in {took:.1?} ({rate:.3} MB/s), p99 meanwhile {} ms",
        said["request"]["kind"],
        said["request"]["node"],
        said["movesDone"],
        said["movesTotal"],
        load.p99_ms(from_ms, load.recorder.now_ms()),
    );
    assert_eq!(said["movesDone"], said["movesTotal"], "{said}");
    said
}

#[test]
fn three_become_five_and_three_again_and_nobody_notices() {
    run(async {
        let mut cluster = Cluster::start(5, &[]).await;
        cluster.form(3, 3).await;
        let mut ids = Vec::new();
        for node in 0..5 {
            ids.push(cluster.id(node).await);
        }
        // Clients speak to the two nodes that stay all the time.
        let mut load = load(&cluster, 1, &[0, 2]).await;
        load.goes_on(ENOUGH).await;
        println!("p99 before {} ms", load.p99_ms(0, load.recorder.now_ms()));
        for (node, members) in [(3, 4), (4, 5)] {
            until_heard(&cluster, 0, &ids[node]).await;
            let id = format!("join-{node}");
            let join = json!({ "id": id, "kind": "join", "node": ids[node] });
            let said = change(&cluster, &load, 0, join).await;
            let (share, slots) = owned(&cluster.document(0).await, &ids[node]);
            let even = slots / members;
            assert!((even..=even + 1).contains(&share), "{share} of {slots} slots");
            assert_eq!(said["movesDone"], share, "a slot moved that need not");
            cluster.until_ready(node).await;
        }
        load.goes_on(ENOUGH).await;
        // One that was there from the start, and one that came.
        for node in [1, 3] {
            let had = owned(&cluster.document(0).await, &ids[node]).0;
            let id = format!("leave-{node}");
            let leave = json!({ "id": id, "kind": "leave", "node": ids[node] });
            let said = change(&cluster, &load, 2, leave).await;
            // Somebody may have to give a slot up to be able to take one of those that become free.
            let moved = said["movesDone"].as_u64().expect("a number") as usize;
            println!("{moved} replicas moved for {had} that it had");
            assert!((had..=had + had / 10).contains(&moved), "slots moved that need not");
            let now = cluster.document(2).await;
            assert!(now["document"]["members"].get(&ids[node]).is_none(), "it is a member still");
            assert_eq!(owned(&now, &ids[node]).0, 0);
            cluster.signal(node, "TERM");
            assert_eq!(cluster.wait(node), Some(0));
        }
        load.goes_on(ENOUGH).await;
        load.stop().await;
        cluster.until_handed_back().await;
        let demand =
            Demand { operations: 3 * ENOUGH, ok_percent: 100, settled_keys: KEYS as usize };
        load.judged(&cluster, demand).await.assert_good();
    });
}

#[test]
fn a_node_killed_for_good_is_replaced_and_its_disk_is_refused_later() {
    run(async {
        let mut cluster = Cluster::start(4, &[]).await;
        cluster.form(3, 3).await;
        let (dead, new) = (cluster.id(1).await, cluster.id(3).await);
        let mut load = load(&cluster, 2, &[0, 2]).await;
        load.goes_on(ENOUGH).await;
        cluster.kill(1);
        cluster.until_all_say(1, &dead, &["down"]).await;
        until_heard(&cluster, 0, &new).await;
        let replace = json!({ "id": "r", "kind": "replace", "node": new, "replaces": dead });
        change(&cluster, &load, 0, replace).await;
        let now = cluster.document(0).await;
        assert!(now["document"]["members"].get(&dead).is_none(), "the dead is a member still");
        let (share, slots) = owned(&now, &new);
        assert_eq!((share * 3, owned(&now, &dead).0), (slots, 0), "it has all that the dead had");
        cluster.until_ready(3).await;
        load.goes_on(ENOUGH).await;
        // The old disk comes back, with the identity that was retired: it must not serve.
        cluster.restart_alone(1).await;
        until_heard(&cluster, 0, &dead).await;
        load.goes_on(ENOUGH).await;
        let ready = cluster.admin(1, Method::GET, "/readyz", None).await.expect("an answer");
        assert_eq!(ready.status, 503, "a retired node serves: {}", ready.text());
        assert!(ready.text().contains("no member"), "{}", ready.text());
        let mut put = Ask::new(Method::PUT, "/v1/kv/check/key-0");
        put.body = "late".into();
        let put = cluster.ask(1, put).await.expect("an answer");
        assert_eq!(put.status, 503, "{}", put.text());
        assert!(put.text().contains("\"may_be_stored\":false"), "{}", put.text());
        load.stop().await;
        cluster.kill(1);
        cluster.until_handed_back().await;
        let demand = Demand { operations: 3 * ENOUGH, ok_percent: 99, settled_keys: KEYS as usize };
        load.judged(&cluster, demand).await.assert_good();
    });
}
