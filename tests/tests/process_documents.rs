//! Changes of the cluster document over real nodes: one winner, no illegal step, no way back.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use kvasir_tests::process::{Cluster, PATIENCE, run};
use serde_json::{Value, json};

/// A legal child of what a node answered, with one difference that names its maker.
fn child(parent: &Value, ttl: u64) -> Value {
    let mut document = parent["document"].clone();
    document["epoch"] = json!(parent["epoch"].as_u64().expect("an epoch") + 1);
    document["parentHash"] = parent["hash"].clone();
    document["defaults"]["ttl"] = json!(ttl);
    document
}

async fn propose(cluster: &Cluster, node: usize, parent: &Value, document: Value) -> (u16, Value) {
    let body = json!({ "parentHash": parent["hash"], "document": document });
    cluster.json(node, Method::PUT, "/v1/cluster/document", Some(body)).await
}

async fn operate(cluster: &Cluster, node: usize, body: Value) -> (u16, Value) {
    cluster.json(node, Method::POST, "/v1/operations", Some(body)).await
}

/// Waits until a node uses a document of at least this epoch; before its first one it answers 409.
async fn until_epoch(cluster: &Cluster, node: usize, epoch: u64) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, answer) = cluster.json(node, Method::GET, "/v1/cluster/document", None).await;
        if answer["epoch"].as_u64() >= Some(epoch) {
            return answer;
        }
        assert!(Instant::now() < until, "node {node} stays at {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn of_two_documents_at_once_one_wins_and_illegal_ones_never_do() {
    run(async {
        let cluster = Cluster::formed(3, 3, &[]).await;
        let mut lost_at_once = 0;
        for round in 0..8_u64 {
            let parent = cluster.document(0).await;
            let epoch = parent["epoch"].as_u64().expect("an epoch");
            for node in 1..3 {
                until_epoch(&cluster, node, epoch).await;
            }
            let (one, other) = (1_000 + round, 2_000 + round);
            let (a, b) = tokio::join!(
                propose(&cluster, 0, &parent, child(&parent, one)),
                propose(&cluster, 1, &parent, child(&parent, other)),
            );
            let mut statuses = [a.0, b.0];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 409], "{} / {}", a.1, b.1);
            let (won, lost, ttl) = if a.0 == 200 { (a.1, b.1, one) } else { (b.1, a.1, other) };
            assert_eq!(lost["code"], "stale_parent", "{lost}");
            assert_eq!(lost["newest"]["hash"], won["hash"], "{lost}");
            lost_at_once += 1;
            for node in 0..3 {
                let now = until_epoch(&cluster, node, epoch + 1).await;
                assert_eq!((&now["hash"], &now["epoch"]), (&won["hash"], &json!(epoch + 1)));
                assert_eq!(now["document"]["defaults"]["ttl"], ttl);
            }
        }
        println!("two documents at once, {lost_at_once} rounds: one 200 and one 409 each time");
        illegal_children(&cluster).await;
    });
}

async fn illegal_children(cluster: &Cluster) {
    let parent = cluster.document(0).await;
    let refused = |rule: &'static str, change: fn(&mut Value)| {
        let mut document = child(&parent, 5);
        change(&mut document);
        (rule, document)
    };
    let first = |document: &Value| {
        let members = document["members"].as_object().expect("members");
        members.keys().next().expect("a member").clone()
    };
    let mut without = child(&parent, 5);
    let gone = first(&without);
    without["members"].as_object_mut().expect("members").remove(&gone);
    let cases = [
        refused("invalid_document or table_changed", |d| {
            d["table"][0]["slots"]["dc1"].as_array_mut().expect("slots").pop();
        }),
        refused("table_changed", |d| {
            d["table"][0]["slots"]["dc1"].as_array_mut().expect("slots").swap(0, 1);
        }),
        refused("replication_changed", |d| d["replication"]["dc1"] = json!(2)),
        refused("partition_bits_changed or invalid_document", |d| {
            d["partitionBits"] = json!(d["partitionBits"].as_u64().expect("a number") + 1);
        }),
        refused("identity_changed", |d| d["clusterName"] = json!("another")),
        refused("wrong_epoch", |d| d["epoch"] = json!(99)),
        ("member_owns_partitions", without),
    ];
    for node in 0..3 {
        for (rule, document) in &cases {
            let (status, problem) = propose(cluster, node, &parent, document.clone()).await;
            assert_eq!((status, &problem["code"]), (422, &json!("illegal_change")), "{problem}");
            let found = problem["rule"].as_str().expect("a rule");
            assert!(rule.split(" or ").any(|r| r == found), "{rule}: {problem}");
        }
        assert_eq!(cluster.document(node).await["hash"], parent["hash"], "something changed");
    }
    println!("{} illegal children refused with 422 on each node", cases.len());
}

#[test]
fn join_and_leave_without_moving_data_are_done_once() {
    run(async {
        let cluster = Cluster::start(4, &[]).await;
        cluster.form(3, 3).await;
        let stranger = cluster.id(3).await;
        let known = Instant::now() + PATIENCE;
        loop {
            let (_, status) = cluster.json(0, Method::GET, "/v1/status", None).await;
            let rows = status["nodes"].as_array().expect("nodes");
            if rows.iter().any(|row| row["id"] == stranger.as_str()) {
                break;
            }
            assert!(Instant::now() < known, "node 0 does not hear of the fourth");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let join = json!({ "id": "join-1", "kind": "join", "node": stranger, "rebalance": false });
        let (status, first) = operate(&cluster, 0, join.clone()).await;
        assert_eq!((status, &first["state"]), (200, &json!("done")), "{first}");
        until_epoch(&cluster, 3, 2).await;
        cluster.until_ready(3).await;
        for node in [0, 1, 2, 3] {
            until_epoch(&cluster, node, 2).await;
            let (status, again) = operate(&cluster, node, join.clone()).await;
            assert_eq!((status, &again), (200, &first), "node {node}");
        }
        assert_eq!(cluster.document(1).await["epoch"], 2, "posting again made a document");
        let mine = cluster.id(0).await;
        let reused =
            json!({ "id": "join-1", "kind": "leave", "node": stranger, "rebalance": false });
        let (status, problem) = operate(&cluster, 1, reused).await;
        assert_eq!((status, &problem["code"]), (409, &json!("operation_conflict")), "{problem}");
        let owner = json!({ "id": "leave-0", "kind": "leave", "node": mine, "rebalance": false });
        let (status, problem) = operate(&cluster, 1, owner).await;
        assert_eq!((status, &problem["code"]), (422, &json!("illegal_change")), "{problem}");
        no_rebuild(&cluster, &mine).await;
        let leave =
            json!({ "id": "leave-1", "kind": "leave", "node": stranger, "rebalance": false });
        let (status, left) = operate(&cluster, 2, leave.clone()).await;
        assert_eq!((status, &left["state"]), (200, &json!("done")), "{left}");
        until_epoch(&cluster, 0, 3).await;
        let (status, again) = operate(&cluster, 0, leave).await;
        assert_eq!((status, &again), (200, &left));
        let now = cluster.document(0).await;
        assert_eq!(now["epoch"], 3);
        assert_eq!(now["document"]["members"].as_object().map(|m| m.len()), Some(3));
        println!("join and leave: epochs 2 and 3, each once for all posts of its id");
    });
}

async fn no_rebuild(cluster: &Cluster, owner: &str) {
    let epoch = cluster.document(0).await["epoch"].clone();
    let nobody = "00000000-0000-4000-8000-000000000009";
    let refused = [
        (json!({ "id": "m6", "kind": "rebuild", "node": owner }), 409, "nothing_to_rebuild"),
        (json!({ "id": "m7", "kind": "rebuild", "node": nobody }), 404, "unknown_node"),
        (json!({ "id": "m8", "kind": "rebuild" }), 400, "bad_request"),
    ];
    for (body, expected, code) in &refused {
        let (status, problem) = operate(cluster, 0, body.clone()).await;
        assert_eq!((status, &problem["code"]), (*expected, &json!(code)), "{body}: {problem}");
    }
    assert_eq!(cluster.document(0).await["epoch"], epoch, "something changed");
    println!("{} rebuilds of what is whole or nobody's: refused", refused.len());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

#[test]
fn a_node_put_back_to_an_older_document_learns_the_newer() {
    run(async {
        let mut cluster = Cluster::formed(3, 3, &["repair.rebuild=false"]).await;
        let first = cluster.document(2).await;
        cluster.signal(2, "TERM");
        assert_eq!(cluster.wait(2), Some(0), "{}", cluster.log(2));
        let data = cluster.nodes[2].dir.join("data");
        let backup = cluster.dir().join("backup");
        copy(&data, &backup);
        cluster.restart(2).await;
        let mut newest = first.clone();
        for ttl in [71, 72, 73] {
            let epoch = newest["epoch"].as_u64().expect("an epoch");
            until_epoch(&cluster, 2, epoch).await;
            let (status, answer) = propose(&cluster, 2, &newest, child(&newest, ttl)).await;
            assert_eq!(status, 200, "{answer}");
            newest = answer;
        }
        for node in 0..3 {
            until_epoch(&cluster, node, 4).await;
        }
        cluster.kill(2);
        std::fs::remove_dir_all(&data).expect("removed");
        copy(&backup, &data);
        let start = Instant::now();
        cluster.restart_alone(2).await;
        let learned = until_epoch(&cluster, 2, 4).await;
        assert_eq!(learned["hash"], newest["hash"]);
        println!("put back from epoch 4 to 1: epoch 4 again {:?} after the start", start.elapsed());
        // The old parent is refused by the node that was put back, and by its peers.
        for node in 0..3 {
            let (status, problem) = propose(&cluster, node, &first, child(&first, 99)).await;
            assert_eq!((status, &problem["code"]), (409, &json!("stale_parent")), "{problem}");
            assert_eq!(problem["newest"]["hash"], newest["hash"]);
        }
        // It earns its votes back, for which both others must answer. From then on it votes: with
        // another member down it is needed for the majority.
        let until = Instant::now() + PATIENCE;
        while !cluster.log(2).contains("votes are recovered") {
            assert!(Instant::now() < until, "votes are not recovered:\n{}", cluster.log(2));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.kill(0);
        loop {
            let (status, answer) = propose(&cluster, 1, &newest, child(&newest, 74)).await;
            if status == 200 {
                break;
            }
            assert!(Instant::now() < until, "no majority with the node put back: {answer}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        until_epoch(&cluster, 2, 5).await;
    });
}
