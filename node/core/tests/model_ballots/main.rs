//! Every interleaving of the ballots, on the rules that the node runs.
//!
//! The small slices and every refutation run each time; `KVASIR_MODEL_SCALE=2` and more widen the
//! bounds (more rounds, backups of any time, more members, changes of members with a restore). Each
//! test prints what it saw: complete, or the bound.

mod forming;
mod weak;
mod words;
mod world;

use kvasir_core::explore::{Verdict, Walks, search, walk};
use world::{Ballots, Bounds, Weakness};

/// How far to go: 1 in CI.
fn scale() -> usize {
    std::env::var("KVASIR_MODEL_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn run(what: &str, bounds: Bounds, states: usize) -> Verdict {
    let started = std::time::Instant::now();
    let verdict = search(&Ballots::new(bounds), states);
    println!("{what}: {verdict} ({:.1?})", started.elapsed());
    verdict
}

fn holds(what: &str, bounds: Bounds, states: usize) {
    let verdict = run(what, bounds, states * scale());
    assert!(verdict.holds(), "{what}: {verdict}");
}

fn refuted(what: &str, bounds: Bounds) -> usize {
    let verdict = run(what, bounds, 3_000_000);
    verdict.broken_in().unwrap_or_else(|| panic!("{what} was not refuted: {verdict}"))
}

/// One member's volume is rolled back; it may recover once.
const RESTORE: Bounds = Bounds { restores: 1, recoveries: 1, told: false, ..Bounds::CALM };

#[test]
fn two_proposers_agree() {
    holds("two proposers", Bounds::CALM, 600_000);
    holds("three rounds", Bounds { rounds: 3, told: false, ..Bounds::CALM }, 600_000);
    if scale() > 1 {
        let five = Bounds { members: 5, told: false, ..Bounds::CALM };
        holds("five members", five, 600_000);
        holds("three proposers", Bounds { proposers: 3, rounds: 3, ..Bounds::CALM }, 600_000);
    }
}

#[test]
fn a_crash_of_anybody_changes_nothing() {
    let crash = Bounds { crashes: 1, told: false, ..Bounds::CALM };
    holds("a crash", crash, 600_000);
    if scale() > 1 {
        holds("a crash, everybody told", Bounds { told: true, ..crash }, 600_000);
        holds("two crashes, three rounds", Bounds { crashes: 2, rounds: 3, ..crash }, 600_000);
    }
}

#[test]
fn a_restored_member_that_learns_it_by_the_marks_forks_nothing() {
    holds("a restore", RESTORE, 600_000);
    if scale() > 1 {
        holds("two attempts to recover", Bounds { recoveries: 2, ..RESTORE }, 600_000);
        holds("a backup of any time", Bounds { late_backup: true, ..RESTORE }, 600_000);
        holds("a restore and a crash", Bounds { crashes: 1, ..RESTORE }, 600_000);
        holds("a restore, three rounds", Bounds { rounds: 3, ..RESTORE }, 600_000);
        holds("a restore among five", Bounds { members: 5, ..RESTORE }, 600_000);
    }
}

#[test]
fn members_may_change_between_epochs() {
    let swaps = Bounds { swaps: true, last_epoch: 3, ..Bounds::CALM };
    holds("members change", swaps, 600_000);
    if scale() > 1 {
        holds("members change, three rounds", Bounds { rounds: 3, ..swaps }, 600_000);
        let restore = Bounds { restores: 1, recoveries: 1, ..swaps };
        holds("members change, one restored", restore, 600_000);
    }
}

/// Far beyond what can be searched whole: five members, many rounds, crashes, two rollbacks to a
/// backup of any time, members that change.
#[test]
fn long_random_runs_fork_nothing() {
    let bounds = Bounds {
        members: 5,
        rounds: 6,
        proposers: 4,
        crashes: 3,
        restores: 2,
        late_backup: true,
        recoveries: 6,
        last_epoch: 3,
        ..Bounds::CALM
    };
    for swaps in [false, true] {
        let walks = Walks { count: 300 * scale() * scale(), length: 150, seed: 11 };
        let verdict = walk(&Ballots::new(Bounds { swaps, ..bounds }), walks);
        println!("random runs, members change {swaps}: {verdict}");
        assert!(verdict.holds(), "{verdict}");
    }
}

#[test]
fn refuted_a_restored_member_simply_votes() {
    refuted("no marks", Bounds { weakness: Weakness::NoMarks, ..RESTORE });
}

#[test]
fn refuted_recovering_from_a_majority_that_includes_itself() {
    refuted("counts itself", Bounds { weakness: Weakness::CountsItself, ..RESTORE });
}

#[test]
fn refuted_recovering_without_raising_the_others() {
    refuted("asks without raising", Bounds { weakness: Weakness::AsksWithoutRaising, ..RESTORE });
}

#[test]
fn refuted_taking_over_any_accepted_proposal() {
    let bounds = Bounds { rounds: 3, told: false, ..Bounds::CALM };
    refuted("takes over any", Bounds { weakness: Weakness::TakesOverAny, ..bounds });
}

#[test]
fn refuted_using_what_is_merely_accepted() {
    refuted("uses accepted", Bounds { weakness: Weakness::UsesAccepted, ..Bounds::CALM });
}

#[test]
fn refuted_the_new_members_choose() {
    let bounds = Bounds { swaps: true, told: false, ..Bounds::CALM };
    refuted("new members choose", Bounds { weakness: Weakness::NewMembersChoose, ..bounds });
}

#[test]
fn refuted_marks_of_those_who_promised_are_not_carried() {
    refuted("carries no marks", Bounds { weakness: Weakness::CarriesNoMarks, ..RESTORE });
}

/// Not a promise, and said so in the guarantees: the restored member asks peers, none of which saw
/// its last votes; the one that did does not answer in time.
#[test]
fn known_trace_nobody_who_saw_the_last_votes_answers() {
    let steps = refuted("known, not covered", Bounds { uncovered: true, ..RESTORE });
    assert_eq!(steps, 8);
}
