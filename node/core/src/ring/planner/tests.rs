//! Plans of random clusters through random changes: every rule in every table on the way, shares to
//! the slot, and movement beside an optimum that is computed in another way.

mod examples;
mod large;
mod optimum;
mod random;

use super::*;
use crate::ring::MemberState;
use crate::ring::layout::plan_first;

/// Node number `number` of these tests.
fn id(number: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn member(machine: usize, rack: usize, zone: usize, weight: u32) -> Member {
    Member {
        machine: format!("m{machine}"),
        rack: format!("r{rack}"),
        zone: format!("z{zone}"),
        datacenter: "dc1".into(),
        weight,
        state: MemberState::Active,
    }
}

/// A node on a machine of its own, in one of three racks, each a zone.
fn plain(number: usize) -> Member {
    member(number, number % 3, number % 3, 1)
}

/// A cluster as it stands after `init`.
fn formed(members: BTreeMap<NodeId, Member>, replication: &[(&str, u32)], k: u8) -> Cluster {
    let replication = replication.iter().map(|(dc, n)| ((*dc).to_owned(), *n)).collect();
    let first = plan_first(&members, &replication, k).expect("enough machines");
    let seats = |entry: &crate::ring::PartitionEntry| {
        let seat = |slot: &crate::ring::Slot| Seat { owner: slot.owner, moving_to: None };
        let of = |(dc, slots): (&String, &Vec<_>)| (dc.clone(), slots.iter().map(seat).collect());
        entry.slots.iter().map(of).collect()
    };
    Cluster { members, replication, table: first.table.iter().map(seats).collect() }
}

/// `nodes` plain nodes with three copies.
fn even(nodes: usize, k: u8) -> Cluster {
    formed((0..nodes).map(|number| (id(number), plain(number))).collect(), &[("dc1", 3)], k)
}

/// The cluster once the plan was carried out.
fn carried_out(cluster: &Cluster, plan: &Plan) -> Cluster {
    let seat = |&owner: &NodeId| Seat { owner, moving_to: None };
    let seats = |row: &BTreeMap<String, Vec<NodeId>>| {
        row.iter().map(|(dc, owners)| (dc.clone(), owners.iter().map(seat).collect())).collect()
    };
    Cluster {
        members: plan.members.clone(),
        replication: cluster.replication.clone(),
        table: plan.target.iter().map(seats).collect(),
    }
}

/// How many partition replicas each node holds in a table.
fn held(target: &[BTreeMap<String, Vec<NodeId>>]) -> BTreeMap<NodeId, u64> {
    let mut held = BTreeMap::new();
    for &owner in target.iter().flat_map(|row| row.values().flatten()) {
        *held.entry(owner).or_default() += 1;
    }
    held
}

fn owners(cluster: &Cluster) -> Vec<BTreeMap<String, Vec<NodeId>>> {
    let row = |row: &BTreeMap<String, Vec<Seat>>| {
        let of = |(dc, seats): (&String, &Vec<Seat>)| {
            (dc.clone(), seats.iter().map(Seat::heir).collect())
        };
        row.iter().map(of).collect()
    };
    cluster.table.iter().map(row).collect()
}
