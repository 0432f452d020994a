//! The rules in force and how much may happen: what one search is about.

use kvasir_core::reclaim::Margins;

/// Which generation a relay stamps on what it read from one holder and sends to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RelayStamp {
    /// Its own, from before it read.
    BeforeReading,
    /// Its own, when it sends.
    WhenSending,
}

/// The rules in force. Each field that is not the product's must be refuted.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub margins: Margins,
    pub relay_stamp: RelayStamp,
    /// Whether a generation in which a stand-in held a copy counts as one until which it is on its way.
    pub counts_hand_backs: bool,
    /// Whether a set is confirmed at the highest of its holders' generations, or at the lowest.
    pub highest_confirmation: bool,
    /// Whether a set is synced before it is confirmed.
    pub syncs_before_confirming: bool,
    /// Whether a confirmation of an earlier start counts no longer.
    pub start_voids: bool,
    /// Whether a holder confirms nothing after a start until its generation rose.
    pub waits_after_start: bool,
    /// Whether a member two generations behind sets its data aside.
    pub sets_aside: bool,
    /// Whether a reader refuses replies as it refuses other carriers.
    pub refuses_old_replies: bool,
    /// Whether carriers of nodes that the document does not list are refused.
    pub refuses_unlisted: bool,
    /// Whether only the very set that was confirmed is erased.
    pub erases_equal: bool,
    /// Whether a member goes on only past those whose document is not newer than its own.
    pub rises_by_document: bool,
    /// Whether a holder takes carriers before it has a generation.
    pub joiner_waits: bool,
    /// Whether an erase needs the confirmations of all holders, or of all but one.
    pub needs_all_holders: bool,
    /// Whether a holder confirms a row only if it has it, or also if it never heard of it.
    pub needs_the_row: bool,
}

impl Rules {
    /// What the product does.
    pub const PRODUCT: Rules = Rules {
        margins: Margins::RULE,
        relay_stamp: RelayStamp::BeforeReading,
        counts_hand_backs: true,
        highest_confirmation: true,
        syncs_before_confirming: true,
        start_voids: true,
        waits_after_start: true,
        sets_aside: true,
        refuses_old_replies: true,
        refuses_unlisted: true,
        erases_equal: true,
        rises_by_document: true,
        joiner_waits: true,
        needs_all_holders: true,
        needs_the_row: true,
    };
}

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// Nothing is written yet.
    Blank,
    /// The value was written and deleted; who holds what, and who is a generation ahead, is open.
    Deleted,
    /// As above, and a carrier of the value is on its way to somebody.
    DeletedAndLate,
}

/// How much of each thing may happen in one run.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub start: Start,
    /// The value was not deleted but written over: its row is to go from the contexts, nothing else.
    pub folds: bool,
    pub holders: usize,
    /// Carriers that are ever sent. They stay on their way for ever: late, doubled, in any order.
    pub carriers: usize,
    pub generations: u8,
    /// Confirmations happen up to this generation.
    pub confirm_until: u8,
    pub stand_in: bool,
    pub relay: bool,
    /// A third write, by a client with a token from before the delete.
    pub rewrite: bool,
    /// Whether disks lag behind memory.
    pub lagging_disks: bool,
    pub crashes: u8,
    pub restores: u8,
    pub quarantines: u8,
    /// The member that holds nothing leaves the cluster.
    pub leaves: bool,
    /// The member that holds nothing joins the cluster.
    pub joins: bool,
}

impl Bounds {
    /// Two holders and a member that holds nothing; one carrier, no faults.
    pub const CALM: Bounds = Bounds {
        start: Start::Deleted,
        folds: false,
        holders: 2,
        carriers: 1,
        generations: 6,
        confirm_until: 2,
        stand_in: false,
        relay: false,
        rewrite: false,
        lagging_disks: false,
        crashes: 0,
        restores: 0,
        quarantines: 0,
        leaves: false,
        joins: false,
    };
}
