//! The table of the module's header, row by row, and every pair of places against the arrows.

use super::*;

const fn holder(node: u8, since: u64) -> Holder<u8> {
    Holder { node, since }
}

const C: Holder<u8> = holder(2, 1);
const D: Holder<u8> = holder(3, 7);
const COPYING: Place<u8> = Place::Copying { from: C, to: D };
const SWITCHED: Place<u8> = Place::Switched { from: C, to: D };
const FENCING: Place<u8> = Place::Fencing { back: Some(C), to: D };
const MERGING: Place<u8> = Place::Merging { to: D };

/// N = 3 in one data center, or 3 + 2, with the slot of C at index 2 standing at `place`.
fn slots(place: Place<u8>, far: usize) -> Vec<(&'static str, Place<u8>)> {
    let stable = |node| Place::Stable(holder(node, 1));
    let near = [stable(0), stable(1), place].map(|place| ("near", place));
    near.into_iter().chain([4, 5].map(|node| ("far", stable(node))).into_iter().take(far)).collect()
}

fn fences(nodes: &[u8], version: u64) -> Vec<Proof<u8>> {
    nodes.iter().map(|&node| Proof::Fenced { node, version }).collect()
}

#[test]
fn each_place_counts_what_its_row_says() {
    type Row = (Place<u8>, &'static [Holder<u8>], Option<Holder<u8>>);
    let rows: [Row; 5] = [
        (Place::Stable(C), &[C], Some(C)),
        (COPYING, &[C, D], Some(C)),
        (SWITCHED, &[C, D], Some(D)),
        (FENCING, &[], None),
        (MERGING, &[D], None),
    ];
    for (place, writers, reader) in rows {
        assert_eq!(place.writers().collect::<Vec<_>>(), writers);
        assert_eq!(place.reader(), reader);
        assert_eq!(place.acknowledged(|_| true), !writers.is_empty(), "{place:?}");
        for without in writers {
            assert!(!place.acknowledged(|holder| holder != *without), "{place:?}");
        }
    }
    let older = |stored: Holder<u8>| stored.node == D.node && stored.since == D.since - 1;
    assert!(!MERGING.acknowledged(older), "an earlier tenure stored it");
}

#[test]
fn a_slot_that_counts_for_nobody_takes_no_copy_back() {
    assert!(!FENCING.handed_back(|_| true));
    assert!(COPYING.handed_back(|_| true) && !COPYING.handed_back(|holder| holder == D));
}

#[test]
fn arrows_lead_where_the_header_says_and_nowhere_else() {
    let at = D.since;
    let places = [
        Place::Stable(C),
        Place::Stable(D),
        COPYING,
        SWITCHED,
        FENCING,
        Place::Fencing { back: None, to: D },
        Place::Fencing { back: None, to: holder(C.node, at) },
        MERGING,
        Place::Merging { to: holder(C.node, at) },
    ];
    let mut found = Vec::new();
    for before in places {
        for after in places {
            if let Some(arrow) = before.arrow_to(&after, at) {
                found.push((before, arrow, after));
            }
        }
    }
    let [stable_c, stable_d, _, _, _, forced, rebuilding, _, rebuilt] = places;
    let mut expected = vec![
        (stable_c, Arrow::Begin, COPYING),
        (COPYING, Arrow::Switch, SWITCHED),
        (SWITCHED, Arrow::Finish, stable_d),
        (COPYING, Arrow::Cancel, stable_c),
        (FENCING, Arrow::Cancel, stable_c),
        (FENCING, Arrow::Admit, MERGING),
        (forced, Arrow::Admit, MERGING),
        (MERGING, Arrow::Finish, stable_d),
        (rebuilding, Arrow::Admit, rebuilt),
        (stable_c, Arrow::Replace, FENCING),
        (COPYING, Arrow::Replace, FENCING),
        (FENCING, Arrow::Replace, FENCING),
        (stable_d, Arrow::Replace, forced),
        (SWITCHED, Arrow::Replace, forced),
        (MERGING, Arrow::Replace, forced),
        (forced, Arrow::Replace, forced),
        (rebuilding, Arrow::Replace, forced),
        (rebuilt, Arrow::Replace, forced),
    ];
    for before in places {
        // A node is rebuilt from anywhere, and then there is no way back to it.
        expected.push((before, Arrow::Replace, rebuilding));
    }
    // A slot of D, which is stable, given to C: the way back is to D.
    expected.retain(|(before, _, after)| (*before, *after) != (stable_d, rebuilding));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(COPYING.arrow_to(&stable_d, at), None, "step 2 is not jumped over");
    assert_eq!(stable_c.arrow_to(&COPYING, at + 1), None, "a tenure begins in its own epoch");
}

#[test]
fn a_stream_counts_only_for_its_tenure_source_and_fence() {
    let table = slots(COPYING, 0);
    let entry = Slots { version: D.since, slots: &table, moving: 2 };
    let told = |to, source, fenced| missing(&entry, &[Proof::Streamed { to, source, fenced }]);
    assert_eq!(told(D, C, D.since), Ok(Arrow::Switch));
    for (to, source, fenced) in [
        (holder(D.node, D.since - 1), C, D.since),
        (D, holder(0, 1), D.since),
        (D, holder(C.node, 0), D.since),
        (D, C, D.since - 1),
    ] {
        let refused = Missing::Stream { from: C, to: D, at: D.since };
        assert_eq!(told(to, source, fenced), Err(refused));
    }
}

#[test]
fn a_move_is_finished_by_the_old_holders_fence_or_by_the_barrier() {
    let table = slots(SWITCHED, 0);
    let entry = Slots { version: 8, slots: &table, moving: 2 };
    assert_eq!(missing(&entry, &fences(&[C.node], 8)), Ok(Arrow::Finish));
    assert_eq!(missing(&entry, &fences(&[0, 1], 9)), Ok(Arrow::Finish));
    let short = Err(Missing::Fence { node: C.node, at: 8 });
    assert_eq!(missing(&entry, &fences(&[C.node, 0, 1], 7)), short);
    assert_eq!(missing(&entry, &fences(&[0, D.node], 8)), short);
}

#[test]
fn the_barrier_is_counted_in_the_data_center_and_over_all() {
    assert_eq!([1, 2, 3, 4, 5].map(proof::barrier), [1, 1, 2, 2, 3]);
    let table = slots(FENCING, 2);
    let entry = Slots { version: D.since, slots: &table, moving: 2 };
    let admits = |nodes: &[u8]| missing(&entry, &fences(nodes, D.since));
    assert_eq!(admits(&[0, 1, 4]), Ok(Arrow::Admit));
    let short = |scope, have, need| Err(Missing::Fences { scope, at: D.since, have, need });
    assert_eq!(admits(&[0, 1]), short(Scope::All, 2, 3));
    assert_eq!(admits(&[0, 4, 5]), short(Scope::Datacenter("near"), 1, 2));
}

#[test]
fn a_sole_replica_of_a_data_center_is_filled_from_the_others() {
    let stable = |node| Place::Stable(holder(node, 1));
    let table = [("far", FENCING), ("near", stable(0)), ("near", stable(1))];
    let entry = Slots { version: D.since, slots: &table, moving: 0 };
    assert_eq!(missing(&entry, &fences(&[0, 1], D.since)), Ok(Arrow::Admit));
    let alone = [("near", FENCING)];
    let entry = Slots { version: D.since, slots: &alone, moving: 0 };
    let short = Missing::Fences { scope: Scope::All, at: D.since, have: 0, need: 1 };
    assert_eq!(missing(&entry, &fences(&[C.node, D.node], 9)), Err(short));
}

#[test]
fn a_replace_is_finished_by_fences_at_step_two_and_merges_of_fenced_nodes() {
    let table = slots(MERGING, 0);
    let entry = Slots { version: 8, slots: &table, moving: 2 };
    let merge = |node, fenced| Proof::Merged { to: D, source: holder(node, 1), fenced };
    let mut proofs = fences(&[0, 1], 8);
    proofs.extend([merge(0, 7), merge(1, 7)]);
    assert_eq!(missing(&entry, &proofs), Ok(Arrow::Finish));
    let late = |at| [&proofs[..3], &[merge(1, at)]].concat();
    let short = Missing::Merges { to: D, scope: Scope::Datacenter("near"), have: 1, need: 2 };
    assert_eq!(missing(&entry, &late(6)), Err(short));
    let fenced_before = [fences(&[0, 1], 7), proofs[2..].to_vec()].concat();
    assert!(matches!(missing(&entry, &fenced_before), Err(Missing::Fences { at: 8, .. })));
}

#[test]
fn a_second_slot_waits_and_no_node_holds_two() {
    let mut table = slots(COPYING, 0);
    let begin = Place::Stable(holder(0, 1)).begin(9, 8).unwrap();
    let entry = Slots { version: 7, slots: &table, moving: 0 };
    assert_eq!(judge(&entry, &begin, 8, &[]), Err(Missing::OtherSlotMoves));
    table[2].1 = Place::Stable(C);
    let entry = Slots { version: 7, slots: &table, moving: 0 };
    assert_eq!(judge(&entry, &begin, 8, &[]), Ok(Arrow::Begin));
    let twice = Place::Stable(holder(0, 1)).begin(1, 8).unwrap();
    assert_eq!(judge(&entry, &twice, 8, &[]), Err(Missing::HoldsAnother(1)));
    assert_eq!(judge(&entry, &begin, 9, &[]), Err(Missing::NoArrow));
}

const fn copy(holder: Holder<u8>, condition: Condition) -> LocalCopy<u8> {
    LocalCopy { holder, condition }
}

#[test]
fn a_copy_is_used_only_in_its_tenure_and_as_far_as_it_is_whole() {
    let (old, new) = (copy(C, Condition::Whole), copy(D, Condition::Whole));
    assert!(old.answers_reads(&COPYING) && !old.answers_reads(&SWITCHED));
    assert!(new.answers_reads(&SWITCHED) && !new.answers_reads(&COPYING));
    assert!(new.vouches(&COPYING) && new.vouches(&MERGING) && !old.vouches(&COPYING));
    let earlier = copy(holder(D.node, D.since - 1), Condition::Whole);
    assert!(!earlier.answers_reads(&SWITCHED) && !earlier.vouches(&SWITCHED));
    assert_eq!(earlier.acknowledges(&COPYING), None);

    assert!(old.may_be_streamed(&COPYING, D.since) && !old.may_be_streamed(&SWITCHED, D.since));
    assert!(!old.may_be_streamed(&COPYING, D.since - 1));
    let other = copy(holder(0, 1), Condition::Whole);
    assert!(other.may_be_merged(&FENCING, 7) && other.may_be_merged(&MERGING, 8));
    assert!(!other.may_be_merged(&FENCING, 6) && !other.may_be_merged(&COPYING, 7));

    for (condition, takes_writes) in [(Condition::Incomplete, true), (Condition::Forgotten, false)]
    {
        let copy = |holder| copy(holder, condition);
        assert_eq!(copy(C).acknowledges(&COPYING), Some(C).filter(|_| takes_writes));
        assert!(!copy(C).answers_reads(&COPYING) && !copy(C).may_be_streamed(&COPYING, 7));
        assert!(!copy(other.holder).may_be_merged(&FENCING, 7) && !copy(D).vouches(&FENCING));
    }
}

#[test]
fn a_tenure_begins_once() {
    let at = |place, node, version, floor| fate(None::<LocalCopy<u8>>, node, place, version, floor);
    for place in [&COPYING, &FENCING, &MERGING] {
        assert_eq!(at(place, D.node, 7, 0), Fate::Begin(D));
        assert_eq!(at(place, D.node, 9, 6), Fate::Begin(D), "a node that was slow");
        assert_eq!(at(place, D.node, 7, 7), Fate::Lost(D), "it may have had this tenure before");
    }
    assert_eq!(at(&SWITCHED, D.node, 8, 0), Fate::Lost(D), "it vouched for a snapshot once");
    assert_eq!(at(&Place::Stable(D), D.node, 9, 0), Fate::Lost(D));
    assert_eq!(at(&Place::Stable(C), C.node, 1, 0), Fate::Begin(C), "the first document");
    assert_eq!(at(&COPYING, 9, 7, 0), Fate::Retired);

    let kept = |holder, place| fate(Some(copy(holder, Condition::Whole)), holder.node, place, 8, 0);
    assert_eq!(kept(D, &SWITCHED), Fate::Keep);
    assert_eq!(kept(C, &COPYING), Fate::Keep);
    assert_eq!(kept(C, &FENCING), Fate::Keep, "a cancel may return to it");
    assert_eq!(kept(C, &MERGING), Fate::Retired);
    assert_eq!(kept(holder(D.node, 3), &FENCING), Fate::Begin(D));
    assert_eq!(kept(holder(D.node, 3), &SWITCHED), Fate::Lost(D));
}

#[test]
fn requests_are_judged_by_their_version() {
    assert_eq!(
        [6, 7, 8].map(|asked| admit(7, asked)),
        [Admission::Refuse, Admission::Serve, Admission::AdoptFirst]
    );
}

#[test]
fn only_step_one_of_a_move_is_given_up_for_a_suspicion() {
    for (place, gives_up) in [(COPYING, true), (SWITCHED, false), (FENCING, false)] {
        let table = slots(place, 0);
        let entry = Slots { version: 8, slots: &table, moving: 2 };
        assert_eq!(cancels_on_suspicion(&entry, |node| node == 1), gives_up);
        assert!(!cancels_on_suspicion(&entry, |node| node == C.node || node == D.node));
    }
}
