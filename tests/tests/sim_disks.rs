//! What acknowledged writes and cached reads owe to the disk, in virtual time: all nodes lose every
//! unsynced byte at a random point; reads of a node's disk take a second.

use std::time::Duration;

use hyper::Method;
use kvasir_storage::Lane;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::HttpClient;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, run};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

const KEYS: usize = 24;

async fn put(http: &HttpClient, server: &str, key: &str, value: String) -> bool {
    let mut ask = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?w=quorum&durability=group"));
    ask.body = value.into();
    http.ask(server, ask).await.is_ok_and(|a| a.status == 204)
}

async fn get(http: &HttpClient, server: &str, key: &str, r: &str) -> (u16, String) {
    match http.ask(server, Ask::new(Method::GET, format!("/v1/kv/b/{key}?r={r}"))).await {
        Ok(answer) => (answer.status, answer.text()),
        Err(error) => (0, format!("{error:?}")),
    }
}

/// Writes keys one after the other through all nodes; all three crash at a random point and lose what
/// was not synced. Returns how many acknowledged writes are gone, and how many there were.
async fn blackout(seed: u64, skip_sync: bool) -> (usize, usize) {
    let mut sim = Sim::formed(seed, 3, 3, &[]).await;
    let mut rng = SmallRng::seed_from_u64(seed);
    for host in 0..3 {
        sim.disk(host).set_latency_ms(Lane::Sync, rng.random_range(0..4));
        if skip_sync {
            sim.disk(host).skip_sync(Some("log"));
        }
    }
    let acknowledged = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (servers, seen) = (sim.servers(), acknowledged.clone());
    let http = sim.client(Duration::from_secs(2));
    let writer = tokio::task::spawn_local(async move {
        for number in 0..KEYS {
            if put(&http, &servers[number % 3], &format!("k{number}"), format!("v{number}")).await {
                seen.borrow_mut().push(number);
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
    for host in 0..3 {
        sim.crash(host, Crash::DropAll).await;
    }
    writer.abort();
    for host in 0..3 {
        sim.start(host);
    }
    for host in 0..3 {
        sim.until_ready(host).await;
    }
    // Until gossip has told everybody where everybody is.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let http = sim.client(Duration::from_secs(10));
    let servers = sim.servers();
    let acknowledged = acknowledged.borrow().clone();
    let mut lost = 0;
    for number in &acknowledged {
        let (status, body) =
            get(&http, &servers[number % 3], &format!("k{number}"), "quorum").await;
        assert!(matches!(status, 200 | 404), "seed {seed}: GET k{number}: {status} {body}");
        lost += usize::from(status != 200 || body != format!("v{number}"));
    }
    (lost, acknowledged.len())
}

/// How many of the 500 seeds a run takes: all of them, or a share for a quick look.
fn seeds() -> u64 {
    std::env::var("KVASIR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(500)
}

/// Runs the seeds `first, first + step, ...`: acknowledged writes, and crashes that fell into the writing.
fn sweep(first: u64, step: usize) -> (usize, u64) {
    let (mut all, mut partial) = (0, 0);
    for seed in (first..seeds()).step_by(step) {
        let (lost, acknowledged) = run(blackout(seed, false));
        assert_eq!(lost, 0, "seed {seed}: {lost} of {acknowledged} acknowledged writes are gone");
        all += acknowledged;
        partial += u64::from((1..KEYS).contains(&acknowledged));
    }
    (all, partial)
}

#[test]
fn acknowledged_writes_survive_the_loss_of_every_unsynced_byte() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (all, partial) = std::thread::scope(|scope| {
        let sweeps: Vec<_> =
            (0..threads).map(|t| scope.spawn(move || sweep(t as u64, threads))).collect();
        sweeps.into_iter().fold((0, 0), |(all, partial), sweep| {
            let (more, crashes) = sweep.join().expect("no seed loses a write");
            (all + more, partial + crashes)
        })
    });
    println!("{} seeds, {all} acknowledged writes, {partial} crashes in the middle", seeds());
    assert!(partial * 4 > seeds(), "only {partial} crashes fell into the writing");
}

#[test]
fn without_the_sync_the_same_test_finds_loss() {
    let lost = (0..20).map(|seed| run(blackout(seed, true)).0).sum::<usize>();
    assert!(lost > 0, "a log that is never synced lost nothing: the test cannot fail");
}

#[test]
fn a_disk_that_reads_for_a_second_delays_only_cold_reads() {
    run(async {
        let sets = ["storage.memtable_bytes=64KiB", "storage.cache_bytes=64KiB"];
        let sim = Sim::formed(3, 3, 3, &sets).await;
        let servers = sim.servers();
        let http = sim.client(Duration::from_secs(30));
        for number in 0..60 {
            assert!(put(&http, &servers[0], &format!("cold{number}"), "x".repeat(20_000)).await);
        }
        assert!(put(&http, &servers[0], "hot", "warm".to_string()).await);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for host in 0..3 {
            sim.disk(host).set_latency_ms(Lane::Read, 1_000);
        }
        let slow: Vec<_> = (0..30)
            .map(|number| {
                let (http, server) = (sim.client(Duration::from_secs(30)), servers[0].clone());
                tokio::task::spawn_local(async move {
                    let before = Instant::now();
                    let (status, _) = get(&http, &server, &format!("cold{number}"), "one").await;
                    (status, before.elapsed())
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        for _ in 0..20 {
            let before = Instant::now();
            assert_eq!(get(&http, &servers[0], "hot", "one").await, (200, "warm".to_string()));
            assert_eq!(
                sim.admin(0, Method::GET, "/livez", None).await.map(|a| a.status),
                Some(200)
            );
            let took = before.elapsed();
            assert!(took < Duration::from_millis(100), "a cached read and /livez took {took:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut waited = 0;
        for read in slow {
            let (status, took) = read.await.expect("a read ends");
            assert_eq!(status, 200);
            waited += usize::from(took >= Duration::from_millis(900));
        }
        assert!(waited >= 10, "only {waited} of 30 reads waited for the disk: nothing was cold");
        // Nobody was suspected meanwhile: heartbeats went on.
        let status = sim.admin(1, Method::GET, "/v1/status", None).await.expect("an answer");
        let status: serde_json::Value = serde_json::from_slice(&status.body).expect("JSON");
        for node in status["nodes"].as_array().expect("rows") {
            assert_eq!(node["liveness"], "alive", "{node}");
        }
    });
}

/// Nothing fails on a disk that hangs, so only time can tell.
#[test]
fn a_disk_that_hangs_makes_its_node_not_ready_until_it_answers_again() {
    run(async {
        let sim = Sim::formed(4, 3, 3, &[]).await;
        let (servers, http) = (sim.servers(), sim.client(Duration::from_secs(30)));
        let probe = async |path: &str| {
            let answer = sim.admin(0, Method::GET, path, None).await.expect("an answer");
            (answer.status, answer.text().to_string())
        };
        assert_eq!(probe("/readyz").await.0, 200);
        sim.disk(0).set_latency_ms(Lane::Sync, 60_000);
        // Two owners are enough, whoever coordinates.
        assert!(put(&http, &servers[1], "k", "v".to_string()).await);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(probe("/readyz").await.0, 200, "a disk may be slow");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (status, text) = probe("/readyz").await;
        assert!(status == 503 && text.contains("has not answered a write for 1"), "{text}");
        assert_eq!(probe("/livez").await.0, 200, "a new process would hang on the same disk");
        assert!(put(&http, &servers[2], "k2", "v".to_string()).await);
        sim.disk(0).set_latency_ms(Lane::Sync, 0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(probe("/readyz").await.0, 200);
    });
}

#[test]
fn a_full_disk_is_told_reads_go_on_and_room_is_enough_to_write_again() {
    run(async {
        let sim = Sim::formed(4, 3, 3, &[]).await;
        let (servers, http) = (sim.servers(), sim.client(Duration::from_secs(10)));
        assert!(put(&http, &servers[0], "k", "v".to_string()).await);
        let free = async || {
            let page = sim.admin(0, Method::GET, "/metrics", None).await.expect("an answer").text();
            let row = page.lines().find_map(|row| row.strip_prefix("kvasir_disk_free_bytes "));
            row.expect("the metric").parse::<f64>().expect("a number")
        };
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(free().await > 0.0);
        sim.disk(0).set_capacity(Some(0));
        for _ in 0..5 {
            // The first write finds the disk full; those after it are refused at once.
            put(&http, &servers[0], "full", "v".to_string()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(free().await, 0.0, "the disk is full and nobody can see it");
        assert_eq!(get(&http, &servers[0], "k", "quorum").await, (200, "v".to_string()));
        sim.disk(0).set_capacity(None);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(free().await > 0.0);
        let mut all = Ask::new(Method::PUT, "/v1/kv/b/after?w=all&sloppy=false");
        all.body = "v".into();
        let answer = http.ask(&servers[0], all).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    });
}
