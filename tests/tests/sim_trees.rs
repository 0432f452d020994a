//! Anti-entropy alone: with hand-back, hints and repair by reads switched off, replicas converge after whatever
//! happened; a tree that is blind to tombstones is found out; at rest only sums travel.

use std::time::Duration;

use hyper::Method;
use kvasir::planted::{Bug, Planted};
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::Violation;
use kvasir_tests::check::replicas::{self, Held};
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, Story, hunt, run};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Two stories for each kind of fault.
const SEEDS: u64 = 2 * Story::KINDS.len() as u64;

#[test]
fn replicas_converge_by_trees_alone_after_any_fault() {
    let seeds = std::env::var("KVASIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let found = hunt::hunt(0..seeds, Story::trees);
    found.assert_good();
    for other in ["copies handed back", "hints handed back", "read repairs"] {
        assert_eq!(found.work.done(other), 0, "{other}");
    }
    assert!(found.work.done("keys mended by trees") > 0);
    for kind in Story::KINDS.iter().filter(|_| seeds >= SEEDS) {
        assert!(found.fired.contains_key(kind), "no {kind} in {} stories", found.stories);
    }
}

/// Keys of which two hosts hold different sets though trees had their time, after one host missed how they were
/// written and how half of them were deleted. (A value that it still held would give the deletion away.)
async fn diverged_after_deletes(planted: Planted) -> Vec<Violation> {
    let mut sim = Sim::new(7, 3, &["repair.interval=5s", "repair.tree_bits=16"]);
    sim.planted = planted.with_trees_alone();
    sim.form(3).await;
    sim.isolate(2);
    sleep(Duration::from_secs(20)).await;
    let client = sim.client(Duration::from_secs(30));
    for key in 0..KEYS {
        assert_eq!(put(&sim, 0, key, "v", "w=2&sloppy=false").await, 204);
    }
    for key in (0..KEYS).step_by(2) {
        let ask = Ask::new(Method::DELETE, format!("/v1/kv/b/{key}?w=2&sloppy=false"));
        assert_eq!(client.ask(&sim.servers()[0], ask).await.expect("an answer").status, 204);
    }
    sim.heal();
    sleep(Duration::from_secs(60)).await;
    let mut held = Vec::new();
    for key in (0..KEYS).map(|key| key.to_string()) {
        for host in 0..3 {
            let read = sim.replica(host, "b", &key).await.expect("it serves");
            held.push(Held { key: key.clone(), read });
        }
    }
    replicas::converged(&held)
}

#[test]
fn a_tree_blind_to_tombstones_is_found() {
    assert_eq!(run(diverged_after_deletes(Planted::default())), []);
    let found = run(diverged_after_deletes(Planted::bug(Bug::TombstonesUnseen)));
    println!("tombstones unseen: {} keys, the first: {}", found.len(), found[0]);
    assert_eq!(found.len(), KEYS / 2);
}

async fn status(sim: &Sim, host: usize) -> Value {
    let answer = sim.admin(host, Method::GET, "/v1/repair", None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

async fn put(sim: &Sim, host: usize, key: usize, value: &str, query: &str) -> u16 {
    let mut ask = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?{query}"));
    ask.body = value.to_string().into();
    let client = sim.client(Duration::from_secs(30));
    client.ask(&sim.servers()[host], ask).await.expect("an answer").status
}

/// The digest that a host holds of a key.
async fn digest(sim: &Sim, host: usize, key: usize) -> Option<String> {
    sim.replica(host, "b", &key.to_string()).await.and_then(|read| read.digest)
}

const KEYS: usize = 60;
/// Bytes of the head of a frame.
const HEAD_BYTES: u64 = 60;

#[test]
fn a_node_that_was_away_longer_than_hints_last_is_compared_first_and_a_crash_costs_no_rebuild() {
    run(async {
        let sets = ["repair.interval=1h", "repair.tree_bits=16", "handoff.hints_max_age=20s"];
        let mut sim = Sim::new(5, 3, &sets);
        sim.planted = Planted::default().with_trees_alone();
        sim.form(3).await;
        for key in 0..KEYS {
            assert_eq!(put(&sim, 0, key, "before", "w=all").await, 204);
        }
        // The first comparison of every pair.
        sleep(Duration::from_secs(10)).await;
        sim.crash(2, Crash::DropAll).await;
        sleep(Duration::from_secs(20)).await;
        for key in 0..KEYS {
            assert_eq!(put(&sim, 0, key, "meanwhile", "w=2&sloppy=false").await, 204);
        }
        sleep(Duration::from_secs(20)).await;
        sim.start(2);
        sim.until_ready(2).await;
        let begun = Instant::now();
        for key in 0..KEYS {
            while digest(&sim, 2, key).await != digest(&sim, 0, key).await {
                assert!(begun.elapsed() < Duration::from_secs(30), "key {key} is not mended");
                sleep(Duration::from_millis(200)).await;
            }
        }
        println!("{KEYS} keys mended within {:?} of the return", begun.elapsed());
        let tree = &status(&sim, 2).await["tree"];
        assert_eq!((&tree["rebuiltChunks"], &tree["doubtfulChunks"]), (&0.into(), &0.into()));
        assert!(tree["changes"].as_u64() > Some(0), "the log was replayed into it");
    });
}

#[test]
fn at_rest_a_pass_is_one_question_to_each_neighbour() {
    run(async {
        let sim = Sim::formed(6, 3, 3, &["repair.interval=10s", "repair.tree_bits=16"]).await;
        for key in 0..KEYS {
            assert_eq!(put(&sim, 0, key, "v", "w=all").await, 204);
        }
        sleep(Duration::from_secs(30)).await;
        let before = status(&sim, 1).await;
        sleep(Duration::from_secs(100)).await;
        let after = status(&sim, 1).await;
        let grown = |field: &str| {
            after[field].as_u64().expect("a number") - before[field].as_u64().expect("a number")
        };
        let (passes, bytes) = (grown("comparisonsEver"), grown("bytesEver"));
        println!("{passes} comparisons, {bytes} bytes: {before} {after}");
        assert!((18..=22).contains(&passes), "two neighbours, every ten seconds");
        let partitions = 64;
        // A second question would have a head of its own, and so would its answer.
        assert!(bytes <= passes * (partitions * 10 + 2 * HEAD_BYTES), "nothing but sums, once");
        assert_eq!((grown("keysRepairedEver"), &after["differingPartitions"]), (0, &0.into()));
        assert!(after["oldestComparisonMs"].as_u64() < Some(15_000));
    });
}

async fn post(sim: &Sim, host: usize, path: &str, body: Value) -> (u16, Value) {
    let answer = sim.admin(host, Method::POST, path, Some(body)).await.expect("an answer");
    (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
}

/// Waits until the round of a host is over.
async fn round(sim: &Sim, host: usize) -> Value {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = status(sim, host).await;
        if status["running"] == false && status["comparisonsTotal"] != 0 {
            return status;
        }
        assert!(Instant::now() < until, "{status}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Three nodes of which one missed some keys of two buckets, and nothing compares by itself any more.
async fn behind() -> Sim {
    let mut sim = Sim::new(8, 3, &["repair.interval=10h", "repair.tree_bits=16"]);
    sim.planted = Planted::default().with_trees_alone();
    sim.form(3).await;
    sleep(Duration::from_secs(10)).await;
    sim.isolate(2);
    sleep(Duration::from_secs(20)).await;
    let client = sim.client(Duration::from_secs(30));
    for key in 0..KEYS {
        for bucket in ["b", "c"] {
            let path = format!("/v1/kv/{bucket}/{key}?w=2&sloppy=false");
            let mut ask = Ask::new(Method::PUT, path);
            ask.body = "v".into();
            assert_eq!(client.ask(&sim.servers()[0], ask).await.expect("an answer").status, 204);
        }
    }
    sim.heal();
    sleep(Duration::from_secs(20)).await;
    sim
}

/// How many keys of a bucket a host holds.
async fn held(sim: &Sim, host: usize, bucket: &str) -> usize {
    let mut held = 0;
    for key in 0..KEYS {
        let read = sim.replica(host, bucket, &key.to_string()).await;
        held += usize::from(read.is_some_and(|read| read.found));
    }
    held
}

#[test]
fn a_round_covers_a_bucket_or_partitions_or_everything_and_can_be_paused() {
    run(async {
        let sim = behind().await;
        assert_eq!((held(&sim, 2, "b").await, held(&sim, 2, "c").await), (0, 0));
        let path = "/v1/repair";
        let bits = &status(&sim, 2).await["tree"]["bits"];
        assert_eq!(bits, 16);
        for (bad, code) in [
            (json!({"partitions": []}), "bad_request"),
            (json!({"partitions": [{"bits": 3, "index": 0}]}), "bad_request"),
            (json!({"bucket": ""}), "bad_request"),
            (json!({"action": "pause", "bucket": "b"}), "bad_request"),
            (json!({"action": "halt"}), "malformed_body"),
            (json!({"partition": 3}), "malformed_body"),
        ] {
            let (refused, problem) = post(&sim, 2, path, bad.clone()).await;
            assert_eq!((refused, &problem["code"]), (400, &json!(code)), "{bad}");
        }
        assert_eq!(status(&sim, 2).await["comparisonsTotal"], 0, "nothing began");
        assert_eq!(post(&sim, 2, path, json!({"bucket": "b"})).await.0, 202);
        let told = round(&sim, 2).await;
        assert_eq!((&told["keysRepaired"], &told["bucket"]), (&json!(KEYS), &json!("b")));
        assert_eq!((held(&sim, 2, "b").await, held(&sim, 2, "c").await), (KEYS, 0));
        assert_eq!(post(&sim, 2, path, json!({"action": "pause"})).await.1["paused"], true);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(held(&sim, 2, "c").await, 0);
        let partition = json!({"partitions": [{"bits": 6, "index": 9}]});
        assert_eq!(post(&sim, 2, path, partition).await.1["paused"], false, "a start ends it");
        let told = round(&sim, 2).await;
        assert_eq!(told["comparisonsTotal"], 2, "one partition, two neighbours");
        assert!(held(&sim, 2, "c").await < KEYS);
        assert_eq!(post(&sim, 2, path, json!({})).await.0, 202);
        let told = round(&sim, 2).await;
        assert_eq!(
            (&told["comparisonsDone"], &told["comparisonsSkipped"]),
            (&json!(128), &json!(0))
        );
        assert_eq!(held(&sim, 2, "c").await, KEYS);
    });
}

#[test]
fn a_recorded_repair_is_begun_by_every_node_once() {
    run(async {
        let sim = behind().await;
        let repair = json!({"id": "nightly-1", "kind": "repair"});
        let (answered, told) = post(&sim, 0, "/v1/operations", repair.clone()).await;
        assert_eq!((answered, &told["state"]), (200, &json!("done")), "{told}");
        for host in 0..3 {
            let told = round(&sim, host).await;
            assert_eq!(told["operation"], "nightly-1");
        }
        assert_eq!((held(&sim, 2, "b").await, held(&sim, 2, "c").await), (KEYS, KEYS));
        let before = status(&sim, 1).await["comparisonsEver"].clone();
        assert_eq!(post(&sim, 1, "/v1/operations", repair).await.0, 200, "the same again");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(status(&sim, 1).await["comparisonsEver"], before);
        let stranger =
            json!({"id": "x", "kind": "repair", "node": "00000000-0000-0000-0000-000000000001"});
        assert_eq!(post(&sim, 0, "/v1/operations", stranger).await.0, 404);
    });
}

/// How many partitions two nodes own together, by the document.
fn shared(document: &Value, one: &str, other: &str) -> u64 {
    let entries = document["document"]["table"].as_array().expect("a table");
    let owned = |entry: &&Value| {
        let slots = entry["slots"]["dc1"].as_array().expect("slots");
        let has = |node: &str| slots.iter().any(|slot| slot["owner"] == node);
        has(one) && has(other)
    };
    entries.iter().filter(owned).count() as u64
}

/// Five nodes, nothing compared by its turn for an hour; the last was away for longer than hints last, and
/// missed what the others wrote.
async fn returned() -> Sim {
    let sets = ["repair.interval=1h", "repair.tree_bits=16", "handoff.hints_max_age=30s"];
    let mut sim = Sim::new(9, 5, &sets);
    sim.planted = Planted::default().with_trees_alone();
    sim.form(3).await;
    // The first comparison of every pair.
    sleep(Duration::from_secs(30)).await;
    sim.isolate(4);
    sleep(Duration::from_secs(50)).await;
    for host in 0..5 {
        post(&sim, host, "/v1/repair", json!({"action": "pause"})).await;
    }
    for key in 0..KEYS {
        assert_eq!(put(&sim, 0, key, "meanwhile", "w=2&sloppy=false").await, 204);
    }
    sim.heal();
    sleep(Duration::from_secs(20)).await;
    sim
}

#[test]
fn who_returns_is_compared_before_all_else_and_in_exactly_what_is_shared() {
    run(async {
        let sim = returned().await;
        let document = sim.admin(0, Method::GET, "/v1/cluster/document", None).await;
        let document: Value = serde_json::from_slice(&document.expect("one").body).expect("JSON");
        let away = sim.node_id(4).await.to_string();
        for host in 0..4 {
            let me = sim.node_id(host).await.to_string();
            let partitions = shared(&document, &me, &away);
            assert!((1..64).contains(&partitions), "{partitions} of 64 are shared");
            let first = json!([{ "node": away, "partitions": partitions }]);
            assert_eq!(status(&sim, host).await["comparedFirst"], first, "host {host} waits");
            let before = status(&sim, host).await["comparisonsEver"].as_u64().expect("a number");
            // A round over everything, which also ends the pause: it comes second.
            assert_eq!(post(&sim, host, "/v1/repair", json!({})).await.0, 202);
            let told = round(&sim, host).await;
            let last = told["lastComparisons"].as_array().expect("comparisons");
            let made = told["comparisonsEver"].as_u64().expect("a number") - before;
            // The newest first.
            let (first, asked) = last[..made as usize].split_last().expect("some");
            assert_eq!(
                (&first["node"], &first["cause"], &first["partitions"], &first["equal"]),
                (&json!(away), &json!("returned"), &json!(partitions), &json!(partitions)),
                "host {host}: {last:?}"
            );
            assert!(asked.iter().all(|one| one["cause"] == "asked"), "host {host}: {last:?}");
            assert_eq!(told["comparedFirst"], Value::Null, "{told}");
        }
        let mut missed = 0;
        for key in (0..KEYS).map(|key| key.to_string()) {
            let read = sim.replica(4, "b", &key).await.expect("it serves");
            assert_eq!(read.owner, read.found, "key {key}");
            missed += usize::from(read.owner);
        }
        println!("{missed} keys that it missed are there");
        assert!(missed > 0);
    });
}
