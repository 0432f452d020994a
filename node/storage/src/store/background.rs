//! What happens by itself: freezing, flushing, compacting, ticking, closing.

use super::engine::Engine;
use super::flush::Waiter;
use crate::error::{ReadError, WriteError};
use crate::guard::{exclusive, lock};
use crate::maintenance::Lane;
use crate::ticket::Ticket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// After a compaction that failed, the next one waits this long.
const COMPACTION_PAUSE_MS: u64 = 10_000;

impl Engine {
    /// Freezes the memtable if it is due, and submits whatever background work there is.
    pub(crate) fn work_if_due(self: &Arc<Self>) {
        if self.health.failed().is_some() || self.owned().is_none() {
            return;
        }
        self.freeze_if_due();
        self.schedule_flush();
        self.schedule_compaction();
    }

    pub(crate) fn tick(self: &Arc<Self>, now_ms: u64) {
        self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.start_ms.fetch_min(now_ms, Ordering::Relaxed);
        self.log.tell_time(self.now_ms.load(Ordering::Relaxed));
        self.settle_failure();
        if self.health.failed().is_none() {
            let since = now_ms.saturating_sub(self.synced_ms.load(Ordering::Relaxed));
            let sync = since >= self.options.periodic_sync_ms;
            if sync {
                self.synced_ms.store(now_ms, Ordering::Relaxed);
            }
            let schedule = self.log.nudge(sync);
            self.schedule_log(schedule);
            lock(&self.flushing).retry();
            self.work_if_due();
            self.retry_quarantines(now_ms);
            self.tick_scrub(now_ms);
        }
        self.admit_stalled();
    }

    fn schedule_compaction(self: &Arc<Self>) {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        if self.health.is_closed()
            || now_ms < self.compact_after_ms.load(Ordering::Relaxed)
            || self.compacting.load(Ordering::Acquire)
            || !self.merge_check_due.swap(false, Ordering::AcqRel)
            || !self.needs_compaction()
        {
            return;
        }
        if self.compacting.swap(true, Ordering::AcqRel) {
            // Another thread was faster; when its job ends it looks again.
            return;
        }
        self.submit_vital(Lane::Compact, |engine| {
            let outcome = engine.compact();
            engine.compacting.store(false, Ordering::Release);
            engine.merge_check_due.store(true, Ordering::Release);
            engine.piece_done();
            match outcome {
                Ok(()) => {}
                // Nothing was lost, the inputs are still there: leave the damaged one alone.
                Err(ReadError::Damaged(damage)) if engine.suspect(&damage) => {
                    engine.figures.background_errors.add(1);
                }
                Err(_) => {
                    engine.figures.background_errors.add(1);
                    let now_ms = engine.now_ms.load(Ordering::Relaxed);
                    engine.compact_after_ms.store(now_ms + COMPACTION_PAUSE_MS, Ordering::Relaxed);
                }
            }
            engine.work_if_due();
            engine.admit_stalled();
        });
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Ticket<Result<(), WriteError>> {
        let (ticket, owed) = Ticket::pair();
        if let Some(reason) = self.health.failed() {
            owed.complete(Err(WriteError::Failed(reason)));
            return ticket;
        }
        self.flush_then(Box::new(move |_, outcome| owed.complete(outcome)));
        ticket
    }

    /// Flushes everything applied so far, then calls `then`.
    pub(super) fn flush_then(self: &Arc<Self>, then: Waiter) {
        let target = {
            let _gate = exclusive(&self.gate);
            self.state.load().last_in_memory(self.log.last())
        };
        let now = {
            let mut flushing = lock(&self.flushing);
            flushing.retry();
            flushing.wait_for(target, then)
        };
        if let Some(then) = now {
            return then(self, Ok(()));
        }
        self.work_if_due();
        self.settle_failure();
    }

    pub(crate) fn close(self: &Arc<Self>) -> Ticket<Result<(), WriteError>> {
        let (ticket, owed) = Ticket::pair();
        let first = {
            // No apply is under way once the gate is held, and none starts afterwards.
            let _gate = exclusive(&self.gate);
            self.health.close()
        };
        self.admit_stalled();
        if !first {
            owed.complete(Err(WriteError::Closed));
            return ticket;
        }
        let finish: Waiter = Box::new(move |engine, outcome| {
            // Behind every compaction and removal that was submitted before.
            engine.submit(Lane::Compact, move |engine| {
                engine.end(outcome.is_ok());
                owed.complete(outcome);
            });
        });
        match self.health.failed() {
            Some(reason) => finish(self, Err(WriteError::Failed(reason))),
            None => self.flush_then(finish),
        }
        ticket
    }

    fn end(&self, flushed: bool) {
        if !flushed {
            // The log still has what the tables lack; write out what is only buffered.
            self.log.write_out();
        }
        self.log.finish(lock(&self.edit).floor);
        let released = lock(&self.dir_lock).take();
        drop(released);
    }
}
