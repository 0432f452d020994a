//! Freezing a memtable at a consistent cut, and writing it out as a table of level 0.
//!
//! Order (rule R2): the table and the observer's state are written and synced, their names are
//! synced, the manifest is replaced; only then is the memtable dropped and the log released.

use super::engine::{Engine, State};
use super::ranges::{FLUSH_DROP_AFTER_MS, Ranges};
use crate::error::{IoFailure, WriteError};
use crate::guard::{exclusive, lock};
use crate::levels::TableFile;
use crate::maintenance::Lane;
use crate::manifest::{self, Manifest};
use crate::memtable::{Frozen, Memtable};
use crate::table::TableError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Called when everything up to a sequence number is in tables, or when that failed.
pub(crate) type Waiter = Box<dyn FnOnce(&Arc<Engine>, Result<(), WriteError>) + Send>;

/// Who waits for flushes, and whether one is under way.
#[derive(Default)]
pub(crate) struct Flushing {
    waiters: Vec<(u64, Waiter)>,
    floor: u64,
    scheduled: bool,
    /// The last attempt failed; wait for a tick.
    paused: bool,
}

impl Flushing {
    pub(crate) fn starting_at(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Registers a waiter, or gives it back if there is nothing to wait for.
    pub(crate) fn wait_for(&mut self, target: u64, waiter: Waiter) -> Option<Waiter> {
        if target <= self.floor {
            return Some(waiter);
        }
        self.waiters.push((target, waiter));
        None
    }

    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.waiters).into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// A flush is under way or queued.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.scheduled
    }

    pub(crate) fn retry(&mut self) {
        self.paused = false;
    }

    fn reached(&mut self, floor: u64) -> Vec<Waiter> {
        self.floor = self.floor.max(floor);
        self.waiters
            .extract_if(.., |(target, _)| *target <= floor)
            .map(|(_, waiter)| waiter)
            .collect()
    }
}

impl State {
    /// The last change that a flush has to bring to tables, of which `last` is the last of all; 0 if memory
    /// holds none. Numbers that a damaged log lacks come after it, and no flush ever reaches them.
    pub(super) fn last_in_memory(&self, last: u64) -> u64 {
        match self.active.is_empty() && !self.has_unfrozen_drop() {
            true => self.frozen.last().map_or(0, |frozen| frozen.last),
            false => last,
        }
    }
}

impl Engine {
    /// Freezes the active memtable if it is full, old, or waited for, and there is room.
    pub(super) fn freeze_if_due(&self) {
        if !self.is_freeze_due() {
            return;
        }
        let fresh = Memtable::new(self.options.memtable_bytes);
        let _gate = exclusive(&self.gate);
        // Another thread may have frozen it meanwhile.
        if !self.is_freeze_due() {
            return;
        }
        let memtable = self.state.load().active.clone();
        let (last, checkpoint) = (self.log.last(), self.observer.checkpoint());
        let frozen = Arc::new(Frozen { memtable, last, checkpoint });
        self.change_state(|state| {
            state.active = fresh;
            state.frozen.push(frozen);
        });
        self.log.new_segment_soon();
    }

    fn is_freeze_due(&self) -> bool {
        let state = self.state.load();
        if (state.active.is_empty() && !state.has_unfrozen_drop())
            || state.frozen.len() >= self.options.immutable_memtables_max
        {
            return false;
        }
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let start_ms = self.start_ms.load(Ordering::Relaxed);
        let cut = state.frozen.last().map_or(0, |frozen| frozen.last);
        state.active.bytes() >= self.options.memtable_bytes
            || state.active.age_ms(now_ms, start_ms) >= self.options.flush_age_ms
            || state.unfrozen_drop_age_ms(now_ms) >= FLUSH_DROP_AFTER_MS
            || lock(&self.flushing).waiters.iter().any(|(target, _)| *target > cut)
    }

    pub(super) fn schedule_flush(self: &Arc<Self>) {
        if self.state.load().frozen.is_empty() {
            return;
        }
        {
            let mut flushing = lock(&self.flushing);
            if flushing.paused || std::mem::replace(&mut flushing.scheduled, true) {
                return;
            }
        }
        self.submit_vital(Lane::Flush, |engine| {
            let outcome = engine.flush_oldest();
            lock(&engine.flushing).scheduled = false;
            engine.piece_done();
            if let Err(failure) = outcome {
                engine.flush_failed(failure);
            }
            engine.work_if_due();
            engine.admit_stalled();
        });
    }

    fn flush_failed(self: &Arc<Self>, failure: IoFailure) {
        self.figures.background_errors.add(1);
        let answer = if failure.is_full() {
            // Until a flush succeeds memory can only grow: refuse rather than queue.
            self.health.refuse(failure.clone());
            WriteError::Full(failure)
        } else {
            // Whoever waits is answered when the job ends.
            return self.health.fail(format!("a flush failed: {failure}"));
        };
        let waiters = {
            let mut flushing = lock(&self.flushing);
            flushing.paused = true;
            flushing.take_waiters()
        };
        for waiter in waiters {
            waiter(self, Err(answer.clone()));
        }
    }

    /// Writes the oldest frozen memtable out. Error: nothing changed, except that after one that is
    /// not "full" the store must not go on.
    pub(crate) fn flush_oldest(self: &Arc<Self>) -> Result<(), IoFailure> {
        let Some(frozen) = self.state.load().frozen.first().cloned() else { return Ok(()) };
        let Some(owned) = self.owned() else { return Ok(()) };
        let sidecar = self.next_file.fetch_add(1, Ordering::Relaxed);
        let mut written = Vec::new();
        let installed = self.write_frozen(&frozen, sidecar, &mut written);
        if let Err(failure) = installed {
            if failure.is_full() {
                let _ = self.disk.remove(&manifest::sidecar_path(&self.tables_dir, sidecar));
            }
            self.discard(&written, &failure);
            return Err(failure);
        }
        drop(owned);
        self.figures.flushes.add(1);
        self.health.accepts_again();
        self.log.stored_elsewhere(frozen.last);
        self.log.release(frozen.last);
        let waiters = lock(&self.flushing).reached(frozen.last);
        for waiter in waiters {
            waiter(self, Ok(()));
        }
        Ok(())
    }

    /// Removes tables that came to nothing. After a failure that is not "full" the next start may find the
    /// manifest that names them, so they stay; if it finds the old one it removes them as orphans.
    pub(super) fn discard(&self, written: &[u64], failure: &IoFailure) {
        if failure.is_full() {
            self.remove_tables(written);
        }
    }

    /// Removes tables that surely no manifest names. What cannot be removed is an orphan.
    pub(super) fn remove_tables(&self, ids: &[u64]) {
        for id in ids {
            let _ = self.disk.remove(&manifest::table_path(&self.tables_dir, *id));
        }
    }

    fn write_frozen(
        self: &Arc<Self>,
        frozen: &Frozen,
        sidecar: u64,
        written: &mut Vec<u64>,
    ) -> Result<(), IoFailure> {
        // All of them are durable once the floor is at this cut.
        let drops = {
            let ranges = self.state.load().ranges.clone();
            ranges.settled_up_to(ranges.settled(), frozen.last)
        };
        // The newest version of each key comes first.
        let mut last: Option<bytes::Bytes> = None;
        let newest = frozen.memtable.versions(bytes::Bytes::new()).filter(|(key, version)| {
            let fresh = last.as_ref() != Some(key);
            last = Some(key.clone());
            fresh && drops.at(key) <= version.sequence
        });
        let breathe = || self.breathe(Lane::Flush);
        let metas =
            self.output(0, &breathe).write(&mut newest.peekable(), written).map_err(as_io)?;
        self.figures.flush_bytes.add(metas.iter().map(|meta| meta.bytes).sum());
        let files = self.tables.open_all(&metas, drops.highest()).map_err(as_io)?;
        manifest::write_sidecar(&*self.disk, &self.tables_dir, sidecar, &frozen.checkpoint)?;
        let old = self.install(&[], files, 0, |manifest| {
            manifest.floor = manifest.floor.max(frozen.last);
            let ranges = self.state.load().ranges.clone();
            manifest.drops = ranges.settled_up_to(&manifest.drops, frozen.last);
            manifest.sidecar.replace(sidecar)
        })?;
        if let Some(old) = old {
            // An orphan if this fails; the next start removes it.
            let _ = self.disk.remove(&manifest::sidecar_path(&self.tables_dir, old));
        }
        Ok(())
    }

    /// Replaces tables by others, on disk by one manifest, then in memory. The files of `outputs`
    /// are synced; their names are synced here. Error: nothing changed in memory.
    pub(crate) fn install<T>(
        self: &Arc<Self>,
        inputs: &[u64],
        outputs: Vec<Arc<TableFile>>,
        level: usize,
        edit: impl FnOnce(&mut Manifest) -> T,
    ) -> Result<T, IoFailure> {
        let dir_synced = self.disk.sync_dir(&self.tables_dir);
        dir_synced.map_err(|error| IoFailure {
            kind: std::io::ErrorKind::Other,
            ..IoFailure::new(&self.tables_dir, "sync the directory", &error)
        })?;
        let mut manifest = lock(&self.edit);
        let mut next = manifest.clone();
        let out = edit(&mut next);
        next.next_file = self.next_file.load(Ordering::Relaxed);
        let before = self.state.load().levels.clone();
        let levels = Arc::new(before.changed(inputs, outputs, level));
        next.levels = levels.named();
        next.lost = next.lost.without_older_than(&next.drops);
        next.drops = next.drops.retained(|drop| levels.hold_some_of(drop));
        next.store(&*self.disk, &self.options.dir)?;
        let floor = next.floor;
        self.change_state(|state| {
            let recent = state.ranges.recent().iter().filter(|drop| drop.sequence > floor);
            let recent = recent.cloned().collect();
            state.ranges = Arc::new(Ranges::new(next.drops.clone(), &next.lost, recent));
            state.levels = levels.clone();
            state.frozen.retain(|frozen| frozen.last > floor);
        });
        *manifest = next;
        before.retire_all_but(&levels);
        self.merge_check_due.store(true, Ordering::Release);
        Ok(out)
    }
}

fn as_io(error: TableError) -> IoFailure {
    match error {
        TableError::Io(failure) => failure,
        other => IoFailure {
            path: std::path::PathBuf::new(),
            kind: std::io::ErrorKind::Other,
            detail: other.to_string(),
        },
    }
}
