//! What a lookup asks and answers, and what all tables of a store share.

use super::block::head_of;
use super::filter;
use super::index::ResidentBudget;
use crate::cache::BlockCache;
use crate::striped::Striped;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whether a lookup may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Answer from memory or the page cache, or say that the disk is needed.
    CachedOnly,
    /// Read what is needed.
    Blocking,
}

/// Which part of the table said that a key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The key lies outside the table's key range.
    Range,
    /// The Bloom filter excludes it.
    Filter,
    /// The index names no block that could hold it.
    Index,
    /// The block that would hold it does not: a false positive of the filter.
    Block,
}

/// Answer of a lookup in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The table holds no entry under this key.
    Absent(Absence),
    /// The newest entry under this key.
    Found {
        /// Its sequence number.
        seq: u64,
        /// Its value; `None` is an erase mark. Shares memory with the block that it lies in.
        value: Option<Bytes>,
    },
    /// Only the disk knows; ask again with [`ReadMode::Blocking`] where waiting is allowed.
    NeedsDisk,
}

/// A key prepared for lookups in several tables: its filter hash is computed once.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    pub(super) key: &'a [u8],
    pub(super) hash: u64,
    pub(super) head: u64,
}

impl<'a> Probe<'a> {
    /// Prepares an encoded key.
    pub fn new(key: &'a [u8]) -> Self {
        Probe { key, hash: filter::filter_hash(key), head: head_of(key) }
    }
}

/// Counters of all tables of a store. Striped: lookups of several threads do not share a cache line.
#[derive(Debug, Default)]
pub struct TableCounters {
    stripes: Striped<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    found: AtomicU64,
    filter_negatives: AtomicU64,
    filter_false_positives: AtomicU64,
    needs_disk: AtomicU64,
    blocks_read: AtomicU64,
    bytes_read: AtomicU64,
    filter_faults: AtomicU64,
    damaged_blocks: AtomicU64,
}

/// A copy of [`TableCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Lookups in a table whose key range holds the key, those that needed the disk not counted.
    pub lookups: u64,
    /// Lookups that found an entry.
    pub found: u64,
    /// Lookups that the Bloom filter ended.
    pub filter_negatives: u64,
    /// Lookups that passed the filter and found nothing.
    pub filter_false_positives: u64,
    /// Lookups that were not allowed to read what they needed.
    pub needs_disk: u64,
    /// Blocks of any kind read from a file by lookups and at open (page cache or device).
    pub blocks_read: u64,
    /// Bytes of those blocks.
    pub bytes_read: u64,
    /// Filter pages that could not be used.
    pub filter_faults: u64,
    /// Data or index blocks that were refused.
    pub damaged_blocks: u64,
}

impl TableCounters {
    /// The numbers now.
    pub fn stats(&self) -> TableStats {
        let sum = |pick: fn(&Counts) -> &AtomicU64| self.stripes.sum(pick);
        let found = sum(|counts| &counts.found);
        let filter_negatives = sum(|counts| &counts.filter_negatives);
        let filter_false_positives = sum(|counts| &counts.filter_false_positives);
        TableStats {
            lookups: found + filter_negatives + filter_false_positives,
            found,
            filter_negatives,
            filter_false_positives,
            needs_disk: sum(|counts| &counts.needs_disk),
            blocks_read: sum(|counts| &counts.blocks_read),
            bytes_read: sum(|counts| &counts.bytes_read),
            filter_faults: sum(|counts| &counts.filter_faults),
            damaged_blocks: sum(|counts| &counts.damaged_blocks),
        }
    }

    pub(super) fn count_read(&self, bytes: usize) {
        let counts = self.stripes.mine();
        counts.blocks_read.fetch_add(1, Relaxed);
        counts.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_filter_fault(&self) {
        self.stripes.mine().filter_faults.fetch_add(1, Relaxed);
    }

    pub(super) fn count_damage(&self) {
        self.stripes.mine().damaged_blocks.fetch_add(1, Relaxed);
    }

    /// Counts lookups that the filters ended.
    pub(crate) fn count_filtered(&self, lookups: u64) {
        self.stripes.mine().filter_negatives.fetch_add(lookups, Relaxed);
    }

    /// Counts an answer.
    pub(super) fn judge(&self, answer: &Lookup) {
        let counts = self.stripes.mine();
        let counter = match answer {
            Lookup::Absent(Absence::Range) => return,
            Lookup::Absent(Absence::Filter) => &counts.filter_negatives,
            Lookup::Absent(_) => &counts.filter_false_positives,
            Lookup::Found { .. } => &counts.found,
            Lookup::NeedsDisk => &counts.needs_disk,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// What all tables of a store share.
#[derive(Clone)]
pub struct TableContext {
    /// Blocks in memory.
    pub cache: Arc<BlockCache>,
    /// Memory for resident indexes and filters.
    pub resident: Arc<ResidentBudget>,
    /// Counters.
    pub counters: Arc<TableCounters>,
}

impl TableContext {
    /// A cache of `cache_bytes` and `resident_bytes` for indexes and filters.
    pub fn new(cache_bytes: u64, resident_bytes: u64) -> Self {
        TableContext {
            cache: BlockCache::new(cache_bytes),
            resident: ResidentBudget::new(resident_bytes),
            counters: Arc::default(),
        }
    }
}
