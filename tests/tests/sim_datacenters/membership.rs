//! Nodes join and leave one of two data centers under load, and every epoch on the way keeps the copies apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;
use kvasir_core::id::NodeId;
use kvasir_tests::check::{Demand, Evidence, judge};
use kvasir_tests::load::{Clock, Recorder, settle};
use kvasir_tests::sim::{Sim, run};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, aim, all, document, filled, load, plan, two_centers, until_equal};

/// Whether each partition has three copies in each data center, all that are named for them there on
/// machines of their own.
fn assert_apart(document: &Value) {
    for (index, entry) in document["table"].as_array().expect("a table").iter().enumerate() {
        for center in ["dc1", "dc2"] {
            let slots = entry["slots"][center].as_array().expect("slots");
            assert_eq!(slots.len(), 3, "partition {index}: {entry}");
            let mut machines = BTreeSet::new();
            for slot in slots {
                let named: BTreeSet<&str> = [&slot["owner"], &slot["state"]]
                    .into_iter()
                    .chain(slot["state"].as_object().into_iter().flat_map(|state| state.values()))
                    .filter_map(|id| id.as_str().or_else(|| id["node"].as_str()))
                    .filter(|id| id.parse::<NodeId>().is_ok())
                    .collect();
                for id in named {
                    let member = &document["members"][id];
                    assert_eq!(member["datacenter"], center, "partition {index}: {entry}");
                    let machine = member["machine"].as_str().expect("a machine");
                    assert!(machines.insert(machine.to_owned()), "partition {index}: {entry}");
                }
            }
        }
    }
}

/// Posts an operation and waits for its end; every document on the way is looked at.
async fn operate(sim: &Sim, body: Value, seen: &mut BTreeMap<u64, bool>) {
    let id = body["id"].as_str().expect("an id").to_owned();
    let posted = sim.admin(0, Method::POST, "/v1/operations", Some(body)).await.expect("an answer");
    assert_eq!(posted.status, 200, "{}", posted.text());
    let until = Instant::now() + PATIENCE;
    loop {
        let document = document(sim, 0).await;
        let epoch = document["epoch"].as_u64().expect("an epoch");
        seen.entry(epoch).or_insert_with(|| {
            assert_apart(&document);
            let entries = document["table"].as_array().expect("a table").iter();
            let slots = entries.flat_map(|entry| entry["slots"].as_object().expect("slots"));
            let moving = slots.flat_map(|(_, slots)| slots.as_array().expect("slots"));
            moving.into_iter().any(|slot| slot["state"] != "stable")
        });
        let state = &document["operations"][&id]["state"];
        if state["finished"].is_object() {
            return;
        }
        assert!(state["running"].is_object() && Instant::now() < until, "{id}: {state}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_node_joins_and_leaves_one_data_center_and_copies_stay_apart_in_every_epoch() {
    run(async {
        let mut sim = two_centers(7, 7, &[]);
        sim.form_first(6, 3).await;
        sleep(Duration::from_secs(5)).await;
        let (plan, recorder) = (plan(7, 150), Recorder::new(Clock::start()));
        let aim = aim(&sim, &[0, 1, 2, 3, 4, 5], "each_quorum", "timeout=4s&sloppy=false");
        filled(&sim, &plan, &aim, &recorder).await;
        let sessions = load(&sim, &plan, &aim, &recorder);
        let node = sim.node_id(6).await;
        let mut seen = BTreeMap::new();
        operate(&sim, json!({ "id": "j", "kind": "join", "node": node }), &mut seen).await;
        let after = document(&sim, 0).await;
        let owned = |center: &str| {
            let entries = after["table"].as_array().expect("a table").iter();
            let slots = entries.flat_map(|e| e["slots"][center].as_array().expect("slots"));
            slots.filter(|slot| slot["owner"] == node.to_string().as_str()).count()
        };
        let share = after["table"].as_array().expect("a table").len() * 3 / 4;
        assert!((share..=share + 1).contains(&owned("dc1")) && owned("dc2") == 0);
        operate(&sim, json!({ "id": "l", "kind": "leave", "node": node }), &mut seen).await;
        all(sessions).await;
        let (first, last) = (*seen.keys().next().expect("one"), *seen.keys().last().expect("one"));
        let moving = seen.values().filter(|moving| **moving).count();
        println!(
            "{} of epochs {first} to {last} were looked at, {moving} while something moved",
            seen.len()
        );
        assert!(
            seen.len() as u64 == last - first + 1 && moving > 3,
            "epochs were missed: {seen:?}"
        );
        let held = until_equal(&sim, 6, plan.keys, 6).await;
        settle(&plan, &aim, &sim.client(Duration::from_secs(6)), &recorder).await;
        let history = recorder.history();
        let demand = Demand { operations: 500, ok_percent: 99, settled_keys: 40 };
        let evidence =
            Evidence { strict: true, acks: 4, last: &held, ..Evidence::of(&history, demand) };
        let report = judge(&evidence);
        println!("join and leave: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
    });
}
