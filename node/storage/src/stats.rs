//! Figures of a store: atomics inside, a plain copy outside.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A copy of every counter (since open) and gauge (now). Bytes unless the name says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Gauge: bytes in the active and frozen memtables.
    pub memtable_bytes: u64,
    /// Gauge: frozen memtables waiting for their flush.
    pub immutable_memtables: u64,
    /// Gauge: tables by level, level 0 first.
    pub tables_by_level: Vec<u64>,
    /// Gauge: bytes of all tables.
    pub table_bytes: u64,
    /// Gauge: bytes of the tables by level, level 0 first. All together over those of the largest level
    /// is about the space amplification: what lies above it is superseded or will supersede.
    pub bytes_by_level: Vec<u64>,
    /// Gauge: bytes that would have to leave their levels for all to be within their targets.
    pub compaction_debt_bytes: u64,
    /// Gauge: bytes held by the block cache.
    pub cache_bytes: u64,
    /// Gauge: bytes of log segments on disk.
    pub log_bytes: u64,
    /// Gauge: updates waiting for memory, the log or their key.
    pub waiting_updates: u64,
    /// Gauge: lookups waiting for the disk.
    pub waiting_reads: u64,
    /// Lookups answered by a memtable.
    pub memtable_hits: u64,
    /// Tables probed by lookups (their filter did not exclude the key).
    pub table_reads: u64,
    /// Tables that a Bloom filter excluded.
    pub filter_negatives: u64,
    /// Tables probed in vain after their filter said "maybe".
    pub filter_false_positives: u64,
    /// Blocks of tables read from files (page cache or device) by lookups and at open.
    pub blocks_read: u64,
    /// Filter pages that could not be used; each costs reads, never an answer.
    pub filter_faults: u64,
    /// Gauge: bytes of indexes and filters kept in memory besides the cache.
    pub resident_bytes: u64,
    /// Blocks found in the cache.
    pub cache_hits: u64,
    /// Blocks not found in the cache.
    pub cache_misses: u64,
    /// Lookups that needed a reader of the pool.
    pub pool_reads: u64,
    /// Syncs of the log.
    pub log_syncs: u64,
    /// Batches written to the log.
    pub log_batches: u64,
    /// Bytes written to the log.
    pub log_bytes_written: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Compactions finished.
    pub compactions: u64,
    /// Those of them that only changed the level of tables and wrote nothing.
    pub table_moves: u64,
    /// Times that background work waited for a moment so that foreground work could go first.
    pub background_pauses: u64,
    /// Bytes written to tables by flushes.
    pub flush_bytes_written: u64,
    /// Bytes written to tables by compactions.
    pub compaction_bytes_written: u64,
    /// Updates that had to wait because memory, the log buffer or level 0 was full, or so nearly that
    /// updates are let in by the pace of flushes and merges.
    pub stalls: u64,
    /// Updates refused because too many waited.
    pub refused: u64,
    /// Background jobs that failed and will be tried again.
    pub background_errors: u64,
    /// Gauge: tables in which damage was met and that are not in quarantine yet; they are read as far as
    /// they can be, never merged.
    pub damaged_tables: u64,
    /// Tables put into quarantine since open.
    pub quarantined_tables: u64,
    /// Gauge: key ranges of which data was lost; above 0 means that this replica needs repair.
    pub lost_ranges: u64,
    /// Rounds of the scrub finished.
    pub scrub_rounds: u64,
    /// Bytes read by the scrub.
    pub scrub_bytes: u64,
    /// Damaged places that the scrub found.
    pub scrub_damages: u64,
    /// Gauge: tables that the round of the scrub under way has still to read.
    pub scrub_tables_left: u64,
    /// Gauge: how long, in milliseconds by the ticks, the present write or sync of the log has been
    /// waited for; 0 if there is none. Seconds mean a disk that hangs (rule R9).
    pub log_job_ms: u64,
    /// Records replayed from the log at open.
    pub replayed_records: u64,
    /// Bytes of a torn log tail dropped at open.
    pub torn_bytes_dropped: u64,
}

impl StoreStats {
    /// Bytes written to the log and to tables for each byte of records written to the log, since open:
    /// 1 is the log alone. `None` before anything was written.
    pub fn write_amplification(&self) -> Option<f64> {
        let logged = self.log_bytes_written;
        let all = logged + self.flush_bytes_written + self.compaction_bytes_written;
        (logged > 0).then(|| all as f64 / logged as f64)
    }

    /// Bytes of all tables over those of the largest level: at most so many times the live data, as far
    /// as that level holds every key. `None` while there is no table.
    pub fn space_amplification(&self) -> Option<f64> {
        let largest = self.bytes_by_level.iter().copied().max().filter(|bytes| *bytes > 0)?;
        Some(self.table_bytes as f64 / largest as f64)
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub(crate) fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
