//! Bucket settings on whole nodes: declared through any of them, in force on all, kept over a crash,
//! changed by several at once, and refused without a majority.

use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Sim, run};
use serde_json::{Value, json};

async fn ask(sim: &Sim, host: usize, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.to_string().into();
    let client = sim.client(Duration::from_secs(30));
    client.ask(&format!("n{host}:8098"), ask).await.expect("an answer")
}

async fn set(sim: &Sim, host: usize, bucket: &str, change: Value) -> Answer {
    ask(sim, host, Method::PUT, &format!("/v1/buckets/{bucket}"), &change.to_string()).await
}

async fn settings(sim: &Sim, host: usize, bucket: &str) -> Value {
    let answer = ask(sim, host, Method::GET, &format!("/v1/buckets/{bucket}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[test]
fn settings_are_in_force_on_every_node_and_outlive_a_crash_of_all() {
    run(async {
        let mut sim = Sim::formed(41, 5, 3, &[]).await;
        let put = set(&sim, 3, "sessions", json!({"ttl": 20, "w": "all"})).await;
        assert_eq!(put.status, 200, "{}", put.text());
        tokio::time::sleep(Duration::from_secs(5)).await;
        for host in 0..5 {
            let told = settings(&sim, host, "sessions").await;
            assert_eq!((&told["declared"], &told["epoch"]), (&json!(true), &json!(2)), "{host}");
            assert_eq!(told["settings"]["ttl"], 20);
        }
        for host in 0..5 {
            sim.crash(host, Crash::DropAll).await;
        }
        for host in 0..5 {
            sim.start(host);
        }
        for host in 0..5 {
            sim.until_ready(host).await;
            assert_eq!(settings(&sim, host, "sessions").await["settings"]["w"], "all");
        }
        // A write that says nothing obeys them, whichever node takes it.
        for host in 0..5 {
            let path = format!("/v1/kv/sessions/k{host}");
            let written = ask(&sim, host, Method::PUT, &path, "v").await;
            assert_eq!(written.status, 204, "{}", written.text());
            let acks = written.header("x-kvasir-acks").expect("who acknowledged").to_string();
            assert_eq!(acks.split(';').next().unwrap().split(',').count(), 3, "{acks}");
        }
        let path = "/v1/kv/sessions/k0";
        let read = ask(&sim, 1, Method::GET, path, "").await;
        assert_eq!((read.status, read.header("x-kvasir-ttl")), (200, Some("20s")));
        tokio::time::sleep(Duration::from_secs(21)).await;
        assert_eq!(ask(&sim, 2, Method::GET, path, "").await.status, 404);
        let other = ask(&sim, 1, Method::PUT, "/v1/kv/other/k", "v").await;
        assert_eq!(other.status, 204);
        let read = ask(&sim, 1, Method::GET, "/v1/kv/other/k", "").await;
        assert_eq!(read.header("x-kvasir-ttl"), None, "other buckets are as before");
    });
}

#[test]
fn changes_of_different_settings_at_once_are_all_made() {
    run(async {
        let sim = Sim::formed(42, 3, 3, &[]).await;
        let (one, two, three) = tokio::join!(
            set(&sim, 0, "b", json!({"ttl": 60})),
            set(&sim, 1, "b", json!({"r": "one"})),
            set(&sim, 2, "b", json!({"sloppy": false})),
        );
        for answer in [one, two, three] {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        for host in 0..3 {
            let told = settings(&sim, host, "b").await;
            let expected = json!({"r": "one", "w": "quorum", "durability": "group",
                "sloppy": false, "ttl": 60, "mode": "siblings"});
            assert_eq!(told["settings"], expected, "host {host}");
        }
    });
}

#[test]
fn the_mode_is_fixed_on_every_node_once_it_is_declared() {
    run(async {
        let sim = Sim::formed(43, 3, 3, &[]).await;
        assert_eq!(set(&sim, 0, "b", json!({})).await.status, 200);
        for host in 0..3 {
            let refused = set(&sim, host, "b", json!({"mode": "lastWriteWins"})).await;
            assert_eq!(refused.status, 409, "{}", refused.text());
            assert!(refused.text().contains("bucket_mode_fixed"), "{}", refused.text());
        }
        assert_eq!(settings(&sim, 1, "b").await["epoch"], 2);
    });
}

#[test]
fn without_a_majority_nothing_is_said_to_be_changed_and_a_repeat_ends_it() {
    run(async {
        let mut sim = Sim::formed(44, 3, 3, &[]).await;
        sim.crash(1, Crash::DropAll).await;
        sim.crash(2, Crash::DropAll).await;
        let change = json!({"ttl": 9});
        let path = "/v1/buckets/b?timeout=15s";
        let refused = ask(&sim, 0, Method::PUT, path, &change.to_string()).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        let problem: Value = serde_json::from_slice(&refused.body).expect("JSON");
        assert_eq!(problem["code"], "no_majority");
        assert!(problem["may_be_chosen"].is_boolean(), "{problem}");
        assert_eq!(settings(&sim, 0, "b").await["declared"], false);
        let written = ask(&sim, 0, Method::PUT, "/v1/kv/b/k?w=one", "v").await;
        assert_eq!(written.status, 204, "data needs no majority: {}", written.text());
        sim.start(1);
        sim.until_ready(1).await;
        let repeated = ask(&sim, 0, Method::PUT, path, &change.to_string()).await;
        assert_eq!(repeated.status, 200, "{}", repeated.text());
        assert_eq!(settings(&sim, 0, "b").await["settings"]["ttl"], 9);
    });
}
