//! Which change of the records of operations is legal.
//!
//! A finished record stays as it is until it is forgotten, the oldest first and only for want of room
//! (`operation::plan` forgets in the same order). A running one keeps what was asked for and the list
//! of its moves, can be taken back but not un-taken back, and ends as `ring::ending` says; what its moves
//! may do, `table` says. A rebuild makes copies of one node anew on itself, and
//! nothing else does.

use super::{IllegalChange, new_records};
use crate::ring::document::Document;
use crate::ring::ending::ending;
use crate::ring::operation::{
    KEPT_OPERATIONS, Operation, OperationKind, OperationRecord, OperationState,
};
use crate::ring::progress::Progress;

/// May the records of `child` follow those of `parent`?
pub(super) fn judge_operations(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let mut kept_oldest = None;
    for (id, before) in &parent.operations {
        let Some(after) = child.operations.get(id) else {
            if before.is_running() {
                return Err(IllegalChange::OperationStep(id.clone()));
            }
            continue;
        };
        if before.is_running() {
            judge_running(before, after, ending(parent, id), child.epoch)
                .ok_or_else(|| IllegalChange::OperationStep(id.clone()))?;
        } else if after != before {
            return Err(IllegalChange::Operation(id.clone()));
        } else {
            let age = (before.finished, id);
            kept_oldest = kept_oldest.min(Some(age)).or(Some(age));
        }
    }
    for (id, record) in new_records(parent, child) {
        let finished = match &record.state {
            OperationState::Done => child.epoch,
            OperationState::Running(progress) if plans_its_kind(&record.operation, progress) => 0,
            // What moves data runs first.
            _ => return Err(IllegalChange::Operation(id.clone())),
        };
        if (record.started, record.finished) != (child.epoch, finished) {
            return Err(IllegalChange::Operation(id.clone()));
        }
    }
    let full = child.operations.len() >= KEPT_OPERATIONS;
    for (id, before) in
        parent.operations.iter().filter(|(id, _)| !child.operations.contains_key(*id))
    {
        let younger = kept_oldest.is_some_and(|oldest| (before.finished, id) > oldest);
        if younger || !full {
            return Err(IllegalChange::Operation(id.clone()));
        }
    }
    Ok(())
}

/// Whether a plan is one of its operation's kind: only a rebuild moves slots from a node to itself, and all
/// of its moves are of the node that it names.
fn plans_its_kind(operation: &Operation, progress: &Progress) -> bool {
    let rebuilds = operation.kind == OperationKind::Rebuild;
    progress.moves.iter().all(|one| match rebuilds {
        true => one.from == one.to && operation.node == Some(one.to),
        false => one.from != one.to,
    })
}

/// One record that ran before; `ending` is how it ends by its parent's word, if it does.
fn judge_running(
    before: &OperationRecord,
    after: &OperationRecord,
    ending: Option<OperationState>,
    epoch: u64,
) -> Option<()> {
    let OperationState::Running(progress) = &before.state else { return None };
    let same = (&after.operation, after.started) == (&before.operation, before.started);
    let right = match &after.state {
        OperationState::Running(later) => {
            later.replaces == progress.replaces
                && later.cancelling >= progress.cancelling
                && after.finished == 0
        }
        OperationState::Done => false,
        ended => after.finished == epoch && ending.as_ref() == Some(ended),
    };
    (same && right).then_some(())
}
