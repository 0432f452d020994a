//! Where keys and subtrees are: a place is a key as replicas sort it, a node is a prefix of the hash.

use crate::ring::Partition;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Fewest bits of a tree: a partition of the finest ring is one leaf then.
pub const BITS_MIN: u8 = 16;
/// Most bits of a tree: half a gibibyte of leaves, where one node owns everything.
pub const BITS_MAX: u8 = 26;

/// The place of a key: `hash (big-endian) | length of the bucket (1) | bucket | key`. Places sort by hash, so
/// the keys of a subtree are one range of them.
pub fn place(hash: u64, bucket: &[u8], key: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(9 + bucket.len() + key.len());
    bytes.extend_from_slice(&hash.to_be_bytes());
    bytes.push(bucket.len() as u8);
    bytes.extend_from_slice(bucket);
    bytes.extend_from_slice(key);
    bytes.into()
}

/// A subtree: all hashes whose top `depth` bits are `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node {
    /// How many bits, at most [`BITS_MAX`].
    pub depth: u8,
    /// Their value.
    pub index: u32,
}

impl Node {
    /// The subtree of a partition.
    pub fn of(partition: Partition) -> Self {
        Self { depth: partition.k, index: partition.index }
    }

    /// Could this be a node at all?
    pub fn is_valid(self) -> bool {
        self.depth <= BITS_MAX && u64::from(self.index) < 1 << self.depth
    }

    /// Its first and its last hash.
    pub fn range(self) -> (u64, u64) {
        if self.depth == 0 {
            return (0, u64::MAX);
        }
        let first = u64::from(self.index) << (64 - u32::from(self.depth));
        (first, first | (u64::MAX >> self.depth))
    }

    /// The nodes `step` bits below it, in order.
    pub fn below(self, step: u8) -> impl Iterator<Item = Self> {
        let (depth, first) = (self.depth + step, self.index << step);
        (0..1 << step).map(move |more| Self { depth, index: first + more })
    }

    /// The node above or at it that has so many bits.
    pub fn above(self, depth: u8) -> Self {
        Self { depth, index: self.index >> self.depth.saturating_sub(depth) }
    }

    /// Does a place lie in it?
    pub fn holds(self, place: &[u8]) -> bool {
        let (first, last) = self.range();
        place.first_chunk().is_some_and(|head| {
            let hash = u64::from_be_bytes(*head);
            (first..=last).contains(&hash)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_subtree_and_its_children_cut_it_evenly() {
        let partition = Partition { k: 3, index: 5 };
        let node = Node::of(partition);
        assert_eq!(node.range(), partition.range());
        let below: Vec<Node> = node.below(2).collect();
        assert_eq!(below.len(), 4);
        assert_eq!(below[0].range().0, node.range().0);
        assert_eq!(below[3].range().1, node.range().1);
        assert!(below.windows(2).all(|two| two[0].range().1 + 1 == two[1].range().0));
        assert!(below.iter().all(|child| child.above(3) == node));
        assert!(node.holds(&place(node.range().0, b"b", b"k")) && !node.holds(b"short"));
        assert!(!node.holds(&place(node.range().1.wrapping_add(1), b"b", b"k")));
        assert_eq!(Node { depth: 0, index: 0 }.range(), (0, u64::MAX));
        assert!(!Node { depth: 2, index: 4 }.is_valid());
        assert!(!Node { depth: BITS_MAX + 1, index: 0 }.is_valid());
    }
}
