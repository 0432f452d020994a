//! The placement planner: from the present table and a goal to the target table and the moves.
//!
//! Pure and deterministic: same inputs, same bytes. What it keeps, per data center:
//! - N copies of every partition on N distinct machines, always; in distinct racks and zones where
//!   there are enough, else spread as evenly as can be, and a [`PlanWarning`] says so;
//! - every node at the floor or the ceiling of its share by weight, unless a place is full
//!   ([`PlanWarning::Full`]);
//! - the least movement of all tables that keep this (`flow`);
//! - no node with more than 16 partners (2(N - 1) where that is more), as far as that moves nothing
//!   more (`scatter`); where it would, [`PlanWarning::Scattered`] says so. In no case can a node have
//!   more partners than N - 1 times its share.
//!
//! A move gives one slot of one partition from its owner C to another node D. The moves of a
//! partition can be made in any order, one at a time, and every table between keeps the rules
//! (`slots`); while a slot moves, C and D both hold it, so D stands on no machine of another owner
//! and counts in its rack and zone instead of C. `batch` says which moves may start next.
//!
//! The input is plain, so that it does not depend on how a document writes down a move: members,
//! copies per data center, and per partition the ordered owners with the node that a slot moves to.
//! A slot that moves already is planned as if it had arrived, and while operations run so is what they
//! have yet to move ([`Cluster::ahead`]).

mod batch;
mod flow;
mod goal;
mod measure;
mod risk;
mod scatter;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Member};
use super::outgoing;
use super::places::Places;
use super::progress::{MoveRecord, MoveStage};
use crate::id::NodeId;

pub use super::places::{PlaceKind, PlanWarning};
pub use batch::{Limits, next_batch};
pub use goal::{Goal, PlanRefused};
pub use measure::{Count, Measures, measure};
pub use risk::{Risk, Weakest, risk};

/// What the planner knows of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The members of the document.
    pub members: BTreeMap<NodeId, Member>,
    /// Copies of every partition per data center (N).
    pub replication: BTreeMap<String, u32>,
    /// Per partition and data center, the owners in order of preference.
    pub table: Vec<BTreeMap<String, Vec<Seat>>>,
}

/// One slot of a partition: one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The member that holds the copy, or gives it away.
    pub owner: NodeId,
    /// The member that the copy moves to, while it moves.
    pub moving_to: Option<NodeId>,
}

impl Seat {
    /// Who holds the copy once its move is over.
    pub fn heir(&self) -> NodeId {
        self.moving_to.unwrap_or(self.owner)
    }
}

/// One slot that changes hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// Index of the partition.
    pub partition: u32,
    /// The data center whose slot moves.
    pub datacenter: String,
    /// Which of the data center's slots, from 0.
    pub slot: usize,
    /// Who gives.
    pub from: NodeId,
    /// Who gets.
    pub to: NodeId,
}

/// Where a goal leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The members once all moves are over: without those that leave, with those that join and with
    /// the weights asked for. A drained member stays with weight 0.
    pub members: BTreeMap<NodeId, Member>,
    /// Owners of each partition once all moves are over, per data center in their order.
    pub target: Vec<BTreeMap<String, Vec<NodeId>>>,
    /// What differs, partition by partition.
    pub moves: Vec<Move>,
    /// Moves that the shares alone force, whatever the table: no plan has fewer.
    pub least: u64,
    /// Wishes that cannot be had. The plan is usable all the same.
    pub warnings: Vec<PlanWarning>,
}

impl Cluster {
    /// What a document says.
    pub fn of(document: &Document) -> Self {
        let seat = |slot: &super::Slot| {
            let moving_to = slot.state.successor().map(|next| next.node);
            Seat { owner: slot.owner, moving_to }
        };
        let seats = |entry: &super::PartitionEntry| {
            let of = |(name, slots): (&String, &Vec<super::Slot>)| {
                (name.clone(), slots.iter().map(seat).collect())
            };
            entry.slots.iter().map(of).collect()
        };
        Self {
            members: document.members.clone(),
            replication: document.replication.clone(),
            table: document.table.iter().map(seats).collect(),
        }
    }

    /// What a document will say once all that runs is over: every copy is where its operation leads it, and
    /// members that are on their way out get nothing more.
    pub fn ahead(document: &Document) -> Self {
        let mut ahead = Self::of(document);
        for node in outgoing::going(document) {
            ahead.members.entry(node).and_modify(|member| member.weight = 0);
        }
        for seat in ahead.table.iter_mut().flat_map(BTreeMap::values_mut).flatten() {
            *seat = Seat { owner: seat.heir(), moving_to: None };
        }
        let mut due = due(document);
        // A node comes to a partition once its other copy there has gone: in as many rounds as it takes.
        loop {
            let before = due.len();
            due.retain(|(one, (from, to))| !ahead.arrives(one, *from, *to));
            if due.len() == before {
                return ahead;
            }
        }
    }

    /// Lets a copy arrive. False if nobody holds it there, or its taker holds another one.
    fn arrives(&mut self, one: &MoveRecord, from: NodeId, to: NodeId) -> bool {
        let row = self.table.get_mut(one.partition.index as usize);
        let Some(seats) = row.and_then(|row| row.get_mut(&one.datacenter)) else { return false };
        if seats.iter().any(|seat| seat.owner == to) {
            return false;
        }
        let seat = seats.iter_mut().find(|seat| seat.owner == from);
        seat.map(|seat| seat.owner = to).is_some()
    }

    /// Is every slot there that the replication asks for, held by a member of its data center?
    fn check(&self) -> Result<(), PlanRefused> {
        for (index, row) in self.table.iter().enumerate() {
            let broken = || PlanRefused::BrokenTable { partition: index as u32 };
            if !row.keys().eq(self.replication.keys()) {
                return Err(broken());
            }
            for ((datacenter, seats), &copies) in row.iter().zip(self.replication.values()) {
                let mut heirs = BTreeSet::new();
                let here =
                    |node| self.members.get(&node).is_some_and(|m| m.datacenter == *datacenter);
                let sound =
                    seats.iter().all(|s| here(s.owner) && here(s.heir()) && heirs.insert(s.heir()));
                if seats.len() != copies as usize || !sound {
                    return Err(broken());
                }
            }
        }
        Ok(())
    }
}

/// What running operations have yet to do to slots that do not move, and what of those that do goes back.
fn due(document: &Document) -> Vec<(&MoveRecord, (NodeId, NodeId))> {
    let onward = outgoing::onward(document).flat_map(|(_, progress)| &progress.moves);
    let waits = |one: &&MoveRecord| one.stage == MoveStage::Waiting && one.from != one.to;
    let come = onward.filter(waits).map(|one| (one, (one.from, one.to)));
    let back = outgoing::returning(document).filter(|one| one.from != one.to);
    come.chain(back.map(|one| (one, (one.to, one.from)))).collect()
}

/// Plans the way to a goal.
///
/// # Errors
/// See [`PlanRefused`]: the goal cannot be reached, or names what is not there.
pub fn plan(cluster: &Cluster, goal: &Goal) -> Result<Plan, PlanRefused> {
    cluster.check()?;
    let aim = goal.aim(cluster)?;
    let mut plan = Plan {
        members: aim.remaining(),
        target: vec![BTreeMap::new(); cluster.table.len()],
        moves: Vec::new(),
        least: 0,
        warnings: Vec::new(),
    };
    for (datacenter, &copies) in &cluster.replication {
        let partitions = cluster.table.len();
        let places = Places::new(&aim.members, &aim.leaving, datacenter, copies, partitions)
            .map_err(|few| aim.too_few(cluster, datacenter, copies, few.machines))?;
        plan_center(cluster, &aim, &places, &mut plan)?;
    }
    plan.moves.sort_unstable();
    Ok(plan)
}

fn plan_center(
    cluster: &Cluster,
    aim: &goal::Aim,
    places: &Places,
    plan: &mut Plan,
) -> Result<(), PlanRefused> {
    let numbers: BTreeMap<NodeId, usize> =
        places.nodes.iter().enumerate().map(|(number, place)| (place.id, number)).collect();
    let (shares, full) = places.shares();
    plan.warnings.extend(places.warnings());
    plan.warnings.extend(full);
    let bounds: Vec<_> = shares.into_iter().map(flow::bounds).collect();
    let present: Vec<flow::Row> = cluster
        .table
        .iter()
        .map(|row| row[places.datacenter].iter().map(|seat| numbers[&seat.heir()]).collect())
        .collect();
    plan.least += least(places, &present, &bounds);
    let number = |node| numbers.get(&node).copied();
    let exchange = aim.substitute.and_then(|(dead, by)| Some((number(dead)?, number(by)?)));
    let substituted =
        exchange.and_then(|(dead, by)| substitute(places, &present, &bounds, dead, by));
    let nearest = match substituted {
        Some(rows) => rows,
        None => flow::Flow::new(places, &present, &bounds).solve().map_err(|flow::NoTable| {
            PlanRefused::NoTable { datacenter: places.datacenter.to_owned() }
        })?,
    };
    let (nearest, scattered) = scatter::Scatter::new(places, &present, &bounds, nearest).settle();
    plan.warnings.extend(scattered);
    for (index, (before, after)) in present.iter().zip(nearest).enumerate() {
        let ordered = slots::ordered(places, before, after);
        for (slot, (&from, &to)) in before.iter().zip(&ordered).enumerate() {
            if from != to {
                plan.moves.push(Move {
                    partition: index as u32,
                    datacenter: places.datacenter.to_owned(),
                    slot,
                    from: places.nodes[from].id,
                    to: places.nodes[to].id,
                });
            }
        }
        let owners = ordered.into_iter().map(|node| places.nodes[node].id).collect();
        plan.target[index].insert(places.datacenter.to_owned(), owners);
    }
    Ok(())
}

/// How many replicas must come to the nodes that have less than the least of their share, or go
/// from those that have more than the most.
fn least(places: &Places, present: &[flow::Row], bounds: &[(usize, usize)]) -> u64 {
    let mut held = vec![0usize; places.nodes.len()];
    present.iter().flatten().for_each(|&node| held[node] += 1);
    let bound = |node: usize| bounds.get(node).copied().unwrap_or((0, 0));
    let come = held.iter().enumerate().map(|(node, held)| bound(node).0.saturating_sub(*held));
    let go = held.iter().enumerate().map(|(node, held)| held.saturating_sub(bound(node).1));
    come.sum::<usize>().max(go.sum()) as u64
}

/// The present table with one node in the place of another, if that keeps every rule and share:
/// nothing can move less, and nobody else is touched.
fn substitute(
    places: &Places,
    present: &[flow::Row],
    bounds: &[(usize, usize)],
    dead: usize,
    by: usize,
) -> Option<Vec<flow::Row>> {
    let mut held = vec![0; places.nodes.len()];
    let mut rows = present.to_vec();
    for row in &mut rows {
        for at in 0..row.len() {
            row[at] = if row[at] == dead { by } else { row[at] };
            held[row[at]] += 1;
            if !places.fits(row[..at].iter().copied(), row[at]) {
                return None;
            }
        }
    }
    let shares = bounds.iter().zip(&held);
    let even = shares.into_iter().all(|(&(low, high), &held)| low <= held && held <= high);
    (even && held[places.owners..].iter().all(|&held| held == 0)).then_some(rows)
}

#[cfg(test)]
mod tests;
