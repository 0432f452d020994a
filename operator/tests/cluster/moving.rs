//! Stories in which data moves: nodes come, go, are lost and change their workers, the user thinks
//! better of it, and the API server forgets.

use std::collections::BTreeMap;

use kvasir_core::admin_api::OperationKind;
use kvasir_core::id::NodeId;
use kvasir_core::ring::{OperationState, Sealed, Summary};
use serde_json::{Value, json};

use crate::operator::{Bench, Ended};

fn held(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn document(bench: &Bench) -> Sealed {
    bench.world.nodes().document().cloned().expect("it was formed")
}

/// Copies that each member owns.
fn owned(bench: &Bench) -> BTreeMap<NodeId, usize> {
    let document = document(bench);
    let copies = |id: &NodeId| document.table.iter().filter(|entry| entry.names(*id)).count();
    document.members.keys().map(|id| (*id, copies(id))).collect()
}

/// What the operations of a kind came to, oldest first.
fn summaries(bench: &Bench, kind: OperationKind) -> Vec<(u64, OperationState)> {
    let document = document(bench);
    let records = document.operations.values().filter(|record| record.operation.kind == kind);
    let mut found: Vec<_> = records.map(|record| (record.started, record.state.clone())).collect();
    found.sort_by_key(|(started, _)| *started);
    found
}

fn finished(state: &OperationState) -> &Summary {
    let OperationState::Finished(summary) = state else { panic!("{state:?}") };
    summary
}

fn nodes(bench: &Bench, nodes: i32) {
    bench.edit(|spec| spec["nodes"] = json!(nodes));
}

async fn rest(bench: &Bench) {
    assert_eq!(bench.rest(&mut bench.life(None)).await, Ended::AtRest);
}

fn is_well(bench: &Bench, members: usize) {
    assert_eq!(bench.condition("Ready"), held("True", "AllNodesServe"), "{:#}", bench.status());
    assert_eq!(bench.condition("Degraded").0, "False");
    assert_eq!(bench.condition("RebalancePending").0, "False");
    let owned = owned(bench);
    let (least, most) = (owned.values().min(), owned.values().max());
    assert_eq!(owned.len(), members);
    assert!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "{owned:?}");
    assert_eq!(bench.names("pods").len(), members);
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn two_nodes_come_and_take_their_share_in_one_go_and_leave_one_after_the_other() {
    let bench = Bench::formed(|_| {}).await;
    let before = document(&bench);
    nodes(&bench, 5);
    rest(&bench).await;
    is_well(&bench, 5);
    let joins = summaries(&bench, OperationKind::Join);
    let [(_, OperationState::Done), (_, both)] = &joins[..] else { panic!("{joins:?}") };
    // Each of five owns a fifth of all copies, so two fifths moved, and nothing twice.
    let copies = before.table.len() * 3;
    assert!(finished(both).moved as usize <= (copies * 2).div_ceil(5), "{both:?}");
    nodes(&bench, 3);
    rest(&bench).await;
    is_well(&bench, 3);
    let leaves = summaries(&bench, OperationKind::Leave);
    assert_eq!(leaves.len(), 2);
    assert!(leaves.iter().all(|(_, state)| finished(state).moved > 0), "{leaves:?}");
    assert_eq!(bench.names("persistentvolumeclaims").len(), 5, "volumes are kept");
    let rebalanced = summaries(&bench, OperationKind::Rebalance);
    assert_eq!(rebalanced, [], "joins and leaves leave nothing to be mended");
    // The volumes that were kept come back as what they were.
    nodes(&bench, 5);
    rest(&bench).await;
    is_well(&bench, 5);
}

#[tokio::test]
async fn how_far_a_move_is_stands_in_the_status() {
    let bench = Bench::formed(|_| {}).await;
    bench.world.nodes().moves_stand = true;
    nodes(&bench, 4);
    rest(&bench).await;
    let operation = bench.status()["operation"].clone();
    assert_eq!((&operation["type"], &operation["step"]), (&json!("Join"), &json!("Posted")));
    assert_eq!((&operation["movesDone"], &operation["movedBytes"]), (&json!(0), &json!(0)));
    let total = operation["movesTotal"].as_u64().expect("a number");
    assert_eq!(total as usize, document(&bench).table.len() * 3 / 4);
    assert_eq!(bench.condition("Progressing"), held("True", "Joining"));
    assert_eq!(bench.condition("RebalancePending"), held("True", "Moving"));
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    is_well(&bench, 4);
}

#[tokio::test]
async fn a_scale_up_that_is_thought_better_of_is_taken_back() {
    let bench = Bench::formed(|_| {}).await;
    bench.world.nodes().moves_stand = true;
    nodes(&bench, 5);
    rest(&bench).await;
    nodes(&bench, 3);
    rest(&bench).await;
    is_well(&bench, 3);
    let joins = summaries(&bench, OperationKind::Join);
    let (_, OperationState::Cancelled(summary)) = &joins[1] else { panic!("{joins:?}") };
    assert_eq!(summary.moved, 0, "nothing had reached its second step");
}

#[tokio::test]
async fn a_scale_down_that_is_thought_better_of_is_taken_back_and_what_moved_moves_back() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    // Some moves are through, the rest is not begun.
    let mut life = bench.life(None);
    nodes(&bench, 3);
    while bench.status()["operation"]["type"] != "Leave" {
        bench.pass(&mut life).await;
    }
    for _ in 0..3 {
        bench.world.turn();
    }
    nodes(&bench, 4);
    rest(&bench).await;
    is_well(&bench, 4);
    let leaves = summaries(&bench, OperationKind::Leave);
    assert!(matches!(leaves[..], [(_, OperationState::Cancelled(_))]), "{leaves:?}");
}

#[tokio::test]
async fn a_node_that_left_keeps_its_pod_while_it_keeps_copies_for_others() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    let leaver = bench.world.nodes().id_in("demo-default-3").expect("it runs");
    bench.world.nodes().keeping.insert(leaver);
    nodes(&bench, 3);
    rest(&bench).await;
    assert_eq!(document(&bench).members.len(), 3);
    assert_eq!(bench.names("pods").len(), 4);
    let step = bench.status()["operation"]["step"].clone();
    assert!(step == "Requested" || step == "Posted", "{step}");
    bench.world.nodes().keeping.clear();
    rest(&bench).await;
    is_well(&bench, 3);
}

#[tokio::test]
async fn a_leaver_whose_pod_is_made_anew_meanwhile_still_goes() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    bench.world.nodes().moves_stand = true;
    nodes(&bench, 3);
    rest(&bench).await;
    bench.delete("pods", "demo-default-3");
    bench.world.settle();
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    is_well(&bench, 3);
}

#[tokio::test]
async fn a_node_does_not_leave_where_its_data_has_no_room() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    {
        let mut nodes = bench.world.nodes();
        (nodes.load.disk_bytes, nodes.load.free_bytes) = (1_000, Some(399));
    }
    nodes(&bench, 3);
    rest(&bench).await;
    assert_eq!(bench.condition("Progressing"), held("False", "TooLittleSpace"));
    assert_eq!(bench.condition("Ready").0, "False");
    assert_eq!(bench.names("pods").len(), 4);
    bench.world.nodes().load.free_bytes = Some(400);
    rest(&bench).await;
    is_well(&bench, 3);
}

#[tokio::test]
async fn a_lost_volume_is_replaced_by_a_new_node_as_often_as_it_happens() {
    let bench = Bench::formed(|_| {}).await;
    for round in 1..=3 {
        let old = bench.world.nodes().id_in("demo-default-1").expect("it runs");
        bench.lose_volume("demo-default-1");
        bench.world.settle();
        rest(&bench).await;
        is_well(&bench, 3);
        let document = document(&bench);
        assert!(!document.members.contains_key(&old) && !document.owns_anything(old));
        assert_eq!(summaries(&bench, OperationKind::Replace).len(), round);
    }
}

#[tokio::test]
async fn a_member_that_is_down_or_whose_claim_alone_is_gone_is_not_replaced() {
    let bench = Bench::formed(|_| {}).await;
    let pod = bench.object("pods", "demo-default-1").expect("it is there");
    let worker = pod["spec"]["nodeName"].as_str().expect("placed").to_owned();
    bench.world.kill_worker(&worker);
    bench.world.settle();
    bench.delete("persistentvolumeclaims", "data-demo-default-1");
    rest(&bench).await;
    assert_eq!(bench.condition("Degraded"), held("True", "MembersDown"));
    assert_eq!(summaries(&bench, OperationKind::Replace), []);
    assert_eq!(document(&bench).members.len(), 3);
}

#[tokio::test]
async fn a_node_that_is_lost_while_another_joins_is_replaced_first() {
    let bench = Bench::formed(|_| {}).await;
    bench.world.nodes().moves_stand = true;
    nodes(&bench, 4);
    rest(&bench).await;
    bench.lose_volume("demo-default-1");
    bench.world.settle();
    rest(&bench).await;
    assert_eq!(bench.status()["operation"]["type"], "Replace");
    assert_eq!(bench.condition("Degraded"), held("True", "LostVolume"));
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    is_well(&bench, 4);
}

#[tokio::test]
async fn a_successor_that_is_lost_before_it_has_everything_is_replaced_in_its_turn() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    bench.world.nodes().moves_stand = true;
    for _ in 0..2 {
        let lost = bench.world.nodes().id_in("demo-default-1").expect("it runs");
        bench.lose_volume("demo-default-1");
        bench.world.settle();
        rest(&bench).await;
        assert_eq!(bench.status()["operation"]["type"], "Replace");
        assert_eq!(bench.status()["operation"]["replaces"], lost.to_string());
        assert_eq!(bench.condition("Degraded"), held("True", "LostVolume"));
    }
    assert_eq!(bench.violations(), Vec::<String>::new());
}

/// No pod is placed on this worker any more, or again.
fn cordon(bench: &Bench, worker: &str, closed: bool) {
    bench.world.api.with_store(|store| {
        let key = crate::api::key("nodes", "", worker);
        let mut node = store.get(&key).cloned().expect("a worker");
        node["spec"]["unschedulable"] = json!(closed);
        store.replace(&key, node).expect("nobody else writes now");
    });
}

fn worker(bench: &Bench, pod: &str) -> String {
    let pod = bench.object("pods", pod).expect("it is there");
    pod["spec"]["nodeName"].as_str().expect("placed").to_owned()
}

#[tokio::test]
async fn copies_that_come_to_share_a_worker_are_moved_apart() {
    let many = |spec: &mut Value| {
        spec["nodes"] = json!(4);
        spec["topology"] = json!({"allowMultipleNodesPerWorker": true});
    };
    let bench = Bench::formed(many).await;
    let there = worker(&bench, "demo-default-2");
    for number in 0..5 {
        let name = format!("w{number}");
        cordon(&bench, &name, name != there);
    }
    bench.world.nodes().moves_stand = true;
    bench.delete("pods", "demo-default-1");
    bench.world.settle();
    assert_eq!(worker(&bench, "demo-default-1"), there);
    rest(&bench).await;
    assert_eq!(bench.condition("Degraded"), held("True", "SharedMachine"));
    assert_eq!(bench.status()["operation"]["type"], "Rebalance");
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    assert_eq!(bench.condition("Degraded").0, "False");
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
    // Where there are not workers enough it is said, and nothing is asked for over and over.
    let other = worker(&bench, "demo-default-3");
    cordon(&bench, &other, true);
    bench.delete("pods", "demo-default-3");
    bench.world.settle();
    rest(&bench).await;
    assert_eq!(bench.condition("Degraded"), held("True", "SharedMachine"));
    assert_eq!(bench.status()["operation"], Value::Null);
}

#[tokio::test]
async fn an_operation_of_somebody_else_is_waited_for() {
    let bench = Bench::formed(|_| {}).await;
    bench.world.nodes().moves_stand = true;
    nodes(&bench, 4);
    rest(&bench).await;
    // The journal is lost; the very change goes on under the id that it has.
    let id = bench.status()["operation"]["id"].clone();
    bench.change("kvclusters", crate::operator::NAME, |cluster| {
        cluster["status"]["operation"] = Value::Null;
    });
    rest(&bench).await;
    assert_eq!(bench.status()["operation"]["id"], id);
    bench.world.nodes().moves_stand = false;
    rest(&bench).await;
    is_well(&bench, 4);
}

#[tokio::test]
async fn new_nodes_fill_a_rack_that_is_added_and_take_their_share() {
    let bench = Bench::formed(|spec| {
        spec["topology"] = json!({"racks": [{"name": "r1"}]});
    })
    .await;
    bench.edit(|spec| {
        spec["topology"] = json!({"racks": [{"name": "r1"}, {"name": "r2"}]});
        spec["nodes"] = json!(5);
    });
    rest(&bench).await;
    assert_eq!(bench.condition("Ready").0, "True", "{:#}", bench.status());
    let document = document(&bench);
    let in_second = |id: &NodeId| document.members.get(id).is_some_and(|m| m.rack == "r2");
    let spread = document
        .table
        .iter()
        .all(|entry| entry.slots.values().flatten().any(|slot| in_second(&slot.owner)));
    assert!(spread, "every partition has a copy in each rack");
    nodes(&bench, 4);
    rest(&bench).await;
    assert_eq!(bench.condition("Ready").0, "True", "{:#}", bench.status());
    assert_eq!(bench.violations(), Vec::<String>::new());
}

/// Every status that a change went through, in a world that is slow.
async fn statuses(bench: &mut Bench, to: i32) -> Vec<Value> {
    let mut all = vec![bench.status()];
    let mut life = bench.life(None);
    nodes(bench, to);
    for _ in 0..120 {
        bench.pass(&mut life).await;
        bench.world.turn();
        let now = bench.status();
        if all.last() != Some(&now) {
            all.push(now);
        }
    }
    rest(bench).await;
    is_well(bench, usize::try_from(to).expect("a small number"));
    all
}

#[tokio::test]
async fn an_older_status_at_any_moment_does_not_rewind_the_ring() {
    let mut bench = Bench::formed(|_| {}).await;
    bench.slow = true;
    let mut old = statuses(&mut bench, 5).await;
    old.extend(statuses(&mut bench, 3).await);
    let small = bench.fork();
    // The nodes that left are members again, under the identities that they had.
    old.extend(statuses(&mut bench, 5).await);
    assert!(old.len() > 30, "only {} statuses", old.len());
    for (now, status) in
        [&small, &bench].into_iter().flat_map(|now| old.iter().step_by(3).map(move |s| (now, s)))
    {
        let bench = now.fork();
        let (before, pods) = (document(&bench), bench.names("pods"));
        bench.change("kvclusters", crate::operator::NAME, |cluster| {
            cluster["status"] = status.clone();
        });
        rest(&bench).await;
        let after = document(&bench);
        assert_eq!(after.members, before.members, "{status:#}");
        assert_eq!(after.table, before.table, "{status:#}");
        assert_eq!(bench.names("pods"), pods, "{status:#}");
        assert_eq!(bench.condition("Ready").0, "True", "{status:#}");
        assert_eq!(bench.violations(), Vec::<String>::new(), "{status:#}");
    }
}

#[tokio::test]
async fn an_older_api_server_does_not_rewind_the_ring() {
    let bench = Bench::formed(|_| {}).await;
    let snapshot = bench.world.api.state().store.clone();
    nodes(&bench, 4);
    rest(&bench).await;
    is_well(&bench, 4);
    let before = document(&bench);
    // Three pods, three claims and a spec of three; the ring has four members.
    bench.world.restore(snapshot);
    assert_eq!(bench.names("pods").len(), 3);
    rest(&bench).await;
    is_well(&bench, 3);
    let after = document(&bench);
    assert!(after.epoch > before.epoch, "nothing is formed or put back");
    assert_eq!(bench.world.nodes().formed, 1);
    // The member whose pod and volume were forgotten was made anew before anybody left.
    assert_eq!(summaries(&bench, OperationKind::Replace).len(), 1);
    assert_eq!(summaries(&bench, OperationKind::Leave).len(), 1);
}
