//! Recent changes in memory, sorted, read without a lock.
//!
//! A skip list over (key, sequence descending): every version is kept until the memtable is
//! flushed, so that a snapshot taken before a change still reads what it saw. Invariant: once
//! frozen, a memtable never changes.

use crate::key::TableKey;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use std::cmp::Reverse;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that an entry takes besides its key and value.
const ENTRY_BYTES: usize = 96;

/// A key and the version of it.
type Slot = (Bytes, Reverse<u64>);

/// What a lookup in memory finds: the newest change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) sequence: u64,
    /// `None`: erased.
    pub(crate) value: Option<Bytes>,
}

/// A sorted set of changes.
pub(crate) struct Memtable {
    map: SkipMap<Slot, Option<Bytes>>,
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

impl Memtable {
    pub(crate) fn new() -> Arc<Self> {
        let (bytes, first_ms) = (AtomicUsize::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Self { map: SkipMap::new(), bytes, first_ms })
    }

    pub(crate) fn insert(&self, key: &TableKey, sequence: u64, value: Option<Bytes>, now_ms: u64) {
        let added = key.as_bytes().len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
        self.map.insert((key.encoded().clone(), Reverse(sequence)), value);
        self.bytes.fetch_add(added, Ordering::Relaxed);
        self.first_ms.fetch_min(now_ms, Ordering::Relaxed);
    }

    /// The newest change of a key.
    pub(crate) fn get(&self, key: &TableKey) -> Option<Version> {
        let from = (key.encoded().clone(), Reverse(u64::MAX));
        let entry = self.map.lower_bound(Bound::Included(&from))?;
        let ((found, Reverse(sequence)), value) = (entry.key(), entry.value());
        (found == key.encoded()).then(|| Version { sequence: *sequence, value: value.clone() })
    }

    /// Every version from a key on: keys ascending, the newest version of a key first.
    pub(crate) fn versions(
        self: &Arc<Self>,
        from: Bytes,
    ) -> impl Iterator<Item = (Bytes, Version)> + Send + use<> {
        let (memtable, mut next) = (self.clone(), Bound::Included((from, Reverse(u64::MAX))));
        std::iter::from_fn(move || {
            let entry = memtable.map.lower_bound(next.as_ref())?;
            let ((key, Reverse(sequence)), value) = (entry.key(), entry.value());
            next = Bound::Excluded(entry.key().clone());
            Some((key.clone(), Version { sequence: *sequence, value: value.clone() }))
        })
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u8) -> TableKey {
        TableKey::new(u64::from(number), b"b", b"k")
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_history(ops in prop::collection::vec((0..8u8, prop::option::of(any::<u8>())), 0..60)) {
            let (memtable, mut model) = (Memtable::new(), BTreeMap::new());
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
            prop_assert_eq!(memtable.age_ms(9, 0), if ops.is_empty() { 0 } else { 4 });
            prop_assert_eq!(memtable.age_ms(9, 7), if ops.is_empty() { 0 } else { 2 });
        }
    }

    #[test]
    fn readers_and_writers_do_not_block_each_other() {
        let memtable = Memtable::new();
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
