//! Counting the acknowledgements of one request.
//!
//! Invariants, held against a brute-force oracle in `tests.rs`:
//! - a replica counts at most once, however often it answers;
//! - a slot that changes hands counts once, when all of its owners stored (`crate::ring::moves`); one
//!   that nobody can count for stays among the N and never counts;
//! - an owner and its stand-in together count at most once: they share one slot;
//! - `Done` never goes back;
//! - `Failed` is said as soon as the outstanding answers can no longer reach the level, and not
//!   before. It is taken back only by facts: an acknowledgement that arrives after its node was
//!   given up counts all the same, since the copy is there; also that of a stand-in in whose place
//!   another was called meanwhile.
//!
//! Source: Dynamo (DeCandia et al. 2007) section 4.5 for the N/R/W counts and 4.6 for sloppy
//! quorums; `each_quorum` and the local levels follow the usual reading for several data centers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::quorum::{Level, LevelError};

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The level is not reached, and the outstanding answers can still reach it.
    NeedMore,
    /// The level is reached. Final.
    Done,
    /// The outstanding answers can no longer reach the level.
    Failed,
}

/// What is known of one node's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Outstanding,
    Acknowledged,
    Failed,
}

/// One replica's place in the count: its owner, or both while it changes hands, and whoever was called
/// to stand in for it, each after the one before had failed.
#[derive(Debug, Clone)]
struct Slot {
    datacenter: usize,
    owners: Vec<(NodeId, Answer)>,
    stand_ins: Vec<(NodeId, Answer)>,
}

impl Slot {
    fn owners_did(&self) -> bool {
        let acknowledged = |(_, answer): &(NodeId, Answer)| *answer == Answer::Acknowledged;
        !self.owners.is_empty() && self.owners.iter().all(acknowledged)
    }

    fn acknowledged(&self) -> bool {
        let stood_in = |(_, answer): &(NodeId, Answer)| *answer == Answer::Acknowledged;
        self.owners_did() || self.stand_ins.iter().any(stood_in)
    }

    fn hopeless(&self) -> bool {
        let failed = |(_, answer): &(NodeId, Answer)| *answer == Answer::Failed;
        let owners = self.owners.is_empty() || self.owners.iter().any(failed);
        owners && self.stand_ins.iter().all(failed)
    }
}

/// A number of acknowledgements wanted within a scope.
#[derive(Debug, Clone)]
struct Need {
    /// The data center counted, with its name; or all of them.
    datacenter: Option<(usize, String)>,
    required: u32,
}

impl Need {
    fn counts(&self, slot: &Slot) -> bool {
        self.datacenter.as_ref().is_none_or(|(datacenter, _)| *datacenter == slot.datacenter)
    }
}

/// A data center in which a level was not reached that counts it by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Its name.
    pub datacenter: String,
    /// Acknowledgements counted there.
    pub acks: u32,
    /// Acknowledgements wanted there.
    pub required: u32,
}

/// The count of one request over the replicas of one key.
#[derive(Debug, Clone)]
pub struct Tally {
    slots: Vec<Slot>,
    /// Node -> index of its slot, for owners and stand-ins alike.
    places: BTreeMap<NodeId, usize>,
    needs: Vec<Need>,
    /// Counted acknowledgements in order of arrival.
    acks: Vec<NodeId>,
    quorum: bool,
}

impl Tally {
    /// A count for `level` over the owners of a key and their data centers; `local` is the data
    /// center of the coordinator.
    ///
    /// Fails when the level cannot be reached even if every replica answers, or when a node is
    /// named twice.
    pub fn new<D: AsRef<str>>(
        level: Level,
        replicas: &[(NodeId, D)],
        local: &str,
    ) -> Result<Self, LevelError> {
        let slots = replicas.iter().map(|(node, name)| (vec![*node], name.as_ref()));
        Self::over(level, &slots.collect::<Vec<_>>(), local)
    }

    /// As [`Tally::new`], over slots: each counts once, when all of its nodes acknowledged. A slot
    /// without nodes is one that cannot count now.
    pub fn over<D: AsRef<str>>(
        level: Level,
        replicas: &[(Vec<NodeId>, D)],
        local: &str,
    ) -> Result<Self, LevelError> {
        if replicas.is_empty() {
            return Err(LevelError::NoReplicas);
        }
        let mut names: Vec<&str> = replicas.iter().map(|(_, name)| name.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        let mut slots = Vec::with_capacity(replicas.len());
        let mut places = BTreeMap::new();
        let mut sizes = vec![0_u32; names.len()];
        for (nodes, name) in replicas {
            let datacenter = names.partition_point(|other| *other < name.as_ref());
            sizes[datacenter] += 1;
            for node in nodes {
                if places.insert(*node, slots.len()).is_some() {
                    return Err(LevelError::ReplicaTwice(*node));
                }
            }
            let owners = nodes.iter().map(|node| (*node, Answer::Outstanding)).collect();
            slots.push(Slot { datacenter, owners, stand_ins: Vec::new() });
        }
        let needs = needs(level, (&names, &sizes), local)?;
        let quorum = is_quorum(&needs, &sizes);
        Ok(Self { slots, places, needs, acks: Vec::new(), quorum })
    }

    /// Counts an acknowledgement. A second one of the same node changes nothing.
    pub fn ack(&mut self, node: NodeId) -> Result<Progress, LevelError> {
        let slot = self.slot_of(node)?;
        let before = slot.acknowledged();
        let place = Self::place(slot, node);
        let first = *place != Answer::Acknowledged;
        *place = Answer::Acknowledged;
        if first && !before && slot.acknowledged() {
            let owners = slot.owners_did();
            let counted: Vec<NodeId> = match owners {
                true => slot.owners.iter().map(|(owner, _)| *owner).collect(),
                false => vec![node],
            };
            self.acks.extend(counted);
        }
        Ok(self.progress())
    }

    /// Notes that a node will not acknowledge: it refused, its link broke, or its time is up. An
    /// acknowledgement that was already counted stays.
    pub fn fail(&mut self, node: NodeId) -> Result<Progress, LevelError> {
        let place = Self::place(self.slot_of(node)?, node);
        if *place == Answer::Outstanding {
            *place = Answer::Failed;
        }
        Ok(self.progress())
    }

    /// Lets `stand_in` answer in the place of `owner`. The two share one slot, so that both
    /// acknowledging counts once, and the owner's late answer still counts if it comes first.
    /// A stand-in that failed may be followed by another; its late acknowledgement still counts.
    ///
    /// Refused when `owner` is no owner here, when `stand_in` already has a place in this count,
    /// or when the owner has a stand-in that has not failed.
    pub fn stand_in(&mut self, owner: NodeId, stand_in: NodeId) -> Result<Progress, LevelError> {
        let index = *self.places.get(&owner).ok_or(LevelError::NotCounted(owner))?;
        let slot = &mut self.slots[index];
        if slot.owners.iter().all(|(node, _)| *node != owner) {
            return Err(LevelError::NotCounted(owner));
        }
        if self.places.contains_key(&stand_in)
            || slot.stand_ins.iter().any(|(_, answer)| *answer != Answer::Failed)
        {
            return Err(LevelError::ReplicaTwice(stand_in));
        }
        slot.stand_ins.push((stand_in, Answer::Outstanding));
        self.places.insert(stand_in, index);
        Ok(self.progress())
    }

    /// Where the request stands.
    pub fn progress(&self) -> Progress {
        let mut done = true;
        for need in &self.needs {
            let (counted, open) = self.within(need);
            if counted + open < need.required {
                return Progress::Failed;
            }
            done &= counted >= need.required;
        }
        if done { Progress::Done } else { Progress::NeedMore }
    }

    /// How many slots are counted.
    pub fn counted(&self) -> u32 {
        self.slots.iter().filter(|slot| slot.acknowledged()).count() as u32
    }

    /// The nodes whose acknowledgement counted, in order of arrival: owners, both of a slot that changes
    /// hands, and stand-ins.
    pub fn acks(&self) -> &[NodeId] {
        &self.acks
    }

    /// The owners among [`Tally::acks`], in order of arrival.
    pub fn owner_acks(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.acks.iter().copied().filter(|node| self.is_owner(*node))
    }

    /// The stand-ins among [`Tally::acks`], in order of arrival.
    pub fn stand_in_acks(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.acks.iter().copied().filter(|node| !self.is_owner(*node))
    }

    /// How many acknowledgements the level wants in all: the sum over data centers for
    /// `each_quorum`.
    pub fn required(&self) -> u32 {
        self.needs.iter().map(|need| need.required).sum()
    }

    /// How many acknowledgements count towards the level: of each data center that it counts by itself at
    /// most as many as it wants there.
    pub fn towards(&self) -> u32 {
        self.needs.iter().map(|need| self.within(need).0.min(need.required)).sum()
    }

    /// The data centers that the level counts by themselves and in which it cannot be reached, by name; where
    /// it still can be, those in which it is not. None where it counts over all of them.
    pub fn shortages(&self) -> Vec<Shortage> {
        let failed = self.progress() == Progress::Failed;
        let short = |need: &Need| {
            let (_, datacenter) = need.datacenter.clone()?;
            let (acks, open) = self.within(need);
            let (required, hope) = (need.required, if failed { open } else { 0 });
            (acks + hope < required).then_some(Shortage { datacenter, acks, required })
        };
        self.needs.iter().filter_map(short).collect()
    }

    /// Whether the level still wants an acknowledgement where this node would be counted.
    pub fn wants(&self, node: NodeId) -> bool {
        self.any_need_of(node, |need| self.within(need).0 < need.required)
    }

    /// Whether the level cannot be reached for want of acknowledgements where this node would be counted.
    pub fn lacks(&self, node: NodeId) -> bool {
        self.any_need_of(node, |need| {
            let (counted, open) = self.within(need);
            counted + open < need.required
        })
    }

    /// The first of `waiting` that has to be asked as well: with the answers of those in `asked` that have
    /// not failed the level would not be reached. None where it would, or where nobody waiting helps.
    pub fn next_to_ask(&self, asked: &[NodeId], waiting: &[NodeId]) -> Option<NodeId> {
        let hoped = |slot: &&Slot| {
            let asked = slot.owners.iter().any(|(node, _)| asked.contains(node));
            slot.acknowledged() || (asked && !slot.hopeless())
        };
        let short = |need: &Need| (self.scope(need).filter(hoped).count() as u32) < need.required;
        waiting.iter().copied().find(|node| self.any_need_of(*node, short))
    }

    /// The nodes that have not answered yet, owners before stand-ins, in the order given.
    pub fn outstanding(&self) -> Vec<NodeId> {
        let owners = self.slots.iter().flat_map(|slot| slot.owners.iter().copied());
        let stand_ins = self.slots.iter().flat_map(|slot| slot.stand_ins.iter().copied());
        owners
            .chain(stand_ins)
            .filter(|(_, answer)| *answer == Answer::Outstanding)
            .map(|(node, _)| node)
            .collect()
    }

    /// Whether any two requests at this level share a replica, in the whole or in one data center:
    /// then a read writes back what it merged before it answers, so that the next such read cannot
    /// see less.
    pub fn is_quorum(&self) -> bool {
        self.quorum
    }

    fn scope(&self, need: &Need) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| need.counts(slot))
    }

    /// Slots within the scope of a need that are acknowledged, and those that still may be.
    fn within(&self, need: &Need) -> (u32, u32) {
        let (mut counted, mut open) = (0, 0);
        for slot in self.scope(need) {
            counted += u32::from(slot.acknowledged());
            open += u32::from(!slot.acknowledged() && !slot.hopeless());
        }
        (counted, open)
    }

    fn any_need_of(&self, node: NodeId, holds: impl Fn(&Need) -> bool) -> bool {
        let Some(&index) = self.places.get(&node) else { return false };
        self.needs.iter().any(|need| need.counts(&self.slots[index]) && holds(need))
    }

    fn is_owner(&self, node: NodeId) -> bool {
        let owns = |slot: &Slot| slot.owners.iter().any(|(owner, _)| *owner == node);
        self.places.get(&node).is_some_and(|&index| owns(&self.slots[index]))
    }

    fn slot_of(&mut self, node: NodeId) -> Result<&mut Slot, LevelError> {
        let index = *self.places.get(&node).ok_or(LevelError::NotCounted(node))?;
        Ok(&mut self.slots[index])
    }

    fn place(slot: &mut Slot, node: NodeId) -> &mut Answer {
        let all = slot.owners.iter_mut().chain(&mut slot.stand_ins);
        let found = all.into_iter().find(|(other, _)| *other == node);
        &mut found.expect("the slot of a node names it").1
    }
}

/// The counts that a level wants over data centers of the given names and sizes.
fn needs(
    level: Level,
    (names, sizes): (&[&str], &[u32]),
    local: &str,
) -> Result<Vec<Need>, LevelError> {
    let all: u32 = sizes.iter().sum();
    let over_all = |required| Ok(vec![Need { datacenter: None, required }]);
    let over_one = |dc: usize, required: fn(u32) -> u32| Need {
        datacenter: Some((dc, names[dc].to_owned())),
        required: required(sizes[dc]),
    };
    let over_local = |required: fn(u32) -> u32| match names.binary_search(&local) {
        Ok(dc) => Ok(vec![over_one(dc, required)]),
        Err(_) => Err(LevelError::NoLocalReplica { level, datacenter: local.to_owned() }),
    };
    match level {
        Level::Exactly(0) => Err(LevelError::Zero),
        Level::Exactly(asked) if asked > all => {
            Err(LevelError::MoreThanReplicas { asked, replicas: all })
        }
        Level::Exactly(asked) => over_all(asked),
        Level::One => over_all(1),
        Level::Quorum => over_all(Level::majority(all)),
        Level::All => over_all(all),
        Level::LocalOne => over_local(|_| 1),
        Level::LocalQuorum => over_local(Level::majority),
        Level::EachQuorum => Ok((0..sizes.len()).map(|dc| over_one(dc, Level::majority)).collect()),
    }
}

/// Whether one of the needs is a majority of what it counts over.
fn is_quorum(needs: &[Need], sizes: &[u32]) -> bool {
    needs.iter().any(|need| {
        let size = need.datacenter.as_ref().map_or_else(|| sizes.iter().sum(), |dc| sizes[dc.0]);
        need.required >= Level::majority(size)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
