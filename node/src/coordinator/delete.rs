//! A delete: a write of a tombstone that covers the client's token, or what a quorum read saw.

use std::rc::Rc;

use kvasir_core::quorum::Level;
use kvasir_core::version::Payload;

use super::plan::Plan;
use super::request::{CoordinateError, DeleteOutcome, DeleteRequest};
use super::seats::Seats;
use super::{Coordinate, forward, get, put};
use crate::replica::Order;

/// Deletes one key.
///
/// # Errors
/// See [`CoordinateError`]; its `may_be_stored` tells unknown from not applied.
pub async fn delete(
    this: &Coordinate,
    request: DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    if !plan.owns() {
        return forward::delete(this, &plan, request).await;
    }
    at(this, &plan, request).await
}

/// Deletes one key with this node as the coordinator, be it an owner or a stand-in.
///
/// # Errors
/// As [`delete`].
pub async fn here(
    this: &Coordinate,
    request: DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    at(this, &plan, request).await
}

/// As [`here`], by a plan that was made before.
pub(super) async fn at(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let mut tally = plan.tally(request.w.unwrap_or(plan.settings.w))?;
    let sloppy = plan.sloppy(request.sloppy);
    let context = match &request.token {
        Some(token) => plan.context(Some(token))?,
        None => {
            let seen = get::merged(this, plan, Level::Quorum, sloppy, request.deadline).await?;
            seen.set.context().clone()
        }
    };
    let order = Order { context: context.clone(), payload: Payload::Tombstone, ttl_ms: None };
    plan.token_fits(&context)?;
    let durability = plan.durability(request.durability);
    let seats = Seats::new(plan, sloppy, &mut tally)?;
    let written =
        put::write(this, plan, order, (tally, seats), durability, request.deadline).await?;
    let mut covered = context;
    covered.join(written.delta.context());
    Ok(DeleteOutcome { token: plan.token(&covered)?, acks: written.acks })
}
