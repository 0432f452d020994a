//! How fast a receiver wants to be handed things back: a budget of bytes per second that fills with
//! time, shared by all who hand back to it. Each answer says how long the sender is to pause.

/// Longest pause that is asked for; a sender that comes back too early is told the next one.
const PAUSE_MAX_MS: u64 = 2_000;

/// The budget of one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    bytes_per_s: u64,
    /// Bytes taken that the budget does not cover yet, times 1,000.
    debt: u64,
    since_ms: u64,
}

impl Pace {
    /// A budget that begins unspent. 0 bytes per second counts as 1.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), debt: 0, since_ms: 0 }
    }

    /// Goes on with another budget.
    pub fn at(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s.max(1);
    }

    /// Notes that `bytes` were taken at `now_ms` (of a steady clock). The answer is the pause in
    /// milliseconds after which the sender may go on.
    pub fn take(&mut self, now_ms: u64, bytes: u64) -> u64 {
        let paid = now_ms.saturating_sub(self.since_ms).saturating_mul(self.bytes_per_s);
        self.since_ms = self.since_ms.max(now_ms);
        self.debt = self.debt.saturating_sub(paid).saturating_add(bytes.saturating_mul(1_000));
        (self.debt / self.bytes_per_s).min(PAUSE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A sender that keeps to its pauses takes no more than the budget, give or take one piece.
        #[test]
        fn an_obedient_sender_keeps_to_the_budget(
            bytes_per_s in 1_000_u64..1_000_000,
            pieces in prop::collection::vec(1_u64..2_000, 1..200),
        ) {
            let mut pace = Pace::new(bytes_per_s);
            let (mut now, mut sent) = (0, 0);
            for bytes in &pieces {
                let pause = pace.take(now, *bytes);
                sent += bytes;
                now += pause;
                prop_assert!(pause <= PAUSE_MAX_MS);
                // A pause is cut to whole milliseconds.
                prop_assert!(sent * 1_000 <= (now + 1) * bytes_per_s + bytes * 1_000);
            }
        }
    }

    #[test]
    fn time_pays_the_debt() {
        let mut pace = Pace::new(1_000);
        assert_eq!(pace.take(0, 500), 500);
        assert_eq!(pace.take(500, 100), 100);
        assert_eq!(pace.take(10_000, 1), 1);
        assert_eq!(pace.take(10_000, 1_000_000), PAUSE_MAX_MS);
        assert_eq!(Pace::new(0).take(0, 1), 1_000);
    }
}
