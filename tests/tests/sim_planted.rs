//! The checker sees: bugs planted in every node, or in every disk, are found by short random stories within
//! 200 seeds each. The same stories without a bug break no rule.

use kvasir::planted::{Bug, Planted};
use kvasir_tests::sim::{Story, hunt};

/// Seeds within which a bug must be found.
const SEEDS: u64 = 200;

/// A short story in which the rules for strict quorums hold.
fn strict(seed: u64) -> Story {
    Story { strict: true, query: "timeout=2s&sloppy=false", ..Story::short(seed) }
}

/// Tells stories until one breaks a rule, and says which.
fn found_by(name: &str, rules: &[&str], story: impl Fn(u64) -> Story) {
    for seed in 0..SEEDS {
        let told = hunt::told(&story(seed));
        if let Some(first) = told.violations.iter().find(|v| rules.contains(&v.rule())) {
            println!("{name}: seed {seed}: {first}");
            return;
        }
    }
    panic!("{name}: not found within {SEEDS} seeds");
}

fn bug(name: &str, rules: &[&str], bug: Bug) {
    found_by(name, rules, |seed| Story { planted: Planted::bug(bug), ..strict(seed) });
}

#[test]
fn without_a_bug_the_same_stories_break_no_rule() {
    let mut broken = Vec::new();
    for seed in 0..6 {
        let told = hunt::told(&strict(seed));
        broken.extend(told.violations.iter().map(|v| format!("seed {seed}: {v}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn one_replica_counted_twice_is_found() {
    bug("counted twice", &["lost", "stale"], Bug::CountTwice);
}

#[test]
fn the_coordinators_context_in_the_token_is_found() {
    bug("coordinator's context", &["lost", "stale"], Bug::CoordinatorToken);
}

#[test]
fn a_sibling_dropped_in_a_merge_is_found() {
    bug("sibling dropped", &["lost", "stale"], Bug::DropSibling);
}

#[test]
fn a_merge_by_wall_clock_is_found() {
    bug("merge by wall clock", &["lost", "stale"], Bug::WallClockMerge);
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found_by("ack before fsync", &["lost", "stale"], |seed| Story {
        skip_sync: Some(".log"),
        ..strict(seed)
    });
}

#[test]
fn a_directory_that_is_never_synced_is_found() {
    found_by("no directory fsync", &["lost", "stale", "not serving"], |seed| Story {
        skip_sync: Some("store/log"),
        ..strict(seed)
    });
}

#[test]
fn a_dot_reused_after_its_write_was_wiped_is_found() {
    found_by("dot reused", &["lost", "dot twice"], |seed| Story {
        strict: false,
        query: "timeout=2s&sloppy=false&durability=memory",
        planted: Planted::bug(Bug::SameTag),
        ..Story::short(seed)
    });
}
