//! Recent changes in memory: looked up by hash, walked in key order, read without a lock.
//!
//! Keys begin with a hash that is spread evenly. The memtable cuts the hashes into as many equal
//! ranges as it will hold handfuls of keys, so that a lookup goes straight to a bucket of a few keys
//! and compares their hashes in one cache line, where a sorted list of all keys would cost a cache
//! miss for each of its levels. The buckets one behind the other are in key order; a walk sorts each
//! as it comes to it. Hashes that are not spread cost speed, never order (see [`bucket`]).
//!
//! Every version is kept until the memtable is flushed, so that a snapshot taken before a change still
//! reads what it saw. Invariants: changes of one key come one after the other, by rising sequence
//! numbers; once frozen, a memtable never changes.

mod arena;
mod bucket;

use crate::key::TableKey;
use arena::Arena;
use bucket::Bucket;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that an entry takes besides its key and value.
const ENTRY_BYTES: usize = 160;
/// One bucket for this many bytes of the memtable's bound: about six keys with small values.
const BUCKET_BYTES: usize = 2_400;
/// More buckets than this would make an empty memtable costly.
const BUCKETS_MAX: usize = 1 << 16;

/// What a lookup in memory finds: the newest change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) sequence: u64,
    /// `None`: erased.
    pub(crate) value: Option<Bytes>,
}

/// A set of changes.
pub(crate) struct Memtable {
    buckets: Box<[Bucket]>,
    arena: Arena,
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

/// What a version adds to [`Memtable::bytes`].
pub(crate) fn entry_bytes(key: &TableKey, value: Option<&Bytes>) -> usize {
    key.as_bytes().len() + value.map_or(0, Bytes::len) + ENTRY_BYTES
}

impl Memtable {
    /// An empty one, laid out for about `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let buckets = (bytes_max / BUCKET_BYTES).clamp(1, BUCKETS_MAX);
        Arc::new(Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            arena: Arena::new(bytes_max),
            bytes: AtomicUsize::new(0),
            first_ms: AtomicU64::new(u64::MAX),
        })
    }

    fn bucket_of(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize
    }

    /// Adds a version. The caller changes no key twice at the same time.
    pub(crate) fn insert(&self, key: &TableKey, sequence: u64, value: Option<&Bytes>, now_ms: u64) {
        let added = entry_bytes(key, value);
        let (hash, bucket) = (key.hash(), self.bucket_of(key.hash()));
        let (key, value) = self.arena.keep(bucket, key.as_bytes(), value);
        self.buckets[bucket].insert(hash, key, Version { sequence, value });
        self.bytes.fetch_add(added, Ordering::Relaxed);
        if now_ms < self.first_ms.load(Ordering::Relaxed) {
            self.first_ms.fetch_min(now_ms, Ordering::Relaxed);
        }
    }

    /// The newest change of a key.
    pub(crate) fn get(&self, key: &TableKey) -> Option<Version> {
        let hash = key.hash();
        self.buckets[self.bucket_of(hash)].newest(hash, key.as_bytes())
    }

    /// Every version from a key on: keys ascending, the newest version of a key first.
    pub(crate) fn versions(self: &Arc<Self>, from: Bytes) -> Walk {
        let mut head = [0; 8];
        let known = from.len().min(8);
        head[..known].copy_from_slice(&from[..known]);
        let next = self.bucket_of(u64::from_be_bytes(head));
        Walk { memtable: self.clone(), next, from, held: Vec::new().into_iter() }
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

/// The versions of a memtable in order, taken over bucket by bucket.
pub(crate) struct Walk {
    memtable: Arc<Memtable>,
    /// The bucket to be taken over next.
    next: usize,
    from: Bytes,
    held: std::vec::IntoIter<(Bytes, Version)>,
}

impl Iterator for Walk {
    type Item = (Bytes, Version);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.held.next() {
                return Some(item);
            }
            let bucket = self.memtable.buckets.get(self.next)?;
            self.next += 1;
            self.held = bucket.versions(&self.from).into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    fn key(number: u8) -> TableKey {
        // Hashes of all sizes, some keys of the same hash.
        TableKey::new(u64::from(number / 2) << 61, b"b", &[number])
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_history(
            ops in prop::collection::vec((0..8u8, prop::option::of(any::<u8>())), 0..400), buckets in 0..9usize,
        ) {
            let (memtable, mut model) = (Memtable::new(buckets * BUCKET_BYTES), BTreeMap::new());
            for (at, (number, value)) in ops.iter().enumerate() {
                let value = value.map(|byte| Bytes::from(vec![byte]));
                memtable.insert(&key(*number), at as u64 + 1, value.as_ref(), 5);
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
    fn keys_of_one_hash_are_found_and_sorted_however_many() {
        let memtable = Memtable::new(1 << 20);
        let key = |number: u32| TableKey::new(7, b"b", &number.wrapping_mul(77_777).to_be_bytes());
        for round in 0..3 {
            for number in 0..2_000 {
                memtable.insert(&key(number), u64::from(round * 2_000 + number + 1), None, 0);
            }
        }
        for number in 0..2_000 {
            let newest = memtable.get(&key(number)).map(|version| version.sequence);
            assert_eq!(newest, Some(u64::from(4_000 + number + 1)));
        }
        assert_eq!(memtable.get(&key(2_000)), None);
        let all: Vec<_> =
            memtable.versions(Bytes::new()).map(|(k, v)| (k, Reverse(v.sequence))).collect();
        assert!(all.len() == 6_000 && all.is_sorted());
    }

    #[test]
    fn a_key_changed_very_often_is_dropped_without_recursion() {
        let memtable = Memtable::new(1 << 20);
        for sequence in 1..300_000 {
            memtable.insert(&key(1), sequence, None, 0);
        }
        assert_eq!(memtable.get(&key(1)).map(|version| version.sequence), Some(299_999));
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
