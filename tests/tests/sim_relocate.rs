//! A member that comes up on another machine: the document follows by a ballot, also where two copies
//! then share the machine, and everybody can see that they do.

use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, run};
use serde_json::{Value, json};
use tokio::time::Instant;

async fn operate(sim: &Sim, host: usize, path: &str, body: &Value) -> (u16, Value) {
    let answer = sim.admin(host, Method::POST, path, Some(body.clone())).await.expect("an answer");
    (answer.status, serde_json::from_slice(&answer.body).expect("JSON"))
}

async fn get(sim: &Sim, host: usize, path: &str) -> Value {
    let answer = sim.admin(host, Method::GET, path, None).await.expect("an answer");
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()))
}

/// Posts until gossip has told the host where the node is now.
async fn relocate(sim: &Sim, host: usize, body: &Value) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, answer) = operate(sim, host, "/v1/operations", body).await;
        if status == 200 {
            return answer;
        }
        assert_eq!((status, &answer["code"]), (409, &json!("place_differs")), "{answer}");
        assert!(Instant::now() < until, "{answer}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Ends a host and starts it on another machine.
async fn carry(sim: &mut Sim, host: usize, machine: &str) {
    sim.crash(host, Crash::DropAll).await;
    sim.set_machine(host, machine);
    sim.start(host);
    sim.until_ready(host).await;
}

fn post(id: &str, node: &str, machine: &str) -> Value {
    json!({ "id": id, "kind": "relocate", "node": node, "machine": machine })
}

#[test]
fn a_member_on_another_machine_is_relocated_and_sharing_is_shown() {
    run(async {
        let mut sim = Sim::formed(21, 3, 3, &[]).await;
        let moved = sim.node_id(2).await.to_string();
        let partitions = get(&sim, 0, "/v1/status").await["partitions"]["total"].clone();
        // What the node does not say of itself is not recorded.
        let early = post("to-1", &moved, "machine-1");
        let (status, refused) = operate(&sim, 0, "/v1/operations", &early).await;
        assert_eq!((status, &refused["code"]), (409, &json!("place_differs")), "{refused}");
        assert_eq!(refused["says"]["machine"], "machine-2");
        carry(&mut sim, 2, "machine-1").await;
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, plan) = operate(&sim, 0, "/v1/operations?dryRun", &early).await;
            if status == 200 {
                assert_eq!(
                    (&plan["risk"]["level"], &plan["moves"]),
                    (&json!("reduced"), &json!([]))
                );
                break;
            }
            assert!(Instant::now() < until, "{plan}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let done = relocate(&sim, 0, &early).await;
        assert_eq!((&done["state"], &done["endedEpoch"]), (&json!("done"), &json!(2)), "{done}");
        assert_eq!(done["request"], early);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for host in 0..3 {
            let (status, again) = operate(&sim, host, "/v1/operations", &early).await;
            assert_eq!((status, &again), (200, &done), "posted again at host {host}");
            let told = get(&sim, host, "/v1/status").await;
            assert_eq!(told["cluster"]["epoch"], 2, "no further document");
            assert_eq!(told["partitions"]["sharedMachine"], partitions, "{told}");
            let shared = &told["sharedMachines"];
            assert_eq!(shared.as_array().map(Vec::len), Some(1), "{shared}");
            assert_eq!(shared[0]["machine"], "machine-1");
            assert_eq!(shared[0]["nodes"].as_array().map(Vec::len), Some(2), "{shared}");
            let page = get(&sim, host, "/metrics").await;
            let row = format!("kvasir_ring_partitions{{state=\"shared_machine\"}} {partitions}");
            assert!(page.as_str().is_some_and(|p| p.lines().any(|l| l == row)), "{row}");
        }
        let other = post("to-1", &moved, "machine-9");
        let (status, conflict) = operate(&sim, 1, "/v1/operations", &other).await;
        assert_eq!((status, &conflict["code"]), (409, &json!("operation_conflict")));
        // The data is served as before.
        let http = sim.client(Duration::from_secs(10));
        let mut put = Ask::new(Method::PUT, "/v1/kv/b/k?w=all");
        put.body = "v".into();
        assert_eq!(http.ask("n2:8098", put).await.expect("an answer").status, 204);
        // On a machine of its own again, nothing is shared.
        carry(&mut sim, 2, "machine-9").await;
        let away = relocate(&sim, 1, &post("to-9", &moved, "machine-9")).await;
        assert_eq!(away["endedEpoch"], 3, "{away}");
        let told = get(&sim, 1, "/v1/status").await;
        assert_eq!(told.get("sharedMachines"), None, "{told}");
        assert_eq!(told["partitions"]["sharedMachine"], 0);
        // The first operation is still what it was.
        let (status, again) = operate(&sim, 1, "/v1/operations", &early).await;
        assert_eq!((status, &again), (200, &done));
    });
}

#[test]
fn without_a_majority_a_relocate_waits_and_the_same_post_finishes_it() {
    run(async {
        let mut sim = Sim::formed(22, 3, 3, &[]).await;
        let moved = sim.node_id(2).await.to_string();
        carry(&mut sim, 2, "machine-7").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let body = post("to-7", &moved, "machine-7");
        sim.isolate(0);
        let (status, refused) = operate(&sim, 0, "/v1/operations", &body).await;
        assert_eq!((status, &refused["code"]), (503, &json!("no_majority")), "{refused}");
        assert_eq!(get(&sim, 0, "/v1/cluster/document").await["epoch"], 1);
        sim.heal();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let done = relocate(&sim, 0, &body).await;
        assert_eq!(done["endedEpoch"], 2, "{done}");
        let (_, again) = operate(&sim, 1, "/v1/operations", &body).await;
        assert_eq!(again["endedEpoch"], 2, "{again}");
        let member = &get(&sim, 1, "/v1/cluster/document").await["document"]["members"][&moved];
        assert_eq!(member["machine"], "machine-7");
        assert_eq!(member["weight"], 100, "nothing else changed");
    });
}
