//! Merging tables: carries out a choice of `choose`, and writes any sorted run as tables.
//!
//! Of each key only the newest version goes on, and only if no range drop hides it. An erase mark goes
//! on as long as an older version may lie below the output level; a table rewritten within its level
//! keeps all of them, since older tables may lie beside it. A damaged input ends the run; its bytes are never copied
//! (rule R7). Whoever calls installs the outputs and deletes the inputs (rule R12).

use super::choose::{Below, Choice};
use super::pace::PIECE_BYTES;
use crate::disk::Disk;
use crate::error::{IoFailure, ReadError};
use crate::levels::{Levels, Tables};
use crate::manifest;
use crate::merge::{Item, Merge};
use crate::spans::Spans;
use crate::table::{TableError, TableId, TableMeta, TableWriter};
use std::iter::Peekable;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where tables are written to.
pub(crate) struct Output<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) tables: &'a Tables,
    /// The next number of a table.
    pub(crate) next_file: &'a AtomicU64,
    /// The level that the tables are for.
    pub(crate) level: usize,
    /// About how large a table may become.
    pub(crate) table_bytes: u64,
    /// Called after each piece of work (see `pace`); may hold the thread for a moment.
    pub(crate) breathe: &'a dyn Fn(),
}

/// Why a merge ended early. The inputs are as they were.
pub(crate) enum MergeError {
    /// An input could not be read.
    Read(ReadError),
    /// An output could not be written.
    Write(TableError),
}

impl Output<'_> {
    /// Writes a sorted run as tables, synced; their names are not yet. `written` gets every number
    /// that was begun, also on error.
    pub(crate) fn write(
        &self,
        items: &mut Peekable<impl Iterator<Item = Item>>,
        written: &mut Vec<u64>,
    ) -> Result<Vec<TableMeta>, TableError> {
        let mut metas = Vec::new();
        while items.peek().is_some() {
            let id = self.next_file.fetch_add(1, Ordering::Relaxed);
            written.push(id);
            let path = manifest::table_path(self.dir, id);
            let created = self.disk.create(&path);
            let file = created.map_err(|error| IoFailure::new(&path, "create", &error))?;
            let options = self.tables.writer_options(self.level);
            let mut writer = TableWriter::new(TableId(id), &path, file, options)?;
            let mut piece = PIECE_BYTES;
            while writer.entries() == 0 || writer.estimated_bytes() < self.table_bytes {
                let Some((key, version)) = items.next() else { break };
                writer.add(&key, version.sequence, version.value.as_deref())?;
                if writer.estimated_bytes() >= piece {
                    piece = writer.estimated_bytes() + PIECE_BYTES;
                    (self.breathe)();
                }
            }
            metas.push(writer.finish()?);
        }
        Ok(metas)
    }
}

/// Merges the tables of a choice into new ones. `written` as in [`Output::write`].
pub(crate) fn merge(
    levels: &Levels,
    choice: &Choice,
    drops: &Spans,
    output: &Output<'_>,
    written: &mut Vec<u64>,
) -> Result<Vec<TableMeta>, MergeError> {
    let inputs: Vec<u64> = choice.inputs.iter().map(|id| id.0).collect();
    let below = Below::new(&levels.metas(), choice);
    let runs = levels.runs_of(&inputs).map_err(|error| MergeError::Read(error.into()))?;
    let mut failure = None;
    let metas = {
        let sound = Merge::new(runs).newest(u64::MAX).map_while(|item| match item {
            Ok(item) => Some(item),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        let in_place = choice.level == choice.output_level;
        let kept = sound.filter(|(key, version)| {
            drops.at(key) <= version.sequence
                && (version.value.is_some() || in_place || below.may_hold(key))
        });
        output.write(&mut kept.peekable(), written)
    };
    match failure {
        Some(error) => Err(MergeError::Read(error)),
        None => metas.map_err(MergeError::Write),
    }
}
