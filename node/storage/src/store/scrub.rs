//! Reading everything again, slowly, to find rot before the last replica rots (rule R13).
//!
//! A round reads every table once, by number, then every closed log segment, the manifest and the
//! observer's state. The ticks drive it: each grants bytes at the configured rate, a job on the idle lane
//! takes one file and may overdraw, and the next waits until that is paid back. Where a round stands is
//! kept in the file `SCRUB`, so a node that restarts often still comes round; time while the node is
//! down does not count.
//!
//! What is found: a damaged table goes into quarantine; a damaged log segment is made superfluous by a
//! flush, while memory still has what it held; a damaged manifest is written again from memory; a
//! damaged observer state is replaced by the next flush. All of it is counted.

use super::engine::Engine;
use crate::error::{IoFailure, OpenError, ReadError};
use crate::guard::lock;
use crate::log::replay;
use crate::maintenance::Lane;
use crate::manifest::{self, Manifest};
use crate::meta;
use crate::sealed::u64_at;
use crate::table::TableError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Progress is noted at least this often, in time by the ticks.
const NOTE_EVERY_MS: u64 = 600_000;

/// Where the rounds stand.
#[derive(Debug, Default)]
pub(crate) struct Scrubbing {
    /// Time counted since the last round began.
    elapsed_ms: u64,
    /// The round under way has read every table below this number; `None`: no round.
    next: Option<u64>,
    ticked_ms: Option<u64>,
    noted_ms: u64,
    /// Bytes that may be read; below 0 after a large file.
    budget: i64,
    scheduled: bool,
}

impl Scrubbing {
    /// As noted by an earlier run. A file that cannot be read only costs a round from the beginning.
    pub(crate) fn load(disk: &dyn crate::disk::Disk, dir: &Path) -> Self {
        let noted = meta::load(disk, &path(dir)).ok().flatten();
        match noted.filter(|noted| noted.len() == 16) {
            Some(noted) => Self {
                elapsed_ms: u64_at(&noted, 0),
                next: Some(u64_at(&noted, 8)).filter(|next| *next > 0),
                ..Self::default()
            },
            None => Self::default(),
        }
    }

    fn noted(&self) -> Vec<u8> {
        let (elapsed, next) = (self.elapsed_ms.to_le_bytes(), self.next.unwrap_or(0).to_le_bytes());
        [elapsed, next].concat()
    }

    /// Counts time and grants bytes; whether a file is to be read now, and whether to note.
    fn tick(&mut self, now_ms: u64, interval_ms: u64, rate: u64) -> (bool, bool) {
        let before = self.ticked_ms.replace(now_ms).unwrap_or(now_ms);
        let passed = now_ms.saturating_sub(before);
        self.elapsed_ms = self.elapsed_ms.saturating_add(passed);
        if self.next.is_none() && self.elapsed_ms >= interval_ms {
            (self.next, self.elapsed_ms, self.budget) = (Some(1), 0, 0);
        }
        let granted = i64::try_from(rate.saturating_mul(passed) / 1000).unwrap_or(i64::MAX);
        let most = i64::try_from(rate).unwrap_or(i64::MAX);
        self.budget = self.budget.saturating_add(granted).min(most);
        let run = self.next.is_some() && self.budget >= 0 && !self.scheduled;
        self.scheduled |= run;
        let note = now_ms.saturating_sub(self.noted_ms) >= NOTE_EVERY_MS;
        if note {
            self.noted_ms = now_ms;
        }
        (run, note)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("SCRUB")
}

impl Engine {
    pub(super) fn tick_scrub(self: &Arc<Self>, now_ms: u64) {
        let (interval_ms, rate) = (self.options.scrub_interval_ms, self.options.scrub_bytes_per_s);
        if interval_ms == 0 || self.health.is_closed() {
            return;
        }
        let (run, note) = lock(&self.scrubbing).tick(now_ms, interval_ms, rate);
        if run {
            self.submit(Lane::Idle, |engine| {
                engine.scrub_next();
                lock(&engine.scrubbing).scheduled = false;
            });
        } else if note {
            self.submit(Lane::Idle, |engine| engine.note_scrub());
        }
    }

    fn note_scrub(&self) {
        let Some(_owned) = self.owned().filter(|_| self.health.check().is_ok()) else { return };
        let noted = lock(&self.scrubbing).noted();
        // Not noted costs a part of a round again.
        let _ = meta::replace(&*self.disk, &path(&self.options.dir), &noted);
    }

    /// Reads the next file of the round.
    fn scrub_next(self: &Arc<Self>) {
        let Some(next) = lock(&self.scrubbing).next else { return };
        let levels = self.state.load().levels.clone();
        let Some(file) = levels.first_from(next) else {
            let bytes = self.scrub_rest();
            self.figures.scrub_bytes.add(bytes);
            self.figures.scrub_rounds.add(1);
            lock(&self.scrubbing).next = None;
            return self.note_scrub();
        };
        let verified = file.table().verify(&mut |_| {
            self.breathe(Lane::Idle);
            // A closing store does not wait for it.
            !self.health.is_closed()
        });
        let read = match verified {
            Ok(report) => {
                self.figures.scrub_damages.add(report.damages.len() as u64);
                if let Some(damage) = report.damages.first() {
                    self.suspect(damage);
                }
                report.bytes
            }
            Err(TableError::Stopped) => return,
            Err(_) => {
                // The disk failed, which says nothing of the bytes: next round again.
                self.figures.background_errors.add(1);
                file.meta().bytes
            }
        };
        self.figures.scrub_bytes.add(read);
        {
            let mut scrubbing = lock(&self.scrubbing);
            scrubbing.next = Some(file.meta().id.0 + 1);
            scrubbing.budget -= i64::try_from(read).unwrap_or(i64::MAX);
        }
        self.note_scrub();
    }

    /// Log segments, manifest and observer state; gives the bytes read.
    fn scrub_rest(self: &Arc<Self>) -> u64 {
        let mut bytes = 0;
        let mut bad_log = false;
        for (id, length) in self.log.closed_segments() {
            bytes += length;
            match replay::verify(&*self.disk, &self.options.dir.join("log"), id, length) {
                Ok(()) => {}
                Err(OpenError::Damaged(_)) if self.log.is_closed_segment(id) => bad_log = true,
                Err(_) => {}
            }
        }
        if bad_log {
            self.figures.scrub_damages.add(1);
            drop(self.flush());
        }
        // Of a directory that has another owner by now the manifest is another, and a good one.
        let Some(_owned) = self.owned() else { return bytes };
        let manifest = lock(&self.edit);
        match Manifest::load(&*self.disk, &self.options.dir) {
            Ok(Some(stored)) if stored == *manifest => {}
            Err(OpenError::Io(_)) => self.figures.background_errors.add(1),
            _ => {
                self.figures.scrub_damages.add(1);
                let written = manifest.store(&*self.disk, &self.options.dir);
                self.judge_manifest(written);
            }
        }
        if let Some(id) = manifest.sidecar
            && let Err(OpenError::Damaged(_)) =
                manifest::read_sidecar(&*self.disk, &self.tables_dir, id)
        {
            self.figures.scrub_damages.add(1);
        }
        bytes
    }

    fn judge_manifest(&self, written: Result<(), IoFailure>) {
        if let Err(failure) = written
            && !failure.is_full()
        {
            self.health.fail(format!("the manifest was damaged and not replaced: {failure}"));
        }
    }

    /// Tables that the round under way has not read yet.
    pub(crate) fn scrub_left(&self) -> u64 {
        let next = lock(&self.scrubbing).next;
        next.map_or(0, |next| self.state.load().levels.count_from(next))
    }

    /// Damage met by a lookup: the table is looked at.
    pub(crate) fn note_damage<T>(
        self: &Arc<Self>,
        outcome: Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        if let Err(ReadError::Damaged(damage)) = &outcome {
            self.suspect(damage);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_begin_after_the_interval_and_a_large_file_is_paid_back() {
        let mut scrubbing = Scrubbing::default();
        assert_eq!(scrubbing.tick(0, 1_000, 100), (false, false));
        assert_eq!(scrubbing.tick(999, 1_000, 100), (false, false));
        assert_eq!(scrubbing.tick(1_000, 1_000, 100), (true, false));
        scrubbing.scheduled = false;
        scrubbing.budget -= 450;
        for (now, due) in [(2_000, false), (5_000, false), (5_500, true), (5_600, false)] {
            assert_eq!(scrubbing.tick(now, 1_000, 100).0, due, "{now}");
        }
        scrubbing.scheduled = false;
        scrubbing.next = None;
        assert_eq!(scrubbing.tick(5_700, 10_000, 100), (false, false), "the round is over");
        assert!(scrubbing.budget <= 100, "no more than a second is saved up");
    }
}
