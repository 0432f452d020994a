//! Copies that were handed over, in simulation: their space comes back, the hash tree follows, whatever
//! crashes meanwhile; and nothing is removed that was not handed over.

use std::time::Duration;

use hyper::Method;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Partition;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, Stored, run};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Small files, so that there is something to merge.
const SMALL: &[&str] = &[
    "storage.memtable_bytes=64KiB",
    "storage.log_segment_bytes=64KiB",
    "storage.compression=none",
];
const KEYS: usize = 240;
/// Longest virtual wait for what should happen soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// Four hosts of which three are a cluster; every key is on all three.
async fn filled(seed: u64) -> Sim {
    let sim = Sim::some_formed(seed, (4, 3), Some(4), SMALL).await;
    write(&sim, 0..KEYS, "v").await;
    sim
}

async fn write(sim: &Sim, keys: std::ops::Range<usize>, value: &str) {
    let (http, servers) = (sim.client(Duration::from_secs(10)), sim.servers());
    for key in keys {
        let mut ask = Ask::new(Method::PUT, format!("/v1/kv/b/k{key}?w=all"));
        ask.body = value.repeat(2_000).into_bytes().into();
        let answer = http.ask(&servers[key % 3], ask).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// Waits until these hosts have removed all that they gave.
async fn removed(sim: &Sim, hosts: &[usize]) {
    let until = Instant::now() + PATIENCE;
    let waits = |host: &usize| sim.moves(*host).is_none_or(|moves| moves.leaving > 0);
    while hosts.iter().any(waits) {
        assert!(Instant::now() < until, "copies that were handed over stay");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What each of these hosts stores is what the document names it for: owners hold the same, others nothing,
/// and the trees say so too. The keys of all owners together.
async fn tidy(sim: &Sim, hosts: &[usize]) -> u64 {
    let document = sim.settled(hosts).await;
    let mut nodes: Vec<(usize, NodeId)> = Vec::new();
    for host in hosts {
        nodes.push((*host, sim.node_id(*host).await));
    }
    let mut keys = 0;
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        let mut owners = Vec::new();
        for (host, node) in &nodes {
            let stored = sim.stored(*host, partition).await;
            if entry.names(*node) {
                owners.push(stored);
            } else {
                assert_eq!(stored, Stored::default(), "host {host} keeps data of {partition}");
            }
        }
        assert_eq!(owners.len(), 3, "{partition}");
        assert!(owners.windows(2).all(|two| two[0] == two[1]), "{partition}: {owners:?}");
        keys += owners.iter().map(|one| one.keys).sum::<u64>();
    }
    keys
}

#[test]
fn what_was_handed_over_gives_its_space_back() {
    run(async {
        let mut sim = filled(1).await;
        let all = (KEYS * 3) as u64;
        let joiner = sim.node_id(3).await;
        sim.done(0, json!({ "id": "j", "kind": "join", "node": joiner })).await;
        removed(&sim, &[0, 1, 2, 3]).await;
        assert_eq!(tidy(&sim, &[0, 1, 2, 3]).await, all);
        let gone: u64 = (0..3).map(|host| sim.moves(host).expect("it runs").removed).sum();
        assert_eq!(gone, sim.moves(3).expect("it runs").copied, "one for each copy that moved");
        for host in 0..4 {
            sim.crash(host, Crash::DropAll).await;
            sim.start(host);
        }
        for host in 0..4 {
            sim.until_ready(host).await;
        }
        assert_eq!(tidy(&sim, &[0, 1, 2, 3]).await, all, "a power cut brings nothing back");
        // The joiner gives everything away again.
        sleep(Duration::from_secs(10)).await;
        let before = sim.table_bytes(3);
        sim.done(0, json!({ "id": "l", "kind": "leave", "node": joiner })).await;
        removed(&sim, &[0, 1, 2, 3]).await;
        sleep(Duration::from_secs(10)).await;
        let after = sim.table_bytes(3);
        println!("tables of the node that left: {before} B before, {after} B after");
        assert!(before > 100_000 && after * 20 < before, "the disk does not come back");
        assert_eq!(tidy(&sim, &[0, 1, 2]).await, all);
        // What it gains again is nothing of what it had.
        write(&sim, 0..KEYS / 2, "w").await;
        sim.done(0, json!({ "id": "k", "kind": "join", "node": joiner })).await;
        removed(&sim, &[0, 1, 2, 3]).await;
        assert_eq!(tidy(&sim, &[0, 1, 2, 3]).await, all);
    });
}

/// The joiner comes; a host that gives to it crashes so long after it noted the first handover.
async fn crashes_meanwhile(seed: u64, after: Duration, crash: Crash) {
    let mut sim = filled(seed).await;
    let joiner = sim.node_id(3).await;
    let (status, answer) = sim.post(1, json!({ "id": "j", "kind": "join", "node": joiner })).await;
    assert_eq!(status, 200, "{answer}");
    let until = Instant::now() + PATIENCE;
    while sim.moves(0).is_none_or(|moves| moves.leaving == 0) {
        assert!(Instant::now() < until, "nothing moves");
        sleep(Duration::from_millis(5)).await;
    }
    sleep(after).await;
    sim.crash(0, crash).await;
    sleep(Duration::from_secs(1)).await;
    sim.start(0);
    sim.until_ready(0).await;
    let end = sim.carried_out(1, "j").await;
    assert_eq!(end["state"], "done", "{end}");
    removed(&sim, &[0, 1, 2, 3]).await;
    assert_eq!(tidy(&sim, &[0, 1, 2, 3]).await, (KEYS * 3) as u64);
}

#[test]
fn a_crash_at_any_moment_leaves_it_to_the_next_start() {
    let moments = [0, 200, 400, 700, 1_000, 1_400];
    for (seed, after_ms) in (10..).zip(moments) {
        let crash = if seed % 2 == 0 { Crash::DropAll } else { Crash::Torn(512) };
        run(crashes_meanwhile(seed, Duration::from_millis(after_ms), crash));
    }
}

#[test]
fn what_was_not_handed_over_stays() {
    run(async {
        let mut sim = filled(20).await;
        let (lost, new) = (sim.node_id(2).await, sim.node_id(3).await);
        let held = sim.table_bytes(2);
        // It is taken for dead and replaced: no document tells it that it gave anything away.
        sim.crash(2, Crash::Process).await;
        sleep(Duration::from_secs(20)).await;
        let body = json!({ "id": "r", "kind": "replace", "node": new, "replaces": lost });
        sim.done(0, body).await;
        assert_eq!(tidy(&sim, &[0, 1, 3]).await, (KEYS * 3) as u64);
        sim.start(2);
        sleep(Duration::from_secs(30)).await;
        let document = sim.document(0).expect("it runs");
        let mut keys = 0;
        for partition in Partition::all(document.partition_bits) {
            keys += sim.stored(2, partition).await.keys;
        }
        assert_eq!(keys, KEYS as u64, "a document alone removes nothing");
        println!("{held} B of tables before the crash, {} B after it", sim.table_bytes(2));
    });
}
