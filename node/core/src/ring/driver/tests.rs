//! The driver over whole clusters: random operations, reports and deaths; every child is legal, every
//! operation ends, and what the table says at the end is what was planned.

mod losses;
mod taken_back;

use proptest::prelude::*;

use super::*;
use crate::ring::fixtures::{cluster, member, node};
use crate::ring::judge::legal_child;
use crate::ring::operation::{
    Operation, OperationRecord, OperationRefused, Planned, plan_for, plan_rebuild,
};
use crate::ring::progress::Progress;
use crate::ring::slot::{Slot, SlotState};

/// A child that records an operation with these moves.
fn posted(
    parent: &Sealed,
    id: &str,
    kind: OperationKind,
    replaces: Option<NodeId>,
    moves: Vec<MoveRecord>,
) -> Sealed {
    let mut child = parent.child();
    let about = moves.first().map(|one| one.to);
    for one in &moves {
        let number = (0..32).find(|n| node(*n) == one.to).unwrap();
        child.members.entry(one.to).or_insert_with(|| member(number));
    }
    let operation = Operation { kind, node: about, member: None, rebalance: true };
    let state = OperationState::Running(Progress { replaces, cancelling: false, moves });
    let record = OperationRecord { operation, state, started: child.epoch, finished: 0 };
    child.operations.insert(id.into(), record);
    let child = Sealed::new(child);
    assert_eq!(legal_child(parent, &child), Ok(()));
    child
}

/// Moves of the first `count` partitions that node `from` owns.
fn moves_of(document: &Document, from: u8, to: u8, count: usize) -> Vec<MoveRecord> {
    let owned = Partition::all(document.partition_bits).filter(|partition| {
        let entry = document.entry(*partition).unwrap();
        entry.names(node(from)) && !entry.names(node(to))
    });
    owned.take(count).map(|p| MoveRecord::waiting(p, "dc1", node(from), node(to))).collect()
}

/// Reports of nodes that did all they were asked for, but for those that are away.
fn reports(document: &Document, away: &[NodeId]) -> BTreeMap<NodeId, Report> {
    let up = asked(document).into_iter().filter(|node| !away.contains(node));
    let mut reports: BTreeMap<NodeId, Report> =
        up.map(|node| (node, Report { fenced: document.epoch, ..Report::default() })).collect();
    for (index, entry) in document.table.iter().enumerate() {
        let Some((_, slot)) = entry.moving() else { continue };
        let partition = Partition { k: document.partition_bits, index: index as u32 };
        let Some(next) = slot.state.successor() else { continue };
        let fenced = entry.version;
        let sources: Vec<Holder<NodeId>> = match slot.state {
            SlotState::Copying(_) => vec![Holder { node: slot.owner, since: slot.since }],
            _ => {
                let others = entry.slots.values().flatten().filter(|slot| !slot.state.moves());
                others.map(|slot| Holder { node: slot.owner, since: slot.since }).collect()
            }
        };
        let sources = sources.into_iter().filter(|source| !away.contains(&source.node));
        let copied = sources.map(|source| Copied {
            partition,
            since: next.since,
            source,
            fenced,
            bytes: 100,
        });
        if let Some(report) = reports.get_mut(&next.node) {
            report.copied.extend(copied);
        }
    }
    reports
}

/// Drives until nothing goes further, judging every child. The epochs it took.
fn drive(document: &mut Sealed, away: &[NodeId]) -> usize {
    let epochs = go(document, away, 200);
    assert!(epochs < 200, "no end in sight");
    epochs
}

/// Drives for so many epochs, or until nothing goes further; judges every child. The epochs it took.
fn go(document: &mut Sealed, away: &[NodeId], epochs: usize) -> usize {
    for taken in 0..epochs {
        let told = reports(document, away);
        let seems = |n: NodeId| if away.contains(&n) { Seems::Away } else { Seems::Up };
        let Some(child) = next_child(document, &told, seems, &Limits::default()) else {
            return taken;
        };
        let child = Sealed::new(child);
        assert_eq!(legal_child(document, &child), Ok(()), "epoch {}", child.epoch);
        *document = child;
    }
    epochs
}

/// The document in which an operation that moves data is posted as anybody posts it.
fn post(
    document: &Sealed,
    id: &str,
    kind: OperationKind,
    about: Option<u8>,
    replaces: Option<u8>,
) -> Result<Sealed, OperationRefused> {
    let planned = match (kind, about) {
        (OperationKind::Rebuild, Some(number)) => {
            let all: BTreeSet<Partition> = Partition::all(document.partition_bits).collect();
            plan_rebuild(document, id, node(number), &all)?
        }
        _ => {
            let with = matches!(kind, OperationKind::Join | OperationKind::Replace);
            let member = about.filter(|_| with).map(member);
            let operation = Operation { kind, node: about.map(node), member, rebalance: true };
            plan_for(document, id, &operation, replaces.map(node))?
        }
    };
    match planned {
        Planned::Child(child) => Ok(Sealed::new(*child)),
        Planned::AlreadyRecorded(record) => panic!("{record:?}"),
    }
}

/// Five nodes, and a sixth (number 5) that is a member and owns nothing.
fn uneven() -> Sealed {
    let mut uneven = cluster(5, 3);
    uneven.members.insert(node(5), member(5));
    Sealed::new(uneven)
}

#[test]
fn a_join_moves_slot_by_slot_and_ends_in_an_epoch_of_its_own() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 12);
    let mut document = posted(&first, "join", OperationKind::Join, None, planned.clone());
    drive(&mut document, &[]);
    for one in &planned {
        let entry = document.entry(one.partition).unwrap();
        assert!(entry.names(node(7)) && !entry.names(node(0)) && entry.moving().is_none());
        let slot = entry.slots["dc1"].iter().find(|slot| slot.owner == node(7)).unwrap();
        assert!(slot.since > 1 && slot.since < entry.version, "its tenure began with step 1");
    }
    let record = &document.operations["join"];
    let OperationState::Finished(summary) = &record.state else { panic!("{record:?}") };
    assert_eq!((summary.moves, summary.moved, summary.bytes), (12, 12, 1_200));
    assert_eq!(record.finished, document.epoch);
}

#[test]
fn nothing_goes_on_while_nobody_reports() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 2);
    let document = posted(&first, "join", OperationKind::Join, None, planned);
    let begun = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    let begun = Sealed::new(begun.unwrap());
    assert_eq!(legal_child(&document, &begun), Ok(()));
    let next = next_child(&begun, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    assert_eq!(next, None);
}

#[test]
fn limits_bound_what_runs_at_once() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 12);
    let document = posted(&first, "join", OperationKind::Join, None, planned);
    for (limits, at_once) in [
        (Limits { incoming: 2, outgoing: 8, total: 8 }, 2),
        (Limits { incoming: 8, outgoing: 3, total: 8 }, 3),
        (Limits { incoming: 8, outgoing: 8, total: 4 }, 4),
    ] {
        let child = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &limits).unwrap();
        assert_eq!(child.table.iter().filter(|entry| entry.moving().is_some()).count(), at_once);
    }
}

#[test]
fn a_move_steps_back_while_another_owner_is_away_and_begins_anew() {
    let first = Sealed::new(cluster(3, 3));
    let planned = moves_of(&first, 0, 7, 3);
    let mut document = posted(&first, "join", OperationKind::Join, None, planned);
    let begun = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    document = Sealed::new(begun.unwrap());
    assert!(document.table.iter().any(|entry| entry.moving().is_some()));
    // Node 1 is suspected before the streams are through.
    let seems = |n: NodeId| if n == node(1) { Seems::Away } else { Seems::Up };
    let back = next_child(&document, &BTreeMap::new(), seems, &Limits::default());
    let back = Sealed::new(back.unwrap());
    assert_eq!(legal_child(&document, &back), Ok(()));
    assert!(back.table.iter().all(|entry| entry.moving().is_none()));
    assert_eq!(next_child(&back, &BTreeMap::new(), seems, &Limits::default()), None, "it waits");
    document = back;
    drive(&mut document, &[]);
    let OperationState::Finished(summary) = &document.operations["join"].state else { panic!() };
    assert_eq!(summary.moved, 3);
}

#[test]
fn a_dead_node_is_replaced_and_leaves_the_members() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, usize::MAX);
    let dead = Some(node(0));
    let mut document = posted(&first, "replace", OperationKind::Replace, dead, planned);
    drive(&mut document, &[node(0)]);
    assert!(!document.members.contains_key(&node(0)));
    assert!(document.owns_anything(node(7)));
    let OperationState::Finished(summary) = &document.operations["replace"].state else { panic!() };
    assert_eq!((summary.replaces, summary.moves), (dead, summary.moved));
}

#[test]
fn a_replace_fences_no_holder_that_is_well() {
    let first = Sealed::new(cluster(4, 3));
    // Besides the copies of the dead node, some of the others go to the new one where it has none yet.
    let both = |p: &Partition| {
        let entry = first.entry(*p).unwrap();
        entry.names(node(0)) && entry.names(node(1))
    };
    let mut planned = moves_of(&first, 0, 7, usize::MAX);
    let shared = Partition::all(first.partition_bits).filter(both).take(4);
    planned.extend(shared.map(|p| MoveRecord::waiting(p, "dc1", node(1), node(6))));
    // In the order in which the well holder comes first.
    planned.reverse();
    let count = planned.len() as u32;
    let mut document = posted(&first, "replace", OperationKind::Replace, Some(node(0)), planned);
    drive(&mut document, &[node(0)]);
    assert!(!document.members.contains_key(&node(0)));
    let OperationState::Finished(summary) = &document.operations["replace"].state else {
        panic!("it does not end")
    };
    assert_eq!((summary.moves, summary.moved), (count, count));
}

#[test]
fn a_replace_takes_over_the_moves_of_a_joiner_that_died() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 8);
    let mut document = posted(&first, "join", OperationKind::Join, None, planned);
    // Some of its moves reach step 2.
    for _ in 0..2 {
        let told = reports(&document, &[]);
        let child = next_child(&document, &told, |_| Seems::Up, &Limits::default()).unwrap();
        document = Sealed::new(child);
    }
    assert!(document.table.iter().any(|entry| {
        entry.moving().is_some_and(|(_, slot)| matches!(slot.state, SlotState::Switched(_)))
    }));
    let taken_over: Vec<MoveRecord> = Partition::all(document.partition_bits)
        .filter(|p| {
            let moving = document.entry(*p).unwrap().moving();
            moving.is_some_and(|(_, slot)| slot.last().node == node(7))
        })
        .map(|p| MoveRecord::waiting(p, "dc1", node(7), node(8)))
        .collect();
    let count = taken_over.len() as u32;
    let dead = Some(node(7));
    document = posted(&document, "areplace", OperationKind::Replace, dead, taken_over);
    drive(&mut document, &[node(7)]);
    let OperationState::Finished(summary) = &document.operations["areplace"].state else {
        panic!("{:?}", document.operations)
    };
    assert_eq!((summary.moves, summary.moved), (count, count));
    assert!(document.owns_anything(node(8)));
}

/// Rebuilds of the first `count` copies that a node holds and that nothing moves.
fn rebuilds_of(document: &Document, number: u8, count: usize) -> Vec<MoveRecord> {
    let held = Partition::all(document.partition_bits).filter(|partition| {
        let entry = document.entry(*partition).unwrap();
        entry.names(node(number)) && entry.moving().is_none()
    });
    let rebuild = |p| MoveRecord::waiting(p, "dc1", node(number), node(number));
    held.take(count).map(rebuild).collect()
}

/// As [`reports`], but every copy that comes in at a node is lost.
fn lost_at(document: &Document, number: u8) -> BTreeMap<NodeId, Report> {
    let mut told = reports(document, &[]);
    for (index, entry) in (0..).zip(&document.table) {
        let partition = Partition { k: document.partition_bits, index };
        let Some((_, slot)) = entry.moving() else { continue };
        let next = slot.state.successor().filter(|next| next.node == node(number));
        if let (Some(next), Some(report)) = (next, told.get_mut(&node(number))) {
            report.lost.push(Lost { partition, since: next.since });
        }
    }
    told
}

fn slot_of(document: &Document, partition: Partition, number: u8) -> Slot {
    let slots = &document.entry(partition).unwrap().slots["dc1"];
    slots.iter().find(|slot| slot.owner == node(number)).unwrap().clone()
}

#[test]
fn a_rebuild_leads_each_slot_to_a_new_tenure_of_its_node() {
    let first = Sealed::new(cluster(4, 3));
    let planned = rebuilds_of(&first, 0, usize::MAX);
    let mut document = posted(&first, "b", OperationKind::Rebuild, None, planned.clone());
    let begun = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    document = Sealed::new(begun.unwrap());
    // Until its last step the slot counts for nobody's read, and in step 1 for nothing at all.
    let moving: Vec<&PartitionEntry> =
        document.table.iter().filter(|entry| entry.moving().is_some()).collect();
    assert_eq!(moving.len(), Limits::default().incoming as usize);
    for entry in moving {
        let (_, slot) = entry.moving().unwrap();
        assert_eq!((slot.reader(), slot.writers().count()), (None, 0));
        assert!(matches!(slot.state, SlotState::FencingOnly(_)), "there is no way back");
    }
    drive(&mut document, &[]);
    for one in &planned {
        let slot = slot_of(&document, one.partition, 0);
        assert!(slot.state == SlotState::Stable && slot.since > 2, "{slot:?}");
    }
    let owners = |document: &Document| {
        let entries = document.table.iter();
        entries.map(|e| e.slots["dc1"].iter().map(|s| s.owner).collect()).collect::<Vec<Vec<_>>>()
    };
    assert_eq!((owners(&document), &document.members), (owners(&first), &first.members));
    let OperationState::Finished(summary) = &document.operations["b"].state else { panic!() };
    assert_eq!(summary.moved as usize, planned.len());
}

#[test]
fn a_rebuild_waits_while_another_owner_is_away() {
    let first = Sealed::new(cluster(3, 3));
    let planned = rebuilds_of(&first, 0, 2);
    let document = posted(&first, "b", OperationKind::Rebuild, None, planned);
    let seems = |n: NodeId| if n == node(1) { Seems::Away } else { Seems::Up };
    assert_eq!(next_child(&document, &BTreeMap::new(), seems, &Limits::default()), None);
}

#[test]
fn a_rebuild_begins_again_where_its_new_copy_is_lost() {
    let first = Sealed::new(cluster(3, 3));
    let planned = rebuilds_of(&first, 0, 1);
    let partition = planned[0].partition;
    let mut document = posted(&first, "b", OperationKind::Rebuild, None, planned);
    let mut tenures = Vec::new();
    for step in 0..3 {
        let told = if step == 0 { reports(&document, &[]) } else { lost_at(&document, 0) };
        let child = next_child(&document, &told, |_| Seems::Up, &Limits::default()).unwrap();
        let child = Sealed::new(child);
        assert_eq!(legal_child(&document, &child), Ok(()));
        document = child;
        let slot = slot_of(&document, partition, 0);
        assert!(matches!(slot.state, SlotState::FencingOnly(_)), "{slot:?}");
        tenures.push(slot.state.successor().unwrap().since);
    }
    assert_eq!(tenures, [3, 4, 5]);
    // What is said of a tenure that is over counts no more.
    let stale = Lost { partition, since: 4 };
    let mut told = reports(&document, &[]);
    told.get_mut(&node(0)).unwrap().lost.push(stale);
    let on = next_child(&document, &told, |_| Seems::Up, &Limits::default()).unwrap();
    assert!(matches!(slot_of(&on, partition, 0).state, SlotState::Merging(_)));
    drive(&mut document, &[]);
    assert!(slot_of(&document, partition, 0).since == 5);
}

#[test]
fn a_move_whose_successor_lost_its_copy_begins_anew() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 1);
    let document = posted(&first, "join", OperationKind::Join, None, planned);
    let begun = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    let begun = Sealed::new(begun.unwrap());
    let back = next_child(&begun, &lost_at(&begun, 7), |_| Seems::Up, &Limits::default());
    let mut back = Sealed::new(back.unwrap());
    assert_eq!(legal_child(&begun, &back), Ok(()));
    assert!(back.table.iter().all(|entry| entry.moving().is_none()));
    drive(&mut back, &[]);
    assert!(back.owns_anything(node(7)));
}

#[test]
fn a_rebuild_takes_over_what_its_node_was_to_give() {
    let first = Sealed::new(cluster(4, 3));
    let planned = moves_of(&first, 0, 7, 2);
    let document = posted(&first, "join", OperationKind::Join, None, planned.clone());
    let begun = next_child(&document, &BTreeMap::new(), |_| Seems::Up, &Limits::default());
    let lost =
        planned.iter().map(|one| MoveRecord::waiting(one.partition, "dc1", node(0), node(0)));
    let lost = lost.collect();
    let mut document =
        posted(&Sealed::new(begun.unwrap()), "b", OperationKind::Rebuild, None, lost);
    drive(&mut document, &[]);
    for one in &planned {
        assert!(slot_of(&document, one.partition, 0).since > 2);
    }
    let OperationState::Finished(join) = &document.operations["join"].state else { panic!() };
    assert_eq!((join.moves, join.moved), (2, 0));
}

#[test]
fn a_rebuild_is_of_one_node_and_nothing_else_moves_a_slot_to_itself() {
    let first = Sealed::new(cluster(4, 3));
    let record = |kind, about: u8, moves| {
        let mut child = first.child();
        let operation = Operation { kind, node: Some(node(about)), member: None, rebalance: true };
        let progress = Progress { replaces: None, cancelling: false, moves };
        let state = OperationState::Running(progress);
        let record = OperationRecord { operation, state, started: child.epoch, finished: 0 };
        child.operations.insert("b".into(), record);
        legal_child(&first, &Sealed::new(child))
    };
    let own = || rebuilds_of(&first, 0, 2);
    let refused = Err(crate::ring::IllegalChange::Operation("b".into()));
    assert_eq!(record(OperationKind::Rebuild, 0, own()), Ok(()));
    assert_eq!(record(OperationKind::Rebuild, 1, own()), refused);
    assert_eq!(record(OperationKind::Rebuild, 0, moves_of(&first, 0, 3, 2)), refused);
    assert_eq!(record(OperationKind::Rebalance, 0, own()), refused);
}

/// One random cluster history.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Post { from: u8, to: u8, count: usize, replaces: bool },
    Rebuild { node: u8, count: usize },
    Drive { away: Option<u8> },
    Lose { node: u8 },
    Cancel,
    Garble { index: usize, how: u8 },
}

fn happenings() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0_u8..6, 4_u8..8, 1_usize..8, any::<bool>())
            .prop_map(|(from, to, count, replaces)| Happens::Post { from, to, count, replaces }),
        prop::option::of(0_u8..8).prop_map(|away| Happens::Drive { away }),
        prop::option::of(0_u8..8).prop_map(|away| Happens::Drive { away }),
        (0_u8..8, 1_usize..8).prop_map(|(node, count)| Happens::Rebuild { node, count }),
        (0_u8..8).prop_map(|node| Happens::Lose { node }),
        Just(Happens::Cancel),
        (any::<usize>(), 0_u8..6).prop_map(|(index, how)| Happens::Garble { index, how }),
    ]
}

/// Changes a slot of the child in a way that no driver would.
fn garble(child: &mut Document, index: usize, how: u8) {
    let epoch = child.epoch;
    let index = index % child.table.len();
    let entry = &mut child.table[index];
    let (version, absent) = (&mut entry.version, node(3));
    let slot = &mut entry.slots.get_mut("dc1").unwrap()[0];
    match how {
        0 => *version = epoch,
        1 => *slot = Slot::stable(absent, epoch),
        2 => slot.since += 1,
        3 => {
            // Forward without proof.
            if let Some((_, after)) = slot.place().forward() {
                *slot = slot.at(after);
                *version = epoch;
            } else {
                slot.owner = absent;
            }
        }
        4 => {
            // Begun without an operation.
            match slot.place().begin(absent, epoch) {
                Some(after) => *slot = slot.at(after),
                None => slot.since += 1,
            }
            *version = epoch;
        }
        _ => {
            let slots = entry.slots.get_mut("dc1").unwrap();
            slots.rotate_left(1);
            entry.version = epoch;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: the driver's children are legal, a garbled one is not, and
    /// once everybody is back all operations end.
    #[test]
    fn the_driver_only_says_what_is_legal(
        story in prop::collection::vec(happenings(), 1..14),
    ) {
        let mut document = Sealed::new(cluster(4, 3));
        for (number, happens) in story.into_iter().enumerate() {
            match happens {
                Happens::Post { from, to, count, replaces } => {
                    let free = |one: &MoveRecord| {
                        document.entry(one.partition).unwrap().moving().is_none()
                    };
                    let mut moves = moves_of(&document, from, to, count);
                    moves.retain(free);
                    let running = document.operations.values().filter(|r| r.is_running()).count();
                    if moves.is_empty() || running >= 4 {
                        continue;
                    }
                    let kind = match replaces {
                        true => OperationKind::Replace,
                        false => OperationKind::Rebalance,
                    };
                    document = posted(&document, &format!("op{number}"), kind, None, moves);
                }
                Happens::Rebuild { node: of, count } => {
                    let moves = rebuilds_of(&document, of, count);
                    let running = document.operations.values().filter(|r| r.is_running()).count();
                    if !moves.is_empty() && running < 4 {
                        let kind = OperationKind::Rebuild;
                        document = posted(&document, &format!("op{number}"), kind, None, moves);
                    }
                }
                Happens::Lose { node } => {
                    let told = lost_at(&document, node);
                    let child = next_child(&document, &told, |_| Seems::Up, &Limits::default());
                    if let Some(child) = child {
                        let child = Sealed::new(child);
                        prop_assert_eq!(legal_child(&document, &child), Ok(()));
                        document = child;
                    }
                }
                Happens::Cancel => {
                    let mut child = document.child();
                    for record in child.operations.values_mut() {
                        if let OperationState::Running(progress) = &mut record.state {
                            progress.cancelling = true;
                        }
                    }
                    let child = Sealed::new(child);
                    prop_assert_eq!(legal_child(&document, &child), Ok(()));
                    document = child;
                }
                Happens::Drive { away } => {
                    let away: Vec<NodeId> = away.map(node).into_iter().collect();
                    let told = reports(&document, &away);
                    let seems = |n: NodeId| if away.contains(&n) { Seems::Away } else { Seems::Up };
                    let child = next_child(&document, &told, seems, &Limits::default());
                    if let Some(child) = child {
                        let child = Sealed::new(child);
                        prop_assert_eq!(legal_child(&document, &child), Ok(()));
                        document = child;
                    }
                }
                Happens::Garble { index, how } => {
                    let mut child = document.child();
                    garble(&mut child, index, how);
                    if child.table != document.table {
                        prop_assert!(legal_child(&document, &Sealed::new(child)).is_err());
                    }
                }
            }
        }
        drive(&mut document, &[]);
        prop_assert!(document.operations.values().all(|record| !record.is_running()));
        prop_assert!(document.table.iter().all(|entry| entry.moving().is_none()));
    }
}
