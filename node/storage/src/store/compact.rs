//! Compaction within a store: choose, merge, install. Inputs are deleted after the manifest names
//! the outputs, when no reader holds them (rule R12). Tables that overlap nothing and hold no erase
//! mark only change their level.

use super::engine::Engine;
use crate::compaction::choose::{Choice, Limits, Reason, choose};
use crate::compaction::pace::{Scene, pause_ms};
use crate::compaction::run::{MergeError, Output, merge};
use crate::error::{IoFailure, ReadError};
use crate::guard::lock;
use crate::levels::Levels;
use crate::maintenance::Lane;
use crate::spans::Spans;
use crate::table::TableError;
use std::sync::Arc;
use std::time::Duration;

impl Engine {
    /// Whether there is anything to merge.
    pub(super) fn needs_compaction(&self) -> bool {
        let state = self.state.load();
        let drops = state.ranges.settled();
        self.choice(&state.levels).is_some()
            || !state.levels.hidden_by(drops).is_empty()
            || state.levels.cut_by(drops, &lock(&self.damaged)).is_some()
    }

    /// The next rewrite of a table that a range drop cuts.
    fn sweep(&self, levels: &Levels, drops: &Spans) -> Option<Choice> {
        let (level, id) = levels.cut_by(drops, &lock(&self.damaged))?;
        Some(Choice {
            level,
            output_level: level,
            inputs: vec![id],
            moves: false,
            bytes: 0,
            reason: Reason::Dropped,
        })
    }

    fn choice(&self, levels: &Levels) -> Option<Choice> {
        // One compaction at a time: only what is damaged is not to be touched.
        choose(&levels.metas(), &Limits::from(&self.options), &lock(&self.damaged))
    }

    /// Where tables of a level are written: level 0 gets one for each memtable.
    pub(super) fn output<'a>(&'a self, level: usize, breathe: &'a dyn Fn()) -> Output<'a> {
        Output {
            disk: &*self.disk,
            dir: &self.tables_dir,
            tables: &self.tables,
            next_file: &self.next_file,
            level,
            table_bytes: if level == 0 { u64::MAX } else { self.options.table_bytes },
            breathe,
        }
    }

    /// Lets foreground work go first for a moment, if any waits and nothing speaks against it.
    pub(super) fn breathe(self: &Arc<Self>, lane: Lane) {
        self.piece_done();
        let state = self.state.load();
        let pause = pause_ms(&Scene {
            waiting_reads: self.figures.waiting_reads.get(),
            log_busy: self.log.is_busy(),
            stalled: lock(&self.stalled).len() as u64,
            level0: state.levels.level0(),
            level0_stop: self.options.level0_stop,
            frozen: state.frozen.len(),
            frozen_max: self.options.immutable_memtables_max,
        });
        if pause > 0 {
            self.figures.background_pauses.add(1);
            self.maintenance.hold_back(lane, Duration::from_millis(pause));
        }
    }

    /// Merges once, if there is anything to merge. Error: the inputs are still in use.
    pub(super) fn compact(self: &Arc<Self>) -> Result<(), ReadError> {
        let (levels, ranges) = {
            let state = self.state.load();
            (state.levels.clone(), state.ranges.clone())
        };
        let hidden = levels.hidden_by(ranges.settled());
        if !hidden.is_empty() {
            // Whole tables go without being read.
            return self.install(&hidden, Vec::new(), 0, |_| ()).map_err(|failure| {
                let error = TableError::Io(failure);
                self.judge_write(&error);
                error.into()
            });
        }
        let choice = self.sweep(&levels, ranges.settled()).or_else(|| self.choice(&levels));
        let Some(choice) = choice else { return Ok(()) };
        let mut written = Vec::new();
        let outcome = self.carry_out(&levels, &choice, ranges.settled(), &mut written);
        match &outcome {
            Err(MergeError::Write(error)) => self.discard_after(&written, error),
            Err(MergeError::Read(_)) => self.remove_tables(&written),
            Ok(()) => {}
        }
        match outcome {
            Ok(()) => {
                self.figures.compactions.add(1);
                Ok(())
            }
            Err(MergeError::Read(error)) => Err(error),
            Err(MergeError::Write(error)) => {
                self.judge_write(&error);
                Err(error.into())
            }
        }
    }

    fn carry_out(
        self: &Arc<Self>,
        levels: &Levels,
        choice: &Choice,
        drops: &Spans,
        written: &mut Vec<u64>,
    ) -> Result<(), MergeError> {
        let inputs: Vec<u64> = choice.inputs.iter().map(|id| id.0).collect();
        let level = choice.output_level;
        let install_failed = |failure: IoFailure| MergeError::Write(failure.into());
        let files = levels.files(&inputs);
        if choice.moves && files.iter().all(|file| file.meta().erasures == 0) {
            self.figures.table_moves.add(1);
            return self.install(&inputs, files, level, |_| ()).map_err(install_failed);
        }
        let breathe = || self.breathe(Lane::Compact);
        let metas = merge(levels, choice, drops, &self.output(level, &breathe), written)?;
        self.figures.compaction_bytes.add(metas.iter().map(|meta| meta.bytes).sum());
        let outputs = self.tables.open_all(&metas, drops.highest()).map_err(MergeError::Write)?;
        self.install(&inputs, outputs, level, |_| ()).map_err(install_failed)
    }

    /// As [`Engine::discard`]; a failure that is none of the disk comes before the manifest.
    pub(super) fn discard_after(&self, written: &[u64], error: &TableError) {
        match error {
            TableError::Io(failure) => self.discard(written, failure),
            _ => self.remove_tables(written),
        }
    }

    /// A write or sync that the disk refused for another reason than space ends the store.
    pub(super) fn judge_write(&self, error: &TableError) {
        if let TableError::Io(failure) = error
            && !failure.is_full()
        {
            self.health.fail(format!("a compaction failed: {failure}"));
        }
    }
}
