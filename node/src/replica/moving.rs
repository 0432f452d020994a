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
use kvasir_core::ring::driver::{Copied, Report};
use kvasir_core::ring::moves::{Condition, Holder, LocalCopy, Place};
use kvasir_core::ring::{Document, Partition};
use kvasir_core::version::Record;
use kvasir_storage::TableKey;

use super::local::{LocalError, Replica};
use super::view::Views;

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

    /// What the driver may rest on.
    pub fn report(&self, views: &Views) -> Report {
        let copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = copied.values().copied().collect();
        Report { fenced: views.fenced(), copied }
    }
}

/// The copies that a node is to take over by this document.
pub fn tasks(document: &Document, me: NodeId) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (index, entry) in (0..).zip(&document.table) {
        let Some((_, slot)) = entry.moving() else { continue };
        let partition = Partition { k: document.partition_bits, index };
        let Some(to) = slot.place().coming().filter(|to| to.node == me) else { continue };
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
        let (first, last) = partition.range();
        let end = last.checked_add(1).map(TableKey::first_of);
        let from = from.and_then(|bytes| TableKey::from_encoded(bytes).ok());
        let from = from.unwrap_or_else(|| TableKey::first_of(first));
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
        let Some(formed) = view.formed.as_ref().filter(|_| view.retired.is_none()) else {
            return false;
        };
        let Some(entry) = formed.ring.document().entry(partition) else { return false };
        let Some((_, slot)) = entry.moving() else { return false };
        let place = slot.place();
        let Some(since) = entry.tenure(me) else { return false };
        let condition = match self.store().lost_ranges().is_empty() {
            true => Condition::Whole,
            false => Condition::Incomplete,
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
