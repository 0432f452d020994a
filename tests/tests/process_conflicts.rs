//! Concurrent writers over real nodes: nothing they did not see is lost, nothing is doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::process::{Cluster, run};
use serde_json::Value;

fn put(path: &str, value: &str, token: Option<&str>) -> Ask {
    let mut ask = Ask::new(Method::PUT, path);
    ask.body = value.to_string().into();
    if let Some(token) = token {
        ask.headers.push(("x-kvasir-context", token.to_string()));
    }
    ask
}

fn token(answer: &Answer) -> String {
    answer.header("x-kvasir-context").expect("a token").to_string()
}

async fn write(cluster: &Cluster, node: usize, path: &str, value: &str, t: Option<&str>) -> String {
    let answer = cluster.ask(node, put(path, value, t)).await.expect("an answer");
    assert_eq!(answer.status, 204, "{}", answer.text());
    token(&answer)
}

/// The values under a key, with the status and the token of the read.
async fn read(cluster: &Cluster, node: usize, path: &str) -> (u16, BTreeSet<String>, String) {
    let answer = cluster.ask(node, Ask::new(Method::GET, path)).await.expect("an answer");
    let values = match answer.status {
        200 => BTreeSet::from([answer.text()]),
        300 => {
            let list: Vec<Value> = serde_json::from_slice(&answer.body).expect("a JSON list");
            let text = |s: &Value| STANDARD.decode(s["value_b64"].as_str()?).ok();
            list.iter()
                .map(|s| String::from_utf8(text(s).expect("base64")).expect("text"))
                .collect()
        }
        other => panic!("node {node}: {other}: {}\n{}", answer.text(), cluster.log(node)),
    };
    (answer.status, values, token(&answer))
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_writer_did_not_see_stays_until_somebody_saw_it() {
    run(async {
        let cluster = Cluster::formed(3, 3, &["workers.count=2"]).await;
        two_blind_writers(&cluster).await;
        a_chain_never_covers_the_unseen(&cluster).await;
        let cluster = Rc::new(cluster);
        sixty_four_at_once(&cluster).await;
        interleaved_writers(&cluster).await;
    });
}

async fn two_blind_writers(cluster: &Cluster) {
    let path = "/v1/kv/conflicts/basket";
    write(cluster, 0, path, "milk", None).await;
    write(cluster, 1, path, "bread", None).await;
    for node in 0..3 {
        let (status, values, _) = read(cluster, node, path).await;
        assert_eq!((status, values), (300, set(&["milk", "bread"])), "node {node}");
    }
    let (_, _, merged) = read(cluster, 2, path).await;
    write(cluster, 2, path, "milk and bread", Some(&merged)).await;
    for node in 0..3 {
        let (status, values, _) = read(cluster, node, path).await;
        assert_eq!((status, values), (200, set(&["milk and bread"])), "node {node}");
    }
    println!("two blind writers: 300 with both on each node, one value after the merge");
}

async fn a_chain_never_covers_the_unseen(cluster: &Cluster) {
    let path = "/v1/kv/conflicts/chain";
    let mut own = write(cluster, 0, path, "a0", None).await;
    write(cluster, 0, path, "other", None).await;
    for step in 1..20 {
        own = write(cluster, step % 3, path, &format!("a{step}"), Some(&own)).await;
        let (_, values, _) = read(cluster, (step + 1) % 3, path).await;
        assert_eq!(values, set(&["other", &format!("a{step}")]), "step {step}");
    }
    println!("a chain of 20 writes on its own token: the other writer's value stayed");
}

async fn sixty_four_at_once(cluster: &Rc<Cluster>) {
    let path = "/v1/kv/conflicts/crowd";
    let mut writers = Vec::new();
    for writer in 0..64 {
        let cluster = cluster.clone();
        writers.push(tokio::task::spawn_local(async move {
            write(&cluster, 0, path, &format!("w{writer}"), None).await
        }));
    }
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let all: BTreeSet<String> = (0..64).map(|w| format!("w{w}")).collect();
    for node in 0..3 {
        let (status, values, _) = read(cluster, node, path).await;
        assert_eq!((status, values), (300, all.clone()), "node {node}");
        let stored = cluster.replica(node, "conflicts", b"crowd").await;
        let siblings = stored["siblings"].as_array().expect("a list");
        let dots: BTreeSet<String> = siblings.iter().map(|s| s["dot"].to_string()).collect();
        assert_eq!((siblings.len(), dots.len()), (64, 64), "node {node}");
    }
    println!("64 concurrent blind puts on one node with two workers: 64 siblings, 64 dots");
}

/// Writers who each read before they write: as many siblings as wrote since the same read, no more.
async fn interleaved_writers(cluster: &Rc<Cluster>) {
    let path = "/v1/kv/conflicts/interleaved";
    let mut most = 0;
    write(cluster, 0, path, "start", None).await;
    for round in 0..15 {
        let writers = 1 + round % 5;
        let mut tasks = Vec::new();
        let mut wrote = BTreeSet::new();
        let mut tokens = Vec::new();
        for writer in 0..writers {
            tokens.push(read(cluster, (round + writer) % 3, path).await.2);
        }
        for (writer, token) in tokens.into_iter().enumerate() {
            let (cluster, value) = (cluster.clone(), format!("r{round}w{writer}"));
            wrote.insert(value.clone());
            tasks.push(tokio::task::spawn_local(async move {
                write(&cluster, writer % 3, path, &value, Some(&token)).await
            }));
        }
        for task in tasks {
            task.await.expect("a writer ends");
        }
        let (_, values, _) = read(cluster, round % 3, path).await;
        assert_eq!(values, wrote, "round {round}");
        most = most.max(values.len());
    }
    println!("interleaved writers with tokens: at most {most} siblings with 5 at once");
}

#[test]
fn quorum_goes_on_with_one_down_and_says_what_it_knows_with_two_down() {
    run(async {
        let mut cluster = Cluster::formed(3, 3, &[]).await;
        let path = |key: usize| format!("/v1/kv/down/key-{key}");
        let mut statuses: BTreeMap<&str, u32> = BTreeMap::new();
        for key in 0..50 {
            write(&cluster, key % 3, &path(key), "before", None).await;
        }
        cluster.kill(2);
        for key in 0..50 {
            let node = key % 2;
            let (_, values, seen) = read(&cluster, node, &path(key)).await;
            assert_eq!(values, set(&["before"]));
            write(&cluster, node, &path(key), "after", Some(&seen)).await;
            let (_, values, _) = read(&cluster, 1 - node, &path(key)).await;
            assert_eq!(values, set(&["after"]));
            *statuses.entry("one down: reads and writes").or_default() += 3;
        }
        cluster.kill(1);
        let mut slowest = Duration::ZERO;
        for key in 0..20 {
            let (is_write, level) = if key % 2 == 0 { (true, "w") } else { (false, "r") };
            let target = format!("{}?{level}=quorum&sloppy=false&timeout=2s", path(key));
            let start = Instant::now();
            let ask = match is_write {
                true => put(&target, "alone", None),
                false => Ask::new(Method::GET, target.as_str()),
            };
            let answer = cluster.ask(0, ask).await.expect("an answer");
            slowest = slowest.max(start.elapsed());
            assert_eq!(answer.status, 503, "{target}: {}", answer.text());
            let problem: Value = serde_json::from_slice(&answer.body).expect("a problem");
            // The own copy counts once it is synced; a refusal does not wait for that.
            let acks = problem["acks"].as_u64().expect("a count");
            assert!(acks <= 1 && problem["required"] == 2, "{problem}");
            match is_write {
                true => assert_eq!(problem["may_be_stored"], true, "{problem}"),
                false => assert!(problem.get("may_be_stored").is_none(), "{problem}"),
            }
            *statuses.entry("two down: 503 with acks and required").or_default() += 1;
        }
        assert!(slowest < Duration::from_millis(2_500), "the deadline was 2 s: {slowest:?}");
        let alone = format!("{}?r=one", path(1));
        assert_eq!(read(&cluster, 0, &alone).await.1, set(&["after"]));
        println!("{statuses:?}, slowest refusal {slowest:?}");
    });
}
