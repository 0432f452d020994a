//! "Is my data safe now?" as a pure function of who owns what and who is up.
//!
//! The node, the operator and the command line judge by the same rule, so that they cannot say
//! different things about one cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sharing::SharedMachine;
use crate::id::NodeId;
use crate::quorum::{Level, Progress, Tally};
use crate::ring::{Partition, Ring};

/// How the partitions are, counting an owner as a copy while it is up (alive or suspect) and
/// did not say that it serves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionHealth {
    /// How many there are.
    pub total: u32,
    /// Every owner is up.
    pub whole: u32,
    /// At least one owner is not up.
    pub under_replicated: u32,
    /// At most half of the owners are up: no majority.
    pub no_quorum: u32,
    /// No owner is up: the data cannot be read now.
    pub no_owner: u32,
    /// The default read level cannot be reached from the answering node.
    pub unreadable: u32,
    /// The default write level cannot be reached by owners alone.
    pub unwritable: u32,
    /// A slot is changing hands.
    pub moving: u32,
    /// Two of its copies stand on one machine: see [`SharedMachine`].
    #[serde(default)]
    pub shared_machine: u32,
    /// Number of partitions by how many of their owners are up.
    pub by_copies: BTreeMap<u32, u32>,
}

/// What the counts mean for the data, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Every partition has all its copies.
    Safe,
    /// Copies are missing, everything is readable and writable at the default levels.
    Degraded,
    /// Some partition cannot be read or written at the default levels.
    Unavailable,
    /// Some partition has no copy on a node that is up.
    Missing,
    /// The node belongs to no cluster yet.
    Unformed,
}

/// The verdict with the sentence that explains it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Safety {
    /// What programs match on.
    pub verdict: Verdict,
    /// One line for people, without the name of the cluster.
    pub sentence: String,
}

impl PartitionHealth {
    /// Counts the partitions, each given by its owners with their data centers and by whether one
    /// of its slots is moving. `r` and `w` are the default levels, `local` is the data center they
    /// are judged from.
    pub fn count<'a, D: AsRef<str> + 'a>(
        partitions: impl IntoIterator<Item = (&'a [(NodeId, D)], bool)>,
        is_up: impl Fn(NodeId) -> bool,
        (r, w): (Level, Level),
        local: &str,
    ) -> Self {
        let mut health = Self::default();
        for (owners, moving) in partitions {
            let up = owners.iter().filter(|(node, _)| is_up(*node)).count();
            let reaches = |level| reaches(level, owners, &is_up, local);
            health.total += 1;
            health.whole += u32::from(up == owners.len());
            health.under_replicated += u32::from(up < owners.len());
            health.no_quorum += u32::from(up * 2 <= owners.len());
            health.no_owner += u32::from(up == 0);
            health.unreadable += u32::from(!reaches(r));
            health.unwritable += u32::from(!reaches(w));
            health.moving += u32::from(moving);
            *health.by_copies.entry(up as u32).or_default() += 1;
        }
        health
    }

    /// Counts the partitions of a ring at its default levels, from the data center `local`.
    pub fn of(ring: &Ring, is_up: impl Fn(NodeId) -> bool, local: &str) -> Self {
        let document = ring.document();
        let owners: Vec<Vec<(NodeId, &str)>> = Partition::all(document.partition_bits)
            .map(|partition| {
                // A slot that cannot count is a copy on no node.
                let seats = ring.seats(partition).iter();
                seats
                    .map(|seat| (seat.reader.unwrap_or(NodeId::nil()), seat.datacenter.as_str()))
                    .collect()
            })
            .collect();
        let moving = document.table.iter().map(|entry| entry.moving().is_some());
        let levels = (document.defaults.r, document.defaults.w);
        let owners = owners.iter().map(Vec::as_slice);
        let shared_machine = SharedMachine::partitions_in(&SharedMachine::all(document));
        Self { shared_machine, ..Self::count(owners.zip(moving), is_up, levels, local) }
    }

    /// What the counts mean.
    pub fn verdict(&self) -> Verdict {
        if self.total == 0 {
            Verdict::Unformed
        } else if self.no_owner > 0 {
            Verdict::Missing
        } else if self.unreadable > 0 || self.unwritable > 0 {
            Verdict::Unavailable
        } else if self.under_replicated > 0 {
            Verdict::Degraded
        } else {
            Verdict::Safe
        }
    }

    /// The verdict with its sentence; `r` and `w` as they were counted with.
    pub fn safety(&self, (r, w): (Level, Level)) -> Safety {
        let verdict = self.verdict();
        let of = |count: u32| format!("{count} of {} partitions", self.total);
        let fewest = self.by_copies.keys().next().copied().unwrap_or(0);
        let sentence = match verdict {
            Verdict::Safe => {
                format!("every copy of all data is on a node that is up (r={r}, w={w})")
            }
            Verdict::Degraded => format!(
                "all data readable at r={r} and writable at w={w}; {} have copies on nodes that are \
                 down or serve nothing (fewest copies up: {fewest})",
                of(self.under_replicated)
            ),
            Verdict::Unavailable => format!(
                "{} cannot be read at r={r}, {} cannot be written at w={w} by their owners; every \
                 partition still has a copy on a node that is up",
                of(self.unreadable),
                of(self.unwritable)
            ),
            Verdict::Missing => {
                format!("{} have no copy on a node that is up", of(self.no_owner))
            }
            Verdict::Unformed => "this node belongs to no cluster yet".to_owned(),
        };
        let shared = match self.shared_machine {
            0 => String::new(),
            count => format!("; {} have two copies on one machine", of(count)),
        };
        Safety { verdict, sentence: sentence + &shared }
    }
}

/// Whether the owners that are up can reach a level. A level that the partition can never satisfy
/// counts as not reached.
fn reaches<D: AsRef<str>>(
    level: Level,
    owners: &[(NodeId, D)],
    is_up: impl Fn(NodeId) -> bool,
    local: &str,
) -> bool {
    let Ok(mut tally) = Tally::new(level, owners, local) else { return false };
    for (node, _) in owners.iter().filter(|(node, _)| is_up(*node)) {
        if tally.ack(*node) == Ok(Progress::Done) {
            return true;
        }
    }
    false
}

impl Verdict {
    /// The word that the first line of `kvasir status` shows.
    pub fn word(self) -> &'static str {
        match self {
            Self::Safe => "SAFE",
            Self::Degraded => "DEGRADED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Missing => "MISSING",
            Self::Unformed => "NOT FORMED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn health(down: &[u8]) -> PartitionHealth {
        // Five nodes, five partitions of three neighbouring owners each.
        let owners: Vec<Vec<(NodeId, &str)>> =
            (0..5).map(|p| (0..3).map(|i| (node((p + i) % 5), "dc")).collect()).collect();
        let gone: Vec<NodeId> = down.iter().map(|number| node(*number)).collect();
        PartitionHealth::count(
            owners.iter().map(|list| (list.as_slice(), false)),
            |id| !gone.contains(&id),
            (Level::Quorum, Level::Quorum),
            "dc",
        )
    }

    #[test]
    fn all_up_is_safe() {
        let health = health(&[]);
        assert_eq!((health.total, health.whole, health.under_replicated), (5, 5, 0));
        assert_eq!(health.verdict(), Verdict::Safe);
        assert_eq!(health.by_copies, BTreeMap::from([(3, 5)]));
    }

    #[test]
    fn one_down_is_degraded_two_neighbours_unavailable_three_missing() {
        let one = health(&[0]);
        assert_eq!((one.under_replicated, one.no_quorum, one.unreadable), (3, 0, 0));
        assert_eq!(one.verdict(), Verdict::Degraded);
        assert!(one.safety((Level::Quorum, Level::Quorum)).sentence.contains("3 of 5 partitions"));
        let two = health(&[0, 1]);
        assert_eq!((two.no_quorum, two.unwritable, two.no_owner), (2, 2, 0));
        assert_eq!(two.verdict(), Verdict::Unavailable);
        assert_eq!(health(&[0, 1, 2]).verdict(), Verdict::Missing);
    }

    #[test]
    fn a_shared_machine_is_said_whatever_the_verdict() {
        let mut document = crate::ring::fixtures::cluster(3, 3);
        let levels = (Level::Quorum, Level::Quorum);
        let apart = Ring::new(crate::ring::Sealed::new(document.clone()));
        let apart = PartitionHealth::of(&apart, |_| true, "dc1");
        assert_eq!(apart.shared_machine, 0);
        assert!(!apart.safety(levels).sentence.contains("machine"));
        document.members.values_mut().for_each(|member| member.machine = "w1".into());
        let shared = Ring::new(crate::ring::Sealed::new(document));
        let shared = PartitionHealth::of(&shared, |_| true, "dc1");
        assert_eq!((shared.shared_machine, shared.verdict()), (shared.total, Verdict::Safe));
        let sentence = shared.safety(levels).sentence;
        assert!(sentence.ends_with("partitions have two copies on one machine"), "{sentence}");
    }

    #[test]
    fn nothing_planned_is_unformed() {
        assert_eq!(PartitionHealth::default().verdict(), Verdict::Unformed);
    }
}
