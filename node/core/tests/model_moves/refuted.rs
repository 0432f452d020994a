//! Each rule left out, and the shortest run in which that loses a write.

use kvasir_core::ring::moves::{Holder, Place};

use super::rules::{Bounds, Level, Weakness};
use super::story::Story;
use super::{CALM, a_move, a_rebuild, a_replace, a_retry, run, stable};

/// Searches for the break, prints its length and trace, and holds it to that length.
fn refuted(name: &str, story: &Story, bounds: Bounds, steps: usize) {
    let verdict = run(name, story, bounds, 20_000_000);
    let found = verdict.broken_in().unwrap_or_else(|| panic!("{name} is not refuted: {verdict}"));
    println!("{name}: refuted in {found} steps");
    assert_eq!(found, steps, "{name}: {verdict}");
}

fn without(weakness: Weakness) -> Bounds {
    Bounds { weakness, ..CALM }
}

#[test]
fn a_snapshot_before_the_fence_of_c() {
    refuted("snapshot before the fence", &a_move(3), without(Weakness::SnapshotBeforeFence), 13);
}

#[test]
fn a_switch_without_a_snapshot() {
    refuted("no snapshot", &a_move(3), without(Weakness::NoSnapshot), 10);
}

#[test]
fn the_new_holder_alone_as_the_slot() {
    refuted("D alone is the slot", &a_move(3), without(Weakness::NewHolderAlone), 8);
}

#[test]
fn the_old_holder_alone_as_the_slot() {
    refuted("C alone is the slot", &a_move(3), without(Weakness::OldHolderAlone), 14);
}

#[test]
fn the_end_of_a_move_without_the_fence_of_c() {
    refuted("no fence at step 2", &a_move(3), without(Weakness::FinishUnfenced), 15);
}

#[test]
fn the_end_of_a_move_with_c_dead_by_less_than_the_barrier() {
    refuted("one fence less, move", &a_move(3), without(Weakness::OneFenceLess), 16);
}

#[test]
fn nodes_that_serve_older_requests() {
    refuted("serves older requests", &a_move(3), without(Weakness::ServesOlder), 14);
}

#[test]
fn evidence_of_a_cancelled_move_for_its_retry() {
    refuted("evidence of any tenure", &a_retry(), without(Weakness::EvidenceOfAnyTenure), 16);
}

#[test]
fn an_acknowledgement_of_an_earlier_tenure() {
    refuted("acks across tenures", &a_retry(), without(Weakness::AcksAcrossTenures), 18);
    refuted(
        "acks across tenures, rebuild",
        &a_rebuild(3),
        without(Weakness::AcksAcrossTenures),
        17,
    );
}

#[test]
fn cancelling_a_move_after_step_two() {
    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let switched = story.forward(copying);
    story.jump(switched, c, Place::Stable(Holder { node: c as u8, since: 0 }));
    refuted("move cancelled in step 2", &story, CALM, 15);
}

#[test]
fn cancelling_a_replace_after_step_two() {
    let (mut story, c, d) = stable(3);
    let fencing = story.replace(0, c, d);
    let merging = story.forward(fencing);
    story.jump(merging, c, Place::Stable(Holder { node: c as u8, since: 0 }));
    refuted("replace cancelled in step 2", &story, CALM, 12);
}

#[test]
fn returning_to_d_when_its_replace_is_cancelled() {
    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let switched = story.forward(copying);
    let fencing = story.replace(switched, c, d + 1);
    story.jump(fencing, c, Place::Stable(Holder { node: d, since: copying as u64 }));
    refuted("replace of step 2 cancelled towards D", &story, CALM, 16);
}

#[test]
fn cancelling_a_rebuild() {
    let (mut story, c, _) = stable(3);
    let fencing = story.replace(0, c, c as u8);
    story.jump(fencing, c, Place::Stable(Holder { node: c as u8, since: fencing as u64 }));
    refuted("rebuild cancelled", &story, CALM, 10);
}

#[test]
fn setting_data_aside_while_a_cancel_may_return() {
    refuted("C sets aside in step 1", &a_replace(3), without(Weakness::SetsAsideAtFencing), 10);
}

#[test]
fn a_replacement_that_counts_in_step_one() {
    refuted("D counts in step 1", &a_replace(3), without(Weakness::CountsInStepOne), 8);
}

#[test]
fn a_replacement_that_is_read_in_step_two() {
    refuted("D is read in step 2", &a_replace(3), without(Weakness::ReadsInStepTwo), 11);
}

#[test]
fn a_replace_with_one_fence_less_than_the_barrier() {
    for (n, steps) in [(3, 10), (5, 12)] {
        let name = format!("one fence less, N={n}");
        refuted(&name, &a_replace(n), without(Weakness::OneFenceLess), steps);
    }
}

#[test]
fn a_replace_with_one_merge_less_than_the_barrier() {
    for (n, steps) in [(3, 16), (5, 21)] {
        let name = format!("one merge less, N={n}");
        refuted(&name, &a_replace(n), without(Weakness::OneMergeLess), steps);
    }
}

#[test]
fn merging_from_nodes_that_are_not_fenced() {
    refuted("merges unfenced", &a_replace(3), without(Weakness::MergesUnfenced), 17);
    refuted("merges unfenced, rebuild", &a_rebuild(3), without(Weakness::MergesUnfenced), 17);
}

#[test]
fn a_barrier_counted_in_one_data_center_alone() {
    let mut story = Story::of(&[3, 2]);
    story.whole_replace(0, 2, 5);
    refuted("barrier near only", &story, without(Weakness::BarrierNearOnly), 12);
}

#[test]
fn a_barrier_counted_over_all_data_centers_alone() {
    let mut story = Story::of(&[3, 2]);
    story.whole_replace(0, 2, 5);
    let bounds = Bounds { level: Level::Local(0), ..without(Weakness::BarrierAllOnly) };
    refuted("barrier over all only", &story, bounds, 12);
}

#[test]
fn a_rebuild_that_is_read_before_its_last_step() {
    refuted("a rebuild is read early", &a_rebuild(3), without(Weakness::ReadsInStepTwo), 11);
}

#[test]
fn a_copy_that_lost_a_table_and_is_used() {
    let bounds = Bounds { quarantined: 1 << 2, ..without(Weakness::UsesIncomplete) };
    refuted("incomplete copy is read", &a_rebuild(3), bounds, 8);
    let missed = Bounds { erased_behind: Some(2), ..without(Weakness::UsesIncomplete) };
    refuted("missed generations, copy is read", &a_rebuild(3), missed, 1);
}

#[test]
fn data_of_an_earlier_tenure_that_is_kept() {
    let missed = Bounds { erased_behind: Some(2), ..without(Weakness::KeepsOldTenure) };
    refuted("old data in a rebuild", &a_rebuild(3), missed, 11);
    let (mut story, c, d) = stable(3);
    let first = story.whole_move(0, c, d);
    story.whole_move(first, 0, c as u8);
    refuted("old data of a member that comes back", &story, missed, 17);
}

#[test]
fn a_rolled_back_node_that_serves() {
    let bounds = |who| Bounds { rolled_back: who, ..without(Weakness::ForgottenServes) };
    refuted("rolled-back C serves", &a_move(3), bounds(1 << 2), 8);
}

#[test]
fn a_rolled_back_node_that_takes_writes() {
    let bounds = Bounds { rolled_back: 1 << 2, ..without(Weakness::ForgottenTakesWrites) };
    refuted("rolled-back C takes writes", &a_move(3), bounds, 15);
}

#[test]
fn a_rolled_back_node_that_takes_up_its_tenure_anew() {
    let bounds = Bounds { rolled_back: 1 << 3, ..without(Weakness::TakesUpTenureAnew) };
    refuted("D takes up its tenure anew", &a_move(3), bounds, 15);
}

#[test]
fn a_fence_told_before_it_is_synced() {
    let bounds = Bounds { restarts: 1, ..without(Weakness::FenceNotSynced) };
    refuted("fence not synced", &a_move(3), bounds, 15);
}

#[test]
fn evidence_given_before_it_is_flushed() {
    let bounds = Bounds { restarts: 1, ..without(Weakness::EvidenceNotSynced) };
    refuted("evidence not flushed, move", &a_move(3), bounds, 14);
    refuted("evidence not flushed, replace", &a_replace(3), bounds, 18);
}

#[test]
fn an_acknowledgement_before_the_write_is_synced() {
    let bounds = Bounds { restarts: 1, ..without(Weakness::AckNotSynced) };
    refuted("ack not synced", &a_move(3), bounds, 8);
}

#[test]
fn a_stand_in_copy_deleted_after_d_alone_took_it() {
    let bounds = Bounds { stand_in: true, ..without(Weakness::BackToNewHolderAlone) };
    refuted("stand-in, D alone", &a_move(3), bounds, 7);
}

#[test]
fn a_stand_in_copy_deleted_after_c_alone_took_it() {
    let bounds = Bounds { stand_in: true, ..without(Weakness::BackToOldHolderAlone) };
    refuted("stand-in, C alone", &a_replace(3), bounds, 5);
}

#[test]
fn a_stand_in_copy_acknowledged_before_it_is_synced() {
    let bounds = Bounds { stand_in: true, restarts: 2, ..without(Weakness::HandBackNotSynced) };
    refuted("stand-in, not synced", &a_move(3), bounds, 11);
}

#[test]
fn a_stand_in_copy_taken_over_under_different_versions() {
    let (mut story, c, _) = stable(3);
    let first = story.whole_replace(0, c, c as u8);
    story.whole_replace(first, 0, 0);
    let bounds = Bounds { stand_in: true, ..without(Weakness::BackAcrossVersions) };
    refuted("stand-in, across versions", &story, bounds, 29);
}
