//! What all parts of an open store share.
//!
//! Locks, outermost first: `edit` (manifest on disk; only background lanes take it, it is held over
//! disk calls) > a stripe of `turns` (held over an update that is answered from memory) > `gate` >
//! `swap` > the short locks inside `log`, `stalled` and `flushing`.
//! The gate is held shared by every apply (log append, memtable insert, observer) and exclusively
//! to freeze or to take a snapshot: so log position, memtable and observer agree at every cut.

use super::flush::Flushing;
use super::ranges::Ranges;
use super::recovery::Recovery;
use super::scrub::Scrubbing;
use super::turns::Turns;
use super::update::Work;
use crate::compaction::choose::{Limits, debt};
use crate::disk::{DirLock, Disk};
use crate::error::WriteError;
use crate::guard::lock;
use crate::health::Health;
use crate::key::TableKey;
use crate::levels::{Levels, Tables};
use crate::log::Log;
use crate::maintenance::{Lane, Maintenance};
use crate::manifest::Manifest;
use crate::memtable::{Frozen, Memtable};
use crate::observer::Observer;
use crate::options::StoreOptions;
use crate::stats::{Count, StoreStats};
use crate::table::TableId;
use arc_swap::ArcSwap;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

/// Everything a read looks at: one consistent set.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) active: Arc<Memtable>,
    /// Oldest first.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    pub(crate) levels: Arc<Levels>,
    pub(crate) ranges: Arc<Ranges>,
}

/// The inside of a store.
pub(crate) struct Engine {
    pub(crate) options: StoreOptions,
    pub(crate) tables_dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) maintenance: Arc<dyn Maintenance>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) health: Arc<Health>,
    pub(crate) tables: Tables,
    pub(crate) log: Arc<Log>,
    pub(crate) turns: Arc<Turns<Work>>,
    pub(crate) stalled: Mutex<VecDeque<(TableKey, Work)>>,
    /// Length of `stalled`, for those who only ask whether there is any.
    pub(crate) stalled_now: AtomicUsize,
    /// Updates are let in by the work of the background (see `slow_down`).
    pub(crate) slowed: AtomicBool,
    /// Bytes that may still be let in then.
    pub(crate) credit: AtomicI64,
    pub(crate) gate: RwLock<()>,
    pub(crate) state: ArcSwap<State>,
    pub(crate) swap: Mutex<()>,
    pub(crate) edit: Mutex<Manifest>,
    pub(crate) next_file: AtomicU64,
    pub(crate) flushing: Mutex<Flushing>,
    pub(crate) compacting: AtomicBool,
    /// The levels changed since it was last asked whether anything is to be merged.
    pub(crate) merge_check_due: AtomicBool,
    /// Tables in which damage was met: they are left alone (rule R7) until they are in quarantine.
    pub(crate) damaged: Mutex<BTreeSet<TableId>>,
    /// When a quarantine that did not succeed is tried again.
    pub(crate) quarantine_at_ms: AtomicU64,
    pub(crate) scrubbing: Mutex<Scrubbing>,
    /// Not before this time, after a compaction that failed.
    pub(crate) compact_after_ms: AtomicU64,
    pub(crate) now_ms: AtomicU64,
    /// Time of the first tick, `u64::MAX` before it.
    pub(crate) start_ms: AtomicU64,
    pub(crate) synced_ms: AtomicU64,
    pub(crate) dir_lock: Mutex<Option<Arc<dyn DirLock>>>,
    pub(crate) recovery: Recovery,
    pub(crate) figures: Figures,
}

/// Counters of the parts that have none of their own.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) memtable_hits: Count,
    pub(crate) pool_reads: Count,
    pub(crate) waiting_reads: Count,
    pub(crate) flushes: Count,
    pub(crate) compactions: Count,
    pub(crate) table_moves: Count,
    pub(crate) background_pauses: Count,
    pub(crate) flush_bytes: Count,
    pub(crate) compaction_bytes: Count,
    pub(crate) stalls: Count,
    pub(crate) refused: Count,
    pub(crate) background_errors: Count,
    pub(crate) quarantined: Count,
    pub(crate) scrub_rounds: Count,
    pub(crate) scrub_bytes: Count,
    pub(crate) scrub_damages: Count,
}

impl Engine {
    /// Changes the set that reads look at.
    pub(crate) fn change_state(&self, change: impl FnOnce(&mut State)) {
        let _swap = lock(&self.swap);
        let mut next = State::clone(&self.state.load());
        change(&mut next);
        self.state.store(Arc::new(next));
    }

    /// The directory, for as long as the value lives; `None` once the store was closed: then it may belong
    /// to another, and nothing may be written into it.
    pub(super) fn owned(&self) -> Option<Arc<dyn DirLock>> {
        lock(&self.dir_lock).clone()
    }

    /// Queues a job that needs the engine.
    pub(crate) fn submit(
        self: &Arc<Self>,
        lane: Lane,
        job: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        let engine = self.clone();
        self.maintenance.submit(lane, Box::new(move || job(&engine)));
    }

    /// Queues a job without which the store cannot go on: if it panics, the store has failed.
    pub(crate) fn submit_vital(
        self: &Arc<Self>,
        lane: Lane,
        job: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        self.submit(lane, move |engine| {
            let watch = PanicWatch { health: &engine.health, what: "a background job" };
            job(engine);
            drop(watch);
            engine.settle_failure();
        });
    }

    /// After a failure for good: nobody waits for what will not happen.
    pub(crate) fn settle_failure(self: &Arc<Self>) {
        let Some(reason) = self.health.failed() else { return };
        self.log.abandon(Some(reason.clone()));
        let waiters = lock(&self.flushing).take_waiters();
        for waiter in waiters {
            waiter(self, Err(WriteError::Failed(reason.clone())));
        }
        self.admit_stalled();
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let state = self.state.load();
        let memory = |frozen: &Arc<Frozen>| frozen.memtable.bytes();
        let (cache, tables) =
            (self.tables.context().cache.stats(), self.tables.context().counters.stats());
        let waiting = self.turns.waiting() + lock(&self.stalled).len() as u64;
        StoreStats {
            memtable_bytes: (state.active.bytes() + state.frozen.iter().map(memory).sum::<usize>())
                as u64,
            immutable_memtables: state.frozen.len() as u64,
            tables_by_level: state.levels.counts(),
            table_bytes: state.levels.bytes(),
            bytes_by_level: state.levels.sizes(),
            compaction_debt_bytes: debt(&state.levels.metas(), &Limits::from(&self.options)),
            cache_bytes: cache.bytes,
            log_bytes: self.log.figures.bytes_on_disk.get(),
            waiting_updates: waiting,
            waiting_reads: self.figures.waiting_reads.get(),
            memtable_hits: self.figures.memtable_hits.get(),
            table_reads: tables.found + tables.filter_false_positives,
            filter_negatives: tables.filter_negatives,
            filter_false_positives: tables.filter_false_positives,
            blocks_read: tables.blocks_read,
            filter_faults: tables.filter_faults,
            resident_bytes: self.tables.context().resident.used(),
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            pool_reads: self.figures.pool_reads.get(),
            log_syncs: self.log.figures.syncs.get(),
            log_batches: self.log.figures.batches.get(),
            log_bytes_written: self.log.figures.bytes_written.get(),
            flushes: self.figures.flushes.get(),
            compactions: self.figures.compactions.get(),
            table_moves: self.figures.table_moves.get(),
            background_pauses: self.figures.background_pauses.get(),
            flush_bytes_written: self.figures.flush_bytes.get(),
            compaction_bytes_written: self.figures.compaction_bytes.get(),
            stalls: self.figures.stalls.get(),
            refused: self.figures.refused.get(),
            background_errors: self.figures.background_errors.get(),
            damaged_tables: lock(&self.damaged).len() as u64,
            quarantined_tables: self.figures.quarantined.get(),
            lost_ranges: state.ranges.lost().len() as u64,
            scrub_rounds: self.figures.scrub_rounds.get(),
            scrub_bytes: self.figures.scrub_bytes.get(),
            scrub_damages: self.figures.scrub_damages.get(),
            scrub_tables_left: self.scrub_left(),
            log_job_ms: self.log.job_ms(),
            replayed_records: self.recovery.replayed_records,
            torn_bytes_dropped: self.recovery.torn_bytes,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nobody is left to write; tickets of the log may be.
        self.log.abandon(None);
    }
}

/// Dropped by a panic it ends the store: what it watches over was left half done.
pub(crate) struct PanicWatch<'a> {
    pub(crate) health: &'a Health,
    pub(crate) what: &'static str,
}

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(format!("{} panicked", self.what));
        }
    }
}
