//! Until which generation a member held stand-in copies, by the stamp of what is in them.
//!
//! A copy is handed back under a fresh stamp, so a value as old as its own stamp may be on its way until
//! two generations after the member last held it. [`Held::until`] answers for any stamp; what it forgets
//! to stay small it answers too late, never too early.

use serde::{Deserialize, Serialize};

/// Stamps told apart. More are joined, to the later generation.
const STEPS: usize = 4;

/// A copy that went so many generations ago holds nothing up any more, since members are never more
/// than one generation apart.
const FORGOTTEN_AFTER: u64 = 8;

/// A step function: for a stamp, the last generation in which the member held a copy with that stamp or
/// a lower one. Generation 0 stands for never.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Held {
    /// (stamp, generation), both rising; unused steps are (0, 0), at the end.
    steps: [(u64, u64); STEPS],
    /// The lowest stamp of the copies held now.
    lowest: Option<u64>,
}

impl Held {
    /// What a member knows after a start at `generation`: it may have held anything until then.
    pub fn unknown(generation: u64) -> Self {
        let mut steps = [(0, 0); STEPS];
        steps[0] = (0, generation);
        Self { steps, lowest: None }
    }

    /// What a member tells at `generation` before it has looked what it holds.
    pub fn anything(generation: u64) -> Self {
        Self { lowest: Some(0), ..Self::unknown(generation) }
    }

    /// Notes what is held at `generation`, which never falls: the lowest stamp, if there is any copy.
    /// To be told at every change of either.
    pub fn note(&mut self, generation: u64, lowest: Option<u64>) {
        self.lowest = lowest;
        let mut kept: Vec<(u64, u64)> = self.steps().collect();
        kept.retain(|(_, last)| last.saturating_add(FORGOTTEN_AFTER) > generation);
        if let Some(lowest) = lowest {
            kept.retain(|(stamp, _)| *stamp < lowest);
            if kept.last().is_none_or(|(_, last)| *last < generation) {
                kept.push((lowest, generation));
            }
        }
        while kept.len() > STEPS {
            // The lowest stamp of the two with the later generation: too late for some, never too early.
            kept[1].0 = kept[0].0;
            kept.remove(0);
        }
        self.steps = [(0, 0); STEPS];
        for (place, step) in self.steps.iter_mut().zip(kept) {
            *place = step;
        }
    }

    fn steps(&self) -> impl Iterator<Item = (u64, u64)> {
        self.steps.into_iter().filter(|(_, last)| *last > 0)
    }

    /// Whether a copy with this stamp or a lower one is held now.
    pub fn holds(&self, stamp: u64) -> bool {
        self.lowest.is_some_and(|lowest| lowest <= stamp)
    }

    /// The last generation in which a copy with this stamp or a lower one was held; 0 for never, or
    /// so long ago that it does not matter.
    pub fn until(&self, stamp: u64) -> u64 {
        self.steps().take_while(|(from, _)| *from <= stamp).last().map_or(0, |(_, last)| last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_copy_counts_for_its_stamp_and_above() {
        let mut held = Held::default();
        assert_eq!((held.until(9), held.holds(9)), (0, false));
        held.note(5, Some(4));
        held.note(6, Some(4));
        held.note(6, None);
        assert_eq!((held.until(3), held.until(4), held.until(9)), (0, 6, 6));
        assert!(!held.holds(9));
        held.note(7, Some(7));
        assert_eq!((held.until(6), held.until(7)), (6, 7));
        assert!(held.holds(7) && !held.holds(6));
        assert_eq!(Held::unknown(3).until(0), 3);
        assert!(Held::anything(3).holds(0));
    }

    proptest! {
        /// Against the whole history: never earlier than the truth of what still matters, and exact
        /// while few stamps were seen.
        #[test]
        fn it_is_never_too_early(
            story in prop::collection::vec((0_u64..3, prop::option::of(1_u64..30)), 1..40),
            stamp in 0_u64..40,
        ) {
            let (mut held, mut generation, mut truth) = (Held::default(), 1, 0);
            let mut seen = std::collections::BTreeSet::new();
            for (rise, lowest) in story {
                generation += rise.min(1);
                held.note(generation, lowest);
                seen.extend(lowest);
                if lowest.is_some_and(|lowest| lowest <= stamp) {
                    truth = generation;
                }
                prop_assert_eq!(held.holds(stamp), lowest.is_some_and(|l| l <= stamp));
            }
            let told = held.until(stamp);
            if truth + FORGOTTEN_AFTER > generation {
                prop_assert!(told >= truth);
            }
            if seen.len() <= STEPS && told > 0 {
                prop_assert_eq!(told, truth);
            }
        }
    }
}
