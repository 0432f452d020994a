//! What this node did for the moves of its partitions: copies that it took over whole, told to the
//! driver, and the pieces of its own copies that it gives to others.
//!
//! A copy that is told is stored and synced. After a start nothing is told until it was copied again:
//! what was taken over before is still there, in the same tenure, and merging it twice changes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::ring::driver::{Copied, Lost, Report};
use kvasir_core::ring::moves::{Condition, Holder, LocalCopy, Place};
use kvasir_core::ring::{Document, Partition, Slot};
use kvasir_core::version::Record;
use kvasir_storage::{LostRange, Store, TableKey};

use super::local::{LocalError, Replica};
use super::view::{View, Views};

/// Most entries of a piece.
const PIECE_ENTRIES: usize = 256;
/// About so many bytes of a piece.
const PIECE_BYTES: usize = 256 * 1024;

/// A copy that is being taken over: whose, of what, in which tenure of the one who takes it.
pub type Task = (Partition, u64, Holder<NodeId>);

/// A piece of a copy: entries in key order, and where the next piece begins.
pub type Piece = (Vec<(Bytes, Bytes)>, Option<Bytes>);

/// Shared by all threads of a node.
#[derive(Debug, Default)]
pub struct Moving {
    copied: Mutex<BTreeMap<Task, Copied>>,
    /// Bytes of keys and sets taken over since the start.
    pub received_bytes: AtomicU64,
    /// Bytes of keys and sets given since the start.
    pub given_bytes: AtomicU64,
}

impl Moving {
    /// Whether a copy was taken over whole and synced.
    pub fn is_done(&self, task: &Task) -> bool {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).contains_key(task)
    }

    /// A copy was taken over whole and synced. Its source gave it only once it was fenced in this
    /// tenure.
    pub fn done(&self, (partition, since, source): Task, bytes: u64) {
        let copied = Copied { partition, since, source, fenced: since, bytes };
        let mut all = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((partition, since, source), copied);
    }

    /// Forgets copies that no slot waits for any more.
    pub fn keep(&self, wanted: impl Fn(&Task) -> bool) {
        let mut all = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|task, _| wanted(task));
    }

    /// What the driver may rest on. A copy that is not whole is not vouched for.
    pub fn report(&self, views: &Views, store: &Store) -> Report {
        let view = views.load();
        let lost = lost(&view, store);
        let whole = |copy: &Copied| {
            let this = Lost { partition: copy.partition, since: copy.since };
            view.above.is_some_and(|above| copy.since > above) && !lost.contains(&this)
        };
        let copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = copied.values().copied().filter(whole).collect();
        Report { fenced: views.fenced(), copied, lost }
    }
}

/// The copies of this node that must be made anew, of those that the document names it for: those of a
/// tenure that the volume forgot, and those of which the engine lost a part. Empty while nothing of this
/// node is used, since then it is not known which.
pub fn lost(view: &View, store: &Store) -> Vec<Lost> {
    let (Some(formed), Some(above)) = (&view.formed, view.above) else { return Vec::new() };
    let damaged = store.lost_ranges();
    if above == 0 && damaged.is_empty() {
        return Vec::new();
    }
    let document = formed.ring.document();
    let mut lost = Vec::new();
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        let Some(since) = entry.slots.values().flatten().find_map(|slot| held(slot, view.me))
        else {
            continue;
        };
        if since <= above || damaged.iter().any(|range| overlaps(range, partition)) {
            lost.push(Lost { partition, since });
        }
    }
    lost
}

/// The tenure in which a node holds a slot or comes to hold it; none where another is on the way to take
/// the place of its copy, whatever that is worth.
fn held(slot: &Slot, me: NodeId) -> Option<u64> {
    match slot.place() {
        Place::Fencing { to, .. } if to.node != me => None,
        _ => slot.tenure(me),
    }
}

/// The keys of a partition: from the first to before the second, or to the end.
pub fn keys(partition: Partition) -> (TableKey, Option<TableKey>) {
    let (first, last) = partition.range();
    (TableKey::first_of(first), last.checked_add(1).map(TableKey::first_of))
}

/// Whether a range of which data was lost has keys of a partition.
pub fn overlaps(range: &LostRange, partition: Partition) -> bool {
    let (first, end) = keys(partition);
    let ends_before = range.to.as_ref().is_some_and(|to| *to <= first);
    let begins_behind = end.is_some_and(|end| range.from >= end);
    !ends_before && !begins_behind
}

/// The copies that a node is to take over by this document, in tenures that began after epoch `above`.
pub fn tasks(document: &Document, me: NodeId, above: u64) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (index, entry) in (0..).zip(&document.table) {
        let Some((_, slot)) = entry.moving() else { continue };
        let partition = Partition { k: document.partition_bits, index };
        let coming = slot.place().coming().filter(|to| to.node == me && to.since > above);
        let Some(to) = coming else { continue };
        let sources: Vec<Holder<NodeId>> = match slot.place() {
            Place::Copying { from, .. } => vec![from],
            Place::Fencing { .. } | Place::Merging { .. } => {
                let others = entry.slots.values().flatten().filter(|other| !other.state.moves());
                others.filter_map(|other| other.place().reader()).collect()
            }
            Place::Stable(_) | Place::Switched { .. } => continue,
        };
        tasks.extend(sources.into_iter().map(|source| (partition, to.since, source)));
    }
    tasks
}

impl Replica {
    /// A piece of this node's copy of a partition for the node that takes it over, from a key on. Says
    /// nothing where that may not be: the slot does not stand so, an older version is not fenced yet,
    /// or the copy is not whole.
    ///
    /// No snapshot is kept between pieces: what was there at the fence is there at every later look,
    /// merged with more, since nothing of a partition that moves is erased.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn piece(
        &self,
        (views, me): (&Views, NodeId),
        (partition, since, to): (Partition, u64, NodeId),
        from: Option<Bytes>,
    ) -> Result<Option<Piece>, LocalError> {
        if !self.may_give(views, me, partition, Holder { node: to, since }) {
            return Ok(None);
        }
        let (first, end) = keys(partition);
        let from = from.and_then(|bytes| TableKey::from_encoded(bytes).ok()).unwrap_or(first);
        let snapshot = self.store().snapshot();
        let scan = self.store().scan(&snapshot, &from, end.as_ref(), PIECE_ENTRIES, PIECE_BYTES);
        let chunk = scan.await?;
        let mut entries = Vec::with_capacity(chunk.entries.len());
        for (key, value) in chunk.entries {
            if partition.contains(key.hash()) {
                let set = Record::decode_shared(&value)?.set;
                entries.push((key.encoded().clone(), Bytes::from(set.encode())));
            }
        }
        Ok(Some((entries, chunk.next.map(|next| next.encoded().clone()))))
    }

    fn may_give(
        &self,
        views: &Views,
        me: NodeId,
        partition: Partition,
        to: Holder<NodeId>,
    ) -> bool {
        let view = views.load();
        let (Some(formed), Some(above)) = (&view.formed, view.above) else { return false };
        let Some(entry) = formed.ring.document().entry(partition) else { return false };
        let Some((_, slot)) = entry.moving() else { return false };
        let place = slot.place();
        let Some(since) = entry.tenure(me) else { return false };
        let damaged = self.store().lost_ranges();
        let condition = match () {
            () if since <= above || view.closed.contains(&partition) => Condition::Forgotten,
            () if damaged.iter().any(|range| overlaps(range, partition)) => Condition::Incomplete,
            () => Condition::Whole,
        };
        let copy = LocalCopy { holder: Holder { node: me, since }, condition };
        let gives = copy.may_be_streamed(&place, entry.version)
            || copy.may_be_merged(&place, entry.version);
        gives && place.coming() == Some(to) && views.fenced() >= entry.version
    }
}

/// Bytes of keys and sets in a piece.
pub fn weight(entries: &[(Bytes, Bytes)]) -> u64 {
    entries.iter().map(|(key, set)| (key.len() + set.len()) as u64).sum()
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_range_is_of_the_partitions_that_it_reaches_into_and_no_others() {
        let at = |index| Partition { k: 3, index };
        let first = |index| keys(at(index)).0;
        let range = |from, to| LostRange { from, to, up_to: 1 };
        let hit = |range: &LostRange| {
            (0..8).filter(|index| overlaps(range, at(*index))).collect::<Vec<u32>>()
        };
        assert_eq!(hit(&range(first(2), Some(first(4)))), [2, 3], "its end is not of it");
        let inside = TableKey::new(at(4).range().0, b"b", b"k");
        assert_eq!(hit(&range(first(2), Some(inside))), [2, 3, 4]);
        assert_eq!(hit(&range(first(6), None)), [6, 7]);
        assert_eq!(keys(at(7)).1, None);
    }
}
