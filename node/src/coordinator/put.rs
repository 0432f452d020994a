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

use std::collections::BTreeSet;
use std::rc::Rc;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, LevelError, Progress, Tally};
use kvasir_core::version::{Dot, Life, Outranked, Payload, SiblingSet, Stamp};
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
use crate::peer::Route;
use crate::planted::{Bug, Planted};
use crate::replica::{Minted, Order, Views};

/// Most rounds of one write. Two end every claim from before it; the others are for replicas that took
/// no part in the first ones.
const ROUNDS_MAX: u32 = 4;

/// Stores one value.
///
/// # Errors
/// See [`CoordinateError`]; its `may_be_stored` tells unknown from not applied.
pub async fn put(this: &Coordinate, request: PutRequest) -> Result<PutOutcome, CoordinateError> {
    loop {
        let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
        let done = match plan.owns() {
            true => at(this, &plan, &request).await,
            false => forward::put(this, &plan, &request).await,
        };
        match done {
            // Nothing was applied: whoever owns the key by now coordinates.
            Err(CoordinateError::Moved { .. }) if Instant::now() < request.deadline => {}
            done => return done,
        }
    }
}

/// Stores one value with this node as the coordinator, be it an owner or a stand-in.
///
/// # Errors
/// As [`put`].
pub async fn here(this: &Coordinate, request: PutRequest) -> Result<PutOutcome, CoordinateError> {
    let plan = Rc::new(Plan::new(this.views.load(), &request.bucket, &request.key)?);
    at(this, &plan, &request).await
}

/// As [`here`], by a plan that was made before.
pub(super) async fn at(
    this: &Coordinate,
    plan: &Rc<Plan>,
    request: &PutRequest,
) -> Result<PutOutcome, CoordinateError> {
    let level = request.w.unwrap_or(plan.settings.w);
    // What waited past its deadline is not begun: nobody waits for it any more.
    let tally = plan.tally(level)?;
    if request.deadline <= Instant::now() {
        return Err(late(&tally, false));
    }
    let order = Order {
        context: plan.context(request.token.as_deref())?,
        payload: Payload::Value {
            bytes: request.value.clone(),
            content_type: request.content_type.clone(),
        },
        life: request.life.or(plan.settings.ttl.map(|s| Life::Lasts(s.saturating_mul(1_000)))),
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

/// What is known of a write that was minted.
struct Counting {
    tally: Tally,
    seats: Seats,
    /// Who stored it, by whichever version of the entry.
    stored: BTreeSet<NodeId>,
    /// What those hold above it.
    above: Stored,
}

impl Counting {
    fn new(tally: Tally, seats: Seats) -> Self {
        Self { tally, seats, stored: BTreeSet::new(), above: None }
    }

    /// The same write counted by a newer version of the entry. Who stored it is counted there too, if its
    /// tenure is still the same (`core/ring/moves`).
    fn under(
        mut self,
        old: &Plan,
        new: &Plan,
        (level, sloppy): (Level, bool),
    ) -> Result<Self, CoordinateError> {
        let mut tally = new.tally(level)?;
        let seats = Seats::new(new, sloppy, true, &mut tally)?;
        let same = |node: &NodeId| old.tenure(*node).is_some_and(|t| new.tenure(*node) == Some(t));
        self.stored.retain(same);
        for owner in new.owners.iter().filter(|owner| self.stored.contains(&owner.node)) {
            tally.ack(owner.node)?;
        }
        Ok(Self { tally, seats, ..self })
    }

    /// A node stored the write.
    fn ack(&mut self, node: NodeId, told: Stored) -> Result<(), LevelError> {
        self.above = match (self.above.take(), told) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        };
        self.stored.insert(node);
        self.tally.ack(node).map(drop)
    }
}

/// Mints on this node, sends the delta to the other owners, and waits for the level, with stand-ins in the
/// seats of owners that are down. Where a newer version of the partition's entry is needed, the same delta
/// is sent again to the owners that it names.
async fn round(
    this: &Coordinate,
    plan: &Rc<Plan>,
    order: Order,
    (level, sloppy): (Level, bool),
    durability: Durability,
    deadline: Instant,
) -> Result<(Written, Stored), CoordinateError> {
    let (mut plan, owned) = (plan.clone(), plan.owns());
    // From here to the mint nothing is stored: a plan that is overtaken is made anew.
    let (mut counting, applied) = loop {
        let mut tally = plan.tally(level)?;
        let seats = Seats::new(&plan, sloppy, false, &mut tally)?;
        match mint(this, &plan, &order, durability, (&tally, deadline)).await? {
            Ok(applied) => break (Counting::new(tally, seats), applied),
            Err(epoch) => plan = this.newer(&plan, epoch, deadline).await?,
        }
        // An owner that is none any more does not come to stand in for those that are.
        if owned && !plan.owns() {
            return Err(CoordinateError::Moved { epoch: plan.view.epoch() });
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
        let outside = (call, &*this.views, this.planted);
        let newer = collect(&mut counting, plan.route, answers, deadline, outside).await?;
        let Some(epoch) = newer else {
            let owners = counting.tally.owner_acks().collect();
            let standins = counting.tally.stand_in_acks().collect();
            let acks = Acks { owners, standins, durability };
            return Ok((Written { dot, set, acks }, counting.above));
        };
        // The value is stored here by now, whatever becomes of the request.
        let next = this.newer(&plan, epoch, deadline).await;
        let next = next.map_err(|_| late(&counting.tally, true))?;
        counting = counting.under(&plan, &next, (level, sloppy))?;
        plan = next;
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

/// Waits for the level, calling upon stand-ins where it needs them. None once it is reached; else the epoch
/// of a newer document that is in force here, and without which the level is not reached: an owner that
/// refuses, since it knows one, holds nobody up while the others are enough, and is waited for no longer
/// than until the document came. The value is in this node's log by now, so no failure here is "not stored".
async fn collect(
    counting: &mut Counting,
    by: Route,
    mut answers: Answers<Stored>,
    deadline: Instant,
    (call, views, planted): (impl Fn(NodeId, &Answers<Stored>), &Views, Planted),
) -> Result<Option<u64>, CoordinateError> {
    let (mut failures, mut newer) = (Vec::new(), None::<u64>);
    let mut next_look = Instant::now() + LOOK;
    loop {
        let Counting { tally, seats, .. } = counting;
        for node in seats.call(tally)? {
            call(node, &answers);
        }
        match reached(tally, true) {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(error) => match views.overtook(by.partition, by.version, by.entry_hash) {
                Some(epoch) => return Ok(Some(epoch)),
                None => return Err(shared_cause(&failures, true).unwrap_or(error)),
            },
        }
        let until = if seats.looks() { deadline.min(next_look) } else { deadline };
        let said = match answers.next_by(until, views, newer).await {
            Ok(said) => said,
            Err(epoch) => return Ok(Some(epoch)),
        };
        match said {
            Some((node, Ok(told))) => {
                if planted.is(Bug::CountTwice)
                    && let Some(other) = tally.outstanding().into_iter().find(|o| *o != node)
                {
                    tally.ack(other)?;
                }
                counting.ack(node, told)?;
            }
            Some((_, Err(Failure::Stale(epoch)))) => newer = newer.max(Some(epoch)),
            Some((node, Err(why))) => {
                tally.fail(node)?;
                seats.failed(node, &why);
                failures.push(why);
            }
            None if Instant::now() >= deadline => return Err(late(tally, true)),
            None => {
                next_look = Instant::now() + LOOK;
                seats.look(&views.load(), tally)?;
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
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use kvasir_core::id::ClusterId;
    use kvasir_core::ring::{
        BucketSettings, Document, Member, MemberState, NewCluster, Partition, Sealed, SlotState,
        Successor, TokenSecret,
    };

    use super::*;
    use crate::replica::{Formed, View};

    const BY: Route = Route { partition: Partition { k: 1, index: 0 }, version: 1, entry_hash: 1 };

    /// One owner acknowledges, the other two fail with the given reasons.
    async fn collected(reasons: [Failure; 2]) -> Result<Option<u64>, CoordinateError> {
        let owners = [1, 2, 3].map(|n| (NodeId::from_bytes([n; 16]), "a"));
        let tally = Tally::new(Level::Quorum, &owners, "a").unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        let answers = Answers::until(deadline);
        answers.ask(owners[0].0, async { Ok(None) });
        for ((node, _), reason) in owners[1..].iter().zip(reasons) {
            answers.ask(*node, async move { Err(reason) });
        }
        let views = Views::new(View::blank(owners[0].0, "a"));
        let nobody = |_, _: &Answers<Stored>| panic!("the request is strict");
        let outside = (nobody, &views, Planted::default());
        let mut counting = Counting::new(tally, Seats::strict());
        collect(&mut counting, BY, answers, deadline, outside).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_knows_a_newer_document_holds_up_nobody() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let owners = [1, 2, 3].map(|n| (NodeId::from_bytes([n; 16]), "a"));
                for (epoch, last) in [(0, 0), (7, 100), (7, 5_000)] {
                    let tally = Tally::new(Level::Quorum, &owners, "a").unwrap();
                    let deadline = Instant::now() + Duration::from_secs(1);
                    let answers = Answers::until(deadline);
                    answers.ask(owners[0].0, async { Ok(None) });
                    answers.ask(owners[1].0, async move { Err(Failure::Stale(epoch)) });
                    answers.ask(owners[2].0, async move {
                        tokio::time::sleep(Duration::from_millis(last)).await;
                        Ok(None)
                    });
                    let views = Views::new(View::blank(owners[0].0, "a"));
                    let nobody = |_, _: &Answers<Stored>| panic!("the request is strict");
                    let outside = (nobody, &views, Planted::default());
                    let mut counting = Counting::new(tally, Seats::strict());
                    let said = collect(&mut counting, BY, answers, deadline, outside).await;
                    match (epoch, last) {
                        (_, 5_000) => {
                            assert!(matches!(said, Err(CoordinateError::Deadline { acks: 1, .. })));
                        }
                        _ => assert_eq!(said.unwrap(), None, "the other two are enough"),
                    }
                }
            })
            .await;
    }

    /// Two partitions of three copies among four members.
    fn document() -> Document {
        let place = |n: u8| Member {
            machine: format!("m{n}"),
            rack: String::new(),
            zone: String::new(),
            datacenter: "dc1".into(),
            weight: 1,
            state: MemberState::Active,
        };
        let new = NewCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
            cluster_name: "test".into(),
            seed: 1,
            token_secret: TokenSecret([1; 32]),
            partition_bits: 1,
            members: (1..=4).map(|n| (NodeId::from_bytes([n; 16]), place(n))).collect(),
            replication: BTreeMap::from([("dc1".into(), 3)]),
            defaults: BucketSettings::default(),
        };
        Document::first(new).expect("four machines are enough for three copies").0
    }

    /// The plan of the first partition, with `me` as the coordinator.
    fn plan(document: &Document, me: NodeId) -> Plan {
        let formed = Some(Arc::new(Formed::new(Sealed::new(document.clone()))));
        let view = Arc::new(View { formed, ..View::blank(me, "dc1") });
        Plan::of_partition(view, &Bytes::from_static(b"b"), BY.partition).unwrap()
    }

    #[test]
    fn who_stored_a_write_counts_by_a_newer_version_unless_its_tenure_ended() {
        let first = document();
        let owners: Vec<NodeId> = first.table[0].owners().map(|o| o.node).collect();
        let next = first.members.keys().find(|node| !owners.contains(node)).copied().unwrap();
        // The second copy is on its way to the fourth member, and the third is made anew.
        let mut second = first.child();
        let slots = second.table[0].slots.get_mut("dc1").unwrap();
        slots[1].state = SlotState::Copying(Successor { node: next, since: 2 });
        slots[2].since = 2;
        let owners: Vec<NodeId> = slots.iter().map(|slot| slot.owner).collect();
        second.table[0].version = 2;
        let (old, new) = (plan(&first, owners[0]), plan(&second, owners[0]));
        let level = (Level::All, false);
        let mut counting = Counting::new(old.tally(level.0).unwrap(), Seats::strict());
        for owner in &owners[..2] {
            counting.ack(*owner, None).unwrap();
        }
        counting.ack(owners[2], Some(Outranked { dots: vec![], stamp: Stamp::default() })).unwrap();
        assert_eq!(counting.tally.progress(), Progress::Done);
        let mut counting = counting.under(&old, &new, level).unwrap();
        assert!(counting.above.is_some(), "what was told stays told");
        assert_eq!(
            counting.tally.acks(),
            &owners[..1],
            "a copy that is on its way counts with its successor"
        );
        counting.ack(next, None).unwrap();
        assert_eq!(counting.tally.counted(), 2);
        assert_eq!(counting.tally.progress(), Progress::NeedMore, "the third began anew");
        counting.ack(owners[2], None).unwrap();
        assert_eq!(counting.tally.progress(), Progress::Done);
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
                let late = matches!(newer, Err(CoordinateError::Deadline { acks: 1, .. }));
                assert!(late, "the document that an owner knows did not come: {newer:?}");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_needs_the_newer_document_waits_for_it() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let owners = [1, 2, 3].map(|n| (NodeId::from_bytes([n; 16]), "a"));
                let begun = Instant::now();
                let deadline = begun + Duration::from_secs(5);
                let answers = Answers::until(deadline);
                answers.ask(owners[0].0, async { Ok(None) });
                answers.ask(owners[1].0, async { Err(Failure::Stale(1)) });
                answers.ask(owners[2].0, async { Err(Failure::DiskFull) });
                let views = Arc::new(Views::new(View::blank(owners[0].0, "a")));
                let later = views.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    later.store(View::clone(&plan(&document(), owners[0].0).view));
                });
                let nobody = |_, _: &Answers<Stored>| panic!("the request is strict");
                let outside = (nobody, &*views, Planted::default());
                let tally = Tally::new(Level::Quorum, &owners, "a").unwrap();
                let mut counting = Counting::new(tally, Seats::strict());
                let said = collect(&mut counting, BY, answers, deadline, outside).await;
                assert_eq!(said, Ok(Some(1)));
                assert_eq!(begun.elapsed(), Duration::from_millis(300));
                assert_eq!(counting.stored, BTreeSet::from([owners[0].0]), "it is not lost");
            })
            .await;
    }
}
