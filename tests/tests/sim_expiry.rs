//! Values that end: they vanish on every replica, after restarts and hand-backs too, while replicas whose
//! clocks differ hold the same bytes all the time. And clocks that are far off take nobody along.

use std::time::Duration;

use hyper::Method;
use kvasir_core::admin_api::ReplicaRead;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Sim, run};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600_000;

async fn ask(sim: &Sim, host: usize, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.to_string().into();
    let client = sim.client(Duration::from_secs(20));
    client.ask(&format!("n{host}:8098"), ask).await.expect("an answer")
}

/// A cluster whose nodes have heard of each other.
async fn formed(seed: u64, hosts: usize) -> Sim {
    let sim = Sim::formed(seed, hosts, 3, &[]).await;
    seconds(5).await;
    sim
}

async fn put(sim: &Sim, host: usize, path: &str) {
    let answer = ask(sim, host, Method::PUT, path, "v").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// What this host answers of a key that it owns: its own copy is among those that it asks.
async fn status(sim: &Sim, host: usize, key: &str) -> u16 {
    ask(sim, host, Method::GET, &format!("/v1/kv/b/{key}?r=all"), "").await.status
}

async fn replicas(sim: &Sim, hosts: usize, key: &str) -> Vec<ReplicaRead> {
    let mut held = Vec::new();
    for host in 0..hosts {
        held.push(sim.replica(host, "b", key).await.expect("it runs"));
    }
    held
}

fn agree(held: &[ReplicaRead]) -> String {
    let first = held[0].digest.clone().expect("something is stored");
    assert!(held.iter().all(|read| read.digest.as_ref() == Some(&first)), "{held:?}");
    first
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[test]
fn replicas_with_wrong_clocks_hold_the_same_while_a_value_dies() {
    run(async {
        let mut sim = formed(71, 3).await;
        for (host, wrong) in [4 * SECOND, 0, -4 * SECOND].into_iter().enumerate() {
            sim.clock_wrong_by(host, wrong);
        }
        for host in 0..3 {
            put(&sim, host, &format!("/v1/kv/b/k{host}?ttl=20s&w=all")).await;
        }
        // k1 was written last but one: its writer had heard of the clock that is ahead, so it lives 24 s.
        for key in ["k0", "k1", "k2"] {
            let digest = agree(&replicas(&sim, 3, key).await);
            let ends = replicas(&sim, 3, key).await[0].siblings[0].expires_ms.expect("an end");
            assert_eq!(replicas(&sim, 3, key).await[1].siblings[0].expires_ms, Some(ends));
            assert_eq!(agree(&replicas(&sim, 3, key).await), digest);
        }
        let before = agree(&replicas(&sim, 3, "k1").await);
        for host in 0..3 {
            assert_eq!(status(&sim, host, "k1").await, 200, "host {host} at once");
        }
        seconds(21).await;
        // 24 s after the right clock: over for the one that is ahead, not for the others.
        let seen = [status(&sim, 0, "k1").await, status(&sim, 1, "k1").await];
        assert_eq!(seen, [404, 200]);
        assert_eq!(agree(&replicas(&sim, 3, "k1").await), before, "nothing is rewritten");
        seconds(4).await;
        let seen = [status(&sim, 1, "k1").await, status(&sim, 2, "k1").await];
        assert_eq!(seen, [404, 200]);
        seconds(5).await;
        for host in 0..3 {
            let read = ask(&sim, host, Method::GET, "/v1/kv/b/k1?r=all", "").await;
            assert_eq!(read.status, 404, "host {host} in the end");
            assert!(read.header("x-kvasir-context").is_some(), "a token all the same");
        }
        assert_eq!(agree(&replicas(&sim, 3, "k1").await), before, "nor by reading it");
        for host in 0..3 {
            sim.crash(host, Crash::DropAll).await;
            sim.start(host);
        }
        for host in 0..3 {
            sim.until_ready(host).await;
        }
        for host in 0..3 {
            assert_eq!(status(&sim, host, "k1").await, 404, "host {host} after a start");
        }
        assert_eq!(agree(&replicas(&sim, 3, "k1").await), before);
    });
}

#[test]
fn what_was_written_while_an_owner_was_down_ends_there_at_the_same_time() {
    run(async {
        let mut sim = formed(72, 4).await;
        put(&sim, 0, "/v1/kv/b/k").await;
        let owners: Vec<usize> = {
            let held = replicas(&sim, 4, "k").await;
            (0..4).filter(|host| held[*host].owner).collect()
        };
        sim.crash(owners[2], Crash::DropAll).await;
        seconds(20).await;
        put(&sim, owners[0], "/v1/kv/b/k?ttl=60s&w=all").await;
        sim.start(owners[2]);
        sim.until_ready(owners[2]).await;
        seconds(20).await;
        let held = replicas(&sim, 4, "k").await;
        let end = |host: &usize| {
            let newest = held[*host].siblings.iter().max_by_key(|one| one.written_ms);
            newest.and_then(|one| one.expires_ms)
        };
        let ends: Vec<_> = owners.iter().map(end).collect();
        assert!(ends[0].is_some() && ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        seconds(45).await;
        // The first value lived without an end, beside the second: written blind, it is what is left.
        let read = ask(&sim, owners[2], Method::GET, "/v1/kv/b/k?r=all", "").await;
        assert_eq!((read.status, read.header("x-kvasir-ttl")), (200, None), "{}", read.text());
    });
}

#[test]
fn a_coordinator_whose_clock_is_behind_does_not_write_what_is_over_already() {
    run(async {
        let sim = formed(73, 3).await;
        sim.clock_wrong_by(2, -30 * SECOND);
        // It hears of the others' clocks by any write.
        put(&sim, 0, "/v1/kv/b/any?w=all").await;
        put(&sim, 2, "/v1/kv/b/k?ttl=10s&w=all").await;
        for host in 0..3 {
            assert_eq!(status(&sim, host, "k").await, 200, "host {host} at once");
        }
        seconds(9).await;
        for host in 0..3 {
            assert_eq!(status(&sim, host, "k").await, 200, "host {host} after nine seconds");
        }
        seconds(2).await;
        assert_eq!([status(&sim, 0, "k").await, status(&sim, 1, "k").await], [404, 404]);
        seconds(30).await;
        assert_eq!(status(&sim, 2, "k").await, 404);
    });
}

async fn metric(sim: &Sim, host: usize, name: &str) -> f64 {
    let page = sim.admin(host, Method::GET, "/metrics", None).await.expect("a page").text();
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a figure")
}

#[test]
fn a_clock_an_hour_ahead_is_counted_and_takes_nobody_along() {
    run(async {
        let sim = formed(74, 3).await;
        sim.clock_wrong_by(0, HOUR);
        for number in 0..5 {
            put(&sim, 0, &format!("/v1/kv/b/far{number}?w=all")).await;
        }
        put(&sim, 1, "/v1/kv/b/near?w=all").await;
        let written = |read: &ReplicaRead| read.siblings[0].written_ms;
        let far = replicas(&sim, 3, "far4").await;
        let near = replicas(&sim, 3, "near").await;
        agree(&far);
        let apart = written(&far[0]) - written(&near[0]);
        assert!(apart > HOUR as u64 - 60_000, "{apart} ms: stored as stamped, and not followed");
        for host in [1, 2] {
            assert_eq!(status(&sim, host, "far0").await, 200, "acknowledged is acknowledged");
            assert!(metric(&sim, host, "kvasir_clock_stamps_ahead_total").await >= 5.0);
            assert!(metric(&sim, host, "kvasir_clock_lead_seconds").await < 61.0);
        }
        assert_eq!(metric(&sim, 0, "kvasir_clock_stamps_ahead_total").await, 0.0);
        // Set right again, it stamps as the others do.
        sim.clock_wrong_by(0, 0);
        put(&sim, 0, "/v1/kv/b/right?w=all").await;
        let right = replicas(&sim, 3, "right").await;
        assert!(written(&right[0]) - written(&near[0]) < 60_000);
    });
}

#[test]
fn a_bucket_where_the_last_write_wins_lets_nothing_older_show_when_the_newest_ends() {
    run(async {
        let mut sim = Sim::new(75, 3, &[]);
        sim.defaults = serde_json::json!({ "mode": "lastWriteWins", "ttl": 600 });
        sim.form(3).await;
        seconds(5).await;
        put(&sim, 0, "/v1/kv/b/k").await;
        put(&sim, 1, "/v1/kv/b/k?ttl=5s").await;
        let read = ask(&sim, 2, Method::GET, "/v1/kv/b/k", "").await;
        assert_eq!((read.status, read.header("x-kvasir-ttl")), (200, Some("5s")));
        seconds(6).await;
        for host in 0..3 {
            assert_eq!(status(&sim, host, "k").await, 404);
        }
        put(&sim, 2, "/v1/kv/b/k").await;
        let read = ask(&sim, 0, Method::GET, "/v1/kv/b/k", "").await;
        assert_eq!((read.status, read.header("x-kvasir-ttl")), (200, Some("600s")));
    });
}

/// What the hash trees of a host came to: comparisons, keys mended, partitions known to differ, bytes.
async fn compared(sim: &Sim, host: usize) -> [u64; 4] {
    let answer = sim.admin(host, Method::GET, "/v1/repair", None).await.expect("an answer");
    let told: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    ["comparisonsEver", "keysRepairedEver", "differingPartitions", "bytesEver"]
        .map(|field| told[field].as_u64().expect("a number"))
}

#[test]
fn trees_agree_on_values_that_end_while_clocks_differ() {
    run(async {
        let sets = ["repair.interval=2s", "repair.tree_bits=16", "reclaim.rate=0"];
        let mut sim = Sim::formed(76, 3, 3, &sets).await;
        seconds(5).await;
        for (host, wrong) in [6 * SECOND, 0, -6 * SECOND].into_iter().enumerate() {
            sim.clock_wrong_by(host, wrong);
        }
        for key in 0..60 {
            put(&sim, key % 3, &format!("/v1/kv/b/k{key}?ttl={}s&w=all", 10 + key % 20)).await;
        }
        seconds(5).await;
        let mut before = Vec::new();
        for host in 0..3 {
            before.push(compared(&sim, host).await);
        }
        // All of them end meanwhile, on no two hosts at the same time; reading changes nothing of it.
        for _ in 0..10 {
            seconds(5).await;
            for host in 0..3 {
                let read = status(&sim, host, "k7").await;
                assert!([200, 404].contains(&read), "{read}");
            }
        }
        for (host, before) in before.into_iter().enumerate() {
            assert_eq!(status(&sim, host, "k59").await, 404);
            let after = compared(&sim, host).await;
            let grown = |field: usize| after[field] - before[field];
            println!("host {host}: {} comparisons, {} bytes", grown(0), grown(3));
            assert!(grown(0) >= 40, "two neighbours, every two seconds");
            assert_eq!((grown(1), after[2]), (0, 0), "nothing was mended, nothing differs");
            assert!(grown(3) <= grown(0) * (64 * 11 + 200), "nothing but sums");
        }
        for host in 0..3 {
            sim.crash(host, Crash::DropAll).await;
            sim.start(host);
        }
        for host in 0..3 {
            sim.until_ready(host).await;
        }
        seconds(20).await;
        for host in 0..3 {
            let [comparisons, mended, differing, _] = compared(&sim, host).await;
            assert!(comparisons > 4);
            assert_eq!((mended, differing), (0, 0), "host {host} after a start");
            assert_eq!(status(&sim, host, "k59").await, 404);
        }
    });
}

/// Whoever got no answer writes again without having read, through another node and some seconds later.
#[test]
fn a_blind_retry_that_names_its_end_shows_one_value() {
    run(async {
        let sim = formed(79, 3).await;
        // Virtual clocks begin long before that.
        for (key, life) in [("once", "expires_ms=4000000000000"), ("twice", "ttl=1h")] {
            put(&sim, 0, &format!("/v1/kv/b/{key}?{life}&w=all")).await;
            seconds(5).await;
            put(&sim, 1, &format!("/v1/kv/b/{key}?{life}&w=all")).await;
        }
        assert_eq!((status(&sim, 2, "once").await, status(&sim, 2, "twice").await), (200, 300));
        let read = sim.replica(2, "b", "once").await.expect("it runs");
        let ends: Vec<_> = read.siblings.iter().map(|sibling| sibling.expires_ms).collect();
        assert_eq!(ends, [Some(4_000_000_000_000); 2], "both are kept, and shown as one");
    });
}
