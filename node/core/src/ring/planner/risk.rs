//! How few failures cost a quorum of some partition: before, during and after the moves.
//!
//! A quorum is a majority, of the copies of each data center and of all copies together; the figure
//! is the least over these tallies. While a slot moves from C to D it counts only while both are up,
//! since its acknowledgement needs both: the careful view of every step of a move. Places are failed
//! greedily, the one that takes most copies first, which is exact here: one copy falls with two
//! places at most in each partition, the one that moves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, Move, PlaceKind, Plan, Seat};
use crate::id::NodeId;
use crate::ring::document::Member;

/// The fewest failures of places of one kind that cost a quorum of some partition, and one example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weakest {
    /// How many places fail. 0 where the quorum is lost with what is down already.
    pub failures: u32,
    /// What kind of places.
    pub kind: PlaceKind,
    /// The first such partition.
    pub partition: u32,
    /// The data center whose copies lose their majority; none where all copies together do.
    pub datacenter: Option<String>,
    /// Names of the places that fail.
    pub names: Vec<String>,
}

/// What is at stake in the course of a plan. None of a kind where no failures cost a quorum, which
/// is a table without partitions only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// As it is.
    pub before: Option<Weakest>,
    /// The worst while slots move, in the order of each partition's moves; none where nothing moves.
    pub during: Option<Weakest>,
    /// Once all moves are over.
    pub after: Option<Weakest>,
}

type Row = BTreeMap<String, Vec<Seat>>;

/// The risk of a plan for failures of one kind of place; nodes in `down` have failed already.
pub fn risk(cluster: &Cluster, plan: &Plan, down: &BTreeSet<NodeId>, kind: PlaceKind) -> Risk {
    let mut members = plan.members.clone();
    members.extend(cluster.members.clone());
    let judge = Judge { members: &members, down, kind };
    let mut moves: BTreeMap<u32, Vec<&Move>> = BTreeMap::new();
    for planned in &plan.moves {
        moves.entry(planned.partition).or_default().push(planned);
    }
    let (mut before, mut during, mut after) = (None, None, None);
    for (index, row) in cluster.table.iter().enumerate() {
        let index = index as u32;
        least(&mut before, judge.row(index, row));
        let mut now = row.clone();
        for planned in moves.get(&index).into_iter().flatten() {
            let slot = now.get_mut(&planned.datacenter).and_then(|row| row.get_mut(planned.slot));
            let Some(slot) = slot else { continue };
            *slot = Seat { owner: planned.from, moving_to: Some(planned.to) };
            least(&mut during, judge.row(index, &now));
            let slot = now.get_mut(&planned.datacenter).and_then(|row| row.get_mut(planned.slot));
            slot.into_iter().for_each(|slot| *slot = Seat { owner: planned.to, moving_to: None });
        }
        let arrived = |seat: &Seat| Seat { owner: seat.heir(), moving_to: None };
        now.values_mut().flatten().for_each(|seat| *seat = arrived(seat));
        least(&mut after, judge.row(index, &now));
    }
    Risk { before, during, after }
}

/// Keeps the worse of two.
fn least(so_far: &mut Option<Weakest>, next: Option<Weakest>) {
    let worse = match (&*so_far, &next) {
        (Some(so_far), Some(next)) => next.failures < so_far.failures,
        (None, _) => true,
        (_, None) => false,
    };
    if worse {
        *so_far = next;
    }
}

struct Judge<'a> {
    members: &'a BTreeMap<NodeId, Member>,
    down: &'a BTreeSet<NodeId>,
    kind: PlaceKind,
}

impl Judge<'_> {
    fn row(&self, partition: u32, row: &Row) -> Option<Weakest> {
        let all: Vec<&Seat> = row.values().flatten().collect();
        let mut weakest = None;
        let mut tally = |datacenter: Option<&String>, seats: &[&Seat]| {
            let (failures, names) = self.fewest(seats)?;
            let (kind, datacenter) = (self.kind, datacenter.cloned());
            least(&mut weakest, Some(Weakest { failures, kind, partition, datacenter, names }));
            Some(())
        };
        tally(None, &all);
        if row.len() > 1 {
            for (datacenter, seats) in row {
                tally(Some(datacenter), &seats.iter().collect::<Vec<_>>());
            }
        }
        weakest
    }

    /// The place of this kind in which a node stands, by a name that no other place has.
    fn place(&self, node: NodeId) -> Option<Vec<&str>> {
        let member = self.members.get(&node)?;
        let (center, zone, rack) = (&*member.datacenter, &*member.zone, &*member.rack);
        Some(match self.kind {
            // Without a name, a node is a place of its own only by its machine.
            PlaceKind::Node | PlaceKind::Machine => vec![&member.machine],
            PlaceKind::Rack => vec![center, zone, rack],
            PlaceKind::Zone => vec![center, zone],
        })
    }

    /// How few places take so many copies that no majority is left, and their names.
    fn fewest(&self, seats: &[&Seat]) -> Option<(u32, Vec<String>)> {
        let enough = seats.len().div_ceil(2);
        let (mut lost, mut places) = (BTreeSet::new(), BTreeMap::<_, BTreeSet<usize>>::new());
        for (number, seat) in seats.iter().enumerate() {
            for node in [Some(seat.owner), seat.moving_to].into_iter().flatten() {
                if self.down.contains(&node) {
                    lost.insert(number);
                }
                places.entry(self.place(node)?).or_default().insert(number);
            }
        }
        let mut names = Vec::new();
        while lost.len() < enough {
            let takes = |copies: &BTreeSet<usize>| copies.difference(&lost).count();
            // Of equals the first by name, so that the example is always the same.
            let most = places.iter().rev().max_by_key(|(_, copies)| takes(copies))?;
            let (name, copies) = (most.0.clone(), most.1.clone());
            if copies.is_subset(&lost) {
                return None;
            }
            lost.extend(copies);
            names.push(name.last().copied().unwrap_or_default().to_owned());
        }
        Some((names.len() as u32, names))
    }
}
