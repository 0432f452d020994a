//! What of a table's index and filter stays in memory.
//!
//! The top index is always resident: one entry for about 8 KiB of separators. The rest is resident while
//! a budget shared by all tables of a store lasts; what does not fit is read through the block cache like
//! data. So memory for it is bounded by configuration, and small stores never read an index or filter
//! from disk twice.
//!
//! A resident index is not the stored form: 17 bytes for each data block, the heads of all separators
//! side by side. Keys begin with a hash, so heads lie evenly, and a search guesses the place from the
//! head and corrects the guess: two or three cache lines where a binary search of the stored form would
//! touch ten. Where heads are equal and separators longer than a head, it says so, and the stored form
//! decides.

use super::frame::Handle;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Resident bytes for each data block.
pub(crate) const BYTES_PER_BLOCK: u64 = 17;
/// Separators longer than a head all count as this long.
const LONG: u8 = 9;

/// Bytes that all tables of a store together may keep resident.
#[derive(Debug)]
pub struct ResidentBudget {
    limit: u64,
    used: AtomicU64,
}

impl ResidentBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(ResidentBudget { limit, used: AtomicU64::new(0) })
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing when they do not fit.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reservation { budget: self.clone(), bytes })
    }
}

/// Bytes taken from a budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<ResidentBudget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where a key would lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Nowhere: it is above the last separator.
    Behind,
    /// In the data block of this number, or in none.
    Block(usize),
    /// Separators longer than a head decide: ask the stored index.
    Unsure,
}

/// The index of a table: for each data block the head of its separator and its place.
#[derive(Debug)]
pub(crate) struct ResidentIndex {
    heads: Vec<u64>,
    lengths: Vec<u8>,
    /// Where each block begins; a block ends where the next begins.
    starts: Vec<u64>,
    end: u64,
    _held: Reservation,
}

impl ResidentIndex {
    /// An empty index; the blocks follow from `start` on.
    pub(crate) fn new(start: u64, blocks: usize, held: Reservation) -> Self {
        let (heads, lengths) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        ResidentIndex {
            heads,
            lengths,
            starts: Vec::with_capacity(blocks),
            end: start,
            _held: held,
        }
    }

    /// Appends a block. `false`: it does not lie behind the one before, or the separators are out of
    /// order, so this form cannot name it.
    pub(crate) fn push(&mut self, separator: &[u8], handle: Handle) -> bool {
        let head = super::block::head_of(separator);
        let Some(end) = handle.end() else { return false };
        if handle.offset != self.end || self.heads.last().is_some_and(|last| *last > head) {
            return false;
        }
        self.heads.push(head);
        self.lengths.push(separator.len().min(usize::from(LONG)) as u8);
        self.starts.push(handle.offset);
        self.end = end;
        true
    }

    /// Number of data blocks.
    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    /// First byte behind the blocks.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The place of a block.
    pub(crate) fn handle(&self, block: usize) -> Option<Handle> {
        let offset = *self.starts.get(block)?;
        let end = self.starts.get(block + 1).copied().unwrap_or(self.end);
        Some(Handle { offset, len: u32::try_from(end - offset).ok()? })
    }

    /// Whether the separator of a block is this key, of which `head` is the head.
    pub(crate) fn names(&self, block: usize, key: &[u8], head: u64) -> bool {
        let length = self.lengths.get(block).copied().unwrap_or(LONG);
        // A key longer than a head is no separator that `find` could decide about.
        self.heads.get(block) == Some(&head) && length != LONG && usize::from(length) == key.len()
    }

    /// The first block whose separator is at or above a key with this head.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], head: u64) -> Spot {
        let mut at = self.first_at_or_above(head);
        loop {
            match self.heads.get(at) {
                None => return Spot::Behind,
                Some(separator) if *separator > head => return Spot::Block(at),
                Some(_) => {}
            }
            let length = self.lengths[at];
            if length == LONG {
                return Spot::Unsure;
            }
            // With equal heads the shorter one is a prefix of the other.
            match usize::from(length).cmp(&key.len()) {
                Less => at += 1,
                Equal | Greater => return Spot::Block(at),
            }
        }
    }

    /// The first block whose separator's head is at or above `head`.
    #[inline]
    fn first_at_or_above(&self, head: u64) -> usize {
        let (Some(first), Some(last)) = (self.heads.first(), self.heads.last()) else { return 0 };
        if head <= *first {
            return 0;
        }
        if head > *last {
            return self.heads.len();
        }
        // first < head <= last: `low` stays below the head, `high` at or above it.
        let (mut low, mut high) = (0, self.heads.len() - 1);
        let span = u128::from(last - first);
        let guess = (u128::from(head - first) * high as u128 / span) as usize;
        let (mut at, mut step) = (guess.clamp(1, high), 4);
        // Steps that double lead from the guess to a bracket around the place.
        if self.heads[at] < head {
            while self.heads[at] < head {
                low = at;
                at = (at + step).min(high);
                step *= 2;
            }
            high = at;
        } else {
            while at > 0 && self.heads[at] >= head {
                high = at;
                at = at.saturating_sub(step);
                step *= 2;
            }
            low = at;
        }
        low + 1 + self.heads[low + 1..high].partition_point(|separator| *separator < head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::block::head_of;
    use proptest::prelude::*;

    #[test]
    fn a_budget_is_never_exceeded_and_comes_back() {
        let budget = ResidentBudget::new(100);
        let first = budget.reserve(60);
        assert!(first.is_some());
        assert!(budget.reserve(41).is_none());
        assert!(budget.reserve(u64::MAX).is_none());
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve(100).is_some());
    }

    fn index(separators: &[Vec<u8>]) -> ResidentIndex {
        let held = ResidentBudget::new(0).reserve(0).unwrap();
        let mut index = ResidentIndex::new(24, separators.len(), held);
        for (i, separator) in separators.iter().enumerate() {
            assert!(index.push(separator, Handle { offset: 24 + i as u64 * 10, len: 10 }));
        }
        index
    }

    proptest! {
        #[test]
        fn it_finds_what_a_sorted_list_finds(
            mut separators in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(0u8..3, 0..11),
                    any::<u64>().prop_map(|hash| hash.to_be_bytes()[..5].to_vec()),
                ],
                0..60,
            ),
            probes in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(0u8..3, 0..12),
                    any::<[u8; 9]>().prop_map(|key| key.to_vec()),
                ],
                1..30,
            ),
        ) {
            separators.sort();
            let index = index(&separators);
            for key in probes.iter().chain(&separators) {
                let wanted = separators.partition_point(|separator| separator < key);
                match index.find(key, head_of(key)) {
                    Spot::Block(at) => prop_assert_eq!(at, wanted),
                    Spot::Behind => prop_assert_eq!(wanted, separators.len()),
                    Spot::Unsure => {
                        let mut alike = separators.iter().filter(|s| head_of(s) == head_of(key));
                        prop_assert!(alike.any(|separator| separator.len() > 8));
                    }
                }
            }
        }
    }

    #[test]
    fn a_gap_between_blocks_and_disorder_are_refused() {
        let mut index = index(&[b"b".to_vec(), b"d".to_vec()]);
        assert!(!index.push(b"e", Handle { offset: 45, len: 10 }));
        assert!(!index.push(b"c", Handle { offset: 44, len: 10 }));
        assert!(index.push(b"e", Handle { offset: 44, len: 7 }));
        assert_eq!(index.handle(1), Some(Handle { offset: 34, len: 10 }));
        assert_eq!(index.handle(2), Some(Handle { offset: 44, len: 7 }));
        assert_eq!((index.handle(3), index.end(), index.len()), (None, 51, 3));
    }
}
