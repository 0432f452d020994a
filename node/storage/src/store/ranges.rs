//! What of the key space no longer holds: ranges that were dropped, ranges of which data was lost.
//!
//! A drop is one record of the log with a sequence number: it hides every change of its range with a
//! lower number, in memory and in tables. It is taken with the gate held exclusively, so it has one
//! place in the order of all changes, and the observer is told there. A flush carries it from the log
//! into the manifest; tables are rid of what it hides by being removed whole where it covers them and
//! rewritten where it cuts them; when none is left that needs it, it is forgotten.
//!
//! Invariant: a table is written without what a drop hides only if that drop is durable once the table
//! is installed, that is, if it lies at or below the floor of the same manifest. Else a crash could lose
//! the drop and keep what it did.

use super::engine::{Engine, PanicWatch, State};
use crate::durability::Durability;
use crate::error::{ReadError, WriteError};
use crate::guard::exclusive;
use crate::key::TableKey;
use crate::memtable::Version;
use crate::spans::Spans;
use crate::ticket::Ticket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Ranges that a store keeps at most, and drops that wait for their flush; merging and flushing get rid
/// of them.
const RANGES_MAX: usize = 4_096;
/// A drop is brought to the tables after this time, so that the space comes back soon.
pub(super) const FLUSH_DROP_AFTER_MS: u64 = 1_000;

/// One drop that no manifest names yet.
#[derive(Debug, Clone)]
pub(crate) struct RangeDrop {
    pub(crate) sequence: u64,
    pub(crate) from: TableKey,
    pub(crate) to: Option<TableKey>,
    pub(crate) at_ms: u64,
}

/// One consistent set; replaced as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges {
    /// Drops that the manifest names.
    settled: Spans,
    /// Newer ones, oldest first.
    recent: Vec<RangeDrop>,
    /// All of them together.
    dropped: Spans,
    /// What the manifest calls lost, without what was dropped since.
    lost: Spans,
}

impl Ranges {
    pub(crate) fn new(settled: Spans, lost: &Spans, recent: Vec<RangeDrop>) -> Self {
        let dropped = recent.iter().fold(settled.clone(), with);
        let lost = lost.without_older_than(&dropped);
        Self { settled, recent, dropped, lost }
    }

    /// With one more drop, the newest.
    pub(crate) fn and(&self, drop: RangeDrop) -> Self {
        let dropped = with(self.dropped.clone(), &drop);
        let lost = self.lost.without_older_than(&dropped);
        let recent = self.recent.iter().cloned().chain([drop]).collect();
        Self { settled: self.settled.clone(), recent, dropped, lost }
    }

    /// Drops that the manifest names: tables may be written without what they hide.
    pub(crate) fn settled(&self) -> &Spans {
        &self.settled
    }

    /// Drops above the floor, oldest first.
    pub(crate) fn recent(&self) -> &[RangeDrop] {
        &self.recent
    }

    /// `settled` with the recent drops up to a sequence number.
    pub(crate) fn settled_up_to(&self, settled: &Spans, last: u64) -> Spans {
        self.recent.iter().filter(|drop| drop.sequence <= last).fold(settled.clone(), with)
    }

    pub(crate) fn lost(&self) -> &Spans {
        &self.lost
    }

    /// What the newest version found under a key comes to. Error: a newer one may have been lost.
    pub(crate) fn judge(&self, key: &[u8], found: Version) -> Result<Version, ReadError> {
        let found = self.after_drops(key, found);
        if !self.lost.is_empty() && self.lost.at(key) > found.sequence {
            return Err(ReadError::Lost);
        }
        Ok(found)
    }

    /// The version that a key has after the drops: the one found, or nothing since its drop.
    pub(crate) fn after_drops(&self, key: &[u8], found: Version) -> Version {
        if self.dropped.is_empty() {
            return found;
        }
        match self.dropped.at(key) {
            dropped if dropped > found.sequence => Version { sequence: dropped, value: None },
            _ => found,
        }
    }
}

fn with(spans: Spans, drop: &RangeDrop) -> Spans {
    spans.raised(drop.from.encoded(), drop.to.as_ref().map(TableKey::encoded), drop.sequence)
}

impl State {
    /// Whether a drop was applied that no frozen memtable stands behind.
    pub(super) fn has_unfrozen_drop(&self) -> bool {
        self.unfrozen_drop().is_some()
    }

    /// How long the oldest such drop has waited.
    pub(super) fn unfrozen_drop_age_ms(&self, now_ms: u64) -> u64 {
        self.unfrozen_drop().map_or(0, |drop| now_ms.saturating_sub(drop.at_ms))
    }

    fn unfrozen_drop(&self) -> Option<&RangeDrop> {
        let cut = self.frozen.last().map_or(0, |frozen| frozen.last);
        self.ranges.recent().iter().find(|drop| drop.sequence > cut)
    }
}

impl Engine {
    pub(crate) fn drop_range(
        self: &Arc<Self>,
        from: &TableKey,
        to: Option<&TableKey>,
        durability: Durability,
    ) -> Ticket<Result<(), WriteError>> {
        match self.take_drop(from, to, durability) {
            Ok(durable) => durable,
            Err(error) => Ticket::ready(Err(error)),
        }
    }

    fn take_drop(
        self: &Arc<Self>,
        from: &TableKey,
        to: Option<&TableKey>,
        durability: Durability,
    ) -> Result<Ticket<Result<(), WriteError>>, WriteError> {
        let longest = to.map_or(0, |to| to.as_bytes().len()).max(from.as_bytes().len());
        let limit = usize::from(u16::MAX);
        if longest > limit {
            return Err(WriteError::TooLarge { bytes: longest, limit });
        }
        let appended = {
            let _gate = exclusive(&self.gate);
            self.health.check()?;
            let ranges = self.state.load().ranges.clone();
            if ranges.dropped.len().max(ranges.recent.len()) >= RANGES_MAX {
                return Err(WriteError::Overloaded);
            }
            // Half of what follows would leave log, memory and observer at odds.
            let _watch = PanicWatch { health: &self.health, what: "dropping a range" };
            let appended = self.log.append_drop(from, to, durability);
            let at_ms = self.now_ms.load(Ordering::Relaxed);
            let (from, to) = (from.clone(), to.cloned());
            self.observer.dropped(&from, to.as_ref());
            let drop = RangeDrop { sequence: appended.sequence, from, to, at_ms };
            self.change_state(|state| state.ranges = Arc::new(state.ranges.and(drop)));
            appended
        };
        self.schedule_log(appended.schedule);
        Ok(appended.durable)
    }
}
