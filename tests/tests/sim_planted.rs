//! The checker sees: bugs planted in every node, or in every disk, are found by short random stories within
//! 200 seeds each. The same stories without a bug break no rule.

use kvasir::planted::{Bug, Planted};
use kvasir_tests::sim::{Conditions, Fault, Script, Story, hunt};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Seeds within which a bug must be found.
const SEEDS: u64 = 200;

/// A short story in which the rules for strict quorums hold.
fn strict(seed: u64) -> Story {
    Story { strict: true, query: "timeout=2s&sloppy=false", ..Story::short(seed) }
}

/// The same on five nodes, of which two own nothing of a key and hand requests for it on, while frames come twice.
fn twice(seed: u64) -> Story {
    let conditions = Conditions { twice_permille: 300, delay_ms: 5, ..Conditions::default() };
    Story { hosts: 5, conditions, ..strict(seed) }
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

/// Nodes that stand in for two or three keys at most.
const CAPPED: &[&str] = &["handoff.standins_max_bytes=1KiB"];

fn bug(name: &str, rules: &[&str], bug: Bug) {
    found_by(name, rules, |seed| Story { planted: Planted::bug(bug), ..strict(seed) });
}

#[test]
fn without_a_bug_the_same_stories_break_no_rule() {
    let mut broken = Vec::new();
    let apart = |seed| Story { sets: CAPPED, ..Story::apart(seed) };
    for seed in 0..6 {
        for story in [strict(seed), twice(seed), Story::apart(seed), apart(seed)] {
            let told = hunt::told(&story);
            broken.extend(told.violations.iter().map(|v| format!("seed {seed}: {v}")));
        }
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

/// A write that was handed on is carried out twice: its token covers one of the two, and the other comes back.
#[test]
fn a_request_that_is_worked_on_twice_is_found() {
    found_by("worked on twice", &["returned", "false conflict", "doubled"], |seed| Story {
        planted: Planted::bug(Bug::TakeRepeats),
        ..twice(seed)
    });
}

#[test]
fn a_stand_in_copy_deleted_before_its_acknowledgement_is_found() {
    found_by("stand-in copy deleted before its ack", &["lost"], |seed| Story {
        planted: Planted::bug(Bug::EraseBeforeAck),
        ..Story::apart(seed)
    });
}

#[test]
fn a_stand_in_copy_dropped_at_its_cap_is_found() {
    found_by("stand-in copy dropped at its cap", &["lost"], |seed| Story {
        planted: Planted::bug(Bug::DropAtCap),
        sets: CAPPED,
        ..Story::apart(seed)
    });
}

/// A failure among faults that have nothing to do with it: the script shrinks to those that have, and the
/// one line that is printed holds all that it takes to see the very same run again.
#[test]
fn what_fails_is_made_small_and_one_line_repeats_it() {
    let story = |seed| {
        let apart = Story::apart(seed);
        let mut script = Script::draw(&mut SmallRng::seed_from_u64(seed), 5, 40_000);
        script.0.retain(|t| !t.fault.spoils());
        script.0.extend(apart.script.0.clone());
        Story { planted: Planted::bug(Bug::EraseBeforeAck), script, ..apart }
    };
    let (seed, first) = (0..SEEDS)
        .find_map(|seed| {
            let told = hunt::told(&story(seed));
            let first = told.violations.iter().find(|v| v.rule() == "lost")?;
            Some((seed, first.clone()))
        })
        .expect("the bug is found");
    let whole = story(seed);
    let small = hunt::shrunk(&whole, &first);
    assert!(small.0.len() < whole.script.0.len(), "{} faults were left", small.0.len());
    assert!(small.0.iter().any(|t| matches!(t.fault, Fault::Split(_))), "{small}");
    let line = hunt::line(&Story { script: small.clone(), ..whole.clone() });
    println!("{} faults became {}: {line}", whole.script.0.len(), small.0.len());
    let script: Script = line.split('\'').nth(1).expect("a script in quotes").parse().unwrap();
    let again = [(); 2].map(|()| hunt::told(&Story { script: script.clone(), ..whole.clone() }));
    assert_eq!(again[0].trace, again[1].trace);
    assert_eq!(again[0].violations, again[1].violations);
    assert!(again[0].violations.iter().any(|v| v.rule() == "lost"));
}
