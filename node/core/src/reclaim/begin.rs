//! How a member comes by its generation: it begins with one, and rises with the others.
//!
//! A member whose document names it and that has none begins where the others are: with the highest that
//! it heard from a majority of those that have one, all of whom know that it is a member and so rise no
//! more without it. The first members of a cluster begin with 1.
//!
//! Everything here is what a member heard in this start. A generation that is heard late is too low, and
//! so only holds up.

use std::collections::BTreeMap;

use super::rule::Margins;
use crate::id::NodeId;

/// What a member told last of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its generation; 0 for none yet.
    pub generation: u64,
    /// Epoch of its document.
    pub document: u64,
}

/// What a member does about its generation now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It waits for these members: they did not reach its generation, or were not heard, or know
    /// another document.
    Wait(Vec<NodeId>),
    /// It stores this generation durably, then is in it.
    Reach(u64),
    /// The others went on without it to this generation: its volume was put back, or it was no member
    /// meanwhile. What it holds must not be used.
    Behind(u64),
}

/// What a member with generation `own` (0: none) and a document of epoch `document` does, given what
/// it heard from every other member of that document in this start; `None` where nothing was heard.
pub fn next(own: u64, document: u64, others: &BTreeMap<NodeId, Option<Seen>>) -> Next {
    let rule = Margins::RULE;
    let heard = || others.iter().filter_map(|(node, seen)| Some((*node, (*seen)?)));
    let highest = heard().map(|(_, seen)| seen.generation).max().unwrap_or(0);
    if own == 0 {
        // Members of the first document were all blank when they took it.
        return match document {
            1 => Next::Reach(highest.max(1)),
            _ => rejoin(document, others),
        };
    }
    if rule.is_behind(own, highest) {
        return Next::Behind(highest);
    }
    let rises =
        |seen: &Seen| rule.rises(own, document, [(seen.generation, seen.document)].into_iter());
    let late = others.iter().filter(|(_, seen)| !seen.as_ref().is_some_and(rises));
    let late: Vec<NodeId> = late.map(|(node, _)| *node).collect();
    if late.is_empty() { Next::Reach(own + 1) } else { Next::Wait(late) }
}

/// Where a member without a generation begins, be it a new one or one that was left behind.
pub fn rejoin(document: u64, others: &BTreeMap<NodeId, Option<Seen>>) -> Next {
    let highest = others.values().flatten().map(|seen| seen.generation).max().unwrap_or(0);
    let fresh = |seen: &Option<Seen>| seen.is_some_and(|seen| seen.generation == 0);
    let (fresh, begun): (Vec<_>, Vec<_>) = others.iter().partition(|(_, seen)| fresh(seen));
    // Where every member was heard and none has a generation, none was ever needed.
    if fresh.len() == others.len() {
        return Next::Reach(highest.max(1));
    }
    let knows = |seen: &&Option<Seen>| seen.is_some_and(|seen| seen.document >= document);
    let heard = begun.iter().filter(|(_, seen)| knows(seen)).count();
    if heard > begun.len() / 2 {
        return Next::Reach(highest);
    }
    Next::Wait(begun.iter().filter(|(_, seen)| !knows(seen)).map(|(node, _)| **node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn others(seen: &[Option<(u64, u64)>]) -> BTreeMap<NodeId, Option<Seen>> {
        let seen =
            seen.iter().map(|s| s.map(|(generation, document)| Seen { generation, document }));
        (1..).map(node).zip(seen).collect()
    }

    #[test]
    fn a_member_rises_when_all_reached_its_generation_under_its_document() {
        let go = |seen: &[_]| next(5, 3, &others(seen));
        assert_eq!(go(&[Some((5, 3)), Some((6, 2))]), Next::Reach(6));
        assert_eq!(go(&[Some((5, 3)), Some((4, 3))]), Next::Wait(vec![node(2)]));
        assert_eq!(go(&[None, Some((5, 3))]), Next::Wait(vec![node(1)]));
        assert_eq!(go(&[Some((5, 4))]), Next::Wait(vec![node(1)]), "it knows a newer document");
        assert_eq!(go(&[Some((7, 3)), None]), Next::Behind(7));
        assert_eq!(go(&[]), Next::Reach(6), "alone");
    }

    #[test]
    fn a_member_begins_where_a_majority_is() {
        let go = |document, seen: &[_]| next(0, document, &others(seen));
        assert_eq!(go(1, &[None, None]), Next::Reach(1), "the first document");
        let behind = rejoin(1, &others(&[Some((8, 1)), Some((9, 1))]));
        assert_eq!(behind, Next::Reach(9), "left behind under the first document");
        let alone = rejoin(1, &others(&[Some((8, 1)), None]));
        assert_eq!(alone, Next::Wait(vec![node(2)]));
        assert_eq!(go(2, &[Some((0, 2)), Some((0, 2))]), Next::Reach(1), "nobody ever had one");
        assert_eq!(go(4, &[Some((8, 4)), Some((9, 4)), None]), Next::Reach(9));
        let early = [Some((8, 4)), Some((9, 3)), None];
        assert_eq!(go(4, &early), Next::Wait(vec![node(2), node(3)]));
        let fresh = [Some((8, 4)), Some((9, 4)), None, Some((0, 4)), Some((0, 4)), Some((0, 4))];
        assert_eq!(go(4, &fresh), Next::Reach(9), "those that begin too do not count");
        assert_eq!(go(4, &[Some((0, 4)), None]), Next::Wait(vec![node(2)]), "it may be far ahead");
    }

    proptest! {
        /// Members that rise by what they hear, late or not, are never more than one apart.
        #[test]
        fn members_stay_together(
            steps in prop::collection::vec((0_usize..4, 0_usize..4), 0..300),
        ) {
            let mut own = [1_u64; 4];
            let mut heard = [[1_u64; 4]; 4];
            for (who, from) in steps {
                heard[who][from] = own[from];
                let seen: Vec<_> = (0..4).filter(|o| *o != who).map(|o| Some((heard[who][o], 1))).collect();
                match next(own[who], 1, &others(&seen)) {
                    Next::Reach(generation) => own[who] = generation,
                    Next::Wait(_) => {}
                    Next::Behind(_) => prop_assert!(false, "{own:?}"),
                }
                prop_assert!(own.iter().max().unwrap() - own.iter().min().unwrap() <= 1);
            }
        }
    }
}
