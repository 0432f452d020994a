//! What this node does for the moves of its partitions: how far each copy is that it takes over, told to the
//! driver once it came whole, and the pieces of its own copies that it gives to others.
//!
//! A copy that is told is stored and synced. How far a copy is survives a start ([`Moving::encode`]): all that
//! came before a cursor was synced in the same tenure, and what is written since goes to both nodes of the
//! slot. A cursor counts for one partition, tenure and source, and only while this node lost nothing there.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::ring::driver::{Copied, Lost, Report};
use kvasir_core::ring::moves::{Condition, Holder, LocalCopy, Place};
use kvasir_core::ring::{Document, Partition, Slot, piece};
use kvasir_core::version::Record;
use kvasir_storage::{LostRange, Store, TableKey};
use serde::{Deserialize, Serialize};

use super::local::{LocalError, Replica};
use super::move_tally::Tally;
use super::view::{View, Views};

/// Most entries of a piece.
const PIECE_ENTRIES: usize = 256;
/// About so many bytes of a piece, at least and at most.
const PIECE_BYTES: (u64, u64) = (16 * 1024, 256 * 1024);
/// Pieces that the rate allows in a second, at least: a slow one comes in small pieces.
const PIECES_PER_S: u64 = 4;

/// A copy that is being taken over: whose, of what, in which tenure of the one who takes it.
pub type Task = (Partition, u64, Holder<NodeId>);

/// A piece of a copy: entries in key order, and where the next piece begins.
pub type Piece = (Vec<(Bytes, Bytes)>, Option<Bytes>);

/// How far a copy is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Where the next piece begins; none before the first.
    pub next: Option<Bytes>,
    /// It came whole and is synced.
    pub whole: bool,
    /// Bytes of keys and sets that came.
    pub bytes: u64,
}

/// Shared by all threads of a node.
#[derive(Debug)]
pub struct Moving {
    copies: Mutex<BTreeMap<Task, Cursor>>,
    /// Counts and pace.
    pub tally: Tally,
}

impl Moving {
    /// Nothing was done yet, but for what an earlier start stored ([`Self::encode`]); what cannot be read
    /// of that is copied again. At most `bytes_per_s` in each direction.
    pub fn new(bytes_per_s: u64, stored: Option<&[u8]>) -> Self {
        let copies = stored.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        Self { copies: Mutex::new(copies), tally: Tally::new(bytes_per_s) }
    }

    fn copies(&self) -> MutexGuard<'_, BTreeMap<Task, Cursor>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far each copy is, to be stored durably.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(&*self.copies()).expect("maps of bytes and numbers always encode")
    }

    /// How far a copy is.
    pub fn cursor(&self, task: &Task) -> Cursor {
        self.copies().get(task).cloned().unwrap_or_default()
    }

    /// A piece is stored and synced, and the next one begins there.
    pub fn came(&self, task: Task, next: Bytes, bytes: u64) {
        let mut copies = self.copies();
        let cursor = copies.entry(task).or_default();
        (cursor.next, cursor.bytes) = (Some(next), cursor.bytes + bytes);
    }

    /// A copy was taken over whole and synced, with a last piece of so many bytes. Its source gave it only
    /// once it was fenced in this tenure.
    pub fn done(&self, task: Task, bytes: u64) {
        let mut copies = self.copies();
        let cursor = copies.entry(task).or_default();
        (cursor.next, cursor.bytes, cursor.whole) = (None, cursor.bytes + bytes, true);
        self.tally.copied.fetch_add(1, Relaxed);
    }

    /// Forgets copies that no slot waits for any more. True if there were any.
    pub fn keep(&self, wanted: impl Fn(&Task) -> bool) -> bool {
        let mut copies = self.copies();
        let before = copies.len();
        copies.retain(|task, _| wanted(task));
        copies.len() != before
    }

    /// What the driver may rest on. A copy that is not whole is not vouched for.
    pub fn report(&self, views: &Views, store: &Store) -> Report {
        let view = views.load();
        let lost = lost(&view, store);
        let whole = |copy: &Copied| {
            let this = Lost { partition: copy.partition, since: copy.since };
            view.above.is_some_and(|above| copy.since > above) && !lost.contains(&this)
        };
        let copies = self.copies();
        let came = copies.iter().filter(|(_, cursor)| cursor.whole);
        let copied = came.map(|(&(partition, since, source), cursor)| {
            let bytes = cursor.bytes;
            Copied { partition, since, source, fenced: since, bytes }
        });
        Report { fenced: views.fenced(), copied: copied.filter(whole).collect(), lost }
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

/// Whether the engine lost nothing of a partition.
pub fn is_whole(store: &Store, partition: Partition) -> bool {
    !store.lost_ranges().iter().any(|range| overlaps(range, partition))
}

impl Replica {
    /// A piece of this node's copy of a partition for the node that takes it over, from a key on. Says
    /// nothing where that may not be: the slot does not stand so, an older version is not fenced yet,
    /// or the copy is not whole.
    ///
    /// No snapshot is kept between pieces: what was there at the fence is there at every later look,
    /// merged with more, since nothing of a partition that moves is erased. `rate` is how many bytes may go
    /// in a second.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn piece(
        &self,
        (views, me): (&Views, NodeId),
        (partition, since, to): (Partition, u64, NodeId),
        from: Option<Bytes>,
        rate: u64,
    ) -> Result<Option<Piece>, LocalError> {
        if !self.may_give(views, me, partition, Holder { node: to, since }) {
            return Ok(None);
        }
        let (first, end) = keys(partition);
        let from = from.and_then(|bytes| TableKey::from_encoded(bytes).ok()).unwrap_or(first);
        let snapshot = self.store().snapshot();
        let bytes = (rate / PIECES_PER_S).clamp(PIECE_BYTES.0, PIECE_BYTES.1) as usize;
        let scan = self.store().scan(&snapshot, &from, end.as_ref(), PIECE_ENTRIES, bytes);
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

/// The checksum of a piece.
pub fn checksum((entries, next): &Piece) -> u64 {
    piece::checksum(entries.iter().map(|(key, set)| (&key[..], &set[..])), next.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(since: u64) -> Task {
        let source = Holder { node: NodeId::from_bytes([3; 16]), since: 1 };
        (Partition { k: 4, index: 9 }, since, source)
    }

    #[test]
    fn how_far_a_copy_is_survives_a_start() {
        let moving = Moving::new(1 << 20, None);
        moving.came(task(7), Bytes::from_static(b"k"), 10);
        moving.came(task(7), Bytes::from_static(b"m"), 5);
        moving.done(task(8), 3);
        let again = Moving::new(1 << 20, Some(&moving.encode()));
        let half = Cursor { next: Some(Bytes::from_static(b"m")), whole: false, bytes: 15 };
        assert_eq!(again.cursor(&task(7)), half);
        assert!(again.cursor(&task(8)).whole);
        assert_eq!(again.cursor(&task(9)), Cursor::default(), "another tenure begins anew");
        assert!(again.keep(|kept| *kept != task(7)) && !again.keep(|_| true));
        assert_eq!(again.cursor(&task(7)), Cursor::default());
        let broken = Moving::new(1 << 20, Some(b"\xff\xff\xff"));
        assert_eq!(broken.cursor(&task(8)), Cursor::default(), "it is copied again");
    }

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
