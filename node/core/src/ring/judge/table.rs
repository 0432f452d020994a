//! Which change of the table is legal: in a partition that changes, one slot takes one arrow
//! (`ring::moves`) that a running operation planned and for which its record names the proofs; or the
//! whole ring is cut in two while nothing moves.

use std::collections::{BTreeMap, BTreeSet};

use super::{IllegalChange, new_records};
use crate::id::NodeId;
use crate::ring::document::{Document, PartitionEntry};
use crate::ring::moves::{self, Arrow};
use crate::ring::operation::{OperationKind, OperationState};
use crate::ring::partition::{MAX_PARTITION_BITS, Partition};
use crate::ring::progress::{MoveRecord, MoveStage};
use crate::ring::slot::Slot;

/// A move's record before and after.
type Change<'a> = (MoveRecord, &'a MoveRecord);
/// The moves of running operations that differ between the two documents, by slot.
type Changes<'a> = BTreeMap<(Partition, String), Vec<Change<'a>>>;

/// May the table of `child` follow that of `parent`? Both are valid by themselves.
pub(super) fn judge_table(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let mut changes = changes(parent, child)?;
    if parent.partition_bits != child.partition_bits {
        judge_doubling(parent, child)?;
    } else {
        for (index, (before, after)) in parent.table.iter().zip(&child.table).enumerate() {
            if before != after {
                judge_entry(child, index, (before, after), &mut changes)?;
            }
        }
    }
    // What no arrow accounts for.
    match changes.into_keys().next() {
        Some((partition, _)) => Err(IllegalChange::MoveRecord { index: partition.index as usize }),
        None => Ok(()),
    }
}

/// Every move of a running operation whose record differs from its parent's, but for those that never
/// began and are dropped, which is always legal. A new operation begins with moves that wait. In an epoch
/// that records a replace, moves that wait may get another taker.
fn changes<'a>(parent: &Document, child: &'a Document) -> Result<Changes<'a>, IllegalChange> {
    let mut changes: Changes<'_> = BTreeMap::new();
    let turning = new_records(parent, child)
        .any(|(_, record)| record.operation.kind == OperationKind::Replace && record.is_running());
    for (id, record) in &child.operations {
        let OperationState::Running(after) = &record.state else { continue };
        let illegal = || IllegalChange::OperationStep(id.clone());
        let before: Vec<MoveRecord> = match parent.operations.get(id).map(|r| &r.state) {
            Some(OperationState::Running(before)) => before.moves.clone(),
            Some(_) => return Err(illegal()),
            None => after.moves.iter().map(MoveRecord::anew).collect(),
        };
        if before.len() != after.moves.len() {
            return Err(illegal());
        }
        for (before, after) in before.into_iter().zip(&after.moves) {
            if before.anew() != after.anew() {
                if !(turning && is_turned(&before, after)) {
                    return Err(illegal());
                }
                if before.stage == MoveStage::Waiting {
                    continue;
                }
            }
            let dropped = MoveRecord { stage: MoveStage::Dropped, ..before.clone() };
            if before != *after && (before.stage != MoveStage::Waiting || dropped != *after) {
                let slot = (after.partition, after.datacenter.clone());
                changes.entry(slot).or_default().push((before, after));
            }
        }
    }
    Ok(changes)
}

/// Whether a move waits for another taker than before, and is otherwise the same, not begun.
fn is_turned(before: &MoveRecord, after: &MoveRecord) -> bool {
    let other = MoveRecord { to: after.to, ..before.anew() };
    before.from != before.to && after.from != after.to && *after == other
}

/// Each half keeps the slots of the whole, nothing moves, and no operation waits to move anything.
fn judge_doubling(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let running = |document: &Document| document.operations.values().any(|r| r.is_running());
    let bits = parent.partition_bits + 1;
    let halves = child.table.iter().enumerate().all(|(index, half)| {
        let whole = parent.table.get(index / 2);
        whole.is_some_and(|whole| half.slots == whole.slots) && half.version == child.epoch
    });
    let still = parent.table.iter().all(|entry| entry.moving().is_none());
    let legal = bits == child.partition_bits && bits <= MAX_PARTITION_BITS && halves && still;
    if legal && !running(parent) && !running(child) {
        Ok(())
    } else {
        Err(IllegalChange::PartitionBits)
    }
}

/// One entry that changed.
fn judge_entry(
    child: &Document,
    index: usize,
    (before, after): (&PartitionEntry, &PartitionEntry),
    changes: &mut Changes<'_>,
) -> Result<(), IllegalChange> {
    let table = || IllegalChange::Table { index };
    let (moving, old, new) = changed_slot(before, after).ok_or_else(table)?;
    if after.version != child.epoch || *new != old.at(new.place()) {
        return Err(table());
    }
    let slots = before.places();
    let datacenter = slots[moving].0;
    let partition = Partition { k: child.partition_bits, index: index as u32 };
    let told = changes.remove(&(partition, datacenter.to_owned())).unwrap_or_default();
    let proofs = told.iter().find(|(before, _)| before.stage == MoveStage::Moving);
    let proofs = proofs.map_or(&[][..], |(_, after)| &after.proofs);
    let slots = moves::Slots { version: before.version, slots: &slots, moving };
    let arrow = moves::judge(&slots, &new.place(), child.epoch, proofs)
        .map_err(|missing| IllegalChange::Arrow { index, missing: missing.to_string() })?;
    if !records_agree(arrow, (old, new), &told) {
        return Err(IllegalChange::MoveRecord { index });
    }
    let comes = matches!(arrow, Arrow::Begin | Arrow::Replace);
    // A rebuild brings nobody new to a machine.
    let stays = new.state.successor().is_some_and(|next| next.node == new.owner);
    if comes && !stays && shares_machine(child, after, new) {
        return Err(IllegalChange::MachineShared { index });
    }
    Ok(())
}

/// The only slot that differs, by its number over all data centers.
fn changed_slot<'a>(
    before: &'a PartitionEntry,
    after: &'a PartitionEntry,
) -> Option<(usize, &'a Slot, &'a Slot)> {
    let slots = before.slots.values().flatten().zip(after.slots.values().flatten());
    let mut changed = slots.enumerate().filter(|(_, (old, new))| old != new);
    let (number, (old, new)) = changed.next()?;
    changed.next().is_none().then_some((number, old, new))
}

/// Do the records say of the slot what its arrow does, and nothing else?
fn records_agree(arrow: Arrow, (old, new): (&Slot, &Slot), told: &[Change<'_>]) -> bool {
    let pair = |slot: &Slot| slot.state.successor().map(|next| (slot.owner, next.node));
    let names = |record: &MoveRecord, slot: &Slot| pair(slot) == Some((record.from, record.to));
    let began = |(before, after): &Change<'_>| {
        let begun = MoveRecord { stage: MoveStage::Moving, ..before.anew() };
        before.stage == MoveStage::Waiting && **after == begun && names(after, new)
    };
    let went_on = |(before, after): &Change<'_>, to: MoveStage| {
        let added = after.proofs.starts_with(&before.proofs) && after.bytes >= before.bytes;
        (before.stage, after.stage) == (MoveStage::Moving, to) && names(after, old) && added
    };
    let ended = |(before, after): &Change<'_>| {
        let gone = MoveRecord { stage: MoveStage::Dropped, ..before.clone() };
        before.stage == MoveStage::Moving && **after == gone && names(after, old)
    };
    // To begin anew, or towards another taker.
    let back = |(before, after): &Change<'_>| {
        let waits = **after == before.anew() || is_turned(before, after);
        before.stage == MoveStage::Moving && waits && names(before, old)
    };
    match (arrow, told) {
        (Arrow::Begin, [one]) => began(one),
        (Arrow::Switch | Arrow::Admit, [one]) => went_on(one, MoveStage::Moving),
        (Arrow::Finish, [one]) => went_on(one, MoveStage::Moved),
        // It may begin anew later: in another tenure, so that nothing shown before counts.
        (Arrow::Cancel, [one]) => ended(one) || back(one),
        // Once more, in another tenure: the same record goes on. Its proofs name the tenure before, and
        // its fences are older than the new one.
        (Arrow::Replace, []) => pair(old).is_some() && pair(old) == pair(new),
        (Arrow::Replace, [one]) => !old.state.moves() && began(one),
        (Arrow::Replace, [one, two]) => (began(one) && ended(two)) || (began(two) && ended(one)),
        _ => false,
    }
}

/// Would the successor share a machine with another copy?
fn shares_machine(document: &Document, entry: &PartitionEntry, slot: &Slot) -> bool {
    let machine = |node: NodeId| document.members.get(&node).map(|m| m.machine.as_str());
    let others = entry.slots.values().flatten().filter(|other| *other != slot);
    let taken: BTreeSet<_> = others.flat_map(Slot::named).filter_map(machine).collect();
    let next = slot.state.successor().and_then(|next| machine(next.node));
    next.is_some_and(|machine| taken.contains(machine))
}
