//! Bugs planted on purpose: they prove that the checker of the simulation sees what it must see.
//!
//! A node carries one value of [`Planted`], handed down through [`crate::seam::World`]; it is none
//! unless a test says otherwise. Invariant: [`Planted::bug`] and [`Planted::with_trees_alone`] are called below `tests/` only, which tidy
//! holds, so production cannot set one. Each bug stands in the code as one `if` beside the line that it
//! spoils.

/// A mistake that somebody could have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The acknowledgement of one replica is counted for two.
    CountTwice,
    /// The token of a write covers all that its coordinator holds, seen by the client or not.
    CoordinatorToken,
    /// A merge forgets one of several siblings.
    DropSibling,
    /// A merge keeps only the sibling with the highest stamp.
    WallClockMerge,
    /// The tag of a node is the same at every start.
    SameTag,
    /// A write is never made again, though a replica said what stands above it.
    OneRound,
    /// A stand-in copy is deleted whether its owners stored it or not.
    EraseBeforeAck,
    /// A stand-in at its cap acknowledges what it does not keep.
    DropAtCap,
    /// The hash tree takes a key of which only tombstones are left for one that is not there.
    TombstonesUnseen,
    /// What was read or minted generations ago is still taken.
    TakeLate,
    /// A tombstone is erased as soon as all owners hold it.
    EraseEarly,
    /// A volume that was put back takes its old copies for whole once it may vote again.
    FloorUnseen,
    /// A request that arrives a second time is worked on a second time.
    TakeRepeats,
    /// What stands in the place of an agreed tombstone by now is erased with it.
    EraseUnequal,
}

/// What a test changed in this node, if anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    bug: Option<Bug>,
    trees_alone: bool,
}

impl Planted {
    /// Plants a bug. For tests.
    pub const fn bug(bug: Bug) -> Self {
        Self { bug: Some(bug), trees_alone: false }
    }

    /// Leaves all mending to anti-entropy: no hand-back, no hints, no repair by reads. For tests.
    pub const fn with_trees_alone(self) -> Self {
        Self { trees_alone: true, ..self }
    }

    /// Whether this bug was planted.
    pub fn is(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether all mending is left to anti-entropy.
    pub fn leaves_it_to_trees(self) -> bool {
        self.trees_alone
    }
}
