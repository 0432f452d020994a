//! Operations of the nodes that move data, as they tell of them: asked for, followed, taken back.
//!
//! What an operation did stands in the cluster document under its id, so asking again is asking for
//! the same, whoever asked before. The nodes carry one such operation at a time: while another one
//! runs, whoever began it, nothing new is asked for but a replace. One that runs already and is the
//! very change that is due is adopted under its own id, so that a journal that was lost or put back
//! to an older state goes on where the nodes are.

use kvasir_core::admin_api::{
    OperationKind, OperationRequest, OperationState, OperationStatus, Status,
};
use kvasir_core::id::NodeId;

use super::form::target;
use super::journal::Doing;
use super::refusal::Refusal;
use super::step::Step;
use super::view::View;
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::OperationSeen;

/// What the nodes know of an operation: of the one in the journal by their answers when asked for it,
/// of any other that runs by their status. The answer that is furthest on: a node may not have heard
/// of the newest document yet.
pub fn told<'a>(view: &View<'a>, operation: &Operation) -> Option<&'a OperationStatus> {
    let known = view.ours.values().filter_map(|answer| {
        let pod = answer.pod;
        match &pod.node_answer()?.operation {
            OperationSeen::Known(status) if status.request.id == operation.id => Some(&**status),
            _ => None,
        }
    });
    let listed = view.newest().into_iter().flat_map(|status| &status.operations);
    let listed = listed.filter(|status| status.request.id == operation.id);
    known.chain(listed).max_by_key(|status| (!runs(status), status.moves_done, status.moved_bytes))
}

/// Has it not ended yet?
pub fn runs(status: &OperationStatus) -> bool {
    matches!(status.state, OperationState::Planned | OperationState::Running)
}

/// The operation with the figures that the nodes give.
pub fn counted(operation: &Operation, status: &OperationStatus) -> Operation {
    let count = |n: u32| Some(i32::try_from(n).unwrap_or(i32::MAX));
    Operation {
        moves_total: count(status.moves_total),
        moves_done: count(status.moves_done),
        moved_bytes: Some(i64::try_from(status.moved_bytes).unwrap_or(i64::MAX)),
        ..operation.clone()
    }
}

/// Goes on while the nodes are at it. `unwanted`: the spec asks for the opposite by now.
pub fn go_on(
    view: &View,
    operation: &Operation,
    status: &OperationStatus,
    unwanted: bool,
) -> Doing {
    let now = counted(operation, status);
    let taken_back = operation.step == OperationStep::Cancelling;
    if !taken_back && !unwanted {
        return Doing::Holds(Operation { step: OperationStep::Posted, ..now });
    }
    if !taken_back {
        return Doing::Next(Operation { step: OperationStep::Cancelling, ..now });
    }
    match view.speaker() {
        Some(speaker) if !status.cancelling => {
            Doing::Step(Step::Cancel { pod: target(speaker), id: operation.id.clone() })
        }
        _ => Doing::Holds(now),
    }
}

/// The nodes are through with it: once all know, its last figures are written down, then it is over.
pub fn end(view: &View, operation: &Operation, status: &OperationStatus) -> Doing {
    if !view.settled() {
        return Doing::Waits;
    }
    let step = match status.state {
        OperationState::Done => OperationStep::Verified,
        _ => OperationStep::Cancelling,
    };
    let done_epoch = status.ended_epoch.and_then(|epoch| i64::try_from(epoch).ok());
    let last = Operation { step, done_epoch, ..counted(operation, status) };
    if *operation == last { Doing::Over } else { Doing::Holds(last) }
}

/// Does the status show that it ended as it was meant, with everything moved that was to move?
pub fn came_to_its_end(operation: &Operation) -> bool {
    let moves = match operation.kind {
        OperationType::Join | OperationType::Leave => !operation.without_data,
        OperationType::Replace => true,
        // One that the nodes refused is not asked for again either, until something is different.
        OperationType::Rebalance => return operation.step != OperationStep::Cancelling,
        _ => false,
    };
    let after = [OperationStep::Verified, OperationStep::Shrinking, OperationStep::Volume];
    let whole = operation.moves_total == operation.moves_done;
    moves && whole && after.contains(&operation.step)
}

/// The kind of the nodes' operation.
fn kind(operation: &Operation) -> Option<OperationKind> {
    Some(match operation.kind {
        OperationType::Join => OperationKind::Join,
        OperationType::Leave => OperationKind::Leave,
        OperationType::Replace => OperationKind::Replace,
        OperationType::Rebalance => OperationKind::Rebalance,
        OperationType::Relocate => OperationKind::Relocate,
        OperationType::Form | OperationType::Restart | OperationType::Repair => return None,
    })
}

/// Asks the nodes for it; waits while they move data for another operation.
pub fn post(view: &View, operation: &Operation) -> Doing {
    let (Some(speaker), Some(kind)) = (view.speaker(), kind(operation)) else {
        return Doing::Waits;
    };
    if may_come_in(operation).is_none() && busy(view, &operation.id).is_some() {
        return Doing::Waits;
    }
    let id = |text: &str| text.parse::<NodeId>().ok();
    let request = OperationRequest {
        id: operation.id.clone(),
        kind,
        node: id(&operation.node_id),
        replaces: id(&operation.replaces),
        machine: (kind == OperationKind::Relocate).then(|| operation.machine.clone()),
        rebalance: operation.without_data.then_some(false),
    };
    Doing::Step(Step::Post { pod: target(speaker), request })
}

/// Whether it does not wait for another operation that moves data.
fn may_come_in(operation: &Operation) -> Option<()> {
    matches!(operation.kind, OperationType::Replace | OperationType::Relocate).then_some(())
}

/// Operations of the nodes that move data now.
pub fn moving<'a>(view: &View<'a>) -> impl Iterator<Item = &'a OperationStatus> + use<'a> {
    let newest: Option<&'a Status> = view.newest();
    let all = newest.into_iter().flat_map(|status| &status.operations);
    all.filter(|status| runs(status) && status.request.moves_data())
}

/// Another operation that moves data now.
fn busy<'a>(view: &View<'a>, id: &str) -> Option<&'a OperationStatus> {
    moving(view).find(|status| status.request.id != id)
}

/// The change that is due: adopted where the nodes are at it already, refused while they are at
/// something else.
pub fn due(view: &View, operation: Operation) -> Result<Operation, Refusal> {
    view.majority().map_err(Refusal::NoMajority)?;
    let same = |status: &&OperationStatus| {
        let request = &status.request;
        let named = |id: Option<NodeId>| id.map(|id| id.to_string()).unwrap_or_default();
        Some(request.kind) == kind(&operation)
            && named(request.node) == operation.node_id
            && named(request.replaces) == operation.replaces
    };
    if let Some(status) = moving(view).find(same) {
        let id = status.request.id.clone();
        let (step, without_data) = (OperationStep::Posted, false);
        return Ok(Operation { id, step, without_data, ..operation });
    }
    match busy(view, &operation.id) {
        Some(other) if may_come_in(&operation).is_none() => {
            Err(Refusal::ChangeWaits(format!("operation {} still moves data", other.request.id)))
        }
        _ => Ok(operation),
    }
}
