//! First layouts of random clusters: even, on distinct machines, spread over racks and zones.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn id(number: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// A node as (machine, rack, zone, weight), all in one data center.
fn members(places: &[(usize, usize, usize, u32)]) -> BTreeMap<NodeId, Member> {
    let label = |prefix: &str, number| format!("{prefix}{number}");
    let member = |&(machine, rack, zone, weight): &(usize, usize, usize, u32)| Member {
        machine: label("m", machine),
        rack: label("r", rack),
        zone: label("z", zone),
        datacenter: "dc1".into(),
        weight,
        state: crate::ring::MemberState::Active,
    };
    places.iter().enumerate().map(|(number, place)| (id(number), member(place))).collect()
}

fn replication(copies: u32) -> BTreeMap<String, u32> {
    BTreeMap::from([("dc1".into(), copies)])
}

/// How many slots each node has.
fn quotas(plan: &Plan) -> BTreeMap<NodeId, usize> {
    let mut quotas = BTreeMap::new();
    for slot in plan.table.iter().flat_map(|entry| entry.slots.values().flatten()) {
        *quotas.entry(slot.owner).or_default() += 1;
    }
    quotas
}

/// With how many others each node shares a partition, at most.
fn scatter(plan: &Plan) -> usize {
    let mut partners: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for entry in &plan.table {
        let owners: Vec<_> = entry.owners().map(|owner| owner.node).collect();
        for owner in &owners {
            partners.entry(*owner).or_default().extend(owners.iter().filter(|o| *o != owner));
        }
    }
    partners.values().map(BTreeSet::len).max().unwrap_or(0)
}

/// The most copies of one partition that share a place.
fn crowding<'a>(
    plan: &Plan,
    members: &'a BTreeMap<NodeId, Member>,
    place: impl Fn(&'a Member) -> (&'a str, &'a str),
) -> usize {
    let most = |entry: &PartitionEntry| {
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for owner in entry.owners() {
            *counts.entry(place(&members[&owner.node])).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    };
    plan.table.iter().map(most).max().unwrap_or(0)
}

#[test]
fn three_equal_nodes_own_everything() {
    let members = members(&[(0, 0, 0, 1), (1, 1, 1, 1), (2, 2, 2, 1)]);
    let plan = plan_first(&members, &replication(3), 6).unwrap();
    assert_eq!(plan.warnings, []);
    assert!(quotas(&plan).values().all(|&quota| quota == 64));
    let leaders: BTreeSet<_> = plan.table.iter().map(|entry| entry.slots["dc1"][0].owner).collect();
    assert_eq!(leaders.len(), 3, "the first place goes round");
}

#[test]
fn two_machines_cannot_hold_three_copies() {
    let members = members(&[(0, 0, 0, 1), (0, 0, 0, 1), (1, 1, 0, 1), (2, 1, 0, 0)]);
    let error = plan_first(&members, &replication(3), 6).unwrap_err();
    let expected = PlanError::TooFewMachines { datacenter: "dc1".into(), machines: 2, copies: 3 };
    assert_eq!(error, expected);
    assert_eq!(plan_first(&members, &replication(2), 17), Err(PlanError::TooManyBits(17)));
}

#[test]
fn too_few_zones_are_reported_and_shared_evenly() {
    let members = members(&[(0, 0, 0, 1), (1, 1, 0, 1), (2, 2, 1, 1), (3, 3, 1, 1)]);
    let plan = plan_first(&members, &replication(3), 6).unwrap();
    let shared = PlanWarning::SharedZone { datacenter: "dc1".into(), copies: 2 };
    assert_eq!(plan.warnings, [shared]);
    assert_eq!(crowding(&plan, &members, |member| (&member.zone, "")), 2);
}

#[test]
fn labels_that_nobody_set_are_not_missed() {
    let mut members = members(&[(0, 0, 0, 1), (1, 0, 0, 1), (2, 0, 0, 1)]);
    for member in members.values_mut() {
        (member.rack, member.zone) = (String::new(), String::new());
    }
    assert_eq!(plan_first(&members, &replication(3), 4).unwrap().warnings, []);
}

#[test]
fn every_data_center_has_its_own_copies() {
    let mut members =
        members(&[(0, 0, 0, 1), (1, 1, 1, 1), (2, 2, 2, 1), (3, 0, 0, 1), (4, 1, 1, 1)]);
    members.get_mut(&id(3)).unwrap().datacenter = "dc2".into();
    members.get_mut(&id(4)).unwrap().datacenter = "dc2".into();
    let replication = BTreeMap::from([("dc1".into(), 2), ("dc2".into(), 1)]);
    let plan = plan_first(&members, &replication, 5).unwrap();
    for entry in &plan.table {
        assert_eq!(entry.slots["dc1"].len(), 2);
        assert_eq!(entry.slots["dc2"].len(), 1);
        assert!(members[&entry.slots["dc2"][0].owner].datacenter == "dc2");
    }
}

#[test]
fn bits_follow_the_rule_of_sixty_four() {
    assert_eq!(suggest_bits(3, 3), 6);
    assert_eq!(suggest_bits(1, 1), 6);
    assert_eq!(suggest_bits(1000, 3), 14);
    assert_eq!(suggest_bits(1_000_000, 1), 16);
    for nodes in 3..500 {
        let each = (1u64 << suggest_bits(nodes, 3)) * 3 / nodes as u64;
        assert!((45..=90).contains(&each), "{nodes} nodes: {each}");
    }
}

#[test]
fn a_thousand_nodes_are_planned_quickly() {
    let places: Vec<_> = (0..1_000).map(|n| (n, n / 20, n / 334, 1)).collect();
    let members = members(&places);
    let started = std::time::Instant::now();
    let plan = plan_first(&members, &replication(3), 14).unwrap();
    println!("1,000 nodes, 16,384 partitions: {:?}", started.elapsed());
    assert!(started.elapsed().as_secs() < 10, "quadratic planning");
    assert_eq!(plan.warnings, []);
    assert!(quotas(&plan).values().all(|quota| (49..=50).contains(quota)));
    assert!(scatter(&plan) <= partners::aim(3), "{}", scatter(&plan));
    assert_eq!(crowding(&plan, &members, |member| (&member.zone, "")), 1);
}

prop_compose! {
    /// Clusters of up to 24 nodes on up to as many machines; every machine has one rack, every
    /// rack one zone.
    fn clusters()(
        racks in 1usize..8,
        zones in 1usize..5,
        nodes in prop::collection::vec((0usize..16, 1u32..6), 1..24),
    ) -> Vec<(usize, usize, usize, u32)> {
        nodes
            .into_iter()
            .map(|(machine, weight)| (machine, machine % racks, machine % racks % zones, weight))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_keep_every_rule(places in clusters(), copies in 1u32..5, k in 3u8..8) {
        let members = members(&places);
        let machines: BTreeSet<_> = places.iter().map(|place| place.0).collect();
        let plan = match plan_first(&members, &replication(copies), k) {
            Ok(plan) => plan,
            Err(error) => {
                let few = machines.len() < copies as usize;
                prop_assert!(few, "{}", error);
                return Ok(());
            }
        };
        prop_assert_eq!(&plan, &plan_first(&members, &replication(copies), k).unwrap());
        prop_assert!(plan.table.iter().all(|entry| entry.owners().count() == copies as usize));
        prop_assert_eq!(crowding(&plan, &members, |member| (&member.machine, "")), 1);
        let zones = crowding(&plan, &members, |member| (&member.zone, ""));
        let racks = crowding(&plan, &members, |member| (&member.zone, &member.rack));
        let (mut zone_cap, mut rack_cap) = (1, 1);
        for warning in &plan.warnings {
            match warning {
                PlanWarning::SharedZone { copies, .. } => zone_cap = *copies as usize,
                PlanWarning::SharedRack { copies, .. } => rack_cap = *copies as usize,
                other => prop_assert!(false, "no warning of a first layout: {other}"),
            }
        }
        prop_assert!(zones <= zone_cap && racks <= rack_cap, "more crowded than reported");
        even(&places, &plan, copies, k)?;
    }

    /// One node per machine, rack and zone: shares are plain water-filling, computed here by
    /// bisection on the level instead.
    #[test]
    fn shares_match_an_oracle(weights in prop::collection::vec(1u32..50, 3..20), copies in 1u32..4) {
        let places: Vec<_> = weights.iter().enumerate().map(|(n, &w)| (n, n, n, w)).collect();
        let k = 7;
        let partitions = f64::from(partition::count(k));
        let plan = plan_first(&members(&places), &replication(copies), k).unwrap();
        let (mut low, mut high) = (0.0, partitions);
        let filled = |level: f64| {
            weights.iter().map(|&w| (f64::from(w) * level).min(partitions)).sum::<f64>()
        };
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if filled(middle) < partitions * f64::from(copies) { low = middle } else { high = middle }
        }
        let quotas = quotas(&plan);
        for (number, &weight) in weights.iter().enumerate() {
            let share = (f64::from(weight) * high).min(partitions);
            let quota = *quotas.get(&id(number)).unwrap_or(&0) as f64;
            let fair = (share - 1e-6).floor() <= quota && quota <= (share + 1e-6).ceil();
            prop_assert!(fair, "share {share}, quota {quota}");
        }
    }
}

/// No node is further than a slot from what its weight asks for next to another node on a machine
/// of the same rack and zone that is not full either.
fn even(
    places: &[(usize, usize, usize, u32)],
    plan: &Plan,
    copies: u32,
    k: u8,
) -> Result<(), TestCaseError> {
    let quotas = quotas(plan);
    let partitions = partition::count(k) as usize;
    prop_assert_eq!(quotas.values().sum::<usize>(), partitions * copies as usize);
    for (a, one) in places.iter().enumerate() {
        for (b, other) in places.iter().enumerate().skip(a + 1) {
            if one.0 == other.0 && one.3 == other.3 {
                let (x, y) = (quotas.get(&id(a)), quotas.get(&id(b)));
                let (x, y) = (*x.unwrap_or(&0), *y.unwrap_or(&0));
                prop_assert!(x.abs_diff(y) <= 1, "one machine, one weight: {x} and {y}");
            }
        }
    }
    Ok(())
}
