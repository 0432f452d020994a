//! Partitions: the 2^k equal arcs into which the ring is cut.
//!
//! A partition is always named by (k, index), never by the index alone: after a doubling index 5
//! means another arc. Doubling splits (k, i) into (k+1, 2i) and (k+1, 2i+1), so a partition of any
//! k is a contiguous range of hashes and of table keys.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest k: 65,536 partitions, enough for more than 3,000 nodes.
pub const MAX_PARTITION_BITS: u8 = 16;

/// One arc of the ring: the hashes whose top `k` bits are `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The ring is cut into 2^k arcs; 0 to [`MAX_PARTITION_BITS`].
    pub k: u8,
    /// Which arc, 0 to 2^k - 1.
    pub index: u32,
}

impl Partition {
    /// The partition of this ring (cut into 2^k arcs) in which a hash lies.
    pub fn of(hash: u64, k: u8) -> Self {
        debug_assert!(k <= MAX_PARTITION_BITS);
        let index = if k == 0 { 0 } else { (hash >> (64 - u32::from(k))) as u32 };
        Self { k, index }
    }

    /// The first and the last hash of the arc, both inside it.
    pub fn range(&self) -> (u64, u64) {
        if self.k == 0 {
            return (0, u64::MAX);
        }
        let width = 64 - u32::from(self.k);
        let first = u64::from(self.index) << width;
        (first, first | (u64::MAX >> self.k))
    }

    /// Does this hash lie in the arc?
    pub fn contains(&self, hash: u64) -> bool {
        Self::of(hash, self.k).index == self.index
    }

    /// The two halves into which a doubling of k splits the arc, lower half first.
    pub fn halves(&self) -> (Self, Self) {
        let (k, index) = (self.k + 1, self.index * 2);
        (Self { k, index }, Self { k, index: index + 1 })
    }

    /// Could this be a partition at all: k in bounds, index below 2^k?
    pub fn is_valid(&self) -> bool {
        self.k <= MAX_PARTITION_BITS && self.index < count(self.k)
    }

    /// All partitions of a ring cut into 2^k arcs, in ring order.
    pub fn all(k: u8) -> impl Iterator<Item = Self> {
        (0..count(k)).map(move |index| Self { k, index })
    }
}

/// How many partitions a ring has that is cut by k bits.
pub fn count(k: u8) -> u32 {
    1 << k.min(MAX_PARTITION_BITS)
}

impl fmt::Display for Partition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.k, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_whole_ring_is_one_partition_at_k_zero() {
        let whole = Partition { k: 0, index: 0 };
        assert_eq!(whole.range(), (0, u64::MAX));
        assert_eq!(Partition::of(u64::MAX, 0), whole);
        assert!(!Partition { k: 0, index: 1 }.is_valid());
    }

    #[test]
    fn arcs_cover_the_ring_without_gap_or_overlap() {
        for k in 0..=8 {
            let mut next = Some(0u64);
            for partition in Partition::all(k) {
                let (first, last) = partition.range();
                assert_eq!(Some(first), next, "{partition}");
                next = last.checked_add(1);
            }
            assert_eq!(next, None, "k {k} ends at the last hash");
        }
    }

    proptest! {
        #[test]
        fn a_hash_lies_in_its_partition_and_in_one_half(hash: u64, k in 0u8..MAX_PARTITION_BITS) {
            let partition = Partition::of(hash, k);
            prop_assert!(partition.is_valid());
            let (first, last) = partition.range();
            prop_assert!(first <= hash && hash <= last);
            let (low, high) = partition.halves();
            prop_assert_eq!(low.contains(hash), !high.contains(hash));
            prop_assert_eq!(low.range().0, first);
            prop_assert_eq!(high.range().1, last);
            let half = Partition::of(hash, k + 1);
            prop_assert!(half == low || half == high);
        }
    }
}
