//! Model of sloppy writes: who is counted while owners are given up, and when a copy that was counted may go.
//!
//! `world.rs` is the protocol on the functions that a node runs, `rules.rs` says how much may happen and
//! which rule is left out. Copies and partitions that move at the same time are searched by `model_moves`,
//! dots that stand-ins mint by `model_dots`. Each search says how many states it saw and whether these were
//! all; `KVASIR_MODEL_SCALE=n` (default 1) goes further.

mod rules;
mod world;

use kvasir_core::explore::{Model, Verdict, Walks, search, walk};
use rules::{Bounds, Weakness};
use world::{StandIns, Step, World};

const CALM: Bounds = Bounds::CALM;
const TWO: Bounds = Bounds { writes: 2, ..CALM };
/// Two writes that meet in one copy: of the owners only the first is up.
const MEET: Bounds = Bounds { down: 0b110, patient: true, ..TWO };

fn scale() -> usize {
    std::env::var("KVASIR_MODEL_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn searched(name: &str, bounds: Bounds, states: usize) -> Verdict {
    let verdict = search(&StandIns::new(bounds), states);
    println!("{name}: {verdict}");
    verdict
}

/// Every state, and no break.
fn complete(name: &str, bounds: Bounds) {
    let verdict = searched(name, bounds, 2_000_000);
    assert!(verdict.is_complete(), "{name}: {verdict}");
}

/// No break within so many states, times the scale.
fn bounded(name: &str, bounds: Bounds, states: usize) {
    let verdict = searched(name, bounds, states * scale() * scale());
    assert!(verdict.holds(), "{name}: {verdict}");
}

/// A rule is left out, and the search finds what it prevents.
fn refuted(weakness: Weakness, bounds: Bounds, complaint: &str) {
    let name = format!("{weakness:?}");
    let verdict = searched(&name, Bounds { weakness, ..bounds }, 2_000_000);
    let Verdict::Broken { why, .. } = &verdict else { panic!("{name}: {verdict}") };
    assert!(why.contains(complaint), "{name}: {verdict}");
}

#[test]
fn one_write_is_never_on_fewer_disks_than_were_counted() {
    complete("one write", CALM);
    if scale() > 1 {
        complete("one write, a crash", Bounds { crashes: 1, ..CALM });
    }
}

#[test]
fn two_writes_that_meet_in_one_copy_lose_nothing() {
    complete("two writes, two owners down", MEET);
    complete("the same, room for one", Bounds { cap: 1, ..MEET });
    complete("two writes, all owners down", Bounds { down: 0b111, ..MEET });
    bounded("two writes", TWO, 60_000);
    bounded("two writes, a crash", Bounds { crashes: 1, ..TWO }, 60_000);
    bounded("two writes, room for one", Bounds { cap: 1, ..TWO }, 60_000);
    for (seed, cap) in [2, 1].into_iter().enumerate() {
        let model = StandIns::new(Bounds { crashes: 3, cap, ..TWO });
        let walks = Walks { count: 300 * scale() * scale(), length: 80, seed: seed as u64 };
        let verdict = walk(&model, walks);
        println!("random runs, three crashes, room for {cap}: {verdict}");
        assert!(verdict.holds(), "{verdict}");
    }
}

#[test]
fn refuted_answering_before_the_sync() {
    refuted(Weakness::AnswersBeforeSync, CALM, "disks");
}

#[test]
fn refuted_counting_a_hint() {
    refuted(Weakness::CountsHints, CALM, "on 1 disks");
}

#[test]
fn refuted_counting_one_stand_in_for_two_owners() {
    refuted(Weakness::CountsOneForAll, CALM, "on 1 disks");
}

#[test]
fn refuted_dropping_a_copy_at_the_cap() {
    refuted(Weakness::DropsAtCap, Bounds { cap: 0, ..CALM }, "disks");
}

#[test]
fn refuted_a_copy_that_goes_after_one_owner_took_it() {
    refuted(Weakness::GoesAfterOne, CALM, "write 0");
}

#[test]
fn refuted_confirming_a_copy_before_the_sync() {
    refuted(Weakness::ConfirmsBeforeSync, CALM, "write 0");
}

#[test]
fn refuted_a_copy_that_goes_though_it_grew() {
    refuted(Weakness::GoesThoughItGrew, MEET, "write");
}

#[test]
fn refuted_confirmations_that_outlive_growth() {
    refuted(Weakness::ConfirmationsOutliveGrowth, MEET, "write");
}

#[test]
fn refuted_storing_what_is_handed_over_in_place_of_what_is_held() {
    refuted(Weakness::Overwrites, MEET, "write");
}

#[test]
fn the_model_reaches_what_it_is_about() {
    struct Reaches(StandIns);
    impl Model for Reaches {
        type State = World;
        type Step = Step;
        fn initial(&self) -> Vec<World> {
            self.0.initial()
        }
        fn steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
            self.0.steps(world, out);
        }
        fn broken(&self, world: &World) -> Option<String> {
            StandIns::came_home(world).then(|| "reached".to_owned())
        }
    }
    let verdict = search(&Reaches(StandIns::new(CALM)), 2_000_000);
    println!("home by hand-back alone: {verdict}");
    assert!(!verdict.holds(), "{verdict}");
}
