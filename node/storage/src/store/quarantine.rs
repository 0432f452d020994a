//! What happens to a damaged table: it is set aside, and what it held is known to be missing.
//!
//! Whoever meets damage (a lookup, a merge, the scrub, the replay) reports it with [`Engine::suspect`].
//! A job then reads the whole table. Its sound blocks are written out again in its place; the file
//! keeps a name in `quarantine/`, beside a report of every damaged place and of the key ranges that
//! these may have held; and the manifest names these ranges as lost, in the same edit that takes the
//! table out. From then on a lookup there answers an error unless it finds something newer than all that
//! the table held: never "absent", never an older value. The mark lasts until the range is dropped,
//! which is how a replica is rebuilt.
//!
//! Bytes that fail their checksum are never copied (rule R7). If anything here fails, the table stays in
//! use as it is, out of merges, and a later tick tries again.

use super::engine::Engine;
use crate::disk::Disk;
use crate::error::{Damage, IoFailure, OpenError, ReadError};
use crate::guard::lock;
use crate::key::TableKey;
use crate::levels::TableFile;
use crate::maintenance::Lane;
use crate::manifest::{self, table_path};
use crate::merge::{Item, Run};
use crate::meta;
use crate::sealed::{self, Kind};
use crate::table::{ScrubReport, TableError, TableId};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where damaged files are kept, in the data directory.
pub(crate) const QUARANTINE: &str = "quarantine";

const REPORT: Kind = Kind { magic: *b"KVQUAR\0\n", version: 1 };

/// A quarantine that did not succeed is tried again after this time.
const RETRY_MS: u64 = 10_000;

/// A range of keys of which changes were lost. It lasts until the range is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// The first key.
    pub from: TableKey,
    /// The first key behind the range; `None`: to the end.
    pub to: Option<TableKey>,
    /// Changes up to this sequence number may be missing.
    pub up_to: u64,
}

impl Engine {
    /// Whether damage lies in a table of this store; then the table will be looked at.
    pub(crate) fn suspect(self: &Arc<Self>, damage: &Damage) -> bool {
        let name = damage.path.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(manifest::number_of) else { return false };
        if damage.path != table_path(&self.tables_dir, id) {
            return false;
        }
        if lock(&self.damaged).insert(TableId(id)) {
            self.quarantine_soon(id);
        }
        true
    }

    pub(super) fn retry_quarantines(self: &Arc<Self>, now_ms: u64) {
        let due = self.quarantine_at_ms.load(Ordering::Relaxed);
        if now_ms < due {
            return;
        }
        self.quarantine_at_ms.store(now_ms + RETRY_MS, Ordering::Relaxed);
        let ids: Vec<TableId> = lock(&self.damaged).iter().copied().collect();
        ids.iter().for_each(|id| self.quarantine_soon(id.0));
    }

    /// On the compaction lane: no merge has the table as its input then.
    fn quarantine_soon(self: &Arc<Self>, id: u64) {
        self.submit_vital(Lane::Compact, move |engine| {
            if engine.health.check().is_err() {
                return;
            }
            match engine.quarantine(id) {
                Ok(()) => _ = lock(&engine.damaged).remove(&TableId(id)),
                Err(error) => {
                    engine.figures.background_errors.add(1);
                    engine.judge_write(&error);
                }
            }
            engine.merge_check_due.store(true, Ordering::Release);
            engine.work_if_due();
            engine.admit_stalled();
        });
    }

    fn quarantine(self: &Arc<Self>, id: u64) -> Result<(), TableError> {
        let levels = self.state.load().levels.clone();
        let Some((level, file)) = levels.place_of(id) else { return Ok(()) };
        let report = file.table().verify(&mut |_| true)?;
        if report.is_sound() {
            // Read wrongly, not stored wrongly.
            return Ok(());
        }
        self.set_aside(id, level, &file, &report)?;
        let mut written = Vec::new();
        let installed = self.replace_by_sound_part(id, level, &file, &report, &mut written);
        match &installed {
            Err(error) => self.discard_after(&written, error),
            Ok(()) => self.figures.quarantined.add(1),
        }
        installed
    }

    /// Gives the file a name in the quarantine, and writes the report; both durable when this returns.
    fn set_aside(
        &self,
        id: u64,
        level: usize,
        file: &TableFile,
        report: &ScrubReport,
    ) -> Result<(), IoFailure> {
        let (disk, dir) = (&*self.disk, self.options.dir.join(QUARANTINE));
        let io = |path: &PathBuf, what: &str, error| IoFailure::new(path, what, &error);
        disk.create_dir(&dir).map_err(|error| io(&dir, "create the directory", error))?;
        let aside = table_path(&dir, id);
        match disk.link(&table_path(&self.tables_dir, id), &aside) {
            // From an attempt that failed later on.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => done.map_err(|error| io(&aside, "link", error))?,
        }
        let sealed = sealed::seal(&REPORT, id, told(level, file, report).as_bytes());
        meta::replace_file(disk, &report_path(&self.options.dir, id), &sealed)?;
        let synced = disk.sync_dir(&self.options.dir);
        synced.map_err(|error| io(&self.options.dir, "sync the directory", error))
    }

    fn replace_by_sound_part(
        self: &Arc<Self>,
        id: u64,
        level: usize,
        file: &TableFile,
        report: &ScrubReport,
        written: &mut Vec<u64>,
    ) -> Result<(), TableError> {
        let mut failure = None;
        let breathe = || self.breathe(Lane::Compact);
        let metas = {
            let sound = sound_part(file, report).map_while(|item| match item {
                Ok(item) => Some(item),
                Err(error) => {
                    failure = Some(error);
                    None
                }
            });
            self.output(level, &breathe).write(&mut sound.peekable(), written)
        };
        if let Some(error) = failure {
            // It was read well a moment ago: nothing is given up for that.
            self.remove_tables(written);
            written.clear();
            return Err(error);
        }
        let metas = metas?;
        let outputs = self.tables.open_all(&metas, file.swept())?;
        let max_seq = file.meta().max_seq;
        self.install(&[id], outputs, level, |manifest| {
            for (first, last) in &report.lost {
                let (from, to) = (TableKey::first_from(first), TableKey::first_from(&behind(last)));
                let lost = manifest.lost.raised(from.encoded(), Some(to.encoded()), max_seq);
                manifest.lost = lost;
            }
        })?;
        Ok(())
    }

    pub(crate) fn lost_ranges(&self) -> Vec<LostRange> {
        let state = self.state.load();
        let range = |span: &crate::spans::Span| LostRange {
            from: TableKey::first_from(&span.from),
            to: span.to.as_deref().map(TableKey::first_from),
            up_to: span.sequence,
        };
        state.ranges.lost().iter().map(range).collect()
    }
}

/// The reports in the quarantine of a data directory, by number of the table. Error of one: it is damaged
/// or cannot be read.
pub(crate) fn reports(
    disk: &dyn Disk,
    dir: &std::path::Path,
) -> Vec<(u64, Result<String, OpenError>)> {
    let names = disk.list(&dir.join(QUARANTINE)).unwrap_or_default();
    let id = |name: &String| u64::from_str_radix(name.strip_suffix(".report")?, 16).ok();
    let read = |id: u64| -> Result<String, OpenError> {
        let path = report_path(dir, id);
        let bytes = meta::read_whole(disk, &path)?.unwrap_or_default();
        let text = sealed::open(&path, &REPORT, id, &bytes)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    };
    names.iter().filter_map(id).map(|id| (id, read(id))).collect()
}

/// The report that stands beside a table in quarantine.
pub(crate) fn report_path(dir: &std::path::Path, id: u64) -> PathBuf {
    dir.join(QUARANTINE).join(format!("{id:016x}.report"))
}

/// The first key behind another.
pub(super) fn behind(key: &[u8]) -> Bytes {
    let mut behind = key.to_vec();
    behind.push(0);
    behind.into()
}

/// Every entry outside the ranges that may be lost. Error: anything but the damage of the report.
fn sound_part<'a>(
    file: &'a TableFile,
    report: &'a ScrubReport,
) -> impl Iterator<Item = Result<Item, TableError>> + 'a {
    // The cursor looks one block ahead and may find a damaged one: that is the end of a piece.
    let known = |error: &ReadError| match error {
        ReadError::Damaged(met) => report.damages.iter().any(|known| known.offset == met.offset),
        _ => false,
    };
    let starts = report.lost.iter().map(|(_, last)| behind(last));
    let starts = std::iter::once(file.meta().first.clone()).chain(starts);
    let ends = report.lost.iter().map(|(first, _)| Some(first.clone())).chain([None]);
    starts.zip(ends).flat_map(move |(start, end)| {
        let run: Run = match file.run_from(&start) {
            Ok(run) => run,
            Err(error) => Box::new(std::iter::once(Err(error.into()))),
        };
        run.map_while(move |item| match item {
            Ok((key, version)) => {
                end.as_ref().is_none_or(|end| key < *end).then_some(Ok((key, version)))
            }
            Err(error) if known(&error) => None,
            Err(error) => Some(Err(as_table(error))),
        })
    })
}

fn as_table(error: ReadError) -> TableError {
    match error {
        ReadError::Io(failure) => TableError::Io(failure),
        ReadError::Damaged(damage) => TableError::Damaged(damage),
        _ => TableError::Stopped,
    }
}

/// The report as text, one fact a line.
fn told(level: usize, file: &TableFile, report: &ScrubReport) -> String {
    use std::fmt::Write;
    let meta = file.meta();
    let key = |key: &Bytes| match TableKey::from_encoded(key.clone()) {
        Ok(key) => format!("{key:?}"),
        Err(_) => format!("{}", key.escape_ascii()),
    };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "table {} of level {level}: {} entries, sequence numbers {} to {}, keys {} to {}",
        meta.id,
        meta.entries,
        meta.min_seq,
        meta.max_seq,
        key(&meta.first),
        key(&meta.last),
    );
    let _ = writeln!(text, "sound entries: {}", report.entries);
    for damage in &report.damages {
        let _ = writeln!(text, "damaged at byte {}: {}", damage.offset, damage.detail);
    }
    for (first, last) in &report.lost {
        let _ = writeln!(text, "may be lost: {} to {}", key(first), key(last));
    }
    text
}
