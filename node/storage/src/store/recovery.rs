//! Opening a store: from whatever a crash left to a running engine.
//!
//! Order: lock; make visible names durable; load the manifest; remove what it does not name; open
//! its tables; hand the observer its state; replay the log above the floor. Each step only removes
//! what nothing refers to, so a crash anywhere in here changes nothing for the next attempt
//! (rule R11). An observer that looks is told what each record replaced; records wait for that until there is
//! a memtable of them, and are looked up in the order of their keys. A directory with data but no manifest is
//! damage, never an empty store.

use super::engine::{Engine, Figures, State};
use super::flush::Flushing;
use super::ranges::{RangeDrop, Ranges};
use super::salvage::Found;
use super::scrub::Scrubbing;
use super::turns::Turns;
use super::update::LogOwner;
use crate::disk::{DirLock, Disk};
use crate::error::{Damage, IoFailure, OpenError, ReadError};
use crate::health::Health;
use crate::key::TableKey;
use crate::levels::{Levels, Tables};
use crate::log::record::{Logged, Record};
use crate::log::{Log, replay, salvage};
use crate::maintenance::Maintenance;
use crate::manifest::{self, Manifest};
use crate::memtable::{Frozen, Memtable, Version, entry_bytes};
use crate::observer::Observer;
use crate::options::StoreOptions;
use crate::table::{ReadMode, TableId};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

/// What an open found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The directory held no store.
    pub created: bool,
    /// Records applied from the log.
    pub replayed_records: u64,
    /// Bytes of a torn log tail that were dropped. None of them was acknowledged as durable.
    pub torn_bytes: u64,
    /// Files of an unfinished run that were removed.
    pub orphans_removed: u64,
}

pub(crate) fn open(
    options: StoreOptions,
    disk: Arc<dyn Disk>,
    maintenance: Arc<dyn Maintenance>,
    observer: Arc<dyn Observer>,
    mut salvage: Option<&mut Found>,
) -> Result<Arc<Engine>, OpenError> {
    options.check()?;
    let (log_dir, tables_dir) = (options.dir.join("log"), options.dir.join("tables"));
    let dir_lock = prepare(&*disk, &options.dir, &log_dir, &tables_dir)?;
    let (mut manifest, created) = load_or_create(&*disk, &options.dir, &log_dir, &tables_dir)?;
    let orphans_removed = remove_orphans(&*disk, &mut manifest, &tables_dir)?;
    let tables = Tables::new(disk.clone(), maintenance.clone(), tables_dir.clone(), &options);
    let levels = open_levels(&tables, &manifest, salvage.as_deref_mut())?;
    restore(&*observer, &*disk, &manifest, &tables_dir, salvage.is_some())?;
    let ranges = Ranges::new(manifest.drops.clone(), &manifest.lost, Vec::new());
    let mut memory = Memory::new(&options, &levels, ranges, &*observer);
    let floor = manifest.floor;
    let replayed = read_log(&*disk, &log_dir, floor, &mut memory, salvage)?;
    let recovery = Recovery {
        created,
        replayed_records: replayed.records,
        torn_bytes: replayed.torn_bytes,
        orphans_removed,
    };
    let scrubbing = Scrubbing::load(&*disk, &options.dir);
    let damaged = memory.damaged;
    let (active, frozen, ranges) = (memory.active, memory.frozen, Arc::new(memory.ranges));
    let state = State { active, frozen, levels: Arc::new(levels), ranges };
    let health = Arc::new(Health::default());
    let (last, next_id, closed) = (replayed.last, replayed.next_id, replayed.closed);
    let segment_bytes = options.log_segment_bytes;
    let log = Log::new(disk.clone(), log_dir, segment_bytes, health.clone(), last, next_id, closed);
    log.release(floor);
    let engine = Arc::new(Engine {
        tables_dir,
        disk,
        maintenance,
        observer,
        health,
        log,
        tables,
        turns: Turns::new(options.waiting_updates_max),
        stalled: Mutex::new(VecDeque::new()),
        stalled_now: AtomicUsize::new(0),
        slowed: AtomicBool::new(false),
        credit: AtomicI64::new(0),
        gate: RwLock::new(()),
        state: ArcSwap::from_pointee(state),
        swap: Mutex::new(()),
        next_file: AtomicU64::new(manifest.next_file),
        edit: Mutex::new(manifest),
        flushing: Mutex::new(Flushing::starting_at(floor)),
        compacting: AtomicBool::new(false),
        merge_check_due: AtomicBool::new(true),
        damaged: Mutex::new(damaged),
        quarantine_at_ms: AtomicU64::new(0),
        scrubbing: Mutex::new(scrubbing),
        compact_after_ms: AtomicU64::new(0),
        now_ms: AtomicU64::new(0),
        start_ms: AtomicU64::new(u64::MAX),
        synced_ms: AtomicU64::new(0),
        dir_lock: Mutex::new(Some(Arc::from(dir_lock))),
        recovery,
        figures: Figures::default(),
        options,
    });
    engine.log.belongs_to(Box::new(LogOwner(Arc::downgrade(&engine))));
    Ok(engine)
}

/// Hands the observer its state. In a salvage one that is damaged counts as none.
fn restore(
    observer: &dyn Observer,
    disk: &dyn Disk,
    manifest: &Manifest,
    tables_dir: &Path,
    salvage: bool,
) -> Result<(), OpenError> {
    let read = manifest.sidecar.map(|id| manifest::read_sidecar(disk, tables_dir, id));
    let state = match read.transpose() {
        Err(OpenError::Damaged(_)) if salvage => None,
        read => read?,
    };
    observer.restore(state.as_deref());
    Ok(())
}

fn open_levels(
    tables: &Tables,
    manifest: &Manifest,
    salvage: Option<&mut Found>,
) -> Result<Levels, OpenError> {
    let Some(found) = salvage else { return Levels::open(tables, &manifest.levels) };
    let (levels, bad) = Levels::open_sound(tables, &manifest.levels)?;
    for (named, damage) in bad {
        found.tables.push(named);
        found.damages.push(damage);
    }
    Ok(levels)
}

fn read_log(
    disk: &dyn Disk,
    log_dir: &Path,
    floor: u64,
    memory: &mut Memory<'_>,
    salvage: Option<&mut Found>,
) -> Result<replay::Replayed, OpenError> {
    let apply = &mut |record| memory.apply(record);
    let replayed = match salvage {
        None => replay::replay(disk, log_dir, floor, apply)?,
        Some(found) => {
            let (replayed, missing) = salvage::read(disk, log_dir, floor, apply)?;
            found.damages.extend(missing.damages);
            (found.missing_to, found.missing) = (missing.to, missing.count);
            replayed
        }
    };
    memory.settle()?;
    Ok(replayed)
}

/// Makes the directories, takes the lock, and makes durable what can be seen: a killed process may
/// have left names that were never synced, and from now on we rely on them.
fn prepare(
    disk: &dyn Disk,
    dir: &Path,
    log_dir: &Path,
    tables_dir: &Path,
) -> Result<Box<dyn DirLock>, OpenError> {
    let failed = |path: &Path, what| {
        let path = path.to_path_buf();
        move |error: io::Error| IoFailure::new(&path, what, &error)
    };
    for path in [dir, log_dir, tables_dir] {
        disk.create_dir(path).map_err(failed(path, "create the directory"))?;
    }
    let lock_path = dir.join("LOCK");
    let held = disk.lock(&lock_path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(dir.into()),
        _ => IoFailure::new(&lock_path, "lock", &error).into(),
    })?;
    for path in [dir, tables_dir] {
        disk.sync_dir(path).map_err(failed(path, "sync the directory"))?;
    }
    for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        // Ours only if they were made just now, and then they can be synced; an older one may lie
        // on a file system, or under permissions, that refuse it.
        let _ = disk.sync_dir(above);
    }
    Ok(held)
}

fn load_or_create(
    disk: &dyn Disk,
    dir: &Path,
    log_dir: &Path,
    tables_dir: &Path,
) -> Result<(Manifest, bool), OpenError> {
    if let Some(manifest) = Manifest::load(disk, dir)? {
        return Ok((manifest, false));
    }
    let has_log = !replay::segments(disk, log_dir)?.is_empty();
    let has_tables = list(disk, tables_dir)?.iter().any(|name| manifest::number_of(name).is_some());
    if has_log || has_tables {
        let detail = "missing, though the directory holds data".to_string();
        return Err(Damage { path: dir.join(manifest::FILE), offset: 0, detail }.into());
    }
    let manifest = Manifest { next_file: 1, ..Manifest::default() };
    manifest.store(disk, dir)?;
    Ok((manifest, true))
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, IoFailure> {
    disk.list(dir).map_err(|error| IoFailure::new(dir, "list", &error))
}

/// Removes tables and sidecars that the manifest does not name. Their numbers are not used again.
fn remove_orphans(
    disk: &dyn Disk,
    manifest: &mut Manifest,
    tables_dir: &Path,
) -> Result<u64, OpenError> {
    let named: BTreeSet<u64> = manifest.numbers().collect();
    let mut removed = 0;
    for name in list(disk, tables_dir)? {
        let Some(number) = manifest::number_of(&name) else { continue };
        manifest.next_file = manifest.next_file.max(number + 1);
        if !named.contains(&number) {
            let path = tables_dir.join(&name);
            match disk.remove(&path) {
                // The last readers of a store closed just now may still be letting go of files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(|error| IoFailure::new(&path, "remove an orphan", &error))?,
            }
            removed += 1;
        }
    }
    Ok(removed)
}

/// Memory as the replay builds it: the same cuts as in a run, so that flushing goes on from there.
struct Memory<'a> {
    options: &'a StoreOptions,
    levels: &'a Levels,
    ranges: Ranges,
    observer: &'a dyn Observer,
    active: Arc<Memtable>,
    frozen: Vec<Arc<Frozen>>,
    /// Changes that are not applied yet, in the order of the log. With what they will add to the active
    /// memtable they are at most one memtable; they keep the segments that they come from in memory.
    waiting: Vec<(TableKey, u64, Option<Bytes>)>,
    waiting_bytes: usize,
    /// Tables in which a block that was needed is damaged.
    damaged: BTreeSet<TableId>,
}

impl<'a> Memory<'a> {
    fn new(
        options: &'a StoreOptions,
        levels: &'a Levels,
        ranges: Ranges,
        observer: &'a dyn Observer,
    ) -> Self {
        let active = Memtable::new(options.memtable_bytes);
        let (frozen, damaged) = (Vec::new(), BTreeSet::new());
        let (waiting, waiting_bytes) = (Vec::new(), 0);
        Self { options, levels, ranges, observer, active, frozen, waiting, waiting_bytes, damaged }
    }

    fn old(&mut self, key: &TableKey) -> Result<Version, ReadError> {
        let frozen = self.frozen.iter().rev().map(|frozen| &frozen.memtable);
        let mut memory = std::iter::once(&self.active).chain(frozen);
        let found = match memory.find_map(|memtable| memtable.get(key)) {
            Some(version) => version,
            None => match self.levels.get(key, ReadMode::Blocking) {
                // The record itself is whole: only the observer misses what was there before.
                Err(ReadError::Damaged(damage)) if self.knows(&damage) => {
                    Version { sequence: 0, value: None }
                }
                found => found?.ok_or(ReadError::Abandoned)?,
            },
        };
        Ok(self.ranges.after_drops(key.as_bytes(), found))
    }

    /// Notes the table that is damaged; `false` if it is none.
    fn knows(&mut self, damage: &Damage) -> bool {
        let name = damage.path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(manifest::number_of);
        self.damaged.extend(id.map(TableId));
        id.is_some()
    }

    fn apply(&mut self, record: Record) -> Result<(), OpenError> {
        let sequence = record.sequence;
        let value = match record.change {
            Logged::Put(value) => Some(value),
            Logged::Erase => None,
            Logged::Drop(to) => {
                self.settle()?;
                let (key, to) = (copied(record.key), to.map(copied));
                self.observer.dropped(&key, to.as_ref());
                self.ranges = self.ranges.and(RangeDrop { sequence, from: key, to, at_ms: 0 });
                return Ok(());
            }
        };
        self.waiting_bytes += entry_bytes(&record.key, value.as_ref());
        self.waiting.push((record.key, sequence, value));
        let full = self.active.bytes() + self.waiting_bytes >= self.options.memtable_bytes;
        // Where nothing is looked up there is nothing to be gained by waiting.
        if full || !self.observer.looks() { self.settle() } else { Ok(()) }
    }

    /// Applies what waits. Keys that are neighbours lie in the same block of a table, which in their order
    /// is read once for all of them; changes of one key stay in the order of the log.
    fn settle(&mut self) -> Result<(), OpenError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let Some(last) = waiting.last().map(|(_, sequence, _)| *sequence) else { return Ok(()) };
        waiting.sort_by(|one, other| one.0.cmp(&other.0));
        for (key, sequence, value) in waiting.drain(..) {
            self.change(key, sequence, value)?;
        }
        // Its memory is used again.
        self.waiting = waiting;
        if self.active.bytes() >= self.options.memtable_bytes {
            let fresh = Memtable::new(self.options.memtable_bytes);
            let memtable = std::mem::replace(&mut self.active, fresh);
            let checkpoint = self.observer.checkpoint();
            self.frozen.push(Arc::new(Frozen { memtable, last, checkpoint }));
        }
        Ok(())
    }

    fn change(
        &mut self,
        key: TableKey,
        sequence: u64,
        value: Option<Bytes>,
    ) -> Result<(), OpenError> {
        // Copies: the record shares the memory of its whole segment.
        let (key, value) = (copied(key), value.map(|value| Bytes::copy_from_slice(&value)));
        let looks = self.observer.looks();
        let old = looks.then(|| self.old(&key)).transpose().map_err(as_open)?;
        self.active.insert(&key, sequence, value.as_ref(), 0);
        let old = old.and_then(|version| version.value);
        self.observer.changed(&key, old.as_deref(), value.as_deref());
        Ok(())
    }
}

/// A key with memory of its own.
fn copied(key: TableKey) -> TableKey {
    TableKey::from_encoded(Bytes::copy_from_slice(key.as_bytes())).unwrap_or(key)
}

fn as_open(error: ReadError) -> OpenError {
    match error {
        ReadError::Io(failure) => OpenError::Io(failure),
        ReadError::Damaged(damage) => OpenError::Damaged(damage),
        other => OpenError::Io(IoFailure {
            path: PathBuf::new(),
            kind: io::ErrorKind::Other,
            detail: other.to_string(),
        }),
    }
}
