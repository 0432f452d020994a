//! Hands a whole request to an owner of the key, for a node that owns nothing of it.
//!
//! Owners are tried in the order of the plan, for a write those last that were found much slower. A write goes
//! to the next owner only when the one before said, or proved, that nothing was applied: forwarding never
//! doubles a write. A forwarded request is never forwarded again.
//!
//! When no owner could be asked at all and the request is sloppy, the next healthy nodes on the ring are
//! tried in the same way, to coordinate as stand-ins; this node, if it is one of them, does it itself.
//!
//! An owner may be none any more, by a document that this node or that owner has not heard of yet. Where all
//! refuse, the newer document is waited for and they are asked again: no client is told of it while time is left.
//!
//! Those in this node's data center come first. A local level means the data center of the node that the
//! client asked, so a request at one never leaves it.

use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Tally};
use tokio::time::{Instant, timeout_at};

use super::fanout::{AGAIN, Failure, shared_cause};
use super::hedge::PATIENCE;
use super::plan::Plan;
use super::put::late;
use super::request::{
    CoordinateError, DeleteOutcome, DeleteRequest, GetOutcome, GetRequest, PutOutcome, PutRequest,
};
use super::wire::{self, Answer, Failed, Order};
use super::{Coordinate, Figures};
use crate::peer::{Reply, Request};

/// Forwards a read.
pub(super) async fn get(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: GetRequest,
) -> Result<GetOutcome, CoordinateError> {
    this.learned.begin();
    let deadline = request.deadline;
    let level = request.r.unwrap_or(plan.settings.r);
    let asked =
        Asked { tally: plan.read_tally(level)?, level, sloppy: plan.sloppy(request.sloppy) };
    match any(this, plan, (&Order::get(&request), &asked), deadline, Retry::Always).await? {
        Done::There(Answer::Get(found)) => wire::get_outcome(found),
        Done::There(_) => Err(wire::mismatch(false)),
        Done::Here(plan) => super::get::at(this, &plan, request).await,
    }
}

/// Forwards a put.
pub(super) async fn put(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: &PutRequest,
) -> Result<PutOutcome, CoordinateError> {
    let deadline = request.deadline;
    let level = request.w.unwrap_or(plan.settings.w);
    let asked = Asked { tally: plan.tally(level)?, level, sloppy: plan.sloppy(request.sloppy) };
    match any(this, plan, (&Order::put(request), &asked), deadline, Retry::NotApplied).await? {
        Done::There(Answer::Put(stored)) => wire::put_outcome(stored),
        Done::There(_) => Err(wire::mismatch(true)),
        Done::Here(plan) => super::put::at(this, &plan, request).await,
    }
}

/// Forwards a delete.
pub(super) async fn delete(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: &DeleteRequest,
) -> Result<DeleteOutcome, CoordinateError> {
    let deadline = request.deadline;
    let level = request.w.unwrap_or(plan.settings.w);
    let asked = Asked { tally: plan.tally(level)?, level, sloppy: plan.sloppy(request.sloppy) };
    match any(this, plan, (&Order::delete(request), &asked), deadline, Retry::NotApplied).await? {
        Done::There(Answer::Delete(stored)) => Ok(wire::delete_outcome(stored)),
        Done::There(_) => Err(wire::mismatch(true)),
        Done::Here(plan) => super::delete::at(this, &plan, request).await,
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
    /// Has a node coordinate; how long it takes, or is silent, tells to whom writes are handed next.
    async fn hand_over(
        &self,
        plan: &Plan,
        node: NodeId,
        (order, stand_in): (&Order, bool),
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let order = postcard::to_allocvec(order)
            .map_err(|e| Failure::NotApplied(format!("the request does not encode: {e}")))?;
        let request = match stand_in {
            true => Request::CoordinateAsStandIn(order.into()),
            false => Request::Coordinate(order.into()),
        };
        let asked = Instant::now();
        let mut call = pin!(self.call(plan, node, request, deadline));
        let reply = match timeout_at(asked + PATIENCE, &mut call).await {
            Ok(reply) => reply,
            Err(_) => {
                self.learned.note_task(node, asked.elapsed());
                call.await
            }
        };
        self.learned.note_task(node, asked.elapsed());
        match reply? {
            Reply::Coordinated(bytes) => postcard::from_bytes(&bytes)
                .map_err(|e| Failure::Unknown(format!("an unreadable answer: {e}"))),
            other => Err(Failure::Unknown(format!("unexpected answer {}", other.name()))),
        }
    }
}

/// What a request that is handed over asks for, as far as it decides to whom.
struct Asked {
    level: Level,
    /// Of the replicas as they are known here; empty.
    tally: Tally,
    sloppy: bool,
}

/// Whom to try, in order, and whether as a stand-in.
fn targets(this: &Coordinate, plan: &Plan, asked: &Asked, retry: Retry) -> Vec<(NodeId, bool)> {
    let mut owners = this.learned.order_of_coordinators(plan, retry == Retry::NotApplied);
    owners.sort_by_cached_key(|node| plan.is_far(*node));
    let bench = asked.sloppy.then(|| plan.bench().coordinators(&plan.view.datacenter));
    let owners = owners.into_iter().map(|node| (node, false));
    let all = owners.chain(bench.into_iter().flatten().map(|node| (node, true)));
    all.filter(|(node, _)| !asked.level.is_local() || !plan.is_far(*node)).collect()
}

/// Who coordinates.
enum Done {
    /// Another node, which answered.
    There(Answer),
    /// This node, by this plan: as a stand-in, or because it came to own the key meanwhile.
    Here(Rc<Plan>),
}

/// What came of asking one node after the other.
enum Tried {
    Done(Done),
    /// Nobody coordinated, and nothing was applied.
    Nobody {
        error: CoordinateError,
        /// The newest epoch by whose document somebody owns nothing of the key.
        epoch: Option<u64>,
    },
}

/// Has somebody coordinate. Where nobody does, and somebody refused by another document than the one of the
/// plan, all are asked again once both sides know the newer one.
async fn any(
    this: &Coordinate,
    plan: &Rc<Plan>,
    (order, asked): (&Order, &Asked),
    deadline: Instant,
    retry: Retry,
) -> Result<Done, CoordinateError> {
    Figures::count(&this.learned.figures.forwarded);
    let mut plan = plan.clone();
    loop {
        let (error, told) = match each(this, &plan, (order, asked), deadline, retry).await? {
            Tried::Done(done) => return Ok(done),
            Tried::Nobody { error, epoch } => (error, epoch),
        };
        let again = Instant::now() + AGAIN;
        let Some(epoch) = told.max(this.overtaken(&plan)).filter(|_| again < deadline) else {
            return Err(error);
        };
        tracing::debug!(epoch, %error, "nobody coordinates by the document of this plan");
        plan = match epoch > plan.view.epoch() {
            true => this.newer(&plan, epoch, deadline).await?,
            false => {
                tokio::time::sleep_until(again).await;
                Rc::new(plan.anew(this.views.load())?)
            }
        };
        if plan.owns() {
            return Ok(Done::Here(plan));
        }
    }
}

/// What was found out while asking.
struct Trial<'a> {
    asked: &'a Asked,
    retry: Retry,
    failures: Vec<Failure>,
    /// The newest epoch by whose document somebody owns nothing of the key.
    epoch: Option<u64>,
    last: CoordinateError,
    /// An owner that was reached, whatever it said, leaves no room for stand-ins: what it refused, for want of
    /// room or time, must not be stored around it.
    met_owner: bool,
}

impl<'a> Trial<'a> {
    fn new(asked: &'a Asked, retry: Retry) -> Self {
        let last = CoordinateError::QuorumNotReached {
            acks: 0,
            required: asked.tally.required(),
            short: asked.tally.shortages(),
            may_be_stored: false,
        };
        Self { asked, retry, failures: Vec::new(), epoch: None, last, met_owner: false }
    }

    /// What came of one; nothing if another one is to be asked.
    fn judge(
        &mut self,
        (node, stand_in): (NodeId, bool),
        said: Result<Answer, Failure>,
    ) -> Option<Result<Done, CoordinateError>> {
        let read = self.retry == Retry::Always;
        match said {
            Ok(Answer::Error(error)) if error.is_elsewhere() || (read && error.is_short()) => {
                self.met_owner |= !stand_in;
                if let Failed::Moved(by) = error {
                    self.epoch = self.epoch.max(Some(by));
                }
                self.last = error.into();
            }
            Ok(Answer::Error(error)) => return Some(Err(error.into())),
            Ok(answer) => return Some(Ok(Done::There(answer))),
            Err(Failure::Unknown(reason)) if !read => {
                tracing::debug!(%node, reason, "a forwarded write is unknown");
                return Some(Err(wire::mismatch(true)));
            }
            Err(failure) => {
                tracing::debug!(%node, ?failure, "forwarding failed, trying the next node");
                self.met_owner |= matches!(failure, Failure::DiskFull | Failure::Overloaded(_));
                if let Failure::NotOwner(by) = failure {
                    self.epoch = self.epoch.max(Some(by));
                }
                self.failures.push(failure);
            }
        }
        None
    }

    fn nobody(self, owners: usize) -> Tried {
        let all = self.failures.len() >= owners;
        let error = shared_cause(&self.failures, false).filter(|_| all).unwrap_or(self.last);
        Tried::Nobody { error, epoch: self.epoch }
    }
}

/// Asks one node after the other, by one plan. A read whose owner is silent for long is handed to the next one
/// beside it, within the budget of such reads, and the first good answer counts; a write that was sent is not
/// sent again.
async fn each(
    this: &Coordinate,
    plan: &Rc<Plan>,
    (order, asked): (&Order, &Asked),
    deadline: Instant,
    retry: Retry,
) -> Result<Tried, CoordinateError> {
    let mut left: VecDeque<(NodeId, bool)> = targets(this, plan, asked, retry).into();
    let owners = left.iter().filter(|(_, stand_in)| !stand_in).count();
    let (mut trial, mut waiting) = (Trial::new(asked, retry), FuturesUnordered::new());
    loop {
        let now = Instant::now();
        if now >= deadline && !(left.is_empty() && waiting.is_empty()) {
            // A write whose coordinator did not answer yet may be stored.
            return Err(match retry == Retry::NotApplied && !waiting.is_empty() {
                true => wire::mismatch(true),
                false => late(&trial.asked.tally, false),
            });
        }
        // A read leaves time for those that are left.
        let until = match retry {
            Retry::Always => now + (deadline - now) / left.len().max(1) as u32,
            Retry::NotApplied => deadline,
        };
        match left.pop_front().filter(|(_, stand_in)| !stand_in || !trial.met_owner) {
            Some((node, _)) if node == plan.view.me => {
                return Ok(Tried::Done(Done::Here(plan.clone())));
            }
            Some(target) => {
                let call = this.hand_over(plan, target.0, (order, target.1), until);
                waiting.push(call.map(move |said| (target, said)));
            }
            None if waiting.is_empty() => return Ok(trial.nobody(owners)),
            None => left.clear(),
        }
        let more = retry == Retry::Always && matches!(left.front(), Some((_, false)));
        let mut said = None;
        if more {
            said = timeout_at(until.min(now + PATIENCE), waiting.next()).await.ok();
            if said.is_none() && this.learned.may_hedge() {
                continue;
            }
        }
        let said = match said {
            Some(said) => said,
            None => timeout_at(until, waiting.next()).await.ok().flatten(),
        };
        let done = said.and_then(|(target, said)| trial.judge(target, said));
        if let Some(done) = done.transpose()? {
            return Ok(Tried::Done(done));
        }
    }
}
