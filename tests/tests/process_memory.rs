//! More data than memory: the node stays small, and the disk is read only where it must be.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::process::{Cluster, PATIENCE, run};

/// Values loaded, and bytes of each: 200 MB in all.
const VALUES: usize = 2_000;
const VALUE_BYTES: usize = 100_000;
/// Resident memory that a node must stay under.
const RESIDENT_MAX: u64 = 150 << 20;

fn path(key: usize) -> String {
    format!("/v1/kv/large/value-{key:05}")
}

/// Bytes that no compression makes small and that name their key.
fn value(key: usize) -> Bytes {
    let mut state = key as u64 + 1;
    let mut bytes = Vec::with_capacity(VALUE_BYTES);
    while bytes.len() < VALUE_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..5]);
    }
    bytes.truncate(VALUE_BYTES);
    bytes.into()
}

/// Loads or reads the values of `keys` from several tasks and notes the largest memory seen.
async fn all(cluster: &Rc<Cluster>, nodes: usize, write: bool) -> u64 {
    const TASKS: usize = 8;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let cluster = cluster.clone();
        tasks.push(tokio::task::spawn_local(async move {
            let mut largest = 0;
            for key in (task..VALUES).step_by(TASKS) {
                let node = key % nodes;
                let mut ask = Ask::new(if write { Method::PUT } else { Method::GET }, path(key));
                if write {
                    ask.body = value(key);
                }
                let answer = cluster.ask(node, ask).await.expect("an answer");
                let expected = if write { 204 } else { 200 };
                assert_eq!(answer.status, expected, "{key}: {}", answer.text());
                assert!(write || answer.body == value(key), "key {key} reads back wrong");
                for node in 0..nodes {
                    largest = largest.max(cluster.resident_bytes(node));
                }
            }
            largest
        }));
    }
    let mut largest = 0;
    for task in tasks {
        largest = largest.max(task.await.expect("a task ends"));
    }
    largest
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const SMALL: [&str; 3] =
    ["storage.memtable_bytes=4MiB", "storage.cache_bytes=8MiB", "storage.flush_age=2s"];

#[test]
fn two_hundred_megabytes_through_a_small_memory() {
    run(async {
        let cluster = Rc::new(Cluster::formed(3, 3, &SMALL).await);
        let start = Instant::now();
        let loading = all(&cluster, 3, true).await;
        let loaded = start.elapsed();
        let start = Instant::now();
        let reading = all(&cluster, 3, false).await;
        println!(
            "{VALUES} values of {VALUE_BYTES} bytes on each of three nodes: loaded in {loaded:?}, read \
             in {:?}; largest resident memory of a node {} MiB loading, {} MiB reading",
            start.elapsed(),
            loading >> 20,
            reading >> 20
        );
        for node in 0..3 {
            let tables = cluster.metric(node, "kvasir_storage_table_bytes").await;
            let hits = cluster.metric(node, "kvasir_storage_memtable_hits_total").await;
            println!("node {node}: {tables} bytes in tables, {hits} lookups answered by memtables");
            assert!(tables > 150e6, "node {node} keeps {tables} bytes in tables");
        }
        assert!(loading.max(reading) < RESIDENT_MAX, "{loading} / {reading}");
        assert_eq!(cluster.metric(0, "kvasir_storage_background_errors_total").await, 0.0);
        missing_keys_read_no_table(&cluster).await;
    });
}

async fn missing_keys_read_no_table(cluster: &Cluster) {
    const LOOKUPS: usize = 2_000;
    let mut before = Vec::new();
    for node in 0..3 {
        before.push(cluster.metric(node, "kvasir_storage_table_reads_total").await);
    }
    for key in 0..LOOKUPS {
        let path = format!("/v1/kv/large/missing-{key}");
        let answer = cluster.ask(key % 3, Ask::new(Method::GET, path)).await.expect("an answer");
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    let mut reads = 0.0;
    for (node, before) in before.iter().enumerate() {
        reads += cluster.metric(node, "kvasir_storage_table_reads_total").await - before;
    }
    // At r=quorum each read looks up two replicas at least.
    let lookups = 2 * LOOKUPS;
    println!("{lookups} lookups of missing keys at least: {reads} tables read");
    assert!(reads <= lookups as f64 / 100.0, "{reads} table reads for {lookups} lookups");
}

#[test]
fn an_untouched_value_reaches_a_table_and_a_second_read_no_block() {
    run(async {
        let mut cluster = Cluster::formed(1, 1, &SMALL).await;
        for key in 0..20 {
            let mut ask = Ask::new(Method::PUT, path(key));
            ask.body = value(key).slice(..1_000);
            assert_eq!(cluster.ask(0, ask).await.expect("an answer").status, 204);
        }
        let start = Instant::now();
        until("the values stay in the memtable", async || {
            cluster.metric(0, "kvasir_storage_table_bytes").await > 20_000.0
                && cluster.metric(0, "kvasir_storage_memtable_bytes").await < 1_000.0
        })
        .await;
        let flushed = start.elapsed();
        assert!(flushed < Duration::from_secs(6), "the flush age is 2 s: {flushed:?}");
        // The cache is empty after a start: the first read of a key goes to the table.
        cluster.kill(0);
        cluster.restart(0).await;
        let misses = async || cluster.metric(0, "kvasir_storage_cache_misses_total").await;
        let (cold, mut first, mut second) = (misses().await, 0.0, 0.0);
        for round in 0..2 {
            for key in 0..20 {
                let ask = Ask::new(Method::GET, path(key));
                let answer = cluster.ask(0, ask).await.expect("an answer");
                assert_eq!(answer.body, value(key).slice(..1_000));
            }
            let now = misses().await - cold;
            if round == 0 { first = now } else { second = now - first }
        }
        println!(
            "in a table {flushed:?} after the last write; 20 cold reads read {first} blocks, the \
                  same again {second}"
        );
        assert!(first >= 1.0, "the first reads did not go to the table");
        assert_eq!(second, 0.0, "a second read of a cold key read a block");
    });
}
