//! The write path: a key's turn, the old value, the closure, the log, memory, the observer.

use super::engine::{Engine, PanicWatch};
use super::slow_down::{Admission, Load, admission};
use super::turns::{Entered, Turn};
use crate::durability::Durability;
use crate::error::WriteError;
use crate::guard::{lock, shared};
use crate::key::TableKey;
use crate::log::{Owner, record};
use crate::maintenance::Lane;
use crate::memtable::Version;
use crate::ticket::Ticket;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard, Weak};

/// The most that one log record may have.
const RECORD_MAX_BYTES: usize = 256 << 20;

/// What an update does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Stores these bytes.
    Put(Bytes),
    /// Removes what is stored.
    Erase,
}

/// An update that was applied: visible to every later read and update of the key.
pub struct Applied<T> {
    /// What the closure returned besides the change.
    pub out: T,
    /// Ready when the state that the closure saw and made is stored at the durability asked for;
    /// for [`Change::Keep`] too, which waits for the earlier write that it relies on.
    pub durable: Ticket<Result<(), WriteError>>,
}

/// An update that waits for its turn; called with the key's newest version or why there is none.
pub(crate) type Work = Box<dyn FnOnce(&Arc<Engine>, &TableKey, Result<Version, WriteError>) + Send>;

/// An update as work that may wait, and the ticket that it answers.
fn boxed<T, F>(durability: Durability, f: F) -> (Ticket<Result<Applied<T>, WriteError>>, Work)
where
    T: Send + 'static,
    F: FnOnce(Option<&[u8]>) -> (Change, T) + Send + 'static,
{
    let (ticket, owed) = Ticket::pair();
    let work: Work = Box::new(move |engine, key, found| {
        owed.complete(found.and_then(|old| engine.apply(key, old, durability, f)));
        engine.freeze_if_full();
    });
    (ticket, work)
}

impl Engine {
    pub(crate) fn update<T, F>(
        self: &Arc<Self>,
        key: &TableKey,
        durability: Durability,
        f: F,
    ) -> Ticket<Result<Applied<T>, WriteError>>
    where
        T: Send + 'static,
        F: FnOnce(Option<&[u8]>) -> (Change, T) + Send + 'static,
    {
        if let Err(error) = self.health.check() {
            return Ticket::ready(Err(error));
        }
        if self.has_to_wait() {
            let (ticket, work) = boxed(durability, f);
            self.admit(key, work);
            return ticket;
        }
        let Some(passing) = self.turns.pass(key) else {
            let (ticket, work) = boxed(durability, f);
            self.enter(key, work);
            return ticket;
        };
        let outcome = match self.look_now(key) {
            Ok(Some(old)) => self.apply(key, old, durability, f),
            Ok(None) => {
                let turn = passing.hold(key);
                let (ticket, work) = boxed(durability, f);
                self.take_turn_on_reader(turn, work);
                return ticket;
            }
            Err(error) => self.note_damage(Err(error)).map_err(WriteError::Read),
        };
        drop(passing);
        self.freeze_if_full();
        Ticket::ready(outcome)
    }

    fn has_to_wait(&self) -> bool {
        self.stalled_now.load(Ordering::Acquire) > 0 || self.is_full()
    }

    /// Runs the work, queues it while memory, log buffer or level 0 are full or nearly, or refuses it.
    fn admit(self: &Arc<Self>, key: &TableKey, work: Work) {
        if self.has_to_wait() {
            let mut stalled = lock(&self.stalled);
            if stalled.len() < self.options.waiting_updates_max {
                self.figures.stalls.add(1);
                stalled.push_back((key.clone(), work));
                self.stalled_now.store(stalled.len(), Ordering::Release);
                drop(stalled);
                // What it waits for may have ended just before it was queued.
                self.work_if_due();
                return self.admit_stalled();
            }
            drop(stalled);
            self.figures.refused.add(1);
            return work(self, key, Err(WriteError::Overloaded));
        }
        self.enter(key, work);
    }

    /// Lets in work that waited, as far as there is room, or answers it if writes are refused.
    pub(crate) fn admit_stalled(self: &Arc<Self>) {
        loop {
            let verdict = self.health.check();
            let (key, work) = {
                let mut stalled = lock(&self.stalled);
                if verdict.is_ok() && self.is_full() {
                    return;
                }
                let Some(next) = stalled.pop_front() else { return };
                self.stalled_now.store(stalled.len(), Ordering::Release);
                next
            };
            match verdict {
                Ok(()) => self.enter(&key, work),
                Err(error) => work(self, &key, Err(error)),
            }
        }
    }

    /// Whether updates have to wait for background work.
    fn is_full(&self) -> bool {
        if self.log.buffered_bytes() >= self.options.log_buffer_bytes {
            return true;
        }
        let admission = self.admission();
        let slowed = matches!(admission, Admission::PerPiece(_));
        if slowed != self.slowed.load(Ordering::Relaxed) {
            self.slowed.store(slowed, Ordering::Relaxed);
        }
        match admission {
            Admission::Free => false,
            Admission::PerPiece(_) => {
                self.credit.load(Ordering::Relaxed) <= 0 && self.has_background_work()
            }
            Admission::Stop => true,
        }
    }

    fn admission(&self) -> Admission {
        let state = self.state.load();
        let level0 = state.levels.level0();
        // Level 0 that cannot be merged because of damage must not hold the store up for ever.
        let stuck = level0 > self.options.level0_tables && !lock(&self.damaged).is_empty();
        admission(&Load {
            frozen: state.frozen.len(),
            frozen_max: self.options.immutable_memtables_max,
            active: state.active.bytes(),
            active_max: self.options.memtable_bytes,
            level0: if stuck { 0 } else { level0 },
            level0_tables: self.options.level0_tables,
            level0_stop: self.options.level0_stop,
        })
    }

    fn has_background_work(&self) -> bool {
        self.compacting.load(Ordering::Acquire) || lock(&self.flushing).is_scheduled()
    }

    /// A piece of background work is done: so many more updates may enter.
    pub(super) fn piece_done(self: &Arc<Self>) {
        if let Admission::PerPiece(bytes) = self.admission() {
            let bytes = bytes as i64;
            let left = self.credit.load(Ordering::Relaxed);
            self.credit.store((left + bytes).clamp(bytes / 2, 2 * bytes), Ordering::Relaxed);
        }
        if self.stalled_now.load(Ordering::Acquire) > 0 {
            self.admit_stalled();
        }
    }

    fn enter(self: &Arc<Self>, key: &TableKey, work: Work) {
        match self.turns.enter(key, work) {
            Entered::Run(turn, work) => self.take_turn(turn, work),
            Entered::Queued => {}
            Entered::Refused(work) => {
                self.figures.refused.add(1);
                work(self, key, Err(WriteError::Overloaded));
            }
        }
    }

    /// Runs the work of a key until its queue is empty or the disk is needed; then a reader goes on.
    fn take_turn(self: &Arc<Self>, mut turn: Turn<Work>, mut work: Work) {
        loop {
            let found = match self.health.check() {
                Ok(()) => self.note_damage(self.look_now(turn.key())).map_err(WriteError::Read),
                Err(error) => Err(error),
            };
            match found {
                Ok(Some(version)) => work(self, turn.key(), Ok(version)),
                Ok(None) => return self.take_turn_on_reader(turn, work),
                Err(error) => work(self, turn.key(), Err(error)),
            }
            match turn.next() {
                Some(next) => work = next,
                None => return,
            }
        }
    }

    fn take_turn_on_reader(self: &Arc<Self>, turn: Turn<Work>, work: Work) {
        let refused = self.submit_read((turn, work), |engine, (mut turn, work)| {
            let found = engine.note_damage(engine.look(turn.key())).map_err(WriteError::Read);
            work(engine, turn.key(), found);
            if let Some(next) = turn.next() {
                engine.take_turn(turn, next);
            }
        });
        if let Err((mut turn, mut work)) = refused {
            // Everything that waits for this key would need the same read.
            loop {
                self.figures.refused.add(1);
                work(self, turn.key(), Err(WriteError::Overloaded));
                match turn.next() {
                    Some(next) => work = next,
                    None => return,
                }
            }
        }
    }

    /// Puts a value without looking at what is stored. Where the key is busy, memory is full or the
    /// observer wants the old value, it is an update like any other.
    pub(crate) fn put(
        self: &Arc<Self>,
        key: &TableKey,
        value: Bytes,
        durability: Durability,
    ) -> Ticket<Result<Applied<()>, WriteError>> {
        let at_once = !self.observer.looks() && self.health.check().is_ok() && !self.has_to_wait();
        if at_once && let Some(passing) = self.turns.pass(key) {
            let gate = shared(&self.gate);
            let applied = self
                .health
                .check()
                .and_then(|()| self.apply_value(gate, key, None, Some(value), durability));
            drop(passing);
            self.freeze_if_full();
            return Ticket::ready(applied.map(|durable| Applied { out: (), durable }));
        }
        self.update(key, durability, |_| (Change::Put(value), ()))
    }

    /// Runs the closure of an update and applies its change to a key whose turn the caller holds and
    /// whose newest version was `old` when it was looked up. The gate is held over both: a range drop
    /// that came in between has taken the old value away, and none comes before the change is applied.
    fn apply<T>(
        self: &Arc<Self>,
        key: &TableKey,
        old: Version,
        durability: Durability,
        f: impl FnOnce(Option<&[u8]>) -> (Change, T),
    ) -> Result<Applied<T>, WriteError> {
        let gate = shared(&self.gate);
        // Who counts in its closure must not have counted what is then refused. A store that closes is no
        // more asked what it counted, and what changes nothing may still end.
        self.health.check().or_else(|error| match error {
            WriteError::Closed => Ok(()),
            error => Err(error),
        })?;
        let old = self.state.load().ranges.after_drops(key.as_bytes(), old);
        let (change, out) = f(old.value.as_deref());
        let value = match change {
            Change::Put(value) => Some(value),
            Change::Erase if old.value.is_some() => None,
            Change::Keep | Change::Erase => {
                let durable = self.log.ticket(old.sequence, durability);
                return Ok(Applied { out, durable });
            }
        };
        let durable = self.apply_value(gate, key, old.value.as_deref(), value, durability)?;
        Ok(Applied { out, durable })
    }

    /// Log, memory, observer: under the gate, for a key whose turn the caller holds, and after a look at
    /// the health of the store under the same gate.
    fn apply_value(
        self: &Arc<Self>,
        gate: RwLockReadGuard<'_, ()>,
        key: &TableKey,
        old: Option<&[u8]>,
        value: Option<Bytes>,
        durability: Durability,
    ) -> Result<Ticket<Result<(), WriteError>>, WriteError> {
        let bytes = record::stored_bytes(key, value.as_ref());
        if bytes > RECORD_MAX_BYTES || key.as_bytes().len() > usize::from(u16::MAX) {
            return Err(WriteError::TooLarge { bytes, limit: RECORD_MAX_BYTES });
        }
        if self.health.is_closed() {
            return Err(WriteError::Closed);
        }
        let appended = {
            // Half of what follows would leave log, memory and observer at odds.
            let _watch = PanicWatch { health: &self.health, what: "applying a change" };
            let appended = self.log.append(key, value.as_ref(), durability);
            let now_ms = self.now_ms.load(Ordering::Relaxed);
            let state = self.state.load();
            state.active.insert(key, appended.sequence, value.as_ref(), now_ms);
            self.observer.changed(key, old, value.as_deref());
            appended
        };
        drop(gate);
        if self.slowed.load(Ordering::Relaxed) {
            self.credit.fetch_sub(bytes as i64, Ordering::Relaxed);
        }
        self.schedule_log(appended.schedule);
        Ok(appended.durable)
    }

    fn freeze_if_full(self: &Arc<Self>) {
        if self.state.load().active.bytes() >= self.options.memtable_bytes {
            self.work_if_due();
        }
    }

    /// Submits the job that writes the log.
    pub(crate) fn schedule_log(self: &Arc<Self>, schedule: bool) {
        if schedule {
            self.log.job_starts();
            self.submit_vital(Lane::Sync, |engine| {
                let again = engine.log.run();
                engine.schedule_log(again);
                engine.admit_stalled();
            });
        }
    }
}

/// What the log tells its store, as long as there is one.
pub(crate) struct LogOwner(pub(crate) Weak<Engine>);

impl Owner for LogOwner {
    fn submit(&self) {
        if let Some(engine) = self.0.upgrade() {
            engine.schedule_log(true);
        }
    }

    fn ran(&self) {
        let Some(engine) = self.0.upgrade() else { return };
        engine.settle_failure();
        if engine.stalled_now.load(Ordering::Acquire) > 0 {
            engine.admit_stalled();
        }
    }
}
