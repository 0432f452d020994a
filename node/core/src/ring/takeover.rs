//! What a replace changes in operations that run: no plan goes on that names the node which is lost.
//!
//! The replace is planned on the table as it will be once all that runs is over (`planner::Cluster::ahead`). Then,
//! slot by slot:
//!
//! - A copy that the lost node holds, or gives to another, is the replace's: a move of another operation
//!   that waits for it is dropped, and one in its first step is taken over when the new one begins.
//! - A copy that was to come to the lost node goes to the new heir instead, as a move of the operation that
//!   planned it: a leave is still a leave when one of its takers is lost, and so is a replace. What was on
//!   its way in step 1 of a move is taken back first, in the same epoch; step 1 of a replace goes on to its
//!   step 2, from where the new replace takes over.
//! - Where the new plan wants another heir for a move that waits, it gets it; a copy that may stay where it
//!   is stays.
//!
//! No slot is led through a place that the rules of moves do not know: safety rests on `super::moves` alone,
//! and this is bookkeeping that keeps every operation able to end.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;
use super::operation::OperationState;
use super::outgoing;
use super::partition::Partition;
use super::progress::{MoveRecord, MoveStage};
use super::slot::{Slot, SlotState};
use crate::id::NodeId;

/// Heirs of the slots of each partition, per data center in the order of the slots.
pub type Heirs = [BTreeMap<String, Vec<NodeId>>];

/// The moves of the replace itself, of those that lead to the heirs; the document stays as it is.
pub fn own_moves(document: &Document, heirs: &Heirs, dead: NodeId) -> Vec<MoveRecord> {
    take_over(&mut document.clone(), heirs, dead)
}

/// Changes the plans of running operations so that the heirs come to hold the slots, and gives the moves
/// that are left to the replace. `child` is the document in which it is posted.
pub(super) fn take_over(child: &mut Document, heirs: &Heirs, dead: NodeId) -> Vec<MoveRecord> {
    let returning = outgoing::returning(child).map(|one| (one.partition, one.datacenter.clone()));
    let returning: BTreeSet<(Partition, String)> = returning.collect();
    let mut own = Vec::new();
    for (partition, row) in Partition::all(child.partition_bits).zip(heirs) {
        for (datacenter, heirs) in row {
            let entry = child.entry(partition).and_then(|entry| entry.slots.get(datacenter));
            let Some(slots) = entry.cloned() else { continue };
            let back = returning.contains(&(partition, datacenter.clone()));
            let givers: Vec<NodeId> = slots.iter().map(|slot| giver(slot, dead, back)).collect();
            let heirs = settled(&givers, heirs);
            for ((slot, from), heir) in slots.iter().zip(givers).zip(heirs) {
                let at = At { partition, datacenter, from };
                let comes = matches!(slot.state, SlotState::Copying(next) if next.node == dead);
                if comes {
                    turn_back(child, &at, slot, heir);
                } else if at.from == dead {
                    waiting(child, &at).for_each(|one| one.stage = MoveStage::Dropped);
                    own.push(at.to(heir));
                } else if !turn(child, &at, heir) && heir != at.from {
                    own.push(at.to(heir));
                }
            }
        }
    }
    own
}

/// A slot that a move begins at.
struct At<'a> {
    partition: Partition,
    datacenter: &'a str,
    from: NodeId,
}

impl At<'_> {
    fn to(&self, heir: NodeId) -> MoveRecord {
        MoveRecord::waiting(self.partition, self.datacenter, self.from, heir)
    }
}

/// From whom a slot goes on: from whoever comes in, unless it goes back, or one of the two is lost before
/// step 2.
fn giver(slot: &Slot, dead: NodeId, back: bool) -> NodeId {
    match slot.state {
        _ if back => slot.owner,
        SlotState::Copying(next) if next.node == dead || slot.owner == dead => slot.owner,
        state => state.successor().map_or(slot.owner, |next| next.node),
    }
}

/// The heirs in the order of the slots, each that holds one of them already at its own: nothing moves that
/// need not, and no two moves of a partition wait for each other.
fn settled(givers: &[NodeId], heirs: &[NodeId]) -> Vec<NodeId> {
    let mut heirs = heirs.to_vec();
    for (number, holds) in givers.iter().enumerate() {
        if let Some(other) = heirs.iter().position(|heir| heir == holds) {
            heirs.swap(number, other);
        }
    }
    heirs
}

/// The moves of a slot that have not begun, of operations that are not being taken back.
fn waiting<'a>(
    child: &'a mut Document,
    at: &'a At<'_>,
) -> impl Iterator<Item = &'a mut MoveRecord> {
    let progress = child.operations.values_mut().filter_map(|record| match &mut record.state {
        OperationState::Running(progress) if !progress.cancelling => Some(progress),
        _ => None,
    });
    progress.flat_map(|progress| &mut progress.moves).filter(move |one| {
        let this = (one.partition, &*one.datacenter, one.from);
        one.stage == MoveStage::Waiting && this == (at.partition, at.datacenter, at.from)
    })
}

/// Gives a move that waits to its new heir. False if there is none.
fn turn(child: &mut Document, at: &At<'_>, heir: NodeId) -> bool {
    let mut found = false;
    // A copy that is made anew where it is has its heir.
    for one in waiting(child, at).filter(|one| one.from != one.to) {
        found = true;
        match heir == at.from {
            true => one.stage = MoveStage::Dropped,
            false => one.to = heir,
        }
    }
    found
}

/// Takes a move back whose taker is lost in step 1, and lets it begin anew towards its new heir.
fn turn_back(child: &mut Document, at: &At<'_>, slot: &Slot, heir: NodeId) {
    let epoch = child.epoch;
    let Some(back) = slot.place().cancel() else { return };
    let entry = child.table.get_mut(at.partition.index as usize);
    let slots = entry.and_then(|entry| {
        entry.version = epoch;
        entry.slots.get_mut(at.datacenter)
    });
    let stands = slots.and_then(|slots| slots.iter_mut().find(|other| *other == slot));
    stands.into_iter().for_each(|stands| *stands = slot.at(back));
    let moves = child.operations.values_mut().flat_map(|record| record.moves_mut());
    let under_way = |one: &&mut MoveRecord| {
        let this = (one.partition, &*one.datacenter, one.from);
        one.stage == MoveStage::Moving && this == (at.partition, at.datacenter, at.from)
    };
    for one in moves.filter(under_way) {
        match heir == at.from {
            true => one.stage = MoveStage::Dropped,
            false => *one = at.to(heir),
        }
    }
}
