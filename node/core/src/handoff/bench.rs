//! Who stands in for owners of a partition: the next healthy nodes met walking the ring, each on a
//! machine that holds no owner and no other stand-in, in the data center of the owner.
//!
//! Readers and writers that believe the same nodes to be healthy find the same stand-ins in the same
//! order, which is what makes a stand-in copy readable by key.

use std::collections::{BTreeMap, VecDeque};

use crate::id::NodeId;
use crate::ring::{Partition, Ring};

/// Candidates for each owner: so many may fail before there is none left.
const FOR_EACH_OWNER: usize = 3;

/// The stand-ins that one request may still call upon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bench {
    waiting: BTreeMap<String, VecDeque<NodeId>>,
    /// How many owners each data center has: the first that many candidates stand in when all are gone.
    owners: BTreeMap<String, usize>,
}

impl Bench {
    /// The candidates for a partition among those that are `usable`.
    pub fn new(ring: &Ring, partition: Partition, usable: impl Fn(NodeId) -> bool) -> Self {
        let mut owners: BTreeMap<String, usize> = BTreeMap::new();
        for owner in ring.owners(partition) {
            *owners.entry(owner.datacenter.clone()).or_default() += 1;
        }
        let candidates = |(datacenter, owners): (&String, &usize)| {
            let further = ring.further_machines(partition, datacenter, &usable);
            let nodes = further.take(owners * FOR_EACH_OWNER).map(|owner| owner.node).collect();
            (datacenter.clone(), nodes)
        };
        Self { waiting: owners.iter().map(candidates).collect(), owners }
    }

    /// Takes the next candidate for an owner of a data center.
    pub fn take(&mut self, datacenter: &str) -> Option<NodeId> {
        self.waiting.get_mut(datacenter)?.pop_front()
    }

    /// Whether there is a candidate left for an owner of a data center.
    pub fn offers(&self, datacenter: &str) -> bool {
        self.waiting.get(datacenter).is_some_and(|waiting| !waiting.is_empty())
    }

    /// Takes a node off, because it has its place already.
    pub fn remove(&mut self, node: NodeId) {
        for waiting in self.waiting.values_mut() {
            waiting.retain(|candidate| *candidate != node);
        }
    }

    /// Whoever may coordinate when no owner can, in order: as many of each data center as it has
    /// owners, those of `local` first.
    pub fn coordinators(&self, local: &str) -> Vec<NodeId> {
        let first = |datacenter: &String| {
            let waiting = self.waiting.get(datacenter).into_iter().flatten();
            waiting.copied().take(self.owners.get(datacenter).copied().unwrap_or(0))
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            self.waiting.keys().partition(|datacenter| *datacenter == local);
        here.into_iter().chain(elsewhere).flat_map(first).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Sealed;
    use crate::ring::fixtures::{centers, cluster, node};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Whoever is down and however machines are shared: nobody stands in twice, no owner does, no two
        /// on one machine, only who is usable, and nobody is left out who could.
        #[test]
        fn stand_ins_are_usable_and_on_machines_of_their_own(
            nodes in 4_u8..9,
            copies in 1_u32..4,
            down in prop::collection::btree_set(0_u8..9, 0..5),
            shared in prop::collection::vec(0_u8..9, 9),
            index in any::<u32>(),
        ) {
            let mut document = cluster(nodes, copies);
            // Every node but the first `copies` may sit on the machine of another that is no owner.
            let bits = document.partition_bits;
            let partition = Partition { k: bits, index: index % (1 << bits) };
            let owners: BTreeSet<_> = document.owners(partition).iter().map(|o| o.node).collect();
            for number in (0..nodes).filter(|n| !owners.contains(&node(*n))) {
                let machine = format!("machine{}", shared[usize::from(number)] % nodes);
                document.members.get_mut(&node(number)).unwrap().machine = machine;
            }
            let machine = |id: &NodeId| document.members[id].machine.clone();
            let usable = |id: NodeId| !down.iter().any(|d| node(*d) == id);
            let ring = Ring::new(Sealed::new(document.clone()));
            let mut bench = Bench::new(&ring, partition, usable);
            let coordinators = bench.coordinators("dc1");
            prop_assert!(coordinators.len() <= copies as usize);
            prop_assert_eq!(bench.offers("dc1"), !coordinators.is_empty());
            let taken: Vec<_> = std::iter::from_fn(|| bench.take("dc1")).collect();
            prop_assert_eq!(&taken[..coordinators.len()], &coordinators[..]);
            let mut machines: BTreeSet<_> = owners.iter().map(machine).collect();
            for id in &taken {
                prop_assert!(usable(*id) && !owners.contains(id));
                prop_assert!(machines.insert(machine(id)), "a machine twice");
            }
            let missed = document.members.keys().any(|id| usable(*id) && !machines.contains(&machine(id)));
            prop_assert!(!missed || taken.len() == copies as usize * FOR_EACH_OWNER);
            prop_assert_eq!(bench.take("elsewhere"), None);
        }
    }

    proptest! {
        /// Whoever is down: nobody stands in for an owner of another data center, and nobody of another one
        /// is offered before all of the own.
        #[test]
        fn stand_ins_stay_in_their_data_center(
            nodes in 6_u8..12,
            copies in 1_u32..4,
            down in prop::collection::btree_set(0_u8..12, 0..8),
            index in any::<u32>(),
        ) {
            let document = centers(nodes, copies, 2);
            let k = document.partition_bits;
            let partition = Partition { k, index: index % (1 << k) };
            let ring = Ring::new(Sealed::new(document.clone()));
            let usable = |id: NodeId| !down.iter().any(|d| node(*d) == id);
            let mut bench = Bench::new(&ring, partition, usable);
            let center = |id: &NodeId| document.members[id].datacenter.clone();
            for local in ["dc1", "dc2"] {
                let order: Vec<_> = bench.coordinators(local).iter().map(center).collect();
                let own = order.iter().take_while(|name| *name == local).count();
                prop_assert!(order[own..].iter().all(|name| name != local), "{order:?}");
            }
            for name in ["dc1", "dc2"] {
                let spare = document.members.iter().filter(|(id, member)| {
                    member.datacenter == name && usable(**id) && !ring.is_owner(partition, **id)
                });
                let spare = spare.count();
                prop_assert_eq!(bench.offers(name), spare > 0);
                let taken: Vec<_> = std::iter::from_fn(|| bench.take(name)).collect();
                prop_assert_eq!(taken.len(), spare.min(copies as usize * FOR_EACH_OWNER));
                prop_assert!(taken.iter().all(|id| center(id) == name));
            }
        }
    }

    #[test]
    fn a_node_that_has_its_place_is_not_called_again() {
        let ring = Ring::new(Sealed::new(cluster(6, 3)));
        let partition = Partition { k: ring.document().partition_bits, index: 0 };
        let mut bench = Bench::new(&ring, partition, |_| true);
        let first = bench.coordinators("dc1")[0];
        bench.remove(first);
        assert!(std::iter::from_fn(|| bench.take("dc1")).all(|node| node != first));
    }
}
