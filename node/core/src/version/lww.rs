//! Last write wins: the rule of reading and writing in buckets of that mode.
//!
//! Merging is the same in every bucket. A read takes the sibling with the highest (stamp, dot)
//! *first* and judges it *then*: were tombstones and expired siblings set aside first, an older live
//! value would show under a newer delete. A write covers all that its coordinator holds. Clocks are
//! skewed, so a replica may hold a higher stamp that the coordinator had not seen; it says so
//! ([`SiblingSet::outranks`]), and the coordinator covers that and writes again before it answers.
//! Without this round a later write may lose to an earlier one.

use super::dot::Dot;
use super::set::SiblingSet;
use super::sibling::Sibling;
use super::stamp::Stamp;
use super::view::{Group, View};

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

    /// What a replica answers after merging `delta`: the sibling that stands above the delta's own,
    /// uncovered by it. The coordinator hears the stamp, adds the dot to what its write covers and
    /// writes again. `None`: a read here shows the written one.
    pub fn outranks(&self, delta: &SiblingSet) -> Option<(Dot, Stamp)> {
        let (top, sibling) = self.top()?;
        let (written, own) = delta.top()?;
        let above = (sibling.stamp, top) > (own.stamp, written);
        (above && !delta.context().covers(&top)).then_some((top, sibling.stamp))
    }
}
