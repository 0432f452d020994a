//! The public face of the engine: open, get, update, scan, flush, close.

use crate::disk::Disk;
use crate::error::{IoFailure, OpenError, ReadError, WriteError};
use crate::key::TableKey;
use crate::maintenance::Maintenance;
use crate::observer::Observer;
use crate::options::StoreOptions;
use crate::stats::StoreStats;
use crate::ticket::Ticket;
use bytes::Bytes;
use std::convert::Infallible;
use std::sync::Arc;

/// When an update counts as stored. All append to the log, in order, before memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In the process's log buffer: lost with the process.
    Memory,
    /// Written to the log file, synced every `periodic_sync_ms`: lost with the machine.
    Periodic,
    /// Synced, sharing one sync with others.
    Group,
    /// Synced without any delay for batching.
    Each,
}

/// What an update does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Stores these bytes.
    Put(Bytes),
    /// Removes what is stored.
    Erase,
}

/// An update that was applied: visible to every later read and update of the key.
pub struct Applied<T> {
    /// What the closure returned besides the change.
    pub out: T,
    /// Ready when the state that the closure saw and made is stored at the durability asked for;
    /// for [`Change::Keep`] too, which waits for the earlier write that it relies on.
    pub durable: Ticket<Result<(), WriteError>>,
}

/// A piece of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Keys and values, ascending.
    pub entries: Vec<(TableKey, Bytes)>,
    /// Where to go on; `None` at the end of the range.
    pub next: Option<TableKey>,
}

/// A frozen view of the whole store. Keeps memory and files alive: drop it soon.
#[derive(Clone)]
pub struct Snapshot {
    never: Infallible,
}

/// An open store.
pub struct Store {
    never: Infallible,
}

impl Store {
    /// Opens or creates the store of a directory: takes its lock, removes what an unfinished run
    /// left behind, loads the manifest and replays the log.
    pub fn open(
        options: StoreOptions,
        _disk: Arc<dyn Disk>,
        _maintenance: Arc<dyn Maintenance>,
        _observer: Arc<dyn Observer>,
    ) -> Result<Arc<Store>, OpenError> {
        options.check()?;
        Err(OpenError::Options("this build carries the engine's signatures only".into()))
    }

    /// The value of a key. Ready at once when memory, the cache or the page cache knows.
    pub fn get(&self, _key: &TableKey) -> Ticket<Result<Option<Bytes>, ReadError>> {
        match self.never {}
    }

    /// Reads the key, calls `f` with what is stored, and applies the change it returns. Updates of
    /// one key run one after the other, each seeing the result of the one before; `f` runs on the
    /// calling thread or on a reader's, must not block and must not call the store.
    pub fn update<T, F>(
        &self,
        _key: &TableKey,
        _durability: Durability,
        _f: F,
    ) -> Ticket<Result<Applied<T>, WriteError>>
    where
        T: Send + 'static,
        F: FnOnce(Option<&[u8]>) -> (Change, T) + Send + 'static,
    {
        match self.never {}
    }

    /// Tells the time (milliseconds of any steady clock): flushes by age, syncs what is periodic,
    /// tries again what failed. Call it a few times a second.
    pub fn tick(&self, _now_ms: u64) {
        match self.never {}
    }

    /// Freezes the memtable and flushes everything that is in memory now.
    pub fn flush(&self) -> Ticket<Result<(), WriteError>> {
        match self.never {}
    }

    /// A consistent view of now.
    pub fn snapshot(&self) -> Snapshot {
        match self.never {}
    }

    /// A piece of a scan of `[from, to)` in a snapshot: at most `max_entries` entries and about
    /// `max_bytes` bytes (at least one entry if there is any). `to` `None`: to the end.
    pub fn scan(
        &self,
        _snapshot: &Snapshot,
        _from: &TableKey,
        _to: Option<&TableKey>,
        _max_entries: usize,
        _max_bytes: usize,
    ) -> Ticket<Result<Chunk, ReadError>> {
        match self.never {}
    }

    /// Every counter and gauge.
    pub fn stats(&self) -> StoreStats {
        match self.never {}
    }

    /// Why the store takes no more writes and acknowledges nothing, if so: a sync failed. For good.
    pub fn failed(&self) -> Option<String> {
        match self.never {}
    }

    /// Why writes are refused for the moment (disk full or read-only), if so. Ends by itself.
    pub fn refusing(&self) -> Option<IoFailure> {
        match self.never {}
    }

    /// Refuses new work, flushes everything, and releases the directory. Ready when done.
    pub fn close(&self) -> Ticket<Result<(), WriteError>> {
        match self.never {}
    }
}
