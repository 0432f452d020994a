//! Reclaim in simulation: nothing is erased while a member is down, and the status says which; then all of it
//! is, on every owner, and nothing comes back, whatever is late, stands in or starts again.
//!
//! `KVASIR_SEEDS` says how many random stories are told (default 3; soak takes 500).

use std::time::Duration;

use hyper::Method;
use kvasir::planted::{Bug, Planted};
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::HttpClient;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Conditions, Sim, Story, hunt, run};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Fast enough to be watched.
const FAST: &[&str] = &[
    "reclaim.generation=2s",
    "reclaim.min_age=5s",
    "reclaim.pause=2s",
    "storage.memtable_bytes=64KiB",
    "storage.log_segment_bytes=64KiB",
];
/// Keys that are written and deleted.
const KEYS: usize = 120;
/// Longest virtual wait for the last tombstone: every owner has its turn, of eight generations each.
const PATIENCE: Duration = Duration::from_secs(300);

async fn ask(http: &HttpClient, server: &str, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.as_bytes().to_vec().into();
    http.ask(server, ask).await.expect("an answer")
}

/// Keys of which a host stores anything.
async fn stored(sim: &Sim, host: usize) -> usize {
    let mut found = 0;
    for key in 0..KEYS {
        let read = sim.replica(host, "b", &format!("k{key}")).await.expect("the host serves");
        found += usize::from(read.found);
    }
    found
}

/// What the status of a host says of reclaim.
async fn reclaim(sim: &Sim, host: usize) -> Value {
    let answer = sim.admin(host, Method::GET, "/v1/status", None).await.expect("an answer");
    let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let own = nodes.into_iter().find(|node| node["load"].is_object()).expect("its own row");
    own["load"]["reclaim"].clone()
}

async fn write_and_delete(sim: &Sim, hosts: &[usize]) {
    let http = sim.client(Duration::from_secs(10));
    let servers = sim.servers();
    let value = "v".repeat(2_000);
    for key in 0..KEYS {
        let (server, path) = (&servers[hosts[key % hosts.len()]], format!("/v1/kv/b/k{key}"));
        let put = ask(&http, server, Method::PUT, &path, &value).await;
        assert_eq!(put.status, 204, "{}", put.text());
        let delete = ask(&http, server, Method::DELETE, &path, "").await;
        assert_eq!(delete.status, 204, "{}", delete.text());
    }
}

/// Waits until no host stores anything; no read may show a value meanwhile.
async fn until_empty(sim: &Sim, hosts: usize) {
    let until = Instant::now() + PATIENCE;
    let http = sim.client(Duration::from_secs(10));
    loop {
        let mut left = 0;
        for host in 0..hosts {
            left += stored(sim, host).await;
            let path = format!("/v1/kv/b/k{}", left % KEYS);
            let read = ask(&http, &sim.servers()[host], Method::GET, &path, "").await;
            assert_eq!(read.status, 404, "{path} through host {host}");
        }
        if left == 0 {
            return;
        }
        assert!(Instant::now() < until, "{left} records are left: {}", reclaim(sim, 0).await);
        sleep(Duration::from_secs(2)).await;
    }
}

#[test]
fn nothing_is_erased_while_an_owner_is_down_and_then_everything_is() {
    run(async {
        let mut sim = Sim::formed(61, 3, 3, FAST).await;
        // Until all have heard of all.
        sleep(Duration::from_secs(5)).await;
        sim.crash(2, Crash::DropAll).await;
        let down = {
            // Its id is told by the others, who know it as a member.
            let answer = sim.admin(0, Method::GET, "/v1/status", None).await.expect("an answer");
            let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let nodes = status["nodes"].as_array().cloned().expect("nodes");
            let at = |n: &Value| n["peer"] == "n2:8099";
            nodes.into_iter().find(at).expect("host 2")["id"].clone()
        };
        write_and_delete(&sim, &[0, 1]).await;
        sleep(Duration::from_secs(120)).await;
        for host in [0, 1] {
            assert_eq!(stored(&sim, host).await, KEYS, "host {host} erased something");
            let told = reclaim(&sim, host).await;
            assert_eq!(told["erased"], 0);
            assert_eq!(told["heldUpBy"][0]["node"], down, "{told}");
            assert_eq!(told["heldUpBy"][0]["why"], "generation", "{told}");
        }
        let before: u64 = disk_bytes(&sim, 0).await;
        sim.start(2);
        sim.until_ready(2).await;
        until_empty(&sim, 3).await;
        let told = reclaim(&sim, 0).await;
        assert_eq!(told["heldUpBy"], serde_json::json!([]), "{told}");
        assert!(told["erased"].as_u64() >= Some(KEYS as u64), "{told}");
        // New data goes its way through the log, and merges drop what erase marks covered.
        let http = sim.client(Duration::from_secs(10));
        for round in 0..200 {
            let path = format!("/v1/kv/other/k{}", round % 5);
            ask(&http, &sim.servers()[0], Method::PUT, &path, &"w".repeat(2_000)).await;
            ask(&http, &sim.servers()[0], Method::DELETE, &path, "").await;
        }
        sleep(Duration::from_secs(60)).await;
        let after = disk_bytes(&sim, 0).await;
        println!("bytes on disk: {before} while held up, {after} afterwards");
        assert!(after < before, "{after} bytes on disk, {before} before");
    });
}

#[test]
fn values_that_ended_are_erased_like_deleted_ones() {
    run(async {
        let mut sim = Sim::formed(67, 3, 3, FAST).await;
        sleep(Duration::from_secs(5)).await;
        let (http, servers) = (sim.client(Duration::from_secs(10)), sim.servers());
        for key in 0..KEYS {
            let path = format!("/v1/kv/b/k{key}?ttl={}s", 20 + key % 10);
            let put = ask(&http, &servers[key % 3], Method::PUT, &path, "v").await;
            assert_eq!(put.status, 204, "{}", put.text());
        }
        assert_eq!(stored(&sim, 1).await, KEYS);
        // One start in the middle: what ended stays ended, and is erased all the same.
        sleep(Duration::from_secs(32)).await;
        sim.crash(1, Crash::DropAll).await;
        sim.start(1);
        sim.until_ready(1).await;
        until_empty(&sim, 3).await;
    });
}

async fn disk_bytes(sim: &Sim, host: usize) -> u64 {
    let answer = sim.admin(host, Method::GET, "/v1/status", None).await.expect("an answer");
    let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let own = nodes.into_iter().find(|node| node["load"].is_object()).expect("its own row");
    own["load"]["diskBytes"].as_u64().expect("a number")
}

#[test]
fn restarts_and_stand_ins_end_in_nothing_too() {
    run(async {
        let mut sim = Sim::formed(62, 4, 3, FAST).await;
        sim.crash(3, Crash::DropAll).await;
        sleep(Duration::from_secs(15)).await;
        write_and_delete(&sim, &[0, 1, 2]).await;
        sim.start(3);
        for host in [0, 1, 2] {
            sleep(Duration::from_secs(7)).await;
            sim.crash(host, Crash::DropAll).await;
            sim.start(host);
            sim.until_ready(host).await;
        }
        until_empty(&sim, 4).await;
    });
}

fn seeds() -> u64 {
    std::env::var("KVASIR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3)
}

#[test]
fn random_stories_with_reclaim_break_no_rule() {
    let found = hunt::hunt(0..seeds(), Story::reclaiming);
    found.assert_good();
    println!("{} sets erased", found.erased);
    assert!(found.erased > 0, "nothing was ever erased: the stories show nothing");
}

/// Settings under which a tombstone goes as soon as it may.
const FASTEST: &[&str] = &[
    "reclaim.generation=1s",
    "reclaim.min_age=0s",
    "reclaim.pause=1s",
    "storage.memtable_bytes=64KiB",
];

/// Keys of which a host holds a value.
async fn values(sim: &Sim, host: usize) -> usize {
    let mut found = 0;
    for key in 0..KEYS {
        let read = sim.replica(host, "b", &format!("k{key}")).await.expect("the host serves");
        found += usize::from(read.siblings.iter().any(|one| one.value_base64.is_some()));
    }
    found
}

/// A stand-in keeps values, and stands still while they are deleted. How many are back once it goes on.
async fn a_stand_in_wakes_up(planted: Planted) -> usize {
    let mut sim = Sim::new(63, 4, FASTEST);
    sim.planted = planted;
    sim.form(3).await;
    sleep(Duration::from_secs(5)).await;
    let http = sim.client(Duration::from_secs(10));
    let servers = sim.servers();
    let mut keys = Vec::new();
    for key in (0..KEYS).map(|key| format!("k{key}")) {
        // Of four nodes the one that is no owner stands in.
        if !sim.replica(0, "b", &key).await.expect("host 0 serves").owner {
            keys.push(key);
        }
    }
    sim.crash(3, Crash::DropAll).await;
    sleep(Duration::from_secs(15)).await;
    for key in &keys {
        let path = format!("/v1/kv/b/{key}?w=3");
        let put = ask(&http, &servers[1], Method::PUT, &path, "old").await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
    sim.pause(0, true);
    sim.start(3);
    sim.until_ready(3).await;
    for key in &keys {
        let path = format!("/v1/kv/b/{key}?w=3&sloppy=false");
        let delete = ask(&http, &servers[1], Method::DELETE, &path, "").await;
        assert_eq!(delete.status, 204, "{}", delete.text());
    }
    // Before the others hold it for down.
    sleep(Duration::from_secs(5)).await;
    sim.pause(0, false);
    sleep(Duration::from_secs(60)).await;
    values(&sim, 1).await + values(&sim, 2).await + values(&sim, 3).await
}

#[test]
fn a_tombstone_that_is_erased_early_is_found() {
    let back = |planted: Planted| -> usize { run(a_stand_in_wakes_up(planted)) };
    assert_eq!(back(Planted::default()), 0);
    let found = back(Planted::bug(Bug::EraseEarly));
    assert!(found > 0, "the bug was not seen");
    println!("{found} values came back");
}

/// Writes are sent and arrive within a minute; meanwhile their keys are deleted. How many values are back.
async fn writes_arrive_late(seed: u64, planted: Planted) -> usize {
    let mut sim = Sim::new(seed, 3, FASTEST);
    sim.planted = planted;
    sim.form(3).await;
    sleep(Duration::from_secs(5)).await;
    let http = sim.client(Duration::from_secs(10));
    let servers = sim.servers();
    let late = Conditions { late_permille: 500, late_ms: 60_000, ..Conditions::default() };
    sim.weather.set(late);
    for key in 0..KEYS {
        let path = format!("/v1/kv/b/k{key}?timeout=100ms");
        ask(&http, &servers[key % 3], Method::PUT, &path, "old").await;
    }
    sim.weather.set(Conditions::default());
    sleep(Duration::from_secs(2)).await;
    for key in 0..KEYS {
        let path = format!("/v1/kv/b/k{key}?w=3");
        let delete = ask(&http, &servers[key % 3], Method::DELETE, &path, "").await;
        assert_eq!(delete.status, 204, "{}", delete.text());
    }
    sleep(Duration::from_secs(120)).await;
    values(&sim, 0).await + values(&sim, 1).await + values(&sim, 2).await
}

#[test]
fn a_carrier_that_is_taken_late_is_found() {
    let back = |planted: Planted| -> usize { run(writes_arrive_late(64, planted)) };
    assert_eq!(back(Planted::default()), 0);
    let found = back(Planted::bug(Bug::TakeLate));
    assert!(found > 0, "the bug was not seen");
    println!("{found} values came back");
}

/// Keys are deleted and, at some moment around their erasure, written again. How many replicas acknowledged
/// the new value and do not hold it.
async fn written_again(seed: u64, planted: Planted) -> usize {
    let mut sim = Sim::new(seed, 3, FASTEST);
    sim.planted = planted;
    sim.form(3).await;
    sleep(Duration::from_secs(5)).await;
    let http = sim.client(Duration::from_secs(10));
    let servers = sim.servers();
    for key in 0..KEYS {
        let path = format!("/v1/kv/b/k{key}?w=3");
        ask(&http, &servers[0], Method::PUT, &path, "old").await;
        ask(&http, &servers[0], Method::DELETE, &path, "").await;
    }
    // Slow frames make the time long between the agreement and the erasure.
    sim.weather.set(Conditions { delay_ms: 600, ..Conditions::default() });
    let mut puts = Vec::new();
    for key in 0..KEYS {
        let (http, server) = (sim.client(Duration::from_secs(10)), servers[key % 3].clone());
        puts.push(tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(200) * key as u32).await;
            let path = format!("/v1/kv/b/k{key}?w=3");
            let put = ask(&http, &server, Method::PUT, &path, "new").await;
            assert_eq!(put.status, 204, "{}", put.text());
        }));
    }
    for put in puts {
        put.await.expect("a put ends");
    }
    sim.weather.set(Conditions::default());
    sleep(Duration::from_secs(10)).await;
    let mut held = 0;
    for host in 0..3 {
        held += values(&sim, host).await;
    }
    3 * KEYS - held
}

#[test]
fn an_erase_of_what_is_not_equal_is_found() {
    let lost = |seed, planted: Planted| -> usize { run(written_again(seed, planted)) };
    let bug = Planted::bug(Bug::EraseUnequal);
    let seen = (65..85).find(|seed| {
        assert_eq!(lost(*seed, Planted::default()), 0);
        lost(*seed, bug) > 0
    });
    println!("seen with seed {seen:?}");
    assert!(seen.is_some(), "the bug was not seen");
}
