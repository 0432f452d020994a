//! What a node does when its platform moves under it: a volume of another cluster, a token that
//! changes, a stop that load balancers must see coming.

use std::time::{Duration, Instant};

use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::process::{Cluster, PATIENCE, run};
use serde_json::{Value, json};

/// Polls until `seen` finds what it looks for.
async fn until<T>(what: &str, mut seen: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = seen().await {
            return found;
        }
        assert!(Instant::now() < until, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn row(cluster: &Cluster, node: usize, row: &str) -> bool {
    let page = cluster.admin(node, Method::GET, "/metrics", None).await.expect("an answer");
    page.text().lines().any(|line| line == row)
}

#[test]
fn a_volume_of_another_cluster_is_refused_until_it_is_back_among_its_own() {
    run(async {
        let mut ours = Cluster::formed(3, 3, &[]).await;
        let seeds: Vec<String> = ours.nodes.iter().map(|node| node.peer.clone()).collect();
        let seeds = format!("node.seeds={}", serde_json::to_string(&seeds).expect("strings"));
        // A cluster of its own whose volume then comes up with the seeds of the other.
        let mut theirs = Cluster::formed(1, 1, &[]).await;
        let own = theirs.document(0).await["document"]["clusterId"].clone();
        let other = ours.document(0).await["document"]["clusterId"].clone();
        theirs.signal(0, "TERM");
        assert_eq!(theirs.wait(0), Some(0), "{}", theirs.log(0));
        theirs.set(&seeds);
        theirs.restart_alone(0).await;
        let said = until("a refusal", async || {
            let ready = theirs.admin(0, Method::GET, "/readyz", None).await.expect("an answer");
            (ready.status == 503 && ready.text().contains("belongs to cluster"))
                .then(|| ready.text().to_string())
        })
        .await;
        for id in [&own, &other] {
            assert!(said.contains(id.as_str().expect("an id")), "{said}");
        }
        assert!(row(&theirs, 0, r#"kvasir_node_unfit{reason="other_cluster"} 1"#).await);
        let read =
            theirs.ask(0, Ask::new(Method::GET, "/v1/kv/b/k?r=one")).await.expect("an answer");
        assert_eq!(read.status, 503, "{}", read.text());
        // The cluster that it knocked at noticed, and goes on.
        until("a count", async || {
            let row = r#"kvasir_peer_goodbyes_total{reason="other_cluster"} 0"#;
            let mut counted = false;
            for node in 0..3 {
                counted |= !self::row(&ours, node, row).await;
            }
            counted.then_some(())
        })
        .await;
        for node in 0..3 {
            ours.until_ready(node).await;
            assert_eq!(ours.document(node).await["epoch"], 1);
        }
        // Nor is a cluster formed around it: nothing is promised to a request that names it.
        let blank = json!({ "clusterName": "x", "replication": {"dc1": 1}, "nodes": [theirs.nodes[0].peer] });
        let (status, refused) = ours.json(0, Method::POST, "/v1/cluster/init", Some(blank)).await;
        assert_eq!((status, &refused["code"]), (409, &json!("already_formed")), "{refused}");
        ours.kill(0);
    });
}

#[test]
fn a_blank_node_forms_nothing_beside_a_cluster_that_it_hears_of() {
    run(async {
        let cluster = Cluster::start(4, &[]).await;
        cluster.form(3, 3).await;
        let id = cluster.document(0).await["document"]["clusterId"].clone();
        let id = id.as_str().expect("an id").to_string();
        let blank = cluster.nodes[3].peer.clone();
        let init = json!({ "clusterName": "second", "replication": {"dc1": 1}, "nodes": [blank] });
        until("word of the cluster", async || {
            let ready = cluster.admin(3, Method::GET, "/readyz", None).await.expect("an answer");
            assert_eq!(ready.status, 503, "{}", ready.text());
            ready.text().contains("not a member").then_some(())
        })
        .await;
        let refused = until("a refusal that names the cluster", async || {
            let (status, answer) =
                cluster.json(3, Method::POST, "/v1/cluster/init", Some(init.clone())).await;
            assert_eq!((status, &answer["code"]), (503, &json!("nodes_not_ready")), "{answer}");
            let all = answer["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3);
            let named = answer["detail"].as_str().is_some_and(|detail| detail.contains(&id));
            (all && named).then_some(answer)
        })
        .await;
        assert!(refused["hint"].is_string(), "{refused}");
        let warned = cluster.log(3).matches("a cluster document was not taken").count();
        assert!(warned <= 1, "fetched again and again: {warned} times");
    });
}

#[test]
fn a_node_that_is_told_to_stop_is_first_not_ready_and_then_gone() {
    run(async {
        let mut cluster = Cluster::formed(1, 1, &["node.drain_delay=3s"]).await;
        let mut put = Ask::new(Method::PUT, "/v1/kv/b/k");
        put.body = "v".into();
        assert_eq!(cluster.ask(0, put.clone()).await.expect("an answer").status, 204);
        cluster.signal(0, "TERM");
        let seen = until("not ready", async || {
            let ready = cluster.admin(0, Method::GET, "/readyz", None).await.expect("an answer");
            (ready.status == 503).then(|| ready.text().to_string())
        })
        .await;
        assert!(seen.contains("not_draining"), "{seen}");
        // Clients that have not heard of it yet are served as before, on new connections too.
        for _ in 0..5 {
            assert_eq!(cluster.ask(0, put.clone()).await.expect("an answer").status, 204);
        }
        assert_eq!(cluster.wait(0), Some(0), "{}", cluster.log(0));
        assert!(cluster.log(0).contains("stopped in good order"), "{}", cluster.log(0));
        let lines = cluster.log(0);
        for line in lines.lines() {
            let parsed: Result<Value, _> = serde_json::from_str(line);
            assert!(parsed.is_ok_and(|v| v["level"].is_string()), "not JSON: {line}");
        }
    });
}

#[test]
fn a_token_that_changes_on_disk_is_in_force_without_a_restart() {
    run(async {
        let mut cluster = Cluster::formed(1, 1, &[]).await;
        let file = cluster.dir().join("token");
        std::fs::write(&file, "first\n").expect("written");
        cluster.kill(0);
        let port = cluster.nodes[0].admin.rsplit_once(':').expect("a port").1.to_string();
        cluster.set("node.advertise=127.0.0.1");
        cluster.set(&format!("admin.listen=0.0.0.0:{port}"));
        cluster.set(&format!("admin.token_file={}", file.display()));
        cluster.restart(0).await;
        let read = async |token: Option<&str>| {
            let mut ask = Ask::new(Method::GET, "/v1/replica/b/k");
            ask.headers.extend(token.map(|token| ("authorization", format!("Bearer {token}"))));
            let admin = cluster.nodes[0].admin.clone();
            cluster.client().ask(&admin, ask).await.expect("an answer").status
        };
        assert_eq!((read(None).await, read(Some("first")).await), (401, 200));
        // As the kubelet does it: another file takes the name.
        let next = cluster.dir().join("token.next");
        std::fs::write(&next, "second").expect("written");
        std::fs::rename(&next, &file).expect("renamed");
        until("the second token", async || (read(Some("second")).await == 200).then_some(())).await;
        assert_eq!(read(Some("first")).await, 403);
        // Nothing in the file is no token: the last one stays.
        std::fs::write(&file, " \n").expect("written");
        until("a warning", async || {
            cluster.log(0).contains("the last admin token stays in force").then_some(())
        })
        .await;
        assert_eq!((read(Some("second")).await, read(Some("")).await), (200, 403));
    });
}
