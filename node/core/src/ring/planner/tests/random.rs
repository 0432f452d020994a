//! Random clusters through random changes.

use super::optimum::{Rules, least};
use super::*;
use proptest::prelude::*;

/// A change of the cluster; numbers pick nodes that are or are not there.
#[derive(Clone, Debug)]
enum Change {
    Join(Vec<(usize, u32)>),
    Leave(Vec<usize>),
    Drain(usize),
    Replace(usize, usize),
    Weigh(usize, u32),
    Relocate(usize, usize),
    Rebalance,
}

/// What a case is drawn from.
#[derive(Clone, Debug)]
struct Case {
    /// Machine and weight of each first node.
    first: Vec<(usize, u32)>,
    /// Racks per data center, zones per data center, data centers.
    places: (usize, usize, usize),
    copies: u32,
    bits: u8,
    changes: Vec<Change>,
    limits: (u32, u32, u32),
}

const MACHINES: usize = 12;

impl Case {
    /// The data center of a machine goes by its number, so do its rack and zone.
    fn member(&self, machine: usize, weight: u32) -> Member {
        let (racks, zones, centers) = self.places;
        let rack = machine / centers % racks;
        let datacenter = format!("dc{}", machine % centers + 1);
        Member { datacenter, ..member(machine, rack, rack % zones, weight) }
    }

    fn goal(&self, cluster: &mut Cluster, change: &Change, next: &mut usize) -> Goal {
        let present: Vec<NodeId> = cluster.members.keys().copied().collect();
        let pick = |number: &usize| present[number % present.len()];
        match change {
            Change::Join(nodes) => {
                let nodes = nodes.iter().map(|&(machine, weight)| {
                    *next += 1;
                    (id(*next - 1), self.member(machine, weight))
                });
                Goal::Join(nodes.collect())
            }
            Change::Leave(nodes) => Goal::Leave(nodes.iter().map(pick).collect()),
            Change::Drain(node) => Goal::Drain([pick(node)].into()),
            Change::Weigh(node, weight) => Goal::Weigh([(pick(node), *weight)].into()),
            Change::Replace(node, shift) => {
                let dead = pick(node);
                let there = &cluster.members[&dead];
                let machine = there.machine[1..].parse::<usize>().unwrap();
                let machine = (machine + shift * self.places.2) % (MACHINES * self.places.2);
                *next += 1;
                let member = self.member(machine, there.weight.max(1));
                Goal::Replace { dead, by: id(*next - 1), member }
            }
            Change::Relocate(node, other) => {
                let (node, other) = (pick(node), pick(other));
                let place = cluster.members[&other].clone();
                let moved = cluster.members.get_mut(&node).unwrap();
                if moved.datacenter == place.datacenter {
                    *moved = Member { weight: moved.weight, ..place };
                }
                Goal::Rebalance
            }
            Change::Rebalance => Goal::Rebalance,
        }
    }
}

prop_compose! {
    fn cases()(
        racks in 1usize..6,
        zones in 1usize..4,
        centers in 1usize..3,
        copies in 1u32..5,
        bits in 2u8..5,
        first in prop::collection::vec((0usize..MACHINES, 1u32..4), 1..12),
        changes in prop::collection::vec(prop_oneof![
            3 => prop::collection::vec((0usize..MACHINES, 1u32..4), 1..4).prop_map(Change::Join),
            3 => prop::collection::vec(0usize..99, 1..3).prop_map(Change::Leave),
            1 => (0usize..99).prop_map(Change::Drain),
            2 => (0usize..99, 0usize..4).prop_map(|(n, shift)| Change::Replace(n, shift)),
            1 => (0usize..99, 0u32..6).prop_map(|(n, weight)| Change::Weigh(n, weight)),
            1 => (0usize..99, 0usize..99).prop_map(|(n, other)| Change::Relocate(n, other)),
            1 => Just(Change::Rebalance),
        ], 1..7),
        limits in (1u32..4, 1u32..4, 1u32..20),
    ) -> Case {
        Case { first, places: (racks, zones, centers), copies, bits, changes, limits }
    }
}

fn machines<'a>(members: &'a BTreeMap<NodeId, Member>, datacenter: &str) -> BTreeSet<&'a str> {
    let weighing = members.values().filter(|m| m.datacenter == datacenter && m.weight > 0);
    weighing.map(|member| &*member.machine).collect()
}

/// How many owners of a row stand in one place, at most, in places that hold more than they did.
fn crowded<'a>(
    members: &'a BTreeMap<NodeId, Member>,
    row: &[NodeId],
    before: &[NodeId],
    place: impl Fn(&'a Member) -> (&'a str, &'a str),
) -> usize {
    let count = |row: &[NodeId]| {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for owner in row {
            *counts.entry(place(&members[owner])).or_default() += 1;
        }
        counts
    };
    let before = count(before);
    let rises =
        count(row).into_iter().filter(|(at, count)| before.get(at).is_none_or(|b| count > b));
    rises.map(|(_, count)| count).max().unwrap_or(0)
}

/// The caps that a plan promises for a data center.
fn caps(plan: &Plan, datacenter: &str) -> (usize, usize) {
    let (mut zone, mut rack) = (1, 1);
    for warning in &plan.warnings {
        match warning {
            PlanWarning::SharedZone { datacenter: dc, copies } if dc == datacenter => {
                zone = *copies as usize;
            }
            PlanWarning::SharedRack { datacenter: dc, copies } if dc == datacenter => {
                rack = *copies as usize;
            }
            _ => {}
        }
    }
    (zone, rack)
}

/// Every rule of a row on its way from `before`; `now` names who counts for each slot.
fn keeps_rules(
    members: &BTreeMap<NodeId, Member>,
    now: &[NodeId],
    before: &[NodeId],
    (zone_cap, rack_cap): (usize, usize),
) -> Result<(), TestCaseError> {
    let machine = crowded(members, now, before, |member| (&member.machine, ""));
    prop_assert!(machine <= 1, "{} copies on a machine: {:?} -> {:?}", machine, before, now);
    let rack = crowded(members, now, before, |member| (&member.zone, &member.rack));
    prop_assert!(rack <= rack_cap, "{} copies in a rack: {:?} -> {:?}", rack, before, now);
    let zone = crowded(members, now, before, |member| (&member.zone, ""));
    prop_assert!(zone <= zone_cap, "{} copies in a zone: {:?} -> {:?}", zone, before, now);
    Ok(())
}

/// The finished plan by itself: rules, shares, warnings that are true, and least movement.
fn judge_plan(cluster: &Cluster, goal: &Goal, plan: &Plan) -> Result<(), TestCaseError> {
    let held = held(&plan.target);
    let mut forced = 0;
    for (datacenter, &copies) in &cluster.replication {
        let caps = caps(plan, datacenter);
        for row in &plan.target {
            prop_assert_eq!(row[datacenter].len(), copies as usize);
            keeps_rules(&plan.members, &row[datacenter], &[], caps)?;
        }
        let here = plan.members.iter().filter(|(_, m)| m.datacenter == *datacenter);
        let owning: BTreeMap<_, _> = here.filter(|(_, member)| member.weight > 0).collect();
        let zones = owning.values().map(|member| &member.zone).collect::<BTreeSet<_>>().len();
        prop_assert!(
            caps.0 == 1 || zones < copies as usize,
            "zones shared, though there are enough"
        );
        let slots = cluster.table.len() as u64 * u64::from(copies);
        let weight: u64 = owning.values().map(|member| u64::from(member.weight)).sum();
        let full = plan
            .warnings
            .iter()
            .any(|w| matches!(w, PlanWarning::Full { datacenter: dc, .. } if dc == datacenter));
        let mut bounds = BTreeMap::new();
        let aim = goal.aim(cluster).unwrap();
        let partitions = cluster.table.len();
        let places = Places::new(&aim.members, &aim.leaving, datacenter, copies, partitions);
        let Ok(places) = places else { panic!("planned, so there are places") };
        for (place, share) in places.nodes.iter().zip(places.shares().0) {
            let (low, high) = flow::bounds(share);
            bounds.insert(place.id, (low as u64, high as u64));
        }
        for (id, member) in &owning {
            let has = held.get(id).copied().unwrap_or(0);
            let share = slots * u64::from(member.weight);
            let even = share / weight <= has && has <= share.div_ceil(weight);
            prop_assert!(even || full, "{} of {}/{}", has, share, weight);
            let (low, high) = bounds[id];
            prop_assert!(low <= has && has <= high, "{} outside {} to {}", has, low, high);
        }
        let (zone_cap, rack_cap) = (places.zone_cap, places.rack_cap);
        let rules = Rules { copies, zone_cap, rack_cap, bounds };
        let heirs =
            |row: &BTreeMap<String, Vec<Seat>>| row[datacenter].iter().map(Seat::heir).collect();
        let present: Vec<Vec<NodeId>> = cluster.table.iter().map(heirs).collect();
        let moved = plan.moves.iter().filter(|planned| planned.datacenter == *datacenter).count();
        let optimum = least(&plan.members, &present, &rules);
        forced += optimum.unwrap_or(0) as u64;
        let within = optimum.is_some_and(|optimum| moved as i64 * 100 <= optimum * 105);
        prop_assert!(within, "moved {}, optimum {:?}", moved, optimum);
    }
    prop_assert!(plan.least <= forced, "{} is no lower bound of {}", plan.least, forced);
    Ok(())
}

/// Carries the plan out in batches and judges every table on the way.
fn carry_out(
    cluster: &Cluster,
    plan: &Plan,
    (incoming, outgoing, total): (u32, u32, u32),
) -> Result<Cluster, TestCaseError> {
    let limits = Limits { incoming, outgoing, total };
    let before = owners(cluster);
    let mut now = cluster.clone();
    now.members.extend(plan.members.clone());
    let mut done = 0;
    for round in 0.. {
        let batch = next_batch(&now, &plan.moves, &limits);
        for started in &batch {
            let row = now.table[started.partition as usize].get_mut(&started.datacenter).unwrap();
            prop_assert_eq!(row[started.slot].owner, started.from);
            row[started.slot].moving_to = Some(started.to);
        }
        let mut load: BTreeMap<(bool, NodeId), u32> = BTreeMap::new();
        for (row, before) in now.table.iter().zip(&before) {
            let moving =
                row.values().flatten().filter_map(|seat| Some((seat.owner, seat.moving_to?)));
            let moving: Vec<_> = moving.collect();
            prop_assert!(moving.len() <= 1, "two slots of a partition move");
            for (from, to) in moving {
                *load.entry((true, to)).or_default() += 1;
                *load.entry((false, from)).or_default() += 1;
            }
            for (datacenter, seats) in row {
                let given: Vec<_> = seats.iter().map(|seat| seat.owner).collect();
                let gotten: Vec<_> = seats.iter().map(Seat::heir).collect();
                let caps = caps(plan, datacenter);
                keeps_rules(&now.members, &given, &before[datacenter], caps)?;
                keeps_rules(&now.members, &gotten, &before[datacenter], caps)?;
            }
        }
        for ((into, _), count) in load {
            let most = if into { incoming } else { outgoing };
            prop_assert!(count <= most);
        }
        // Every second of what runs is over, at least one; which ones goes by the round.
        let mut ended = 0;
        for (index, row) in now.table.iter_mut().enumerate() {
            for seat in row.values_mut().flatten().filter(|seat| seat.moving_to.is_some()) {
                if (index + round) % 2 == 0 || ended == 0 {
                    *seat = Seat { owner: seat.heir(), moving_to: None };
                    ended += 1;
                }
            }
        }
        done += ended;
        if ended == 0 {
            break;
        }
    }
    prop_assert_eq!(done, plan.moves.len(), "the moves came to a standstill");
    prop_assert_eq!(&owners(&now), &plan.target);
    Ok(carried_out(cluster, plan))
}

fn run(case: &Case) -> Result<(), TestCaseError> {
    let members: BTreeMap<_, _> = case
        .first
        .iter()
        .enumerate()
        .map(|(number, &(machine, weight))| (id(number), case.member(machine, weight)))
        .collect();
    let centers: BTreeSet<_> = members.values().map(|m| m.datacenter.clone()).collect();
    let enough = |dc: &&String| machines(&members, dc).len() >= case.copies as usize;
    let replication: Vec<_> =
        centers.iter().filter(enough).map(|dc| (&**dc, case.copies)).collect();
    if replication.is_empty() {
        return Ok(());
    }
    let mut cluster = formed(members.clone(), &replication, case.bits);
    let mut next = case.first.len();
    for change in &case.changes {
        let goal = case.goal(&mut cluster, change, &mut next);
        match plan(&cluster, &goal) {
            Ok(plan) => {
                judge_plan(&cluster, &goal, &plan)?;
                cluster = carry_out(&cluster, &plan, case.limits)?;
            }
            Err(PlanRefused::TooFewMachines { datacenter, machines: left, before, copies }) => {
                prop_assert!(left < copies as usize);
                prop_assert_eq!(machines(&cluster.members, &datacenter).len(), before);
                prop_assert!(!matches!(goal, Goal::Join(_)) || before < copies as usize);
            }
            Err(PlanRefused::NoReplication { datacenter, .. }) => {
                prop_assert!(!cluster.replication.contains_key(&datacenter));
            }
            Err(refused) => prop_assert!(false, "{}", refused),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_table_on_the_way_keeps_every_rule(case in cases()) {
        run(&case)?;
    }
}
