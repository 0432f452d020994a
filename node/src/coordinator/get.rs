//! A read: ask R owners, merge, write back what some of them lack, answer.
//!
//! Owners are asked in the order of the plan, slow ones later, as many as the level needs and nobody whom it
//! does not count: the first for its set, the others for digests. Where digests differ the sets behind them are fetched. The next
//! owner is asked when one fails, one more when those that were asked are slower than usual (hedged,
//! within a budget), and all that are left when they have been silent for `PATIENCE`. Where the
//! request is sloppy, stand-ins answer for owners that are down. They are asked, never repaired: what
//! they keep is what was counted there, and it goes back to the owners.

use std::rc::Rc;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Progress, Repair, Replies, Tally};
use kvasir_core::version::{Digest, SiblingSet};
use tokio::time::Instant;

use super::fanout::{Answers, Failure, Held, shared_cause};
use super::hedge::{Figures, PATIENCE};
use super::plan::Plan;
use super::put::{late, reached};
use super::request::{CoordinateError, Durability, GetOutcome, GetRequest};
use super::seats::{LOOK, Seats};
use super::{Coordinate, forward};

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
        showing: plan.showing(),
        token,
        agreed: read.agreed,
        replicas: plan.seats().len() as u32,
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
    if deadline <= Instant::now() {
        return Err(late(&plan.read_tally(level)?, false));
    }
    this.learned.begin();
    let (mut plan, began) = (plan.clone(), plan.stores());
    loop {
        match attempt(this, &plan, level, (sloppy, began), deadline).await? {
            Ok(read) => return Ok(read),
            // A newer version of the entry is needed: what was answered so far counts no more. Whoever reads
            // needs no copy of its own, so a node whose copy changed hands goes on as well.
            Err(Newer(epoch)) => plan = this.newer(&plan, epoch, deadline).await?,
        }
    }
}

/// A read met a newer version of the partition's entry, of the document of this epoch.
struct Newer(u64);

/// A read by one plan.
async fn attempt(
    this: &Coordinate,
    plan: &Rc<Plan>,
    level: Level,
    (sloppy, began): (bool, bool),
    deadline: Instant,
) -> Result<Result<Read, Newer>, CoordinateError> {
    for how in [How::Digests, How::Sets] {
        let mut tally = plan.read_tally(level)?;
        let mut seats = Seats::new(plan, sloppy, began || plan.stores(), &mut tally)?;
        let held = gather(this, plan, (&mut tally, &mut seats), how, deadline).await?;
        let held = match held {
            Ok(held) => held,
            Err(newer) => return Ok(Err(newer)),
        };
        // A set behind a digest that was counted may not come any more: then everyone is asked for sets.
        if let Some(found) = resolve(this, plan, held, deadline).await {
            return settle(this, plan, found, (level, &tally, &seats), deadline).await;
        }
    }
    Err(late(&plan.read_tally(level)?, false))
}

/// What the owners of a read are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The first for its set, the others for digests.
    Digests,
    /// All for their sets.
    Sets,
}

/// What everybody who was counted holds, merged, and who holds what.
struct Found {
    set: SiblingSet,
    replies: Replies<Digest>,
}

fn digest_of(set: &SiblingSet) -> Option<Digest> {
    (!set.context().is_empty()).then(|| set.digest())
}

/// Fetches the set behind every digest that no set at hand has. None if one did not come.
async fn resolve(
    this: &Coordinate,
    plan: &Rc<Plan>,
    held: Vec<(NodeId, Held)>,
    deadline: Instant,
) -> Option<Found> {
    let (mut set, mut replies) = (SiblingSet::new(), Replies::new());
    for (node, held) in held {
        match held {
            Held::Set(whole) => {
                replies.full(node, digest_of(&whole));
                set.merge_in(&whole);
            }
            Held::Digest(digest) => replies.digest(node, digest),
        }
    }
    if !replies.agree() {
        Figures::count(&this.learned.figures.differing);
    }
    // A set may have grown since its digest was told; then another replica is asked for what it had.
    for _ in 0..replies.len() {
        let fetch = replies.to_fetch();
        if fetch.is_empty() {
            break;
        }
        let mut answers: Answers<Held> = Answers::until(deadline);
        for node in &fetch {
            this.send_read(plan, *node, true, &answers);
        }
        for _ in &fetch {
            let Some((node, Ok(Held::Set(whole)))) = answers.next(deadline).await else {
                return None;
            };
            replies.full(node, digest_of(&whole));
            set.merge_in(&whole);
        }
    }
    replies.to_fetch().is_empty().then_some(Found { set, replies })
}

/// Has owners that lack something of what was found merge it, before the answer where the level is a
/// quorum: until as many slots hold it as a write would need, both owners of one that changes hands, so
/// that a later read finds it by whichever version of the entry.
async fn settle(
    this: &Coordinate,
    plan: &Rc<Plan>,
    Found { set, replies }: Found,
    (level, tally, seats): (Level, &Tally, &Seats),
    deadline: Instant,
) -> Result<Result<Read, Newer>, CoordinateError> {
    let Repair { mut lacking, mut agreeing } = replies.repair(digest_of(&set).as_ref());
    let agreed = agreeing.len() as u32;
    let mut again = plan.tally(level)?;
    for node in agreeing.iter().chain(&lacking) {
        if let Some(owner) = seats.stands_in_for(*node) {
            again.stand_in(owner, *node)?;
            again.ack(*node)?;
        }
    }
    lacking.retain(|node| seats.stands_in_for(*node).is_none());
    agreeing.retain(|node| seats.stands_in_for(*node).is_none());
    let wait = tally.is_quorum();
    for node in &agreeing {
        again.ack(*node)?;
    }
    if wait && !set.context().is_empty() && again.progress() != Progress::Done {
        let half = |node: &NodeId| {
            plan.shares_slot(*node) && !agreeing.contains(node) && again.wants(*node)
        };
        let halves = plan.owners.iter().map(|o| o.node).filter(half);
        lacking.extend(halves.collect::<Vec<_>>());
        lacking.sort_unstable();
        lacking.dedup();
    }
    if !lacking.is_empty() && !this.planted.leaves_it_to_trees() {
        lacking.iter().for_each(|_| Figures::count(&this.learned.figures.repairs));
        let until = wait.then_some(deadline);
        let repaired = repair(this, plan, &set, (&lacking, &agreeing), again, until).await?;
        if let Err(newer) = repaired {
            return Ok(Err(newer));
        }
    }
    Ok(Ok(Read { set, agreed }))
}

/// The owners of one read: who is asked next, and for what.
struct Asking<'a> {
    this: &'a Coordinate,
    plan: &'a Rc<Plan>,
    how: How,
    waiting: Vec<NodeId>,
    asked: Vec<(NodeId, Instant)>,
    /// Who was asked for its set and has not failed.
    whole: Option<NodeId>,
}

impl Asking<'_> {
    /// Asks as many as it takes if all of them answer, beside those that were asked and have not failed.
    fn enough(&mut self, tally: &Tally, answers: &Answers<Held>) {
        let mut asked: Vec<NodeId> = self.asked.iter().map(|(node, _)| *node).collect();
        while let Some(next) = tally.next_to_ask(&asked, &self.waiting) {
            asked.push(next);
            self.ask(next, answers);
        }
    }

    /// The next owner that the level may still want.
    fn spare(&self, tally: &Tally) -> Option<NodeId> {
        self.waiting.iter().copied().find(|node| tally.wants(*node))
    }

    fn ask(&mut self, node: NodeId, answers: &Answers<Held>) {
        self.waiting.retain(|other| *other != node);
        let whole = self.how == How::Sets || self.whole.is_none();
        if whole {
            self.whole = Some(node);
        }
        self.asked.push((node, Instant::now()));
        self.this.send_read(self.plan, node, whole, answers);
    }

    /// Asks one more than it takes, since this one will not answer.
    fn instead_of(&mut self, node: NodeId, tally: &Tally, answers: &Answers<Held>) {
        self.whole = self.whole.filter(|whole| *whole != node);
        if let Some(next) = self.spare(tally) {
            self.ask(next, answers);
        }
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.asked.iter().map(|(node, _)| *node).filter(|node| *node != self.plan.view.me)
    }

    /// Notes who is silent, and asks one more for a set unless one came: what is waited for may be the one
    /// that was to send it.
    fn hedge(&mut self, tally: &Tally, answers: &Answers<Held>) {
        let silent = tally.outstanding();
        for (node, since) in self.asked.iter().filter(|(node, _)| silent.contains(node)) {
            if *node != self.plan.view.me {
                self.this.learned.note(*node, since.elapsed());
            }
        }
        if self.whole.is_some_and(|node| silent.contains(&node)) {
            self.whole = None;
        }
        if let Some(next) = self.spare(tally)
            && self.this.learned.may_hedge()
        {
            self.ask(next, answers);
        }
    }

    /// Does what is due after so much silence; the next stage, and when it is due.
    fn silence(
        &mut self,
        (stage, begun): (Stage, Instant),
        (tally, seats): (&mut Tally, &mut Seats),
        answers: &Answers<Held>,
    ) -> Result<(Stage, Instant), CoordinateError> {
        match stage {
            Stage::Hedge => {
                self.hedge(tally, answers);
                return Ok((Stage::Hurry, begun + PATIENCE));
            }
            Stage::Hurry => self.hurry(tally, answers),
            Stage::Look => seats.look(&self.this.views.load(), tally)?,
        }
        Ok((Stage::Look, Instant::now() + LOOK))
    }

    /// Asks all others that the level may still want.
    fn hurry(&mut self, tally: &Tally, answers: &Answers<Held>) {
        while let Some(next) = self.spare(tally) {
            self.ask(next, answers);
        }
    }
}

/// When a read that has not enough answers does something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asks one more owner than it needs, if the budget allows it.
    Hedge,
    /// Asks all that are left.
    Hurry,
    /// Looks for owners to give up.
    Look,
}

/// Asks until the tally is done. The answers are those that it counted, and late ones of owners whose
/// stand-in was called.
async fn gather(
    this: &Coordinate,
    plan: &Rc<Plan>,
    (tally, seats): (&mut Tally, &mut Seats),
    how: How,
    deadline: Instant,
) -> Result<Result<Vec<(NodeId, Held)>, Newer>, CoordinateError> {
    let mut answers: Answers<Held> = Answers::until(deadline);
    let waiting = this.learned.order(plan);
    let mut asking = Asking { this, plan, how, waiting, asked: Vec::new(), whole: None };
    asking.enough(tally, &answers);
    if seats.stands_in_for(plan.view.me).is_some() {
        this.send_stand_in_read(plan, plan.view.me, &answers);
    }
    let begun = Instant::now();
    let (mut stage, mut wake) = (Stage::Hedge, begun + this.learned.patience(asking.others()));
    let (mut held, mut failures, mut newer) = (Vec::new(), Vec::new(), None::<u64>);
    loop {
        for node in seats.call(tally)? {
            this.send_stand_in_read(plan, node, &answers);
        }
        match reached(tally, false) {
            Ok(true) => return Ok(Ok(held)),
            Ok(false) => {}
            // Whoever did not answer may be asked by an older table than is known here by now.
            Err(error) => match this.overtaken(plan) {
                Some(epoch) => return Ok(Err(Newer(epoch))),
                None => return Err(shared_cause(&failures, false).unwrap_or(error)),
            },
        }
        let idle = stage == Stage::Look && !seats.looks();
        let until = if idle { deadline } else { deadline.min(wake) };
        let said = match answers.next_by(until, &this.views, newer).await {
            Ok(said) => said,
            Err(epoch) => return Ok(Err(Newer(epoch))),
        };
        match said {
            Some((node, Ok(found))) => {
                tally.ack(node)?;
                held.push((node, found));
            }
            // Others may be enough, by the version that they know; else the newer document is waited for.
            Some((node, Err(Failure::Stale(epoch)))) => {
                newer = newer.max(Some(epoch));
                asking.instead_of(node, tally, &answers);
            }
            Some((node, Err(why))) => {
                tally.fail(node)?;
                seats.failed(node, &why);
                failures.push(why);
                asking.whole = asking.whole.filter(|whole| *whole != node);
                asking.enough(tally, &answers);
            }
            None if Instant::now() >= deadline => return Err(late(tally, false)),
            None => (stage, wake) = asking.silence((stage, begun), (tally, seats), &answers)?,
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
) -> Result<Result<(), Newer>, CoordinateError> {
    let merged = Rc::new(set.clone());
    let background = Instant::now() + Duration::from_secs(2);
    let mut answers: Answers<()> = Answers::until(wait.unwrap_or(background));
    for node in lacking {
        this.send_merge(plan, *node, &merged, Durability::Group, &answers);
    }
    let Some(deadline) = wait else { return Ok(Ok(())) };
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
            return Ok(Ok(()));
        }
        let until = if hurried { deadline } else { deadline.min(patience) };
        match answers.next(until).await {
            Some((node, Ok(()))) => {
                tally.ack(node)?;
            }
            None if hurried || Instant::now() >= deadline => return Err(late(&tally, false)),
            None => {
                hurried = true;
                for node in spare.by_ref().filter(|node| tally.wants(*node)) {
                    this.send_merge(plan, node, &merged, Durability::Group, &answers);
                }
            }
            Some((_, Err(Failure::Stale(epoch)))) => return Ok(Err(Newer(epoch))),
            Some((node, Err(_))) => {
                tally.fail(node)?;
                if let Some(next) = spare.find(|node| tally.wants(*node)) {
                    this.send_merge(plan, next, &merged, Durability::Group, &answers);
                }
            }
        }
    }
}
