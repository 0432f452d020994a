//! Fewer partners at no more movement.
//!
//! The flow finds one of many tables that are equally near, without regard to who comes to share
//! partitions with whom. This climbs to a better one by steps that leave the movement, every rule
//! and every share as they are:
//! - a newcomer takes another partition instead, from the same node or from another that can spare
//!   one, and the first is left where it was;
//! - two newcomers change partitions;
//! - another node that has room takes the slot instead of a newcomer.
//!
//! A step is tried where a node of the row has more partners than aimed at, and kept if the partners
//! beyond the aim become fewer, or stay as many while pairs of partners become fewer. Tries are
//! drawn from a fixed seed and bounded, so the plan is the same everywhere and takes little time.

use super::flow::Row;
use crate::ring::draw::Draw;
use crate::ring::partners::{self, Partners};
use crate::ring::places::{Places, PlanWarning};

/// Rounds over all newcomers.
const ROUNDS: usize = 8;
/// Tries for one newcomer in one round, at most.
const TRIES: usize = 1_000;
/// Tries in all, at most.
const BUDGET: usize = 300_000;

/// A table that may still be climbed from.
pub(super) struct Scatter<'a> {
    places: &'a Places<'a>,
    present: &'a [Row],
    bounds: &'a [(usize, usize)],
    rows: Vec<Row>,
    owned: Vec<Vec<usize>>,
    partners: Partners,
    aim: usize,
    draw: Draw,
}

/// One node taking the place of another in a partition.
#[derive(Clone, Copy)]
struct Turn {
    partition: usize,
    from: usize,
    to: usize,
}

impl<'a> Scatter<'a> {
    /// Starts from `rows`, reached from `present`; `bounds` are the least and the most partitions
    /// of each node that may own something.
    pub fn new(
        places: &'a Places<'a>,
        present: &'a [Row],
        bounds: &'a [(usize, usize)],
        rows: Vec<Row>,
    ) -> Self {
        let mut owned = vec![Vec::new(); places.nodes.len()];
        for (partition, row) in rows.iter().enumerate() {
            row.iter().for_each(|&node| owned[node].push(partition));
        }
        let partners = Partners::of(places.nodes.len(), rows.iter().map(|row| &row[..]));
        let (aim, draw) = (partners::aim(places.copies), Draw::new(rows.len() as u64));
        Self { places, present, bounds, rows, owned, partners, aim, draw }
    }

    /// The best table found, and a warning where a node has more partners than aimed at.
    pub fn settle(mut self) -> (Vec<Row>, Option<PlanWarning>) {
        let newcomers: usize = (0..self.rows.len()).map(|row| self.gone(row).len()).sum();
        let tries = (BUDGET / ROUNDS / newcomers.max(1)).clamp(1, TRIES);
        for _ in 0..ROUNDS {
            if !self.round(tries) {
                break;
            }
        }
        let most = (0..self.places.owners).max_by_key(|&node| self.partners.count(node));
        let scattered = most.filter(|&node| self.partners.count(node) > self.aim);
        let warning = scattered.map(|node| PlanWarning::Scattered {
            datacenter: self.places.datacenter.to_owned(),
            node: self.places.nodes[node].id,
            partners: self.partners.count(node),
            aim: self.aim,
        });
        (self.rows, warning)
    }

    /// Tries steps for every newcomer; whether one was kept.
    fn round(&mut self, tries: usize) -> bool {
        let mut better = false;
        for partition in 0..self.rows.len() {
            for at in 0..self.rows[partition].len() {
                for attempt in 0..tries {
                    let node = self.rows[partition][at];
                    let crowded =
                        self.rows[partition].iter().any(|&n| self.partners.count(n) > self.aim);
                    if self.present[partition].contains(&node) || !crowded {
                        break;
                    }
                    better |= if attempt % 2 == 0 {
                        self.try_elsewhere(partition, node)
                    } else {
                        self.try_another(partition, node)
                    };
                }
            }
        }
        better
    }

    /// A random one of the nodes that share partitions with `node`.
    fn partner(&mut self, node: usize) -> Option<usize> {
        let count = self.partners.count(node).max(1);
        let at = self.draw.below(count);
        self.partners.with(node).nth(at)
    }

    /// Lets the newcomer `node` take a partition of one of its partners instead of `first`.
    fn try_elsewhere(&mut self, first: usize, node: usize) -> bool {
        let Some(partner) = self.partner(node) else { return false };
        let at = self.draw.below(self.owned[partner].len());
        let second = self.owned[partner][at];
        let at = self.draw.below(self.rows[second].len());
        let giver = self.rows[second][at];
        let there = |row: &[usize]| row.contains(&node);
        if giver == partner || there(&self.rows[second]) || there(&self.present[second]) {
            return false;
        }
        let back = if self.present[second].contains(&giver) {
            let gone: Vec<usize> = self.gone(first);
            if gone.is_empty() {
                return false;
            }
            let back = gone[self.draw.below(gone.len())];
            if back != giver && !(self.has_room(back) && self.can_spare(giver)) {
                return false;
            }
            back
        } else {
            giver
        };
        if self.rows[first].contains(&back) {
            return false;
        }
        let turns = [
            Turn { partition: first, from: node, to: back },
            Turn { partition: second, from: giver, to: node },
        ];
        self.try_turns(&turns)
    }

    /// Lets a partner of another owner take the newcomer's slot.
    fn try_another(&mut self, partition: usize, node: usize) -> bool {
        let at = self.draw.below(self.rows[partition].len());
        let beside = self.rows[partition][at];
        let Some(other) = self.partner(beside) else { return false };
        let stays =
            self.rows[partition].contains(&other) || self.present[partition].contains(&other);
        if beside == node || stays || !self.has_room(other) || !self.can_spare(node) {
            return false;
        }
        self.try_turns(&[Turn { partition, from: node, to: other }])
    }

    /// Owners of today that the partition loses.
    fn gone(&self, partition: usize) -> Vec<usize> {
        let row = &self.rows[partition];
        self.present[partition].iter().copied().filter(|owner| !row.contains(owner)).collect()
    }

    fn has_room(&self, node: usize) -> bool {
        self.bounds.get(node).is_some_and(|&(_, high)| self.owned[node].len() < high)
    }

    fn can_spare(&self, node: usize) -> bool {
        self.bounds.get(node).is_none_or(|&(low, _)| self.owned[node].len() > low)
    }

    /// Partners beyond the aim, and partners, of all nodes of these rows and of those that come.
    fn cost(&self, nodes: &[usize]) -> (usize, usize) {
        let counts = nodes.iter().map(|&node| self.partners.count(node));
        counts.fold((0, 0), |(beyond, all), count| {
            (beyond + count.saturating_sub(self.aim), all + count)
        })
    }

    /// Makes all turns if every rule holds; keeps them if that costs less.
    fn try_turns(&mut self, turns: &[Turn]) -> bool {
        for turn in turns {
            let others = self.rows[turn.partition].iter().copied().filter(|&n| n != turn.from);
            if !self.places.fits(others, turn.to) {
                return false;
            }
        }
        let mut touched: Vec<usize> = turns
            .iter()
            .flat_map(|turn| self.rows[turn.partition].iter().copied().chain([turn.to]))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        let before = self.cost(&touched);
        turns.iter().for_each(|turn| self.turn(*turn));
        if self.cost(&touched) < before {
            return true;
        }
        for turn in turns.iter().rev() {
            self.turn(Turn { partition: turn.partition, from: turn.to, to: turn.from });
        }
        false
    }

    fn turn(&mut self, Turn { partition, from, to }: Turn) {
        let row = &mut self.rows[partition];
        if let Some(at) = row.iter().position(|&owner| owner == from) {
            self.partners.replace(row, at, to);
        }
        if let Ok(at) = self.owned[from].binary_search(&partition) {
            self.owned[from].remove(at);
        }
        let at = self.owned[to].partition_point(|&other| other < partition);
        self.owned[to].insert(at, partition);
    }
}
