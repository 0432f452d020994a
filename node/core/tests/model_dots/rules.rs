//! The rules in force and how much may happen: what one search is about.

/// On which actor a coordinator goes on counting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CountOn {
    /// Any row of its stored set that looks like one of this start.
    AnyOwnRow,
    /// The highest of these.
    HighestOwnRow,
    /// The actor that the record names, if it is still valid.
    NamedByRecord,
}

/// Where the next serial is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Serials {
    /// In memory, under a tag drawn at the start: nothing brings a used one back.
    FreshPerStart,
    /// On the volume, which may be restored from an old copy.
    LeasedOnVolume,
}

/// Which contexts a node refuses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refuse {
    /// Nothing: to show what the rule of counting alone prevents.
    Nothing,
    /// Serials that were not taken, and counts above the actor that the record counts on.
    NeverMade,
    /// Whatever exceeds what the node's own record has of its rows.
    AboveOwnRecord,
}

/// What the token of a write covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenCovers {
    /// What the client had seen, and its own dot.
    SeenAndOwnDot,
    /// Everything that the coordinator holds.
    CoordinatorContext,
}

/// The rules in force.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub count_on: CountOn,
    pub serials: Serials,
    pub refuse: Refuse,
    pub token_covers: TokenCovers,
    /// Whether a write in place joins the client's context into the stored one.
    pub joins_client_context: bool,
    /// Whether the quarantine of a file raises the serial floor.
    pub quarantine_ends_counting: bool,
    /// Whether the rows on which a node may still count are never folded.
    pub keeps_own_rows: bool,
}

impl Rules {
    /// What the product does.
    pub const PRODUCT: Rules = Rules {
        count_on: CountOn::NamedByRecord,
        serials: Serials::FreshPerStart,
        refuse: Refuse::NeverMade,
        token_covers: TokenCovers::SeenAndOwnDot,
        joins_client_context: true,
        quarantine_ends_counting: true,
        keeps_own_rows: true,
    };
}

/// How much of each thing may happen in one run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub nodes: usize,
    pub writes: usize,
    pub tokens: usize,
    pub crashes: u8,
    pub restores: u8,
    pub regains: u8,
    pub quarantines: u8,
    pub erases: u8,
    pub folds: u8,
    pub stand_in: bool,
}

impl Bounds {
    /// Three nodes, four writes, one token, no faults.
    pub const CALM: Bounds = Bounds {
        nodes: 3,
        writes: 4,
        tokens: 1,
        crashes: 0,
        restores: 0,
        regains: 0,
        quarantines: 0,
        erases: 0,
        folds: 0,
        stand_in: false,
    };
}
