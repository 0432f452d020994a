//! Stories in which a few nodes are cut off from the others.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::script::{Fault, Script, Timed};
use super::story::Story;

impl Story {
    /// Under a minute on five nodes, two of which are cut off from the others, twice: there, keys whose owners
    /// are all on the other side are kept by stand-ins alone.
    pub fn apart(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xa9);
        let split = |turn: u64| {
            let one = rng.random_range(0..5);
            let other = (one + rng.random_range(1..5)) % 5;
            let fault = Fault::Split(BTreeSet::from([one, other]));
            Timed { at: 1_000 + turn * 25_000, lasts: 18_000, fault }
        };
        let script = Script((0..2).map(split).collect());
        let (chaos_ms, query) = (50_000, "timeout=2s");
        Self { chaos_ms, script, query, strict: false, think_ms: 500, ..Self::random(seed) }
    }
}
