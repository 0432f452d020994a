//! Model of reclaim by generations: can a deleted value come back, or a newer one get lost?
//!
//! Two or three nodes hold one key whose value was deleted; another member relays, stands in, leaves or
//! joins. Carriers arrive late and repeatedly, holders repair each other, crash, lose a file, and are put
//! back. `rules.rs` says which rules hold, `world.rs` is the protocol under them, on the functions of
//! `kvasir_core::reclaim` that the node runs; `promises.rs` is what must never break.
//!
//! First every weakened rule is refuted: that shows the model can see the mistakes. Then the rule of the
//! product holds, in slices of one or two kinds of fault; each says how many states it saw and whether
//! these were all. That confirmations and reports name one document, and that a new member hears a
//! majority, is more than these bounds need: no search broke the rule without them. `KVASIR_MODEL_SCALE=n` (default 1) makes the slices larger.

mod promises;
mod rules;
mod starts;
mod world;

use kvasir_core::explore::{Verdict, search};
use kvasir_core::reclaim::Margins;
use rules::{Bounds, RelayStamp, Rules, Start};
use world::Reclaim;

fn scale() -> usize {
    std::env::var("KVASIR_MODEL_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn run(name: &str, rules: Rules, bounds: Bounds, states: usize) -> Verdict {
    let started = std::time::Instant::now();
    let verdict = search(&Reclaim { rules, bounds }, states);
    println!("{name}: {verdict} ({:.1?})", started.elapsed());
    verdict
}

/// Searches for a break and expects one with this complaint.
fn refuted(name: &str, rules: Rules, bounds: Bounds) {
    let verdict = run(name, rules, bounds, 6_000_000);
    let Verdict::Broken { why, .. } = &verdict else { panic!("{name}: {verdict}") };
    assert!(why.contains("is back"), "{name}: {verdict}");
}

/// Searches the product's rules: no break, and every state seen.
fn holds(name: &str, bounds: Bounds) {
    let verdict = run(name, Rules::PRODUCT, bounds, 60_000_000);
    assert!(verdict.is_complete(), "{name}: {verdict}");
}

const CALM: Bounds = Bounds::CALM;
const PRODUCT: Rules = Rules::PRODUCT;
/// A carrier of the value is on its way, and one more may be sent.
const LATE: Bounds = Bounds { start: Start::DeletedAndLate, carriers: 2, ..CALM };
const RELAY: Bounds = Bounds { relay: true, carriers: 2, ..CALM };
const STAND_IN: Bounds = Bounds { stand_in: true, generations: 7, ..CALM };
const RESTORE: Bounds = Bounds { carriers: 2, restores: 1, ..CALM };

const FOLD: Bounds = Bounds { folds: true, ..CALM };

/// A member joins, and a carrier of the value is on its way to it.
const JOIN: Bounds = Bounds {
    joins: true,
    start: Start::DeletedAndLate,
    carriers: 2,
    generations: 6,
    confirm_until: 1,
    ..STAND_IN
};

fn margins(late: u64, report: u64, erase: u64) -> Rules {
    Rules { margins: Margins { late, report, erase, ..Margins::RULE }, ..PRODUCT }
}

#[test]
fn erasing_one_generation_earlier_is_refuted() {
    refuted("erase after two", margins(1, 2, 2), LATE);
    refuted("refuse two below, erase after three", margins(2, 3, 3), LATE);
}

#[test]
fn the_other_exact_pairs_hold() {
    for (name, rules) in [
        ("refuse two below, erase after four", margins(2, 4, 4)),
        ("refuse all below, erase after two", margins(0, 2, 2)),
    ] {
        let verdict = run(name, rules, LATE, 20_000_000);
        assert!(verdict.is_complete(), "{name}: {verdict}");
    }
}

#[test]
fn the_lowest_confirmation_is_refuted() {
    let rules = Rules { highest_confirmation: false, ..margins(1, 2, 3) };
    refuted("lowest confirmation", rules, Bounds { confirm_until: 3, ..RELAY });
}

#[test]
fn stamping_when_sending_is_refuted() {
    let rules = Rules { relay_stamp: RelayStamp::WhenSending, ..PRODUCT };
    refuted("stamped when sent", rules, RELAY);
}

#[test]
fn reports_that_come_too_early_are_refuted() {
    let rules = Rules { counts_hand_backs: false, ..margins(1, 0, 3) };
    refuted("report at any time", rules, STAND_IN);
    let late = Bounds { start: Start::DeletedAndLate, carriers: 2, ..STAND_IN };
    refuted("report after two", margins(1, 2, 3), late);
}

#[test]
fn copies_stamped_up_to_the_confirmation_only_is_refuted() {
    let margins = Margins { copies: 0, ..Margins::RULE };
    refuted("copies up to g", Rules { margins, ..PRODUCT }, STAND_IN);
}

#[test]
fn hand_backs_that_are_not_counted_are_refuted() {
    refuted("hand-backs", Rules { counts_hand_backs: false, ..PRODUCT }, STAND_IN);
}

#[test]
fn confirming_what_is_not_synced_is_refuted() {
    let rules = Rules { syncs_before_confirming: false, ..PRODUCT };
    let bounds = Bounds { lagging_disks: true, crashes: 1, ..CALM };
    refuted("not synced", rules, bounds);
}

#[test]
fn erasing_though_a_holder_did_not_confirm_is_refuted() {
    refuted("all but one", Rules { needs_all_holders: false, ..PRODUCT }, CALM);
}

#[test]
fn erasing_what_is_not_equal_loses_a_newer_value() {
    let rules = Rules { erases_equal: false, ..PRODUCT };
    let verdict = run("not equal", rules, Bounds { rewrite: true, ..CALM }, 6_000_000);
    let Verdict::Broken { why, .. } = &verdict else { panic!("{verdict}") };
    assert!(why.contains("is lost"), "{verdict}");
}

#[test]
fn a_removed_member_that_is_still_heard_is_refuted() {
    let leaves = Bounds { leaves: true, generations: 6, confirm_until: 1, ..STAND_IN };
    let rules = Rules { refuses_unlisted: false, rises_by_document: false, ..PRODUCT };
    refuted("unlisted", rules, leaves);
}

#[test]
fn a_member_that_was_put_back_and_goes_on_is_refuted() {
    refuted("climbs", Rules { sets_aside: false, ..PRODUCT }, RESTORE);
    let rules = Rules { start_voids: false, waits_after_start: false, ..PRODUCT };
    refuted("confirmation outlives a start", rules, RESTORE);
    let rules = Rules { start_voids: false, ..PRODUCT };
    refuted("confirmation outlives", rules, Bounds { confirm_until: 3, ..RESTORE });
    let rules = Rules { waits_after_start: false, ..PRODUCT };
    refuted("confirms right after a start", rules, RESTORE);
}

#[test]
fn repairing_from_old_replies_is_refuted() {
    let rules = Rules { refuses_old_replies: false, ..PRODUCT };
    refuted("old replies", rules, Bounds { relay: true, ..RESTORE });
}

#[test]
fn a_member_that_takes_data_before_it_has_a_generation_is_refuted() {
    refuted("takes at once", Rules { joiner_waits: false, ..PRODUCT }, JOIN);
}

/// A row goes by the same evidence as a tombstone, and the same shortcuts break it.
#[test]
fn folding_a_row_by_less_is_refuted() {
    refuted("fold after two", margins(1, 2, 2), Bounds { folds: true, ..LATE });
    let rules = Rules { needs_the_row: false, ..PRODUCT };
    refuted("fold, a row never heard of", rules, Bounds { folds: true, ..LATE });
    let rules = Rules { needs_all_holders: false, ..PRODUCT };
    refuted("fold, all but one", rules, FOLD);
    let rules = Rules { counts_hand_backs: false, ..PRODUCT };
    refuted("fold, hand-backs", rules, Bounds { folds: true, ..STAND_IN });
    let rules = Rules { syncs_before_confirming: false, ..PRODUCT };
    let bounds = Bounds { lagging_disks: true, crashes: 1, ..FOLD };
    refuted("fold, not synced", rules, bounds);
    let rules = Rules { start_voids: false, waits_after_start: false, ..PRODUCT };
    refuted("fold, outlives a start", rules, Bounds { folds: true, ..RESTORE });
}

#[test]
fn a_row_goes_while_the_key_is_written() {
    holds("fold", FOLD);
    holds("fold, late", Bounds { folds: true, ..LATE });
    holds("fold, rewrite", Bounds { rewrite: true, ..FOLD });
    holds("fold, stand-in", Bounds { folds: true, ..STAND_IN });
    holds("fold, relay", Bounds { folds: true, carriers: 1, ..RELAY });
    holds("fold, crash", Bounds { lagging_disks: true, crashes: 1, ..FOLD });
    holds("fold, quarantine", Bounds { quarantines: 1, ..FOLD });
    holds("fold, restore", Bounds { folds: true, carriers: 1, ..RESTORE });
    holds("fold, join", Bounds { folds: true, ..JOIN });
}

#[test]
fn the_rule_holds_from_a_blank_key() {
    holds("blank", Bounds { start: Start::Blank, generations: 5, carriers: 2, ..CALM });
}

#[test]
fn the_rule_holds_with_late_carriers() {
    holds("late", LATE);
    holds("late, rewrite", Bounds { rewrite: true, carriers: 1, ..CALM });
    holds("relay", Bounds { carriers: 1, ..RELAY });
}

#[test]
fn the_rule_holds_with_a_stand_in() {
    holds("stand-in", STAND_IN);
    holds("stand-in, late", Bounds { start: Start::DeletedAndLate, ..STAND_IN });
}

#[test]
fn the_rule_holds_through_crashes() {
    holds("crash", Bounds { lagging_disks: true, crashes: 1, ..CALM });
    holds("quarantine", Bounds { quarantines: 1, ..CALM });
}

#[test]
fn the_rule_holds_through_a_restore() {
    holds("restore", Bounds { carriers: 1, ..RESTORE });
}

#[test]
fn the_rule_holds_when_members_leave_and_join() {
    holds("leave", Bounds { leaves: true, generations: 5, confirm_until: 1, ..STAND_IN });
    holds("join", JOIN);
}

#[test]
fn the_rule_holds_with_three_holders() {
    holds("three", Bounds { holders: 3, ..CALM });
    let late = Bounds { start: Start::DeletedAndLate, generations: 5, confirm_until: 1, ..CALM };
    holds("three, late", Bounds { holders: 3, ..late });
}

/// Slices that take minutes, each complete.
#[test]
fn the_rule_holds_in_the_large_slices_when_asked_for() {
    if scale() < 10 {
        return;
    }
    holds("restore, two carriers", RESTORE);
    holds("restore, relay", Bounds { relay: true, carriers: 1, ..RESTORE });
    holds("stand-in, two carriers", Bounds { carriers: 2, ..STAND_IN });
    holds(
        "stand-in, late, two carriers",
        Bounds { start: Start::DeletedAndLate, carriers: 2, ..STAND_IN },
    );
    holds("late, rewrite", Bounds { rewrite: true, ..LATE });
    holds("relay, two carriers", RELAY);
    holds("three, stand-in", Bounds { holders: 3, ..STAND_IN });
    holds("leave, further", Bounds { leaves: true, ..STAND_IN });
    holds("join, three", Bounds { holders: 3, ..JOIN });
}
