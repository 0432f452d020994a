//! The crash matrix: for every write of a change the operator dies before it and after it, a new
//! one starts, and the cluster ends as if nothing had happened, with nothing taken out of turn.
//!
//! Each row runs twice: in a world that comes to rest between two passes, and in one that is slow,
//! where the new operator sees half-done work. Two operators at once are a row of their own.

use serde_json::json;

use crate::api::process::{Death, Side};
use crate::operator::{Bench, Ended};

/// A change: how the cluster is made, and what the user does then.
struct Change {
    name: &'static str,
    formed: bool,
    before: fn(&mut serde_json::Value),
    then: fn(&Bench),
}

const CHANGES: &[Change] = &[
    Change { name: "create", formed: false, before: |_| {}, then: |bench| bench.create(|_| {}) },
    Change {
        name: "scale up",
        formed: true,
        before: |_| {},
        then: |bench| bench.edit(|spec| spec["nodes"] = json!(5)),
    },
    Change {
        name: "rolling update",
        formed: true,
        before: |_| {},
        then: |bench| bench.edit(|spec| spec["image"] = json!("kvasir:2.0.0")),
    },
    Change {
        name: "configuration",
        formed: true,
        before: |_| {},
        then: |bench| {
            bench.edit(|spec| spec["config"] = json!({"log": {"level": "debug"}}));
        },
    },
];

async fn start(change: &Change, slow: bool) -> Bench {
    let mut bench = if change.formed { Bench::formed(change.before).await } else { Bench::new() };
    bench.slow = slow;
    (change.then)(&bench);
    bench
}

/// Runs a change with a death at each write, on both sides of it.
async fn row(change: &Change, slow: bool) -> usize {
    let bench = start(change, slow).await;
    let mut life = bench.life(None);
    assert_eq!(bench.rest(&mut life).await, Ended::AtRest);
    let (wanted, writes) = (bench.picture(), life.process.writes());
    assert_eq!(bench.violations(), Vec::<String>::new(), "{}", change.name);
    assert!(writes > 3, "{}: only {writes} writes", change.name);
    for write in 1..=writes {
        for side in [Side::Before, Side::After] {
            let at = format!("{}, {side:?} write {write} of {writes}", change.name);
            let bench = start(change, slow).await;
            let mut doomed = bench.life(Some(Death { write, side }));
            assert_eq!(bench.rest(&mut doomed).await, Ended::Died, "{at}");
            let mut next = bench.life(None);
            assert_eq!(bench.rest(&mut next).await, Ended::AtRest, "{at}");
            assert_eq!(bench.violations(), Vec::<String>::new(), "{at}");
            assert_eq!(bench.condition("Ready").0, "True", "{at}");
            assert_eq!(bench.picture(), wanted, "{at}");
        }
    }
    writes
}

#[tokio::test]
async fn the_operator_dies_at_every_write_and_the_cluster_ends_the_same() {
    for change in CHANGES {
        let writes = row(change, false).await;
        println!("{}: {} deaths", change.name, writes * 2);
    }
}

#[tokio::test]
async fn the_same_in_a_world_that_is_slow() {
    for change in CHANGES {
        row(change, true).await;
    }
}
