//! How much a node doubts itself: the more it does, the longer it waits before it judges others.
//!
//! A node that is starved of processor time, or that nobody hears, sees the silence of everybody
//! else; the fault is its own. Three signs of that raise the doubt by one: its own tick came late,
//! somebody believed it to be down, or it asked members that are alive about a silent one and none
//! of them answered. A calm time lowers it again.
//!
//! Invariant: between 0 and [`DOUBT_MAX`]. It only ever lengthens the accepted pause.
//!
//! Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure
//! Detection" (2018).

/// The most that a node doubts itself.
pub(super) const DOUBT_MAX: u32 = 4;
/// Ticks without a sign after which the doubt falls by one.
const CALM_TICKS: u32 = 5;

/// The doubt, and what it is reckoned from.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt {
    level: u32,
    calm: u32,
    last_tick_ms: Option<u64>,
}

impl Doubt {
    /// A sign that the fault is this node's.
    pub fn raise(&mut self) {
        self.level = (self.level + 1).min(DOUBT_MAX);
        self.calm = 0;
    }

    /// The node ticks. A tick that comes half an interval late is a sign.
    pub fn tick(&mut self, now_ms: u64, interval_ms: u64) {
        let since = self.last_tick_ms.map_or(0, |last| now_ms.saturating_sub(last));
        self.last_tick_ms = Some(now_ms);
        if since > interval_ms + interval_ms / 2 {
            self.raise();
            return;
        }
        self.calm += 1;
        if self.calm >= CALM_TICKS {
            self.calm = 0;
            self.level = self.level.saturating_sub(1);
        }
    }

    /// How much now.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The pause that is accepted of others: half of it more for each step of doubt.
    pub fn stretch(&self, pause_ms: u64) -> u64 {
        pause_ms + pause_ms * u64::from(self.level) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_ticks_raise_it_and_calm_ones_lower_it() {
        let mut doubt = Doubt::default();
        let mut now = 0;
        doubt.tick(now, 1_000);
        for late in 1..=6 {
            now += 1_600;
            doubt.tick(now, 1_000);
            assert_eq!(doubt.level(), late.min(DOUBT_MAX));
        }
        assert_eq!(doubt.stretch(2_500), 7_500);
        for _ in 0..DOUBT_MAX * CALM_TICKS {
            now += 1_010;
            doubt.tick(now, 1_000);
        }
        assert_eq!(doubt.stretch(2_500), 2_500);
        doubt.tick(now + 10, 1_000);
        assert_eq!(doubt.level(), 0, "an early tick is no sign");
    }
}
