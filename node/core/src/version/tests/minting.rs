//! The actor rule: who goes on counting, who takes a new serial, and what is refused.

use super::*;

const TAG: u64 = 0x7a67;
const NO_FLOOR: SerialFloor = SerialFloor(0);

fn own(serial: u64) -> Actor {
    Actor { tag: TAG, serial }
}

fn text(value: &'static str) -> Sibling {
    Sibling::value(Stamp(1), value)
}

fn mint(minter: &Minter, record: Option<&Record>, seen: &Context) -> Minted {
    minter.mint(record.cloned(), NO_FLOOR, seen, text("v")).unwrap()
}

#[test]
fn a_start_counts_on_under_its_own_record() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    assert_eq!(first.dot, own(0).dot(1));
    assert_eq!(first.record.counting, Some(own(0)));
    let second = mint(&minter, Some(&first.record), &Context::new());
    assert_eq!(second.dot, own(0).dot(2));
    assert_eq!(second.record.set.siblings().len(), 2, "blind writes stand side by side");
    let third = mint(&minter, Some(&second.record), second.delta.context());
    assert_eq!(third.dot, own(0).dot(3));
    let left: Vec<Dot> = third.record.set.siblings().keys().copied().collect();
    assert_eq!(left, [first.dot, third.dot], "only what the writer saw is superseded");
    assert_eq!(mint(&minter, None, &Context::new()).dot, own(1).dot(1), "another key");
}

#[test]
fn the_delta_carries_what_the_writer_saw_and_its_dot() {
    let minter = Minter::new(TAG);
    let other = mint(&minter, None, &Context::new());
    let seen = Context::from_iter([actor(1).dot(3)]);
    let minted = mint(&minter, Some(&other.record), &seen);
    let expected = Context::from_iter([actor(1).dot(3), minted.dot]);
    assert_eq!(minted.delta.context(), &expected, "not the other writer's dot");
    assert_eq!(minted.record.set, other.record.set.merge(&minted.delta));
}

#[test]
fn a_new_start_an_erase_and_a_raised_floor_take_a_new_serial() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());

    let restarted = Minter::new(TAG + 1);
    let next = mint(&restarted, Some(&first.record), &Context::new());
    assert_eq!(next.dot, Actor { tag: TAG + 1, serial: 0 }.dot(1));

    // Erased, then brought back by a late delta: the row looks like one's own, and is not counted on.
    let (back, changed) = minter.accept(None, NO_FLOOR, &first.delta).unwrap();
    assert!(changed && back.counting.is_none());
    assert_eq!(mint(&minter, Some(&back), &Context::new()).dot, own(1).dot(1));

    let floor = minter.floor();
    assert_eq!(floor, SerialFloor(2));
    let after = minter.mint(Some(first.record), floor, &Context::new(), text("v")).unwrap();
    assert_eq!(after.dot, own(2).dot(1));
    let after = minter.mint(Some(after.record), floor, &Context::new(), text("v")).unwrap();
    assert_eq!(after.dot, own(2).dot(2), "taken after the floor was raised: counts on");
}

#[test]
fn merging_never_touches_what_a_record_counts_on() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    let elsewhere = mint(&Minter::new(9), None, first.delta.context());
    let (record, changed) =
        minter.accept(Some(first.record), NO_FLOOR, &elsewhere.record.set).unwrap();
    assert!(changed);
    assert_eq!(record.counting, Some(own(0)));
    let (same, changed) =
        minter.accept(Some(record.clone()), NO_FLOOR, &elsewhere.record.set).unwrap();
    assert!(!changed);
    assert_eq!(same, record);
}

#[test]
fn a_serial_that_was_not_taken_is_refused_everywhere() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    let forged = Context::from_iter([own(1).dot(1)]);
    let refusal = ContextRefused::SerialNotTaken { actor: own(1), taken: 1 };
    for record in [None, Some(first.record)] {
        let minted = minter.mint(record.clone(), NO_FLOOR, &forged, text("v"));
        assert_eq!(minted, Err(refusal));
        let delta = SiblingSet::delta(Context::new(), own(1).dot(1), text("v"));
        assert_eq!(minter.accept(record, NO_FLOOR, &delta), Err(refusal));
    }
    assert_eq!(minter.floor(), SerialFloor(1), "a refused write takes no serial");
    // A hole does not hide the row.
    let in_the_cloud = Context::from_iter([own(5).dot(7)]);
    assert!(minter.mint(None, NO_FLOOR, &in_the_cloud, text("v")).is_err());
}

#[test]
fn outlines_are_judged_like_sets() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    let foreign = SiblingSet::delta(Context::new(), actor(1).dot(1), text("v"));
    let missing = minter.accept_outline(Some(first.record.clone()), NO_FLOOR, &foreign.outline());
    assert_eq!(missing, Err(OutlineRefused::MissingPiece(MissingPiece(actor(1).dot(1)))));
    let (record, _) = minter.accept(Some(first.record.clone()), NO_FLOOR, &foreign).unwrap();
    let accepted = minter.accept_outline(Some(record.clone()), NO_FLOOR, &foreign.outline());
    assert_eq!(accepted, Ok((record, false)));
    let forged = SiblingSet::delta(Context::new(), own(0).dot(2), text("v")).outline();
    let refused = minter.accept_outline(Some(first.record), NO_FLOOR, &forged);
    assert!(matches!(refused, Err(OutlineRefused::Context(_))), "{refused:?}");
}

#[test]
fn a_count_above_the_records_own_actor_is_refused() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    let forged = Context::from_iter([own(0).dot(1), own(0).dot(2)]);
    let refusal = ContextRefused::CountNotMinted { claimed: own(0).dot(2), minted: 1 };
    let minted = minter.mint(Some(first.record.clone()), NO_FLOOR, &forged, text("v"));
    assert_eq!(minted, Err(refusal));
    let delta = SiblingSet::delta(forged.clone(), actor(1).dot(1), text("v"));
    assert_eq!(minter.accept(Some(first.record.clone()), NO_FLOOR, &delta), Err(refusal));
    let at_the_record = Context::from_iter([own(0).dot(1)]);
    assert!(minter.mint(Some(first.record), NO_FLOOR, &at_the_record, text("v")).is_ok());
}

#[test]
fn whatever_a_fault_may_have_brought_about_is_taken() {
    let minter = Minter::new(TAG);
    let first = mint(&minter, None, &Context::new());
    let second = mint(&minter, Some(&first.record), &Context::new());
    let _another_key = mint(&minter, None, &Context::new());
    let high = Context::from_iter([own(0).dot(1), own(0).dot(2)]);
    // No record (erased): taken.
    assert!(minter.mint(None, NO_FLOOR, &high, text("v")).is_ok());
    // A serial below the floor, in a record that a regained partition brought: taken.
    let floor = minter.floor();
    assert!(minter.mint(Some(first.record.clone()), floor, &high, text("v")).is_ok());
    // A serial taken under this key earlier, while the record counts on another now: taken.
    let (merged, _) = minter.accept(None, NO_FLOOR, &first.delta).unwrap();
    let now_on_another = mint(&minter, Some(&merged), &Context::new());
    assert_ne!(now_on_another.dot.actor, own(0));
    let (_, changed) = minter.accept(Some(now_on_another.record), NO_FLOOR, &second.delta).unwrap();
    assert!(changed);
    // Another start's rows, however high (its tail may have been lost): taken.
    let strangers = Context::from_iter([Actor { tag: 1, serial: 9 }.dot(99)]);
    assert!(minter.mint(Some(first.record), NO_FLOOR, &strangers, text("v")).is_ok());
}

#[test]
fn threads_never_take_one_serial_twice() {
    let minter = Minter::new(TAG);
    let dots = std::thread::scope(|scope| {
        let one = || (0..2_000).map(|_| mint(&minter, None, &Context::new()).dot);
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(move || one().collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let distinct: std::collections::BTreeSet<Dot> = dots.iter().copied().collect();
    assert_eq!(distinct.len(), 8_000);
}
