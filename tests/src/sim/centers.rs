//! Stories of two data centers.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::script::{Fault, Script, Timed};
use super::story::Story;

impl Story {
    /// Two minutes on six nodes in two data centers, three copies in each, under random faults, and once the
    /// link between them breaks. Even seeds read and write at a quorum in each of them, odd ones at a quorum
    /// of whichever data center was asked. No volume is lost: two in one data center would end its quorum.
    pub fn centers(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xdc);
        let chaos_ms = 120_000;
        let mut script = Script::draw(&mut rng, 6, chaos_ms - 20_000);
        script.0.retain(|t| !t.fault.spoils());
        script.0.push(Timed {
            at: rng.random_range(20_000..80_000),
            lasts: rng.random_range(2_000..15_000),
            fault: Fault::Split(BTreeSet::from([1, 3, 5])),
        });
        let level = if seed.is_multiple_of(2) { "each_quorum" } else { "local_quorum" };
        Self {
            word: "--centers ",
            hosts: 6,
            centers: 2,
            level,
            chaos_ms,
            script,
            think_ms: 1_000,
            ..Self::random(seed)
        }
    }

    /// How many nodes each acknowledged write names at least: a majority of each data center that its level
    /// looks at.
    pub(super) fn majority(&self) -> usize {
        let looked_at = if self.level.starts_with("local_") { 1 } else { self.centers };
        looked_at * (self.copies / 2 + 1)
    }
}
