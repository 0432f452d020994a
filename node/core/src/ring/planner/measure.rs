//! Figures of one data center's table: how even it is, how many partners nodes have, and how likely
//! two or three machines that die together cost a quorum.
//!
//! The chances are exact, by counting: the sets of up to three machines that hold too many copies of
//! a partition are collected, and pairs and triples that contain one are counted without being
//! listed. Of all triples, those that contain at least one of the pairs E of a graph are
//! E(n - 2) - paths of two edges + triangles.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::id::NodeId;
use crate::ring::partners::Partners;

/// Figures of a table, slots that move counted where they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Nodes of weight above 0.
    pub nodes: usize,
    /// Machines that they stand on.
    pub machines: usize,
    /// Replicas of the node that has most.
    pub most: u64,
    /// Replicas per node in the mean.
    pub mean: f64,
    /// Partners of the node that has most.
    pub partners_most: usize,
    /// Partners per node in the mean.
    pub partners_mean: f64,
    /// How many pairs of machines, and how many of them cost a quorum of some partition.
    pub pairs: Count,
    /// The same for three.
    pub triples: Count,
}

/// Some of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many sets cost a quorum.
    pub fatal: u64,
    /// How many sets there are.
    pub all: u64,
}

impl Count {
    /// The part that is fatal: the chance where all sets are equally likely. 0 of none.
    pub fn chance(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.fatal as f64 / self.all as f64 }
    }
}

/// Measures the copies of one data center; none where it has no copies or no node with weight.
pub fn measure(cluster: &Cluster, datacenter: &str) -> Option<Measures> {
    cluster.replication.get(datacenter)?;
    let mut numbers: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut machines: BTreeMap<&str, usize> = BTreeMap::new();
    let here = cluster.members.iter().filter(|(_, m)| m.datacenter == datacenter && m.weight > 0);
    let mut machine_of = Vec::new();
    for (id, member) in here {
        numbers.insert(*id, numbers.len());
        let next = machines.len();
        machine_of.push(*machines.entry(&member.machine).or_insert(next));
    }
    let row = |row: &BTreeMap<String, Vec<super::Seat>>| -> Vec<usize> {
        let seats = row.get(datacenter).into_iter().flatten();
        seats.filter_map(|seat| numbers.get(&seat.owner).copied()).collect()
    };
    let rows: Vec<Vec<usize>> = cluster.table.iter().map(row).collect();
    let nodes = (!numbers.is_empty()).then_some(numbers.len())?;
    let mut held = vec![0u64; nodes];
    rows.iter().flatten().for_each(|&node| held[node] += 1);
    let partners = Partners::of(nodes, rows.iter().map(|row| &row[..]));
    let counts: Vec<usize> = (0..nodes).map(|node| partners.count(node)).collect();
    let on_machines = rows.iter().map(|row| row.iter().map(|&node| machine_of[node]).collect());
    let (pairs, triples) = fatal_sets(machines.len(), on_machines);
    Some(Measures {
        nodes,
        machines: machines.len(),
        most: held.iter().copied().max().unwrap_or(0),
        mean: held.iter().sum::<u64>() as f64 / nodes as f64,
        partners_most: counts.iter().copied().max().unwrap_or(0),
        partners_mean: counts.iter().sum::<usize>() as f64 / nodes as f64,
        pairs,
        triples,
    })
}

/// Least sets of one, two and three machines that cost a quorum of a row.
#[derive(Default)]
struct Fatal {
    singles: BTreeSet<usize>,
    pairs: BTreeSet<(usize, usize)>,
    triples: BTreeSet<(usize, usize, usize)>,
}

impl Fatal {
    /// Adds the sets of one row, given the machine of each copy.
    fn add(&mut self, row: &[usize]) {
        let enough = row.len().div_ceil(2);
        let mut copies: BTreeMap<usize, usize> = BTreeMap::new();
        row.iter().for_each(|&machine| *copies.entry(machine).or_default() += 1);
        let copies: Vec<(usize, usize)> = copies.into_iter().collect();
        for (i, &(a, of_a)) in copies.iter().enumerate() {
            if of_a >= enough {
                self.singles.insert(a);
            }
            for (j, &(b, of_b)) in copies.iter().enumerate().skip(i + 1) {
                if of_a.max(of_b) < enough && of_a + of_b >= enough {
                    self.pairs.insert((a, b));
                }
                for &(c, of_c) in &copies[j + 1..] {
                    let two = (of_a + of_b).max(of_a + of_c).max(of_b + of_c);
                    if two < enough && of_a + of_b + of_c >= enough {
                        self.triples.insert((a, b, c));
                    }
                }
            }
        }
    }
}

/// How many pairs and triples of `machines` machines cost a quorum of one of the rows.
fn fatal_sets(machines: usize, rows: impl Iterator<Item = Vec<usize>>) -> (Count, Count) {
    let mut fatal = Fatal::default();
    rows.for_each(|row| fatal.add(&row));
    let single = |machine: &usize| fatal.singles.contains(machine);
    let others = (machines - fatal.singles.len()) as u64;
    let mut beside: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut edges = 0;
    for (a, b) in fatal.pairs.iter().filter(|(a, b)| !single(a) && !single(b)) {
        beside.entry(*a).or_default().insert(*b);
        beside.entry(*b).or_default().insert(*a);
        edges += 1;
    }
    let paths: u64 = beside.values().map(|beside| choose(beside.len() as u64, 2)).sum();
    let triangles: usize = beside
        .iter()
        .flat_map(|(a, next)| next.iter().filter(move |b| *b > a).map(move |b| (b, next)))
        .map(|(b, next)| beside[b].intersection(next).filter(|c| *c > b).count())
        .sum();
    let linked = |a: &usize, b: &usize| beside.get(a).is_some_and(|beside| beside.contains(b));
    let whole = |(a, b, c): &&(usize, usize, usize)| {
        ![a, b, c].into_iter().any(single) && !linked(a, b) && !linked(a, c) && !linked(b, c)
    };
    let unlinked = fatal.triples.iter().filter(whole).count() as u64;
    let all = machines as u64;
    let pairs = Count { fatal: choose(all, 2) - choose(others, 2) + edges, all: choose(all, 2) };
    let with_pair = (edges * others.saturating_sub(2)).saturating_sub(paths) + triangles as u64;
    let with_single = choose(all, 3) - choose(others, 3);
    let fatal = with_single + with_pair + unlinked;
    (pairs, Count { fatal, all: choose(all, 3) })
}

/// How many sets of `k` there are of `n`, for k of 2 and 3.
fn choose(n: u64, k: u64) -> u64 {
    match k {
        2 => n * n.saturating_sub(1) / 2,
        _ => n * n.saturating_sub(1) / 2 * n.saturating_sub(2) / 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Beside looking at every pair and every triple.
        #[test]
        fn counting_agrees_with_listing(
            machines in 2usize..9,
            rows in prop::collection::vec(prop::collection::vec(0usize..64, 1..7), 1..12),
        ) {
            let rows: Vec<Vec<usize>> = rows
                .into_iter()
                .map(|row| row.into_iter().map(|machine| machine % machines).collect())
                .collect();
            let dies = |down: &[usize]| {
                let up = |row: &&Vec<usize>| row.iter().filter(|m| !down.contains(m)).count();
                rows.iter().any(|row| up(&row) < row.len() / 2 + 1)
            };
            let (mut pairs, mut triples) = (0, 0);
            for a in 0..machines {
                for b in a + 1..machines {
                    pairs += u64::from(dies(&[a, b]));
                    triples += (b + 1..machines).filter(|&c| dies(&[a, b, c])).count() as u64;
                }
            }
            let (two, three) = fatal_sets(machines, rows.iter().cloned());
            prop_assert_eq!((two.fatal, three.fatal), (pairs, triples));
            let n = machines as u64;
            prop_assert_eq!(two.all, n * (n - 1) / 2);
            prop_assert_eq!(three.all, n * (n - 1) * n.saturating_sub(2) / 6);
        }
    }
}
