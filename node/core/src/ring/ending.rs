//! How an operation that moves data ends: done, taken back, or failed.
//!
//! It ends when none of its moves waits or is under way. If what it was asked for is not so by then, it
//! *failed*: nothing in the document will bring it about any more, whoever comes back. That is final, and
//! says why; whoever asked asks again, which plans anew on what there is. As long as the return of a node
//! could still help, an operation runs, and says for whom it waits (`super::waiting`).
//!
//! Moves that are given up for good, so that an operation fails in the end: their taker is no member any
//! more; beside another copy there is no place left for it; or so many nodes were given up that too few
//! copies are left to make one anew.

use std::fmt;

use super::document::Document;
use super::operation::{OperationKind, OperationRecord, OperationState};
use super::progress::{MoveRecord, MoveStage};
use crate::id::NodeId;

/// How a running operation ends in the child of this document; none while it goes on.
///
/// The node that is to go may still be named by a move of another operation, which sees to it: until then
/// it waits.
pub fn ending(document: &Document, id: &str) -> Option<OperationState> {
    let record = document.operations.get(id)?;
    let OperationState::Running(progress) = &record.state else { return None };
    if !progress.is_over() {
        return None;
    }
    let summary = progress.summary();
    match () {
        () if progress.cancelling => Some(OperationState::Cancelled(summary)),
        () if is_reached(document, record) => Some(OperationState::Finished(summary)),
        () if leads(document, id, goes(record)) => None,
        () => Some(OperationState::Failed(summary)),
    }
}

/// Whether what the operation was asked for is so by the document.
pub fn is_reached(document: &Document, record: &OperationRecord) -> bool {
    let came = |node| document.members.contains_key(&node);
    match record.operation.kind {
        OperationKind::Leave | OperationKind::Drain | OperationKind::Replace => {
            goes(record).is_none_or(|node| !document.owns_anything(node))
        }
        OperationKind::Join => record.operation.node.is_none_or(came) || made_all(record),
        _ => true,
    }
}

/// The node that owns nothing afterwards.
fn goes(record: &OperationRecord) -> Option<NodeId> {
    match record.operation.kind {
        OperationKind::Leave | OperationKind::Drain => record.operation.node,
        _ => record.replaces(),
    }
}

fn made_all(record: &OperationRecord) -> bool {
    record.moves().iter().all(|one| one.stage == MoveStage::Moved)
}

/// Whether another operation has a move under way, or to come, from or to the node.
fn leads(document: &Document, id: &str, node: Option<NodeId>) -> bool {
    let others = document.operations.iter().filter(|(other, _)| *other != id);
    let names = |one: &&MoveRecord| Some(one.from) == node || Some(one.to) == node;
    others.flat_map(|(_, record)| record.moves()).filter(names).any(|one| !one.is_over())
}

/// Whether it failed, what it was asked for is still not so, and nobody asked for it again.
pub fn is_left_undone(document: &Document, failed: &OperationRecord) -> bool {
    let same = |record: &OperationRecord| {
        let this = |record: &OperationRecord| {
            (record.operation.kind, record.operation.node, record.replaces())
        };
        record.started > failed.started && this(record) == this(failed)
    };
    matches!(failed.state, OperationState::Failed(_))
        && !is_reached(document, failed)
        && !document.operations.values().any(same)
}

/// Why an operation failed, for people; none of one that did not.
pub fn why_failed(record: &OperationRecord) -> Option<String> {
    let OperationState::Failed(summary) = &record.state else { return None };
    if record.operation.kind == OperationKind::Join {
        let node = Named(record.operation.node);
        return Some(format!("{node} is no member any more; let it join again under another id"));
    }
    let left = summary.moves.saturating_sub(summary.moved);
    Some(format!(
        "{} still holds copies: {left} of {} moves could not be made, since who was to take them is no \
         member any more or would stand beside another copy, or since too few other copies are left; ask \
         again under another id, which plans anew",
        Named(goes(record)),
        summary.moves
    ))
}

/// A node in a sentence.
struct Named(Option<NodeId>);

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(node) => write!(out, "node {node}"),
            None => out.write_str("a node"),
        }
    }
}
