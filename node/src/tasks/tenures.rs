//! Which tenure the local data of each partition is of, as one small durable file.
//!
//! Data of an earlier tenure is never served, merged or streamed: before a document is put in force
//! that begins a new tenure of this node in a partition, whatever lies there is dropped, and the tenure
//! is noted. A slot that is held since the cluster was formed needs no note: its first tenure is the
//! one that everybody begins with, and no later one begins at epoch 1.

use std::collections::BTreeMap;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::ring::moves::{self, Fate};
use kvasir_core::ring::{Document, Partition, Slot};
use kvasir_storage::{Durability, TableKey};

use super::ballots;
use super::control::Control;

/// Name of the file.
pub const FILE: &str = "tenures";
/// Why a node that forgot a tenure serves nothing.
const FORGOTTEN: &str = "the cluster document names this node for a partition that it knows nothing of: the \
    volume was put back to an older state. try: remove the node's data directory and let it join as a new node";
/// Between two looks at whether everybody left, or at a disk that takes nothing.
const AGAIN: Duration = Duration::from_millis(5);
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The noted tenures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenures(BTreeMap<Partition, u64>);

impl Tenures {
    /// Reads the file's content.
    ///
    /// # Errors
    /// It is no such content.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes).map(Self)
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(&self.0).expect("a map of numbers always encodes")
    }

    /// The tenure that was noted of a partition, or of the one that it was cut from.
    fn noted(&self, partition: Partition) -> Option<u64> {
        let mut at = partition;
        loop {
            if let Some(since) = self.0.get(&at) {
                return Some(*since);
            }
            at = Partition { k: at.k.checked_sub(1)?, index: at.index >> 1 };
        }
    }

    /// The tenures of a node by a document that need a note.
    fn of(document: &Document, me: NodeId) -> Self {
        let entries = (0..).zip(&document.table).filter_map(|(index, entry)| {
            let partition = Partition { k: document.partition_bits, index };
            Some((partition, entry.tenure(me).filter(|since| *since > 1)?))
        });
        Self(entries.collect())
    }

    /// The partitions in which a tenure begins: what lies there has to be dropped before it holds.
    fn begun_in(&self, next: &Self) -> Vec<Partition> {
        let begins = |(partition, since): (&Partition, &u64)| {
            (self.noted(*partition) != Some(*since)).then_some(*partition)
        };
        next.0.iter().filter_map(begins).collect()
    }
}

/// Makes the local data ready for a document that is to be put in force. False: the node must stop.
pub(super) async fn prepare(control: &Control, document: &Document) -> bool {
    let me = control.identity.node;
    let next = Tenures::of(document, me);
    let noted = control.tenures.borrow().clone();
    if next == noted {
        return true;
    }
    let begun = noted.begun_in(&next);
    // A tenure that began before and of which nothing was noted: the volume is of an older state.
    if begun.iter().any(|partition| is_lost(document, me, *partition)) {
        return ballots::set_aside(control, FORGOTTEN).await;
    }
    if !begun.is_empty() {
        // Nobody may still be at work who entered when this node held the partition before.
        while control.views.fenced() < control.views.load().epoch() {
            tokio::time::sleep(AGAIN).await;
        }
    }
    for partition in begun {
        let (first, last) = partition.range();
        let end = last.checked_add(1).map(TableKey::first_of);
        let first = TableKey::first_of(first);
        let store = control.replica.store();
        while let Err(error) = store.drop_range(&first, end.as_ref(), Durability::Group).await {
            if store.failed().is_some() {
                return false;
            }
            tracing::warn!(%error, %partition, "old data could not be set aside yet");
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
    let stored = ballots::replace(control, FILE, next.encode()).await;
    if stored {
        control.tenures.replace(next);
    }
    stored
}

/// Whether this node must once have begun a tenure of which it knows nothing.
fn is_lost(document: &Document, me: NodeId, partition: Partition) -> bool {
    let Some(entry) = document.entry(partition) else { return false };
    let fate = |slot: &Slot| moves::fate(None, me, &slot.place(), entry.version, 0);
    entry.slots.values().flatten().any(|slot| matches!(fate(slot), Fate::Lost(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(k: u8, index: u32) -> Partition {
        Partition { k, index }
    }

    #[test]
    fn a_new_tenure_drops_and_a_doubling_does_not() {
        let noted = Tenures(BTreeMap::from([(partition(3, 2), 7), (partition(3, 5), 4)]));
        assert_eq!(Tenures::decode(&noted.encode()).unwrap(), noted);
        let same = Tenures(BTreeMap::from([(partition(3, 2), 7)]));
        assert!(noted.begun_in(&same).is_empty(), "one that ended is no matter");
        let again = Tenures(BTreeMap::from([(partition(3, 2), 9), (partition(3, 6), 9)]));
        assert_eq!(noted.begun_in(&again), [partition(3, 2), partition(3, 6)]);
        let halves = Tenures(BTreeMap::from([(partition(4, 4), 7), (partition(4, 5), 7)]));
        assert!(noted.begun_in(&halves).is_empty());
        let gained = Tenures(BTreeMap::from([(partition(4, 4), 8)]));
        assert_eq!(noted.begun_in(&gained), [partition(4, 4)]);
    }
}
