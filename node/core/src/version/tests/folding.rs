//! What a set without its spent rows shows, and which rows may not go.

use super::*;

const TAG: u64 = 0xf01d;

/// Every set over three dots of one actor and one of another.
fn sets() -> Vec<SiblingSet> {
    let dots = [actor(0).dot(1), actor(0).dot(2), actor(0).dot(3), actor(1).dot(1)];
    let mut sets = Vec::new();
    for states in 0..81_usize {
        let state = |place: usize| states / 3_usize.pow(place as u32) % 3;
        let those = |wanted: fn(usize) -> bool| {
            dots.into_iter().enumerate().filter(move |(place, _)| wanted(state(*place)))
        };
        let context = those(|state| state > 0).map(|(_, dot)| dot).collect();
        let siblings = those(|state| state > 1).map(|(_, dot)| (dot, sibling_of(dot))).collect();
        sets.push(SiblingSet::from_parts(context, siblings).unwrap());
    }
    sets
}

fn folded(set: &SiblingSet) -> Option<SiblingSet> {
    let rows: Vec<Dot> = set.spent_rows().flatten().collect();
    let record = Minter::new(TAG).fold(Record::merged(set.clone()), &rows)?;
    assert_eq!(Record::decode(&record.encode()), Ok(record.clone()), "it is still canonical");
    Some(record.set)
}

/// Merged with whatever may still be under way, a set without its spent rows shows what it showed with them,
/// the writes that are its holes among them; with what may not, a value that was superseded is back.
#[test]
fn a_folded_set_shows_the_same_unless_an_old_carrier_comes() {
    let (mut same, mut back, mut holes) = (0, 0, 0);
    for set in sets() {
        let Some(less) = folded(&set) else { continue };
        assert_eq!(less.siblings(), set.siblings());
        assert!(set.context().includes(less.context()) && less != set);
        let gone = |dot: &Dot| set.context().covers(dot) && !less.context().covers(dot);
        let torn = |dot: &Dot| set.spent_rows().any(|row| row[0].actor == dot.actor);
        for other in sets() {
            let (with, without) = (set.merge(&other), less.merge(&other));
            if other.siblings().keys().any(gone) {
                back += usize::from(with.siblings() != without.siblings());
            } else {
                assert_eq!(with.siblings(), without.siblings(), "{set:?} and {other:?}");
                assert_eq!(without.merge(&set), with, "who is late brings the rows back");
                same += 1;
                holes += usize::from(other.siblings().keys().any(torn));
            }
        }
    }
    println!("{same} merges show the same, {holes} with a write beside the row; {back} would not");
    assert!(same > 0 && back > 0 && holes > 0);
}

#[test]
fn rows_without_siblings_are_spent_as_exactly_the_dots_that_they_have() {
    let dots = [actor(0).dot(1), actor(0).dot(2), actor(1).dot(1), actor(2).dot(1)];
    let mut context: Context = dots.into_iter().collect();
    let holes = [actor(2).dot(3), actor(3).dot(2), actor(3).dot(5)];
    holes.into_iter().for_each(|dot| context.insert(dot));
    // Too many holes to be written down.
    (1..12).for_each(|count| context.insert(actor(4).dot(2 * count)));
    let held = BTreeMap::from([(dots[2], sibling_of(dots[2]))]);
    let set = SiblingSet::from_parts(context, held).unwrap();
    let (torn, headless) =
        ([actor(2).dot(1), actor(2).dot(3)], [actor(3).dot(0), actor(3).dot(2), actor(3).dot(5)]);
    let rows: Vec<Vec<Dot>> = set.spent_rows().collect();
    assert_eq!(rows, [vec![actor(0).dot(2)], torn.to_vec(), headless.to_vec()]);
    for other in [
        &[actor(0).dot(1)][..],
        &[actor(0).dot(3)],
        &[actor(0).dot(0)],
        &[actor(0).dot(1), actor(0).dot(2)],
        &[actor(2).dot(1)],
        &[actor(2).dot(3)],
        &[actor(3).dot(2), actor(3).dot(5)],
        &[actor(5).dot(1)],
        &[actor(5).dot(0)],
        &[],
    ] {
        assert!(!set.is_spent(other), "{other:?}");
    }
    let (minter, record) = (Minter::new(TAG), Record::merged(set));
    let refused =
        [vec![], vec![actor(0).dot(1)], vec![actor(0).dot(2), actor(1).dot(1)], vec![torn[1]]];
    for rows in refused {
        assert_eq!(minter.fold(record.clone(), &rows), None, "{rows:?}");
    }
    let left = minter.fold(record, &rows.concat()).expect("all three go").set;
    let left: Vec<Actor> = left.context().rows().map(|(actor, _)| actor).collect();
    assert_eq!(left, [actor(1), actor(4)]);
}

/// A row of this start stays: without it the next mint would give a dot out twice.
#[test]
fn no_row_of_this_start_goes_and_an_older_note_goes_with_its_row() {
    let floor = SerialFloor::default();
    let (earlier, minter) = (Minter::new(1), Minter::new(TAG));
    let first = earlier.mint(None, floor, &Context::new(), Sibling::value(Stamp(1), "a")).unwrap();
    let seen = first.delta.context().clone();
    let over = Sibling::value(Stamp(2), "b");
    let second = minter.mint(Some(first.record.clone()), floor, &seen, over).unwrap();
    let mut seen = second.record.set.context().clone();
    seen.insert(actor(0).dot(1));
    let delta = SiblingSet::delta(seen, actor(0).dot(2), sibling_of(actor(0).dot(2)));
    let (record, _) = minter.accept(Some(second.record), floor, &delta).unwrap();
    let rows: Vec<Dot> = record.set.spent_rows().flatten().collect();
    assert_eq!(rows, [first.dot, second.dot], "the own row is spent as well");
    assert_eq!(minter.fold(record.clone(), &rows), None);
    let kept = minter.fold(record.clone(), &rows[..1]).expect("the other row goes");
    assert_eq!(kept.counting, Some(second.dot.actor));
    let next = minter.mint(Some(kept), floor, &Context::new(), Sibling::value(Stamp(3), "c"));
    assert_eq!(next.unwrap().dot, second.dot.actor.dot(2), "it goes on counting");
    // After another start the note is of an actor that is gone.
    let later = Minter::new(2).fold(record, &rows).expect("both are of earlier starts");
    assert_eq!(later.counting, None);
    assert!(Record::decode(&later.encode()).is_ok());
}
