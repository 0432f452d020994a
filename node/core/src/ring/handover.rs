//! When a node may remove a copy of a partition that it gave away.
//!
//! That a document does not name the node is no reason: it may be an older document, a copy that was
//! replaced because the node seemed dead, or a hand-made change. Only the third step of the very move in
//! which the node gave the copy is, and that shows in one of two ways:
//!
//! - a slot has the new holder, in the tenure which that move began, where nothing but the third step
//!   leads ([`Place::Stable`] and what follows on it);
//! - a proof in the record of an operation names that holder as the source of a copy, which it can only
//!   be after the third step.
//!
//! A node notes a handover as soon as its document shows the move, so before it is fenced there, and no
//! third step is taken before that but for a node that is dead. So it always knows what it gave to whom,
//! whatever documents it misses afterwards. Where neither way shows any more the copy stays: it costs
//! space, and goes when the node gains the partition again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::moves::{Holder, Place, Proof};
use super::partition::Partition;
use crate::id::NodeId;

/// A copy on its way from a node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The tenure in which the node collected the copy.
    pub since: u64,
    /// Who gets it.
    pub to: Holder<NodeId>,
}

/// The handovers that a node has noted, each partition named as in the document that showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handovers(BTreeMap<Partition, Handover>);

impl Handovers {
    /// What is noted once this document is in force at `me`: every move by which it gives a copy, and
    /// what it gave before and does not hold now. A move that was taken back, and a partition that the
    /// node gained again, are noted no more.
    #[must_use]
    pub fn under(&self, document: &Document, me: NodeId) -> Self {
        let bits = document.partition_bits;
        let parts = self.0.iter().flat_map(|(partition, handover)| {
            parts(*partition, bits).map(move |part| (part, *handover))
        });
        let mut noted: BTreeMap<_, _> =
            parts.filter(|(part, _)| !names(document, *part, me)).collect();
        for (index, entry) in (0..).zip(&document.table) {
            let Some((_, slot)) = entry.moving() else { continue };
            if let Place::Copying { from, to } | Place::Switched { from, to } = slot.place()
                && from.node == me
            {
                let handover = Handover { since: from.since, to };
                noted.insert(Partition { k: bits, index }, handover);
            }
        }
        Self(noted)
    }

    /// The copies that this document shows to be handed over for good: what lies there may be removed.
    pub fn over(&self, document: &Document, me: NodeId) -> Vec<(Partition, Handover)> {
        let sources = sources(document);
        let over = |(partition, handover): &(&Partition, &Handover)| {
            let took = (**partition, handover.to);
            !names(document, **partition, me)
                && (holds(document, **partition, handover.to) || sources.contains(&took))
        };
        self.0.iter().filter(over).map(|(partition, handover)| (*partition, *handover)).collect()
    }

    /// A copy was removed, durably.
    pub fn removed(&mut self, partition: Partition, handover: Handover) {
        if self.0.get(&partition) == Some(&handover) {
            self.0.remove(&partition);
        }
    }

    /// How many copies are on their way or wait to be removed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A partition as a ring of `bits` cuts it; one of a finer ring stays as it is.
fn parts(partition: Partition, bits: u8) -> impl Iterator<Item = Partition> {
    let finer = u32::from(bits.saturating_sub(partition.k));
    let (first, k) = (partition.index << finer, partition.k.max(bits));
    (first..first + (1 << finer)).map(move |index| Partition { k, index })
}

/// Whether a node is named in a partition. One that this ring does not have counts as such: nothing is
/// known of it.
fn names(document: &Document, partition: Partition, node: NodeId) -> bool {
    document.entry(partition).is_none_or(|entry| entry.names(node))
}

/// Whether a slot shows that this holder came to hold it alone.
fn holds(document: &Document, partition: Partition, holder: Holder<NodeId>) -> bool {
    let slots = document.entry(partition).into_iter().flat_map(|entry| entry.slots.values());
    slots.flatten().any(|slot| match slot.place() {
        Place::Stable(held) => held == holder,
        Place::Copying { from, .. } | Place::Switched { from, .. } => from == holder,
        Place::Fencing { back, .. } => back == Some(holder),
        Place::Merging { .. } => false,
    })
}

/// Every holder of whom a record says that a copy was taken from it.
fn sources(document: &Document) -> Vec<(Partition, Holder<NodeId>)> {
    let moves = document.operations.values().flat_map(|record| record.moves());
    let proofs = moves.flat_map(|one| one.proofs.iter().map(|proof| (one.partition, proof)));
    let source = |(partition, proof): (Partition, &Proof<NodeId>)| match *proof {
        Proof::Streamed { source, .. } | Proof::Merged { source, .. } => Some((partition, source)),
        Proof::Fenced { .. } => None,
    };
    proofs.filter_map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};
    use crate::ring::slot::Slot;

    fn at(index: u32) -> Partition {
        Partition { k: 3, index }
    }

    /// A document of 8 partitions whose first slot of partition 2 stands so.
    fn with(epoch: u64, slot: impl Fn(&Slot) -> Slot) -> Document {
        let mut document = cluster(4, 3);
        assert!(document.partition_bits >= 3);
        document.partition_bits = 3;
        document.table.truncate(8);
        document.epoch = epoch;
        let entry = &mut document.table[2];
        let first = entry.slots.get_mut("dc1").unwrap();
        first[0] = slot(&Slot::stable(node(0), 1));
        first[1] = Slot::stable(node(1), 1);
        first[2] = Slot::stable(node(2), 1);
        document
    }

    fn copying(slot: &Slot) -> Slot {
        slot.at(slot.place().begin(node(7), 5).unwrap())
    }

    fn forward(slot: &Slot) -> Slot {
        slot.at(slot.place().forward().unwrap().1)
    }

    fn noted() -> Handovers {
        Handovers::default().under(&with(5, copying), node(0))
    }

    #[test]
    fn only_the_third_step_of_the_noted_move_removes() {
        let (noted, handover) =
            (noted(), Handover { since: 1, to: Holder { node: node(7), since: 5 } });
        assert_eq!(noted.len(), 1);
        let over = |document: &Document| {
            let later = noted.under(document, node(0));
            later.over(document, node(0))
        };
        assert_eq!(over(&with(5, copying)), []);
        let switched = |slot: &Slot| forward(&copying(slot));
        assert_eq!(over(&with(6, switched)), []);
        let finished = |slot: &Slot| forward(&switched(slot));
        assert_eq!(over(&with(7, finished)), [(at(2), handover)]);
        // The new holder has begun to give it on: that comes after the third step too.
        let on = |slot: &Slot| {
            let held = finished(slot);
            held.at(held.place().begin(node(3), 9).unwrap())
        };
        assert_eq!(over(&with(9, on)), [(at(2), handover)]);
        // Somebody holds it by another move, or by another tenure: says nothing of this one.
        assert_eq!(over(&with(9, |_| Slot::stable(node(3), 9))), []);
        assert_eq!(over(&with(9, |_| Slot::stable(node(7), 8))), []);
        // The new holder died in the second step: its slot names it as the last one, which it never was.
        let lost = |slot: &Slot| {
            let held = switched(slot);
            held.at(held.place().replace(node(3), 8))
        };
        assert_eq!(over(&with(8, lost)), []);
    }

    #[test]
    fn what_was_taken_back_or_came_back_is_noted_no_more() {
        let back = with(6, Slot::clone);
        assert!(noted().under(&back, node(0)).is_empty());
        assert_eq!(noted().over(&back, node(0)), []);
        // A cancel may still return to it.
        let fencing = with(6, |slot| {
            let moving = copying(slot);
            moving.at(moving.place().replace(node(3), 6))
        });
        assert_eq!(noted().over(&fencing, node(0)), []);
    }

    #[test]
    fn a_record_that_names_the_new_holder_as_a_source_is_evidence() {
        use crate::ring::operation::{Operation, OperationKind, OperationRecord, OperationState};
        use crate::ring::progress::{MoveRecord, Progress};
        let mut document = with(20, |_| Slot::stable(node(3), 12));
        assert_eq!(noted().under(&document, node(0)).over(&document, node(0)), []);
        let mut one = MoveRecord::waiting(at(2), "dc1", node(7), node(3));
        one.proofs = vec![Proof::Streamed {
            to: Holder { node: node(3), since: 12 },
            source: Holder { node: node(7), since: 5 },
            fenced: 12,
        }];
        let progress = Progress { replaces: None, cancelling: false, moves: vec![one] };
        let operation =
            Operation { kind: OperationKind::Rebalance, node: None, member: None, rebalance: true };
        let state = OperationState::Running(progress);
        let record = OperationRecord { operation, state, started: 11, finished: 0 };
        document.operations.insert("r".into(), record);
        assert_eq!(noted().under(&document, node(0)).over(&document, node(0)).len(), 1);
    }

    #[test]
    fn halves_of_a_handover_are_judged_one_by_one() {
        let finished = |slot: &Slot| forward(&forward(&copying(slot)));
        let mut document = with(30, finished);
        let halves: Vec<_> = document.table.iter().flat_map(|e| [e.clone(), e.clone()]).collect();
        (document.table, document.partition_bits) = (halves, 4);
        let mut later = noted().under(&document, node(0));
        let over = later.over(&document, node(0));
        let names: Vec<Partition> = over.iter().map(|(partition, _)| *partition).collect();
        assert_eq!(names, [Partition { k: 4, index: 4 }, Partition { k: 4, index: 5 }]);
        later.removed(over[0].0, over[0].1);
        assert_eq!(later.len(), 1);
        let other = Handover { since: 9, ..over[1].1 };
        later.removed(over[1].0, other);
        assert_eq!(later.len(), 1, "another handover of the same partition");
    }
}
