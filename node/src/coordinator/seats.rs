//! The stand-ins of one request: who answers in the place of an owner that was given up.
//!
//! An owner is given up when it is known to be down, when its call failed, or when it is suspected and
//! has been silent for [`LOOK`] while somebody could stand in. Nobody is called upon while the owners
//! that are left can reach the level: what is not counted is not kept elsewhere. An owner that refused
//! for want of room or time is not replaced: overload must not spread.

use std::collections::BTreeMap;
use std::time::Duration;

use kvasir_core::handoff::Bench;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{LevelError, Progress, Tally};
use kvasir_core::ring::Owner;

use super::fanout::Failure;
use super::plan::Plan;
use super::request::CoordinateError;
use crate::replica::View;

/// How long a suspected owner may be silent before somebody stands in for it.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Who stands in for whom.
pub(super) struct Seats {
    /// Absent where the request is strict.
    bench: Option<Bench>,
    owners: Vec<Owner>,
    /// Owner -> the first owner of its slot.
    slots: BTreeMap<NodeId, NodeId>,
    /// First owners of slots given up for whom nobody stands in now.
    open: Vec<NodeId>,
    /// Stand-in -> owner.
    seated: BTreeMap<NodeId, NodeId>,
}

impl Seats {
    /// Nobody may stand in.
    #[cfg(test)]
    pub fn strict() -> Self {
        Self {
            bench: None,
            owners: Vec::new(),
            slots: BTreeMap::new(),
            open: Vec::new(),
            seated: BTreeMap::new(),
        }
    }

    /// Nobody stands in yet. This node may be called upon like any other.
    pub fn open(plan: &Plan, sloppy: bool) -> Self {
        Self {
            bench: sloppy.then(|| plan.bench()),
            owners: plan.owners.clone(),
            slots: plan.owners.iter().map(|o| (o.node, plan.slot_of(o.node))).collect(),
            open: Vec::new(),
            seated: BTreeMap::new(),
        }
    }

    /// Nobody stands in yet, but this node where it coordinates without being an owner; and not even
    /// this node if it `began` under an older version of the entry, as one of the owners.
    ///
    /// # Errors
    /// [`CoordinateError::Moved`]; or this node can stand in for none of the owners.
    pub fn new(
        plan: &Plan,
        sloppy: bool,
        began: bool,
        tally: &mut Tally,
    ) -> Result<Self, CoordinateError> {
        let mut seats = Self::open(plan, sloppy);
        if began {
            if let Some(bench) = &mut seats.bench {
                bench.remove(plan.view.me);
            }
            return Ok(seats);
        }
        if !plan.owns() && (plan.stores() || !sloppy) {
            return Err(CoordinateError::Moved { epoch: plan.view.epoch() });
        }
        if !plan.owns() {
            let me = plan.view.me;
            let place = plan.owners.iter().find(|o| o.datacenter == plan.view.datacenter);
            let owner = place.ok_or_else(|| CoordinateError::NotServing {
                reason: "this node can stand in for no owner of the key".to_string(),
            })?;
            tally.stand_in(owner.node, me)?;
            seats.seated.insert(me, owner.node);
            if let Some(bench) = &mut seats.bench {
                bench.remove(me);
            }
        }
        Ok(seats)
    }

    /// A node answered that it will not, or did not answer: its seat is free if somebody may take it.
    pub fn failed(&mut self, node: NodeId, why: &Failure) {
        let owner = self.seated.remove(&node).unwrap_or(node);
        let owner = self.slots.get(&owner).copied().unwrap_or(owner);
        let replaceable = matches!(
            why,
            Failure::NotApplied(_)
                | Failure::NotOwner(_)
                | Failure::Unknown(_)
                | Failure::StandInsFull
        );
        let taken =
            self.seated.values().any(|seated| *seated == owner) || self.open.contains(&owner);
        if replaceable && !taken {
            self.open.push(owner);
        }
    }

    /// Calls upon stand-ins, as many as the level needs now and no more. The caller asks them.
    ///
    /// # Errors
    /// None in practice: the tally knows every owner.
    pub fn call(&mut self, tally: &mut Tally) -> Result<Vec<NodeId>, LevelError> {
        let mut called = Vec::new();
        let Some(bench) = &mut self.bench else { return Ok(called) };
        self.open.retain(|owner| !tally.acks().contains(owner));
        while tally.progress() == Progress::Failed {
            // One in a data center that is short of acknowledgements; elsewhere a copy would not count.
            let mut short = self.open.iter().enumerate().filter(|(_, owner)| tally.lacks(**owner));
            let next = short.find_map(|(at, owner)| {
                let place = self.owners.iter().find(|o| o.node == *owner)?;
                Some((at, *owner, bench.take(&place.datacenter)?))
            });
            let Some((at, owner, stand_in)) = next else { break };
            self.open.remove(at);
            tally.stand_in(owner, stand_in)?;
            self.seated.insert(stand_in, owner);
            called.push(stand_in);
        }
        Ok(called)
    }

    /// Gives up who is silent and no longer held for alive, if somebody could stand in.
    ///
    /// # Errors
    /// None in practice: the tally knows every node it waits for.
    pub fn look(&mut self, view: &View, tally: &mut Tally) -> Result<(), LevelError> {
        for node in tally.outstanding() {
            let owner = self.seated.get(&node).copied().unwrap_or(node);
            let place = self.owners.iter().find(|o| o.node == owner);
            let has_next = place.is_some_and(|place| {
                self.bench.as_ref().is_some_and(|bench| bench.offers(&place.datacenter))
            });
            if node != view.me && view.rank(node) > 0 && has_next {
                tally.fail(node)?;
                self.failed(node, &Failure::Unknown("silent and suspected".to_string()));
            }
        }
        Ok(())
    }

    /// Whether silence may end before the deadline.
    pub fn looks(&self) -> bool {
        self.bench.is_some()
    }

    /// The owner that a node stands in for, if it does.
    pub fn stands_in_for(&self, node: NodeId) -> Option<NodeId> {
        self.seated.get(&node).copied()
    }
}
