//! How nodes come to a document: by meeting the others through one name, and after their volume was put
//! back to an older state. Such a node learns the newer document, says what happened, and serves nothing
//! from what it holds.

use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, run};
use serde_json::{Value, json};

async fn epoch(sim: &Sim, host: usize) -> u64 {
    let answer = sim.admin(host, Method::GET, "/v1/cluster/document", None).await;
    let document = answer.and_then(|a| serde_json::from_slice::<Value>(&a.body).ok());
    document.and_then(|d| d["epoch"].as_u64()).unwrap_or(0)
}

#[test]
fn one_name_for_all_nodes_is_seed_enough() {
    run(async {
        let mut sim = Sim::new(12, 3, &["node.seeds=[\"ring:8099\"]"]);
        sim.name_all("ring:8099");
        // Each node that dials the name reaches itself; they meet all the same.
        sim.form(3).await;
        assert_eq!(epoch(&sim, 2).await, 1);
    });
}

#[test]
fn a_volume_put_back_learns_the_newer_document_and_serves_nothing() {
    run(async {
        let mut sim = Sim::formed(11, 4, 3, &["repair.rebuild=false"]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let old = sim.disk(1).image(Crash::KeepAll, 1);
        // The document moves on: a member that owns nothing joins under a new machine name.
        let stranger = sim.node_id(3).await;
        let body =
            json!({ "id": "leave-3", "kind": "leave", "node": stranger, "rebalance": false });
        let refused =
            sim.admin(0, Method::POST, "/v1/operations", Some(body)).await.expect("an answer");
        assert_eq!(
            refused.status,
            422,
            "an owner does not leave without moving: {}",
            refused.text()
        );
        let answer =
            sim.admin(0, Method::GET, "/v1/cluster/document", None).await.expect("an answer");
        let newest: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let mut document = newest["document"].clone();
        document["epoch"] = json!(2);
        document["parentHash"] = newest["hash"].clone();
        document["buckets"]["carts"] = document["defaults"].clone();
        let put = json!({ "parentHash": newest["hash"], "document": document });
        let path = "/v1/cluster/document";
        let answer = sim.admin(0, Method::PUT, path, Some(put.clone())).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let again = sim.admin(2, Method::PUT, path, Some(put)).await.expect("an answer");
        assert_eq!(again.status, 409, "{}", again.text());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(epoch(&sim, 1).await, 2);
        // The volume of host 1 goes back to where it was.
        sim.crash(1, Crash::KeepAll).await;
        sim.replace_disk(1, old);
        sim.start(1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(epoch(&sim, 1).await, 2, "the newer document is learnt");
        let ready = sim.admin(1, Method::GET, "/readyz", None).await.expect("an answer");
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert!(ready.text().contains("put back"), "{}", ready.text());
        let http = sim.client(Duration::from_secs(10));
        let read = http
            .ask("n1:8098", Ask::new(Method::GET, "/v1/kv/b/k?r=one"))
            .await
            .expect("an answer");
        assert_eq!(read.status, 503, "{}", read.text());
        // Nor after another start.
        sim.crash(1, Crash::DropAll).await;
        sim.start(1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let ready = sim.admin(1, Method::GET, "/readyz", None).await.expect("an answer");
        assert_eq!(ready.status, 503, "{}", ready.text());
        // The others go on.
        let mut put = Ask::new(Method::PUT, "/v1/kv/b/k?w=quorum");
        put.body = "v".into();
        let written = http.ask("n0:8098", put).await.expect("an answer");
        assert_eq!(written.status, 204, "{}", written.text());
    });
}
