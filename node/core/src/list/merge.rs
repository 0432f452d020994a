//! One page out of the pages of several replicas.
//!
//! Each replica looked as far as its own bounds let it. What all of them looked through is merged key by
//! key; what lies behind the shortest of them is dropped and asked for again. A key that a replica's page
//! does not hold is not there for that replica: absence is merged like an empty set, and says nothing
//! about what others hold.

use std::collections::BTreeMap;

use super::place::Place;
use crate::version::Shape;

/// A key on one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub at: Place,
    /// What the replica holds under it: tombstones too.
    pub shape: Shape,
}

/// What one replica found from a place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Rising; every key that it holds before `next`.
    pub rows: Vec<Row>,
    /// Where it stopped looking; none at the end of what it was asked for.
    pub next: Option<Place>,
}

/// A page is not what it may be. The replica that sent it is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// A key is out of order or outside of what was asked for.
    #[error("its keys are out of order or out of range")]
    Order,
    /// It ends where it began, or before its last key: the list would never end, or miss keys.
    #[error("it ends before its last key, or where it began")]
    Stuck,
}

impl Page {
    /// Whether this can be the answer for the keys from `from` up to before `end`.
    ///
    /// # Errors
    /// [`PageFault`].
    pub fn check(&self, from: &Place, end: Option<&Place>) -> Result<(), PageFault> {
        let before_end = |place: &Place| end.is_none_or(|end| place < end);
        let inside = self.rows.iter().all(|row| row.at >= *from && before_end(&row.at));
        if !inside || !self.rows.is_sorted_by(|a, b| a.at < b.at) {
            return Err(PageFault::Order);
        }
        let Some(next) = &self.next else { return Ok(()) };
        let last = self.rows.last().map(|row| &row.at);
        match next > from && last.is_none_or(|last| last < next) {
            true => Ok(()),
            false => Err(PageFault::Stuck),
        }
    }
}

/// A key, merged over the replicas that were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub at: Place,
    /// What they hold of it together.
    pub shape: Shape,
    /// How many of them hold exactly that.
    pub agreed: u32,
}

/// Every key that any of the pages holds, up to where all of them looked, and that place: none where all
/// of them looked to the end. Without pages there is nothing, to the end.
pub fn merge(pages: Vec<Page>) -> (Vec<Listed>, Option<Place>) {
    let next = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut keys: BTreeMap<Place, Vec<Shape>> = BTreeMap::new();
    for row in pages.into_iter().flat_map(|page| page.rows) {
        if next.as_ref().is_none_or(|next| row.at < *next) {
            keys.entry(row.at).or_default().push(row.shape);
        }
    }
    let merged = keys.into_iter().map(|(at, shapes)| {
        let mut shape = Shape::default();
        shapes.iter().for_each(|other| shape.merge_in(other));
        let agreed = shapes.iter().filter(|other| **other == shape).count() as u32;
        Listed { at, shape, agreed }
    });
    (merged.collect(), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Context, Sibling, SiblingSet, Stamp};
    use proptest::prelude::*;

    type Replica = BTreeMap<Place, SiblingSet>;

    /// The write number `count` of a replica.
    fn write(replica: u64, count: u64) -> SiblingSet {
        let dot = Actor { tag: replica, serial: 0 }.dot(count);
        SiblingSet::delta(Context::new(), dot, Sibling::value(Stamp::from_millis(count), "v"))
    }

    /// What a replica answers that looks at `most` keys from a place on.
    fn page(replica: &Replica, from: &Place, most: usize) -> Page {
        let mut found = replica.range(from.clone()..);
        let rows = found.by_ref().take(most);
        let rows = rows.map(|(at, set)| Row { at: at.clone(), shape: set.shape() }).collect();
        Page { rows, next: found.next().map(|(at, _)| at.clone()) }
    }

    fn place() -> impl Strategy<Value = Place> {
        // Few hashes, so that several keys share one.
        (0u64..6, "[ab]{1,3}").prop_map(|(hash, key)| Place::of(hash, key.as_bytes()))
    }

    proptest! {
        /// Three replicas of which two are asked each time, with pages of any length, while keys are written
        /// and erased: a key that two of them hold throughout comes exactly once, one that nobody ever holds
        /// never, in rising order, and the list ends.
        #[test]
        fn what_is_there_throughout_comes_once(
            held in prop::collection::btree_map(place(), 0usize..3, 0..20),
            changes in prop::collection::vec((place(), 0usize..3, any::<bool>()), 0..60),
            asked in prop::collection::vec((0usize..3, 1usize..5, 1usize..5), 120),
        ) {
            let mut replicas = vec![Replica::new(); 3];
            for (at, lacking) in &held {
                for (number, replica) in replicas.iter_mut().enumerate().filter(|(n, _)| n != lacking) {
                    replica.insert(at.clone(), write(number as u64, 1));
                }
            }
            let (mut seen, mut ever) = (Vec::new(), held.keys().cloned().collect::<Vec<_>>());
            let (mut from, mut changes) = (Some(Place::START), changes.into_iter());
            for (left_out, first, second) in asked {
                let Some(at) = from.clone() else { break };
                let lengths = [first, second];
                let chosen = replicas.iter().enumerate().filter(|(n, _)| *n != left_out);
                let pages: Vec<Page> = chosen.zip(lengths).map(|((_, r), l)| page(r, &at, l)).collect();
                for page in &pages {
                    prop_assert_eq!(page.check(&at, None), Ok(()));
                }
                let (keys, next) = merge(pages);
                prop_assert!(next.as_ref().is_none_or(|next| *next > at), "it goes on");
                seen.extend(keys.into_iter().map(|key| key.at));
                from = next;
                // Meanwhile others write and erase.
                if let Some((place, replica, put)) = changes.next() {
                    if put {
                        ever.push(place.clone());
                        replicas[replica].insert(place, write(replica as u64, 9));
                    } else if !held.contains_key(&place) {
                        replicas[replica].remove(&place);
                    }
                }
            }
            prop_assert_eq!(from, None, "it ends");
            prop_assert!(seen.is_sorted_by(|a, b| a < b), "each once, in order: {:?}", seen);
            for key in held.keys() {
                prop_assert!(seen.contains(key), "{:?} was missed", key);
            }
            for key in &seen {
                prop_assert!(ever.contains(key), "{:?} was never there", key);
            }
        }

        /// Pages cut anywhere make the same keys as whole ones, and each key is the merge of what is held.
        #[test]
        fn where_pages_are_cut_does_not_matter(
            keys in prop::collection::vec((place(), 0u64..3, 1u64..4), 0..30),
            lengths in prop::collection::vec(1usize..6, 90),
        ) {
            let mut replicas = vec![Replica::new(); 3];
            for (at, replica, count) in keys {
                let set = replicas[replica as usize].entry(at).or_default();
                set.merge_in(&write(replica, count));
            }
            let whole = merge(replicas.iter().map(|r| page(r, &Place::START, usize::MAX)).collect());
            prop_assert_eq!(&whole.1, &None);
            for listed in &whole.0 {
                let held = replicas.iter().filter_map(|replica| replica.get(&listed.at));
                let all = held.clone().fold(SiblingSet::new(), |all, set| all.merge(set));
                prop_assert_eq!(&listed.shape, &all.shape());
                prop_assert_eq!(listed.agreed, held.filter(|set| **set == all).count() as u32);
            }
            let (mut from, mut pieces, mut lengths) = (Some(Place::START), Vec::new(), lengths.into_iter());
            while let Some(at) = from {
                let each = replicas.iter().map(|r| page(r, &at, lengths.next().unwrap_or(9)));
                let (keys, next) = merge(each.collect());
                pieces.extend(keys);
                from = next;
            }
            prop_assert_eq!(pieces, whole.0);
        }
    }

    #[test]
    fn pages_that_would_lead_a_list_astray_are_refused() {
        let row = |hash| Row { at: Place::of(hash, b"k"), shape: Shape::default() };
        let (from, end) = (Place::at_hash(5), Place::at_hash(9));
        let check = |hashes: &[u64], next: Option<u64>| {
            let page = Page {
                rows: hashes.iter().map(|hash| row(*hash)).collect(),
                next: next.map(Place::at_hash),
            };
            page.check(&from, Some(&end))
        };
        assert_eq!(check(&[5, 6, 8], None), Ok(()));
        assert_eq!(check(&[5, 6], Some(7)), Ok(()));
        assert_eq!(check(&[], Some(6)), Ok(()));
        for rows in [&[4][..], &[9], &[6, 6], &[7, 6]] {
            assert_eq!(check(rows, None), Err(PageFault::Order), "{rows:?}");
        }
        assert_eq!(check(&[], Some(5)), Err(PageFault::Stuck));
        assert_eq!(check(&[6], Some(6)), Err(PageFault::Stuck));
    }
}
