//! Why the moves of an operation do not go on, for people.
//!
//! Only what a node or a person can change is named: a node that is down, serves nothing or is behind.
//! A move that waits for its turn, or whose copy is on its way, has no reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::document::Document;
use super::moves::Place;
use super::operation::{OperationRecord, OperationState};
use super::outgoing;
use super::progress::{MoveRecord, MoveStage};
use crate::id::NodeId;

/// Epochs by which a member may be behind before it is named: the newest is on its way to it.
const BEHIND: u64 = 3;
/// Reasons that are told.
const TOLD: usize = 3;

/// How a member shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// It answers and serves, and says that it uses the document of this epoch.
    Up(u64),
    /// It answers and serves no data.
    Unfit,
    /// It is suspected, down or unknown.
    Away,
}

/// What a node is to a move that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// It gets the copy.
    Taker,
    /// It gives the copy.
    Giver,
    /// It holds another copy, without which nothing is begun.
    Owner,
    /// It holds one of the copies from which another is made anew, of which too few can be reached.
    Survivor,
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    Away,
    Unfit,
    Behind(u64),
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Taker => "which takes copies over",
            Self::Giver => "which gives copies",
            Self::Owner => "which holds other copies of what is to move",
            Self::Survivor => "which holds one of too few copies from which others are made anew",
        })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => out.write_str("does not answer"),
            Self::Unfit => out.write_str("serves no data"),
            Self::Behind(epoch) => write!(out, "has come to epoch {epoch} only"),
        }
    }
}

/// The reasons, the one that holds up most moves first; none where nothing has to be done.
pub fn why(
    document: &Document,
    record: &OperationRecord,
    shows: impl Fn(NodeId) -> Shows,
) -> Option<String> {
    let OperationState::Running(progress) = &record.state else { return None };
    let wrong = |node: NodeId| match shows(node) {
        Shows::Away => Some(Wrong::Away),
        Shows::Unfit => Some(Wrong::Unfit),
        Shows::Up(epoch) if epoch + BEHIND < document.epoch => Some(Wrong::Behind(epoch)),
        Shows::Up(_) => None,
    };
    let given_up = outgoing::given_up(document);
    let mut held: BTreeMap<(NodeId, Part, Wrong), u32> = BTreeMap::new();
    for one in progress.moves.iter().filter(|one| !one.is_over()) {
        let replaces = one.from == one.to || given_up.contains(&one.from);
        let needs = needs(document, one, replaces, |node| wrong(node).is_none());
        let first = needs.into_iter().find_map(|(node, part)| Some((node, part, wrong(node)?)));
        if let Some(reason) = first {
            *held.entry(reason).or_default() += 1;
        }
    }
    let mut held: Vec<_> = held.into_iter().collect();
    held.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let told = held.iter().take(TOLD).map(|((node, part, wrong), count)| {
        let moves = if *count == 1 { "1 move waits".into() } else { format!("{count} moves wait") };
        format!("{moves} for node {node}, {part}: it {wrong}")
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The nodes without which a move does not go on, those that matter most first.
fn needs(
    document: &Document,
    one: &MoveRecord,
    replaces: bool,
    well: impl Fn(NodeId) -> bool,
) -> Vec<(NodeId, Part)> {
    let mut needs = vec![(one.to, Part::Taker)];
    let Some(entry) = document.entry(one.partition) else { return needs };
    let slots = entry.slots.values().flatten();
    let others = slots.filter(|slot| !slot.named().any(|named| named == one.from));
    let owners = others.map(|slot| (slot.owner, Part::Owner));
    match entry.moving().map(|(_, slot)| slot.place()) {
        // Survivors are often more than are needed: the barrier says how many.
        _ if replaces => {
            let sick: BTreeSet<NodeId> = entry
                .slots
                .values()
                .flatten()
                .map(|s| s.last().node)
                .filter(|n| !well(*n))
                .collect();
            let slot =
                entry.slots.values().flatten().find(|slot| slot.named().any(|n| n == one.from));
            if slot.is_some_and(|slot| outgoing::too_few_left(entry, slot, &sick)) {
                needs.extend(owners.map(|(node, _)| (node, Part::Survivor)));
            }
        }
        Some(Place::Copying { .. } | Place::Switched { .. }) if one.stage == MoveStage::Moving => {
            needs.push((one.from, Part::Giver));
        }
        _ if one.stage == MoveStage::Waiting => {
            needs.push((one.from, Part::Giver));
            needs.extend(owners);
        }
        _ => {}
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};
    use crate::ring::operation::{Operation, OperationKind};
    use crate::ring::progress::Progress;
    use crate::ring::{Partition, Slot};

    /// Two moves from node 0 to node 7: the first copies, the second waits.
    fn running() -> Document {
        let mut document = cluster(3, 3);
        document.epoch = 9;
        let moves: Vec<MoveRecord> = (0..2)
            .map(|index| {
                let partition = Partition { k: document.partition_bits, index };
                MoveRecord::waiting(partition, "dc1", node(0), node(7))
            })
            .collect();
        let mut progress = Progress { replaces: None, cancelling: false, moves };
        progress.moves[0].stage = MoveStage::Moving;
        let slots = document.table[0].slots.get_mut("dc1").unwrap();
        let slot = slots.iter_mut().find(|slot| slot.owner == node(0)).unwrap();
        *slot = slot.at(Slot::stable(node(0), 1).place().begin(node(7), 9).unwrap());
        let operation = Operation {
            kind: OperationKind::Join,
            node: Some(node(7)),
            member: None,
            rebalance: true,
        };
        let state = OperationState::Running(progress);
        let record = OperationRecord { operation, state, started: 8, finished: 0 };
        document.operations.insert("j".into(), record);
        document
    }

    fn why_with(wrong: NodeId, shown: Shows) -> Option<String> {
        let document = running();
        let shows = |node: NodeId| if node == wrong { shown } else { Shows::Up(9) };
        why(&document, &document.operations["j"], shows)
    }

    #[test]
    fn whoever_holds_a_move_up_is_named() {
        assert_eq!(why_with(node(9), Shows::Away), None, "nobody that it needs");
        let taker = why_with(node(7), Shows::Away).unwrap();
        let id = node(7);
        assert_eq!(
            taker,
            format!("2 moves wait for node {id}, which takes copies over: it does not answer")
        );
        let giver = why_with(node(0), Shows::Unfit).unwrap();
        assert!(giver.contains("2 moves wait") && giver.ends_with("it serves no data"), "{giver}");
        // What was begun goes on without the other owners, or steps back by itself.
        let owner = why_with(node(1), Shows::Away).unwrap();
        assert!(owner.starts_with("1 move waits") && owner.contains("other copies"), "{owner}");
        assert_eq!(why_with(node(7), Shows::Up(6)), None, "the newest is on its way");
        let behind = why_with(node(7), Shows::Up(5)).unwrap();
        assert!(behind.ends_with("it has come to epoch 5 only"), "{behind}");
    }

    #[test]
    fn a_copy_that_is_made_anew_waits_for_the_survivors_that_it_needs() {
        let mut document = running();
        let record = document.operations.get_mut("j").unwrap();
        record.operation.kind = OperationKind::Replace;
        let OperationState::Running(progress) = &mut record.state else { panic!() };
        progress.replaces = Some(node(0));
        let why = |wrong: &[u8]| {
            let shows = |n: NodeId| match wrong.iter().any(|w| node(*w) == n) {
                true => Shows::Away,
                false => Shows::Up(9),
            };
            why(&document, &document.operations["j"], shows)
        };
        assert_eq!(why(&[0]), None, "the node that is given up is not waited for");
        let told = why(&[0, 1]).unwrap();
        let id = node(1);
        assert!(told.starts_with(&format!("2 moves wait for node {id}")), "{told}");
        assert!(told.contains("too few copies") && told.ends_with("it does not answer"), "{told}");
    }

    #[test]
    fn what_is_over_waits_for_nobody() {
        let mut document = running();
        for one in document.operations.get_mut("j").unwrap().moves_mut() {
            one.stage = MoveStage::Moved;
        }
        assert_eq!(why(&document, &document.operations["j"], |_| Shows::Away), None);
    }
}
