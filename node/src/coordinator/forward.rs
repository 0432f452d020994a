//! Hands a whole request to an owner of the key, for a node that owns nothing of it.
//!
//! Owners are tried in the order of the plan. A write goes to the next owner only when the one
//! before said, or proved, that nothing was applied: forwarding never doubles a write. A forwarded
//! request is never forwarded again.

use std::rc::Rc;

use kvasir_core::id::NodeId;
use tokio::time::Instant;

use super::Coordinate;
use super::fanout::{Failure, shared_cause};
use super::plan::Plan;
use super::request::{
    CoordinateError, DeleteOutcome, DeleteRequest, GetOutcome, GetRequest, PutOutcome, PutRequest,
};
use super::wire::{self, Answer, Order};
use crate::peer::{Reply, Request};

/// Forwards a read.
pub(super) async fn get(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: GetRequest,
) -> Result<GetOutcome, CoordinateError> {
    let deadline = request.deadline;
    match any_owner(this, plan, &Order::get(&request), deadline, Retry::Always).await? {
        Answer::Get(found) => wire::get_outcome(found),
        _ => Err(wire::mismatch(false)),
    }
}

/// Forwards a put.
pub(super) async fn put(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: PutRequest,
) -> Result<PutOutcome, CoordinateError> {
    let deadline = request.deadline;
    match any_owner(this, plan, &Order::put(&request), deadline, Retry::NotApplied).await? {
        Answer::Put(stored) => wire::put_outcome(stored),
        _ => Err(wire::mismatch(true)),
    }
}

/// Forwards a delete.
pub(super) async fn delete(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let deadline = request.deadline;
    match any_owner(this, plan, &Order::delete(&request), deadline, Retry::NotApplied).await? {
        Answer::Delete(stored) => Ok(wire::delete_outcome(stored)),
        _ => Err(wire::mismatch(true)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// Reads: whatever went wrong, ask the next.
    Always,
    /// Writes: only when nothing was applied for sure.
    NotApplied,
}

impl Coordinate {
    async fn hand_over(
        &self,
        plan: &Plan,
        node: NodeId,
        order: &Order,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let order = postcard::to_allocvec(order)
            .map_err(|e| Failure::NotApplied(format!("the request does not encode: {e}")))?;
        let request = Request::Coordinate(order.into());
        match self.call(plan, node, request, deadline).await? {
            Reply::Coordinated(bytes) => postcard::from_bytes(&bytes)
                .map_err(|e| Failure::Unknown(format!("an unreadable answer: {e}"))),
            other => Err(Failure::Unknown(format!("unexpected answer {}", other.name()))),
        }
    }
}

async fn any_owner(
    this: &Coordinate,
    plan: &Rc<Plan>,
    order: &Order,
    deadline: Instant,
    retry: Retry,
) -> Result<Answer, CoordinateError> {
    let mut last = CoordinateError::QuorumNotReached { acks: 0, required: 1, may_be_stored: false };
    let mut failures = Vec::new();
    for (tried, owner) in plan.owners.iter().enumerate() {
        let now = Instant::now();
        if now >= deadline {
            return Err(CoordinateError::Deadline { acks: 0, required: 1, may_be_stored: false });
        }
        // A read leaves time for the owners that are left; a write that was sent is not sent again.
        let left = (plan.owners.len() - tried) as u32;
        let until = match retry {
            Retry::Always => now + (deadline - now) / left,
            Retry::NotApplied => deadline,
        };
        match this.hand_over(plan, owner.node, order, until).await {
            Ok(Answer::Error(error)) if error.is_elsewhere() => last = error.into(),
            Ok(Answer::Error(error)) => return Err(error.into()),
            Ok(answer) => return Ok(answer),
            Err(Failure::Unknown(reason)) if retry == Retry::NotApplied => {
                tracing::debug!(owner = %owner.node, reason, "a forwarded write is unknown");
                let may_be_stored = true;
                return Err(CoordinateError::QuorumNotReached {
                    acks: 0,
                    required: 1,
                    may_be_stored,
                });
            }
            Err(failure) => {
                tracing::debug!(owner = %owner.node, ?failure, "forwarding failed, trying the next owner");
                failures.push(failure);
            }
        }
    }
    let all = failures.len() == plan.owners.len();
    Err(shared_cause(&failures, false).filter(|_| all).unwrap_or(last))
}
