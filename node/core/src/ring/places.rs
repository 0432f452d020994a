//! Where the nodes of one data center stand, how many copies of a partition each place may hold,
//! and which share of all copies each node gets by its weight.
//!
//! Hard rules: copies of one partition on distinct machines, and no more of them in a rack or zone
//! than its cap. Caps are the strictest under which the machines still have room for all copies:
//! one where there are enough racks and zones. A share is the weight's part of all slots; a place
//! that is full before it reached its part leaves the rest to the others (water-filling), down the
//! tree of zones, racks, machines and nodes. So every set of shares is one that some table has.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Member;
use crate::id::NodeId;

/// A wish that the members' places do not allow. The plan is usable all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
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
    /// A place holds as many copies as its rule allows, which is less than its weight asks for: its
    /// nodes get less than their share, all others more.
    #[error(
        "data center {datacenter}: {kind} {name} is full with {holds} of the {wanted} copies that its weight asks for"
    )]
    Full {
        /// Where.
        datacenter: String,
        /// What kind of place.
        kind: PlaceKind,
        /// Its name.
        name: String,
        /// Partition replicas that its weight asks for, rounded up.
        wanted: u64,
        /// Partition replicas that it can hold.
        holds: u64,
    },
    /// A node shares partitions with more others than is aimed at, which makes it likelier that
    /// nodes that fail together hold a quorum of something.
    #[error(
        "data center {datacenter}: node {node} shares partitions with {partners} others, more than {aim}"
    )]
    Scattered {
        /// Where.
        datacenter: String,
        /// The node with the most partners.
        node: NodeId,
        /// With how many others it shares a partition.
        partners: usize,
        /// What is aimed at.
        aim: usize,
    },
}

/// Kinds of place that may fail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaceKind {
    /// One node.
    Node,
    /// A physical machine, with all nodes on it.
    Machine,
    /// A rack of machines.
    Rack,
    /// A zone of racks.
    Zone,
}

impl std::fmt::Display for PlaceKind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Node => "node",
            Self::Machine => "machine",
            Self::Rack => "rack",
            Self::Zone => "zone",
        })
    }
}

/// The machines of a data center are too few for its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFew {
    /// Machines that may own something.
    pub machines: usize,
}

/// A node, with the numbers of the places it stands in.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub id: NodeId,
    pub weight: u64,
    pub zone: usize,
    pub rack: usize,
    pub machine: usize,
}

/// One data center: its nodes, and how many copies a place may hold.
pub(super) struct Places<'a> {
    pub datacenter: &'a str,
    /// Who may own something, ordered by zone, rack, machine and id; then who may not any more.
    pub nodes: Vec<Place>,
    /// How many of the nodes may own something.
    pub owners: usize,
    pub partitions: usize,
    pub copies: u32,
    pub zone_cap: u32,
    pub rack_cap: u32,
    zones_named: bool,
    racks_named: bool,
    machine_names: Vec<&'a str>,
    rack_names: Vec<(&'a str, &'a str)>,
    zone_names: Vec<&'a str>,
}

/// Names met so far, each with its number.
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

    fn names(&self) -> Vec<(&'a str, &'a str)> {
        let mut names = vec![("", ""); self.0.len()];
        self.0.iter().for_each(|(name, &number)| names[number] = *name);
        names
    }
}

impl<'a> Places<'a> {
    /// The data center of this name, with room for `copies` copies of each of `partitions`
    /// partitions. Nodes of weight 0 and those in `leaving` stand last and get no share.
    pub fn new(
        members: &'a BTreeMap<NodeId, Member>,
        leaving: &BTreeSet<NodeId>,
        datacenter: &'a str,
        copies: u32,
        partitions: usize,
    ) -> Result<Self, TooFew> {
        let here = members.iter().filter(|(_, member)| member.datacenter == datacenter);
        let (mut owners, mut others): (Vec<_>, Vec<_>) =
            here.partition(|(id, member)| member.weight > 0 && !leaving.contains(id));
        // A machine is one failure domain even when its nodes disagree about its rack.
        let mut place_of_machine = BTreeMap::new();
        for (_, member) in owners.iter().chain(&others) {
            place_of_machine.entry(&*member.machine).or_insert((&*member.zone, &*member.rack));
        }
        let order =
            |(id, m): &(&NodeId, &'a Member)| (place_of_machine[&*m.machine], &m.machine, **id);
        owners.sort_by_key(order);
        others.sort_by_key(order);
        let (mut zones, mut racks, mut machines) = (Numbers::new(), Numbers::new(), Numbers::new());
        let mut number = |weighs: bool, (id, member): &(&NodeId, &'a Member)| {
            let (zone, rack) = place_of_machine[&*member.machine];
            Place {
                id: **id,
                weight: if weighs { u64::from(member.weight) } else { 0 },
                zone: zones.of((zone, "")),
                rack: racks.of((zone, rack)),
                machine: machines.of((&member.machine, "")),
            }
        };
        let mut nodes: Vec<_> = owners.iter().map(|node| number(true, node)).collect();
        let last = nodes.iter().fold((0, 0, 0), |most, place| {
            (most.0.max(place.zone + 1), most.1.max(place.rack + 1), most.2.max(place.machine + 1))
        });
        if last.2 < copies as usize || copies == 0 {
            return Err(TooFew { machines: last.2 });
        }
        nodes.extend(others.iter().map(|node| number(false, node)));
        let named = |name: fn(&Member) -> &str| owners.iter().any(|(_, m)| !name(m).is_empty());
        let mut places = Self {
            datacenter,
            nodes,
            owners: owners.len(),
            partitions,
            copies,
            zone_cap: copies,
            rack_cap: copies,
            zones_named: named(|member| &member.zone),
            racks_named: named(|member| &member.rack),
            machine_names: machines.names().into_iter().map(|(name, _)| name).collect(),
            rack_names: racks.names(),
            zone_names: zones.names().into_iter().map(|(name, _)| name).collect(),
        };
        debug_assert!(machines.len() >= last.2);
        places.choose_caps(last.0, last.1);
        Ok(places)
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

    /// Wishes about racks and zones that cannot be had.
    pub fn warnings(&self) -> Vec<PlanWarning> {
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
        let all: Vec<usize> = (0..self.owners).collect();
        let by_zone = Level { key: |place| place.zone, cap: self.zone_cap, kind: PlaceKind::Zone };
        let by_rack = Level { key: |place| place.rack, cap: self.rack_cap, kind: PlaceKind::Rack };
        let by_machine = Level { key: |place| place.machine, cap: 1, kind: PlaceKind::Machine };
        let by_node = Level { key: |_| 0, cap: 1, kind: PlaceKind::Node };
        let levels = [by_zone, by_rack, by_machine, by_node];
        Tree::grow(&self.nodes, &all, self.copies, (PlaceKind::Zone, &levels))
    }

    /// Each owner's share of all slots, in units of 2^-32 slots and in the order of the nodes, and
    /// the places that are full.
    pub fn shares(&self) -> (Vec<u64>, Vec<PlanWarning>) {
        let mut given = Given { shares: vec![0; self.owners], full: Vec::new() };
        let unit = (self.partitions as u64) << 32;
        self.tree().share(u64::from(self.copies) * unit, unit, &mut given);
        let warnings = given.full.iter().map(|full| PlanWarning::Full {
            datacenter: self.datacenter.to_owned(),
            kind: full.kind,
            name: self.name(full.kind, full.node),
            wanted: full.wanted.div_ceil(1 << 32),
            holds: full.holds >> 32,
        });
        let warnings = warnings.collect();
        (given.shares, warnings)
    }

    /// The name of the place of this kind in which a node stands.
    pub fn name(&self, kind: PlaceKind, node: usize) -> String {
        let place = &self.nodes[node];
        match kind {
            PlaceKind::Node => place.id.to_string(),
            PlaceKind::Machine => self.machine_names[place.machine].to_owned(),
            PlaceKind::Rack => self.rack_names[place.rack].1.to_owned(),
            PlaceKind::Zone => self.zone_names[place.zone].to_owned(),
        }
    }

    /// May `node` stand beside the others of a row?
    pub fn fits(&self, others: impl Iterator<Item = usize> + Clone, node: usize) -> bool {
        self.fits_machine(others.clone(), node) && self.fits_rack(others, node)
    }

    /// Is the node's machine without another copy?
    pub fn fits_machine(&self, mut others: impl Iterator<Item = usize>, node: usize) -> bool {
        let machine = self.nodes[node].machine;
        others.all(|other| self.nodes.get(other).is_none_or(|other| other.machine != machine))
    }

    /// Have the node's rack and zone room for one more copy?
    pub fn fits_rack(&self, others: impl Iterator<Item = usize>, node: usize) -> bool {
        let place = &self.nodes[node];
        let (mut zone, mut rack) = (1, 1);
        for other in others.filter_map(|other| self.nodes.get(other)) {
            zone += u32::from(other.zone == place.zone);
            rack += u32::from(other.rack == place.rack);
        }
        zone <= self.zone_cap && rack <= self.rack_cap
    }

    /// Those who may own something, rack by rack.
    pub fn racks(&self) -> impl Iterator<Item = Vec<usize>> {
        let numbered: Vec<usize> = (0..self.owners).collect();
        let same = |&a: &usize, &b: &usize| self.nodes[a].rack == self.nodes[b].rack;
        numbered.chunk_by(same).map(<[usize]>::to_vec).collect::<Vec<_>>().into_iter()
    }
}

/// How nodes are grouped at one depth of the tree, and how many copies of a partition a group may
/// hold.
#[derive(Clone, Copy)]
struct Level {
    key: fn(&Place) -> usize,
    cap: u32,
    kind: PlaceKind,
}

/// A place with everything in it.
struct Tree {
    kind: PlaceKind,
    /// The first node in it, which its name follows from.
    first: usize,
    weight: u64,
    /// Copies of one partition that it can hold.
    capacity: u64,
    /// Places inside; none in a node.
    inside: Vec<Tree>,
}

/// What water-filling gave to whom.
struct Given {
    shares: Vec<u64>,
    full: Vec<FullPlace>,
}

struct FullPlace {
    kind: PlaceKind,
    node: usize,
    wanted: u64,
    holds: u64,
}

impl Tree {
    fn grow(
        nodes: &[Place],
        mine: &[usize],
        cap: u32,
        (kind, levels): (PlaceKind, &[Level]),
    ) -> Self {
        let weight = mine.iter().map(|&node| nodes[node].weight).sum();
        let (first, cap) = (mine.first().copied().unwrap_or(0), u64::from(cap));
        let [level, deeper @ ..] = levels else {
            return Self { kind, first, weight, capacity: cap, inside: Vec::new() };
        };
        let groups: Vec<&[usize]> = if deeper.is_empty() {
            mine.chunks(1).collect()
        } else {
            mine.chunk_by(|&a, &b| (level.key)(&nodes[a]) == (level.key)(&nodes[b])).collect()
        };
        let grow = |group| Self::grow(nodes, group, level.cap, (level.kind, deeper));
        let inside: Vec<_> = groups.into_iter().map(grow).collect();
        let room = inside.iter().map(|place| place.capacity).sum::<u64>();
        Self { kind, first, weight, capacity: cap.min(room), inside }
    }

    /// Divides `share` by weight, no place above its capacity (`unit` is one whole copy of the
    /// ring); what a full place cannot take goes to the others.
    fn share(&self, share: u64, unit: u64, given: &mut Given) {
        if self.inside.is_empty() {
            given.shares[self.first] = share;
            return;
        }
        let mut full = vec![false; self.inside.len()];
        let (mut left, mut weight) = (share, self.weight);
        loop {
            let (before, base) = (left, weight);
            for (place, full) in self.inside.iter().zip(&mut full).filter(|(_, full)| !**full) {
                let (wanted, holds) =
                    (portion(u128::from(before), place.weight, base), place.capacity * unit);
                if wanted < holds {
                    continue;
                }
                if wanted > holds {
                    given.full.push(FullPlace {
                        kind: place.kind,
                        node: place.first,
                        wanted,
                        holds,
                    });
                }
                *full = true;
                left -= holds;
                weight -= place.weight;
            }
            if before == left {
                break;
            }
        }
        let (mut passed, mut handed) = (0, 0);
        for (place, full) in self.inside.iter().zip(full) {
            let mine = if full {
                place.capacity * unit
            } else {
                // By prefix, so that what rounding cuts off never adds up.
                passed += place.weight;
                let upto = portion(u128::from(left), passed, weight);
                let mine = (upto - handed).min(place.capacity * unit);
                handed += mine;
                mine
            };
            place.share(mine, unit, given);
        }
    }
}

/// `weight / of` of `whole`.
fn portion(whole: u128, weight: u64, of: u64) -> u64 {
    (whole * u128::from(weight) / u128::from(of.max(1))) as u64
}
