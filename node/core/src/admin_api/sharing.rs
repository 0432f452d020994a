//! Which copies share a machine: what a relocate may lead to, and what a rebalance has to mend.
//!
//! One machine that dies takes all copies on it along, so a cluster in this state survives less than
//! its replication promises. The node, the operator and the command line count it by one rule.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::ring::Document;

/// Copies of the same partitions on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedMachine {
    /// The machine.
    pub machine: String,
    /// The data center whose copies these are.
    pub datacenter: String,
    /// The owners on it, at least two.
    pub nodes: Vec<NodeId>,
    /// log2 of the number of partitions of the ring.
    pub bits: u8,
    /// Indexes of the partitions that exactly these nodes own together, in order.
    pub partitions: Vec<u32>,
}

impl SharedMachine {
    /// Every group of two or more owners of one partition on one machine, ordered by data center,
    /// machine and owners. Empty where each copy has a machine of its own.
    pub fn all(document: &Document) -> Vec<Self> {
        let mut groups: BTreeMap<(&str, &str, Vec<NodeId>), Vec<u32>> = BTreeMap::new();
        for (index, entry) in (0..).zip(&document.table) {
            for (datacenter, slots) in &entry.slots {
                let mut machines: BTreeMap<&str, BTreeSet<NodeId>> = BTreeMap::new();
                // A slot that moves counts once, where it is read.
                for owner in slots.iter().filter_map(|slot| slot.writers().next()) {
                    if let Some(member) = document.members.get(&owner) {
                        machines.entry(&member.machine).or_default().insert(owner);
                    }
                }
                for (machine, owners) in machines.into_iter().filter(|(_, o)| o.len() > 1) {
                    let owners = owners.into_iter().collect();
                    groups.entry((datacenter, machine, owners)).or_default().push(index);
                }
            }
        }
        let bits = document.partition_bits;
        groups
            .into_iter()
            .map(|((datacenter, machine, nodes), partitions)| Self {
                machine: machine.to_owned(),
                datacenter: datacenter.to_owned(),
                nodes,
                bits,
                partitions,
            })
            .collect()
    }

    /// How many partitions are in any of these groups.
    pub fn partitions_in(groups: &[Self]) -> u32 {
        let all: BTreeSet<u32> =
            groups.iter().flat_map(|group| &group.partitions).copied().collect();
        all.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};

    fn on_one_machine(document: &mut Document, numbers: &[u8]) {
        for number in numbers {
            document.members.get_mut(&node(*number)).unwrap().machine = "w1".into();
        }
    }

    #[test]
    fn a_first_layout_shares_nothing() {
        assert_eq!(SharedMachine::all(&cluster(5, 3)), vec![]);
    }

    #[test]
    fn owners_on_one_machine_are_named_with_their_partitions() {
        let mut document = cluster(3, 3);
        on_one_machine(&mut document, &[0, 2]);
        let partitions = 0..document.table.len() as u32;
        let found = SharedMachine::all(&document);
        assert_eq!(
            found,
            vec![SharedMachine {
                machine: "w1".into(),
                datacenter: "dc1".into(),
                nodes: vec![node(0), node(2)],
                bits: document.partition_bits,
                partitions: partitions.collect(),
            }]
        );
        assert_eq!(SharedMachine::partitions_in(&found), document.table.len() as u32);
    }

    #[test]
    fn every_partition_is_counted_once_and_only_where_both_own_it() {
        let mut document = cluster(5, 3);
        on_one_machine(&mut document, &[0, 1, 2]);
        let found = SharedMachine::all(&document);
        let shares = |entry: &crate::ring::PartitionEntry| {
            (0..3).filter(|number| entry.names(node(*number))).count() > 1
        };
        let expected: Vec<u32> = (0..)
            .zip(&document.table)
            .filter(|(_, entry)| shares(entry))
            .map(|(index, _)| index)
            .collect();
        let mut named: Vec<u32> = found.iter().flat_map(|g| g.partitions.clone()).collect();
        named.sort_unstable();
        assert_eq!(named, expected, "each in one group");
        assert_eq!(SharedMachine::partitions_in(&found), expected.len() as u32);
        assert!(found.len() > 1, "several groups of owners: {found:?}");
    }
}
