//! What the metrics page says of operations: how many run, wait or failed, and how far this node's own
//! rebuild is. From the document and gossip; nothing is counted.

use kvasir_core::admin_api::{OperationKind, OperationState, OperationStatus};
use kvasir_core::gossip::MemberView;
use kvasir_core::id::NodeId;
use kvasir_core::ring::{Document, MoveStage, ending};

/// Operations of the newest document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationFigures {
    /// Those that move data and wait for nobody.
    pub running: u64,
    /// Those whose moves wait for a node that is down, serves nothing or is behind.
    pub waiting: u64,
    /// Those that failed at what is still to be done.
    pub failed: u64,
    /// This node's own copies that a running rebuild makes anew: to come, under way, done.
    pub rebuilt: [u64; 3],
    /// Bytes of keys and sets in those that are done.
    pub rebuilt_bytes: u64,
}

impl OperationFigures {
    /// What a document and gossip say; `me` is the node whose rebuild is looked at.
    pub fn of(document: &Document, members: &[MemberView], me: NodeId) -> Self {
        let mut figures = Self::default();
        for (id, record) in &document.operations {
            if ending::is_left_undone(document, record) {
                figures.failed += 1;
            }
            if !record.is_running() {
                continue;
            }
            let status = OperationStatus::of(id, record).told(document, members);
            debug_assert_eq!(status.state, OperationState::Running);
            match status.message {
                None => figures.running += 1,
                Some(_) => figures.waiting += 1,
            }
            let of_this = record.operation.kind == OperationKind::Rebuild;
            for one in record.moves().iter().filter(|one| of_this && one.to == me) {
                let stage = match one.stage {
                    MoveStage::Waiting => 0,
                    MoveStage::Moving => 1,
                    MoveStage::Moved => 2,
                    MoveStage::Dropped => continue,
                };
                figures.rebuilt[stage] += 1;
                figures.rebuilt_bytes += one.bytes;
            }
        }
        figures
    }
}
