//! The read path: memory first, then tables as far as nothing has to wait, then a reader.

use super::engine::{Engine, State};
use crate::error::ReadError;
use crate::guard::exclusive;
use crate::key::TableKey;
use crate::maintenance::Lane;
use crate::memtable::{Memtable, Version};
use crate::merge::{Merge, Run};
use crate::table::ReadMode;
use crate::ticket::Ticket;
use bytes::Bytes;
use std::sync::Arc;

/// Pieces of a scan of at most so many entries are tried on the caller's thread, and end after so many
/// bytes there.
const SHORT_SCAN_ENTRIES: usize = 128;
/// See [`SHORT_SCAN_ENTRIES`].
const SHORT_SCAN_BYTES: usize = 64 << 10;

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
    state: Arc<State>,
    sequence: u64,
}

impl Engine {
    pub(crate) fn get(
        self: &Arc<Self>,
        key: &TableKey,
    ) -> Ticket<Result<Option<Bytes>, ReadError>> {
        if self.health.is_closed() {
            return Ticket::ready(Err(ReadError::Closed));
        }
        match self.note_damage(self.look_now(key)) {
            Ok(Some(version)) => return Ticket::ready(Ok(version.value)),
            Ok(None) => {}
            Err(error) => return Ticket::ready(Err(error)),
        }
        let (ticket, owed) = Ticket::pair();
        let refused = self.submit_read((key.clone(), owed), |engine, (key, owed)| {
            let found = engine.note_damage(engine.look(&key));
            owed.complete(found.map(|version| version.value));
        });
        if let Err((_, owed)) = refused {
            owed.complete(Err(ReadError::Overloaded));
        }
        ticket
    }

    /// The newest version of a key, `None` if finding it needs the disk. A key that was never
    /// stored has version 0 without a value.
    pub(super) fn look_now(&self, key: &TableKey) -> Result<Option<Version>, ReadError> {
        let state = self.state.load();
        match in_memory(&state, key) {
            Some(version) => {
                self.figures.memtable_hits.add(1);
                state.ranges.judge(key.as_bytes(), version).map(Some)
            }
            None => {
                let found = state.levels.get(key, ReadMode::CachedOnly)?;
                found.map(|version| state.ranges.judge(key.as_bytes(), version)).transpose()
            }
        }
    }

    /// The newest version of a key, waiting for the disk.
    pub(crate) fn look(&self, key: &TableKey) -> Result<Version, ReadError> {
        let state = self.state.load_full();
        let found = match in_memory(&state, key) {
            Some(version) => version,
            None => state.levels.get(key, ReadMode::Blocking)?.ok_or(ReadError::Abandoned)?,
        };
        state.ranges.judge(key.as_bytes(), found)
    }

    /// Queues work for a reader; given back if too much waits.
    pub(super) fn submit_read<W: Send + 'static>(
        self: &Arc<Self>,
        work: W,
        run: impl FnOnce(&Arc<Self>, W) + Send + 'static,
    ) -> Result<(), W> {
        let waiting = &self.figures.waiting_reads;
        if waiting.get() >= self.options.waiting_reads_max as u64 {
            return Err(work);
        }
        waiting.add(1);
        self.figures.pool_reads.add(1);
        let place = Place(self.clone());
        self.submit(Lane::Read, move |engine| {
            drop(place);
            run(engine, work);
        });
        Ok(())
    }

    pub(crate) fn snapshot_with<T>(&self, at_cut: impl FnOnce() -> T) -> (Snapshot, T) {
        let _gate = exclusive(&self.gate);
        (Snapshot { state: self.state.load_full(), sequence: self.log.last() }, at_cut())
    }

    pub(crate) fn scan(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        from: &TableKey,
        to: Option<&TableKey>,
        max_entries: usize,
        max_bytes: usize,
    ) -> Ticket<Result<Chunk, ReadError>> {
        if self.health.is_closed() {
            return Ticket::ready(Err(ReadError::Closed));
        }
        let max_entries = max_entries.max(1);
        // A short piece that lies in memory is answered here: handing it over costs more than it. Any
        // error is left to the reader, who meets it again and reports it.
        if max_entries <= SHORT_SCAN_ENTRIES
            && let Ok(chunk) = snapshot.chunk(
                (from, to),
                max_entries,
                max_bytes.min(SHORT_SCAN_BYTES),
                ReadMode::CachedOnly,
            )
        {
            return Ticket::ready(Ok(chunk));
        }
        let (ticket, owed) = Ticket::pair();
        let work = (snapshot.clone(), from.clone(), to.cloned(), owed);
        let refused = self.submit_read(work, move |engine, (snapshot, from, to, owed)| {
            let range = (&from, to.as_ref());
            let chunk = snapshot.chunk(range, max_entries, max_bytes, ReadMode::Blocking);
            owed.complete(engine.note_damage(chunk));
        });
        if let Err((.., owed)) = refused {
            owed.complete(Err(ReadError::Overloaded));
        }
        ticket
    }
}

/// A place among the waiting reads; given back even if the job is thrown away.
struct Place(Arc<Engine>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.figures.waiting_reads.sub(1);
    }
}

fn in_memory(state: &State, key: &TableKey) -> Option<Version> {
    let frozen = state.frozen.iter().rev().map(|frozen| &frozen.memtable);
    std::iter::once(&state.active).chain(frozen).find_map(|memtable| memtable.get(key))
}

fn memory_run(memtable: &Arc<Memtable>, from: &TableKey) -> Run {
    Box::new(memtable.versions(from.encoded().clone()).map(Ok))
}

impl Snapshot {
    fn chunk(
        &self,
        (from, to): (&TableKey, Option<&TableKey>),
        max_entries: usize,
        max_bytes: usize,
        mode: ReadMode,
    ) -> Result<Chunk, ReadError> {
        let frozen = self.state.frozen.iter().map(|frozen| &frozen.memtable);
        let memtables = std::iter::once(&self.state.active).chain(frozen);
        let mut runs: Vec<Run> = memtables
            .filter(|memtable| !memtable.is_empty())
            .map(|memtable| memory_run(memtable, from))
            .collect();
        runs.extend(self.state.levels.runs(from.as_bytes(), to.map(TableKey::as_bytes), mode)?);
        let ranges = &self.state.ranges;
        let lost = ranges.lost().iter().find(|span| {
            let before = to.is_none_or(|to| span.from < to.encoded());
            before && span.to.as_ref().is_none_or(|to| to > from.encoded())
        });
        if lost.is_some_and(|span| span.from <= from.encoded()) {
            return Err(ReadError::Lost);
        }
        let (mut chunk, mut bytes) = (Chunk { entries: Vec::new(), next: None }, 0);
        let lost = lost.map(|span| TableKey::first_from(&span.from));
        for item in Merge::new(runs).newest(self.sequence) {
            let (key, version) = item?;
            let key = TableKey::from_encoded(key).map_err(|_| ReadError::Abandoned)?;
            if to.is_some_and(|to| key >= *to) || lost.as_ref().is_some_and(|lost| key >= *lost) {
                break;
            }
            if chunk.entries.len() >= max_entries || (bytes >= max_bytes && bytes > 0) {
                // Memory of its own: a key from a table shares the block that it was read from.
                let key = Bytes::copy_from_slice(key.as_bytes());
                chunk.next = Some(TableKey::from_encoded(key).map_err(|_| ReadError::Abandoned)?);
                return Ok(chunk);
            }
            bytes += key.as_bytes().len();
            if let Some(value) = ranges.after_drops(key.as_bytes(), version).value {
                bytes += value.len();
                chunk.entries.push((key, value));
            }
        }
        // The next piece begins in the lost range and says so.
        chunk.next = lost;
        Ok(chunk)
    }
}
