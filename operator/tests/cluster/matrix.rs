//! The crash matrix: for every write of a change the operator dies before it and after it, a new
//! one starts, and the cluster ends as if nothing had happened, with nothing taken out of turn.
//!
//! Each row runs twice: in a world that comes to rest between two passes, and in one that is slow,
//! where the new operator sees half-done work. Deletion has a row of its own, since the operator
//! writes nothing for it: it comes at every write of the creation.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::process::{Death, Side};
use crate::operator::{Bench, Ended, NAME};

/// A change: what the cluster is before, and what the user does then.
struct Change {
    name: &'static str,
    /// Edits that are carried out one after the other before the change; none: nothing is there.
    before: &'static [fn(&mut Value)],
    then: fn(&Bench),
}

const CHANGES: &[Change] = &[
    Change { name: "create", before: &[], then: |bench| bench.create(|_| {}) },
    Change {
        name: "scale up",
        before: &[|_| {}],
        then: |bench| bench.edit(|spec| spec["nodes"] = json!(4)),
    },
    Change {
        name: "scale up by two",
        before: &[|_| {}],
        then: |bench| bench.edit(|spec| spec["nodes"] = json!(5)),
    },
    Change {
        name: "replace",
        before: &[|_| {}],
        then: |bench| bench.lose_volume("demo-default-1"),
    },
    Change {
        name: "scale down",
        before: &[|_| {}, |spec| spec["nodes"] = json!(4)],
        then: |bench| bench.edit(|spec| spec["nodes"] = json!(3)),
    },
    Change {
        name: "scale down, volumes deleted",
        before: &[
            |spec| spec["storage"]["retention"] = json!({"whenScaled": "Delete"}),
            |spec| spec["nodes"] = json!(4),
        ],
        then: |bench| bench.edit(|spec| spec["nodes"] = json!(3)),
    },
    Change {
        name: "a rack gives way to another",
        before: &[|spec| {
            spec["topology"] = json!({"racks": [{"name": "r1"}, {"name": "r2"}]});
            spec["storage"]["retention"] = json!({"whenScaled": "Delete"});
        }],
        then: |bench| {
            bench.edit(|spec| spec["topology"]["racks"] = json!([{"name": "r1"}, {"name": "r3"}]));
        },
    },
    Change {
        name: "rolling update",
        before: &[|_| {}],
        then: |bench| bench.edit(|spec| spec["image"] = json!("kvasir:2.0.0")),
    },
];

impl Change {
    /// Does it make no StatefulSet? The request that makes one is known to do harm where it comes late
    /// (the one gap that `ARCHITECTURE.md` names): its successor does not grow the cluster meanwhile.
    fn may_be_followed(&self) -> bool {
        !self.before.is_empty() && !self.name.starts_with("a rack")
    }
}

/// The world before a change.
async fn base(change: &Change) -> Bench {
    let Some((first, more)) = change.before.split_first() else { return Bench::new() };
    let bench = Bench::formed(first).await;
    for edit in more {
        bench.edit(edit);
        bench.rest(&mut bench.life(None)).await;
    }
    bench
}

fn start(base: &Bench, change: &Change, slow: bool) -> Bench {
    let mut bench = base.fork();
    bench.slow = slow;
    (change.then)(&bench);
    bench
}

/// Runs a change with a death at each write, on both sides of it; says how many writes there are.
async fn row(change: &Change, slow: bool) -> usize {
    let base = base(change).await;
    let bench = start(&base, change, slow);
    let mut life = bench.life(None);
    assert_eq!(bench.rest(&mut life).await, Ended::AtRest);
    let (wanted, writes) = (bench.picture(), life.process.writes());
    assert_eq!(bench.violations(), Vec::<String>::new(), "{}", change.name);
    assert!(writes > 3, "{}: only {writes} writes", change.name);
    for write in 1..=writes {
        // A slow world shows a new operator the same halves whichever side of a write it died on.
        let both = [Side::Before, Side::After];
        let sides = match (slow, write % 2) {
            (false, _) => &both[..],
            (true, 0) => &both[..1],
            (true, _) => &both[1..],
        };
        for side in sides.iter().copied() {
            let at = format!("{}, {side:?} write {write} of {writes}", change.name);
            let bench = start(&base, change, slow);
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

#[tokio::test]
async fn a_cluster_deleted_at_any_write_of_its_creation_leaves_only_volumes_and_comes_back() {
    let whole = Bench::new();
    whole.create(|_| {});
    let mut life = whole.life(None);
    whole.rest(&mut life).await;
    for write in 1..=life.process.writes() {
        let bench = Bench::new();
        bench.create(|_| {});
        let mut doomed = bench.life(Some(Death { write, side: Side::After }));
        assert_eq!(bench.rest(&mut doomed).await, Ended::Died);
        bench.delete("kvclusters", NAME);
        bench.rest(&mut bench.life(None)).await;
        let left = bench.kinds();
        assert!(left.is_empty() || left == ["PersistentVolumeClaim"], "write {write}: {left:?}");
        bench.create(|_| {});
        bench.rest(&mut bench.life(None)).await;
        assert_eq!(bench.condition("Ready").0, "True", "write {write}");
        assert_eq!(bench.world.nodes().formed, 1, "write {write}");
        assert_eq!(bench.violations(), Vec::<String>::new(), "write {write}");
    }
}

/// What the user asks for while a write of a leader that is no more is on its way: the successor
/// grows the cluster, so that everything which the old one meant is out of date.
async fn late(change: &Change, write: usize, base: &Bench) -> Bench {
    let at = format!("{}, late write {write}", change.name);
    let bench = start(base, change, false);
    let mut stale = bench.life(Some(Death { write, side: Side::Late }));
    let process = Arc::clone(&stale.process);
    let mut old = Box::pin(bench.rest(&mut stale));
    tokio::select! {
        biased;
        ended = &mut old => panic!("{at}: {ended:?}"),
        () = process.on_its_way() => {}
    }
    let mut next = bench.life(None);
    assert_eq!(bench.rest(&mut next).await, Ended::AtRest, "{at}");
    if change.may_be_followed() {
        bench.edit(|spec| spec["nodes"] = json!(5));
        assert_eq!(bench.rest(&mut next).await, Ended::AtRest, "{at}");
    }
    process.arrive();
    assert_eq!(old.as_mut().await, Ended::Died, "{at}");
    drop(old);
    assert_eq!(bench.harm(), Vec::<String>::new(), "{at}");
    bench.world.settle();
    let members = bench.world.nodes().document().map_or(0, |document| document.members.len());
    assert_eq!(bench.world.ready_pods("default").len(), members, "{at}: a member lost its pod");
    assert_eq!(bench.rest(&mut next).await, Ended::AtRest, "{at}");
    bench
}

#[tokio::test]
async fn a_write_of_a_leader_that_is_no_more_arrives_when_its_successor_is_done() {
    for change in CHANGES {
        let base = base(change).await;
        let bench = start(&base, change, false);
        let mut life = bench.life(None);
        assert_eq!(bench.rest(&mut life).await, Ended::AtRest);
        let writes = life.process.writes();
        if change.may_be_followed() {
            bench.edit(|spec| spec["nodes"] = json!(5));
            assert_eq!(bench.rest(&mut life).await, Ended::AtRest);
        }
        let wanted = bench.picture();
        for write in 1..=writes {
            let bench = late(change, write, &base).await;
            let at = format!("{}, late write {write}", change.name);
            assert_eq!(bench.harm(), Vec::<String>::new(), "{at}");
            assert_eq!(bench.condition("Ready").0, "True", "{at}");
            assert_eq!(bench.picture(), wanted, "{at}");
        }
    }
}

#[tokio::test]
async fn a_leader_that_lost_its_lease_stops_before_its_next_write() {
    for change in CHANGES {
        let base = base(change).await;
        let bench = start(&base, change, false);
        let mut life = bench.life(None);
        bench.rest(&mut life).await;
        let (wanted, writes) = (bench.picture(), life.process.writes());
        for allowed in 0..writes {
            let bench = start(&base, change, false);
            let mut stale = bench.life(None);
            let process = Arc::clone(&stale.process);
            stale.operator.may_write = Arc::new(move || process.writes() < allowed);
            // Its passes go on as long as it likes: it writes no more.
            for _ in 0..writes + 4 {
                bench.pass(&mut stale).await;
                bench.world.settle();
            }
            assert_eq!(stale.process.writes(), allowed, "{}", change.name);
            assert!(stale.failures.iter().any(|said| said.contains("lease")), "{}", change.name);
            assert_eq!(bench.rest(&mut bench.life(None)).await, Ended::AtRest);
            assert_eq!(bench.violations(), Vec::<String>::new(), "{}", change.name);
            assert_eq!(bench.picture(), wanted, "{}", change.name);
        }
    }
}

#[tokio::test]
async fn two_operators_at_once_do_the_work_of_one() {
    for change in CHANGES {
        let base = base(change).await;
        let bench = start(&base, change, false);
        bench.rest(&mut bench.life(None)).await;
        let wanted = bench.picture();
        let bench = start(&base, change, true);
        let (mut one, mut other) = (bench.life(None), bench.life(None));
        for _ in 0..60 {
            // Both read, then both write: the version of the resource lets one of them through.
            tokio::join!(bench.pass(&mut one), bench.pass(&mut other));
            bench.world.turn();
        }
        assert_eq!(bench.rest(&mut one).await, Ended::AtRest, "{}", change.name);
        assert_eq!(bench.violations(), Vec::<String>::new(), "{}", change.name);
        assert_eq!(bench.picture(), wanted, "{}", change.name);
    }
}
