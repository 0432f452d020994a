//! The planner of a first layout: which members own which partitions.
//!
//! Pure and deterministic, one data center at a time. Hard rules: N copies of every partition, on N
//! distinct machines; every node within one partition of its share by weight. Racks and zones are
//! distinct where there are enough of them; where not, copies are spread as evenly as can be and
//! the plan says so.
//!
//! How: nodes are laid on a line, ordered by (zone, rack, machine, id), each taking a stretch as
//! long as its quota; the line is as long as all slots together, P x N, and wraps around the P
//! partitions N times. A stretch no longer than P passes each partition at most once, so capping a
//! machine at P, a zone at P times the copies it may hold, and so on, makes every rule hold by
//! construction (systematic sampling, Madow 1949). Quotas are differences of rounded prefix sums,
//! which keeps every node, machine, rack and zone at floor or ceil of its share at once. Swaps of
//! owners that break no rule then mix the table: neighbours on the line would otherwise share all
//! their partitions. A node's set of partners stays small, since a larger one makes it likelier
//! that some N nodes that fail together hold all copies of something (Cidon et al., "Copysets",
//! 2013).

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Member, PartitionEntry};
use super::draw::Draw;
use super::partition;
use super::partners::{self, Partners};
use super::places::Places;
use super::slot::Slot;
use crate::id::NodeId;

pub use super::places::PlanWarning;

/// A table for epoch 1, and what could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One entry per partition, version 1.
    pub table: Vec<PartitionEntry>,
    /// Wishes that the members' places do not allow.
    pub warnings: Vec<PlanWarning>,
}

/// No table can be made of these members. Nothing was changed; other members are needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Copies of one partition must lie on distinct machines.
    #[error(
        "data center {datacenter} has {machines} machines with weight, but {copies} copies need \
         {copies} distinct machines: name more machines or ask for fewer copies"
    )]
    TooFewMachines {
        /// Where.
        datacenter: String,
        /// Machines that may own something.
        machines: usize,
        /// Copies asked for (N).
        copies: u32,
    },
    /// The ring cannot be cut that finely.
    #[error("a ring is cut by at most 16 bits, not {0}")]
    TooManyBits(u8),
}

/// By how many bits to cut a ring: near 64 partition replicas for each of `nodes` nodes that hold
/// `n` copies between them (45 to 90, bounded by 1 and 65,536 partitions).
pub fn suggest_bits(nodes: usize, n: u32) -> u8 {
    let wanted = nodes.max(1) as u64 * 45;
    let copies = u64::from(n.max(1));
    (0..partition::MAX_PARTITION_BITS)
        .find(|&k| u64::from(partition::count(k)) * copies >= wanted)
        .unwrap_or(partition::MAX_PARTITION_BITS)
}

/// Plans the table of epoch 1. Members of a data center that `replication` does not name, and
/// members of weight 0, own nothing.
pub fn plan_first(
    members: &BTreeMap<NodeId, Member>,
    replication: &BTreeMap<String, u32>,
    k: u8,
) -> Result<Plan, PlanError> {
    if k > partition::MAX_PARTITION_BITS {
        return Err(PlanError::TooManyBits(k));
    }
    let partitions = partition::count(k) as usize;
    let entry = PartitionEntry { version: 1, slots: BTreeMap::new() };
    let mut plan = Plan { table: vec![entry; partitions], warnings: Vec::new() };
    for (datacenter, &copies) in replication {
        let places = Places::new(members, &BTreeSet::new(), datacenter, copies, partitions);
        let center = places.map_err(|few| PlanError::TooFewMachines {
            datacenter: datacenter.clone(),
            machines: few.machines,
            copies,
        })?;
        plan.warnings.extend(center.warnings());
        let mut rows = center.rows();
        center.mix(&mut rows);
        for (entry, mut row) in plan.table.iter_mut().zip(rows) {
            row.1.rotate_left(row.0 % copies as usize);
            let owners = row.1.iter().map(|&node| center.nodes[node].id);
            let slots = owners.map(|owner| Slot::stable(owner, 1));
            entry.slots.insert(datacenter.clone(), slots.collect());
        }
    }
    Ok(plan)
}

/// Owners of one partition: its number and its nodes by their place on the line.
type Row = (usize, Vec<usize>);

impl Places<'_> {
    /// The table straight from the line.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            (0..self.partitions).map(|index| (index, Vec::with_capacity(4))).collect();
        let round = |prefix: u64| ((prefix + (1 << 31)) >> 32) as usize;
        let mut prefix = 0;
        for (node, share) in self.shares().0.into_iter().enumerate() {
            let first = round(prefix);
            prefix += share;
            for slot in first..round(prefix) {
                rows[slot % self.partitions].1.push(node);
            }
        }
        rows
    }

    /// May `node` stand at position `at` of this row?
    fn may_swap(&self, row: &[usize], at: usize, node: usize) -> bool {
        let others = row.iter().enumerate().filter(|(position, _)| *position != at);
        self.fits(others.map(|(_, &other)| other), node)
    }

    /// Swaps owners between pairs of partitions where no rule breaks and no node gains a partner
    /// beyond what is aimed at.
    fn mix(&self, rows: &mut [Row]) {
        if self.partitions < 2 {
            return;
        }
        let aim = partners::aim(self.copies);
        let mut partners = Partners::of(self.nodes.len(), rows.iter().map(|row| &row.1[..]));
        let mut draw = Draw::new(self.partitions as u64);
        let copies = self.copies as usize;
        for _ in 0..self.partitions * copies * 4 {
            let (a, b) = (draw.below(self.partitions), draw.below(self.partitions));
            let (i, j) = (draw.below(copies), draw.below(copies));
            let (mine, theirs) = (rows[a].1[i], rows[b].1[j]);
            if a == b || mine == theirs {
                continue;
            }
            if !self.may_swap(&rows[a].1, i, theirs) || !self.may_swap(&rows[b].1, j, mine) {
                continue;
            }
            partners.replace(&mut rows[a].1, i, theirs);
            partners.replace(&mut rows[b].1, j, mine);
            let wide = rows[a].1.iter().chain(&rows[b].1).any(|&node| partners.count(node) > aim);
            if wide {
                partners.replace(&mut rows[a].1, i, mine);
                partners.replace(&mut rows[b].1, j, theirs);
            }
        }
    }
}

#[cfg(test)]
mod tests;
