//! Stories of racks that are added, removed, renamed and thought better of: nodes come before others leave
//! for them, one at a time, and what cannot be done is said.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::OperationKind;
use kvasir_core::ring::{OperationState, PartitionEntry, Sealed};
use serde_json::{Value, json};

use crate::operator::{Bench, Ended};

fn held(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn named(names: &[&str]) -> Value {
    json!(names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>())
}

fn racks(bench: &Bench, racks: Value) {
    bench.edit(|spec| spec["topology"]["racks"] = racks);
}

async fn formed(nodes: i32, names: &[&str]) -> Bench {
    Bench::formed(|spec| {
        spec["nodes"] = json!(nodes);
        spec["topology"] = json!({"racks": named(names)});
    })
    .await
}

async fn rest(bench: &Bench) {
    assert_eq!(bench.rest(&mut bench.life(None)).await, Ended::AtRest);
}

fn document(bench: &Bench) -> Sealed {
    bench.world.nodes().document().cloned().expect("it was formed")
}

/// Members in each rack.
fn members(bench: &Bench) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for member in document(bench).members.values() {
        *counts.entry(member.rack.clone()).or_default() += 1;
    }
    counts
}

fn count(bench: &Bench, kind: OperationKind) -> usize {
    let document = document(bench);
    document.operations.values().filter(|record| record.operation.kind == kind).count()
}

#[track_caller]
fn is_well(bench: &Bench, expected: &[(&str, usize)]) {
    assert_eq!(bench.condition("Ready"), held("True", "AllNodesServe"), "{:#}", bench.status());
    assert_eq!(bench.condition("RebalancePending").0, "False");
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(rack, count)| ((*rack).to_owned(), *count)).collect();
    assert_eq!(members(bench), expected);
    assert_eq!(bench.names("pods").len(), expected.values().sum::<usize>());
    let document = document(bench);
    let owned = |id| document.table.iter().filter(|entry| entry.names(id)).count();
    let owned: Vec<usize> = document.members.keys().map(|id| owned(*id)).collect();
    let (least, most) = (owned.iter().min(), owned.iter().max());
    assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "{owned:?}");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

/// The change, pass by pass in a world that is slow: there is never more than one pod too many, and no
/// member too few.
async fn one_at_a_time(bench: &mut Bench, nodes: usize) {
    bench.slow = true;
    let mut life = bench.life(None);
    for _ in 0..150 {
        bench.pass(&mut life).await;
        bench.world.turn();
        let (pods, members) = (bench.names("pods").len(), document(bench).members.len());
        assert!((nodes..=nodes + 1).contains(&pods), "{pods} pods");
        assert!((nodes..=nodes + 1).contains(&members), "{members} members");
    }
    bench.slow = false;
    rest(bench).await;
}

#[tokio::test]
async fn a_rack_that_is_added_gets_its_share_of_the_nodes() {
    let mut bench = formed(4, &["r1"]).await;
    let copies = document(&bench).table.len() * 3;
    racks(&bench, named(&["r1", "r2"]));
    one_at_a_time(&mut bench, 4).await;
    is_well(&bench, &[("r1", 2), ("r2", 2)]);
    let document = document(&bench);
    let racks_of = |entry: &PartitionEntry| -> BTreeSet<String> {
        let owners = entry.slots.values().flatten().map(|slot| slot.owner);
        owners.map(|owner| document.members[&owner].rack.clone()).collect()
    };
    assert!(document.table.iter().all(|entry| racks_of(entry).len() == 2));
    // What a node had goes to the one that came for it, and nothing else moves.
    let moved: usize = document
        .operations
        .values()
        .filter_map(|record| match &record.state {
            OperationState::Finished(summary) => Some(summary.moved as usize),
            _ => None,
        })
        .sum();
    assert!(moved <= copies * 3 / 4, "{moved} of {copies} copies moved");
    assert_eq!(count(&bench, OperationKind::Rebalance), 0);
}

#[tokio::test]
async fn a_rack_that_is_removed_is_left_by_its_nodes() {
    let mut bench = formed(3, &["r1", "r2", "r3"]).await;
    racks(&bench, named(&["r1", "r2"]));
    one_at_a_time(&mut bench, 3).await;
    is_well(&bench, &[("r1", 2), ("r2", 1)]);
    let set = bench.object("statefulsets", "demo-r3").expect("sets are never deleted");
    assert_eq!(set["spec"]["replicas"], 0);
    assert_eq!(bench.names("persistentvolumeclaims").len(), 4, "volumes are kept");
    // It comes back, as what it was.
    racks(&bench, named(&["r1", "r2", "r3"]));
    one_at_a_time(&mut bench, 3).await;
    is_well(&bench, &[("r1", 1), ("r2", 1), ("r3", 1)]);
}

#[tokio::test]
async fn racks_with_other_names_are_other_racks() {
    let mut bench = Bench::formed(|_| {}).await;
    racks(&bench, named(&["a", "b"]));
    one_at_a_time(&mut bench, 3).await;
    is_well(&bench, &[("a", 2), ("b", 1)]);
    racks(&bench, json!([]));
    one_at_a_time(&mut bench, 3).await;
    is_well(&bench, &[("default", 3)]);
    assert_eq!(bench.world.nodes().formed, 1);
}

#[tokio::test]
async fn racks_of_two_data_centers_change_one_by_one() {
    let rack = |name: &str, center: &str| json!({"name": name, "datacenter": center});
    let mut bench = Bench::formed(|spec| {
        spec["nodes"] = json!(4);
        let factors = [("east", 2), ("west", 2)];
        let factors = factors.map(|(name, factor)| json!({"datacenter": name, "factor": factor}));
        spec["replication"] = json!({"factors": factors, "readQuorum": "local_quorum",
            "writeQuorum": "local_quorum"});
        spec["topology"] = json!({"racks": [rack("e1", "east"), rack("w1", "west")]});
    })
    .await;
    let defaults = document(&bench).defaults.clone();
    assert_eq!(
        (defaults.r.to_string(), defaults.w.to_string()),
        ("local_quorum".to_owned(), "local_quorum".to_owned())
    );
    racks(&bench, json!([rack("e1", "east"), rack("w2", "west")]));
    one_at_a_time(&mut bench, 4).await;
    is_well(&bench, &[("e1", 2), ("w2", 2)]);
    for entry in &document(&bench).table {
        let copies: Vec<usize> = entry.slots.values().map(Vec::len).collect();
        assert_eq!(copies, [2, 2], "each data center keeps its copies");
    }
}

#[tokio::test]
async fn a_rack_that_is_put_back_keeps_the_nodes_that_had_not_left() {
    let bench = formed(4, &["r1", "r2"]).await;
    bench.world.nodes().moves_stand = true;
    racks(&bench, named(&["r1"]));
    rest(&bench).await;
    let operation = bench.status()["operation"].clone();
    assert_eq!((&operation["type"], &operation["pod"]), (&json!("Leave"), &json!("demo-r2-1")));
    racks(&bench, named(&["r1", "r2"]));
    rest(&bench).await;
    is_well(&bench, &[("r1", 2), ("r2", 2)]);
    assert_eq!(count(&bench, OperationKind::Leave), 2, "one taken back, one that had come for it");
}

#[tokio::test]
async fn no_node_leaves_for_one_that_has_no_worker() {
    let bench = formed(5, &["r1"]).await;
    racks(&bench, named(&["r1", "r2"]));
    rest(&bench).await;
    assert_eq!(bench.condition("Progressing"), held("True", "RackWaits"), "{:#}", bench.status());
    assert_eq!(bench.condition("Available").0, "True");
    let message = bench.status()["conditions"].to_string();
    assert!(message.contains("demo-r2-0: Unschedulable"), "{message}");
    assert_eq!(members(&bench), BTreeMap::from([("r1".to_owned(), 5)]));
    racks(&bench, named(&["r1"]));
    rest(&bench).await;
    is_well(&bench, &[("r1", 5)]);
}

#[tokio::test]
async fn a_rack_is_not_put_elsewhere_while_it_has_nodes() {
    let bench = formed(4, &["r1", "r2"]).await;
    racks(&bench, json!([{"name": "r1"}, {"name": "r2", "zone": "z"}]));
    rest(&bench).await;
    assert_eq!(bench.condition("Valid"), held("False", "RackElsewhere"));
    assert_eq!(members(&bench), BTreeMap::from([("r1".to_owned(), 2), ("r2".to_owned(), 2)]));
    racks(&bench, named(&["r1", "r2"]));
    rest(&bench).await;
    is_well(&bench, &[("r1", 2), ("r2", 2)]);
}

#[tokio::test]
async fn the_set_of_a_rack_that_goes_comes_back_while_it_has_members() {
    let bench = formed(4, &["r1", "r2"]).await;
    bench.world.nodes().moves_stand = true;
    racks(&bench, named(&["r1"]));
    rest(&bench).await;
    bench.delete("statefulsets", "demo-r2");
    bench.world.settle();
    rest(&bench).await;
    assert_eq!(bench.world.ready_pods("default").len(), 5, "{:#}", bench.status());
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    is_well(&bench, &[("r1", 4)]);
}
