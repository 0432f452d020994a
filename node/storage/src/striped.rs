//! Counters that several threads raise at once without sharing a cache line.
//!
//! Each thread gets a stripe when it first counts; threads beyond the number of stripes share. A sum
//! reads all stripes: exact once the counting threads are still.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const STRIPES: usize = 16;

/// The next stripe to be given out.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Kept apart from its neighbours: processors fetch cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// A set of counters for each stripe.
#[derive(Debug, Default)]
pub(crate) struct Striped<T> {
    stripes: [Apart<T>; STRIPES],
}

impl<T> Striped<T> {
    /// The set of this thread.
    #[inline]
    pub(crate) fn mine(&self) -> &T {
        let at = MINE.with(|mine| {
            if mine.get() == usize::MAX {
                mine.set(NEXT.fetch_add(1, Relaxed) % STRIPES);
            }
            mine.get()
        });
        &self.stripes[at % STRIPES].0
    }

    /// One counter over all stripes.
    pub(crate) fn sum(&self, pick: impl Fn(&T) -> &AtomicU64) -> u64 {
        self.stripes.iter().map(|stripe| pick(&stripe.0).load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_stripes() {
        let counters = Striped::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..STRIPES + 3 {
                scope.spawn(|| (0..1000).for_each(|_| _ = counters.mine().fetch_add(1, Relaxed)));
            }
        });
        assert_eq!(counters.sum(|counter| counter), (STRIPES as u64 + 3) * 1000);
    }
}
