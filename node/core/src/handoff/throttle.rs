//! How fast data that moves may go beside clients: a [`Pace`] whose budget falls when clients wait longer
//! than they did at best, and rises again when they do not.
//!
//! Judged in windows of a second in which enough requests were answered. What clients wait at best is the
//! lowest mean of the last minute or so, so that a load that is slow by itself is not taken for harm. Halved
//! at once, risen by eighths: additive increase, multiplicative decrease, on delay as in LEDBAT (RFC 6817).
//! An eighth of the budget is always granted, so that a move ends under any load.

use std::collections::VecDeque;

use super::pace::Pace;

/// Length of a window.
const WINDOW_MS: u64 = 1_000;
/// Requests without which a window says nothing.
const ENOUGH: u64 = 8;
/// After so long without enough requests there is nobody to yield to.
const QUIET_MS: u64 = 5_000;
/// Windows that are remembered.
const WINDOWS: usize = 64;
/// Waiting times below this are taken for equal.
const FLOOR_US: u64 = 1_000;
/// The share of the budget that is always granted, and by which it rises.
const PARTS: u64 = 8;

/// The budget of one direction of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    pace: Pace,
    most: u64,
    rate: u64,
    since_ms: u64,
    answered: u64,
    waited_us: u64,
    means_us: VecDeque<u64>,
}

impl Throttle {
    /// At most `bytes_per_s`, with which it begins. 0 counts as 1.
    pub fn new(bytes_per_s: u64) -> Self {
        let most = bytes_per_s.max(1);
        Self {
            pace: Pace::new(most),
            most,
            rate: most,
            since_ms: 0,
            answered: 0,
            waited_us: 0,
            means_us: VecDeque::new(),
        }
    }

    /// The bytes a second that are granted now.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Hears at `now_ms` (of a steady clock) how many requests of clients were ever answered and how long
    /// they waited together.
    pub fn feel(&mut self, now_ms: u64, answered: u64, waited_us: u64) {
        let age = now_ms.saturating_sub(self.since_ms);
        let count = answered.saturating_sub(self.answered);
        if age < WINDOW_MS || (count < ENOUGH && age < QUIET_MS) {
            return;
        }
        let waited = waited_us.saturating_sub(self.waited_us);
        (self.since_ms, self.answered, self.waited_us) = (now_ms, answered, waited_us);
        if age > 2 * QUIET_MS {
            // Nothing moved meanwhile: the mean of so long a time says nothing of now.
            return;
        }
        self.rate = if count < ENOUGH { self.most } else { self.judged(waited / count) };
        self.pace.at(self.rate);
    }

    /// The rate after a window in which clients waited so long in the mean.
    fn judged(&mut self, mean_us: u64) -> u64 {
        if self.means_us.len() == WINDOWS {
            self.means_us.pop_front();
        }
        self.means_us.push_back(mean_us);
        let best = self.means_us.iter().copied().min().unwrap_or(mean_us).max(FLOOR_US);
        let part = (self.most / PARTS).max(1);
        if mean_us > best * 2 {
            (self.rate / 2).max(part)
        } else if mean_us * 2 <= best * 3 {
            (self.rate + part).min(self.most)
        } else {
            self.rate
        }
    }

    /// Notes that `bytes` went at `now_ms`. The answer is the pause in milliseconds before more may go.
    pub fn take(&mut self, now_ms: u64, bytes: u64) -> u64 {
        self.pace.take(now_ms, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Seconds of clients that wait so long, 20 requests each; the rate after each.
    fn rates(throttle: &mut Throttle, from_s: u64, means_us: &[u64]) -> Vec<u64> {
        let mut rates = Vec::new();
        for (second, mean) in (from_s + 1..).zip(means_us) {
            let (answered, waited) = (throttle.answered + 20, throttle.waited_us + 20 * mean);
            throttle.feel(second * 1_000, answered, waited);
            rates.push(throttle.rate());
        }
        rates
    }

    #[test]
    fn it_yields_to_clients_that_wait_and_comes_back() {
        let mut throttle = Throttle::new(8_000);
        assert_eq!(
            rates(&mut throttle, 0, &[2_000, 2_500, 5_000, 9_000]),
            [8_000, 8_000, 4_000, 2_000]
        );
        assert_eq!(rates(&mut throttle, 4, &[9_000, 9_000]), [1_000, 1_000], "an eighth stays");
        assert_eq!(rates(&mut throttle, 6, &[3_500, 3_000, 2_000]), [1_000, 2_000, 3_000]);
        // Nobody is there to yield to.
        let (answered, waited) = (throttle.answered + 3, throttle.waited_us);
        throttle.feel(10_000, answered, waited);
        assert_eq!(throttle.rate(), 3_000, "too few requests say nothing yet");
        throttle.feel(14_000, answered, waited);
        assert_eq!(throttle.rate(), 8_000);
    }

    #[test]
    fn fast_clients_and_clients_that_were_always_slow_are_not_yielded_to() {
        let mut throttle = Throttle::new(8_000);
        assert_eq!(rates(&mut throttle, 0, &[100, 900, 1_900]), [8_000; 3]);
        let mut throttle = Throttle::new(8_000);
        assert_eq!(rates(&mut throttle, 0, &[400_000; 20]), [8_000; 20]);
    }

    proptest! {
        #[test]
        fn an_eighth_is_always_granted_and_never_more_than_all(
            most in 8_u64..1_000_000,
            means in prop::collection::vec(0_u64..1_000_000, 1..200),
        ) {
            let mut throttle = Throttle::new(most);
            for rate in rates(&mut throttle, 0, &means) {
                prop_assert!((most / PARTS..=most).contains(&rate));
            }
            let pause = throttle.take(means.len() as u64 * 1_000, most);
            prop_assert!(pause <= 2_000);
        }
    }
}
