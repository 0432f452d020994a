//! What one search is about: which rule is left out, what may go wrong, who counts.

/// A rule left out, to see the search find what it prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// The rules of the product.
    None,
    /// The snapshot is taken before C is fenced.
    SnapshotBeforeFence,
    /// Step 2 of a move begins without a snapshot.
    NoSnapshot,
    /// The evidence of any tenure of D counts: that of a cancelled move for its retry.
    EvidenceOfAnyTenure,
    /// In a move D alone is the slot.
    NewHolderAlone,
    /// In a move C alone is the slot.
    OldHolderAlone,
    /// A move ends without a fence of C at step 2.
    FinishUnfenced,
    /// Nodes serve requests under older versions than their own.
    ServesOlder,
    /// Nodes serve requests under newer versions than their own without adopting these.
    ServesNewer,
    /// In a replace D counts for writes in step 1 already.
    CountsInStepOne,
    /// In a replace D answers reads in step 2 already.
    ReadsInStepTwo,
    /// One fence less than the barrier is enough, everywhere.
    OneFenceLess,
    /// Merges from one node less than the barrier are enough.
    OneMergeLess,
    /// D merges from nodes that are not fenced yet.
    MergesUnfenced,
    /// The barrier is counted in the slot's data center alone.
    BarrierNearOnly,
    /// The barrier is counted over all data centers alone.
    BarrierAllOnly,
    /// An acknowledgement counts whatever became of the node's tenure.
    AcksAcrossTenures,
    /// Data of an earlier tenure stays in the new one.
    KeepsOldTenure,
    /// C sets its data aside when a replace begins, though a cancel may return to it.
    SetsAsideAtFencing,
    /// A copy is used though it is not whole.
    UsesIncomplete,
    /// A rolled-back node takes writes and answers for what it still knows.
    ForgottenServes,
    /// A rolled-back node takes writes, though it answers nothing.
    ForgottenTakesWrites,
    /// A rolled-back node takes up anew a tenure that it may have had before.
    TakesUpTenureAnew,
    /// A fence is told before it is fsynced.
    FenceNotSynced,
    /// Evidence of stream and merge is given before D has flushed.
    EvidenceNotSynced,
    /// An owner acknowledges before the write is fsynced.
    AckNotSynced,
    /// An owner acknowledges a hand-back before it is fsynced.
    HandBackNotSynced,
    /// A stand-in deletes its copy when for a moving slot D alone has it.
    BackToNewHolderAlone,
    /// A stand-in deletes its copy when for a moving slot C alone has it.
    BackToOldHolderAlone,
    /// A stand-in adds up what owners took over under different versions.
    BackAcrossVersions,
    /// A reader keeps the replies that it got under an older version.
    KeepsReplies,
}

/// Which slots a write and a read count over. Both want a majority of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// All.
    Quorum,
    /// Those of one data center.
    Local(u8),
}

/// What may go wrong in one run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub level: Level,
    /// Restarts of any node, each losing what was not fsynced.
    pub restarts: u8,
    /// One of these nodes (a mask) loses its volume's last part, and learns it at once.
    pub rolled_back: u8,
    /// One of these nodes (a mask) loses a table that it knows to be lost.
    pub quarantined: u8,
    /// The others erase, while this node holds nothing here, what this node's volume still has.
    pub erased_behind: Option<u8>,
    /// The write may be counted on a stand-in copy; reads begin once that is deleted.
    pub stand_in: bool,
    pub weakness: Weakness,
}

impl Bounds {
    /// Nothing goes wrong but delays.
    pub const CALM: Self = Self {
        level: Level::Quorum,
        restarts: 0,
        rolled_back: 0,
        quarantined: 0,
        erased_behind: None,
        stand_in: false,
        weakness: Weakness::None,
    };
}
