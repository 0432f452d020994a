//! The public face of the engine: open, get, update, scan, flush, close.
//!
//! A change takes this way: its key's turn (`turns`), the old value from memory or through a reader
//! (`read`), the caller's closure, the log buffer, the memtable, the observer (`update`); later the
//! sync (`log`), the flush (`flush`) and compaction (`compaction`). Nothing here waits for the disk
//! on the caller's thread, except a thread that blocks on a ticket of the log: it writes the log itself.

mod background;
mod checkpoint;
mod compact;
mod engine;
mod flush;
mod quarantine;
mod ranges;
mod read;
pub(crate) mod recovery;
mod salvage;
mod scrub;
mod slow_down;
mod turns;
mod update;

#[cfg(test)]
mod tests;

pub use crate::durability::Durability;
pub use checkpoint::Checkpoint;
use engine::Engine;
pub use quarantine::LostRange;
pub use read::{Chunk, Snapshot};
pub use recovery::Recovery;
pub use salvage::{Salvaged, salvage};
pub use update::{Applied, Change};

use crate::disk::Disk;
use crate::error::{IoFailure, OpenError, ReadError, WriteError};
use crate::key::TableKey;
use crate::maintenance::Maintenance;
use crate::observer::Observer;
use crate::options::StoreOptions;
use crate::stats::StoreStats;
use crate::ticket::Ticket;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// An open store. Dropping it without [`Store::close`] is safe: the next open replays the log.
pub struct Store {
    engine: Arc<Engine>,
}

impl Store {
    /// Opens or creates the store of a directory: takes its lock, removes what an unfinished run
    /// left behind, loads the manifest and replays the log. Blocks on the disk; safe to repeat.
    pub fn open(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        maintenance: Arc<dyn Maintenance>,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Store>, OpenError> {
        let engine = recovery::open(options, disk, maintenance, observer, None)?;
        engine.work_if_due();
        Ok(Arc::new(Store { engine }))
    }

    /// What the open found and did.
    pub fn recovery(&self) -> &Recovery {
        &self.engine.recovery
    }

    /// The value of a key. Ready at once when memory, the cache or the page cache knows; otherwise
    /// a reader answers.
    pub fn get(&self, key: &TableKey) -> Ticket<Result<Option<Bytes>, ReadError>> {
        self.engine.get(key)
    }

    /// Reads the key, calls `f` with what is stored, and applies the change it returns. Updates of
    /// one key run one after the other, each seeing the result of the one before; `f` runs on the
    /// calling thread or on one of the store's, must not block and must not call the store. The
    /// bytes of a small [`Change::Put`] are copied; those of a large one are held until they are flushed:
    /// give them memory of their own, not a slice of a larger buffer.
    pub fn update<T, F>(
        &self,
        key: &TableKey,
        durability: Durability,
        f: F,
    ) -> Ticket<Result<Applied<T>, WriteError>>
    where
        T: Send + 'static,
        F: FnOnce(Option<&[u8]>) -> (Change, T) + Send + 'static,
    {
        self.engine.update(key, durability, f)
    }

    /// Stores a value whatever was there. Unless the observer looks at old values nothing is looked up,
    /// which is most of what changing a stored key costs; so a key in a lost range can be given a value
    /// again. In the order of the key's updates, and durable, like any of them.
    pub fn put(
        &self,
        key: &TableKey,
        value: Bytes,
        durability: Durability,
    ) -> Ticket<Result<Applied<()>, WriteError>> {
        self.engine.put(key, value, durability)
    }

    /// Erases the key if exactly `expected` is stored, judged in the key's turn; [`Applied::out`] says
    /// whether it did. The erasure is logged as any other: it survives a crash once its ticket says
    /// so, and its mark goes when no older version can lie below. Erases nothing if something else
    /// or nothing is stored; the ticket then waits for what was found.
    pub fn erase_if_equal(
        &self,
        key: &TableKey,
        expected: Bytes,
        durability: Durability,
    ) -> Ticket<Result<Applied<bool>, WriteError>> {
        self.engine.update(key, durability, move |stored| match stored == Some(&*expected) {
            true => (Change::Erase, true),
            false => (Change::Keep, false),
        })
    }

    /// Drops every key from `from` up to and not including `to` (`None`: to the end): all changes so
    /// far, none that comes later. One logged record, whatever the range holds; the observer is told of
    /// it in the order of all changes, and tables give their space back by and by. Applied when this
    /// returns; the ticket is ready when the drop is stored at the durability asked for.
    pub fn drop_range(
        &self,
        from: &TableKey,
        to: Option<&TableKey>,
        durability: Durability,
    ) -> Ticket<Result<(), WriteError>> {
        self.engine.drop_range(from, to, durability)
    }

    /// Tells the time (milliseconds of any steady clock): flushes by age, syncs what is periodic,
    /// tries again what failed. Call it a few times a second.
    pub fn tick(&self, now_ms: u64) {
        self.engine.tick(now_ms);
    }

    /// Flushes everything that is in memory now. Ready when it is in tables, or when an attempt
    /// failed (it is tried again at later ticks).
    pub fn flush(&self) -> Ticket<Result<(), WriteError>> {
        self.engine.flush()
    }

    /// A consistent view of now: exactly the changes applied so far.
    pub fn snapshot(&self) -> Snapshot {
        self.engine.snapshot_with(|| ()).0
    }

    /// A view as of [`Self::snapshot`], and what `at_cut` gives at the very instant: the observer was told of
    /// exactly the changes in the view. Writers wait for `at_cut`, which must not call the store.
    pub fn snapshot_with<T>(&self, at_cut: impl FnOnce() -> T) -> (Snapshot, T) {
        self.engine.snapshot_with(at_cut)
    }

    /// A piece of a scan of `[from, to)` in a snapshot: at most `max_entries` entries and about
    /// `max_bytes` bytes, erased keys counted, so that a piece may be empty and have a next. `to`
    /// `None`: to the end. Go on at [`Chunk::next`]. A short piece that lies in memory or the page cache
    /// is ready at once; others are answered by a reader.
    pub fn scan(
        &self,
        snapshot: &Snapshot,
        from: &TableKey,
        to: Option<&TableKey>,
        max_entries: usize,
        max_bytes: usize,
    ) -> Ticket<Result<Chunk, ReadError>> {
        self.engine.scan(snapshot, from, to, max_entries, max_bytes)
    }

    /// Makes a copy of the store in a directory of the same file system, by hard links: everything applied
    /// before the call, flushed first. The directory must be missing or empty; opened, it is a store.
    pub fn checkpoint(&self, dir: &Path) -> Ticket<Result<Checkpoint, WriteError>> {
        self.engine.checkpoint(dir)
    }

    /// Key ranges of which data was lost with damaged files. Not empty: this replica needs repair. Kept
    /// over restarts until the ranges are dropped, which is how a rebuild begins.
    pub fn lost_ranges(&self) -> Vec<LostRange> {
        self.engine.lost_ranges()
    }

    /// What was found in each table that was set aside, by its number: every damaged place, and the key
    /// ranges that it may have held. Blocks on the disk.
    pub fn quarantine_reports(&self) -> Vec<(u64, Result<String, OpenError>)> {
        quarantine::reports(&*self.engine.disk, &self.engine.options.dir)
    }

    /// Every counter and gauge.
    pub fn stats(&self) -> StoreStats {
        self.engine.stats()
    }

    /// Why the store takes no more writes and acknowledges nothing, if so: a sync failed. For good.
    pub fn failed(&self) -> Option<String> {
        self.engine.health.failed()
    }

    /// Why writes are refused for the moment (disk full or read-only), if so. Ends by itself.
    pub fn refusing(&self) -> Option<IoFailure> {
        self.engine.health.refusing()
    }

    /// Refuses new work, flushes everything, and releases the directory. Ready when done. Error: the
    /// directory is released too; what was acknowledged as durable is still in the log.
    pub fn close(&self) -> Ticket<Result<(), WriteError>> {
        self.engine.close()
    }
}
