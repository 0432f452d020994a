//! Counting the acknowledgements of one request.
//!
//! Invariants, held against a brute-force oracle in `tests.rs`:
//! - a replica counts at most once, however often it answers;
//! - an owner and its stand-in together count at most once: they share one slot;
//! - `Done` never goes back;
//! - `Failed` is said as soon as the outstanding answers can no longer reach the level, and not
//!   before. It is taken back only by facts: an acknowledgement that arrives after its node was
//!   given up counts all the same, since the copy is there.
//!
//! Source: Dynamo (DeCandia et al. 2007) section 4.5 for the N/R/W counts and 4.6 for sloppy
//! quorums; `each_quorum` and the local levels follow the usual reading for several data centers.

use std::collections::BTreeMap;

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

/// One replica's place in the count: its owner and whoever stands in for it.
#[derive(Debug, Clone)]
struct Slot {
    datacenter: usize,
    owner: (NodeId, Answer),
    stand_in: Option<(NodeId, Answer)>,
}

impl Slot {
    fn answers(&self) -> impl Iterator<Item = Answer> {
        std::iter::once(self.owner.1).chain(self.stand_in.map(|(_, answer)| answer))
    }

    fn acknowledged(&self) -> bool {
        self.answers().any(|answer| answer == Answer::Acknowledged)
    }

    fn hopeless(&self) -> bool {
        self.answers().all(|answer| answer == Answer::Failed)
    }
}

/// A number of acknowledgements wanted within a scope.
#[derive(Debug, Clone, Copy)]
struct Need {
    /// The data center counted, or all of them.
    datacenter: Option<usize>,
    required: u32,
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
        if replicas.is_empty() {
            return Err(LevelError::NoReplicas);
        }
        let mut names: Vec<&str> = replicas.iter().map(|(_, name)| name.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        let mut slots = Vec::with_capacity(replicas.len());
        let mut places = BTreeMap::new();
        let mut sizes = vec![0_u32; names.len()];
        for (node, name) in replicas {
            let datacenter = names.partition_point(|other| *other < name.as_ref());
            sizes[datacenter] += 1;
            if places.insert(*node, slots.len()).is_some() {
                return Err(LevelError::ReplicaTwice(*node));
            }
            slots.push(Slot { datacenter, owner: (*node, Answer::Outstanding), stand_in: None });
        }
        let here = names.binary_search(&local).ok();
        let needs = needs(level, &sizes, here, local)?;
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
        if first && !before {
            self.acks.push(node);
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
    /// A stand-in that failed may be replaced by another.
    ///
    /// Refused when `owner` is no owner here, when `stand_in` already has a place in this count,
    /// or when the owner has a stand-in that has not failed.
    pub fn stand_in(&mut self, owner: NodeId, stand_in: NodeId) -> Result<Progress, LevelError> {
        let index = *self.places.get(&owner).ok_or(LevelError::NotCounted(owner))?;
        let slot = &mut self.slots[index];
        if slot.owner.0 != owner {
            return Err(LevelError::NotCounted(owner));
        }
        if self.places.contains_key(&stand_in)
            || slot.stand_in.is_some_and(|(_, answer)| answer != Answer::Failed)
        {
            return Err(LevelError::ReplicaTwice(stand_in));
        }
        if let Some((gone, _)) = slot.stand_in.replace((stand_in, Answer::Outstanding)) {
            self.places.remove(&gone);
        }
        self.places.insert(stand_in, index);
        Ok(self.progress())
    }

    /// Where the request stands.
    pub fn progress(&self) -> Progress {
        let mut done = true;
        for need in &self.needs {
            let (mut counted, mut open) = (0, 0);
            for slot in self.scope(need) {
                counted += u32::from(slot.acknowledged());
                open += u32::from(!slot.acknowledged() && !slot.hopeless());
            }
            if counted + open < need.required {
                return Progress::Failed;
            }
            done &= counted >= need.required;
        }
        if done { Progress::Done } else { Progress::NeedMore }
    }

    /// The nodes whose acknowledgement counted, in order of arrival: owners and stand-ins.
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

    /// The nodes that have not answered yet, owners before stand-ins, in the order given.
    pub fn outstanding(&self) -> Vec<NodeId> {
        let owners = self.slots.iter().map(|slot| Some(slot.owner));
        let stand_ins = self.slots.iter().map(|slot| slot.stand_in);
        owners
            .chain(stand_ins)
            .flatten()
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
        let wanted = need.datacenter;
        self.slots.iter().filter(move |slot| wanted.is_none_or(|dc| dc == slot.datacenter))
    }

    fn is_owner(&self, node: NodeId) -> bool {
        self.places.get(&node).is_some_and(|&index| self.slots[index].owner.0 == node)
    }

    fn slot_of(&mut self, node: NodeId) -> Result<&mut Slot, LevelError> {
        let index = *self.places.get(&node).ok_or(LevelError::NotCounted(node))?;
        Ok(&mut self.slots[index])
    }

    fn place(slot: &mut Slot, node: NodeId) -> &mut Answer {
        match &mut slot.stand_in {
            Some((stand_in, answer)) if *stand_in == node => answer,
            _ => &mut slot.owner.1,
        }
    }
}

/// The counts that a level wants over data centers of the given sizes.
fn needs(
    level: Level,
    sizes: &[u32],
    here: Option<usize>,
    local: &str,
) -> Result<Vec<Need>, LevelError> {
    let all: u32 = sizes.iter().sum();
    let over_all = |required| Ok(vec![Need { datacenter: None, required }]);
    let over_local = |required: fn(u32) -> u32| match here {
        Some(dc) => Ok(vec![Need { datacenter: Some(dc), required: required(sizes[dc]) }]),
        None => Err(LevelError::NoLocalReplica { level, datacenter: local.to_owned() }),
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
        Level::EachQuorum => Ok(sizes
            .iter()
            .enumerate()
            .map(|(dc, &size)| Need { datacenter: Some(dc), required: Level::majority(size) })
            .collect()),
    }
}

/// Whether one of the needs is a majority of what it counts over.
fn is_quorum(needs: &[Need], sizes: &[u32]) -> bool {
    needs.iter().any(|need| {
        let size = need.datacenter.map_or_else(|| sizes.iter().sum(), |dc| sizes[dc]);
        need.required >= Level::majority(size)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
