//! Which members running operations lead out of the ring, and whose copies are given up.
//!
//! A running replace is the word of whoever posted it that a node is lost for good: its copies are made
//! anew from the others wherever a plan names it, whichever operation planned that, and nobody waits for
//! it. An operation that is being taken back says so no more.

use std::collections::BTreeSet;

use super::document::{Document, PartitionEntry};
use super::moves::{Place, Slots};
use super::operation::{OperationKind, OperationRecord, OperationState};
use super::progress::{MoveRecord, MoveStage, Progress};
use super::slot::Slot;
use crate::id::NodeId;

/// The operations that run and are not being taken back.
pub(super) fn onward(document: &Document) -> impl Iterator<Item = (&OperationRecord, &Progress)> {
    document.operations.values().filter_map(|record| match &record.state {
        OperationState::Running(progress) if !progress.cancelling => Some((record, progress)),
        _ => None,
    })
}

/// The moves under way that go back to their old holder, since their operation is being taken back.
pub(super) fn returning(document: &Document) -> impl Iterator<Item = &MoveRecord> {
    let taken_back = document.operations.values().filter_map(|record| match &record.state {
        OperationState::Running(progress) if progress.cancelling => Some(progress),
        _ => None,
    });
    taken_back.flat_map(|progress| &progress.moves).filter(|one| {
        let slot = document.entry(one.partition).and_then(|entry| entry.moving());
        one.stage == MoveStage::Moving && slot.is_some_and(|(_, s)| s.place().cancel().is_some())
    })
}

/// The members that running operations replace.
pub fn given_up(document: &Document) -> BTreeSet<NodeId> {
    onward(document).filter_map(|(_, progress)| progress.replaces).collect()
}

/// The members that own nothing once all that runs is over.
pub fn going(document: &Document) -> BTreeSet<NodeId> {
    let gone = |(record, progress): (&OperationRecord, &Progress)| match record.operation.kind {
        OperationKind::Leave | OperationKind::Drain => record.operation.node,
        _ => progress.replaces,
    };
    onward(document).filter_map(gone).collect()
}

/// Whether the holders of the other slots, less those that are given up, are too few to make a slot's copy
/// anew: what a majority acknowledged may then be gone with the others.
pub(super) fn too_few_left(
    entry: &PartitionEntry,
    slot: &Slot,
    given_up: &BTreeSet<NodeId>,
) -> bool {
    let slots = || entry.slots.iter().flat_map(|(dc, slots)| slots.iter().map(move |s| (dc, s)));
    let places: Vec<(&str, Place<NodeId>)> =
        slots().map(|(dc, slot)| (dc.as_str(), Place::Stable(slot.last()))).collect();
    let Some(moving) = slots().position(|(_, other)| other == slot) else { return false };
    let slots = Slots { version: entry.version, slots: &places, moving };
    slots.short(|holder| !given_up.contains(&holder.node)).is_some()
}
