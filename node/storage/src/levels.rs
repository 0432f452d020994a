//! The tables of a store by level: an immutable set that readers share, and the files behind it.
//!
//! Level 0 holds flushed memtables, newest first, whose ranges overlap; every deeper level is sorted
//! and disjoint, and holds older versions than the levels above it. A table that left the set keeps
//! its file until the last reader lets go of it; then the file is removed on the compaction lane
//! (rule R12).

use crate::disk::Disk;
use crate::error::{Damage, IoFailure, OpenError, ReadError};
use crate::key::TableKey;
use crate::maintenance::{Lane, Maintenance};
use crate::manifest::{Named, table_path};
use crate::memtable::Version;
use crate::merge::{Item, Run};
use crate::options::{LEVELS, READ_AHEAD_BYTES, StoreOptions};
use crate::spans::{Span, Spans};
use crate::table::{
    Absence, Cursor, LevelCursor, Lookup, Probe, ReadMode, Table, TableContext, TableError,
    TableId, TableMeta, TableOptions, head_of,
};
use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Filter bits for each key of a level 0 table beyond those of other tables.
const LEVEL0_MORE_FILTER_BITS: u32 = 8;

/// What is needed to open and to build tables.
pub(crate) struct Tables {
    disk: Arc<dyn Disk>,
    maintenance: Arc<dyn Maintenance>,
    dir: PathBuf,
    context: TableContext,
    writer: TableOptions,
}

/// A table in use.
pub(crate) struct TableFile {
    table: Arc<Table>,
    /// Range drops up to this number have been carried out in it.
    swept: u64,
    obsolete: AtomicBool,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    maintenance: Arc<dyn Maintenance>,
}

/// The tables of a store.
#[derive(Default)]
pub(crate) struct Levels {
    levels: Vec<Vec<Arc<TableFile>>>,
    /// For each table the head of its largest key, side by side: finds the one table of a sorted level
    /// that may hold a key without touching the others.
    lasts: Vec<Vec<u64>>,
}

impl Tables {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        maintenance: Arc<dyn Maintenance>,
        dir: PathBuf,
        options: &StoreOptions,
    ) -> Self {
        let context = TableContext::new(options.cache_bytes as u64, options.resident_bytes as u64);
        let writer = TableOptions {
            block_bytes: options.block_bytes,
            filter_bits_per_key: options.filter_bits_per_key,
            compression: options.compression,
            ..TableOptions::default()
        };
        Self { disk, maintenance, dir, context, writer }
    }

    /// How tables of a level are built. Those of level 0 get a longer filter: a lookup may pass many
    /// of them, and they hold a small part of the keys.
    pub(crate) fn writer_options(&self, level: usize) -> TableOptions {
        let more = if level == 0 { LEVEL0_MORE_FILTER_BITS } else { 0 };
        let filter_bits_per_key = self.writer.filter_bits_per_key.saturating_add(more);
        TableOptions { filter_bits_per_key, ..self.writer }
    }

    pub(crate) fn context(&self) -> &TableContext {
        &self.context
    }

    /// Opens a table of which `bytes` must be the length.
    pub(crate) fn open(
        &self,
        id: u64,
        bytes: u64,
        swept: u64,
    ) -> Result<Arc<TableFile>, TableError> {
        let path = table_path(&self.dir, id);
        let damaged = |detail: String| Damage { path: path.clone(), offset: 0, detail };
        let file = self.disk.open_read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                TableError::from(damaged("missing, though the manifest names it".into()))
            }
            _ => IoFailure::new(&path, "open", &error).into(),
        })?;
        if file.len() != bytes {
            let detail = format!("{} bytes long, though the manifest says {bytes}", file.len());
            return Err(damaged(detail).into());
        }
        let table = Arc::new(Table::open(TableId(id), &path, file, &self.context)?);
        let (disk, maintenance) = (self.disk.clone(), self.maintenance.clone());
        let obsolete = AtomicBool::new(false);
        Ok(Arc::new(TableFile { table, swept, obsolete, path, disk, maintenance }))
    }

    /// Opens tables just written, in which range drops up to `swept` were carried out.
    pub(crate) fn open_all(
        &self,
        metas: &[TableMeta],
        swept: u64,
    ) -> Result<Vec<Arc<TableFile>>, TableError> {
        metas.iter().map(|meta| self.open(meta.id.0, meta.bytes, swept)).collect()
    }
}

impl TableFile {
    fn id(&self) -> u64 {
        self.table.id().0
    }

    pub(crate) fn meta(&self) -> &TableMeta {
        self.table.meta()
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn swept(&self) -> u64 {
        self.swept
    }

    /// Every version from a key on.
    pub(crate) fn run_from(&self, key: &[u8]) -> Result<Run, TableError> {
        Ok(run(self.table.scan(Bound::Included(key), Bound::Unbounded, READ_AHEAD_BYTES)?))
    }

    /// Whether it may hold an entry that a range drop hides.
    fn holds_some_of(&self, drop: &Span) -> bool {
        let meta = self.meta();
        self.swept < drop.sequence
            && meta.min_seq < drop.sequence
            && drop.meets(&meta.first, &meta.last)
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            let (disk, path) = (self.disk.clone(), std::mem::take(&mut self.path));
            // An orphan if this fails or never runs; the next start removes it.
            let job = Box::new(move || _ = disk.remove(&path));
            self.maintenance.submit(Lane::Compact, job);
        }
    }
}

/// A cursor as an iterator.
struct CursorRun<C> {
    cursor: C,
    failed: Option<TableError>,
}

impl<C: Cursor> Iterator for CursorRun<C> {
    type Item = Result<Item, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error.into()));
        }
        if !self.cursor.valid() {
            return None;
        }
        let key = self.cursor.shared_key();
        let version = Version { sequence: self.cursor.seq(), value: self.cursor.value() };
        self.failed = self.cursor.advance().err();
        Some(Ok((key, version)))
    }
}

fn run(cursor: impl Cursor + Send + 'static) -> Run {
    Box::new(CursorRun { cursor, failed: None })
}

impl Levels {
    /// Opens what a manifest names.
    pub(crate) fn open(tables: &Tables, named: &[Vec<Named>]) -> Result<Self, OpenError> {
        let mut levels = Vec::new();
        for level in named {
            let opened = level.iter().map(|named| tables.open(named.id, named.bytes, named.swept));
            levels.push(opened.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Self::of(levels))
    }

    fn of(levels: Vec<Vec<Arc<TableFile>>>) -> Self {
        let last = |file: &Arc<TableFile>| head_of(&file.meta().last);
        let lasts = levels.iter().map(|level| level.iter().map(last).collect()).collect();
        Self { levels, lasts }
    }

    /// Opens what a manifest names and can be opened; the rest, with why not.
    pub(crate) fn open_sound(
        tables: &Tables,
        named: &[Vec<Named>],
    ) -> Result<(Self, Vec<(Named, Damage)>), OpenError> {
        let (mut levels, mut bad) = (Vec::new(), Vec::new());
        for level in named {
            let mut sound = Vec::new();
            for named in level {
                match tables.open(named.id, named.bytes, named.swept) {
                    Ok(file) => sound.push(file),
                    Err(TableError::Damaged(damage)) => bad.push((named.clone(), damage)),
                    Err(other) => return Err(other.into()),
                }
            }
            levels.push(sound);
        }
        Ok((Self::of(levels), bad))
    }

    /// The newest version of a key in tables, `None` if finding it needs the disk. Version 0
    /// without a value: no table has it.
    pub(crate) fn get(&self, key: &TableKey, mode: ReadMode) -> Result<Option<Version>, ReadError> {
        let probe = Probe::new(key.as_bytes());
        let candidates = self.candidates(&probe, key);
        let mut filtered = 0;
        let found = find(&candidates, &probe, mode, &mut filtered);
        if let Some(file) = candidates.iter().copied().flatten().next().filter(|_| filtered > 0) {
            // One count for all of them: most lookups end at filters.
            file.table.count_filtered(filtered);
        }
        found
    }

    /// By level the tables that may hold a key, their filters on the way into the processor's cache.
    #[inline]
    fn candidates(&self, probe: &Probe<'_>, key: &TableKey) -> [&[Arc<TableFile>]; LEVELS] {
        let mut candidates: [&[Arc<TableFile>]; LEVELS] = [&[]; LEVELS];
        let mut touched = 0;
        let levels = self.levels.iter().zip(&self.lasts).enumerate();
        for (slot, (depth, (level, lasts))) in candidates.iter_mut().zip(levels) {
            *slot = if depth == 0 { level } else { holder(level, lasts, key.as_bytes()) };
            touched = slot.iter().fold(touched, |sum, file| sum ^ file.table.touch(probe));
        }
        std::hint::black_box(touched);
        candidates
    }

    /// Runs that together hold every version in tables of the keys in `[from, to)`: one for each table
    /// of level 0, one for each deeper level. `to` `None`: to the end.
    pub(crate) fn runs(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mode: ReadMode,
    ) -> Result<Vec<Run>, ReadError> {
        Ok(self.runs_where((from, to), mode, |_| true)?)
    }

    /// The tables with these numbers, whole.
    pub(crate) fn runs_of(&self, ids: &[u64]) -> Result<Vec<Run>, TableError> {
        self.runs_where((&[], None), ReadMode::Blocking, |file| ids.contains(&file.id()))
    }

    fn runs_where(
        &self,
        (from, to): (&[u8], Option<&[u8]>),
        mode: ReadMode,
        wanted: impl Fn(&TableFile) -> bool,
    ) -> Result<Vec<Run>, TableError> {
        let mut runs = Vec::new();
        for (depth, level) in self.levels.iter().enumerate() {
            let tables = level.iter().filter(|file| wanted(file)).map(|file| file.table.clone());
            let (start, end) =
                (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
            if depth == 0 {
                for table in tables {
                    runs.push(run(table.scan_as(start, end, READ_AHEAD_BYTES, mode)?));
                }
            } else {
                let level = LevelCursor::new_as(tables, start, end, READ_AHEAD_BYTES, mode)?;
                runs.push(run(level));
            }
        }
        Ok(runs)
    }

    /// The tables with these numbers.
    pub(crate) fn files(&self, ids: &[u64]) -> Vec<Arc<TableFile>> {
        self.all().filter(|file| ids.contains(&file.id())).cloned().collect()
    }

    /// The table with a number, and its level.
    pub(crate) fn place_of(&self, id: u64) -> Option<(usize, Arc<TableFile>)> {
        self.levels.iter().enumerate().find_map(|(level, files)| {
            files.iter().find(|file| file.id() == id).map(|file| (level, file.clone()))
        })
    }

    /// The table with the lowest number at or above one.
    pub(crate) fn first_from(&self, id: u64) -> Option<Arc<TableFile>> {
        self.all().filter(|file| file.id() >= id).min_by_key(|file| file.id()).cloned()
    }

    /// How many tables have a number at or above one.
    pub(crate) fn count_from(&self, id: u64) -> u64 {
        self.all().filter(|file| file.id() >= id).count() as u64
    }

    /// This set with some tables taken out and others put into a level.
    pub(crate) fn changed(
        &self,
        removed: &[u64],
        added: Vec<Arc<TableFile>>,
        level: usize,
    ) -> Self {
        let mut levels: Vec<Vec<Arc<TableFile>>> = self
            .levels
            .iter()
            .map(|files| {
                files.iter().filter(|file| !removed.contains(&file.id())).cloned().collect()
            })
            .collect();
        if !added.is_empty() && levels.len() <= level {
            levels.resize_with(level + 1, Vec::new);
        }
        if let Some(files) = levels.get_mut(level) {
            files.extend(added);
            if level == 0 {
                files.sort_by_key(|file| std::cmp::Reverse(file.meta().max_seq));
            } else {
                files.sort_by(|a, b| a.meta().first.cmp(&b.meta().first));
            }
        }
        while levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        Self::of(levels)
    }

    /// Says that the files of tables which `next` has no longer may go with their last reader.
    pub(crate) fn retire_all_but(&self, next: &Levels) {
        let kept: BTreeSet<u64> = next.all().map(|file| file.id()).collect();
        for file in self.all().filter(|file| !kept.contains(&file.id())) {
            file.obsolete.store(true, Ordering::Release);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TableFile>> {
        self.levels.iter().flatten()
    }

    /// Whether any table may hold an entry that a range drop hides.
    pub(crate) fn hold_some_of(&self, drop: &Span) -> bool {
        self.all().any(|file| file.holds_some_of(drop))
    }

    /// Tables that hold nothing but what the drops hide.
    pub(crate) fn hidden_by(&self, drops: &Spans) -> Vec<u64> {
        let hidden = |meta: &TableMeta| drops.cover(&meta.first, &meta.last, meta.max_seq);
        self.all().filter(|file| hidden(file.meta())).map(|file| file.id()).collect()
    }

    /// The level and number of a table that the drops cut and that is not in `except`.
    pub(crate) fn cut_by(
        &self,
        drops: &Spans,
        except: &BTreeSet<TableId>,
    ) -> Option<(usize, TableId)> {
        let cut = |file: &&Arc<TableFile>| {
            !except.contains(&file.table.id()) && drops.iter().any(|drop| file.holds_some_of(drop))
        };
        self.levels
            .iter()
            .enumerate()
            .find_map(|(level, files)| files.iter().find(cut).map(|file| (level, file.table.id())))
    }

    /// For the manifest.
    pub(crate) fn named(&self) -> Vec<Vec<Named>> {
        let name = |file: &Arc<TableFile>| {
            let meta = file.meta();
            Named {
                id: file.id(),
                bytes: meta.bytes,
                swept: file.swept,
                max_seq: meta.max_seq,
                first: meta.first.clone(),
                last: meta.last.clone(),
            }
        };
        self.levels.iter().map(|level| level.iter().map(name).collect()).collect()
    }

    /// For choosing a compaction.
    pub(crate) fn metas(&self) -> Vec<Vec<TableMeta>> {
        let meta = |file: &Arc<TableFile>| file.meta().clone();
        self.levels.iter().map(|level| level.iter().map(meta).collect()).collect()
    }

    /// Tables in each level.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.levels.iter().map(|level| level.len() as u64).collect()
    }

    /// Bytes of each level.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        let size = |level: &Vec<Arc<TableFile>>| level.iter().map(|file| file.meta().bytes).sum();
        self.levels.iter().map(size).collect()
    }

    /// Tables in level 0.
    pub(crate) fn level0(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> u64 {
        self.all().map(|file| file.meta().bytes).sum()
    }
}

/// The newest version of a key in tables of which the first to have it is right. `filtered` gets how many
/// were ruled out by their filters in memory.
#[inline]
fn find(
    candidates: &[&[Arc<TableFile>]],
    probe: &Probe<'_>,
    mode: ReadMode,
    filtered: &mut u64,
) -> Result<Option<Version>, ReadError> {
    for file in candidates.iter().copied().flatten() {
        if let Some(why) = file.table.excludes(probe) {
            *filtered += u64::from(why == Absence::Filter);
            continue;
        }
        match file.table.find(probe, u64::MAX, mode)? {
            Lookup::Found { seq, value } => {
                return Ok(Some(Version { sequence: seq, value }));
            }
            Lookup::NeedsDisk => return Ok(None),
            Lookup::Absent(_) => {}
        }
    }
    Ok(Some(Version { sequence: 0, value: None }))
}

/// The one table of a sorted level that may hold a key.
fn holder<'a>(level: &'a [Arc<TableFile>], lasts: &[u64], key: &[u8]) -> &'a [Arc<TableFile>] {
    let head = head_of(key);
    let mut at = lasts.partition_point(|last| *last < head);
    // Where heads are equal the keys decide.
    while lasts.get(at) == Some(&head) && level[at].meta().last.as_ref() < key {
        at += 1;
    }
    level.get(at..=at).unwrap_or_default()
}
