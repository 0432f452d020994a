//! Requests that make no sense where there are data centers: each is refused with a code and a reason.

use std::time::Duration;

use hyper::Method;
use kvasir_tests::sim::{Sim, run};
use serde_json::json;
use tokio::time::sleep;

use super::{ask, document, json_of, put, two_centers};

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    run(async {
        let mut sim = two_centers(8, 3, &[]);
        for host in 0..3 {
            sim.start(host);
        }
        sleep(Duration::from_secs(5)).await;
        let nodes = ["n0:8099", "n1:8099", "n2:8099"];
        for (replication, says) in [
            (json!({ "dc1": 2, "dc2": 1, "dc3": 1 }), "data center dc3 has 0 machines"),
            (json!({ "dc1": 2 }), "is in data center dc2"),
            (json!({ "dc1": 3, "dc2": 1 }), "data center dc1 has 2 machines"),
            (json!({ "dc1": 2, "dc2": 0 }), "asks for 0 copies in data center dc2"),
            (json!({ "dc1": 2, "dc2": u32::MAX }), "copies in data center dc2"),
            (json!({}), "names 0 data centers"),
        ] {
            let body = json!({ "clusterName": "sim", "replication": replication, "nodes": nodes });
            let answer = sim.admin(0, Method::POST, "/v1/cluster/init", Some(body)).await;
            let answer = answer.expect("an answer");
            let problem = json_of(&answer);
            assert_eq!(
                (answer.status, &problem["code"]),
                (400, &json!("bad_request")),
                "{problem}"
            );
            let detail = problem["detail"].as_str().expect("text");
            assert!(detail.contains(says), "{detail}");
        }
        let defaults = json!({ "r": "local_quorum", "w": "each_quorum" });
        let body = json!({
            "clusterName": "sim", "replication": { "dc1": 2, "dc2": 1 }, "nodes": nodes,
            "defaults": defaults,
        });
        let formed = sim.admin(0, Method::POST, "/v1/cluster/init", Some(body)).await;
        let formed = formed.expect("an answer");
        assert_eq!(formed.status, 200, "{}", formed.text());
        for host in 0..3 {
            sim.until_ready(host).await;
        }
        sleep(Duration::from_secs(5)).await;
        let defaults = &document(&sim, 1).await["defaults"];
        assert_eq!(
            (&defaults["r"], &defaults["w"]),
            (&json!("local_quorum"), &json!("each_quorum"))
        );
        assert!(put(&sim, 1, "/v1/kv/b/k").await.0.len() >= 3);
        let http = sim.client(Duration::from_secs(6));
        for (path, code) in [
            ("/v1/kv/b/k?w=4", "bad_level"),
            ("/v1/kv/b/k?w=local_all", "bad_query_value"),
            ("/v1/kv/b/k?w=0", "bad_query_value"),
        ] {
            let answer = ask(&http, &sim.servers()[0], Method::PUT, path, "v").await;
            assert_eq!((answer.status, &json_of(&answer)["code"]), (400, &json!(code)), "{path}");
        }
    });
}

#[test]
fn a_node_outside_of_all_data_centers_with_copies_serves_no_local_level() {
    run(async {
        let mut sim = Sim::new(9, 4, &[]);
        sim.set_datacenter(3, "far");
        sim.form_first(3, 3).await;
        sleep(Duration::from_secs(5)).await;
        let node = sim.node_id(3).await;
        let body = json!({ "id": "j", "kind": "join", "node": node });
        let refused = sim.admin(0, Method::POST, "/v1/operations", Some(body)).await;
        let refused = refused.expect("an answer");
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(
            refused.text().contains("no copies are kept in data center far"),
            "{}",
            refused.text()
        );
        let body = json!({ "id": "k", "kind": "join", "node": node, "rebalance": false });
        let taken = sim.admin(0, Method::POST, "/v1/operations", Some(body)).await;
        let taken = taken.expect("an answer");
        assert_eq!(taken.status, 200, "{}", taken.text());
        sim.until_ready(3).await;
        let http = sim.client(Duration::from_secs(6));
        for level in ["local_one", "local_quorum"] {
            // With one data center a local level is what it would be without.
            let path = format!("/v1/kv/b/k?w={level}");
            assert!(!put(&sim, 0, &path).await.0.is_empty());
            let answer = ask(&http, &sim.servers()[3], Method::PUT, &path, "v").await;
            let problem = json_of(&answer);
            assert_eq!((answer.status, &problem["code"]), (400, &json!("bad_level")), "{problem}");
            let detail = problem["detail"].as_str().expect("text");
            assert!(detail.contains("data center `far`"), "{detail}");
        }
        // Any other level is forwarded.
        assert!(put(&sim, 3, "/v1/kv/b/k?w=quorum").await.0.len() >= 2);
        assert!(put(&sim, 3, "/v1/kv/b/k?w=each_quorum").await.0.len() >= 2);
    });
}
