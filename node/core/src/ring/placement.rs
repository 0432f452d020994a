//! The view of a document that requests are routed with: owners, entry hashes, walk order.
//!
//! Built once per document; lookups copy nothing. Walking the ring from a partition meets its
//! owners first, then the owners of the following partitions, each node once, and last the members
//! that own nothing: the order in which stand-ins are looked for.

use std::collections::BTreeSet;

use super::document::{Document, DocumentHash, Owner, PartitionEntry, Sealed};
use super::hash::key_hash;
use super::partition::Partition;
use crate::id::NodeId;

/// A document made ready for routing.
#[derive(Clone, Debug)]
pub struct Ring {
    document: Sealed,
    partitions: Vec<Prepared>,
}

/// One partition, ready.
#[derive(Clone, Debug)]
struct Prepared {
    owners: Vec<Owner>,
    seats: Vec<Seat>,
    /// Of its entry.
    hash: u64,
}

/// What counts once in a request: a slot, with whom it takes to count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Where it counts.
    pub datacenter: String,
    /// All of them have to store a write; none where the slot cannot count.
    pub writers: Vec<NodeId>,
    /// Who answers reads; none where the slot cannot count.
    pub reader: Option<NodeId>,
}

impl Ring {
    /// Prepares a valid document.
    pub fn new(document: Sealed) -> Self {
        let prepared = document.table.iter().map(|entry| Prepared {
            owners: entry.owners().collect(),
            seats: seats(entry).collect(),
            hash: entry.entry_hash(),
        });
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

    /// Owners of a partition: whoever stores its writes, data centers in name order, slots in their
    /// order. Empty for a partition that this ring does not have.
    pub fn owners(&self, partition: Partition) -> &[Owner] {
        self.prepared(partition).map_or(&[], |prepared| &prepared.owners)
    }

    /// The slots of a partition as requests count them, in the order of the owners. Empty for a
    /// partition that this ring does not have.
    pub fn seats(&self, partition: Partition) -> &[Seat] {
        self.prepared(partition).map_or(&[], |prepared| &prepared.seats)
    }

    /// Version of a partition's entry and the hash of the entry, as requests carry them.
    pub fn version(&self, partition: Partition) -> Option<(u64, u64)> {
        let prepared = self.prepared(partition)?;
        Some((self.document.entry(partition)?.version, prepared.hash))
    }

    /// Is the node an owner of the partition: does it store its writes?
    pub fn is_owner(&self, partition: Partition, node: NodeId) -> bool {
        self.owners(partition).iter().any(|owner| owner.node == node)
    }

    /// Does the node answer reads of the partition? Then it may coordinate too.
    pub fn is_reader(&self, partition: Partition, node: NodeId) -> bool {
        self.seats(partition).iter().any(|seat| seat.reader == Some(node))
    }

    /// Every member once, in the order met from a partition: its owners, the owners of the
    /// partitions that follow, the members that own nothing by id. Lazy: the first few cost little.
    pub fn walk(&self, partition: Partition) -> impl Iterator<Item = Owner> + '_ {
        let start = self.prepared(partition).map_or(0, |_| partition.index as usize);
        let around = self.partitions.iter().cycle().skip(start).take(self.partitions.len());
        let met = around.flat_map(|prepared| prepared.owners.iter().cloned());
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

    fn prepared(&self, partition: Partition) -> Option<&Prepared> {
        (partition.k == self.document.partition_bits)
            .then(|| self.partitions.get(partition.index as usize))
            .flatten()
    }
}

fn seats(entry: &PartitionEntry) -> impl Iterator<Item = Seat> {
    let slots = entry.slots.iter().flat_map(|(dc, slots)| slots.iter().map(move |s| (dc, s)));
    slots.map(|(datacenter, slot)| Seat {
        datacenter: datacenter.clone(),
        writers: slot.writers().collect(),
        reader: slot.reader(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};
    use crate::ring::{Slot, SlotState, Successor};
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

    /// Who stores, who answers and who owns, in every state of a slot.
    #[test]
    fn a_seat_counts_when_all_of_its_writers_stored() {
        let next = Successor { node: node(7), since: 2 };
        let states: [(SlotState, &[u8], Option<u8>); 5] = [
            (SlotState::Stable, &[0], Some(0)),
            (SlotState::Copying(next), &[0, 7], Some(0)),
            (SlotState::Switched(next), &[7, 0], Some(7)),
            (SlotState::Fencing(next), &[], None),
            (SlotState::Merging(next), &[7], None),
        ];
        for (state, writers, reader) in states {
            let mut document = cluster(4, 3).child();
            let entry = &mut document.table[0];
            entry.version = 2;
            let slot = &mut entry.slots.get_mut("dc1").unwrap()[0];
            *slot = Slot { owner: node(0), since: 1, state };
            for (index, slot) in entry.slots.get_mut("dc1").unwrap()[1..].iter_mut().enumerate() {
                slot.owner = node(1 + index as u8);
            }
            let k = document.partition_bits;
            let ring = Ring::new(Sealed::new(document));
            let partition = Partition { k, index: 0 };
            let seats = ring.seats(partition);
            let numbers = |numbers: &[u8]| numbers.iter().copied().map(node).collect::<Vec<_>>();
            assert_eq!((seats.len(), &seats[0].writers), (3, &numbers(writers)), "{state:?}");
            assert_eq!(seats[0].reader, reader.map(node), "{state:?}");
            let owners: Vec<_> = ring.owners(partition).iter().map(|owner| owner.node).collect();
            assert_eq!(owners, [numbers(writers), numbers(&[1, 2])].concat());
            assert_eq!(ring.is_owner(partition, node(7)), writers.contains(&7));
            assert_eq!(ring.is_reader(partition, node(0)), reader == Some(0));
        }
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
