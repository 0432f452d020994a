//! How much may happen in one search, and which rule is left out of it.

/// A rule that is left out, to see that the search finds what it prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// Nothing is left out.
    None,
    /// Whoever stores a write answers before it is synced.
    AnswersBeforeSync,
    /// What an owner missed is counted once its coordinator has noted that.
    CountsHints,
    /// One stand-in is counted in the place of every owner that was given up.
    CountsOneForAll,
    /// At its cap a stand-in answers all the same, and keeps nothing.
    DropsAtCap,
    /// A copy goes when one owner took it over.
    GoesAfterOne,
    /// An owner confirms a copy before it is synced.
    ConfirmsBeforeSync,
    /// A copy goes though it grew since it was read.
    GoesThoughItGrew,
    /// Confirmations of an earlier state of the copy count for the present one.
    ConfirmationsOutliveGrowth,
    /// An owner stores what it is handed in the place of what it holds.
    Overwrites,
}

/// How much of each thing may happen.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Writes of the key, 1 or 2.
    pub writes: u8,
    /// Nodes that crash and lose what was not synced.
    pub crashes: u8,
    /// Owners that everybody holds for down: what is written reaches them by hand-back alone.
    pub down: u8,
    /// Nobody else is given up, and a write begins after the one before is over.
    pub patient: bool,
    /// Most writes in one copy.
    pub cap: u64,
    /// The rule that is left out.
    pub weakness: Weakness,
}

impl Bounds {
    /// One write, no crash, nobody down, room for everything.
    pub const CALM: Bounds =
        Bounds { writes: 1, crashes: 0, down: 0, patient: false, cap: 2, weakness: Weakness::None };
}
