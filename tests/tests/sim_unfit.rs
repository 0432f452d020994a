//! What the others know of a node that runs and serves nothing: its volume was put back to an older state. Its
//! copies count as missing in everybody's status, by its own word, and no request is sent its way first.

use std::time::Duration;

use hyper::Method;
use kvasir_core::admin_api::{Status, Verdict};
use kvasir_core::gossip::NotServing;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, run};
use tokio::time::{Instant, sleep};

async fn status(sim: &Sim, host: usize) -> Status {
    let answer = sim.admin(host, Method::GET, "/v1/status", None).await.expect("an answer");
    serde_json::from_slice(&answer.body).expect("a status")
}

async fn put(sim: &Sim, host: usize, key: u32) {
    let mut ask = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?w=2"));
    ask.body = "v".into();
    let http = sim.client(Duration::from_secs(20));
    let answer = http.ask(&sim.servers()[host], ask).await.expect("an answer");
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[test]
fn a_volume_put_back_counts_as_no_copy_in_the_status_of_the_others() {
    run(async {
        let mut sim = Sim::formed(61, 5, 3, &["repair.rebuild=false"]).await;
        let before = sim.disk(4).image(Crash::KeepAll, 0);
        let id = sim.node_id(4).await;
        for key in 0..40 {
            put(&sim, key as usize % 5, key).await;
        }
        sleep(Duration::from_secs(10)).await;
        assert_eq!(status(&sim, 0).await.safety.verdict, Verdict::Safe);
        sim.crash(4, Crash::Process).await;
        sim.replace_disk(4, before);
        sim.start(4);
        let until = Instant::now() + Duration::from_secs(60);
        for host in 0..4 {
            loop {
                let status = status(&sim, host).await;
                let row = status.nodes.iter().find(|row| row.id == id).expect("a row");
                if row.not_serving == Some(NotServing::NeedsRebuild) && row.liveness.is_up() {
                    let owned = row.partitions;
                    assert!(owned > 0);
                    assert_eq!(status.partitions.under_replicated, owned);
                    assert_eq!(status.safety.verdict, Verdict::Degraded, "{:?}", status.safety);
                    break;
                }
                assert!(Instant::now() < until, "host {host}: {row:?}");
                sleep(Duration::from_millis(200)).await;
            }
        }
        for key in 0..40 {
            put(&sim, key as usize % 4, key).await;
        }
    });
}

/// A node that keeps what was counted in the place of others does not leave before it was handed back.
#[test]
fn a_node_with_stand_in_copies_cannot_leave() {
    run(async {
        let mut sim = Sim::formed(62, 5, 3, &[]).await;
        for host in [3, 4] {
            sim.crash(host, Crash::DropAll).await;
        }
        sleep(Duration::from_secs(20)).await;
        for key in 0..40 {
            put(&sim, key as usize % 3, key).await;
        }
        sleep(Duration::from_secs(5)).await;
        let said = status(&sim, 0).await;
        let keeper = said.nodes.iter().find(|row| row.keeps_copies).expect("somebody stood in");
        let leave = |id: &str| serde_json::json!({ "id": id, "kind": "leave", "node": keeper.id, "rebalance": false });
        let path = "/v1/operations";
        let answer = sim.admin(0, Method::POST, path, Some(leave("l1"))).await.expect("an answer");
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(answer.text().contains("\"keeps_copies\""), "{}", answer.text());
        for host in [3, 4] {
            sim.start(host);
        }
        let until = Instant::now() + Duration::from_secs(60);
        while status(&sim, 0).await.nodes.iter().any(|row| row.keeps_copies) {
            assert!(Instant::now() < until, "the copies do not go back");
            sleep(Duration::from_millis(500)).await;
        }
        // What it owns is the next reason, judged by the document alone.
        let answer = sim.admin(0, Method::POST, path, Some(leave("l2"))).await.expect("an answer");
        assert!(!answer.text().contains("\"keeps_copies\""), "{}", answer.text());
    });
}
