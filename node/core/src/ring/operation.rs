//! Operations: changes of the cluster that somebody asked for, idempotent by the id they gave.
//!
//! A posted operation becomes one child document (`plan`); its record stands in the document, so a
//! second post of the same id finds it there whoever receives it. Built today are `join` and
//! `leave` without rebalancing: they move no data and are done in the epoch that records them.

use serde::{Deserialize, Serialize};

use super::document::Member;
use crate::id::NodeId;

/// How many finished records a document keeps; the oldest go first.
pub const KEPT_OPERATIONS: usize = 64;

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// A node becomes a member.
    Join,
    /// A member gives up all it owns and goes.
    Leave,
    /// A dead member's copies are made anew on another.
    Replace,
    /// A member's own copies are made anew on itself.
    Rebuild,
    /// A member came up on another machine.
    Relocate,
    /// The table is made even again.
    Rebalance,
    /// Every partition is cut in two.
    Double,
    /// A member gives up all it owns and stays.
    Drain,
    /// All copies are compared.
    Repair,
}

/// What somebody asks for. The id is theirs: the same id again is the same operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// What to do.
    pub kind: OperationKind,
    /// To which node.
    pub node: Option<NodeId>,
    /// For a join: where the node stands.
    pub member: Option<Member>,
    /// May data move? `false`: a joining member owns nothing, a leaving one must own nothing.
    pub rebalance: bool,
}

/// How far an operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OperationState {
    /// Finished; the record never changes again.
    Done,
}

/// An operation as the document remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRecord {
    /// What was asked for.
    pub operation: Operation,
    /// How far it came.
    pub state: OperationState,
    /// The epoch in which it was recorded.
    pub started: u64,
    /// The epoch in which it was finished.
    pub finished: u64,
}
