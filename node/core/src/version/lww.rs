//! Last write wins: the rule of reading and writing in buckets of that mode.
//!
//! Merging is the same in every bucket. A read takes the sibling with the highest (stamp, dot)
//! *first* and judges it *then*: were tombstones and expired siblings set aside first, an older live
//! value would show under a newer delete. A write covers all that its coordinator holds. Clocks are
//! skewed, so a replica may hold a higher stamp that the coordinator had not seen; it says so
//! ([`SiblingSet::outranks`]), and the coordinator covers that and writes again before it answers.
//! Without this round a later write may lose to an earlier one.
//!
//! The round covers dots, not stamps: so it also ends where a stamp is so far ahead that nobody follows
//! it ([`super::stamp::AHEAD_MAX_MS`]).
//!
//! A write's stamp is above all that it covers ([`SiblingSet::stamp_over`]), however far ahead that is:
//! else, while it is under way, it would take away what stood above an older value and let that one show
//! again. This holds under one key; the clock itself is not taken along.

use super::dot::Dot;
use super::set::SiblingSet;
use super::sibling::Sibling;
use super::stamp::Stamp;
use super::view::{Group, View};

/// Most siblings that one answer names: no client may make more under one key.
const OUTRANKED_MAX: usize = crate::limits::SIBLINGS_REFUSE;

/// What stands above a write that does not cover it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outranked {
    /// Names of the siblings, the highest first; never empty, at most 100.
    pub dots: Vec<Dot>,
    /// The highest stamp among them.
    pub stamp: Stamp,
}

impl Outranked {
    /// What two replicas named, taken together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.dots.extend(other.dots);
        Self { dots: self.dots, stamp: self.stamp.max(other.stamp) }
    }
}

impl SiblingSet {
    /// The sibling with the highest (stamp, dot), tombstones and expired ones included.
    pub fn top(&self) -> Option<(Dot, &Sibling)> {
        let all = self.siblings().iter().map(|(&dot, sibling)| (dot, sibling));
        all.max_by_key(|(dot, sibling)| (sibling.stamp, *dot))
    }

    /// What a read at `now_ms` (Unix milliseconds) of a last-write-wins bucket shows: the top, if it
    /// is neither a tombstone nor expired.
    pub fn latest(&self, now_ms: u64) -> Option<(Dot, &Sibling)> {
        self.top().filter(|(_, sibling)| sibling.is_live(now_ms))
    }

    /// As [`Self::latest`], in the form in which other buckets are shown: no group or one.
    pub fn latest_view(&self, now_ms: u64) -> View<'_> {
        let latest = self.latest(now_ms);
        let group =
            latest.map(|(dot, sibling)| Group { dots: vec![dot], stamp: sibling.stamp, sibling });
        View { groups: group.into_iter().collect() }
    }

    /// The stamp of a write that covers all of this set: `stamp`, or the next after the highest here.
    pub fn stamp_over(&self, stamp: Stamp) -> Stamp {
        self.top().map_or(stamp, |(_, sibling)| stamp.max(sibling.stamp.next()))
    }

    /// What a replica answers after merging `delta`: the siblings that stand above the delta's own,
    /// uncovered by it. The coordinator hears the stamp, adds the dots to what its write covers and
    /// writes again. `None`: a read here shows the written one.
    pub fn outranks(&self, delta: &SiblingSet) -> Option<Outranked> {
        let (written, own) = delta.top()?;
        let rank = (own.stamp, written);
        let all = self.siblings().iter().map(|(&dot, sibling)| (sibling.stamp, dot));
        let mut above: Vec<(Stamp, Dot)> =
            all.filter(|place| *place > rank && !delta.context().covers(&place.1)).collect();
        above.sort_unstable_by(|a, b| b.cmp(a));
        above.truncate(OUTRANKED_MAX);
        let (stamp, _) = *above.first()?;
        Some(Outranked { dots: above.into_iter().map(|(_, dot)| dot).collect(), stamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Context};

    fn dot(count: u64) -> Dot {
        Actor { tag: 1, serial: count }.dot(1)
    }

    fn write(seen: &[u64], own: u64, stamp: u64) -> SiblingSet {
        let mut context = Context::new();
        seen.iter().for_each(|count| context.insert(dot(*count)));
        SiblingSet::delta(context, dot(own), Sibling::value(Stamp(stamp), own.to_string()))
    }

    /// A replica that holds writes 1 to 3, stamped 10, 30 and 20, none covering another.
    fn replica() -> SiblingSet {
        let all = [(1, 10), (2, 30), (3, 20)].map(|(own, stamp)| write(&[], own, stamp));
        all.iter().fold(SiblingSet::new(), |set, delta| set.merge(delta))
    }

    #[test]
    fn all_that_stands_above_is_named_and_nothing_that_is_covered_or_below() {
        let told = |delta: &SiblingSet| {
            let told = replica().merge(delta).outranks(delta);
            told.map(|above| (above.dots, above.stamp))
        };
        assert_eq!(told(&write(&[], 4, 15)), Some((vec![dot(2), dot(3)], Stamp(30))));
        assert_eq!(told(&write(&[2], 4, 15)), Some((vec![dot(3)], Stamp(20))));
        assert_eq!(told(&write(&[2, 3], 4, 15)), None);
        assert_eq!(told(&write(&[], 4, 31)), None);
        // Equal stamps: the dot decides, the same on every replica.
        assert_eq!(told(&write(&[], 4, 30)), None);
        assert_eq!(told(&write(&[], 0, 30)), Some((vec![dot(2)], Stamp(30))));
    }

    #[test]
    fn what_was_beaten_stays_beaten_while_what_beat_it_is_covered() {
        let old = write(&[], 1, 3_600_000);
        let beat = write(&[], 2, 3_600_001);
        let at = SiblingSet::new().merge(&beat);
        let stamp = at.stamp_over(Stamp(5));
        assert_eq!(stamp, Stamp(3_600_002));
        let next = SiblingSet::delta(
            at.context().clone(),
            dot(3),
            Sibling::value(stamp, "made where the old one is not known"),
        );
        let shown = old.merge(&next);
        assert_eq!(shown.top().map(|(dot, _)| dot), Some(dot(3)));
        assert_eq!(SiblingSet::new().stamp_over(Stamp(5)), Stamp(5));
    }

    #[test]
    fn after_the_round_the_write_is_what_a_read_shows() {
        let first = write(&[], 4, 1);
        let above = replica().merge(&first).outranks(&first).unwrap();
        let mut seen = first.context().clone();
        above.dots.iter().for_each(|dot| seen.insert(*dot));
        let again = SiblingSet::delta(seen, dot(5), Sibling::value(Stamp(2), "again"));
        let set = replica().merge(&first).merge(&again);
        assert_eq!(set.outranks(&again), None);
        assert_eq!(set.top().map(|(dot, _)| dot), Some(dot(5)));
    }

    #[test]
    fn an_answer_is_bounded_and_the_next_round_names_the_rest() {
        let all = (0..150).map(|own| write(&[], own, 1_000 + own));
        let replica = all.fold(SiblingSet::new(), |set, delta| set.merge(&delta));
        let above = replica.outranks(&write(&[], 200, 1)).unwrap();
        assert_eq!((above.dots.len(), above.dots[0]), (100, dot(149)));
        let seen: Vec<u64> = (50..150).collect();
        let rest = replica.outranks(&write(&seen, 200, 1)).unwrap();
        assert_eq!((rest.dots.len(), rest.stamp), (50, Stamp(1_049)));
    }
}
