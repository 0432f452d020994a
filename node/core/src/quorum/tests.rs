//! Tallies against an oracle that knows only the set of facts and tries every future.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn tally(level: Level, datacenters: &[&str], local: &str) -> Result<Tally, LevelError> {
    let replicas: Vec<_> =
        datacenters.iter().enumerate().map(|(i, dc)| (node(i as u8), *dc)).collect();
    Tally::new(level, &replicas, local)
}

#[test]
fn quorum_of_three_ends_at_two_or_when_two_failed() {
    let mut count = tally(Level::Quorum, &["a"; 3], "a").unwrap();
    assert_eq!((count.required(), count.is_quorum()), (2, true));
    assert_eq!(count.ack(node(0)), Ok(Progress::NeedMore));
    assert_eq!(count.ack(node(0)), Ok(Progress::NeedMore), "the same replica again");
    assert_eq!(count.fail(node(1)), Ok(Progress::NeedMore));
    assert_eq!(count.outstanding(), vec![node(2)]);
    assert_eq!(count.fail(node(2)), Ok(Progress::Failed));
    assert_eq!(count.ack(node(2)), Ok(Progress::Done), "a late copy is a copy");
    assert_eq!(count.fail(node(2)), Ok(Progress::Done), "and it stays");
    assert_eq!(count.acks(), [node(0), node(2)]);
}

#[test]
fn each_quorum_wants_every_data_center() {
    let mut count =
        tally(Level::EachQuorum, &["east", "east", "east", "west", "west", "west"], "east")
            .unwrap();
    assert_eq!(count.required(), 4);
    for east in 0..3 {
        assert_eq!(count.ack(node(east)), Ok(Progress::NeedMore));
    }
    assert_eq!(count.ack(node(3)), Ok(Progress::NeedMore));
    assert_eq!(count.ack(node(4)), Ok(Progress::Done));
}

#[test]
fn local_levels_ignore_the_other_data_center() {
    let mut count = tally(Level::LocalQuorum, &["east", "east", "east", "west"], "east").unwrap();
    assert_eq!(count.ack(node(3)), Ok(Progress::NeedMore));
    assert_eq!(count.ack(node(0)), Ok(Progress::NeedMore));
    assert_eq!(count.ack(node(1)), Ok(Progress::Done));
    assert!(matches!(
        tally(Level::LocalOne, &["east"], "west"),
        Err(LevelError::NoLocalReplica { .. })
    ));
}

#[test]
fn a_level_that_is_not_reached_names_the_data_center() {
    let centers = ["east", "east", "east", "west", "west", "west"];
    let mut count = tally(Level::EachQuorum, &centers, "east").unwrap();
    for east in 0..3 {
        count.ack(node(east)).unwrap();
    }
    let west = |acks| vec![Shortage { datacenter: "west".to_owned(), acks, required: 2 }];
    assert_eq!((count.shortages(), count.towards()), (west(0), 2));
    assert!(count.wants(node(3)) && !count.wants(node(0)) && !count.wants(node(9)));
    count.ack(node(3)).unwrap();
    count.fail(node(4)).unwrap();
    assert!(!count.lacks(node(4)), "one more can still come");
    assert_eq!(count.fail(node(5)), Ok(Progress::Failed));
    assert_eq!((count.shortages(), count.towards(), count.required()), (west(1), 3, 4));
    assert!(count.lacks(node(4)) && !count.lacks(node(0)), "only the west is short");
    count.stand_in(node(4), node(9)).unwrap();
    assert!(!count.lacks(node(4)) && count.wants(node(9)));
    count.ack(node(9)).unwrap();
    assert_eq!((count.progress(), count.shortages()), (Progress::Done, vec![]));
    // What the other data center acknowledged is not said to count towards a local level.
    let mut count = tally(Level::LocalQuorum, &centers, "west").unwrap();
    for number in [0, 1, 2, 4] {
        count.ack(node(number)).unwrap();
    }
    assert_eq!((count.shortages(), count.towards(), count.counted()), (west(1), 1, 4));
    // What is still under way in one of them is not short when the other one cannot be reached.
    let mut count = tally(Level::EachQuorum, &centers, "east").unwrap();
    for number in 3..6 {
        count.fail(node(number)).unwrap();
    }
    assert_eq!(count.shortages(), west(0));
    let over_all = tally(Level::Quorum, &centers, "east").unwrap();
    assert_eq!(over_all.shortages(), vec![]);
}

#[test]
fn nobody_is_asked_whom_the_level_does_not_count() {
    let centers = ["east", "west", "east", "west", "east", "west"];
    let everyone: Vec<NodeId> = (0..6).map(node).collect();
    let asked = |level, failed: &[u8]| {
        let mut count = tally(level, &centers, "west").unwrap();
        let (mut asked, mut waiting) = (Vec::new(), everyone.clone());
        for number in failed {
            count.fail(node(*number)).unwrap();
        }
        while let Some(next) = count.next_to_ask(&asked, &waiting) {
            waiting.retain(|other| *other != next);
            asked.push(next);
        }
        asked
    };
    assert_eq!(asked(Level::LocalOne, &[]), [node(1)]);
    assert_eq!(asked(Level::LocalQuorum, &[]), [node(1), node(3)]);
    assert_eq!(asked(Level::EachQuorum, &[]), [0, 1, 2, 3].map(node));
    assert_eq!(asked(Level::EachQuorum, &[3]), [0, 1, 2, 3, 5].map(node), "another of the west");
    assert_eq!(asked(Level::Quorum, &[]), [0, 1, 2, 3].map(node));
    assert_eq!(asked(Level::LocalQuorum, &[1, 3]), [1, 3, 5].map(node), "all that there are");
}

#[test]
fn what_cannot_be_reached_is_refused_at_once() {
    assert_eq!(
        tally(Level::Exactly(4), &["a"; 3], "a").unwrap_err(),
        LevelError::MoreThanReplicas { asked: 4, replicas: 3 }
    );
    assert_eq!(tally(Level::Exactly(0), &["a"], "a").unwrap_err(), LevelError::Zero);
    assert_eq!(tally(Level::One, &[], "a").unwrap_err(), LevelError::NoReplicas);
    let twice = [(node(1), "a"), (node(1), "a")];
    assert_eq!(Tally::new(Level::One, &twice, "a").unwrap_err(), LevelError::ReplicaTwice(node(1)));
}

#[test]
fn an_unknown_node_is_an_error_and_changes_nothing() {
    let mut count = tally(Level::One, &["a"], "a").unwrap();
    assert_eq!(count.ack(node(9)), Err(LevelError::NotCounted(node(9))));
    assert_eq!(count.fail(node(9)), Err(LevelError::NotCounted(node(9))));
    assert_eq!(count.progress(), Progress::NeedMore);
}

#[test]
fn an_owner_and_its_stand_in_count_once() {
    let mut count = tally(Level::All, &["a"; 3], "a").unwrap();
    count.fail(node(2)).unwrap();
    assert_eq!(count.progress(), Progress::Failed);
    assert_eq!(count.stand_in(node(2), node(7)), Ok(Progress::NeedMore));
    assert_eq!(count.outstanding(), vec![node(0), node(1), node(7)]);
    count.ack(node(7)).unwrap();
    count.ack(node(2)).unwrap();
    count.ack(node(0)).unwrap();
    assert_eq!(count.progress(), Progress::NeedMore, "owner and stand-in share one slot");
    assert_eq!(count.ack(node(1)), Ok(Progress::Done));
    assert_eq!(count.owner_acks().collect::<Vec<_>>(), vec![node(0), node(1)]);
    assert_eq!(count.stand_in_acks().collect::<Vec<_>>(), vec![node(7)]);
}

#[test]
fn a_stand_in_is_replaced_only_after_it_failed() {
    let mut count = tally(Level::Quorum, &["a"; 3], "a").unwrap();
    count.fail(node(2)).unwrap();
    count.stand_in(node(2), node(7)).unwrap();
    assert_eq!(count.stand_in(node(2), node(8)), Err(LevelError::ReplicaTwice(node(8))));
    assert_eq!(count.stand_in(node(1), node(7)), Err(LevelError::ReplicaTwice(node(7))));
    assert_eq!(count.stand_in(node(7), node(8)), Err(LevelError::NotCounted(node(7))));
    count.fail(node(7)).unwrap();
    count.stand_in(node(2), node(8)).unwrap();
    assert_eq!(count.outstanding(), [node(0), node(1), node(8)]);
    assert_eq!(count.fail(node(7)), Ok(Progress::NeedMore), "it was given up before it failed");
    count.ack(node(0)).unwrap();
    assert_eq!(count.ack(node(7)), Ok(Progress::Done), "its copy is there, though it came late");
    assert_eq!(count.ack(node(8)), Ok(Progress::Done));
    assert_eq!(count.stand_in_acks().collect::<Vec<_>>(), [node(7)], "one slot counts once");
}

#[test]
fn is_quorum_means_that_two_such_sets_meet() {
    for (level, datacenters, expected) in [
        (Level::One, &["a", "a", "a"][..], false),
        (Level::One, &["a"], true),
        (Level::Exactly(2), &["a", "a", "a"], true),
        (Level::Exactly(2), &["a", "a", "a", "a"], false),
        (Level::All, &["a", "b"], true),
        (Level::LocalOne, &["a", "a", "a", "b"], false),
        (Level::LocalQuorum, &["a", "a", "a", "b"], true),
        (Level::EachQuorum, &["a", "a", "a", "b"], true),
    ] {
        assert_eq!(tally(level, datacenters, "a").unwrap().is_quorum(), expected, "{level}");
    }
}

/// Whether the acknowledgements in `acked` satisfy the level, straight from the words.
fn satisfied(level: Level, datacenters: &[u8], local: u8, acked: &BTreeSet<usize>) -> bool {
    let count = |dc: Option<u8>| {
        acked.iter().filter(|i| dc.is_none_or(|dc| datacenters[**i] == dc)).count() as u32
    };
    let size = |dc: Option<u8>| {
        datacenters.iter().filter(|other| dc.is_none_or(|dc| **other == dc)).count() as u32
    };
    let majority = |dc| count(dc) * 2 > size(dc);
    match level {
        Level::Exactly(wanted) => count(None) >= wanted,
        Level::One => count(None) >= 1,
        Level::Quorum => majority(None),
        Level::All => count(None) == size(None),
        Level::LocalOne => count(Some(local)) >= 1,
        Level::LocalQuorum => majority(Some(local)),
        Level::EachQuorum => datacenters.iter().all(|dc| majority(Some(*dc))),
    }
}

fn levels() -> impl Strategy<Value = Level> {
    prop_oneof![
        (1_u32..7).prop_map(Level::Exactly),
        Just(Level::One),
        Just(Level::Quorum),
        Just(Level::All),
        Just(Level::LocalOne),
        Just(Level::LocalQuorum),
        Just(Level::EachQuorum),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_oracle(
        level in levels(),
        datacenters in prop::collection::vec(0_u8..3, 1..7),
        local in 0_u8..3,
        events in prop::collection::vec((0_usize..7, any::<bool>()), 0..20),
    ) {
        let names = ["east", "north", "west"];
        let replicas: Vec<_> = datacenters
            .iter()
            .enumerate()
            .map(|(i, dc)| (node(i as u8), names[usize::from(*dc)]))
            .collect();
        let everyone: BTreeSet<usize> = (0..datacenters.len()).collect();
        let reachable = satisfied(level, &datacenters, local, &everyone)
            && (!level.is_local() || datacenters.contains(&local));
        let built = Tally::new(level, &replicas, names[usize::from(local)]);
        prop_assert_eq!(built.is_ok(), reachable);
        let Ok(mut count) = built else { return Ok(()) };
        let (mut acked, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for (who, good) in events {
            let progress = if good { count.ack(node(who as u8)) } else { count.fail(node(who as u8)) };
            if who >= datacenters.len() {
                prop_assert_eq!(progress, Err(LevelError::NotCounted(node(who as u8))));
                continue;
            }
            if good {
                acked.insert(who);
                failed.remove(&who);
            } else if !acked.contains(&who) {
                failed.insert(who);
            }
            let hope: BTreeSet<usize> = everyone.difference(&failed).copied().collect();
            let expected = if satisfied(level, &datacenters, local, &acked) {
                Progress::Done
            } else if satisfied(level, &datacenters, local, &hope) {
                Progress::NeedMore
            } else {
                Progress::Failed
            };
            prop_assert_eq!(progress, Ok(expected));
            prop_assert_eq!(count.acks().len(), acked.len());
            let open: Vec<_> = hope.difference(&acked).map(|i| node(*i as u8)).collect();
            prop_assert_eq!(count.outstanding(), open);
            // Whoever is asked is enough as long as nobody else fails.
            let mut waiting: Vec<_> = everyone.iter().map(|i| node(*i as u8)).collect();
            let mut asked = Vec::new();
            while let Some(next) = count.next_to_ask(&asked, &waiting) {
                waiting.retain(|other| *other != next);
                asked.push(next);
            }
            if expected != Progress::Failed {
                let good = asked.iter().map(|node| usize::from(node.as_bytes()[0]));
                let good = good.filter(|i| hope.contains(i)).chain(acked.iter().copied()).collect();
                prop_assert!(satisfied(level, &datacenters, local, &good));
            }
            prop_assert_eq!(expected == Progress::Done, count.towards() == count.required());
        }
    }
}

/// A slot that changes hands counts once and with both; one without nodes never counts.
#[test]
fn a_slot_with_two_owners_counts_when_both_stored() {
    let slots = [(vec![node(1)], "a"), (vec![node(2)], "a"), (vec![node(3), node(4)], "a")];
    let mut tally = Tally::over(Level::Quorum, &slots, "a").unwrap();
    tally.ack(node(1)).unwrap();
    assert_eq!(tally.ack(node(4)), Ok(Progress::NeedMore), "the new one alone is not the slot");
    assert_eq!((tally.acks(), tally.counted()), (&[node(1)][..], 1));
    assert_eq!(tally.ack(node(3)), Ok(Progress::Done));
    assert_eq!((tally.acks(), tally.counted()), (&[node(1), node(3), node(4)][..], 2));
    assert_eq!(tally.owner_acks().count(), 3);
    // Either of the two failing loses the slot, unless somebody stands in for it.
    for lost in [3, 4] {
        let mut tally = Tally::over(Level::Quorum, &slots, "a").unwrap();
        tally.fail(node(1)).unwrap();
        assert_eq!(tally.fail(node(lost)), Ok(Progress::Failed));
        assert_eq!(tally.stand_in(node(lost), node(9)), Ok(Progress::NeedMore));
        assert!(tally.stand_in(node(7 - lost), node(8)).is_err(), "one stand-in for the slot");
        tally.ack(node(2)).unwrap();
        assert_eq!(tally.ack(node(9)), Ok(Progress::Done));
        assert_eq!(tally.stand_in_acks().collect::<Vec<_>>(), [node(9)]);
    }
    let vacant = [(vec![node(1)], "a"), (vec![node(2)], "a"), (vec![], "a")];
    let mut tally = Tally::over(Level::Quorum, &vacant, "a").unwrap();
    assert_eq!(tally.required(), 2, "N is still three");
    tally.ack(node(1)).unwrap();
    assert_eq!(tally.ack(node(2)), Ok(Progress::Done));
    let all = Tally::over(Level::All, &vacant, "a").unwrap();
    assert_eq!(all.progress(), Progress::Failed);
    let twice = [(vec![node(1)], "a"), (vec![node(1), node(2)], "a")];
    assert!(Tally::over(Level::One, &twice, "a").is_err());
}
