//! What clients see: groups of equal siblings, ids of what is shown, expiry, last write wins.

use proptest::prelude::*;

use super::*;

const LATER: u64 = 10_000;

fn set_of(siblings: impl IntoIterator<Item = (Dot, Sibling)>) -> SiblingSet {
    let siblings: BTreeMap<Dot, Sibling> = siblings.into_iter().collect();
    SiblingSet::from_parts(siblings.keys().copied().collect(), siblings).unwrap()
}

fn typed(stamp: u64, bytes: &'static str, content_type: &str) -> Sibling {
    let payload =
        Payload::Value { bytes: bytes.into(), content_type: Some(content_type.to_owned()) };
    Sibling { payload, ..Sibling::value(Stamp(stamp), "") }
}

#[test]
fn a_blind_retry_shows_no_conflict() {
    let first = (actor(1).dot(1), typed(5, "milk", "text/plain"));
    let retry = (actor(2).dot(1), typed(9, "milk", "text/plain"));
    let set = set_of([first.clone(), retry.clone()]);
    let view = set.view(LATER);
    assert_eq!(view.groups.len(), 1);
    assert_eq!(view.groups[0].dots, [first.0, retry.0]);
    assert_eq!(view.groups[0].stamp, Stamp(9));

    let other_type = (actor(3).dot(1), typed(7, "milk", "text/html"));
    let expiring = Sibling { expires_ms: Some(LATER + 1), ..typed(7, "milk", "text/plain") };
    let set = set_of([first, retry, other_type, (actor(4).dot(1), expiring)]);
    assert_eq!(set.view(LATER).groups.len(), 3, "content type and expiry are part of the value");
    assert_eq!(set.view(LATER + 1).groups.len(), 2, "expired at its millisecond");
}

#[test]
fn a_vtag_shown_once_goes_on_naming_its_value() {
    let first = (actor(2).dot(1), typed(5, "milk", "text/plain"));
    let bread = (actor(3).dot(1), typed(6, "bread", "text/plain"));
    let before = set_of([first.clone(), bread.clone()]);
    let view = before.view(LATER);
    assert_eq!(view.groups[0].sibling, &bread.1, "newest first");
    let vtag = view.groups[1].vtag();
    assert_eq!(vtag.to_string().parse(), Ok(vtag));

    let retry = (actor(1).dot(1), typed(9, "milk", "text/plain"));
    let after = set_of([first.clone(), bread, retry]);
    let view = after.view(LATER);
    assert_ne!(view.groups[0].vtag(), vtag, "the retry's dot comes first");
    assert_eq!(view.find(vtag).map(|group| group.sibling.payload.clone()), Some(first.1.payload));
    assert_eq!(view.find("0123456789abcdef".parse().unwrap()), None);
}

#[test]
fn tags_are_taken_in_one_form_only() {
    for bad in ["", "0123", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0"] {
        assert!(bad.parse::<Vtag>().is_err() && bad.parse::<Etag>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_view_is_the_live_siblings_grouped(set in any_set(), now_ms in 0..5_000u64) {
        let view = set.view(now_ms);
        let mut shown: Vec<Dot> = view.groups.iter().flat_map(|g| g.dots.clone()).collect();
        shown.sort_unstable();
        let live: Vec<Dot> = set.live(now_ms).map(|(dot, _)| dot).collect();
        prop_assert_eq!(&shown, &live);
        for group in &view.groups {
            for dot in &group.dots {
                let sibling = &set.siblings()[dot];
                prop_assert_eq!(&sibling.payload, &group.sibling.payload);
                prop_assert_eq!(sibling.expires_ms, group.sibling.expires_ms);
                prop_assert!(sibling.stamp <= group.stamp);
            }
            prop_assert_eq!(view.find(group.vtag()), Some(group));
        }
        let distinct: std::collections::BTreeSet<_> =
            view.groups.iter().map(|g| (&g.sibling.payload, g.sibling.expires_ms)).collect();
        prop_assert_eq!(distinct.len(), view.groups.len());
        prop_assert_eq!(view.etag().is_none(), live.is_empty());
    }

    #[test]
    fn an_etag_names_what_is_shown(a in any_set(), b in any_set(), now_ms in 0..5_000u64) {
        let dots = |set: &SiblingSet| set.live(now_ms).map(|(dot, _)| dot).collect::<Vec<_>>();
        prop_assert_eq!(dots(&a) == dots(&b), a.view(now_ms).etag() == b.view(now_ms).etag());
    }

    #[test]
    fn last_write_wins_shows_the_top_or_nothing(set in any_set(), now_ms in 0..5_000u64) {
        let mut by_stamp: Vec<(Stamp, Dot)> =
            set.siblings().iter().map(|(dot, sibling)| (sibling.stamp, *dot)).collect();
        by_stamp.sort_unstable();
        let top = by_stamp.last().map(|(_, dot)| *dot);
        prop_assert_eq!(set.top().map(|(dot, _)| dot), top);
        let shown = top.filter(|dot| set.siblings()[dot].is_live(now_ms));
        prop_assert_eq!(set.latest(now_ms).map(|(dot, _)| dot), shown);
        let view = set.latest_view(now_ms);
        let in_view: Vec<Dot> = view.groups.iter().flat_map(|g| g.dots.clone()).collect();
        prop_assert_eq!(in_view, shown.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_replica_tells_of_what_stands_above_a_write(set in any_set(), seen in any_context()) {
        let dot = actor(9).dot(1);
        for ms in [0, 1_500, 3_500, 9_000] {
            let written = Sibling::value(Stamp::from_millis(ms), "new");
            let delta = SiblingSet::delta(seen.clone(), dot, written);
            let merged = set.merge(&delta);
            let shows_it = merged.top().map(|(top, _)| top) == Some(dot);
            prop_assert_eq!(merged.outranks(&delta).is_none(), shows_it);
        }
    }
}

/// Were tombstones set aside before the highest is taken, the older live value would show again.
#[test]
fn under_last_write_wins_a_newer_delete_hides_an_older_value() {
    let old = (actor(1).dot(1), Sibling::value(Stamp(1), "old"));
    let delete = (actor(2).dot(1), Sibling::tombstone(Stamp(2)));
    let set = set_of([old, delete]);
    assert_eq!(set.view(LATER).groups.len(), 1, "the general rule shows it beside a tombstone");
    assert_eq!(set.latest(LATER), None);
}
