//! Nodes that are lost for good while operations run: whoever it is and however far they are, a replace
//! beside them brings all of them to their end, or they say that they failed.

use super::*;
use crate::ring::waiting::{Shows, why};

/// An operation that runs when a node is lost: its kind, whom it is about and replaces, who is lost by
/// then.
type Runs = (OperationKind, Option<u8>, Option<u8>, &'static [u8]);

fn begun((kind, about, replaces, _): Runs) -> Sealed {
    let first = match kind {
        OperationKind::Rebalance => uneven(),
        // Without a lost copy and a lost node there is still a majority.
        OperationKind::Rebuild => Sealed::new(cluster(7, 5)),
        _ => Sealed::new(cluster(5, 3)),
    };
    post(&first, "runs", kind, about, replaces).unwrap()
}

fn nodes(numbers: &[u8]) -> Vec<NodeId> {
    numbers.iter().copied().map(node).collect()
}

/// Nothing runs or moves, nobody who went is named, every partition has three owners, and all have an even
/// share.
fn assert_well(document: &Sealed, gone: &[u8], story: &str) {
    for (id, record) in &document.operations {
        let finished = matches!(record.state, OperationState::Finished(_));
        assert!(finished, "{story}: {id} is {:?}", record.state);
    }
    assert!(document.table.iter().all(|entry| entry.moving().is_none()), "{story}");
    for gone in nodes(gone) {
        assert!(!document.members.contains_key(&gone), "{story}: {gone} is a member");
        assert!(!document.owns_anything(gone), "{story}: {gone} owns something");
    }
    let mut shares: BTreeMap<NodeId, usize> = BTreeMap::new();
    for member in document.members.iter().filter(|(_, member)| member.weight > 0) {
        shares.insert(*member.0, 0);
    }
    for entry in &document.table {
        let owners: BTreeSet<NodeId> = entry.owners().map(|owner| owner.node).collect();
        assert_eq!(owners.len() as u32, document.replication["dc1"], "{story}");
        owners.into_iter().for_each(|owner| *shares.entry(owner).or_default() += 1);
    }
    let (least, most) = (shares.values().min(), shares.values().max());
    assert!(least.zip(most).is_some_and(|(l, m)| m - l <= 1), "{story}: {shares:?}");
}

/// Loses a node after every number of epochs, and has it replaced at once, or some epochs later.
fn lost_at_every_step(runs: Runs, lost: u8, by: u8, gone: &[u8]) {
    let before = nodes(runs.3);
    let after: Vec<NodeId> = before.iter().copied().chain([node(lost)]).collect();
    for unnoticed in [0, 3] {
        for epochs in 0.. {
            let mut document = begun(runs);
            let went = go(&mut document, &before, epochs);
            let over = document.operations.values().all(|record| !record.is_running());
            if over || !document.members.contains_key(&node(lost)) {
                break;
            }
            assert_eq!(went, epochs, "it stands still by itself");
            go(&mut document, &after, unnoticed);
            if !document.members.contains_key(&node(lost)) {
                break;
            }
            let story = format!("{runs:?}, {lost} is lost in epoch {epochs} + {unnoticed}");
            let replaced = post(&document, "replace", OperationKind::Replace, Some(by), Some(lost));
            document = replaced.unwrap_or_else(|refused| panic!("{story}: {refused}"));
            drive(&mut document, &after);
            assert_well(&document, gone, &story);
        }
    }
}

#[test]
fn whoever_takes_the_place_of_a_lost_node_may_be_lost_too() {
    lost_at_every_step((OperationKind::Replace, Some(7), Some(0), &[0]), 7, 8, &[0, 7]);
}

#[test]
fn a_chain_of_lost_successors_comes_to_its_end() {
    for (first, second) in (0..10).flat_map(|a| (0..10).map(move |b| (a, b))) {
        let mut document = begun((OperationKind::Replace, Some(7), Some(0), &[0]));
        go(&mut document, &nodes(&[0]), first);
        if !document.operations["runs"].is_running() {
            continue;
        }
        let replace = |document: &Sealed, id, by, lost| {
            post(document, id, OperationKind::Replace, Some(by), Some(lost)).unwrap()
        };
        document = replace(&document, "b", 8, 7);
        go(&mut document, &nodes(&[0, 7]), second);
        if document.operations.values().all(|record| !record.is_running()) {
            continue;
        }
        document = replace(&document, "a", 9, 8);
        drive(&mut document, &nodes(&[0, 7, 8]));
        assert_well(&document, &[0, 7, 8], &format!("{first}, then {second} epochs"));
    }
}

#[test]
fn a_join_goes_on_without_a_giver_that_is_lost() {
    lost_at_every_step((OperationKind::Join, Some(7), None, &[]), 0, 8, &[0]);
    // The joiner itself takes its place.
    lost_at_every_step((OperationKind::Join, Some(7), None, &[]), 0, 7, &[0]);
}

#[test]
fn another_takes_what_a_lost_joiner_was_to_take() {
    for kind in [OperationKind::Join, OperationKind::Rebalance] {
        let joiner = if kind == OperationKind::Join { 7 } else { 5 };
        let about = (kind == OperationKind::Join).then_some(joiner);
        let runs: Runs = (kind, about, None, &[]);
        let before = begun(runs);
        for epochs in 0..12 {
            let mut document = before.clone();
            go(&mut document, &[], epochs);
            if !document.operations["runs"].is_running() {
                break;
            }
            let replaced = post(&document, "r", OperationKind::Replace, Some(8), Some(joiner));
            document = replaced.unwrap();
            drive(&mut document, &nodes(&[joiner]));
            assert!(!document.members.contains_key(&node(joiner)), "{kind:?} {epochs}");
            // A join of a node that is gone did not do what it was asked for.
            let mut rest = Document::clone(&document);
            if kind == OperationKind::Join {
                let join = rest.operations.remove("runs").unwrap();
                assert!(!join.is_running() && !matches!(join.state, OperationState::Cancelled(_)));
            }
            let story = format!("{kind:?}, lost in epoch {epochs}");
            assert_well(&Sealed::new(rest), &[joiner], &story);
        }
    }
}

#[test]
fn a_leave_goes_on_when_a_taker_or_the_leaver_is_lost() {
    for kind in [OperationKind::Leave, OperationKind::Drain] {
        let gone: &[u8] = if kind == OperationKind::Leave { &[0, 1] } else { &[1] };
        lost_at_every_step((kind, Some(0), None, &[]), 1, 8, gone);
        lost_at_every_step((kind, Some(0), None, &[]), 0, 8, &[0]);
    }
}

#[test]
fn a_rebuild_goes_on_when_another_owner_is_lost_and_ends_when_its_node_is() {
    lost_at_every_step((OperationKind::Rebuild, Some(0), None, &[]), 1, 8, &[1]);
    lost_at_every_step((OperationKind::Rebuild, Some(0), None, &[]), 0, 8, &[0]);
}

#[test]
fn what_nobody_can_make_anew_any_more_fails_and_says_so() {
    let mut seen = 0;
    for epochs in 0..12 {
        let mut document = begun((OperationKind::Replace, Some(7), Some(0), &[0]));
        go(&mut document, &nodes(&[0]), epochs);
        if !document.operations["runs"].is_running() {
            break;
        }
        // A copy that counts for writes, and was not filled from a majority of the others yet, has no way back.
        let merging = |entry: &PartitionEntry| {
            let moving = entry.moving().map(|(_, slot)| slot.state);
            entry.names(node(1)) && matches!(moving, Some(SlotState::Merging(_)))
        };
        let stuck = document.table.iter().any(merging);
        // Of three copies those on two nodes are given up: one is left, and no majority of the rest.
        let both = |entry: &&PartitionEntry| entry.names(node(0)) && entry.names(node(1));
        let second = post(&document, "second", OperationKind::Replace, Some(8), Some(1));
        document = second.unwrap();
        drive(&mut document, &nodes(&[0, 1]));
        if stuck {
            let shows = |n: NodeId| match nodes(&[0, 1]).contains(&n) {
                true => Shows::Away,
                false => Shows::Up(document.epoch),
            };
            let why = why(&document, &document.operations["runs"], shows).expect("it waits");
            assert!(why.contains(&node(1).to_string()) && why.contains("too few copies"), "{why}");
            continue;
        }
        let left = document.table.iter().filter(both).count();
        assert!(document.table.iter().all(|entry| both(&entry) || !entry.names(node(1))));
        for (id, of) in [("runs", 0), ("second", 1)] {
            let (record, owns) = (&document.operations[id], document.owns_anything(node(of)));
            let failed = matches!(record.state, OperationState::Failed(_));
            assert_eq!((failed, record.is_running()), (owns, false), "{id}: {:?}", record.state);
            let why = crate::ring::ending::why_failed(record);
            assert_eq!(why.is_some_and(|why| why.contains("still holds copies")), failed);
        }
        seen += left;
        // Nothing could be done by asking at once for the same again: that is refused.
        if left > 0 {
            let mut again = document;
            again = post(&again, "again", OperationKind::Replace, Some(7), Some(0)).unwrap();
            let refused = post(&again, "more", OperationKind::Replace, Some(8), Some(1));
            assert!(matches!(refused, Err(OperationRefused::TooFewCopies(_))), "{refused:?}");
            // One of the two was not lost after all.
            drive(&mut again, &nodes(&[0]));
            assert!(!again.members.contains_key(&node(0)));
            assert!(matches!(again.operations["again"].state, OperationState::Finished(_)));
        }
    }
    assert!(seen > 0, "no partition had both");
}

#[test]
fn a_copy_without_another_is_not_replaced() {
    let alone = Sealed::new(cluster(3, 1));
    let refused = post(&alone, "r", OperationKind::Replace, Some(7), Some(0));
    assert!(matches!(refused, Err(OperationRefused::TooFewCopies(_))), "{refused:?}");
}

#[test]
fn a_node_on_its_way_out_takes_nobodys_place() {
    let document = begun((OperationKind::Leave, Some(0), None, &[]));
    let refused = post(&document, "r", OperationKind::Replace, Some(0), Some(1));
    assert_eq!(refused, Err(OperationRefused::Busy("runs".into())));
}

#[test]
fn an_operation_whose_taker_is_no_member_any_more_fails() {
    let mut first = Document::clone(&uneven());
    let moves = moves_of(&first, 0, 5, usize::MAX);
    let (kind, node_id) = (OperationKind::Leave, Some(node(0)));
    let operation = Operation { kind, node: node_id, member: None, rebalance: true };
    let progress = Progress { replaces: None, cancelling: false, moves };
    let state = OperationState::Running(progress);
    first
        .operations
        .insert("l".into(), OperationRecord { operation, state, started: 1, finished: 0 });
    let first = Sealed::new(first);
    let mut child = first.child();
    child.members.remove(&node(5));
    let mut document = Sealed::new(child);
    assert_eq!(legal_child(&first, &document), Ok(()), "it owns nothing yet");
    drive(&mut document, &[]);
    let record = &document.operations["l"];
    let OperationState::Failed(summary) = &record.state else { panic!("{record:?}") };
    assert_eq!(summary.moved, 0);
    assert!(document.members.contains_key(&node(0)), "it has not left");
}
