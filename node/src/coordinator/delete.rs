//! A delete: a write of a tombstone that covers the client's token, or what a quorum read saw. Where the
//! last write wins there is no need to read first: it covers what stands above it anyway.

use std::rc::Rc;

use kvasir_core::version::{Context, Payload, Stamp};
use tokio::time::Instant;

use super::plan::Plan;
use super::request::{CoordinateError, DeleteOutcome, DeleteRequest};
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
    loop {
        let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
        let done = match plan.owns() {
            true => at(this, &plan, &request).await,
            false => forward::delete(this, &plan, &request).await,
        };
        match done {
            // Nothing was applied: whoever owns the key by now coordinates, and reads first where need be.
            Err(CoordinateError::Moved { .. }) if Instant::now() < request.deadline => {}
            done => return done,
        }
    }
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
    at(this, &plan, &request).await
}

/// As [`here`], by a plan that was made before.
pub(super) async fn at(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: &DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let level = request.w.unwrap_or(plan.settings.w);
    plan.tally(level)?;
    let over = plan.last_write_wins().then_some(Stamp::default());
    let sloppy = plan.sloppy(request.sloppy);
    let mut context = match &request.token {
        Some(token) => plan.context(Some(token))?,
        None if over.is_some() => Context::new(),
        None => {
            let seen = get::merged(this, plan, level.quorum(), sloppy, request.deadline).await?;
            seen.set.context().clone()
        }
    };
    let payload = Payload::Tombstone;
    let order = Order { context: context.clone(), payload, life: None, over };
    plan.token_fits(&context)?;
    let durability = plan.durability(request.durability);
    let asked = (level, sloppy);
    let written = put::write(this, plan, order, asked, durability, request.deadline).await?;
    context.insert(written.dot);
    Ok(DeleteOutcome { token: plan.token(&context)?, acks: written.acks })
}
