//! Small clusters, worked out by hand, and what is refused.

use super::*;

fn join(numbers: impl IntoIterator<Item = usize>) -> Goal {
    Goal::Join(numbers.into_iter().map(|number| (id(number), plain(number))).collect())
}

fn leave(numbers: impl IntoIterator<Item = usize>) -> Goal {
    Goal::Leave(numbers.into_iter().map(id).collect())
}

#[test]
fn a_balanced_cluster_has_nothing_to_move() {
    for nodes in 3..12 {
        let cluster = even(nodes, 6);
        let plan = plan(&cluster, &Goal::Rebalance).unwrap();
        assert_eq!(plan.moves, [], "{nodes} nodes");
        assert_eq!(plan.members, cluster.members);
        assert_eq!(plan.target, owners(&cluster));
    }
}

#[test]
fn the_same_inputs_give_the_same_plan() {
    let cluster = even(7, 6);
    assert_eq!(plan(&cluster, &join([7, 8])), plan(&cluster, &join([7, 8])));
}

#[test]
fn a_joining_node_gets_its_share_and_nobody_else_anything() {
    let cluster = even(3, 6);
    let plan = plan(&cluster, &Goal::Join([(id(3), member(3, 3, 3, 1))].into())).unwrap();
    assert_eq!(plan.moves.len(), 48);
    assert!(plan.moves.iter().all(|planned| planned.to == id(3)));
    assert!(held(&plan.target).values().all(|&held| held == 48));
}

#[test]
fn the_fourth_node_of_three_racks_is_bound_by_its_rack() {
    // Rack 0 has two nodes, each rack one copy of everything: the two share what one had.
    let cluster = even(3, 6);
    let plan = plan(&cluster, &join([3])).unwrap();
    assert_eq!(plan.moves.len(), 32);
    assert!(plan.moves.iter().all(|planned| planned.from == id(0) && planned.to == id(3)));
    let full = PlanWarning::Full {
        datacenter: "dc1".into(),
        kind: PlaceKind::Zone,
        name: "z0".into(),
        wanted: 96,
        holds: 64,
    };
    assert_eq!(plan.warnings, [full]);
}

#[test]
fn a_leaving_node_gives_what_it_has_and_nobody_else_anything() {
    let cluster = even(6, 6);
    let had = held(&owners(&cluster))[&id(5)];
    let plan = plan(&cluster, &leave([5])).unwrap();
    assert_eq!(plan.moves.len() as u64, had);
    assert!(plan.moves.iter().all(|planned| planned.from == id(5)));
    assert!(!plan.members.contains_key(&id(5)));
}

#[test]
fn a_drained_node_stays_without_weight() {
    let cluster = even(6, 6);
    let drained = plan(&cluster, &Goal::Drain([id(5)].into())).unwrap();
    assert_eq!(drained.target, plan(&cluster, &leave([5])).unwrap().target);
    assert_eq!(drained.members[&id(5)].weight, 0);
    let after = carried_out(&cluster, &drained);
    assert_eq!(plan(&after, &Goal::Rebalance).unwrap().moves, []);
}

#[test]
fn who_replaces_another_takes_exactly_its_slots() {
    let cluster = even(9, 6);
    let goal = Goal::Replace { dead: id(4), by: id(9), member: member(9, 1, 1, 1) };
    let plan = plan(&cluster, &goal).unwrap();
    assert!(plan.moves.iter().all(|planned| (planned.from, planned.to) == (id(4), id(9))));
    assert_eq!(plan.moves.len() as u64, held(&owners(&cluster))[&id(4)]);
    assert!(!plan.members.contains_key(&id(4)) && plan.members.contains_key(&id(9)));
}

#[test]
fn double_weight_gets_double_share() {
    let cluster = formed((0..8).map(|n| (id(n), member(n, n, n, 100))).collect(), &[("dc1", 2)], 6);
    let plan = plan(&cluster, &Goal::Weigh([(id(0), 200)].into())).unwrap();
    let held = held(&plan.target);
    assert!((28..=29).contains(&held[&id(0)]), "128 x 2/9 = 28.4, not {}", held[&id(0)]);
    assert_eq!(plan.members[&id(0)].weight, 200);
}

#[test]
fn two_copies_that_came_to_share_a_machine_are_parted() {
    let mut cluster = even(6, 5);
    cluster.members.get_mut(&id(1)).unwrap().machine = "m0".into();
    let shared = cluster.table.iter().filter(|row| {
        let owns = |node| row["dc1"].iter().any(|seat| seat.owner == node);
        owns(id(0)) && owns(id(1))
    });
    assert!(shared.count() > 0);
    let plan = plan(&cluster, &Goal::Rebalance).unwrap();
    for row in &plan.target {
        let machines: BTreeSet<_> = row["dc1"].iter().map(|o| &plan.members[o].machine).collect();
        assert_eq!(machines.len(), 3);
    }
}

#[test]
fn a_slot_that_moves_is_planned_as_arrived() {
    let mut cluster = even(4, 4);
    let row = cluster.table[0].get_mut("dc1").unwrap();
    let absent = (0..4).map(id).find(|n| row.iter().all(|seat| seat.owner != *n)).unwrap();
    row[1].moving_to = Some(absent);
    let plan = plan(&cluster, &Goal::Rebalance).unwrap();
    assert!(plan.moves.len() <= 1 && plan.moves.iter().all(|planned| planned.from == absent));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let cluster = even(3, 4);
    let few = |machines, before, copies| {
        let datacenter = "dc1".to_owned();
        Err(PlanRefused::TooFewMachines { datacenter, machines, before, copies })
    };
    assert_eq!(plan(&cluster, &leave([2])), few(2, 3, 3));
    assert_eq!(plan(&cluster, &Goal::Weigh([(id(0), 0)].into())), few(2, 3, 3));
    let refused = plan(&cluster, &leave([2])).unwrap_err();
    assert_eq!(refused.code(), "too_few_machines");
    assert!(refused.to_string().contains("2 machines") && refused.to_string().contains("3 today"));

    let stranger = Err(PlanRefused::NotAMember(id(8)));
    assert_eq!(plan(&cluster, &leave([1, 8])), stranger);
    assert_eq!(plan(&cluster, &Goal::Drain([id(8)].into())), stranger);
    assert_eq!(plan(&cluster, &Goal::Weigh([(id(8), 1)].into())), stranger);
    let replace = |dead, by, member| Goal::Replace { dead: id(dead), by: id(by), member };
    assert_eq!(plan(&cluster, &replace(8, 9, plain(9))), stranger);
    let same = Err(PlanRefused::NoSubstitute { dead: id(0), by: id(0) });
    assert_eq!(plan(&cluster, &replace(0, 0, plain(0))), same);

    let elsewhere = Member { datacenter: "dc9".into(), ..plain(3) };
    let lost = PlanRefused::NoReplication { node: id(3), datacenter: "dc9".into() };
    assert_eq!(plan(&cluster, &Goal::Join([(id(3), elsewhere.clone())].into())), Err(lost));
    let other = Err(PlanRefused::NoSubstitute { dead: id(0), by: id(3) });
    assert_eq!(plan(&cluster, &replace(0, 3, elsewhere)), other);
    let moved = Member { machine: "m9".into(), ..plain(1) };
    let exists = Err(PlanRefused::MemberExists(id(1)));
    assert_eq!(plan(&cluster, &Goal::Join([(id(1), moved)].into())), exists);

    let mut broken = cluster.clone();
    broken.table[3].get_mut("dc1").unwrap().pop();
    assert_eq!(plan(&broken, &Goal::Rebalance), Err(PlanRefused::BrokenTable { partition: 3 }));
}

#[test]
fn a_batch_keeps_its_limits_and_one_slot_of_a_partition() {
    let mut cluster = even(6, 6);
    let planned = plan(&cluster, &join([6, 7])).unwrap();
    cluster.members = planned.members.clone();
    let limits = Limits { incoming: 3, outgoing: 2, total: 5 };
    let first = next_batch(&cluster, &planned.moves, &limits);
    assert_eq!(first.len(), 5);
    for node in (0..8).map(id) {
        assert!(first.iter().filter(|planned| planned.to == node).count() <= 3);
        assert!(first.iter().filter(|planned| planned.from == node).count() <= 2);
    }
    let mut running = cluster;
    for started in &first {
        let seats = running.table[started.partition as usize].get_mut("dc1").unwrap();
        seats[started.slot].moving_to = Some(started.to);
    }
    assert_eq!(next_batch(&running, &planned.moves, &limits), [], "all hands are full");
    let more = Limits { total: 6, incoming: 9, outgoing: 9 };
    let second = next_batch(&running, &planned.moves, &more);
    assert_eq!(second.len(), 1);
    assert!(first.iter().all(|started| started.partition != second[0].partition));
}

#[test]
fn two_machines_of_three_cost_a_quorum_and_while_a_node_is_replaced_one_does() {
    let cluster = even(6, 5);
    let planned = plan(&cluster, &join([6, 7, 8])).unwrap();
    let of = |plan: &Plan, down: &[usize], kind| {
        let down = down.iter().copied().map(id).collect();
        let risk = risk(&cluster, plan, &down, kind);
        [risk.before, risk.during, risk.after].map(|weakest| weakest.map_or(99, |w| w.failures))
    };
    assert_eq!(of(&planned, &[], PlaceKind::Machine), [2, 2, 2]);
    assert_eq!(of(&planned, &[], PlaceKind::Zone), [2, 2, 2]);
    let idle = plan(&cluster, &Goal::Rebalance).unwrap();
    assert_eq!(of(&idle, &[], PlaceKind::Machine), [2, 99, 2], "nothing moves");
    let goal = Goal::Replace { dead: id(0), by: id(6), member: plain(6) };
    let replaced = plan(&cluster, &goal).unwrap();
    assert_eq!(of(&replaced, &[0], PlaceKind::Machine), [1, 1, 2]);
    assert_eq!(of(&replaced, &[0, 1], PlaceKind::Machine), [0, 0, 1]);
}

#[test]
fn the_example_of_a_risk_is_one() {
    let mut cluster = even(6, 4);
    let row = &mut cluster.table[3].get_mut("dc1").unwrap();
    let (a, b) = (row[0].owner, row[2].owner);
    cluster.members.get_mut(&a).unwrap().machine = "both".into();
    cluster.members.get_mut(&b).unwrap().machine = "both".into();
    let idle = Plan {
        members: cluster.members.clone(),
        target: owners(&cluster),
        moves: Vec::new(),
        least: 0,
        warnings: Vec::new(),
    };
    let weakest = risk(&cluster, &idle, &BTreeSet::new(), PlaceKind::Machine).before.unwrap();
    assert_eq!((weakest.failures, &weakest.names[..]), (1, &["both".to_owned()][..]));
    let row = &cluster.table[weakest.partition as usize]["dc1"];
    assert!([a, b].iter().all(|node| row.iter().any(|seat| seat.owner == *node)));
}

#[test]
fn in_a_move_both_nodes_are_needed() {
    let mut cluster =
        formed((0..5).map(|n| (id(n), member(n, n, n, 1))).collect(), &[("dc1", 3)], 2);
    // Node 4 gets slot 0 and shares a machine with slot 1 by a relocate meanwhile.
    let spare = (0..5).map(id).find(|n| cluster.table[0]["dc1"].iter().all(|s| s.owner != *n));
    let spare = spare.unwrap();
    let row = cluster.table[0].get_mut("dc1").unwrap();
    row[0].moving_to = Some(spare);
    let beside = row[1].owner;
    let machine = cluster.members[&beside].machine.clone();
    cluster.members.get_mut(&spare).unwrap().machine.clone_from(&machine);
    let idle = plan(&cluster, &Goal::Rebalance).unwrap();
    let weakest = risk(&cluster, &idle, &BTreeSet::new(), PlaceKind::Machine).before.unwrap();
    assert_eq!((weakest.failures, weakest.partition, weakest.names), (1, 0, vec![machine]));
}
