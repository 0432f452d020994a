//! Whether a worker is behind: what was due came late, and went on to do so.
//!
//! How long work waits for its turn, not how much of it waits, says whether a worker keeps up: a burst is
//! worked off, a standing queue is not. So a worker counts as behind once everything was later than the
//! target for a whole interval, and no longer as soon as something is in time. Lately behind, it counts as
//! behind again at once: under lasting overload the wait then stays near the target. Source: CoDel (Nichols
//! and Jacobson, "Controlling Queue Delay", ACM Queue 2012; RFC 8289), with refusal in the place of drops.
//!
//! A single pause, however long, is no standing queue: the next look is in time.

/// How long everything must have been late.
const INTERVAL_US: u64 = 100_000;
/// For how long after it caught up a worker counts as behind at once.
const AGAIN_US: u64 = 1_000_000;

/// The judge of one worker. Times are microseconds of a steady clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    target_us: u64,
    late_us: u64,
    late_since_us: Option<u64>,
    behind: bool,
    caught_up_us: Option<u64>,
}

impl Backlog {
    /// A worker that is in time. Lateness up to `target_us` is in time.
    pub fn new(target_us: u64) -> Self {
        Self { target_us, late_us: 0, late_since_us: None, behind: false, caught_up_us: None }
    }

    /// Hears at `now_us` by how much something came late that was due, the lowest of what came since it
    /// was last told. Work that ended counts as in time: tell 0 when there is nothing left to do.
    pub fn feel(&mut self, now_us: u64, late_us: u64) {
        self.late_us = late_us;
        if late_us <= self.target_us {
            if self.behind {
                self.caught_up_us = Some(now_us);
            }
            (self.behind, self.late_since_us) = (false, None);
            return;
        }
        let since = *self.late_since_us.get_or_insert(now_us);
        let lately = self.caught_up_us.is_some_and(|then| now_us.saturating_sub(then) < AGAIN_US);
        if lately || now_us.saturating_sub(since) >= INTERVAL_US {
            self.behind = true;
        }
    }

    /// Whether the worker is behind.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// What was last felt, in microseconds.
    pub fn late_us(&self) -> u64 {
        self.late_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TARGET: u64 = 50_000;

    #[test]
    fn a_standing_queue_counts_and_a_burst_does_not() {
        let mut backlog = Backlog::new(TARGET);
        // Behind for 90 ms, then in time.
        for (now, late) in [(0, 60_000), (40_000, 90_000), (90_000, 51_000), (95_000, 50_000)] {
            backlog.feel(now, late);
            assert!(!backlog.is_behind(), "at {now}");
        }
        backlog.feel(200_000, 60_000);
        backlog.feel(299_999, 60_000);
        assert!(!backlog.is_behind());
        backlog.feel(300_000, 60_000);
        assert!(backlog.is_behind());
        assert_eq!(backlog.late_us(), 60_000);
        backlog.feel(310_000, 0);
        assert!(!backlog.is_behind(), "one look in time is enough");
    }

    #[test]
    fn a_worker_that_was_behind_lately_is_behind_again_at_once() {
        let mut backlog = Backlog::new(TARGET);
        backlog.feel(0, 60_000);
        backlog.feel(100_000, 60_000);
        backlog.feel(200_000, 0);
        backlog.feel(300_000, 51_000);
        assert!(backlog.is_behind());
        backlog.feel(400_000, 0);
        backlog.feel(1_400_000, 60_000);
        assert!(!backlog.is_behind(), "a second later that is forgotten");
    }

    #[test]
    fn one_long_pause_is_no_standing_queue() {
        let mut backlog = Backlog::new(TARGET);
        backlog.feel(0, 0);
        backlog.feel(60_000_000, 60_000_000);
        assert!(!backlog.is_behind());
        backlog.feel(60_010_000, 10);
        backlog.feel(60_020_000, 60_000);
        assert!(!backlog.is_behind(), "the pause before says nothing of now");
    }

    proptest! {
        /// Behind means that everything was late for an interval, or that it was behind within the last second.
        #[test]
        fn nobody_is_called_behind_without_cause(
            looks in prop::collection::vec((1_u64..60_000, 0_u64..100_000), 1..200),
        ) {
            let mut backlog = Backlog::new(TARGET);
            let (mut now, mut late_since, mut last_behind) = (0, None, None::<u64>);
            for (step, late) in looks {
                now += step;
                backlog.feel(now, late);
                late_since = if late > TARGET { late_since.or(Some(now)) } else { None };
                let long = late_since.is_some_and(|since| now - since >= INTERVAL_US);
                if backlog.is_behind() {
                    prop_assert!(late > TARGET);
                    let lately = last_behind.is_some_and(|then| now - then < AGAIN_US + 60_000);
                    prop_assert!(long || lately);
                    last_behind = Some(now);
                } else {
                    prop_assert!(!long);
                }
            }
        }
    }
}
