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

use std::collections::BTreeMap;

use super::document::{Member, PartitionEntry, Slot, SlotState};
use super::partition;
use crate::id::NodeId;

/// A table for epoch 1, and what could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One entry per partition, version 1.
    pub table: Vec<PartitionEntry>,
    /// Wishes that the members' places do not allow.
    pub warnings: Vec<PlanWarning>,
}

/// A wish that the members' places do not allow. The plan is usable all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanWarning {
    /// Some partitions have several copies in one zone.
    #[error("data center {datacenter}: up to {copies} copies of a partition share a zone")]
    SharedZone {
        /// Where.
        datacenter: String,
        /// Most copies of one partition in one zone.
        copies: u32,
    },
    /// Some partitions have several copies in one rack.
    #[error("data center {datacenter}: up to {copies} copies of a partition share a rack")]
    SharedRack {
        /// Where.
        datacenter: String,
        /// Most copies of one partition in one rack.
        copies: u32,
    },
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

/// Partners that a node may have before the mixing stops adding new ones.
const SCATTER: usize = 16;

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
        let center = Center::new(members, datacenter, copies, partitions)?;
        plan.warnings.extend(center.warnings());
        let mut rows = center.rows();
        center.mix(&mut rows);
        for (entry, mut row) in plan.table.iter_mut().zip(rows) {
            row.1.rotate_left(row.0 % copies as usize);
            let owners = row.1.iter().map(|&node| center.nodes[node].id);
            let slots = owners.map(|owner| Slot { owner, since: 1, state: SlotState::Stable });
            entry.slots.insert(datacenter.clone(), slots.collect());
        }
    }
    Ok(plan)
}

/// A node on the line, with the numbers of the places it stands in.
struct Place {
    id: NodeId,
    weight: u64,
    zone: usize,
    rack: usize,
    machine: usize,
}

/// One data center: its nodes in the order of the line, and how many copies a place may hold.
struct Center<'a> {
    datacenter: &'a str,
    nodes: Vec<Place>,
    partitions: usize,
    copies: u32,
    zone_cap: u32,
    rack_cap: u32,
    zones_named: bool,
    racks_named: bool,
}

/// Owners of one partition: its number and its nodes by their place on the line.
type Row = (usize, Vec<usize>);

impl<'a> Center<'a> {
    fn new(
        members: &BTreeMap<NodeId, Member>,
        datacenter: &'a str,
        copies: u32,
        partitions: usize,
    ) -> Result<Self, PlanError> {
        let mut owners: Vec<_> = members
            .iter()
            .filter(|(_, member)| member.datacenter == datacenter && member.weight > 0)
            .collect();
        // A machine is one failure domain even when its nodes disagree about its rack.
        let mut place_of_machine = BTreeMap::new();
        for (_, member) in &owners {
            place_of_machine.entry(&member.machine).or_insert((&member.zone, &member.rack));
        }
        owners.sort_by_key(|(id, m)| (place_of_machine[&m.machine], &m.machine, **id));
        let (mut zones, mut racks, mut machines) = (Numbers::new(), Numbers::new(), Numbers::new());
        let nodes: Vec<_> = owners
            .iter()
            .map(|(id, member)| {
                let (zone, rack) = place_of_machine[&member.machine];
                Place {
                    id: **id,
                    weight: u64::from(member.weight),
                    zone: zones.of((zone, "")),
                    rack: racks.of((zone, rack)),
                    machine: machines.of((&member.machine, "")),
                }
            })
            .collect();
        if machines.len() < copies as usize || copies == 0 {
            let (datacenter, machines) = (datacenter.to_owned(), machines.len());
            return Err(PlanError::TooFewMachines { datacenter, machines, copies });
        }
        let mut center = Self {
            datacenter,
            nodes,
            partitions,
            copies,
            zone_cap: copies,
            rack_cap: copies,
            zones_named: place_of_machine.values().any(|(zone, _)| !zone.is_empty()),
            racks_named: place_of_machine.values().any(|(_, rack)| !rack.is_empty()),
        };
        center.choose_caps(zones.len(), racks.len());
        Ok(center)
    }

    /// The strictest caps under which the machines still have room for all copies, zones first.
    fn choose_caps(&mut self, zones: usize, racks: usize) {
        let least = |places: usize| self.copies.div_ceil(places as u32);
        let (first_zone, first_rack) = (least(zones), least(racks));
        for zone_cap in first_zone..=self.copies {
            for rack_cap in first_rack..=zone_cap {
                (self.zone_cap, self.rack_cap) = (zone_cap, rack_cap);
                if self.tree().capacity >= u64::from(self.copies) {
                    return;
                }
            }
        }
        (self.zone_cap, self.rack_cap) = (self.copies, self.copies);
    }

    fn warnings(&self) -> Vec<PlanWarning> {
        let mut warnings = Vec::new();
        let datacenter = || self.datacenter.to_owned();
        if self.zones_named && self.zone_cap > 1 {
            let copies = self.zone_cap;
            warnings.push(PlanWarning::SharedZone { datacenter: datacenter(), copies });
        }
        if self.racks_named && self.rack_cap > 1 {
            let copies = self.rack_cap;
            warnings.push(PlanWarning::SharedRack { datacenter: datacenter(), copies });
        }
        warnings
    }

    /// Zones of racks of machines of nodes, each with its weight and the copies it can hold.
    fn tree(&self) -> Tree {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let by_zone = Level { key: |place| place.zone, cap: self.zone_cap };
        let by_rack = Level { key: |place| place.rack, cap: self.rack_cap };
        let by_machine = Level { key: |place| place.machine, cap: 1 };
        let by_node = Level { key: |_| 0, cap: 1 };
        Tree::grow(&self.nodes, &all, self.copies, &[by_zone, by_rack, by_machine, by_node])
    }

    /// Each node's share of all slots, in units of 2^-32 slots, along the line.
    fn shares(&self) -> Vec<u64> {
        let mut shares = vec![0; self.nodes.len()];
        let unit = (self.partitions as u64) << 32;
        self.tree().share(u64::from(self.copies) * unit, unit, &mut shares);
        shares
    }

    /// The table straight from the line.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            (0..self.partitions).map(|index| (index, Vec::with_capacity(4))).collect();
        let round = |prefix: u64| ((prefix + (1 << 31)) >> 32) as usize;
        let mut prefix = 0;
        for (node, share) in self.shares().into_iter().enumerate() {
            let first = round(prefix);
            prefix += share;
            for slot in first..round(prefix) {
                rows[slot % self.partitions].1.push(node);
            }
        }
        rows
    }

    /// Swaps owners between pairs of partitions where no rule breaks and no node gains a partner
    /// beyond [`SCATTER`].
    fn mix(&self, rows: &mut [Row]) {
        if self.partitions < 2 {
            return;
        }
        let mut partners = Partners::of(self.nodes.len(), rows);
        let mut draw = Draw(0x6b76_6173_6972 ^ self.partitions as u64);
        let copies = self.copies as usize;
        for _ in 0..self.partitions * copies * 4 {
            let (a, b) = (draw.below(self.partitions), draw.below(self.partitions));
            let (i, j) = (draw.below(copies), draw.below(copies));
            let (mine, theirs) = (rows[a].1[i], rows[b].1[j]);
            if a == b || mine == theirs {
                continue;
            }
            if !self.fits(&rows[a].1, i, theirs) || !self.fits(&rows[b].1, j, mine) {
                continue;
            }
            partners.replace(&mut rows[a].1, i, theirs);
            partners.replace(&mut rows[b].1, j, mine);
            let wide =
                rows[a].1.iter().chain(&rows[b].1).any(|&node| partners.count(node) > SCATTER);
            if wide {
                partners.replace(&mut rows[a].1, i, mine);
                partners.replace(&mut rows[b].1, j, theirs);
            }
        }
    }

    /// May `node` stand at position `at` of this row?
    fn fits(&self, row: &[usize], at: usize, node: usize) -> bool {
        let place = &self.nodes[node];
        let (mut zone, mut rack) = (1, 1);
        for (_, &other) in row.iter().enumerate().filter(|(position, _)| *position != at) {
            let other = &self.nodes[other];
            if other.machine == place.machine {
                return false;
            }
            zone += u32::from(other.zone == place.zone);
            rack += u32::from(other.rack == place.rack);
        }
        zone <= self.zone_cap && rack <= self.rack_cap
    }
}

/// How nodes are grouped at one depth of the tree, and how many copies of a partition a group may
/// hold.
#[derive(Clone, Copy)]
struct Level {
    key: fn(&Place) -> usize,
    cap: u32,
}

/// A place with everything in it.
struct Tree {
    weight: u64,
    /// Copies of one partition that it can hold.
    capacity: u64,
    inside: Inside,
}

enum Inside {
    Node(usize),
    Places(Vec<Tree>),
}

impl Tree {
    fn grow(nodes: &[Place], mine: &[usize], cap: u32, levels: &[Level]) -> Self {
        let weight = mine.iter().map(|&node| nodes[node].weight).sum();
        let cap = u64::from(cap);
        let [level, deeper @ ..] = levels else {
            return Self { weight, capacity: cap, inside: Inside::Node(mine[0]) };
        };
        let groups: Vec<&[usize]> = if deeper.is_empty() {
            mine.chunks(1).collect()
        } else {
            mine.chunk_by(|&a, &b| (level.key)(&nodes[a]) == (level.key)(&nodes[b])).collect()
        };
        let places: Vec<_> =
            groups.into_iter().map(|group| Self::grow(nodes, group, level.cap, deeper)).collect();
        let room = places.iter().map(|place| place.capacity).sum::<u64>();
        Self { weight, capacity: cap.min(room), inside: Inside::Places(places) }
    }

    /// Divides `share` by weight, no place above its capacity (`unit` is one whole copy of the
    /// ring); what a full place cannot take goes to the others.
    fn share(&self, share: u64, unit: u64, shares: &mut [u64]) {
        let places = match &self.inside {
            Inside::Node(node) => {
                shares[*node] = share;
                return;
            }
            Inside::Places(places) => places,
        };
        let mut full = vec![false; places.len()];
        let (mut left, mut weight) = (share, places.iter().map(|place| place.weight).sum::<u64>());
        loop {
            let (before, base) = (left, weight);
            for (place, full) in places.iter().zip(&mut full).filter(|(_, full)| !**full) {
                if portion(u128::from(before), place.weight, base) >= place.capacity * unit {
                    *full = true;
                    left -= place.capacity * unit;
                    weight -= place.weight;
                }
            }
            if before == left {
                break;
            }
        }
        let (mut passed, mut given) = (0, 0);
        for (place, full) in places.iter().zip(full) {
            let mine = if full {
                place.capacity * unit
            } else {
                // By prefix, so that what rounding cuts off never adds up.
                passed += place.weight;
                let upto = portion(u128::from(left), passed, weight);
                let mine = (upto - given).min(place.capacity * unit);
                given += mine;
                mine
            };
            place.share(mine, unit, shares);
        }
    }
}

/// `weight / of` of `whole`.
fn portion(whole: u128, weight: u64, of: u64) -> u64 {
    (whole * u128::from(weight) / u128::from(of.max(1))) as u64
}

/// Numbers names in the order of their first mention.
struct Numbers<'a>(BTreeMap<(&'a str, &'a str), usize>);

impl<'a> Numbers<'a> {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn of(&mut self, name: (&'a str, &'a str)) -> usize {
        let next = self.0.len();
        *self.0.entry(name).or_insert(next)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// For each node, with whom it shares how many partitions.
struct Partners(Vec<BTreeMap<usize, u32>>);

impl Partners {
    fn of(nodes: usize, rows: &[Row]) -> Self {
        let mut partners = Self(vec![BTreeMap::new(); nodes]);
        for (_, row) in rows {
            for (i, &a) in row.iter().enumerate() {
                row[i + 1..].iter().for_each(|&b| partners.add(a, b));
            }
        }
        partners
    }

    fn count(&self, node: usize) -> usize {
        self.0[node].len()
    }

    fn add(&mut self, a: usize, b: usize) {
        *self.0[a].entry(b).or_default() += 1;
        *self.0[b].entry(a).or_default() += 1;
    }

    fn remove(&mut self, a: usize, b: usize) {
        for (a, b) in [(a, b), (b, a)] {
            let count = self.0[a].entry(b).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0[a].remove(&b);
            }
        }
    }

    /// Puts `node` at position `at` of a row.
    fn replace(&mut self, row: &mut [usize], at: usize, node: usize) {
        let before = std::mem::replace(&mut row[at], node);
        for (_, &other) in row.iter().enumerate().filter(|(position, _)| *position != at) {
            self.remove(before, other);
            self.add(node, other);
        }
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): the plan must be the same everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
