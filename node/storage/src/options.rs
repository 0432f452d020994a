//! What a store is told at open. Plain data; [`StoreOptions::check`] refuses contradictions.

use crate::error::OpenError;
use crate::table::Compression;
use std::path::PathBuf;

/// Levels that a store may have, level 0 included.
pub const LEVELS: usize = 7;
/// Window of a scan or merge over one table.
pub(crate) const READ_AHEAD_BYTES: usize = 256 << 10;

/// Options of one store. Sizes in bytes, times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The data directory; created if missing.
    pub dir: PathBuf,
    /// A memtable of this size is frozen and flushed.
    pub memtable_bytes: usize,
    /// Frozen memtables that may wait for their flush; beyond that, and with the active one full,
    /// updates wait.
    pub immutable_memtables_max: usize,
    /// A memtable whose first write is this old is flushed whatever its size.
    pub flush_age_ms: u64,
    /// A log segment of this size is closed and the next one begun.
    pub log_segment_bytes: u64,
    /// Bytes applied but not yet written to the log; beyond that, updates wait.
    pub log_buffer_bytes: usize,
    /// How often writes at `periodic` are synced.
    pub periodic_sync_ms: u64,
    /// Hard bound of the block cache.
    pub cache_bytes: usize,
    /// Indexes and filters kept in memory besides the cache; what does not fit goes through it.
    pub resident_bytes: usize,
    /// Target size of a table block.
    pub block_bytes: usize,
    /// How data blocks are written from now on; every form is read.
    pub compression: Compression,
    /// Target size of a table below level 0.
    pub table_bytes: u64,
    /// Bits of Bloom filter for each key below level 0 (16 give about 0.13 % false positives); tables
    /// of level 0 get 8 more.
    pub filter_bits_per_key: u32,
    /// Tables in level 0 at which they are merged down.
    pub level0_tables: usize,
    /// Tables in level 0 at which updates wait for compaction.
    pub level0_stop: usize,
    /// Bytes of level 1; each further level holds `level_ratio` times as many.
    pub level1_bytes: u64,
    /// Growth from one level to the next.
    pub level_ratio: u64,
    /// How often everything is read again to find rot; 0: never.
    pub scrub_interval_ms: u64,
    /// About how many bytes that reads in a second.
    pub scrub_bytes_per_s: u64,
    /// Updates that may wait (for memory, for the log, behind others of their key) before
    /// further ones are refused.
    pub waiting_updates_max: usize,
    /// Lookups that may wait for the disk before further ones are refused.
    pub waiting_reads_max: usize,
}

impl StoreOptions {
    /// Defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            memtable_bytes: 32 << 20,
            immutable_memtables_max: 2,
            flush_age_ms: 300_000,
            log_segment_bytes: 32 << 20,
            log_buffer_bytes: 8 << 20,
            periodic_sync_ms: 1_000,
            cache_bytes: 64 << 20,
            resident_bytes: 32 << 20,
            block_bytes: 4 << 10,
            compression: Compression::Lz4,
            table_bytes: 32 << 20,
            filter_bits_per_key: 16,
            level0_tables: 4,
            level0_stop: 16,
            level1_bytes: 128 << 20,
            level_ratio: 10,
            scrub_interval_ms: 7 * 24 * 3_600_000,
            scrub_bytes_per_s: 16 << 20,
            waiting_updates_max: 4_096,
            waiting_reads_max: 4_096,
        }
    }

    /// A bound on the memory that the engine holds, which these options set: the block cache, resident
    /// indexes and filters, the active and the frozen memtables (the last may pass its size by the
    /// updates under way), the log buffer twice (one is filled while the other is written), what reads
    /// in the pool and a running merge hold. Not in it: answers that callers keep (a value shares the
    /// block it lies in), the top index of each table (about 20 bytes for 2 MiB of data), eight bytes
    /// for each key of a table being written, and what the allocator adds.
    pub fn memory_bytes(&self, readers: usize) -> u64 {
        let memtables = self.memtable_bytes as u64 * (self.immutable_memtables_max as u64 + 1);
        // A window for each table of level 0 and each further level, for every reader and one merge.
        let runs = (self.level0_stop + LEVELS) as u64;
        let windows = runs * READ_AHEAD_BYTES as u64 * (readers as u64 + 1);
        let log = self.log_buffer_bytes as u64 * 2;
        self.cache_bytes as u64 + self.resident_bytes as u64 + memtables + log + windows
    }

    /// Refuses options that cannot work, naming the first.
    pub fn check(&self) -> Result<(), OpenError> {
        let wrong = [
            (self.memtable_bytes == 0, "memtable_bytes must be above 0"),
            (self.immutable_memtables_max == 0, "immutable_memtables_max must be above 0"),
            (self.log_segment_bytes == 0, "log_segment_bytes must be above 0"),
            (self.log_segment_bytes > 1 << 30, "log_segment_bytes must be at most 1 GiB"),
            (self.log_buffer_bytes == 0, "log_buffer_bytes must be above 0"),
            (self.block_bytes == 0, "block_bytes must be above 0"),
            (self.table_bytes == 0, "table_bytes must be above 0"),
            (self.level0_tables == 0, "level0_tables must be above 0"),
            (
                self.level0_stop <= self.level0_tables,
                "level0_stop must be above level0_tables, else writes wait for a merge that never starts",
            ),
            (self.level_ratio < 2, "level_ratio must be at least 2"),
            (
                self.scrub_interval_ms > 0 && self.scrub_bytes_per_s == 0,
                "scrub_bytes_per_s must be above 0, else a scrub never ends",
            ),
            (self.waiting_reads_max == 0, "waiting_reads_max must be above 0"),
        ];
        match wrong.iter().find(|(bad, _)| *bad) {
            Some((_, why)) => Err(OpenError::Options((*why).to_string())),
            None => Ok(()),
        }
    }
}
