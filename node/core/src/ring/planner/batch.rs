//! Which moves may start next.
//!
//! One slot of a partition at a time, in whichever data center; many partitions at once, as far as
//! each node has hands free. A move may start when its slot is still with the node that gives it and
//! the table while it moves keeps the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, Move, Seat};
use crate::id::NodeId;
use crate::ring::document::Member;

/// How many moves may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Moves that one node may be given at once.
    pub incoming: u32,
    /// Moves that one node may give at once.
    pub outgoing: u32,
    /// Moves in the whole cluster at once.
    pub total: u32,
}

/// Moves that run, per node.
struct Running {
    incoming: BTreeMap<NodeId, u32>,
    outgoing: BTreeMap<NodeId, u32>,
    total: u32,
}

impl Running {
    fn of(cluster: &Cluster) -> Self {
        let mut running = Self { incoming: BTreeMap::new(), outgoing: BTreeMap::new(), total: 0 };
        for seat in cluster.table.iter().flat_map(|row| row.values().flatten()) {
            if let Some(to) = seat.moving_to {
                running.start(seat.owner, to);
            }
        }
        running
    }

    fn start(&mut self, from: NodeId, to: NodeId) {
        *self.outgoing.entry(from).or_default() += 1;
        *self.incoming.entry(to).or_default() += 1;
        self.total += 1;
    }

    fn has_room(&self, from: NodeId, to: NodeId, limits: &Limits) -> bool {
        let count = |map: &BTreeMap<NodeId, u32>, node| map.get(&node).copied().unwrap_or(0);
        count(&self.outgoing, from) < limits.outgoing
            && count(&self.incoming, to) < limits.incoming
            && self.total < limits.total
    }
}

/// The moves of `planned` that may start now, in their order, those that run already counted in.
/// Moves that are over, run, or whose slot is with another node than was planned are passed over.
/// `cluster` names all members that the moves do.
pub fn next_batch(cluster: &Cluster, planned: &[Move], limits: &Limits) -> Vec<Move> {
    let mut running = Running::of(cluster);
    let mut busy: BTreeSet<u32> = BTreeSet::new();
    let mut batch = Vec::new();
    for planned in planned {
        let Some(row) = cluster.table.get(planned.partition as usize) else { continue };
        let Some(seats) = row.get(&planned.datacenter) else { continue };
        let still = Seat { owner: planned.from, moving_to: None };
        let moves = row.values().flatten().any(|seat| seat.moving_to.is_some());
        if moves
            || busy.contains(&planned.partition)
            || seats.get(planned.slot) != Some(&still)
            || !running.has_room(planned.from, planned.to, limits)
            || !keeps_machines(&cluster.members, seats, planned)
        {
            continue;
        }
        busy.insert(planned.partition);
        running.start(planned.from, planned.to);
        batch.push(planned.clone());
    }
    batch
}

/// Does the node that gets the slot stand on a machine of no other owner?
fn keeps_machines(members: &BTreeMap<NodeId, Member>, seats: &[Seat], planned: &Move) -> bool {
    let Some(to) = members.get(&planned.to) else { return false };
    let others = seats.iter().enumerate().filter(|(slot, _)| *slot != planned.slot);
    let mut machines = others.filter_map(|(_, seat)| members.get(&seat.owner));
    machines.all(|other| other.machine != to.machine)
}
