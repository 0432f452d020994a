//! Opening what refuses to open: for a damaged commit log, or tables that cannot be read at all.
//!
//! A program of its own runs this, once, on a store that nobody serves. Damaged files get a name in
//! `quarantine/`; every sound record of the log is kept, those behind the damage too, since a record is
//! the whole value of its key; and unless the caller accepts the loss, what may be missing is marked as
//! lost: the range of an unreadable table, and the whole key space up to the last missing sequence
//! number, since nobody knows which keys the missing records changed. Reads there answer an error until
//! the range is dropped and filled from replicas, so this replica never passes an old value off as the
//! newest.
//!
//! What the observer had kept is not kept: what it was told of may be gone. An empty state is left in its
//! place, by which it knows that it has to begin anew.
//!
//! Order: the names in the quarantine, the mark in the manifest, the flush, and only then are the log
//! segments removed. A crash anywhere leaves a store that refuses to open as before, or one that is
//! salvaged; running it again is safe.

use super::engine::Engine;
use super::quarantine::{QUARANTINE, behind};
use super::recovery;
use crate::disk::Disk;
use crate::error::{Damage, IoFailure, SalvageError};
use crate::key::TableKey;
use crate::maintenance::Manual;
use crate::manifest::{self, Named};
use crate::memtable::Frozen;
use crate::meta;
use crate::observer::NoObserver;
use crate::options::StoreOptions;
use crate::spans::Spans;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a salvage found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Every damaged place that was met. Empty: the store was sound.
    pub damages: Vec<Damage>,
    /// The names that the damaged files have now.
    pub set_aside: Vec<PathBuf>,
    /// Records of the log that were kept.
    pub records: u64,
    /// Records of the log that may be missing, as far as sequence numbers tell.
    pub missing: u64,
    /// Key ranges marked as lost when it was done.
    pub lost_ranges: u64,
}

/// What an open for salvage leaves out, for the caller to deal with.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) damages: Vec<Damage>,
    /// Tables that do not open.
    pub(crate) tables: Vec<Named>,
    /// The last sequence number that is missing from the log, 0 if none is.
    pub(crate) missing_to: u64,
    pub(crate) missing: u64,
}

/// Salvages the store of a directory. `accept_loss`: mark nothing as lost, and forget such marks from
/// before: only where no replica could fill the gap.
pub fn salvage(
    dir: &Path,
    disk: Arc<dyn Disk>,
    accept_loss: bool,
) -> Result<Salvaged, SalvageError> {
    let (work, mut found) = (Manual::new(), Found::default());
    let options = StoreOptions { scrub_interval_ms: 0, ..StoreOptions::new(dir) };
    let observer = Arc::new(NoObserver);
    let engine = recovery::open(options, disk.clone(), work.clone(), observer, Some(&mut found))?;
    let set_aside = set_aside(&*disk, dir, &found.damages)?;
    mark(&engine, &found, accept_loss)?;
    let lost_ranges = engine.lost_ranges().len() as u64;
    let closed = engine.close();
    while work.run_all() > 0 {}
    closed.wait()?;
    while work.run_all() > 0 {}
    // A bad segment whose removal is lost would be met again, and the store refuse to open again.
    let log_dir = dir.join("log");
    let synced = disk.sync_dir(&log_dir);
    synced.map_err(|error| IoFailure::new(&log_dir, "sync the directory", &error))?;
    Ok(Salvaged {
        damages: found.damages,
        set_aside,
        records: engine.recovery.replayed_records,
        missing: found.missing,
        lost_ranges,
    })
}

/// Gives each damaged file a name in the quarantine; durable when this returns.
fn set_aside(disk: &dyn Disk, dir: &Path, damages: &[Damage]) -> Result<Vec<PathBuf>, IoFailure> {
    let files: BTreeSet<&PathBuf> = damages.iter().map(|damage| &damage.path).collect();
    let quarantine = dir.join(QUARANTINE);
    let failed = |path: &Path, what: &str, error| IoFailure::new(path, what, &error);
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let made = disk.create_dir(&quarantine);
    made.map_err(|error| failed(&quarantine, "create the directory", error))?;
    let mut names = Vec::new();
    for file in files {
        // A file that is missing cannot be kept.
        names.extend(name_aside(disk, &quarantine, file)?);
    }
    for dir in [&*quarantine, dir] {
        disk.sync_dir(dir).map_err(|error| failed(dir, "sync the directory", error))?;
    }
    Ok(names)
}

/// Gives a file a second name in the quarantine; `None` if there is no such file. Segments of the log are
/// numbered from 1 again after a clean close, so another file may have the name already: then the number
/// of the attempt is put behind it.
fn name_aside(
    disk: &dyn Disk,
    quarantine: &Path,
    file: &Path,
) -> Result<Option<PathBuf>, IoFailure> {
    let name = file.file_name().unwrap_or_default();
    for attempt in 1.. {
        let mut aside = quarantine.join(name).into_os_string();
        if attempt > 1 {
            aside.push(format!(".{attempt}"));
        }
        let aside = PathBuf::from(aside);
        match disk.link(file, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Left by an attempt that failed later on?
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if meta::read_whole(disk, &aside)? == meta::read_whole(disk, file)? {
                    return Ok(Some(aside));
                }
            }
            Err(error) => return Err(IoFailure::new(&aside, "link", &error)),
            Ok(()) => return Ok(Some(aside)),
        }
    }
    Ok(None)
}

/// Takes the unreadable tables out of the manifest and says there what may be missing.
fn mark(engine: &Arc<Engine>, found: &Found, accept_loss: bool) -> Result<(), IoFailure> {
    let last = engine.log.last();
    engine.change_state(|state| {
        // Nothing comes behind the last frozen memtable but numbers that are missing: its flush passes
        // over them.
        if state.active.is_empty()
            && !state.has_unfrozen_drop()
            && let Some(frozen) = state.frozen.last_mut()
        {
            let (memtable, checkpoint) = (frozen.memtable.clone(), frozen.checkpoint.clone());
            *frozen = Arc::new(Frozen { memtable, last, checkpoint });
        }
    });
    let idle = engine.state.load().last_in_memory(last) == 0;
    let forgotten = engine.next_file.fetch_add(1, Ordering::Relaxed);
    manifest::write_sidecar(&*engine.disk, &engine.tables_dir, forgotten, &[])?;
    // The old one is an orphan afterwards; the next start removes it.
    engine.install(&[], Vec::new(), 0, |manifest| {
        manifest.sidecar = Some(forgotten);
        for table in &found.tables {
            let (from, to) =
                (TableKey::first_from(&table.first), TableKey::first_from(&behind(&table.last)));
            manifest.lost = manifest.lost.raised(from.encoded(), Some(to.encoded()), table.max_seq);
        }
        let all = TableKey::first_of(0);
        manifest.lost = manifest.lost.raised(all.encoded(), None, found.missing_to);
        if accept_loss {
            manifest.lost = Spans::default();
        }
        if idle {
            // Nothing to flush: the numbers of what is missing are passed over here.
            manifest.floor = manifest.floor.max(last);
        }
    })?;
    if idle {
        engine.log.release(last);
    }
    Ok(())
}
