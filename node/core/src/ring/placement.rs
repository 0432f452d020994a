//! The view of a document that requests are routed with: owners, entry hashes, walk order.
//!
//! Built once per document; lookups copy nothing. Walking the ring from a partition meets its
//! owners first, then the owners of the following partitions, each node once, and last the members
//! that own nothing: the order in which stand-ins are looked for.

use std::collections::BTreeSet;

use super::document::{Document, DocumentHash, Owner, Sealed};
use super::hash::key_hash;
use super::partition::Partition;
use crate::id::NodeId;

/// A document made ready for routing.
#[derive(Clone, Debug)]
pub struct Ring {
    document: Sealed,
    /// Per partition: its owners and the hash of its entry.
    partitions: Vec<(Vec<Owner>, u64)>,
}

impl Ring {
    /// Prepares a valid document.
    pub fn new(document: Sealed) -> Self {
        let prepared =
            document.table.iter().map(|entry| (entry.owners().collect(), entry.entry_hash()));
        let partitions = prepared.collect();
        Self { document, partitions }
    }

    /// The document behind it.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The document with its hash.
    pub fn sealed(&self) -> &Sealed {
        &self.document
    }

    /// The document's epoch.
    pub fn epoch(&self) -> u64 {
        self.document.epoch
    }

    /// The document's hash.
    pub fn hash(&self) -> DocumentHash {
        self.document.hash()
    }

    /// Where a key lies: its hash and its partition.
    pub fn locate(&self, bucket: &[u8], key: &[u8]) -> (u64, Partition) {
        let hash = key_hash(self.document.seed, bucket, key);
        (hash, self.document.partition_of(hash))
    }

    /// Owners of a partition, data centers in name order, slots in their order. Empty for a
    /// partition that this ring does not have.
    pub fn owners(&self, partition: Partition) -> &[Owner] {
        self.prepared(partition).map_or(&[], |(owners, _)| owners)
    }

    /// Version of a partition's entry and the hash of the entry, as requests carry them.
    pub fn version(&self, partition: Partition) -> Option<(u64, u64)> {
        let (_, hash) = self.prepared(partition)?;
        Some((self.document.entry(partition)?.version, *hash))
    }

    /// Is the node an owner of the partition?
    pub fn is_owner(&self, partition: Partition, node: NodeId) -> bool {
        self.owners(partition).iter().any(|owner| owner.node == node)
    }

    /// Every member once, in the order met from a partition: its owners, the owners of the
    /// partitions that follow, the members that own nothing by id. Lazy: the first few cost little.
    pub fn walk(&self, partition: Partition) -> impl Iterator<Item = Owner> + '_ {
        let start = self.prepared(partition).map_or(0, |_| partition.index as usize);
        let around = self.partitions.iter().cycle().skip(start).take(self.partitions.len());
        let met = around.flat_map(|(owners, _)| owners.iter().cloned());
        let rest = self
            .document
            .members
            .iter()
            .map(|(&node, member)| Owner { node, datacenter: member.datacenter.clone() });
        let mut seen = BTreeSet::new();
        let everyone = self.document.members.len();
        met.chain(rest).filter(move |owner| seen.insert(owner.node)).take(everyone)
    }

    /// Who could stand in for owners of a partition in one data center: the walk, without the
    /// owners, without machines that hold an owner, one node per machine. The caller skips who is
    /// not healthy with `usable`, so that a machine whose first node is down offers its next.
    pub fn further_machines<'a>(
        &'a self,
        partition: Partition,
        datacenter: &'a str,
        usable: impl Fn(NodeId) -> bool + 'a,
    ) -> impl Iterator<Item = Owner> + 'a {
        let members = &self.document.members;
        let mut machines: BTreeSet<&str> = self
            .owners(partition)
            .iter()
            .filter(|owner| owner.datacenter == datacenter)
            .filter_map(|owner| Some(members.get(&owner.node)?.machine.as_str()))
            .collect();
        self.walk(partition).filter(move |owner| {
            owner.datacenter == datacenter
                && usable(owner.node)
                && members.get(&owner.node).is_some_and(|member| machines.insert(&member.machine))
        })
    }

    fn prepared(&self, partition: Partition) -> Option<&(Vec<Owner>, u64)> {
        (partition.k == self.document.partition_bits)
            .then(|| self.partitions.get(partition.index as usize))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};
    use proptest::prelude::*;

    #[test]
    fn the_walk_begins_with_the_owners_and_meets_everyone_once() {
        let mut document = cluster(6, 3);
        let idle = node(99);
        let mut member = document.members[&node(0)].clone();
        member.machine = "idle".into();
        document.members.insert(idle, member);
        let ring = Ring::new(Sealed::new(document));
        for partition in Partition::all(ring.document().partition_bits) {
            let walk: Vec<_> = ring.walk(partition).collect();
            assert_eq!(&walk[..3], ring.owners(partition));
            assert_eq!(walk.len(), 7);
            assert_eq!(walk[6].node, idle, "who owns nothing comes last");
            let distinct: BTreeSet<_> = walk.iter().map(|owner| owner.node).collect();
            assert_eq!(distinct.len(), 7);
        }
    }

    #[test]
    fn a_stand_in_is_on_a_machine_of_its_own() {
        let mut document = cluster(6, 3);
        // Nodes 4 and 5 share a machine.
        document.members.get_mut(&node(5)).unwrap().machine =
            document.members[&node(4)].machine.clone();
        let ring = Ring::new(Sealed::new(document));
        for partition in Partition::all(ring.document().partition_bits) {
            let machine = |owner: &Owner| ring.document().members[&owner.node].machine.clone();
            let mut machines: Vec<_> = ring.owners(partition).iter().map(machine).collect();
            machines.extend(ring.further_machines(partition, "dc1", |_| true).map(|o| machine(&o)));
            let distinct: BTreeSet<_> = machines.iter().collect();
            let doubled = ring.is_owner(partition, node(4)) && ring.is_owner(partition, node(5));
            assert_eq!(distinct.len(), machines.len() - usize::from(doubled));
            assert_eq!(distinct.len(), 5, "every machine is offered");
            assert_eq!(ring.further_machines(partition, "dc1", |n| n == node(77)).count(), 0);
            assert_eq!(ring.further_machines(partition, "elsewhere", |_| true).count(), 0);
        }
    }

    #[test]
    fn a_partition_of_another_cut_has_no_owners() {
        let ring = Ring::new(Sealed::new(cluster(3, 3)));
        let k = ring.document().partition_bits;
        assert!(ring.owners(Partition { k: k + 1, index: 0 }).is_empty());
        assert!(ring.owners(Partition { k, index: 1 << k }).is_empty());
        assert_eq!(ring.version(Partition { k: k + 1, index: 0 }), None);
    }

    proptest! {
        #[test]
        fn a_key_lies_where_the_document_says(bucket in "[a-z]{1,8}", key in "[a-z]{1,20}") {
            let document = cluster(5, 3);
            let ring = Ring::new(Sealed::new(document.clone()));
            let (hash, partition) = ring.locate(bucket.as_bytes(), key.as_bytes());
            prop_assert!(partition.contains(hash));
            prop_assert_eq!(ring.owners(partition), &document.owners(partition)[..]);
            let (version, entry) = ring.version(partition).unwrap();
            prop_assert_eq!(version, 1);
            prop_assert_eq!(entry, document.entry(partition).unwrap().entry_hash());
        }
    }
}
