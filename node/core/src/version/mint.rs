//! Making new dots, and judging contexts that claim dots of one's own.
//!
//! A dot given out twice would make a merge drop one of two writes, so the rule of who may count on
//! is strict, and it rests on nothing that a crash, a restored volume or an old client token can
//! bring back:
//! - The tag of a [`Minter`] is drawn anew at every start, and its serials rise in memory.
//! - A record names the actor of its last mint. The node goes on counting there only if that actor
//!   is of this start and not below the partition's [`SerialFloor`]; otherwise a new serial is
//!   taken, for this key alone.
//! - A context, from a token or from another replica, is refused only if it claims what this start
//!   knows it never made: a row under its own tag with a serial that was not taken yet, or above
//!   what the record has of the very actor that it counts on. Everything else is taken, because a
//!   restart, an erased key or another node makes it possible.
//!
//! The weaker rules that come to mind (go on from any own row, lease serials on the volume, refuse
//! whatever exceeds one's own record) are refuted by the model in `tests/model_dots.rs`.
//!
//! Whoever calls must hold the key's lock from reading the record until the new one is logged, must
//! let the dot and the delta out only after that, and must treat a record that could not be read as
//! an error, never as absent. A mint whose record was not logged leaves no trace.

use std::sync::atomic::{AtomicU64, Ordering};

use super::context::Context;
use super::dot::{Actor, Dot};
use super::outline::{MissingPiece, Outline};
use super::record::Record;
use super::set::SiblingSet;
use super::sibling::Sibling;

/// Serials of this start below this are no longer valid for counting in a partition.
///
/// Raised to [`Minter::floor`] when the node regains the partition and when a file of it is
/// quarantined: records from before may be missing what was minted since. The default lets every
/// serial of this start count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SerialFloor(pub u64);

/// A context claims dots of this very start that it never made: it is forged or corrupt. Nothing
/// was changed; a retry with the same context fails again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextRefused {
    /// The row's serial was not taken yet.
    #[error("the context names {actor}, but only serials below {taken} were taken")]
    SerialNotTaken {
        /// The actor in the row.
        actor: Actor,
        /// Serials of this start that were taken so far.
        taken: u64,
    },
    /// The row exceeds what was minted on the actor that the key's record counts on.
    #[error("the context names {claimed}, but the last write of this actor here was {minted}")]
    CountNotMinted {
        /// The dot in the row.
        claimed: Dot,
        /// The highest count minted.
        minted: u64,
    },
}

/// An outline was not merged. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutlineRefused {
    /// Forged or corrupt; a retry fails again.
    #[error(transparent)]
    Context(#[from] ContextRefused),
    /// A piece has not arrived; a retry after it helps.
    #[error(transparent)]
    MissingPiece(#[from] MissingPiece),
}

/// What a mint made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// The name of the new write.
    pub dot: Dot,
    /// What to store in place of the old record.
    pub record: Record,
    /// What to send to the other replicas. Its context is also the context for the writer's token:
    /// what the writer had seen plus the new dot, and nothing else.
    pub delta: SiblingSet,
}

/// Makes the dots of one start of a node. Shared by its threads.
#[derive(Debug)]
pub struct Minter {
    tag: u64,
    next_serial: AtomicU64,
}

impl Minter {
    /// The minter of a new start. `tag` must be 64 fresh random bits, drawn for this start alone.
    pub const fn new(tag: u64) -> Self {
        Self { tag, next_serial: AtomicU64::new(0) }
    }

    /// The tag of this start.
    pub const fn tag(&self) -> u64 {
        self.tag
    }

    /// The floor that ends the validity of every serial taken so far.
    pub fn floor(&self) -> SerialFloor {
        SerialFloor(self.next_serial.load(Ordering::SeqCst))
    }

    /// Writes `sibling` over what the client has `seen`. `record` is what the store holds under the
    /// key (`None`: nothing).
    ///
    /// # Errors
    /// [`ContextRefused`] if `seen` claims dots that this start never made.
    pub fn mint(
        &self,
        record: Option<Record>,
        floor: SerialFloor,
        seen: &Context,
        sibling: Sibling,
    ) -> Result<Minted, ContextRefused> {
        self.judge(record.as_ref(), floor, seen)?;
        let counting = record.as_ref().and_then(|record| self.counting(record, floor));
        let mut set = record.map(|record| record.set).unwrap_or_default();
        // A serial taken here is above every serial in `seen`: those were taken before the check.
        let actor = counting.unwrap_or_else(|| self.take_serial());
        let dot = actor.dot(set.context().highest(&actor) + 1);
        let delta = SiblingSet::delta(seen.clone(), dot, sibling);
        set.merge_in(&delta);
        Ok(Minted { dot, record: Record { set, counting: Some(actor) }, delta })
    }

    /// Merges what came from elsewhere (a delta, a repair, a hand-back, a stream) into `record` and
    /// says whether that changed it. What the record counts on stays as it was.
    ///
    /// # Errors
    /// [`ContextRefused`] if the incoming context claims dots that this start never made.
    pub fn accept(
        &self,
        record: Option<Record>,
        floor: SerialFloor,
        incoming: &SiblingSet,
    ) -> Result<(Record, bool), ContextRefused> {
        self.judge(record.as_ref(), floor, incoming.context())?;
        let mut record = record.unwrap_or_default();
        let changed = record.set.merge_in(incoming);
        Ok((record, changed))
    }

    /// As [`Self::accept`], for the outline of a set whose pieces were accepted before.
    ///
    /// # Errors
    /// [`OutlineRefused`] if a piece is missing, or if the outline's context claims dots that this
    /// start never made.
    pub fn accept_outline(
        &self,
        record: Option<Record>,
        floor: SerialFloor,
        outline: &Outline,
    ) -> Result<(Record, bool), OutlineRefused> {
        self.judge(record.as_ref(), floor, outline.context())?;
        let mut record = record.unwrap_or_default();
        let changed = record.set.merge_outline(outline)?;
        Ok((record, changed))
    }

    /// The actor that this start may go on counting on under the key.
    fn counting(&self, record: &Record, floor: SerialFloor) -> Option<Actor> {
        record.counting.filter(|actor| actor.tag == self.tag && actor.serial >= floor.0)
    }

    /// Refuses what this start knows it never made.
    fn judge(
        &self,
        record: Option<&Record>,
        floor: SerialFloor,
        context: &Context,
    ) -> Result<(), ContextRefused> {
        let taken = self.next_serial.load(Ordering::SeqCst);
        let counting = record.and_then(|record| {
            let actor = self.counting(record, floor)?;
            Some((actor, record.set.context().highest(&actor)))
        });
        for (actor, count) in context.rows_of_tag(self.tag) {
            if actor.serial >= taken {
                return Err(ContextRefused::SerialNotTaken { actor, taken });
            }
            if let Some((own, minted)) = counting
                && actor == own
                && count > minted
            {
                return Err(ContextRefused::CountNotMinted { claimed: actor.dot(count), minted });
            }
        }
        Ok(())
    }

    fn take_serial(&self) -> Actor {
        Actor { tag: self.tag, serial: self.next_serial.fetch_add(1, Ordering::SeqCst) }
    }
}
