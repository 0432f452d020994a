//! How far an operation that moves data is: its plan, slot by slot, and what was vouched for.
//!
//! An operation takes its whole plan into the document when it is posted; from then on only the stage
//! of each move changes, arrow by arrow (`super::moves`). It ends in an epoch of its own, once none of
//! its moves waits or is under way; then the plan is folded into a [`Summary`], so that finished
//! operations do not make the document grow.

use serde::{Deserialize, Serialize};

use super::moves::Proof;
use super::partition::Partition;
use crate::id::NodeId;

/// Most moves of one operation.
pub const MAX_MOVES: usize = 65_536;
/// Most operations that run at once.
pub const MAX_RUNNING: usize = 8;
/// Most proofs of one move.
pub const MAX_PROOFS: usize = 1_024;

/// An operation that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// `replace` only: the dead member whose copies are made anew.
    pub replaces: Option<NodeId>,
    /// It was taken back: what has not reached step 2 is undone, the rest goes forward.
    pub cancelling: bool,
    /// Its moves, in the order in which they were planned. The list is fixed.
    pub moves: Vec<MoveRecord>,
}

/// An operation that moved data and ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Summary {
    /// As [`Progress::replaces`].
    pub replaces: Option<NodeId>,
    /// Moves that were planned.
    pub moves: u32,
    /// Moves whose slot has its new owner.
    pub moved: u32,
    /// Bytes of keys and sets that successors received.
    pub bytes: u64,
}

/// One slot of an operation's plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoveRecord {
    /// Which partition.
    pub partition: Partition,
    /// The data center of the slot.
    pub datacenter: String,
    /// Who gives the copy or lost it.
    pub from: NodeId,
    /// Who gets it; for a rebuild the same node.
    pub to: NodeId,
    /// How far it is.
    pub stage: MoveStage,
    /// What was shown so far, in order; every arrow forward adds what it rests on.
    pub proofs: Vec<Proof<NodeId>>,
    /// Bytes of keys and sets that the successor received, as it told with its proof.
    pub bytes: u64,
}

/// How far one move of an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MoveStage {
    /// Its first arrow is not taken.
    Waiting,
    /// Its slot is between two owners; the table says where.
    Moving,
    /// Its slot has the new owner. Final.
    Moved,
    /// It was taken back before data depended on it, or another move took over. Final.
    Dropped,
}

impl MoveRecord {
    /// A move that has not begun.
    pub fn waiting(partition: Partition, datacenter: &str, from: NodeId, to: NodeId) -> Self {
        Self {
            partition,
            datacenter: datacenter.to_owned(),
            from,
            to,
            stage: MoveStage::Waiting,
            proofs: Vec::new(),
            bytes: 0,
        }
    }

    /// The same move, not begun.
    pub fn anew(&self) -> Self {
        Self::waiting(self.partition, &self.datacenter, self.from, self.to)
    }

    /// Whether nothing more happens in it.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, MoveStage::Moved | MoveStage::Dropped)
    }
}

impl Progress {
    /// Whether nothing more happens in any of its moves.
    pub fn is_over(&self) -> bool {
        self.moves.iter().all(MoveRecord::is_over)
    }

    /// What stays of it.
    pub fn summary(&self) -> Summary {
        let moved = self.moves.iter().filter(|one| one.stage == MoveStage::Moved);
        Summary {
            replaces: self.replaces,
            moves: self.moves.len() as u32,
            moved: moved.count() as u32,
            bytes: self.moves.iter().map(|one| one.bytes).sum(),
        }
    }
}
