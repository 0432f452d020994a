//! How a write travels between data centers: to each of them once.
//!
//! The owners in the coordinator's data center are sent the write one by one. Another data center is sent it
//! once, to an owner there: this *forwarder* stores it, passes it on to the other owners of its data center,
//! and says who did what (as Cassandra's coordinators do). Owners that it leaves out or cannot reach are sent
//! the write from here; so are all of them when it is silent for half a second, and when it fails the next
//! owner there is the forwarder of those that are left. Owners that are suspected or down are no part of
//! this: they are sent the write from here at once.
//!
//! Invariants: what is passed on keeps the stamp, the version of the entry and the deadline that the
//! coordinator gave it. Every acknowledgement is that of the node it names, and a node counts once however
//! often it is sent the write, so a forwarder that is slow rather than dead does no harm. A forwarder that
//! answered goes on until each of its owners stored the write or the deadline passed, and leaves the hints.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Progress};
use kvasir_core::version::{Outranked, SiblingSet};
use tokio::time::{Instant, timeout_at};

use super::fanout::{Answers, Asker, Failure, Stored, refused};
use super::plan::Plan;
use super::request::Durability;
use super::{Coordinate, Figures};
use crate::peer::{Refusal, Relay, Reply, Request, Route, Told};

/// How long a forwarder may be silent before the other owners are sent the write from here.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a forwarder waits for the other owners before it answers without them.
const REST: Duration = Duration::from_millis(200);
/// How long it still does once a majority of its data center stored the write, where more may be wanted.
const GRACE: Duration = Duration::from_millis(20);

/// One write on its way to another data center.
struct Crossing {
    this: Coordinate,
    plan: Rc<Plan>,
    datacenter: String,
    delta: Rc<SiblingSet>,
    durability: Durability,
    /// Whether a majority there is all that the level can want of it.
    soon: bool,
    to: Asker<Stored>,
}

impl Coordinate {
    /// Has all owners but this node merge what a client wrote.
    pub(super) fn send_to_owners(
        &self,
        plan: &Rc<Plan>,
        delta: &Rc<SiblingSet>,
        (level, durability): (Level, Durability),
        answers: &Answers<Stored>,
    ) {
        let (view, to) = (&plan.view, answers.asker());
        let mut centers: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
        for owner in plan.owners.iter().filter(|owner| owner.node != view.me) {
            match owner.datacenter != view.datacenter && view.rank(owner.node) == 0 {
                true => centers.entry(&owner.datacenter).or_default().push(owner.node),
                false => self.send_write(plan, owner.node, delta, durability, &to),
            }
        }
        for (datacenter, mut nodes) in centers {
            // Whoever answers reads as well leaves hints for those that missed the write.
            let reads = |node: &NodeId| plan.readers.iter().any(|reader| reader.node == *node);
            nodes.sort_by_cached_key(|node| (!reads(node), self.learned.class(*node)));
            let crossing = Crossing {
                this: self.clone(),
                plan: plan.clone(),
                datacenter: datacenter.to_string(),
                delta: delta.clone(),
                durability,
                soon: !level.adds_up(),
                to: to.clone(),
            };
            tokio::task::spawn_local(async move { crossing.bring(nodes).await });
        }
    }

    /// The plan by which this node passes a write on: that of the coordinator, by the same version of the
    /// entry and with the same stamp.
    ///
    /// # Errors
    /// This node knows another version, or is asked to pass it to others than owners of its data center.
    pub fn relaying(
        &self,
        (bucket, key): (&Bytes, &Bytes),
        (route, stamp): (Route, u64),
        others: &[NodeId],
    ) -> Result<Rc<Plan>, Refusal> {
        let view = self.views.load();
        let epoch = view.epoch();
        let plan = Plan::new(view, bucket, key);
        let mut plan = plan.map_err(|error| Refusal::NotServing(error.to_string()))?;
        if plan.route != route {
            return Err(Refusal::StaleEntry { epoch, document: None });
        }
        let near = |node: &NodeId| {
            let named = plan.owners.iter().find(|owner| owner.node == *node);
            named.is_some_and(|owner| owner.datacenter == plan.view.datacenter)
        };
        if !others.iter().all(|node| near(node) && *node != plan.view.me) {
            let what = "a write is passed on to other owners of the same data center only";
            return Err(Refusal::Malformed(what.to_string()));
        }
        plan.stamp = stamp;
        Ok(Rc::new(plan))
    }

    /// Passes a write on as its forwarder, while `own` stores it here. Says what became of it at each owner
    /// that answered in time; it goes on with the others until the deadline.
    pub async fn relay(
        &self,
        plan: &Rc<Plan>,
        (delta, durability): (&Rc<SiblingSet>, Durability),
        (others, soon): (&[NodeId], bool),
        own: impl Future<Output = Result<Stored, Failure>> + 'static,
        deadline: Instant,
    ) -> Vec<(NodeId, Told)> {
        let mut answers = Answers::until(deadline);
        let to = answers.asker();
        to.ask(plan.view.me, own);
        for node in others {
            self.send_write(plan, *node, delta, durability, &to);
        }
        let mut told: Vec<(NodeId, Result<Stored, Failure>)> = Vec::new();
        let mut until = deadline.min(Instant::now() + REST);
        while told.len() <= others.len() {
            let Some(said) = answers.next(until).await else { break };
            told.push(said);
            if majority(plan, &plan.view.datacenter, &told) {
                let pause = if soon { Duration::ZERO } else { GRACE };
                until = until.min(Instant::now() + pause);
            }
        }
        told.into_iter().map(|(node, said)| (node, tell(said))).collect()
    }
}

impl Crossing {
    /// Sends the write to owners of the data center, which all look alive.
    async fn bring(&self, mut nodes: Vec<NodeId>) {
        while nodes.len() > 1 {
            let forwarder = nodes.remove(0);
            if self.through(forwarder, &nodes).await {
                return;
            }
        }
        self.directly(&nodes);
    }

    fn directly(&self, nodes: &[NodeId]) {
        for node in nodes {
            self.this.send_write(&self.plan, *node, &self.delta, self.durability, &self.to);
        }
    }

    /// Sends the write to a forwarder and settles what becomes of it at the others. False if it failed and
    /// they still have to be sent it.
    async fn through(&self, forwarder: NodeId, others: &[NodeId]) -> bool {
        let Self { this, plan, to, .. } = self;
        let relay = Relay {
            bucket: plan.bucket.clone(),
            key: plan.key.clone(),
            delta: self.delta.encode().into(),
            durability: self.durability,
            others: others.to_vec(),
            soon: self.soon,
        };
        let (asked, figures) = (Instant::now(), &this.learned.figures);
        this.count_crossing(plan, forwarder);
        let mut call = pin!(this.call(plan, forwarder, Request::Relay(relay), to.deadline()));
        let patience = PATIENCE.min(to.deadline().saturating_duration_since(asked) / 2);
        let in_time = timeout_at(asked + patience, &mut call).await.ok();
        let slow = in_time.is_none();
        if slow {
            Figures::count(&figures.relays_given_up);
            this.learned.note(forwarder, asked.elapsed());
            self.directly(others);
        }
        let answer = match in_time {
            Some(answer) => answer,
            None => call.await,
        };
        let told = match answer {
            Ok(Reply::Relayed(told)) => told,
            other => {
                let unexpected =
                    |reply: Reply| Failure::Unknown(format!("unexpected answer {}", reply.name()));
                let why = other.map_or_else(|why| why, unexpected);
                tracing::debug!(%forwarder, ?why, "a forwarder failed");
                if !slow {
                    Figures::count(&figures.relays_given_up);
                    this.learned.note(forwarder, asked.elapsed());
                }
                this.missed(plan, forwarder, &why);
                to.tell(forwarder, Err(why));
                return slow;
            }
        };
        self.settle(forwarder, others, told, slow);
        true
    }

    /// Hands on what a forwarder said, and sends the write to whom it left out or could not reach, where that
    /// one may still be wanted.
    fn settle(&self, forwarder: NodeId, others: &[NodeId], told: Vec<(NodeId, Told)>, slow: bool) {
        let of_us = |(node, _): &(NodeId, Told)| *node == forwarder || others.contains(node);
        let told = told.into_iter().filter(of_us).map(|(node, told)| (node, hear(told)));
        let told: Vec<(NodeId, Result<Stored, Failure>)> = told.collect();
        let enough = self.soon && majority(&self.plan, &self.datacenter, &told);
        let mut left = others.to_vec();
        for (node, said) in told {
            let missed = matches!(
                said,
                Err(Failure::NotApplied(_) | Failure::NotOwner(_) | Failure::Unknown(_))
            );
            if !missed || node == forwarder {
                left.retain(|other| *other != node);
                self.to.tell(node, said);
            }
        }
        if !slow && !enough && !left.is_empty() {
            Figures::count(&self.this.learned.figures.relays_given_up);
            self.directly(&left);
        }
    }
}

/// Whether those that stored a write are a majority of the copies in a data center.
fn majority(plan: &Plan, datacenter: &str, told: &[(NodeId, Result<Stored, Failure>)]) -> bool {
    let Ok(mut tally) = plan.tally_in(Level::LocalQuorum, datacenter) else { return false };
    let stored = told.iter().filter(|(_, said)| said.is_ok());
    // Who is not counted there does not count.
    stored.fold(tally.progress(), |was, (node, _)| tally.ack(*node).unwrap_or(was))
        == Progress::Done
}

fn tell(said: Result<Stored, Failure>) -> Told {
    Told::Refused(match said {
        Ok(None) => return Told::Stored,
        Ok(Some(Outranked { dots, stamp })) => return Told::Outranked { dots, stamp },
        Err(Failure::NotApplied(why)) => Refusal::NotServing(why),
        Err(Failure::NotOwner(epoch)) => Refusal::NotOwner { epoch },
        Err(Failure::Unknown(why)) => Refusal::Unknown(why),
        Err(Failure::DiskFull) => Refusal::DiskFull,
        Err(Failure::StandInsFull) => Refusal::StandInsFull,
        Err(Failure::Stale(epoch)) => Refusal::StaleEntry { epoch, document: None },
        Err(Failure::Overloaded(retry_after_ms)) => Refusal::Overloaded { retry_after_ms },
    })
}

fn hear(told: Told) -> Result<Stored, Failure> {
    match told {
        Told::Stored => Ok(None),
        Told::Outranked { dots, stamp } => Ok(Some(Outranked { dots, stamp })),
        Told::Refused(why) => Err(refused(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_forwarder_says_is_what_its_owners_said() {
        for said in [
            Ok(None),
            Ok(Some(Outranked { dots: vec![], stamp: Default::default() })),
            Err(Failure::NotApplied("the node is down".into())),
            Err(Failure::Unknown("no answer".into())),
            Err(Failure::DiskFull),
            Err(Failure::StandInsFull),
            Err(Failure::Stale(7)),
            Err(Failure::NotOwner(8)),
            Err(Failure::Overloaded(30)),
        ] {
            let heard = hear(tell(said.clone()));
            match (&said, &heard) {
                // The words around it may differ, not what it means.
                (Err(Failure::NotApplied(_)), Err(Failure::NotApplied(_)))
                | (Err(Failure::Unknown(_)), Err(Failure::Unknown(_))) => {}
                _ => assert_eq!(said, heard),
            }
        }
    }
}
