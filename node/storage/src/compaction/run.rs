//! Merging tables: carries out a choice of `choose`, or writes any sorted run as tables.
//!
//! Of each key only the newest version goes on. An erase mark goes on as long as an older version
//! may lie below the output level. Tables that overlap nothing and hold no erase mark only change
//! their level. Inputs are deleted after the manifest names the outputs, when no reader holds them (rule R12). A damaged
//! input ends the run; its bytes are never copied (rule R7).

use super::choose::{Below, Choice, Limits, choose};
use crate::error::{IoFailure, ReadError};
use crate::guard::lock;
use crate::levels::Levels;
use crate::manifest;
use crate::merge::{Item, Merge};
use crate::store::Engine;
use crate::table::{TableError, TableId, TableMeta, TableWriter};
use bytes::Bytes;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Engine {
    /// Whether there is anything to merge.
    pub(crate) fn needs_compaction(&self) -> bool {
        self.choice(&self.state.load().levels).is_some()
    }

    fn choice(&self, levels: &Levels) -> Option<Choice> {
        // One compaction at a time: only what is damaged is not to be touched.
        choose(&levels.metas(), &Limits::from(&self.options), &lock(&self.damaged))
    }

    /// Merges once, if there is anything to merge. Error: the inputs are still in use.
    pub(crate) fn compact(self: &Arc<Self>) -> Result<(), ReadError> {
        let levels = self.state.load().levels.clone();
        let Some(choice) = self.choice(&levels) else { return Ok(()) };
        let mut written = Vec::new();
        let outcome = self.merge(&levels, &choice, &mut written);
        if outcome.is_err() {
            for id in written {
                // An orphan if this fails; the next start removes it.
                let _ = self.disk.remove(&manifest::table_path(&self.tables_dir, id));
            }
        }
        match outcome {
            Ok(()) => {
                self.figures.compactions.add(1);
                Ok(())
            }
            Err(TableError::Stopped) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn merge(
        self: &Arc<Self>,
        levels: &Arc<Levels>,
        choice: &Choice,
        written: &mut Vec<u64>,
    ) -> Result<(), TableError> {
        let inputs: Vec<u64> = choice.inputs.iter().map(|id| id.0).collect();
        let files = levels.files(&inputs);
        if choice.moves && files.iter().all(|file| file.meta().erasures == 0) {
            let moved = self.install(&inputs, files, choice.output_level, |_| ());
            return moved.map_err(TableError::Io).inspect_err(|error| self.judge_write(error));
        }
        let below = Below::new(&levels.metas(), choice);
        let runs = levels.runs_of(&inputs)?;
        let mut failure = None;
        let metas = {
            let mut items = Merge::new(runs)
                .newest(u64::MAX)
                .map_while(|item| match item {
                    Ok(item) => Some(item),
                    Err(error) => {
                        failure = Some(error);
                        None
                    }
                })
                .filter(|(key, version)| version.value.is_some() || below.may_hold(key))
                .map(Ok)
                .peekable();
            self.write_tables(&mut items, choice.output_level, written)
        };
        if let Some(error) = failure {
            return Err(as_table(error));
        }
        let metas = metas.inspect_err(|error| self.judge_write(error))?;
        self.figures.compaction_bytes.add(metas.iter().map(|meta| meta.bytes).sum());
        let installed = self
            .tables
            .open_all(&metas)
            .and_then(|files| Ok(self.install(&inputs, files, choice.output_level, |_| ())?));
        installed.inspect_err(|error| self.judge_write(error))
    }

    /// A write or sync that the disk refused for another reason than space ends the store.
    fn judge_write(&self, error: &TableError) {
        if let TableError::Io(failure) = error
            && !failure.is_full()
        {
            self.health.fail(format!("a compaction failed: {failure}"));
        }
    }

    /// Writes a sorted run as tables of a level, synced; their names are not yet. Level 0 gets one
    /// table, others tables of about `table_bytes`. `written` gets every number that was begun, also
    /// on error.
    pub(crate) fn write_tables(
        &self,
        items: &mut Peekable<impl Iterator<Item = Result<Item, ReadError>>>,
        level: usize,
        written: &mut Vec<u64>,
    ) -> Result<Vec<TableMeta>, TableError> {
        let table_bytes = if level == 0 { u64::MAX } else { self.options.table_bytes };
        let mut metas = Vec::new();
        while items.peek().is_some() {
            let id = self.next_file.fetch_add(1, Ordering::Relaxed);
            written.push(id);
            let path = manifest::table_path(&self.tables_dir, id);
            let created = self.disk.create(&path);
            let file = created.map_err(|error| IoFailure::new(&path, "create", &error))?;
            let options = self.tables.writer_options(level);
            let mut writer = TableWriter::new(TableId(id), &path, file, options)?;
            while writer.entries() == 0 || writer.estimated_bytes() < table_bytes {
                let Some(item) = items.next() else { break };
                let (key, version): (Bytes, _) = item.map_err(as_table)?;
                writer.add(&key, version.sequence, version.value.as_deref())?;
            }
            metas.push(writer.finish()?);
        }
        Ok(metas)
    }
}

fn as_table(error: ReadError) -> TableError {
    match error {
        ReadError::Io(failure) => TableError::Io(failure),
        ReadError::Damaged(damage) => TableError::Damaged(damage),
        _ => TableError::Stopped,
    }
}
