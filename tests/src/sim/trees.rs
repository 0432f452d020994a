//! Stories in which nothing but hash trees mends.

use kvasir::planted::Planted;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::script::{Fault, Timed, drawn};
use super::story::Story;

impl Story {
    /// Faults of every kind, one of which is certain to be in a story with the number of its place.
    pub const KINDS: [&str; 15] = [
        "crash", "pause", "slow", "disk", "full", "split", "oneway", "bridge", "swizzle",
        "weather", "clock", "swap", "wipe", "empty", "rewind",
    ];

    /// A short story on three nodes without hand-back, hints and repair by reads. Reads do not write back, so
    /// that a write that was not acknowledged may be seen once and not again.
    pub fn trees(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x7ee5);
        let short = Self::short(seed);
        let wanted = Self::KINDS[seed as usize % Self::KINDS.len()];
        let fault = of_kind(wanted, &mut rng, short.hosts);
        let (at, lasts) = (rng.random_range(1_000..15_000), rng.random_range(3_000..12_000));
        let mut script = short.script.clone();
        script.0.push(Timed { at, lasts, fault });
        script.0.sort_by_key(|timed| timed.at);
        Self {
            word: "--trees ",
            strict: false,
            query: "timeout=2s&sloppy=false",
            planted: Planted::default().with_trees_alone(),
            script,
            ..short
        }
    }
}

fn of_kind(kind: &str, rng: &mut SmallRng, hosts: usize) -> Fault {
    let host = rng.random_range(0..hosts);
    match kind {
        "wipe" => Fault::Wipe(host),
        "empty" => Fault::Empty(host),
        "rewind" => Fault::Rewind(host),
        _ => loop {
            let fault = drawn(rng, hosts);
            if fault.kind() == kind {
                return fault;
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_stories_and_no_story_loses_two_volumes() {
        for seed in 0..60 {
            let script = Story::trees(seed).script;
            let wanted = Story::KINDS[seed as usize % Story::KINDS.len()];
            assert!(script.0.iter().any(|timed| timed.fault.kind() == wanted), "seed {seed}");
            assert!(script.0.iter().filter(|timed| timed.fault.spoils()).count() <= 1);
        }
    }
}
