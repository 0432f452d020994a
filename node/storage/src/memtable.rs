//! Recent changes in memory, sorted, read without a lock.
//!
//! Every version is kept until the memtable is flushed, so that a snapshot taken before a change still
//! reads what it saw. Keys begin with a hash that is spread evenly, so the memtable is cut into ranges of
//! equal width by hash, each with a skip list of its own: a search descends a list of a few hundred
//! entries instead of one of all, and the ranges one behind the other are still in key order. Hashes
//! that are not spread cost speed, never order. A list is ordered by (hash, key, sequence descending);
//! the hash stands in the node, so that comparing two keys rarely follows a pointer.
//!
//! Invariant: once frozen, a memtable never changes.

use crate::key::TableKey;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that an entry takes besides its key and value.
const ENTRY_BYTES: usize = 128;
/// A range for this many bytes of the memtable's bound.
const RANGE_BYTES: usize = 32 << 10;
/// An empty list takes half a kilobyte: more ranges than this cost more than they bring.
const RANGES_MAX: usize = 4_096;
/// Versions that a walk takes over at a time.
const WALK_ENTRIES: usize = 128;

/// A key and the version of it. The order of the fields is the order of the entries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    hash: u64,
    key: Bytes,
    sequence: Reverse<u64>,
}

/// What a lookup in memory finds: the newest change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) sequence: u64,
    /// `None`: erased.
    pub(crate) value: Option<Bytes>,
}

type Range = SkipMap<Slot, Option<Bytes>>;

/// A sorted set of changes.
pub(crate) struct Memtable {
    ranges: Box<[Range]>,
    bytes: AtomicUsize,
    /// Time of the first change, `u64::MAX` before it.
    first_ms: AtomicU64,
}

/// A memtable that takes no more changes, and the cut of the log that it ends at.
pub(crate) struct Frozen {
    pub(crate) memtable: Arc<Memtable>,
    /// Every change up to this one is in this memtable, an older one or a table.
    pub(crate) last: u64,
    /// The observer's state at that cut.
    pub(crate) checkpoint: Vec<u8>,
}

impl Slot {
    /// In front of every version of a key, or of any bytes that keys are compared with.
    fn before(key: Bytes) -> Self {
        let mut head = [0; 8];
        let known = key.len().min(8);
        head[..known].copy_from_slice(&key[..known]);
        Self { hash: u64::from_be_bytes(head), key, sequence: Reverse(u64::MAX) }
    }
}

impl Memtable {
    /// An empty one, laid out for about `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let ranges = (bytes_max / RANGE_BYTES).clamp(1, RANGES_MAX);
        Arc::new(Self {
            ranges: (0..ranges).map(|_| SkipMap::new()).collect(),
            bytes: AtomicUsize::new(0),
            first_ms: AtomicU64::new(u64::MAX),
        })
    }

    fn range_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.ranges.len() as u128) >> 64) as usize
    }

    pub(crate) fn insert(&self, key: &TableKey, sequence: u64, value: Option<Bytes>, now_ms: u64) {
        let added = key.as_bytes().len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
        let (hash, key) = (key.hash(), key.encoded().clone());
        let slot = Slot { hash, key, sequence: Reverse(sequence) };
        self.ranges[self.range_of(hash)].insert(slot, value);
        self.bytes.fetch_add(added, Ordering::Relaxed);
        if now_ms < self.first_ms.load(Ordering::Relaxed) {
            self.first_ms.fetch_min(now_ms, Ordering::Relaxed);
        }
    }

    /// The newest change of a key.
    pub(crate) fn get(&self, key: &TableKey) -> Option<Version> {
        let from = Slot::before(key.encoded().clone());
        let range = &self.ranges[self.range_of(from.hash)];
        let entry = range.lower_bound(Bound::Included(&from))?;
        let (found, value) = (entry.key(), entry.value());
        let same = found.hash == from.hash && found.key == from.key;
        same.then(|| Version { sequence: found.sequence.0, value: value.clone() })
    }

    /// Every version from a key on: keys ascending, the newest version of a key first.
    pub(crate) fn versions(self: &Arc<Self>, from: Bytes) -> Walk {
        let from = Slot::before(from);
        let range = self.range_of(from.hash);
        let next = Bound::Included(from);
        Walk { memtable: self.clone(), range, next, held: Vec::new().into_iter() }
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// How long its first change has been there, counted from `start_ms` at the earliest (before
    /// that nobody told the time); 0 if there is none.
    pub(crate) fn age_ms(&self, now_ms: u64, start_ms: u64) -> u64 {
        match self.first_ms.load(Ordering::Relaxed) {
            u64::MAX => 0,
            first => now_ms.saturating_sub(first.max(start_ms)),
        }
    }
}

/// The versions of a memtable in order, taken over a few at a time.
pub(crate) struct Walk {
    memtable: Arc<Memtable>,
    range: usize,
    next: Bound<Slot>,
    held: std::vec::IntoIter<(Bytes, Version)>,
}

impl Walk {
    /// Takes over the next versions of the present range, or goes on to the next one.
    fn refill(&mut self, range: &Range) {
        let mut held = Vec::new();
        let next = std::mem::replace(&mut self.next, Bound::Unbounded);
        for entry in range.range((next, Bound::Unbounded)).take(WALK_ENTRIES) {
            let (slot, value) = (entry.key(), entry.value());
            held.push((
                slot.key.clone(),
                Version { sequence: slot.sequence.0, value: value.clone() },
            ));
            if held.len() == WALK_ENTRIES {
                self.next = Bound::Excluded(slot.clone());
            }
        }
        self.range += usize::from(held.len() < WALK_ENTRIES);
        self.held = held.into_iter();
    }
}

impl Iterator for Walk {
    type Item = (Bytes, Version);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.held.next() {
                return Some(item);
            }
            let memtable = self.memtable.clone();
            self.refill(memtable.ranges.get(self.range)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u8) -> TableKey {
        // Hashes of all sizes, some keys of the same hash.
        TableKey::new(u64::from(number / 2) << 61, b"b", &[number])
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_history(
            ops in prop::collection::vec((0..8u8, prop::option::of(any::<u8>())), 0..400), ranges in 0..9usize,
        ) {
            let (memtable, mut model) = (Memtable::new(ranges * RANGE_BYTES), BTreeMap::new());
            for (at, (number, value)) in ops.iter().enumerate() {
                let value = value.map(|byte| Bytes::from(vec![byte]));
                memtable.insert(&key(*number), at as u64 + 1, value.clone(), 5);
                model.insert(*number, Version { sequence: at as u64 + 1, value });
            }
            for number in 0..8 {
                prop_assert_eq!(memtable.get(&key(number)), model.get(&number).cloned());
            }
            let all: Vec<_> = memtable.versions(Bytes::new()).map(|(k, v)| (k, Reverse(v.sequence))).collect();
            prop_assert_eq!(all.len(), ops.len());
            prop_assert!(all.is_sorted());
            for number in 0..8 {
                let from = key(number).encoded().clone();
                let behind = all.iter().filter(|(k, _)| *k >= from).count();
                prop_assert_eq!(memtable.versions(from).count(), behind);
            }
            prop_assert_eq!(memtable.age_ms(9, 0), if ops.is_empty() { 0 } else { 4 });
            prop_assert_eq!(memtable.age_ms(9, 7), if ops.is_empty() { 0 } else { 2 });
        }
    }

    #[test]
    fn readers_and_writers_do_not_block_each_other() {
        let memtable = Memtable::new(1 << 20);
        std::thread::scope(|scope| {
            for writer in 0..2u64 {
                let memtable = &memtable;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        memtable.insert(&key(writer as u8), round * 2 + writer, None, 0);
                    }
                });
            }
            let mut last = 0;
            while last < 3_000 {
                let now = memtable.get(&key(0)).map_or(0, |version| version.sequence);
                assert!(now >= last);
                last = now;
            }
        });
        assert_eq!(memtable.versions(Bytes::new()).count(), 4_000);
    }
}
