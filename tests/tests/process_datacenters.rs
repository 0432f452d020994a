//! Six real nodes in two data centers of three, three copies in each: what crosses over, what goes on and what is
//! refused while one of them is dead, and that both hold the same afterwards.

use hyper::Method;
use kvasir_tests::check::Demand;
use kvasir_tests::load::Plan;
use kvasir_tests::load::http::Ask;
use kvasir_tests::load::run::Aim;
use kvasir_tests::process::{Cluster, Load, run};
use serde_json::{Value, json};

const KEYS: u32 = 40;
/// Operations of the load that must end in every part of the story.
const ENOUGH: usize = 200;
/// Writes whose frames to the other data center are counted.
const COUNTED: usize = 24;
const CENTERS: [&str; 6] = ["dc1", "dc1", "dc1", "dc2", "dc2", "dc2"];

async fn sum(cluster: &Cluster, name: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..CENTERS.len() {
        sum += cluster.metric(node, name).await;
    }
    sum
}

/// Writes from everywhere, one after the other: one frame each to the other data center, and more only where
/// a forwarder was too slow for its coordinator.
async fn each_write_crosses_once(cluster: &Cluster) {
    for number in 0..COUNTED {
        let mut put = Ask::new(Method::PUT, format!("/v1/kv/counted/{number}?w=each_quorum"));
        put.body = "v".into();
        let stored = cluster.ask(number % CENTERS.len(), put).await.expect("an answer");
        assert_eq!(stored.status, 204, "{}", stored.text());
    }
    let crossed = sum(cluster, "kvasir_coordinator_cross_center_writes_total").await;
    let given_up = sum(cluster, "kvasir_coordinator_relays_given_up_total").await;
    println!("{COUNTED} writes crossed over in {crossed} frames, {given_up} forwarders given up");
    let least = COUNTED as f64;
    assert!((least..=least + 2.0 * given_up).contains(&crossed), "{crossed} frames");
}

/// What counts both data centers is refused, and the refusal names the dead one.
async fn refused_by_name(cluster: &Cluster, node: usize) {
    for (method, path) in [
        (Method::PUT, "/v1/kv/check/other?w=each_quorum&timeout=2s"),
        (Method::GET, "/v1/kv/check/key-0?r=each_quorum&timeout=2s"),
    ] {
        let answer = cluster.ask(node, Ask::new(method, path)).await.expect("an answer");
        let body: Value = serde_json::from_str(&answer.text()).expect("JSON");
        let said = (answer.status, &body["code"], &body["data_centers"]);
        assert_eq!(said, (503, &json!("quorum_not_reached"), &json!(["dc2"])), "{body}");
    }
}

#[test]
fn a_data_center_is_killed_and_clients_of_the_other_do_not_notice() {
    run(async {
        let mut cluster = Cluster::start_in(&CENTERS, &["repair.interval=5s"]).await;
        cluster.form_with(CENTERS.len(), json!({ "dc1": 3, "dc2": 3 })).await;
        each_write_crosses_once(&cluster).await;
        let plan = Plan {
            seed: 6,
            clients: 6,
            operations: u32::MAX,
            keys: KEYS,
            read_percent: 40,
            delete_percent: 4,
            token_percent: 60,
            padding: 100,
        };
        let aim = Aim {
            servers: cluster.servers()[..3].to_vec(),
            level: "local_quorum".to_string(),
            query: "timeout=10s&sloppy=false".to_string(),
            think_ms: 20,
        };
        let mut load = Load::start(plan, aim).await;
        load.goes_on(ENOUGH).await;
        let died = load.recorder.now_ms();
        (3..6).for_each(|node| cluster.kill(node));
        refused_by_name(&cluster, 0).await;
        load.goes_on(ENOUGH).await;
        refused_by_name(&cluster, 2).await;
        let back = load.recorder.now_ms();
        println!(
            "p99 {} ms with both, {} ms with one",
            load.p99_ms(0, died),
            load.p99_ms(died, back)
        );
        (3..6).for_each(|node| cluster.spawn(node));
        for node in 3..6 {
            cluster.until_ready(node).await;
        }
        load.goes_on(ENOUGH).await;
        load.stop().await;
        cluster.until_handed_back().await;
        let demand =
            Demand { operations: 3 * ENOUGH, ok_percent: 100, settled_keys: KEYS as usize };
        load.judged(&cluster, demand).await.assert_good();
    });
}
