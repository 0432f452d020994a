//! Model of moves, replace, rebuild and cancel: does a read ever miss an acknowledged write?
//!
//! One partition, one write, and one read that begins after the write was acknowledged, both at a
//! majority. Coordinators, nodes and the stand-in know any version that was ever chosen, hear of
//! newer ones at any time, and messages arrive in any order or never. A node that is replaced goes
//! on answering: a dead one can only do less. Who counts, who may serve what, which proofs an arrow
//! needs and what becomes of old data are the functions of `kvasir_core::ring::moves`: the ones that
//! the node runs.
//!
//! `story.rs` lays out which versions there may be, `world.rs` is the state, `model.rs` the promises
//! and the rules in force, `driver.rs`, `clients.rs` and `faults.rs` the steps. First the product's
//! rules hold, in slices of one or two extras, each printed with its number of states; then
//! (`refuted.rs`) each rule is left out and its break found, with the length of the shortest trace.
//! Nodes that play the same part are kept sorted, so that in a trace two of them may swap names.
//! `KVASIR_MODEL_SCALE=2` (default 1) lets every search go on to the end and adds the large slices:
//! `tests/run soak --models`.
//!
//! A read that finds a difference and writes back before it answers is, for what it returns, a write
//! like the one modelled: it counts slots by the same rule. (That one node of a moving slot is not
//! the slot is refuted as `the_old_holder_alone_as_the_slot` and `the_new_holder_alone_as_the_slot`.)
//!
//! What this search found broken in the wording that it began with (DESIGN 5), by which trace, and
//! what holds instead:
//!
//! - *Only C is fenced at each arrow.* C dies in step 2, its fence never comes, and the move cannot
//!   end. It ends by the barrier as well: ⌈N/2⌉ of the other holders fenced at step 2
//!   (`the_end_of_a_move_with_c_dead_by_less_than_the_barrier`: with one less, a write at {A, D} and
//!   an old reader at {B, C} pass each other).
//! - *Cancel before step 2.* D dies in step 2 of a move, the replace by E begins, and is cancelled in
//!   its own step 1, back to D: C was never fenced at step 2, and an old reader at {B, C} misses a
//!   write at {A, D} (`returning_to_d_when_its_replace_is_cancelled`). So there is a way back from
//!   step 1 of a replace only to a holder that counted until then and was not rebuilt.
//! - *C: dead, or its old tenure.* C hears of step 1 of its replace, sets its data aside, the replace
//!   is cancelled, and C counts again, empty (`setting_data_aside_while_a_cancel_may_return`). While
//!   there is a way back, C keeps what it has.
//! - *Data of a rolled-back volume is never served, merged or streamed.* C is fenced, D vouches for
//!   the snapshot, step 2 begins, C is rolled back and has forgotten its fence; the write of an old
//!   coordinator is acknowledged by {A, C}, a new reader asks {B, D}
//!   (`a_rolled_back_node_that_takes_writes`). It takes nothing at all.
//! - *The same rule, for D.* D vouches, is rolled back to before its tenure, learns the document of
//!   step 1 again, begins the tenure anew with nothing, and step 2 follows by what it vouched for
//!   (`a_rolled_back_node_that_takes_up_its_tenure_anew`). After a rollback only a tenure above every
//!   epoch that the node heard of while it recovered its votes is a new one; and none begins in step
//!   2 of a move or in a stable slot.

mod clients;
mod driver;
mod faults;
mod model;
mod refuted;
mod rules;
mod story;
mod world;

use kvasir_core::explore::{Verdict, Walks, search, walk};
use model::Moves;
use rules::{Bounds, Level, Weakness};
use story::Story;

/// How far to go: 1 in CI.
fn scale() -> usize {
    std::env::var("KVASIR_MODEL_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn run(name: &str, story: &Story, bounds: Bounds, states: usize) -> Verdict {
    let started = std::time::Instant::now();
    let verdict = search(&Moves { story: story.clone(), bounds }, states);
    println!("{name}: {verdict} ({:.1?})", started.elapsed());
    verdict
}

/// The rules hold, and every state was seen.
fn complete(name: &str, story: &Story, bounds: Bounds) {
    let verdict = run(name, story, bounds, 30_000_000);
    assert!(verdict.is_complete(), "{name}: {verdict}");
}

/// The rules hold as far as the budget goes, which for most slices is all the way.
fn holds(name: &str, story: &Story, bounds: Bounds) {
    let states = if scale() > 1 { 30_000_000 } else { 800_000 };
    let verdict = run(name, story, bounds, states);
    assert!(verdict.holds(), "{name}: {verdict}");
}

const CALM: Bounds = Bounds::CALM;

/// `n` replicas in one data center, the last of which is C; D is node `n`.
fn stable(n: u8) -> (Story, usize, u8) {
    (Story::of(&[n]), usize::from(n) - 1, n)
}

/// A move of the last slot, with a cancel offered in step 1.
fn a_move(n: u8) -> Story {
    let (mut story, c, d) = stable(n);
    let copying = story.begin(0, c, d);
    story.cancel(copying);
    let switched = story.forward(copying);
    story.forward(switched);
    story
}

/// A replace of the last slot, with a cancel offered in step 1.
fn a_replace(n: u8) -> Story {
    let (mut story, c, d) = stable(n);
    let fencing = story.replace(0, c, d);
    story.cancel(fencing);
    let merging = story.forward(fencing);
    story.forward(merging);
    story
}

/// A rebuild of the last slot's holder.
fn a_rebuild(n: u8) -> Story {
    let (mut story, c, _) = stable(n);
    story.whole_replace(0, c, c as u8);
    story
}

/// A move that was cancelled, and the same move again.
fn a_retry() -> Story {
    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let back = story.cancel(copying);
    story.whole_move(back, c, d);
    story
}

#[test]
fn a_move_keeps_every_acknowledged_write() {
    for n in 1..=4 {
        complete(&format!("move, N={n}"), &a_move(n), CALM);
    }
    holds("move, N=5", &a_move(5), CALM);
}

#[test]
fn a_replace_keeps_every_acknowledged_write() {
    for n in 1..=4 {
        complete(&format!("replace, N={n}"), &a_replace(n), CALM);
    }
    holds("replace, N=5", &a_replace(5), CALM);
}

#[test]
fn a_rebuild_keeps_every_acknowledged_write() {
    for n in 2..=4 {
        let lost_table = Bounds { quarantined: 1 << (n - 1), ..CALM };
        complete(&format!("rebuild after a lost table, N={n}"), &a_rebuild(n), lost_table);
    }
    let missed = Bounds { erased_behind: Some(2), ..CALM };
    complete("rebuild after missed generations", &a_rebuild(3), missed);
    let back = Bounds { rolled_back: 1 << 2, ..CALM };
    complete("rebuild after a rollback", &a_rebuild(3), back);
    if scale() > 1 {
        let both = Bounds { quarantined: 1 << 2, restarts: 1, ..CALM };
        complete("rebuild after a lost table, restarts", &a_rebuild(3), both);
        let both = Bounds { rolled_back: 1 << 2, restarts: 1, ..CALM };
        complete("rebuild after a rollback, restarts", &a_rebuild(3), both);
        let lost_table = Bounds { quarantined: 1 << 4, ..CALM };
        holds("rebuild, N=5", &a_rebuild(5), lost_table);
    }
}

#[test]
fn two_data_centers_keep_the_promise_of_each_level() {
    for (slot, n, name) in [(2, 5, "the larger"), (4, 5, "the smaller")] {
        let mut story = Story::of(&[3, 2]);
        story.whole_replace(0, slot, n);
        for level in [Level::Quorum, Level::Local(u8::from(slot == 4))] {
            let bounds = Bounds { level, ..CALM };
            let name = format!("replace in {name} of 3+2, {level:?}");
            holds(&name, &story, bounds);
        }
        let mut story = Story::of(&[3, 2]);
        story.whole_move(0, slot, n);
        for level in [Level::Quorum, Level::Local(u8::from(slot == 4))] {
            let bounds = Bounds { level, ..CALM };
            let name = format!("move in {name} of 3+2, {level:?}");
            holds(&name, &story, bounds);
        }
    }
}

#[test]
fn a_cancelled_move_may_be_tried_again() {
    holds("cancel, then the same move", &a_retry(), CALM);
    let (mut story, c, d) = stable(3);
    let fencing = story.replace(0, c, d);
    let back = story.cancel(fencing);
    story.whole_replace(back, c, d);
    holds("cancel, then the same replace", &story, CALM);
}

/// The last of the two brings back the member that the first one retired, as after it had left and
/// joined again: what it still has of its first tenure is not used.
#[test]
fn moves_may_follow_each_other() {
    let (mut story, c, d) = stable(3);
    let first = story.whole_move(0, c, d);
    story.whole_move(first, 0, d + 1);
    holds("two moves", &story, CALM);
    let (mut story, c, d) = stable(3);
    let first = story.whole_move(0, c, d);
    story.whole_move(first, 0, c as u8);
    let erased = Bounds { erased_behind: Some(2), ..CALM };
    holds("a member leaves and comes back", &story, erased);
    let (mut story, c, d) = stable(3);
    let first = story.whole_replace(0, c, d);
    story.whole_move(first, 0, d + 1);
    holds("replace, then move", &story, CALM);
    let (mut story, c, d) = stable(3);
    let first = story.whole_replace(0, c, d);
    story.whole_replace(first, 0, c as u8);
    holds("replace, then replace by the first one", &story, CALM);
}

#[test]
fn c_or_d_may_die_at_each_step() {
    for to in [3, 4] {
        let who = if to == 3 { "D anew" } else { "E" };
        let (mut story, c, d) = stable(3);
        let copying = story.begin(0, c, d);
        let fencing = story.replace(copying, c, to);
        story.cancel(fencing);
        let merging = story.forward(fencing);
        story.forward(merging);
        holds(&format!("in step 1 of a move: replace by {who}"), &story, CALM);

        let (mut story, c, d) = stable(3);
        let copying = story.begin(0, c, d);
        let switched = story.forward(copying);
        story.forward(switched);
        story.whole_replace(switched, c, to);
        holds(&format!("in step 2 of a move: replace by {who}"), &story, CALM);

        let (mut story, c, d) = stable(3);
        let fencing = story.replace(0, c, d);
        story.whole_replace(fencing, c, to);
        holds(&format!("in step 1 of a replace: replace by {who}"), &story, CALM);

        let (mut story, c, d) = stable(3);
        let fencing = story.replace(0, c, d);
        let merging = story.forward(fencing);
        story.whole_replace(merging, c, to);
        holds(&format!("in step 2 of a replace: replace by {who}"), &story, CALM);
    }
    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let switched = story.forward(copying);
    story.whole_replace(switched, c, c as u8);
    holds("D dies in step 2 of a move: rebuild C", &story, CALM);
}

/// Whoever takes the place of a lost node is lost as well, and another one takes its place.
#[test]
fn a_successor_may_be_lost_too() {
    let (mut story, c, d) = stable(3);
    let fencing = story.replace(0, c, d);
    let again = story.replace(fencing, c, d + 1);
    story.cancel(again);
    let merging = story.forward(again);
    story.forward(merging);
    holds("in step 1 of a replace: replace by E, cancelled or not", &story, CALM);

    let (mut story, c, d) = stable(3);
    let fencing = story.replace(0, c, d);
    let merging = story.forward(fencing);
    let again = story.replace(merging, c, d + 1);
    let merging = story.forward(again);
    story.whole_replace(merging, c, d + 2);
    holds("in step 2 of a replace: replace by E, and of that one by F", &story, CALM);

    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let fencing = story.replace(copying, c, d);
    let merging = story.forward(fencing);
    story.whole_replace(merging, c, d + 1);
    holds("in step 1 of a move: C is lost, then D", &story, CALM);

    let (mut story, c, d) = stable(3);
    let copying = story.begin(0, c, d);
    let back = story.cancel(copying);
    story.whole_move(back, c, d + 1);
    holds("in step 1 of a move: D is lost, and the move turned to E", &story, CALM);
}

#[test]
fn a_restart_may_lose_what_was_not_synced() {
    let one = Bounds { restarts: 1, ..CALM };
    holds("move, a restart", &a_move(3), one);
    holds("replace, a restart", &a_replace(3), one);
    if scale() > 1 {
        let two = Bounds { restarts: 2, ..CALM };
        holds("move, two restarts", &a_move(3), two);
        holds("replace, two restarts", &a_replace(3), two);
        holds("cancel, then the same move, a restart", &a_retry(), one);
    }
}

/// One node's volume is rolled back at any time, or loses a table; in a move any of them, in a
/// replace the new one (a survivor would be the second copy of three that is lost).
#[test]
fn a_volume_may_be_rolled_back_or_lose_a_table() {
    for (name, who) in [("another owner", 0b0011), ("C", 0b0100), ("D", 0b1000)] {
        let back = Bounds { rolled_back: who, ..CALM };
        holds(&format!("move, {name} is rolled back"), &a_move(3), back);
        let lost = Bounds { quarantined: who, ..CALM };
        holds(&format!("move, {name} loses a table"), &a_move(3), lost);
    }
    for (name, who) in [("C", 0b0100), ("D", 0b1000)] {
        let back = Bounds { rolled_back: who, ..CALM };
        holds(&format!("replace, {name} is rolled back"), &a_replace(3), back);
        let lost = Bounds { quarantined: who, ..CALM };
        holds(&format!("replace, {name} loses a table"), &a_replace(3), lost);
    }
}

#[test]
fn a_stand_in_copy_comes_home_through_moves() {
    let stand_in = Bounds { stand_in: true, ..CALM };
    holds("move, stand-in", &a_move(3), stand_in);
    holds("replace, stand-in", &a_replace(3), stand_in);
    holds("rebuild, stand-in", &a_rebuild(3), stand_in);
    if scale() > 1 {
        holds("cancel, then the same move, stand-in", &a_retry(), stand_in);
        let restart = Bounds { restarts: 1, ..stand_in };
        holds("move, stand-in, a restart", &a_move(3), restart);
        holds("replace, stand-in, a restart", &a_replace(3), restart);
    }
}

/// Two rules are stricter than one write and one read need them to be: a reader that begins anew when
/// it learns a newer version, and a node that adopts what a request knows before it serves it.
#[test]
fn replies_may_be_kept_and_newer_requests_served_at_once() {
    for weakness in [Weakness::KeepsReplies, Weakness::ServesNewer] {
        let loose = Bounds { weakness, ..CALM };
        let lost_table = Bounds { quarantined: 1 << 2, ..loose };
        complete(&format!("{weakness:?}, move"), &a_move(3), loose);
        complete(&format!("{weakness:?}, replace"), &a_replace(3), loose);
        complete(&format!("{weakness:?}, rebuild"), &a_rebuild(3), lost_table);
        complete(&format!("{weakness:?}, cancel and retry"), &a_retry(), loose);
    }
}

/// Far beyond what can be searched whole.
#[test]
fn long_random_runs_lose_nothing() {
    let (mut story, c, d) = stable(5);
    let copying = story.begin(0, c, d);
    let back = story.cancel(copying);
    let switched = story.forward(copying);
    let moved = story.forward(switched);
    story.whole_move(back, c, d);
    story.whole_replace(copying, c, d);
    story.whole_replace(moved, 0, c as u8);
    let faults = [
        CALM,
        Bounds { restarts: 3, ..CALM },
        Bounds { quarantined: 0b10_0000, ..CALM },
        Bounds { rolled_back: 0b10_0000, restarts: 1, ..CALM },
        Bounds { stand_in: true, restarts: 1, ..CALM },
        Bounds { erased_behind: Some(4), ..CALM },
    ];
    for bounds in faults {
        let walks = Walks { count: 20_000 * scale() * scale() * scale(), length: 80, seed: 5 };
        let verdict = walk(&Moves { story: story.clone(), bounds }, walks);
        println!("random runs, N=5, {bounds:?}: {verdict}");
        assert!(verdict.holds(), "{verdict}");
    }
}
