//! A write: mint here, send to the other owners, answer at W.
//!
//! Where the request is sloppy, stand-ins answer in the place of owners that are down, as many as W
//! needs. This node may itself be one: then its copy is minted into what it keeps for others.
//!
//! Where the last write wins, a write covers all that this node holds. A replica may hold more: it says
//! what stands above the write there, and the write is made again, covering that, before it is answered
//! (`core/version/lww.rs`). The writes that were acknowledged before this one began are known to a quorum,
//! so the second round ends their claim; whatever outranks a later round was written at the same time,
//! and may win. That is why the rounds are few.

use std::rc::Rc;
use std::sync::Arc;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Progress, Tally};
use kvasir_core::version::{Dot, Outranked, Payload, SiblingSet, Stamp};
use kvasir_storage::Applied;
use tokio::time::Instant;

use super::Coordinate;
use super::fanout::{Answers, Failure, Stored, shared_cause};
use super::forward;
use super::hedge::Figures;
use super::plan::Plan;
use super::request::{Acks, CoordinateError, Durability, GetOutcome, PutOutcome, PutRequest};
use super::seats::{LOOK, Seats};
use super::wire::mismatch;
use crate::planted::{Bug, Planted};
use crate::replica::{Minted, Order, View};

/// Most rounds of one write. Two end every claim from before it; the others are for replicas that took
/// no part in the first ones.
const ROUNDS_MAX: u32 = 4;

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
    let level = request.w.unwrap_or(plan.settings.w);
    plan.tally(level)?;
    let order = Order {
        context: plan.context(request.token.as_deref())?,
        payload: Payload::Value { bytes: request.value, content_type: request.content_type },
        ttl_ms: request.ttl_ms.or(plan.settings.ttl.map(|s| s.saturating_mul(1_000))),
        over: plan.last_write_wins().then_some(Stamp::default()),
    };
    let durability = plan.durability(request.durability);
    let mut context = order.context.clone();
    plan.token_fits(&context)?;
    let asked = (level, plan.sloppy(request.sloppy));
    let written = write(this, plan, order, asked, durability, request.deadline).await?;
    context.insert(written.dot);
    if this.planted.is(Bug::CoordinatorToken) {
        context.join(written.set.context());
    }
    let returned = match request.return_set {
        true => Some(GetOutcome {
            // The write is done: a set whose token is too long is shown without one.
            token: plan.token(written.set.context()).ok(),
            set: written.set,
            showing: plan.showing(),
            agreed: (written.acks.owners.len() + written.acks.standins.len()) as u32,
            replicas: plan.seats().len() as u32,
            now_ms: this.replica.now_ms(),
        }),
        false => None,
    };
    Ok(PutOutcome { token: plan.token(&context)?, acks: written.acks, returned })
}

/// A write that reached its level.
pub(super) struct Written {
    /// Its name. The token of the writer is what it had seen and this.
    pub dot: Dot,
    /// The coordinator's set after the write.
    pub set: SiblingSet,
    /// Who acknowledged.
    pub acks: Acks,
}

/// Writes until no replica that was counted holds anything above it, where the last write wins; once, in
/// other buckets.
pub(super) async fn write(
    this: &Coordinate,
    plan: &Rc<Plan>,
    mut order: Order,
    (level, sloppy): (Level, bool),
    durability: Durability,
    deadline: Instant,
) -> Result<Written, CoordinateError> {
    let mut done: Option<Written> = None;
    for _ in 0..ROUNDS_MAX {
        let outcome = round(this, plan, order.clone(), (level, sloppy), durability, deadline).await;
        let (written, above) = match (outcome, &done) {
            (Ok(written), _) => written,
            (Err(error), None) => return Err(error),
            // The round before is stored, so this is not "nothing was applied".
            (Err(error), Some(before)) => return Err(unknown(error, &before.acks)),
        };
        let above = above.filter(|_| order.over.is_some() && !this.planted.is(Bug::OneRound));
        let Some(Outranked { dots, stamp }) = above else { return Ok(written) };
        Figures::count(&this.learned.figures.covering_rounds);
        this.replica.hear(stamp);
        order.over = order.over.max(Some(stamp));
        dots.into_iter().for_each(|dot| order.context.insert(dot));
        done = Some(written);
    }
    done.ok_or_else(|| mismatch(true))
}

/// What a failure means for a write of which a round before was stored.
fn unknown(error: CoordinateError, acks: &Acks) -> CoordinateError {
    let acks = (acks.owners.len() + acks.standins.len()) as u32;
    match error {
        CoordinateError::Deadline { acks, required, short, .. } => {
            CoordinateError::Deadline { acks, required, short, may_be_stored: true }
        }
        CoordinateError::DiskFull { .. } => CoordinateError::DiskFull { may_be_stored: true },
        CoordinateError::DiskFailed { reason, .. } => {
            CoordinateError::DiskFailed { reason, may_be_stored: true }
        }
        CoordinateError::QuorumNotReached { acks, required, short, .. } => {
            CoordinateError::QuorumNotReached { acks, required, short, may_be_stored: true }
        }
        _ => CoordinateError::QuorumNotReached {
            acks: 0,
            required: acks,
            short: Vec::new(),
            may_be_stored: true,
        },
    }
}

/// Mints on this node, sends the delta to the other owners, and waits for the level, with stand-ins in the
/// seats of owners that are down. Where somebody knows a newer version of the partition's entry, the same
/// delta is sent again to the owners that it names, and counted anew.
async fn round(
    this: &Coordinate,
    plan: &Rc<Plan>,
    order: Order,
    (level, sloppy): (Level, bool),
    durability: Durability,
    deadline: Instant,
) -> Result<(Written, Stored), CoordinateError> {
    let mut plan = plan.clone();
    // From here to the mint nothing is stored: a plan that is overtaken is made anew.
    let (mut counting, applied) = loop {
        let mut tally = plan.tally(level)?;
        let seats = Seats::new(&plan, sloppy, false, &mut tally)?;
        match mint(this, &plan, &order, durability, (&tally, deadline)).await? {
            Ok(applied) => break ((tally, seats), applied),
            Err(epoch) => plan = this.newer(&plan, epoch, deadline).await?,
        }
    };
    let (dot, set, delta) = (applied.out.dot, applied.out.set, Rc::new(applied.out.delta));
    let mut durable = Some(applied.durable);
    loop {
        let answers: Answers<Stored> = Answers::until(deadline);
        let me = plan.view.me;
        match durable.take() {
            Some(durable) => answers.ask(me, async move {
                durable.await.map(|()| None).map_err(|e| Failure::Unknown(e.to_string()))
            }),
            None if plan.stores() => {
                let (this, plan, delta) = (this.clone(), plan.clone(), delta.clone());
                answers.ask(me, async move {
                    this.merge_here(&plan, &delta, durability).await.map(|()| None)
                });
            }
            None => {}
        }
        this.send_to_owners(&plan, &delta, (level, durability), &answers);
        let call = |node, answers: &Answers<Stored>| {
            this.send_stand_in(&plan, node, &delta, durability, answers);
        };
        let outside = (call, || this.views.load(), this.planted);
        let (tally, seats) = (&mut counting.0, &mut counting.1);
        let epoch = match collect(tally, seats, answers, deadline, outside).await? {
            Ok(above) => {
                let owners = tally.owner_acks().collect();
                let standins = tally.stand_in_acks().collect();
                let acks = Acks { owners, standins, durability };
                return Ok((Written { dot, set, acks }, above));
            }
            Err(epoch) => epoch,
        };
        // The value is stored here by now, whatever becomes of the request.
        plan = this.newer(&plan, epoch, deadline).await.map_err(|_| late(&counting.0, true))?;
        let mut tally = plan.tally(level)?;
        let seats = Seats::new(&plan, sloppy, true, &mut tally)?;
        counting = (tally, seats);
    }
}

/// Mints the write on this node, under the version that was planned with; or says the epoch of the
/// newer document.
async fn mint(
    this: &Coordinate,
    plan: &Plan,
    order: &Order,
    durability: Durability,
    (tally, deadline): (&Tally, Instant),
) -> Result<Result<Applied<Minted>, u64>, CoordinateError> {
    let key = &plan.table_key;
    let minting = async {
        match plan.owns() {
            true => {
                let pass = match this.enter(plan) {
                    Ok(pass) => pass,
                    Err(Failure::Stale(epoch)) => return Ok(Err(epoch)),
                    Err(_) => return Ok(Err(0)),
                };
                let minted = this.replica.mint(key, order.clone(), durability).await;
                drop(pass);
                minted.map(Ok)
            }
            false => this.standins.mint(key, order.clone(), durability).await.map(Ok),
        }
    };
    match tokio::time::timeout_at(deadline, minting).await {
        Ok(minted) => Ok(minted?),
        // The read of the old record is still under way: whether it will be minted is not known.
        Err(_) => Err(late(tally, true)),
    }
}

/// Waits for the level, calling upon stand-ins where it needs them. Says what those that were counted hold
/// above the write; or the epoch of a newer document, when an owner knows one before the level is
/// reached. The value is in this node's log by now, so no failure here is "not stored".
async fn collect(
    tally: &mut Tally,
    seats: &mut Seats,
    mut answers: Answers<Stored>,
    deadline: Instant,
    (call, view, planted): (impl Fn(NodeId, &Answers<Stored>), impl Fn() -> Arc<View>, Planted),
) -> Result<Result<Stored, u64>, CoordinateError> {
    let (mut above, mut failures) = (None::<Outranked>, Vec::new());
    let mut next_look = Instant::now() + LOOK;
    loop {
        for node in seats.call(tally)? {
            call(node, &answers);
        }
        match reached(tally, true) {
            Ok(true) => return Ok(Ok(above)),
            Ok(false) => {}
            Err(error) => return Err(shared_cause(&failures, true).unwrap_or(error)),
        }
        let until = if seats.looks() { deadline.min(next_look) } else { deadline };
        match answers.next(until).await {
            Some((node, Ok(told))) => {
                above = match (above, told) {
                    (Some(one), Some(other)) => Some(one.and(other)),
                    (one, other) => one.or(other),
                };
                if planted.is(Bug::CountTwice)
                    && let Some(other) = tally.outstanding().into_iter().find(|o| *o != node)
                {
                    tally.ack(other)?;
                }
                tally.ack(node)?;
            }
            Some((_, Err(Failure::Stale(epoch)))) => return Ok(Err(epoch)),
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
    match tally.progress() {
        Progress::Done => Ok(true),
        Progress::NeedMore => Ok(false),
        Progress::Failed => Err(CoordinateError::QuorumNotReached {
            acks: tally.towards(),
            required: tally.required(),
            short: tally.shortages(),
            may_be_stored,
        }),
    }
}

/// The deadline passed.
pub(super) fn late(tally: &Tally, may_be_stored: bool) -> CoordinateError {
    CoordinateError::Deadline {
        acks: tally.towards(),
        required: tally.required(),
        short: tally.shortages(),
        may_be_stored,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One owner acknowledges, the other two fail with the given reasons.
    async fn collected(reasons: [Failure; 2]) -> Result<Result<Stored, u64>, CoordinateError> {
        let owners = [1, 2, 3].map(|n| (NodeId::from_bytes([n; 16]), "a"));
        let mut tally = Tally::new(Level::Quorum, &owners, "a").unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let answers = Answers::until(deadline);
        answers.ask(owners[0].0, async { Ok(None) });
        for ((node, _), reason) in owners[1..].iter().zip(reasons) {
            answers.ask(*node, async move { Err(reason) });
        }
        let view = || Arc::new(View::blank(owners[0].0, "a"));
        let nobody = |_, _: &Answers<Stored>| panic!("the request is strict");
        let outside = (nobody, view, Planted::default());
        collect(&mut tally, &mut Seats::strict(), answers, deadline, outside).await
    }

    #[test]
    fn a_failure_after_a_stored_round_is_unknown() {
        let acks = Acks { owners: vec![], standins: vec![], durability: Durability::Group };
        for error in [
            CoordinateError::Overloaded { retry_after_ms: 1 },
            CoordinateError::StandInsFull,
            CoordinateError::ContextRefused { reason: String::new() },
            CoordinateError::NotServing { reason: String::new() },
            CoordinateError::DiskFull { may_be_stored: false },
            CoordinateError::DiskFailed { reason: String::new(), may_be_stored: false },
            CoordinateError::Deadline {
                acks: 0,
                required: 1,
                short: Vec::new(),
                may_be_stored: false,
            },
        ] {
            assert!(unknown(error.clone(), &acks).may_be_stored(), "{error}");
        }
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
                let newer = collected([Failure::Stale(7), Failure::DiskFull]).await;
                assert_eq!(newer, Ok(Err(7)), "an owner knows a newer version");
            })
            .await;
    }
}
