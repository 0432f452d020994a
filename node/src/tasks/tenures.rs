//! Which tenure the local data of each partition is of, as one small durable file.
//!
//! Data of an earlier tenure is never served, merged or streamed: before a document is put in force
//! that begins a new tenure of this node in a partition, whatever lies there is dropped, and the tenure
//! is noted. Where the node held the partition until then (it is rebuilt), nobody enters in between: a read
//! would take what was dropped for all there is. A slot that is held since the cluster was formed needs no
//! note: its first tenure is the one that everybody begins with, and no later one begins at epoch 1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::ring::moves::{self, Fate};
use kvasir_core::ring::{Document, Partition, Slot};
use kvasir_storage::Durability;

use super::control::Control;
use super::{ballots, gossip, set_aside};
use crate::replica::{Formed, moving};

/// Name of the file.
pub const FILE: &str = "tenures";
/// Why a node that forgot a tenure serves nothing.
const FORGOTTEN: &str = "the cluster document names this node for a partition that it knows nothing of: the \
    volume was put back to an older state. Its copies are made anew from those of others: see `kvasir status`";
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

    /// The tenures of a node by a document that need a note: not the first ones, nor those up to the floor,
    /// in which nothing of the node is used.
    fn of(document: &Document, me: NodeId, floor: u64) -> Self {
        let entries = Partition::all(document.partition_bits).zip(&document.table);
        let noted = |since: &u64| *since > floor.max(1);
        let noted = entries.filter_map(|(at, entry)| Some((at, entry.tenure(me).filter(noted)?)));
        Self(noted.collect())
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
    let floor = control.set_aside.floor().unwrap_or(u64::MAX);
    let next = Tenures::of(document, me, floor);
    let noted = control.tenures.borrow().clone();
    if next == noted {
        return true;
    }
    let begun = noted.begun_in(&next);
    // A tenure that began before and of which nothing was noted: the volume is of an older state.
    if begun.iter().any(|partition| is_lost(document, me, *partition, floor)) {
        let none = Tenures::default();
        return set_aside::set_aside(control, FORGOTTEN).await && note(control, none).await;
    }
    if !begun.is_empty() {
        close(control, &begun).await;
    }
    for partition in begun {
        let (first, end) = moving::keys(partition);
        let store = control.replica.store();
        while let Err(error) = store.drop_range(&first, end.as_ref(), Durability::Group).await {
            if store.failed().is_some() {
                return false;
            }
            tracing::warn!(%error, %partition, "old data could not be set aside yet");
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
    note(control, next).await
}

/// Lets nobody in where this node holds a copy that it is about to begin anew, and waits for those who are
/// inside, there or under older documents.
async fn close(control: &Control, begun: &[Partition]) {
    let (me, present) = (control.identity.node, control.newest());
    let holds = |partition: &&Partition| {
        let entry = present.as_ref().and_then(|document| document.entry(**partition));
        entry.is_some_and(|entry| entry.tenure(me).is_some())
    };
    let held: BTreeSet<Partition> = begun.iter().filter(holds).copied().collect();
    if let Some(present) = present.clone().filter(|_| !held.is_empty()) {
        control.closed.replace(Arc::new(held));
        // Made ready once more, so that whoever entered before is told apart.
        *control.formed.borrow_mut() = Some(Arc::new(Formed::new(present)));
        gossip::publish(control);
    }
    while !control.views.quiet() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Notes which tenures the local data is of. False: the node must stop.
async fn note(control: &Control, next: Tenures) -> bool {
    let stored = ballots::replace(control, FILE, next.encode()).await;
    if stored {
        control.tenures.replace(next);
    }
    stored
}

/// Whether this node must once have begun a tenure of which it knows nothing.
fn is_lost(document: &Document, me: NodeId, partition: Partition, floor: u64) -> bool {
    let Some(entry) = document.entry(partition) else { return false };
    let fate = |slot: &Slot| moves::fate(None, me, &slot.place(), entry.version, floor);
    entry.slots.values().flatten().any(|slot| matches!(fate(slot), Fate::Lost(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::view::tests::{first, me};

    fn partition(k: u8, index: u32) -> Partition {
        Partition { k, index }
    }

    #[test]
    fn no_tenure_up_to_the_floor_is_taken_up() {
        let mut document = first();
        document.epoch = 5;
        let entry = &mut document.table[0];
        entry.version = 5;
        let slots = entry.slots.get_mut("dc1").expect("a data center");
        slots[0] = slots[0].at(slots[0].place().replace(me(), 5));
        let (first, of) = (partition(1, 0), |floor| Tenures::of(&document, me(), floor));
        let begins = Tenures(BTreeMap::from([(first, 5)]));
        assert_eq!([of(0), of(4)], [begins.clone(), begins]);
        assert_eq!([of(5), of(u64::MAX)], [Tenures::default(), Tenures::default()]);
        assert!(!is_lost(&document, me(), first, 4), "step 1 of a rebuild begins it");
        assert!(is_lost(&document, me(), first, 5), "it may have begun it before");
        let slots = document.table[0].slots.get_mut("dc1").expect("a data center");
        slots[0] = Slot::stable(me(), 4);
        assert!(is_lost(&document, me(), first, 0), "it came so far with this node once");
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
