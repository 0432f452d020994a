//! Rows of a context that nobody needs any more, and a set without them.
//!
//! A context gains a row with every start of a node that writes the key. A row whose actor has no sibling left says
//! only that all its writes were superseded: it keeps a late carrier of one of them out. Once no such carrier
//! can be on its way or kept anywhere, which [`crate::reclaim`] judges as it does for tombstones, the row may go
//! from every replica. What a set shows does not change, and a row that comes back, by a client's old token
//! or from a replica that was late, is only waste again.
//!
//! A row with holes goes in the same way, as exactly the dots that it has. A hole is a write that no owner heard
//! of: it lives where it comes to light, with the row or without it, since each dot is covered by itself.
//!
//! Dots stay unique: a row under the tag of this very start never goes from its own records, since the next
//! mint counts on from it ([`Minter::fold`]). The actor of another start that still runs would only leave
//! holes behind it; so owners name the tags under which they write now, and their rows are left alone.

use super::dot::{Actor, Dot};
use super::mint::Minter;
use super::record::Record;
use super::set::SiblingSet;

/// Rows with more dots beyond holes stay: what describes a row is kept small.
const BEYOND_MAX: usize = 8;

impl SiblingSet {
    /// The rows that say nothing but that all their writes were superseded, since their actor has no sibling,
    /// in order; each as [`super::Context::row`] has it.
    pub fn spent_rows(&self) -> impl Iterator<Item = Vec<Dot>> + '_ {
        let rows = self.context().rows().map(|(actor, _)| self.context().row(actor));
        // One dot more than may be, so that a longer row is seen to be one.
        let rows = rows.map(|row| row.take(BEYOND_MAX + 2).collect::<Vec<Dot>>());
        rows.filter(|row| row.len() <= BEYOND_MAX + 1 && self.is_spent(row))
    }

    /// Whether this is such a row here, with exactly these dots.
    pub fn is_spent(&self, row: &[Dot]) -> bool {
        let (Some(first), Some(last)) = (row.first(), row.last()) else { return false };
        last.count > 0
            && self.context().row(first.actor).eq(row.iter().copied())
            && self.siblings().range(all_of(first.actor)).next().is_none()
    }
}

/// Rows that are written one behind the other, one by one.
pub fn rows_in(dots: &[Dot]) -> impl Iterator<Item = &[Dot]> {
    dots.chunk_by(|one, next| one.actor == next.actor)
}

fn all_of(actor: Actor) -> std::ops::RangeInclusive<Dot> {
    actor.dot(0)..=actor.dot(u64::MAX)
}

impl Minter {
    /// The record without these rows, written one behind the other; none unless each is spent in it and none is
    /// of this start. A note to count on an actor of an earlier start goes with its row.
    pub fn fold(&self, mut record: Record, rows: &[Dot]) -> Option<Record> {
        let own = |row: &[Dot]| row.iter().any(|dot| dot.actor.tag == self.tag());
        if rows.is_empty() || !rows_in(rows).all(|row| !own(row) && record.set.is_spent(row)) {
            return None;
        }
        record.set = record.set.without(rows.iter().map(|row| row.actor));
        let gone = |actor: &Actor| record.set.context().highest(actor) == 0;
        record.counting = record.counting.filter(|actor| !gone(actor));
        Some(record)
    }
}
