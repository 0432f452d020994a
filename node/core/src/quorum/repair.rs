//! What the replicas of a read disagree about, and who has to be told the merged result.
//!
//! A read gets the whole set from one replica and digests from the others. If all digests are
//! equal nothing is to do; otherwise one full set per *different* digest is fetched (replicas with
//! equal digests hold equal sets), the sets are merged, and every replica whose digest is not that
//! of the merge lacks something. A replica that holds nothing under the key answers "nothing",
//! which is a digest of its own: absence is a difference to repair, never evidence of a deletion.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;

/// The answers of the replicas of one read; `D` is the digest of a canonical set.
#[derive(Debug, Clone)]
pub struct Replies<D> {
    digests: BTreeMap<NodeId, Option<D>>,
    /// Replicas whose full set is at hand.
    full: BTreeSet<NodeId>,
}

/// What is left to do once the full sets are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Replicas that lack part of the merged result: it is to be sent to them.
    pub lacking: Vec<NodeId>,
    /// Replicas that already held exactly the merged result.
    pub agreeing: Vec<NodeId>,
}

impl<D: Ord> Default for Replies<D> {
    fn default() -> Self {
        Self { digests: BTreeMap::new(), full: BTreeSet::new() }
    }
}

impl<D: Ord> Replies<D> {
    /// No answers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a replica's answer by its digest, `None` for "holds nothing". A later answer of the
    /// same replica replaces the earlier one, and its full set is no longer at hand.
    pub fn digest(&mut self, node: NodeId, digest: Option<D>) {
        self.full.remove(&node);
        self.digests.insert(node, digest);
    }

    /// Notes a replica's answer whose full set is at hand, by the digest of that set.
    pub fn full(&mut self, node: NodeId, digest: Option<D>) {
        self.digests.insert(node, digest);
        self.full.insert(node);
    }

    /// How many replicas answered.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether nobody answered yet.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether all replicas that answered hold the same set (or all hold nothing).
    pub fn agree(&self) -> bool {
        let mut digests = self.digests.values();
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    /// The replicas to ask for their full set: one for every digest that none of the full sets at
    /// hand has. "Holds nothing" needs no fetch. Empty when everything needed is at hand.
    pub fn to_fetch(&self) -> Vec<NodeId> {
        let mut known: BTreeSet<&D> =
            self.full.iter().filter_map(|node| self.digests.get(node)?.as_ref()).collect();
        let mut fetch = Vec::new();
        for (node, digest) in &self.digests {
            if let Some(digest) = digest
                && known.insert(digest)
            {
                fetch.push(*node);
            }
        }
        fetch
    }

    /// Who lacks the merged result, whose digest is `merged` (`None` when nobody holds anything).
    pub fn repair(&self, merged: Option<&D>) -> Repair {
        let (agreeing, lacking): (Vec<_>, Vec<_>) =
            self.digests.iter().partition(|(_, digest)| digest.as_ref() == merged);
        let names = |part: Vec<(&NodeId, &Option<D>)>| part.into_iter().map(|(n, _)| *n).collect();
        Repair { lacking: names(lacking), agreeing: names(agreeing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn equal_answers_need_nothing() {
        let mut replies = Replies::new();
        replies.full(node(1), Some(7));
        replies.digest(node(2), Some(7));
        assert!(replies.agree());
        assert!(replies.to_fetch().is_empty());
        let repair = replies.repair(Some(&7));
        assert_eq!(repair, Repair { lacking: vec![], agreeing: vec![node(1), node(2)] });
    }

    #[test]
    fn one_fetch_per_different_digest_and_everyone_behind_is_repaired() {
        let mut replies = Replies::new();
        replies.full(node(1), Some(7));
        replies.digest(node(2), Some(8));
        replies.digest(node(3), Some(8));
        replies.digest(node(4), None);
        assert!(!replies.agree());
        assert_eq!(replies.to_fetch(), vec![node(2)]);
        replies.full(node(2), Some(8));
        assert!(replies.to_fetch().is_empty());
        // The merge of both differs from each: all four lack something.
        assert_eq!(replies.repair(Some(&9)).lacking.len(), 4);
        // The second set contains the first: only the others lack it.
        assert_eq!(replies.repair(Some(&8)).lacking, vec![node(1), node(4)]);
    }

    #[test]
    fn a_new_digest_of_the_same_replica_is_fetched_again() {
        let mut replies = Replies::new();
        replies.full(node(1), Some(7));
        replies.digest(node(1), Some(8));
        assert_eq!(replies.to_fetch(), vec![node(1)]);
    }

    proptest! {
        /// Sets of small numbers stand for sibling sets, union for merge: after fetching what is
        /// asked and repairing who lacks, everyone holds the union, and nobody is sent what it has.
        #[test]
        fn repair_brings_everyone_to_the_merge(
            held in prop::collection::vec(prop::collection::btree_set(0_u8..4, 0..4), 1..6),
            full in 0_usize..6,
        ) {
            let digest = |set: &BTreeSet<u8>| (!set.is_empty()).then(|| set.clone());
            let mut replies = Replies::new();
            for (number, set) in held.iter().enumerate() {
                replies.digest(node(number as u8), digest(set));
            }
            let full = full % held.len();
            replies.full(node(full as u8), digest(&held[full]));
            let mut merged = held[full].clone();
            for fetched in replies.to_fetch() {
                merged.extend(&held[usize::from(fetched.as_bytes()[0])]);
            }
            let union: BTreeSet<u8> = held.iter().flatten().copied().collect();
            prop_assert_eq!(&merged, &union);
            let repair = replies.repair(digest(&merged).as_ref());
            for (number, set) in held.iter().enumerate() {
                let lacks = repair.lacking.contains(&node(number as u8));
                prop_assert_eq!(lacks, set != &union);
                prop_assert_eq!(repair.agreeing.contains(&node(number as u8)), !lacks);
            }
        }
    }
}
