//! Phi accrual: how surprising a silence is, given how regular the heartbeats were.
//!
//! The intervals between advances of a member's counter, as this node saw them, are kept in a
//! bounded window and taken as normally distributed. Phi is -log10 of the chance that a heartbeat
//! comes later than the present silence: phi 1 is wrong one time in ten, phi 8 one in 10^8 (as far
//! as the distribution holds, hence the floor on the deviation and the accepted pause).
//!
//! Source: Hayashibara, Defago, Yared, Katayama, "The phi Accrual Failure Detector" (SRDS 2004).
//! The tail of the normal distribution is taken by Sampford's bound, Q(x) < 4 phi(x) / (3x +
//! sqrt(x^2 + 8)): monotone, never under- or overflows in its logarithm, and within 0.06 of the
//! exact phi for all x >= 0.

use crate::gossip::config::GossipConfig;

/// Intervals that are remembered.
const WINDOW: usize = 32;

/// The recent intervals between a member's heartbeats, in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    samples: [u16; WINDOW],
    filled: u8,
    next: u8,
    sum: u32,
    squares: u64,
    last_ms: u64,
}

impl Arrivals {
    /// A member first heard of at `now_ms`. Two made-up intervals, one and two gossip intervals
    /// long, stand in for the history that is not there yet.
    pub fn new(now_ms: u64, interval_ms: u64) -> Self {
        let mut arrivals =
            Self { samples: [0; WINDOW], filled: 0, next: 0, sum: 0, squares: 0, last_ms: now_ms };
        arrivals.push(interval_ms);
        arrivals.push(2 * interval_ms);
        arrivals
    }

    /// A heartbeat came; `learn` says whether its interval belongs to the usual ones (the end of an
    /// outage does not).
    pub fn heard(&mut self, now_ms: u64, learn: bool) {
        if learn {
            self.push(now_ms.saturating_sub(self.last_ms));
        }
        self.last_ms = now_ms;
    }

    /// When the last heartbeat came.
    pub fn last_ms(&self) -> u64 {
        self.last_ms
    }

    /// Suspicion at `now_ms`; never negative. `pause_ms` of silence beyond the mean are accepted.
    pub fn phi(&self, now_ms: u64, config: &GossipConfig, pause_ms: u64) -> f64 {
        let silence = now_ms.saturating_sub(self.last_ms);
        if silence <= pause_ms {
            return 0.0;
        }
        let count = f64::from(self.filled.max(1));
        let mean = f64::from(self.sum) / count;
        let variance = (self.squares as f64 / count - mean * mean).max(0.0);
        let deviation = variance.sqrt().max(config.deviation_floor_ms as f64);
        phi_of((silence as f64 - pause_ms as f64 - mean) / deviation)
    }

    fn push(&mut self, interval_ms: u64) {
        let sample = u16::try_from(interval_ms).unwrap_or(u16::MAX);
        let place = &mut self.samples[usize::from(self.next)];
        if usize::from(self.filled) == WINDOW {
            self.sum -= u32::from(*place);
            self.squares -= u64::from(*place).pow(2);
        } else {
            self.filled += 1;
        }
        *place = sample;
        self.sum += u32::from(sample);
        self.squares += u64::from(sample).pow(2);
        self.next = (self.next + 1) % WINDOW as u8;
    }
}

/// -log10 of the upper tail of the normal distribution at `x` deviations.
fn phi_of(x: f64) -> f64 {
    const HALF_LOG10_TAU: f64 = 0.399_089_934_179_057_5;
    let log_tail = |x: f64| {
        let factor = 4.0 / (3.0 * x + (x * x + 8.0).sqrt());
        factor.log10() - x * x / 2.0 * std::f64::consts::LOG10_E - HALF_LOG10_TAU
    };
    if x >= 0.0 {
        return -log_tail(x);
    }
    // The bound is 13 % high at 0; scaled so that the two halves meet there.
    let at_zero = 10_f64.powf(log_tail(0.0));
    -(1.0 - (1.0 - at_zero) / at_zero * 10_f64.powf(log_tail(-x))).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_the_normal_distribution() {
        for (x, tail) in [
            (-2.0, 0.977_249_868),
            (-1.0, 0.841_344_746),
            (0.0, 0.5),
            (1.0, 0.158_655_254),
            (2.0, 2.275_013_2e-2),
            (3.0, 1.349_898e-3),
            (6.0, 9.865_876e-10),
            (8.0, 6.220_961e-16),
        ] {
            let exact: f64 = -f64::log10(tail);
            assert!((phi_of(x) - exact).abs() < 0.06, "x {x}: {} for {exact}", phi_of(x));
        }
        assert!(phi_of(1e6).is_finite());
    }

    #[test]
    fn phi_only_rises_with_silence() {
        let config = GossipConfig::default();
        let mut arrivals = Arrivals::new(0, 1_000);
        for second in 1..100 {
            arrivals.heard(second * 1_000, true);
        }
        let mut last = 0.0;
        for silence in (0..30_000).step_by(10) {
            let phi = arrivals.phi(99_000 + silence, &config, 2_500);
            assert!(phi >= last, "at {silence}");
            last = phi;
        }
        assert!(last > 100.0, "{last}");
    }

    #[test]
    fn irregular_heartbeats_are_given_more_time() {
        let config = GossipConfig::default();
        let (mut regular, mut irregular) = (Arrivals::new(0, 1_000), Arrivals::new(0, 1_000));
        let mut now = 0;
        for round in 0..100 {
            now += 1_000;
            regular.heard(now, true);
            irregular.heard(now + if round % 2 == 0 { 900 } else { 0 }, true);
        }
        let phi = |arrivals: &Arrivals, at| arrivals.phi(at, &config, 2_500);
        assert!(phi(&regular, now + 6_000) > phi(&irregular, now + 6_900));
        assert!(phi(&regular, now + 6_000) > regular.phi(now + 6_000, &config, 3_500));
    }

    #[test]
    fn the_window_forgets_and_stays_exact() {
        let mut arrivals = Arrivals::new(0, 1_000);
        let mut now = 0;
        for round in 0..500_u64 {
            now += 1 + round * 131 % 70_000;
            arrivals.heard(now, round % 7 != 0);
        }
        let samples = &arrivals.samples[..usize::from(arrivals.filled)];
        assert_eq!(samples.len(), WINDOW);
        assert_eq!(arrivals.sum, samples.iter().map(|s| u32::from(*s)).sum::<u32>());
        assert_eq!(arrivals.squares, samples.iter().map(|s| u64::from(*s).pow(2)).sum::<u64>());
    }
}
