//! Legal and illegal children, one rule at a time.

use super::*;
use crate::ring::fixtures::{cluster, member, node};
use crate::ring::{
    BucketName, BucketSettings, Member, Mode, Operation, OperationKind, OperationRecord,
};
use crate::ring::{MoveRecord, MoveStage, OperationState, Partition, Progress};
use crate::ring::{SlotState, TokenSecret};
use proptest::prelude::*;

/// The code with which a change of the plain child is refused, or "legal".
fn verdict(change: impl FnOnce(&mut Document)) -> &'static str {
    let mut parent = cluster(5, 3);
    parent.buckets.insert(BucketName::new(b"declared").unwrap(), BucketSettings::default());
    parent.members.insert(node(9), member(9));
    parent.operations.insert("done".into(), record(1));
    let mut child = parent.child();
    change(&mut child);
    let verdict = legal_child(&Sealed::new(parent), &Sealed::new(child));
    verdict.map_or_else(|illegal| illegal.code(), |()| "legal")
}

fn record(epoch: u64) -> OperationRecord {
    let kind = OperationKind::Leave;
    let operation = Operation { kind, node: None, member: None, rebalance: false };
    OperationRecord { operation, state: OperationState::Done, started: epoch, finished: epoch }
}

#[test]
fn what_may_change() {
    assert_eq!(verdict(|_| ()), "legal");
    assert_eq!(verdict(|child| child.defaults.sloppy = false), "legal");
    assert_eq!(verdict(|child| drop(child.members.insert(node(7), member(7)))), "legal");
    assert_eq!(verdict(|child| drop(child.members.remove(&node(9)))), "legal");
    let heavier = |child: &mut Document| child.members.get_mut(&node(0)).unwrap().weight = 7;
    assert_eq!(verdict(heavier), "legal");
    let relabel = |child: &mut Document| child.members.get_mut(&node(0)).unwrap().rack = "x".into();
    assert_eq!(verdict(relabel), "legal");
    let lww = BucketSettings { mode: Mode::LastWriteWins, ..BucketSettings::default() };
    let declare = |child: &mut Document| {
        child.buckets.insert(BucketName::new(b"new").unwrap(), lww);
    };
    assert_eq!(verdict(declare), "legal");
    assert_eq!(verdict(|child| drop(child.operations.insert("new".into(), record(2)))), "legal");
}

#[test]
fn a_move_that_waits_gets_another_taker_only_where_a_replace_is_recorded() {
    let mut parent = cluster(5, 3);
    parent.members.extend([(node(7), member(7)), (node(8), member(8))]);
    let k = parent.partition_bits;
    let [first, second] = [0, 1].map(|index: usize| parent.table[index].slots["dc1"][0].owner);
    let waiting = |index, from| MoveRecord::waiting(Partition { k, index }, "dc1", from, node(7));
    let moved = MoveRecord { stage: MoveStage::Moved, ..waiting(1, second) };
    let moves = vec![waiting(0, first), moved];
    let running = |kind, about, replaces, moves, started| {
        let operation = Operation { kind, node: Some(node(about)), member: None, rebalance: true };
        let state = OperationState::Running(Progress { replaces, cancelling: false, moves });
        OperationRecord { operation, state, started, finished: 0 }
    };
    parent.operations.insert("j".into(), running(OperationKind::Join, 7, None, moves, 1));
    let verdict = |recorded: Option<OperationKind>, turned: usize, to: u8| {
        let mut child = parent.child();
        child.operations.get_mut("j").unwrap().moves_mut()[turned].to = node(to);
        if let Some(kind) = recorded {
            let replaces = (kind == OperationKind::Replace).then(|| node(7));
            child
                .operations
                .insert("r".into(), running(kind, 8, replaces, Vec::new(), child.epoch));
        }
        let verdict = legal_child(&Sealed::new(parent.clone()), &Sealed::new(child));
        verdict.map_or_else(|illegal| illegal.code(), |()| "legal")
    };
    assert_eq!(verdict(Some(OperationKind::Replace), 0, 8), "legal");
    assert_eq!(verdict(None, 0, 8), "running_operation_changed");
    assert_eq!(verdict(Some(OperationKind::Rebalance), 0, 8), "running_operation_changed");
    // What is over stays, and no move leads from a node to itself.
    assert_eq!(verdict(Some(OperationKind::Replace), 1, 8), "running_operation_changed");
    let own = (0..5).find(|number| node(*number) == first).unwrap();
    assert_eq!(verdict(Some(OperationKind::Replace), 0, own), "running_operation_changed");
}

#[test]
fn what_may_not_change() {
    let refused = |code: &str, change: fn(&mut Document)| assert_eq!(verdict(change), code);
    refused("wrong_epoch", |child| child.epoch = 3);
    refused("wrong_epoch", |child| child.epoch = 1);
    refused("wrong_parent", |child| child.parent_hash = Some(crate::ring::DocumentHash([1; 32])));
    refused("wrong_parent", |child| child.parent_hash = None);
    refused("identity_changed", |child| child.cluster_id = crate::id::ClusterId::nil());
    refused("identity_changed", |child| child.cluster_name = "other".into());
    refused("identity_changed", |child| child.seed += 1);
    refused("identity_changed", |child| child.token_secret = TokenSecret([8; 32]));
    refused("replication_changed", |child| *child.replication.get_mut("dc1").unwrap() = 2);
    refused("replication_changed", |child| {
        child.replication.insert("dc2".into(), 1);
    });
    refused("invalid_document", |child| child.partition_bits += 1);
    refused("partition_bits_changed", |child| {
        halve(child);
        halve(child);
    });
    refused("partition_bits_changed", |child| {
        halve(child);
        child.table[5].version = 1;
    });
    refused("partition_bits_changed", |child| {
        halve(child);
        child.table[5].slots.get_mut("dc1").unwrap().rotate_left(1);
    });
    refused("member_owns_partitions", |child| drop(child.members.remove(&node(0))));
    refused("member_moved", |child| {
        child.members.get_mut(&node(0)).unwrap().datacenter = "dc2".into();
    });
    refused("bucket_removed", |child| child.buckets.clear());
    refused("bucket_mode_changed", |child| {
        child.buckets.values_mut().for_each(|settings| settings.mode = Mode::LastWriteWins);
    });
    refused("finished_operation_changed", |child| child.operations.clear());
    refused("finished_operation_changed", |child| {
        child.operations.get_mut("done").unwrap().operation.rebalance = true;
    });
    refused("finished_operation_changed", |child| {
        child.operations.insert("backdated".into(), record(1));
    });
}

/// Cuts every partition in two, as a doubling does.
fn halve(child: &mut Document) {
    let halves = |entry: &crate::ring::PartitionEntry| [entry.clone(), entry.clone()];
    child.table = child.table.iter().flat_map(halves).collect();
    child.table.iter_mut().for_each(|entry| entry.version = child.epoch);
    child.partition_bits += 1;
}

#[test]
fn the_ring_is_cut_in_two_only_when_nothing_moves() {
    let parent = Sealed::new(cluster(5, 3));
    let mut child = parent.child();
    halve(&mut child);
    let child = Sealed::new(child);
    assert_eq!(legal_child(&parent, &child), Ok(()));
    for partition in Partition::all(parent.partition_bits) {
        let (low, high) = partition.halves();
        assert_eq!(child.owners(low), parent.owners(partition));
        assert_eq!(child.owners(high), parent.owners(partition));
    }
    // An operation that runs names partitions that would not be there any more.
    let mut running = parent.child();
    let progress = Progress { replaces: None, cancelling: false, moves: Vec::new() };
    let state = OperationState::Running(progress);
    let record = OperationRecord { state, finished: 0, ..record(2) };
    running.operations.insert("runs".into(), record);
    let running = Sealed::new(running);
    assert_eq!(legal_child(&parent, &running), Ok(()));
    let mut child = running.child();
    halve(&mut child);
    let refused = legal_child(&running, &Sealed::new(child));
    assert_eq!(refused, Err(IllegalChange::PartitionBits));
}

#[test]
fn a_running_operation_keeps_its_plan_and_ends_when_its_moves_are_over() {
    let parent = cluster(5, 3);
    let absent = (0..5).map(node).find(|id| !parent.table[0].names(*id)).unwrap();
    let owner = parent.table[0].slots["dc1"][0].owner;
    let partition = Partition { k: parent.partition_bits, index: 0 };
    let waiting = MoveRecord::waiting(partition, "dc1", owner, absent);
    let parent = Sealed::new(parent);
    let mut child = parent.child();
    let progress = Progress { replaces: None, cancelling: false, moves: vec![waiting] };
    let state = OperationState::Running(progress.clone());
    child.operations.insert("runs".into(), OperationRecord { state, finished: 0, ..record(2) });
    let parent = Sealed::new(child);
    let verdict = |change: &dyn Fn(&mut Document)| {
        let mut child = parent.child();
        change(&mut child);
        let verdict = legal_child(&parent, &Sealed::new(child));
        verdict.map_or_else(|illegal| illegal.code(), |()| "legal")
    };
    let with = |change: &dyn Fn(&mut Progress)| {
        verdict(&|child: &mut Document| {
            let mut progress = progress.clone();
            change(&mut progress);
            let record = child.operations.get_mut("runs").unwrap();
            record.state = OperationState::Running(progress);
        })
    };
    assert_eq!(with(&|progress| progress.cancelling = true), "legal");
    assert_eq!(with(&|progress| progress.moves[0].stage = MoveStage::Dropped), "legal");
    assert_eq!(with(&|progress| progress.moves[0].stage = MoveStage::Moved), "move_not_recorded");
    assert_eq!(with(&|progress| progress.moves[0].stage = MoveStage::Moving), "invalid_document");
    assert_eq!(with(&|progress| progress.moves[0].to = owner), "running_operation_changed");
    assert_eq!(with(&|progress| progress.moves.clear()), "running_operation_changed");
    assert_eq!(with(&|progress| progress.replaces = Some(owner)), "running_operation_changed");
    let ended = |child: &mut Document| {
        let record = child.operations.get_mut("runs").unwrap();
        record.state = OperationState::Finished(progress.summary());
        record.finished = child.epoch;
    };
    assert_eq!(verdict(&ended), "running_operation_changed", "its move still waits");
    let gone = |child: &mut Document| drop(child.operations.remove("runs"));
    assert_eq!(verdict(&gone), "running_operation_changed");
}

#[test]
fn the_table_changes_by_arrows_only() {
    let refused = |code: &str, change: fn(&mut Document)| assert_eq!(verdict(change), code);
    refused("table_changed", |child| child.table[3].version = 2);
    refused("table_changed", |child| {
        child.table[0].slots.get_mut("dc1").unwrap().rotate_left(1);
    });
    refused("table_changed", |child| {
        let absent = (0..5).map(node).find(|id| !child.table[0].names(*id)).unwrap();
        let slots = child.table[0].slots.get_mut("dc1").unwrap();
        slots[0].owner = absent;
        slots[0].state = SlotState::Stable;
    });
    refused("invalid_document", |child| drop(child.table.pop()));
    refused("invalid_document", |child| {
        child.table[0].slots.get_mut("dc1").unwrap().pop();
    });
    refused("invalid_document", |child| {
        child.table[0].slots.get_mut("dc1").unwrap()[0].owner = node(77);
    });
    refused("defaults_mode_changed", |child| child.defaults.mode = Mode::LastWriteWins);
    refused("invalid_document", |child| child.defaults.w = crate::quorum::Level::Exactly(4));
    refused("invalid_document", |child| child.defaults.ttl = Some(0));
    refused("invalid_document", |child| {
        child.members.insert(crate::id::NodeId::nil(), member(7));
    });
    refused("invalid_document", |child| {
        child.members.get_mut(&node(9)).unwrap().rack = "\n".into();
    });
    refused("invalid_document", |child| {
        let slots = child.table[0].slots.get_mut("dc1").unwrap();
        slots[1].owner = slots[0].owner;
    });
}

/// Puts a node on a machine and records it as a relocate.
fn relocate(child: &mut Document, number: u8, machine: &str) {
    let entry = child.members.get_mut(&node(number)).unwrap();
    entry.machine = machine.into();
    let (kind, member) = (OperationKind::Relocate, Some(entry.clone()));
    let operation = Operation { kind, node: Some(node(number)), member, rebalance: false };
    let record = OperationRecord { operation, ..record(2) };
    child.operations.insert(format!("relocate-{number}"), record);
}

#[test]
fn a_machine_changes_only_by_a_relocate_recorded_with_it() {
    assert_eq!(verdict(|child| relocate(child, 0, "machine9")), "legal");
    // All five on one machine: the document says what is so.
    let together = |child: &mut Document| (0..5).for_each(|n| relocate(child, n, "one"));
    assert_eq!(verdict(together), "legal");
    let refused = |code: &str, change: fn(&mut Document)| assert_eq!(verdict(change), code);
    refused("machine_changed", |child| {
        child.members.get_mut(&node(0)).unwrap().machine = "machine1".into();
    });
    refused("machine_changed", |child| {
        relocate(child, 0, "machine9");
        child.members.get_mut(&node(1)).unwrap().machine = "machine9".into();
    });
    refused("relocate_changes_more", |child| {
        relocate(child, 0, "machine9");
        child.members.get_mut(&node(0)).unwrap().machine = "machine8".into();
    });
    refused("relocate_changes_more", |child| {
        relocate(child, 0, "machine9");
        child.members.get_mut(&node(0)).unwrap().zone = "elsewhere".into();
    });
    refused("relocate_changes_more", |child| {
        child.members.get_mut(&node(0)).unwrap().zone = "elsewhere".into();
        relocate(child, 0, "machine9");
    });
    refused("relocate_changes_more", |child| {
        child.members.insert(node(7), member(7));
        relocate(child, 7, "machine7");
    });
    refused("relocate_changes_more", |child| {
        relocate(child, 9, "machine7");
        child.members.remove(&node(9));
    });
    refused("invalid_document", |child| relocate(child, 0, ""));
}

#[test]
fn copies_may_go_on_sharing_a_machine_once_they_do() {
    let first = Sealed::new(cluster(3, 3));
    let mut moved = first.child();
    relocate(&mut moved, 0, "machine1");
    let moved = Sealed::new(moved);
    assert_eq!(legal_child(&first, &moved), Ok(()));
    let mut later = moved.child();
    later.defaults.sloppy = false;
    assert_eq!(legal_child(&moved, &Sealed::new(later)), Ok(()));
    // But no cluster begins so.
    let mut first = Document::clone(&first);
    first.members.values_mut().for_each(|member| member.machine = "one".into());
    assert!(first.validate().unwrap_err().to_string().contains("two copies on one machine"));
}

#[test]
fn two_nodes_of_one_machine_may_share_a_cluster_but_not_a_partition() {
    let mut document = cluster(5, 3);
    assert_eq!(document.validate(), Ok(()));
    let pair = [document.table[0].owners().next().unwrap().node];
    let absent = (0..5).map(node).find(|id| !document.table[0].names(*id)).unwrap();
    let machine = document.members[&pair[0]].machine.clone();
    document.members.get_mut(&absent).unwrap().machine = machine;
    let shared = document.table.iter().any(|entry| entry.names(pair[0]) && entry.names(absent));
    assert_eq!(document.validate().is_err(), shared);
}

#[test]
fn the_text_form_is_canonical_and_strict() {
    let document = cluster(3, 3).child();
    let text = serde_json::to_string_pretty(&document).unwrap();
    let back: Document = serde_json::from_str(&text).unwrap();
    assert_eq!(back, document);
    assert_eq!(back.hash(), document.hash());
    let sealed: Sealed = serde_json::from_str(&text).unwrap();
    assert_eq!(sealed.hash(), document.hash());
    assert_eq!(sealed.size(), document.canonical().len());
    let extra = text.replacen('{', "{\"extra\": 1,", 1);
    assert!(serde_json::from_str::<Document>(&extra).is_err(), "unknown fields are refused");
    assert!(text.contains("\"seed\": \"000000000000002a\""), "{text}");
    assert!(text.contains("\"parentHash\""));
}

/// The largest clusters planned for: bounds and speed.
#[test]
fn a_thousand_members_fit_and_are_judged_quickly() {
    let numbered = |number: u32| {
        let mut bytes = [1; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let place = |what| format!("{what}-{number}.example");
        let member = Member { machine: place("machine"), rack: place("rack"), ..member(0) };
        (crate::id::NodeId::from_bytes(bytes), member)
    };
    let small = cluster(3, 3);
    let new = crate::ring::NewCluster {
        cluster_id: small.cluster_id,
        cluster_name: small.cluster_name,
        seed: 1,
        token_secret: small.token_secret,
        partition_bits: 14,
        members: (0..1_000)
            .map(numbered)
            .map(|(id, m)| (id, Member { zone: "".into(), ..m }))
            .collect(),
        replication: small.replication,
        defaults: small.defaults,
    };
    let parent = Sealed::new(Document::first(new).unwrap().0);
    let child = Sealed::new(parent.child());
    let started = std::time::Instant::now();
    assert_eq!(legal_child(&parent, &child), Ok(()));
    println!("16,384 partitions: {} bytes, judged in {:?}", parent.size(), started.elapsed());
    assert!(parent.size() < crate::ring::check::DOCUMENT_MAX_BYTES / 2);
    assert!(started.elapsed().as_secs() < 5);
}

proptest! {
    /// Whatever single byte of the canonical form is changed, the hash differs or the text is no
    /// document any more.
    #[test]
    fn the_hash_covers_every_byte(at in 0usize..4_000, to in b' '..=b'~') {
        let document = cluster(3, 3);
        let mut bytes = document.canonical();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        if let Ok(other) = serde_json::from_slice::<Document>(&bytes) {
            prop_assert!(other == document || other.hash() != document.hash());
        }
    }
}
