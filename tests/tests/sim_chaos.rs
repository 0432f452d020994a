//! Random stories: ten simulated minutes each on five nodes under random faults, judged by every rule. And
//! the harness itself: the same seed is the same run.
//!
//! `KVASIR_SEEDS` bounds how many seeds a quick look takes; `tests/run soak` takes more.

use kvasir_tests::sim::{Story, hunt};

/// How many of the 60 seeds a run takes.
fn seeds() -> u64 {
    std::env::var("KVASIR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60)
}

#[test]
fn random_stories_break_no_rule() {
    let found = hunt::hunt(0..seeds(), Story::random);
    found.assert_good();
    assert!(found.least_overlap >= 20, "only {} % of some run met a fault", found.least_overlap);
    if found.stories >= 10 {
        assert_eq!(found.work.missing(), vec![], "what was never done was never tried");
    }
    if found.stories >= 60 {
        let kinds = [
            "crash", "pause", "slow", "disk", "full", "split", "oneway", "bridge", "swizzle",
            "weather", "clock", "wipe", "empty", "rewind", "swap",
        ];
        for kind in kinds {
            assert!(found.fired.contains_key(kind), "no {kind} in {} stories", found.stories);
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let (first, second) = (hunt::told(&Story::random(7)), hunt::told(&Story::random(7)));
    assert_eq!(first.violations, second.violations);
    assert_eq!((first.trace, first.outcomes), (second.trace, second.outcomes));
    assert_ne!(first.trace, hunt::told(&Story::random(8)).trace, "another seed, another run");
}
