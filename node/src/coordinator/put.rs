//! A write: mint here, send to the other owners, answer at W.
//!
//! Where the request is sloppy, stand-ins answer in the place of owners that are down, as many as W
//! needs. This node may itself be one: then its copy is minted into what it keeps for others.

use std::rc::Rc;
use std::sync::Arc;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Progress, Tally};
use kvasir_core::version::{Payload, SiblingSet};
use tokio::time::Instant;

use super::Coordinate;
use super::fanout::{Answers, Failure, shared_cause};
use super::forward;
use super::plan::Plan;
use super::request::{
    Acks, CoordinateError, Durability, GetOutcome, PutOutcome, PutRequest, Showing,
};
use super::seats::{LOOK, Seats};
use crate::planted::{Bug, Planted};
use crate::replica::{Order, View};

/// Stores one value.
///
/// # Errors
/// See [`CoordinateError`]; its `may_be_stored` tells unknown from not applied.
pub async fn put(this: &Coordinate, request: PutRequest) -> Result<PutOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    if !plan.owns() {
        return forward::put(this, &plan, request).await;
    }
    at(this, &plan, request).await
}

/// Stores one value with this node as the coordinator, be it an owner or a stand-in.
///
/// # Errors
/// As [`put`].
pub async fn here(this: &Coordinate, request: PutRequest) -> Result<PutOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    at(this, &plan, request).await
}

/// As [`here`], by a plan that was made before.
pub(super) async fn at(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: PutRequest,
) -> Result<PutOutcome, CoordinateError> {
    let mut tally = plan.tally(request.w.unwrap_or(plan.settings.w))?;
    let order = Order {
        context: plan.context(request.token.as_deref())?,
        payload: Payload::Value { bytes: request.value, content_type: request.content_type },
        ttl_ms: request.ttl_ms.or(plan.settings.ttl.map(|s| s.saturating_mul(1_000))),
    };
    let durability = plan.durability(request.durability);
    let seen = order.context.clone();
    plan.token_fits(&seen)?;
    let seats = Seats::new(plan, plan.sloppy(request.sloppy), &mut tally)?;
    let written = write(this, plan, order, (tally, seats), durability, request.deadline).await?;
    let mut context = seen;
    context.join(written.delta.context());
    if this.planted.is(Bug::CoordinatorToken) {
        context.join(written.set.context());
    }
    let returned = match request.return_set {
        true => Some(GetOutcome {
            // The write is done: a set whose token is too long is shown without one.
            token: plan.token(written.set.context()).ok(),
            set: written.set,
            showing: Showing::Siblings,
            agreed: (written.acks.owners.len() + written.acks.standins.len()) as u32,
            replicas: plan.owners.len() as u32,
            now_ms: this.replica.now_ms(),
        }),
        false => None,
    };
    Ok(PutOutcome { token: plan.token(&context)?, acks: written.acks, returned })
}

/// A write that reached its level.
pub(super) struct Written {
    /// What travelled.
    pub delta: SiblingSet,
    /// The coordinator's set after the write.
    pub set: SiblingSet,
    /// Who acknowledged.
    pub acks: Acks,
}

/// Mints on this node, sends the delta to the other owners, and waits for the tally, with stand-ins
/// in the seats of owners that are down.
pub(super) async fn write(
    this: &Coordinate,
    plan: &Rc<Plan>,
    order: Order,
    (mut tally, mut seats): (Tally, Seats),
    durability: Durability,
    deadline: Instant,
) -> Result<Written, CoordinateError> {
    let mint = async {
        match plan.owns() {
            true => this.replica.mint(&plan.table_key, order, durability).await,
            false => this.standins.mint(&plan.table_key, order, durability).await,
        }
    };
    let applied = match tokio::time::timeout_at(deadline, mint).await {
        Ok(minted) => minted?,
        // The read of the old record is still under way: whether it will be minted is not known.
        Err(_) => return Err(late(&tally, true)),
    };
    let answers: Answers<()> = Answers::until(deadline);
    let delta = Rc::new(applied.out.delta);
    answers.ask(plan.view.me, async move {
        applied.durable.await.map_err(|e| Failure::Unknown(e.to_string()))
    });
    for owner in plan.owners.iter().filter(|o| o.node != plan.view.me) {
        this.send_write(plan, owner.node, &delta, durability, &answers);
    }
    let call = |node, answers: &Answers<()>| {
        this.send_stand_in(plan, node, &delta, durability, answers);
    };
    let outside = (call, || this.views.load(), this.planted);
    collect(&mut tally, &mut seats, answers, deadline, outside).await?;
    let (owners, standins) = (tally.owner_acks().collect(), tally.stand_in_acks().collect());
    Ok(Written {
        delta: (*delta).clone(),
        set: applied.out.set,
        acks: Acks { owners, standins, durability },
    })
}

/// Waits for the level, calling upon stand-ins where it needs them. The value is in this node's log by
/// now, so no failure here is "not stored".
async fn collect(
    tally: &mut Tally,
    seats: &mut Seats,
    mut answers: Answers<()>,
    deadline: Instant,
    (call, view, planted): (impl Fn(NodeId, &Answers<()>), impl Fn() -> Arc<View>, Planted),
) -> Result<(), CoordinateError> {
    let mut failures = Vec::new();
    let mut next_look = Instant::now() + LOOK;
    loop {
        for node in seats.call(tally)? {
            call(node, &answers);
        }
        match reached(tally, true) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(shared_cause(&failures, true).unwrap_or(error)),
        }
        let until = if seats.looks() { deadline.min(next_look) } else { deadline };
        match answers.next(until).await {
            Some((node, Ok(()))) => {
                if planted.is(Bug::CountTwice)
                    && let Some(other) = tally.outstanding().into_iter().find(|o| *o != node)
                {
                    tally.ack(other)?;
                }
                tally.ack(node)?;
            }
            Some((node, Err(why))) => {
                tally.fail(node)?;
                seats.failed(node, &why);
                failures.push(why);
            }
            None if Instant::now() >= deadline => return Err(late(tally, true)),
            None => {
                next_look = Instant::now() + LOOK;
                seats.look(&view(), tally)?;
            }
        }
    }
}

/// Whether the level is reached.
///
/// # Errors
/// It no longer can be.
pub(super) fn reached(tally: &Tally, may_be_stored: bool) -> Result<bool, CoordinateError> {
    let (acks, required) = (tally.acks().len() as u32, tally.required());
    match tally.progress() {
        Progress::Done => Ok(true),
        Progress::NeedMore => Ok(false),
        Progress::Failed => {
            Err(CoordinateError::QuorumNotReached { acks, required, may_be_stored })
        }
    }
}

/// The deadline passed.
pub(super) fn late(tally: &Tally, may_be_stored: bool) -> CoordinateError {
    let (acks, required) = (tally.acks().len() as u32, tally.required());
    CoordinateError::Deadline { acks, required, may_be_stored }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvasir_core::quorum::Level;

    use super::*;

    /// One owner acknowledges, the other two fail with the given reasons.
    async fn collected(reasons: [Failure; 2]) -> Result<(), CoordinateError> {
        let owners = [1, 2, 3].map(|n| (NodeId::from_bytes([n; 16]), "a"));
        let mut tally = Tally::new(Level::Quorum, &owners, "a").unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let answers = Answers::until(deadline);
        answers.ask(owners[0].0, async { Ok(()) });
        for ((node, _), reason) in owners[1..].iter().zip(reasons) {
            answers.ask(*node, async move { Err(reason) });
        }
        let view = || Arc::new(View::blank(owners[0].0, "a"));
        let nobody = |_, _: &Answers<()>| panic!("the request is strict");
        let outside = (nobody, view, Planted::default());
        collect(&mut tally, &mut Seats::strict(), answers, deadline, outside).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_full_disks_are_reported_as_a_full_disk() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let full = collected([Failure::DiskFull, Failure::DiskFull]).await;
                assert!(matches!(full, Err(CoordinateError::DiskFull { may_be_stored: true })));
                let mixed = collected([Failure::DiskFull, Failure::Unknown("gone".into())]).await;
                assert!(matches!(
                    mixed,
                    Err(CoordinateError::QuorumNotReached { acks: 1, may_be_stored: true, .. })
                ));
            })
            .await;
    }
}
