//! A read: ask R owners, merge, write back what some of them lack, answer.
//!
//! Owners are asked in the order of the plan, as many as the level needs; the next one is asked
//! when one fails, and all that are left when the first have been silent for `PATIENCE`. Where the
//! request is sloppy, stand-ins answer for owners that are down. They are asked, never repaired: what
//! they keep is what was counted there, and it goes back to the owners.

use std::rc::Rc;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Tally};
use kvasir_core::version::SiblingSet;
use tokio::time::Instant;

use super::fanout::{Answers, shared_cause};
use super::plan::Plan;
use super::put::{late, reached};
use super::request::{CoordinateError, Durability, GetOutcome, GetRequest, Showing};
use super::seats::{LOOK, Seats};
use super::{Coordinate, forward};

/// How long the first owners may be silent before the others are asked too, in the read and again
/// in its repair.
const PATIENCE: Duration = Duration::from_millis(150);

/// Reads the siblings of one key.
///
/// # Errors
/// See [`CoordinateError`].
pub async fn get(this: &Coordinate, request: GetRequest) -> Result<GetOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    if !plan.owns() {
        return forward::get(this, &plan, request).await;
    }
    at(this, &plan, request).await
}

/// Reads one key with this node as the coordinator, be it an owner or a stand-in.
///
/// # Errors
/// As [`get`].
pub async fn here(this: &Coordinate, request: GetRequest) -> Result<GetOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    at(this, &plan, request).await
}

/// As [`here`], by a plan that was made before.
pub(super) async fn at(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: GetRequest,
) -> Result<GetOutcome, CoordinateError> {
    let level = request.r.unwrap_or(plan.settings.r);
    let sloppy = plan.sloppy(request.sloppy);
    let read = merged(this, plan, level, sloppy, request.deadline).await?;
    let context = read.set.context();
    let token = if context.is_empty() { None } else { Some(plan.token(context)?) };
    Ok(GetOutcome {
        set: read.set,
        showing: Showing::Siblings,
        token,
        agreed: read.agreed,
        replicas: plan.owners.len() as u32,
        now_ms: this.replica.now_ms(),
    })
}

/// What a read found.
pub(super) struct Read {
    /// Merged over everyone who answered.
    pub set: SiblingSet,
    /// How many of them held exactly that.
    pub agreed: u32,
}

/// Reads at `level`, repairing on the way where the level is a quorum.
pub(super) async fn merged(
    this: &Coordinate,
    plan: &Rc<Plan>,
    level: Level,
    sloppy: bool,
    deadline: Instant,
) -> Result<Read, CoordinateError> {
    let mut tally = plan.tally(level)?;
    let mut seats = Seats::new(plan, sloppy, &mut tally)?;
    let sets = gather(this, plan, (&mut tally, &mut seats), level, deadline).await?;
    let mut set = SiblingSet::new();
    for (_, held) in &sets {
        set.merge_in(held);
    }
    let agreed = sets.iter().filter(|(_, held)| *held == set).count() as u32;
    let owners = || sets.iter().filter(|(node, _)| seats.stands_in_for(*node).is_none());
    let (agreeing, lacking): (Vec<_>, Vec<_>) = owners().partition(|(_, held)| *held == set);
    let names = |part: Vec<&(NodeId, SiblingSet)>| -> Vec<NodeId> {
        part.into_iter().map(|(node, _)| *node).collect()
    };
    let (agreeing, lacking) = (names(agreeing), names(lacking));
    if !lacking.is_empty() {
        let mut again = plan.tally(level)?;
        for (node, _) in &sets {
            if let Some(owner) = seats.stands_in_for(*node) {
                again.stand_in(owner, *node)?;
                again.ack(*node)?;
            }
        }
        let wait = tally.is_quorum();
        repair(this, plan, &set, (&lacking, &agreeing), again, wait.then_some(deadline)).await?;
    }
    Ok(Read { set, agreed })
}

/// Asks until the tally is done. The answers are those that it counted, and late ones of owners whose
/// stand-in was called.
async fn gather(
    this: &Coordinate,
    plan: &Rc<Plan>,
    (tally, seats): (&mut Tally, &mut Seats),
    level: Level,
    deadline: Instant,
) -> Result<Vec<(NodeId, SiblingSet)>, CoordinateError> {
    let mut answers: Answers<SiblingSet> = Answers::until(deadline);
    let mut waiting = plan.owners.iter().map(|o| o.node);
    // Own data center first is right for every level but the one that needs them all.
    let everyone = level == Level::EachQuorum;
    let first = if everyone { plan.owners.len() } else { tally.required() as usize };
    for node in waiting.by_ref().take(first) {
        this.send_read(plan, node, &answers);
    }
    if !plan.owns() {
        this.send_stand_in_read(plan, plan.view.me, &answers);
    }
    let patience = Instant::now() + PATIENCE;
    let (mut sets, mut failures) = (Vec::new(), Vec::new());
    let mut hurried = false;
    let mut next_look = patience + LOOK;
    loop {
        for node in seats.call(tally)? {
            this.send_stand_in_read(plan, node, &answers);
        }
        match reached(tally, false) {
            Ok(true) => return Ok(sets),
            Ok(false) => {}
            Err(error) => return Err(shared_cause(&failures, false).unwrap_or(error)),
        }
        let until = match (hurried, seats.looks()) {
            (false, _) => deadline.min(patience),
            (true, true) => deadline.min(next_look),
            (true, false) => deadline,
        };
        match answers.next(until).await {
            Some((node, Ok(set))) => {
                tally.ack(node)?;
                sets.push((node, set));
            }
            Some((node, Err(why))) => {
                tally.fail(node)?;
                seats.failed(node, &why);
                failures.push(why);
                if let Some(next) = waiting.next() {
                    this.send_read(plan, next, &answers);
                }
            }
            None if Instant::now() >= deadline => return Err(late(tally, false)),
            None if hurried => {
                next_look = Instant::now() + LOOK;
                seats.look(&this.views.load(), tally)?;
            }
            None => {
                hurried = true;
                for node in waiting.by_ref() {
                    this.send_read(plan, node, &answers);
                }
            }
        }
    }
}

/// Sends the merged set to those that lack it. With a deadline it waits until the level holds it, so
/// that the next such read cannot see less.
async fn repair(
    this: &Coordinate,
    plan: &Rc<Plan>,
    set: &SiblingSet,
    (lacking, agreeing): (&[NodeId], &[NodeId]),
    mut tally: Tally,
    wait: Option<Instant>,
) -> Result<(), CoordinateError> {
    let merged = Rc::new(set.clone());
    let background = Instant::now() + Duration::from_secs(2);
    let mut answers: Answers<()> = Answers::until(wait.unwrap_or(background));
    for node in lacking {
        this.send_merge(plan, *node, &merged, Durability::Group, &answers);
    }
    let Some(deadline) = wait else { return Ok(()) };
    for node in agreeing {
        tally.ack(*node)?;
    }
    // Owners that did not take part in the read may take part in the repair.
    let mut spare = plan
        .owners
        .iter()
        .map(|o| o.node)
        .filter(|n| !lacking.contains(n) && !agreeing.contains(n));
    let patience = Instant::now() + PATIENCE;
    let mut hurried = false;
    loop {
        if reached(&tally, false)? {
            return Ok(());
        }
        let until = if hurried { deadline } else { deadline.min(patience) };
        match answers.next(until).await {
            Some((node, Ok(()))) => {
                tally.ack(node)?;
            }
            None if hurried || Instant::now() >= deadline => return Err(late(&tally, false)),
            None => {
                hurried = true;
                for node in spare.by_ref() {
                    this.send_merge(plan, node, &merged, Durability::Group, &answers);
                }
            }
            Some((node, Err(_))) => {
                tally.fail(node)?;
                if let Some(next) = spare.next() {
                    this.send_merge(plan, next, &merged, Durability::Group, &answers);
                }
            }
        }
    }
}
