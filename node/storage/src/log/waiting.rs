//! Who waits for the log, and until where.
//!
//! A ticket of the log is a point in it, not an object of its own: "record 7, synced". Asking about
//! a point (polling, waiting) is what makes the log write: a task leaves its waker and has a job queued
//! on the sync lane; a thread that may wait writes and syncs itself unless another one does, and takes
//! with it whatever has arrived. A record that nobody asks about is written when enough is buffered
//! or at a tick, and synced at the ticks of `periodic`.

use super::{Answer, Log};
use crate::error::{IoFailure, WriteError};
use crate::guard::lock;
use crate::ticket::Source;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// After so many looks in a row that found nobody new a group is complete.
const QUIET_YIELDS: u32 = 2;
/// A group is complete after this many looks, whoever may still come.
const GATHER_YIELDS: u32 = 64;

/// What has to become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Written,
    Synced,
    /// Synced, and not delayed so that others can join.
    SyncedAtOnce,
}

impl Goal {
    /// The goal and the record in one number.
    pub(super) fn point(self, sequence: u64) -> u64 {
        sequence << 2 | self as u64
    }

    fn of(point: u64) -> (Self, u64) {
        let goal = match point & 3 {
            0 => Goal::Written,
            1 => Goal::Synced,
            _ => Goal::SyncedAtOnce,
        };
        (goal, point >> 2)
    }
}

/// Tasks and threads that wait, and the answers that are not progress.
#[derive(Default)]
pub(super) struct Waiting {
    asked_synced: u64,
    at_once: bool,
    for_written: BTreeMap<u64, Vec<Waker>>,
    for_synced: BTreeMap<u64, Vec<Waker>>,
    /// Threads that wait for a sync, and how many there were at the end of the last one.
    threads: usize,
    last_group: usize,
    /// Nothing up to this record can be written: the disk is full.
    refused: Option<(u64, IoFailure)>,
    ended: Option<WriteError>,
}

/// Wakers to be called without a lock.
#[must_use]
pub(super) struct Woken(Vec<Waker>);

impl Woken {
    pub(super) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    fn ask(&mut self, goal: Goal, sequence: u64) {
        self.at_once |= goal == Goal::SyncedAtOnce;
        if goal != Goal::Written {
            self.asked_synced = self.asked_synced.max(sequence);
        }
    }

    fn leave(&mut self, goal: Goal, sequence: u64, waker: &Waker) {
        let waiting = match goal {
            Goal::Written => &mut self.for_written,
            _ => &mut self.for_synced,
        };
        let here = waiting.entry(sequence).or_default();
        if !here.iter().any(|known| known.will_wake(waker)) {
            here.push(waker.clone());
        }
    }

    /// A sync was done: everybody who waits now is there again soon, or joins the next one.
    pub(super) fn group_ends(&mut self) {
        (self.last_group, self.at_once) = (self.threads, false);
    }

    /// Whether somebody asked for a sync of more than `synced`.
    pub(super) fn wants_sync(&self, synced: u64) -> bool {
        self.asked_synced > synced
    }

    /// Whether a task (not a thread, which helps itself) waits for more than this.
    pub(super) fn needs_job(&self) -> bool {
        !self.for_written.is_empty() || !self.for_synced.is_empty()
    }

    /// Takes those who wait for no more than this.
    pub(super) fn due(&mut self, written: u64, synced: u64) -> Woken {
        let mut due = Vec::new();
        for (reached, waiting) in [(written, &mut self.for_written), (synced, &mut self.for_synced)]
        {
            if waiting.first_key_value().is_some_and(|(first, _)| *first <= reached) {
                let rest = waiting.split_off(&(reached + 1));
                due.extend(std::mem::replace(waiting, rest).into_values().flatten());
            }
        }
        Woken(due)
    }

    /// Nothing up to `last` could be written. Takes everybody.
    pub(super) fn refuse(&mut self, last: u64, failure: IoFailure) -> Woken {
        self.refused = Some((last, failure));
        self.due(u64::MAX - 1, u64::MAX - 1)
    }

    /// Writing works (again).
    pub(super) fn accepts(&mut self) {
        self.refused = None;
    }

    /// Nothing will be written any more. The first reason stays. Takes everybody.
    pub(super) fn end(&mut self, reason: WriteError) -> Woken {
        self.ended.get_or_insert(reason);
        self.due(u64::MAX - 1, u64::MAX - 1)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    fn trouble(&self, sequence: u64) -> Option<Answer> {
        if let Some(reason) = &self.ended {
            return Some(Err(reason.clone()));
        }
        match &self.refused {
            Some((last, failure)) if sequence <= *last => {
                Some(Err(WriteError::Full(failure.clone())))
            }
            _ => None,
        }
    }
}

impl Log {
    pub(super) fn has_reached(&self, sequence: u64, goal: Goal) -> bool {
        let reached = match goal {
            Goal::Written => &self.written,
            _ => &self.synced,
        };
        sequence <= reached.load(Ordering::Acquire)
    }

    /// Gives the other threads of the last group a moment to join this one. The caller writes next.
    fn gather(&self, expected: usize) {
        let (mut here, mut quiet) = (1, 0);
        for _ in 0..GATHER_YIELDS {
            std::thread::yield_now();
            let buffer = lock(&self.buffer);
            let now = buffer.waiting.threads;
            if now >= expected || buffer.waiting.at_once {
                return;
            }
            quiet = if now > here { 0 } else { quiet + 1 };
            if quiet >= QUIET_YIELDS {
                return;
            }
            here = now;
        }
    }

    /// Waits as a thread: writes if nobody else does, else until whoever writes has come around.
    fn wait_for(&self, goal: Goal, sequence: u64) -> Answer {
        let mut buffer = lock(&self.buffer);
        loop {
            if self.has_reached(sequence, goal) {
                return Ok(());
            }
            if let Some(answer) = buffer.waiting.trouble(sequence) {
                return answer;
            }
            buffer.waiting.ask(goal, sequence);
            if buffer.writing {
                buffer = self.progress.wait(buffer).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            buffer.writing = true;
            let expected = match goal {
                Goal::Synced => buffer.waiting.last_group,
                _ => 0,
            };
            drop(buffer);
            if expected > 1 {
                self.gather(expected);
            }
            self.job_starts();
            self.write_and_settle();
            buffer = lock(&self.buffer);
        }
    }
}

impl Source<Answer> for Log {
    fn poll(&self, point: u64, waker: Option<&Waker>) -> Option<Answer> {
        let (goal, sequence) = Goal::of(point);
        if self.has_reached(sequence, goal) {
            return Some(Ok(()));
        }
        let mut buffer = lock(&self.buffer);
        if self.has_reached(sequence, goal) {
            return Some(Ok(()));
        }
        if let Some(answer) = buffer.waiting.trouble(sequence) {
            return Some(answer);
        }
        buffer.waiting.ask(goal, sequence);
        if let Some(waker) = waker {
            buffer.waiting.leave(goal, sequence, waker);
        }
        // Whoever writes now looks again when it is done.
        let schedule = !buffer.writing && buffer.schedule();
        drop(buffer);
        if schedule {
            self.submit();
        }
        None
    }

    fn wait(&self, point: u64) -> Answer {
        let (goal, sequence) = Goal::of(point);
        let counted = goal == Goal::Synced;
        lock(&self.buffer).waiting.threads += usize::from(counted);
        let answer = self.wait_for(goal, sequence);
        let mut buffer = lock(&self.buffer);
        buffer.waiting.threads -= usize::from(counted);
        answer
    }
}
