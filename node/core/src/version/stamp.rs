//! Hybrid clock stamps: close to the wall clock, never behind what was already seen.
//!
//! Stamps never decide what supersedes what (contexts do). They order siblings for people, and
//! decide between siblings in last-write-wins buckets, where a later write must not get a lower
//! stamp merely because another machine's clock is slow.
//!
//! A clock that is far ahead must not take all others along: a stamp more than [`AHEAD_MAX_MS`] ahead of
//! the own wall clock is not followed. It is stored as it is, since replicas must hold equal bytes, and a
//! later write still wins over it where it covers it. In the same way a clock that was set back by more
//! than that begins anew at the wall clock.
//!
//! Source: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks" (2014), in the
//! usual packing of 48 bits of milliseconds and 16 bits of counter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 48 bits of Unix milliseconds, then 16 bits that order events within one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

/// How far ahead of the own wall clock a stamp may be and still be followed, in milliseconds: one minute,
/// far above what synchronised clocks differ by.
pub const AHEAD_MAX_MS: u64 = 60_000;

const LOGICAL_BITS: u32 = 16;
const MILLIS_MAX: u64 = (1 << 48) - 1;

impl Stamp {
    /// The first stamp of this Unix millisecond. Milliseconds beyond 48 bits (year 10889) are
    /// taken as the last that fits.
    pub const fn from_millis(ms: u64) -> Self {
        let ms = if ms > MILLIS_MAX { MILLIS_MAX } else { ms };
        Self(ms << LOGICAL_BITS)
    }

    /// The stamp after this one. The last of all has none: it stands still instead of wrapping.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Unix milliseconds.
    pub const fn millis(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.millis(), self.0 & ((1 << LOGICAL_BITS) - 1))
    }
}

/// Gives out stamps that rise, whatever the wall clock does.
#[derive(Debug, Clone, Default)]
pub struct HybridClock {
    last: Stamp,
}

impl HybridClock {
    /// A clock that has seen nothing.
    pub const fn new() -> Self {
        Self { last: Stamp(0) }
    }

    /// A stamp above every stamp given out or observed before, and not below `wall_ms` (Unix
    /// milliseconds). At the very end of the range it stands still instead of wrapping. Where the wall
    /// clock went back by more than [`AHEAD_MAX_MS`], stamps go back with it.
    pub fn now(&mut self, wall_ms: u64) -> Stamp {
        if self.last > limit(wall_ms) {
            self.last = Stamp(0);
        }
        let next = self.last.next();
        self.last = next.max(Stamp::from_millis(wall_ms));
        self.last
    }

    /// Hears a stamp made elsewhere: later ones of this clock will be above it. False, and it is not
    /// followed, where it is more than [`AHEAD_MAX_MS`] ahead of `wall_ms`.
    pub fn observe(&mut self, stamp: Stamp, wall_ms: u64) -> bool {
        let near = stamp <= limit(wall_ms);
        if near {
            self.last = self.last.max(stamp);
        }
        near
    }

    /// How far the last stamp is ahead of `wall_ms`, in milliseconds.
    pub fn lead_ms(&self, wall_ms: u64) -> u64 {
        self.last.millis().saturating_sub(wall_ms)
    }
}

/// The highest stamp that is followed at this time.
fn limit(wall_ms: u64) -> Stamp {
    match wall_ms.saturating_add(AHEAD_MAX_MS + 1) {
        ms if ms > MILLIS_MAX => Stamp(u64::MAX),
        ms => Stamp::from_millis(ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_while_the_wall_clock_stands_or_falls() {
        let mut clock = HybridClock::new();
        let first = clock.now(1_000);
        let second = clock.now(1_000);
        let third = clock.now(10);
        assert!(first < second && second < third);
        assert_eq!(first, Stamp::from_millis(1_000));
        assert_eq!(third.millis(), 1_000);
        assert_eq!(clock.now(2_000), Stamp::from_millis(2_000));
    }

    #[test]
    fn goes_on_above_what_it_heard() {
        let mut clock = HybridClock::new();
        assert!(clock.observe(Stamp::from_millis(5_000), 1_000));
        assert!(clock.now(1_000) > Stamp::from_millis(5_000));
        assert_eq!(clock.lead_ms(1_000), 4_000);
        assert!(clock.observe(Stamp::from_millis(1), 1_000));
        assert!(clock.now(1_000) > Stamp::from_millis(5_000));
    }

    #[test]
    fn the_end_of_the_range_does_not_wrap() {
        let mut clock = HybridClock::new();
        assert!(clock.observe(Stamp(u64::MAX), MILLIS_MAX));
        assert_eq!(clock.now(MILLIS_MAX), Stamp(u64::MAX));
        assert_eq!(Stamp::from_millis(u64::MAX).millis(), MILLIS_MAX);
    }

    #[test]
    fn a_clock_that_is_far_ahead_takes_nobody_along() {
        let (mut clock, wall) = (HybridClock::new(), 1_000_000);
        assert!(clock.observe(Stamp::from_millis(wall + AHEAD_MAX_MS), wall), "the very edge");
        let followed = clock.now(wall);
        assert_eq!(followed.millis(), wall + AHEAD_MAX_MS);
        let far = Stamp::from_millis(wall + 3_600_000);
        assert!(!clock.observe(far, wall));
        assert!(clock.now(wall) > followed && clock.now(wall) < far);
        assert!(clock.observe(far, wall + 3_600_000), "by then it is not ahead any more");
    }

    #[test]
    fn a_clock_that_was_set_back_far_begins_anew() {
        let mut clock = HybridClock::new();
        let wrong = clock.now(9_000_000);
        assert!(clock.now(9_000_000 - AHEAD_MAX_MS) > wrong, "a little: stamps go on rising");
        let right = clock.now(1_000_000);
        assert_eq!(right, Stamp::from_millis(1_000_000));
        assert!(clock.now(1_000_000) > right);
    }

    #[test]
    fn more_events_than_a_millisecond_has_counters_run_ahead_of_the_wall() {
        let mut clock = HybridClock::new();
        let mut last = clock.now(7);
        for _ in 0..70_000 {
            let next = clock.now(7);
            assert!(next > last);
            last = next;
        }
        assert_eq!(last.millis(), 8);
    }
}
