//! Rows of a context that nobody needs any more, and a set without them.
//!
//! A context gains a row with every start of a node that writes the key. A row whose actor has no sibling left says
//! only that all its writes were superseded: it keeps a late carrier of one of them out. Once no such carrier
//! can be on its way or kept anywhere, which [`crate::reclaim`] judges as it does for tombstones, the row may go
//! from every replica. What a set shows does not change, and a row that comes back, by a client's old token
//! or from a replica that was late, is only waste again.
//!
//! Dots stay unique: a row under the tag of this very start never goes from its own records, since the next
//! mint counts on from it ([`Minter::fold`]). The actor of another start that still runs would only leave
//! holes behind it; so owners name the tags under which they write now, and their rows are left alone.

use super::dot::{Actor, Dot};
use super::mint::Minter;
use super::record::Record;
use super::set::SiblingSet;

impl SiblingSet {
    /// The rows of the vector that say nothing but that all their writes were superseded, each as its last
    /// dot, in order: the actor has no sibling, and no dot beyond a hole.
    pub fn spent_rows(&self) -> impl Iterator<Item = Dot> + '_ {
        let all = self.context().vector().map(|(actor, count)| actor.dot(count));
        all.filter(|row| self.is_spent(row))
    }

    /// Whether this is such a row here, with exactly this count.
    pub fn is_spent(&self, row: &Dot) -> bool {
        let Dot { actor, count } = *row;
        count > 0
            && self.context().contiguous(&actor) == count
            && self.context().highest(&actor) == count
            && self.siblings().range(all_of(actor)).next().is_none()
    }
}

fn all_of(actor: Actor) -> std::ops::RangeInclusive<Dot> {
    actor.dot(0)..=actor.dot(u64::MAX)
}

impl Minter {
    /// The record without these rows; none unless each is spent in it and none is of this start. A note to
    /// count on an actor of an earlier start goes with its row.
    pub fn fold(&self, mut record: Record, rows: &[Dot]) -> Option<Record> {
        let goes = |row: &Dot| row.actor.tag != self.tag() && record.set.is_spent(row);
        if rows.is_empty() || !rows.iter().all(goes) {
            return None;
        }
        record.set = record.set.without(rows.iter().map(|row| row.actor));
        let gone = |actor: &Actor| record.set.context().contiguous(actor) == 0;
        record.counting = record.counting.filter(|actor| !gone(actor));
        Some(record)
    }
}
