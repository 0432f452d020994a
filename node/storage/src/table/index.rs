//! What of a table's index and filter stays in memory.
//!
//! The top index is always resident: one entry for about 8 KiB of separators. Index partitions and
//! filter pages are resident while a budget shared by all tables of a store lasts; what does not fit is
//! read through the block cache like data. So memory for them is bounded by configuration, and small
//! stores never read an index or filter from disk twice.

use super::block::Block;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Index partitions in memory, by offset.
pub(crate) struct ResidentIndex {
    pub(crate) partitions: Vec<(u64, Block)>,
    pub(crate) _held: Reservation,
}

impl ResidentIndex {
    /// The partition at `offset`, unless it was damaged when the table was opened.
    pub(crate) fn get(&self, offset: u64) -> Option<&Block> {
        let at = self.partitions.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        Some(&self.partitions[at].1)
    }
}

/// Filter pages in memory, in order; `None` where the stored page was damaged.
pub(crate) struct ResidentFilter {
    pub(crate) pages: Vec<Option<Bytes>>,
    pub(crate) _held: Reservation,
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
