//! Model of dots and actors: can any fault make a node mint a dot twice?
//!
//! Three nodes hold one key. Clients write and delete with tokens of any age, deltas arrive late
//! and repeatedly, replicas repair each other, and nodes crash and lose their unsynced tail, get
//! old volumes back, lose and regain the partition, lose a file to quarantine, stand in for others,
//! erase what all agree is deleted, and fold rows that all agree are spent. `rules.rs` says which rules hold, `world.rs` is the protocol
//! under them, `promises.rs` what must never break; here it is searched.
//!
//! First every weakened rule is refuted: that shows the model can see the mistakes. Then the rule
//! of the product holds, in slices of one or two kinds of fault; each says how many states it saw
//! and whether these were all. `KVASIR_MODEL_SCALE=n` (default 1) makes the slices larger.

mod promises;
mod rules;
mod world;

use kvasir_core::explore::{Model, Verdict, Walks, search, walk};
use rules::{Bounds, CountOn, Refuse, Rules, Serials, TokenCovers};
use world::Dots;

/// Searches for a break and expects one in exactly this many steps, with this complaint.
fn refuted(name: &str, rules: Rules, bounds: Bounds, steps: usize, complaint: &str) {
    let verdict = search(&Dots { rules, bounds }, 3_000_000);
    println!("{name}: {verdict}");
    let Verdict::Broken { steps: found, why, .. } = &verdict else { panic!("{name}: {verdict}") };
    assert!(why.contains(complaint), "{name}: {verdict}");
    assert_eq!(*found, steps, "{name}: {verdict}");
}

/// Searches the product's rules: no break, and every state seen.
fn holds(name: &str, bounds: Bounds) {
    let verdict = search(&Dots { rules: Rules::PRODUCT, bounds }, 40_000_000);
    println!("{name}: {verdict}");
    assert!(verdict.is_complete(), "{name}: {verdict}");
}

fn scale() -> usize {
    std::env::var("KVASIR_MODEL_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

const CALM: Bounds = Bounds::CALM;

#[test]
fn counting_on_any_own_looking_row_is_refuted() {
    for (name, count_on) in
        [("any own row", CountOn::AnyOwnRow), ("highest own row", CountOn::HighestOwnRow)]
    {
        let rules = Rules { count_on, ..Rules::PRODUCT };
        let stand_in = Bounds { stand_in: true, ..CALM };
        refuted(&format!("{name}, stand-in"), rules, stand_in, 5, "minted twice");
    }
}

#[test]
fn counting_on_an_own_looking_row_is_refuted_by_an_erase_and_an_old_token() {
    let bounds = Bounds { nodes: 2, writes: 4, tokens: 2, erases: 1, ..CALM };
    let rules = Rules { count_on: CountOn::AnyOwnRow, ..Rules::PRODUCT };
    refuted("any own row, erase", rules, bounds, 8, "minted twice");
}

#[test]
fn serials_leased_on_the_volume_are_refuted() {
    let rules = Rules { serials: Serials::LeasedOnVolume, ..Rules::PRODUCT };
    let bounds = Bounds { restores: 1, ..CALM };
    refuted("leased", rules, bounds, 4, "was refused");
    let rules = Rules { refuse: Refuse::Nothing, ..rules };
    refuted("leased, nothing refused", rules, bounds, 4, "minted twice");
}

#[test]
fn refusing_rows_above_what_the_node_issued_is_refuted() {
    let rules = Rules { refuse: Refuse::AboveOwnRecord, ..Rules::PRODUCT };
    refuted("above own, lost tail", rules, Bounds { crashes: 1, ..CALM }, 5, "was refused");
    refuted("above own, restore", rules, Bounds { restores: 1, ..CALM }, 6, "was refused");
}

#[test]
fn counting_on_after_a_quarantine_is_refuted() {
    let rules = Rules { quarantine_ends_counting: false, ..Rules::PRODUCT };
    let bounds = Bounds { quarantines: 1, ..CALM };
    refuted("counting after quarantine", rules, bounds, 6, "was refused");
    let rules = Rules { refuse: Refuse::Nothing, ..rules };
    refuted("counting after quarantine, nothing refused", rules, bounds, 6, "minted twice");
}

#[test]
fn a_token_that_covers_the_coordinators_context_is_refuted() {
    let rules = Rules { token_covers: TokenCovers::CoordinatorContext, ..Rules::PRODUCT };
    refuted("token covers all", rules, CALM, 3, "false supersession");
}

#[test]
fn writing_in_place_without_joining_the_clients_context_is_refuted() {
    let rules = Rules { joins_client_context: false, ..Rules::PRODUCT };
    refuted("no join", rules, CALM, 3, "shows again");
}

#[test]
fn the_rule_holds_through_crashes_and_restored_volumes() {
    holds("crash and restore", Bounds { writes: 2, crashes: 1, restores: 1, ..CALM });
    let two_nodes = Bounds { nodes: 2, writes: 3, ..CALM };
    holds("crash and restore, two nodes", Bounds { crashes: 1, restores: 1, ..two_nodes });
}

#[test]
fn the_rule_holds_through_a_crash_and_a_regained_partition() {
    holds("crashes and regains", Bounds { writes: 2, crashes: 2, regains: 2, ..CALM });
}

#[test]
fn the_rule_holds_through_a_stand_in_and_a_crash() {
    holds("stand-in and crashes", Bounds { writes: 2, crashes: 2, stand_in: true, ..CALM });
    holds("stand-in, three writes", Bounds { writes: 3, stand_in: true, ..CALM });
}

#[test]
fn the_rule_holds_through_quarantine() {
    holds("quarantine", Bounds { writes: 2, quarantines: 1, ..CALM });
}

#[test]
fn the_rule_holds_through_an_erase_and_old_tokens() {
    let bounds = Bounds { nodes: 2, writes: 3, tokens: 2, erases: 1, ..CALM };
    holds("erase and old tokens", bounds);
}

#[test]
fn folding_a_row_that_is_still_counted_on_is_refuted() {
    let rules = Rules { keeps_own_rows: false, ..Rules::PRODUCT };
    let bounds = Bounds { nodes: 2, folds: 1, ..CALM };
    refuted("fold own rows", rules, bounds, 6, "was refused");
    let rules = Rules { refuse: Refuse::Nothing, ..rules };
    refuted("fold own rows, nothing refused", rules, bounds, 6, "minted twice");
}

#[test]
fn the_rule_holds_while_rows_of_earlier_starts_are_folded() {
    let bounds = Bounds { nodes: 2, writes: 3, crashes: 1, folds: 1, ..CALM };
    holds("fold and crash", bounds);
    holds("fold, crash and old tokens", Bounds { tokens: 2, ..bounds });
    holds("fold and restore", Bounds { crashes: 0, restores: 1, ..bounds });
}

#[test]
fn the_rule_holds_on_random_walks_through_mixed_faults() {
    let two_tokens = Bounds { writes: 6, tokens: 2, ..CALM };
    let mixtures = [
        Bounds { crashes: 1, restores: 1, erases: 1, ..two_tokens },
        Bounds { crashes: 1, regains: 1, erases: 1, ..two_tokens },
        Bounds { crashes: 2, erases: 2, ..two_tokens },
        Bounds { crashes: 1, quarantines: 1, stand_in: true, ..two_tokens },
        Bounds { crashes: 2, stand_in: true, erases: 1, ..two_tokens },
        Bounds { crashes: 2, folds: 2, ..two_tokens },
        Bounds { crashes: 1, regains: 1, folds: 2, erases: 1, ..two_tokens },
    ];
    for (seed, bounds) in mixtures.into_iter().enumerate() {
        let model = Dots { rules: Rules::PRODUCT, bounds };
        let walks = Walks { count: 5_000 * scale(), length: 80, seed: seed as u64 };
        let verdict = walk(&model, walks);
        println!("{bounds:?}: {verdict}");
        assert!(verdict.holds(), "{verdict}");
    }
}

/// Slices that take minutes, each complete.
#[test]
fn the_rule_holds_in_the_large_slices_when_asked_for() {
    if scale() < 10 {
        return;
    }
    let two_nodes = Bounds { nodes: 2, writes: 4, ..CALM };
    holds("erases", Bounds { erases: 2, ..two_nodes });
    holds("crashes", Bounds { crashes: 1, ..two_nodes });
    holds("regain, three writes", Bounds { writes: 3, regains: 1, ..CALM });
    holds("stand-in and crash", Bounds { writes: 3, crashes: 1, stand_in: true, ..CALM });
}

#[test]
fn the_model_can_reach_what_it_is_about() {
    // Not vacuous: an erase followed by another write under the same key is reachable.
    struct Reaches(Dots);
    impl Model for Reaches {
        type State = world::World;
        type Step = world::Step;
        fn initial(&self) -> Vec<world::World> {
            self.0.initial()
        }
        fn steps(&self, state: &world::World, out: &mut Vec<(world::Step, world::World)>) {
            self.0.steps(state, out);
        }
        fn broken(&self, state: &world::World) -> Option<String> {
            state.wrote_after_an_erase().then(|| "reached".to_owned())
        }
    }
    let bounds = Bounds { nodes: 2, writes: 3, tokens: 2, erases: 1, ..CALM };
    let verdict = search(&Reaches(Dots { rules: Rules::PRODUCT, bounds }), 3_000_000);
    assert!(!verdict.holds(), "{verdict}");
}
