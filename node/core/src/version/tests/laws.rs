//! Laws of contexts and of the merge: exhaustively over small sets, by chance over larger ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Four dots of two actors: enough for holes, and for every case of the merge.
fn four_dots() -> [Dot; 4] {
    [actor(0).dot(1), actor(0).dot(2), actor(0).dot(3), actor(1).dot(2)]
}

fn context_of(bits: usize) -> Context {
    let dots = four_dots();
    (0..4).filter(|i| bits >> i & 1 == 1).map(|i| dots[i]).collect()
}

/// Every set over four dots: each is unheard of, superseded or held, which makes 81.
fn every_small_set() -> Vec<SiblingSet> {
    let mut sets = Vec::new();
    for context in 0..16usize {
        for held in (0..16).filter(|held| held & !context == 0) {
            let siblings = context_of(held);
            let dots = four_dots().into_iter().filter(|dot| siblings.covers(dot));
            let siblings = dots.map(|dot| (dot, sibling_of(dot))).collect();
            sets.push(SiblingSet::from_parts(context_of(context), siblings).unwrap());
        }
    }
    sets
}

#[test]
fn merge_laws_hold_for_every_three_small_sets() {
    let sets = every_small_set();
    assert_eq!(sets.len(), 81);
    for a in &sets {
        assert_eq!(a.merge(a), *a, "idempotent");
        for b in &sets {
            let ab = a.merge(b);
            assert_eq!(ab, b.merge(a), "commutative");
            assert_eq!(ab.merge(a), ab, "inflationary");
            assert!(ab.context().includes(a.context()) && ab.context().includes(b.context()));
            for c in &sets {
                assert_eq!(ab.merge(c), a.merge(&b.merge(c)), "associative");
            }
        }
    }
}

/// Writing in place removes what the client saw, adds the sibling and its dot. That equals merging
/// the delta only if the client's context is joined into the stored one as well.
#[test]
fn writing_in_place_is_merging_the_delta_if_the_context_joins() {
    let new = actor(3).dot(1);
    let (mut cases, mut differ_without_join) = (0, 0);
    for set in every_small_set() {
        for seen in (0..16).map(context_of) {
            let merged = set.merge(&SiblingSet::delta(seen.clone(), new, sibling_of(new)));
            let mut siblings: BTreeMap<Dot, Sibling> = set.siblings().clone();
            siblings.retain(|dot, _| !seen.covers(dot));
            siblings.insert(new, sibling_of(new));
            let mut context = set.context().clone();
            context.insert(new);
            let without_join = SiblingSet::from_parts(context.clone(), siblings.clone());
            context.join(&seen);
            assert_eq!(SiblingSet::from_parts(context, siblings).unwrap(), merged);
            cases += 1;
            differ_without_join += usize::from(without_join.unwrap() != merged);
        }
    }
    assert_eq!((cases, differ_without_join), (1_296, 671));
}

proptest! {
    #[test]
    fn a_context_is_the_set_of_its_dots(
        dots in prop::collection::vec(any_dot(), 0..20),
        others in prop::collection::vec(any_dot(), 0..20),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let oracle: BTreeSet<Dot> = dots.iter().copied().collect();
        let context: Context = dots.iter().copied().collect();
        let mut rotated = dots.clone();
        if !rotated.is_empty() {
            rotated.rotate_left(shuffled.index(dots.len()));
            rotated.reverse();
        }
        prop_assert_eq!(&context, &rotated.into_iter().collect(), "any order, one form");

        let universe = || (0..4).flat_map(|a| (1..=7).map(move |count| actor(a).dot(count)));
        for dot in universe() {
            prop_assert_eq!(context.covers(&dot), oracle.contains(&dot));
        }
        for (actor, highest) in context.rows() {
            let of_actor = oracle.iter().filter(|dot| dot.actor == actor);
            prop_assert_eq!(Some(highest), of_actor.map(|dot| dot.count).max());
        }
        prop_assert_eq!(context.rows().count(), {
            let actors: BTreeSet<Actor> = oracle.iter().map(|dot| dot.actor).collect();
            actors.len()
        });
        for dot in context.cloud() {
            prop_assert!(dot.count > context.contiguous(&dot.actor) + 1, "canonical");
        }

        let other: Context = others.iter().copied().collect();
        let other_oracle: BTreeSet<Dot> = others.into_iter().collect();
        prop_assert_eq!(context.includes(&other), oracle.is_superset(&other_oracle));
        let mut joined = context;
        joined.join(&other);
        prop_assert_eq!(joined, oracle.union(&other_oracle).copied().collect::<Context>());
    }

    #[test]
    fn merge_laws_hold(a in any_set(), b in any_set(), c in any_set()) {
        let ab = a.merge(&b);
        prop_assert_eq!(&ab, &b.merge(&a));
        prop_assert_eq!(&a.merge(&a), &a);
        prop_assert_eq!(&ab.merge(&b), &ab);
        prop_assert_eq!(ab.merge(&c), a.merge(&b.merge(&c)));
    }

    #[test]
    fn pieces_and_then_the_outline_are_the_merge(a in any_set(), b in any_set()) {
        let mut merged = a.clone();
        for (number, piece) in b.pieces().enumerate() {
            prop_assert_eq!(piece.siblings().len(), 1);
            if number > 0 {
                merged.merge_in(&piece);
            }
        }
        // The first piece is late: until it is there, the outline waits, unless it is known here.
        let outline = Outline::decode(&b.outline().encode()).unwrap();
        let first = outline.held().first().filter(|dot| !a.context().covers(dot));
        if let Some(first) = first {
            let before = merged.clone();
            prop_assert_eq!(merged.merge_outline(&outline), Err(MissingPiece(*first)));
            prop_assert_eq!(&merged, &before);
        }
        b.pieces().take(1).for_each(|piece| { merged.merge_in(&piece); });
        let changed = merged.clone().merge_in(&b);
        prop_assert_eq!(merged.merge_outline(&outline), Ok(changed));
        prop_assert_eq!(merged, a.merge(&b));
    }

    #[test]
    fn merge_in_tells_whether_it_changed_anything(a in any_set(), b in any_set()) {
        let mut merged = a.clone();
        let changed = merged.merge_in(&b);
        prop_assert_eq!(changed, merged != a);
        prop_assert!(!merged.merge_in(&b));
    }
}

#[test]
fn a_set_never_holds_a_sibling_outside_its_context() {
    let dot = actor(0).dot(2);
    let siblings = BTreeMap::from([(dot, sibling_of(dot))]);
    let context = Context::from_iter([actor(0).dot(1)]);
    assert_eq!(SiblingSet::from_parts(context, siblings), None);
}
