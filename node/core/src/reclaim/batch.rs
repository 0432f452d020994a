//! The sets and rows of one partition that its first owner wants erased, from the first confirmation to the end.
//!
//! ```text
//! confirm (every holder: exactly this, durably)  ->  wait (three generations, every member's report)
//!   ->  agree (nobody offers them any more)      ->  erase (each holder what is still equal)
//! ```
//!
//! A set that one holder does not confirm leaves the batch; the others go on. A new document, a start of
//! a holder or a lost table ends the batch: its sets are found again later. A batch is bounded by
//! [`ITEMS_MAX`] and [`BYTES_MAX`].

use std::collections::BTreeMap;

use super::message::{Item, Term};
use super::rule::{Margins, Report, Wait};
use crate::id::NodeId;

/// Sets in one batch.
pub const ITEMS_MAX: usize = 1_024;
/// Bytes of one batch.
pub const BYTES_MAX: usize = 256 * 1024;

/// Why a member holds up what could be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// It was not heard in this start of the node that asks.
    Unheard,
    /// It has not reached the generation from which its word counts.
    Generation,
    /// It keeps stand-in copies that may be of the deleted values.
    Copies,
    /// It knows another document.
    Document,
}

/// Whether a batch may be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Yes: holders may erase from this generation on, which this node has reached.
    Now(u64),
    /// Not yet: it is a matter of this node's own generation.
    Soon,
    /// Not yet: these members hold it up.
    Held(Vec<(NodeId, Hold)>),
    /// It never may: the document changed since. Begin anew.
    Void,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Batch {
    document: u64,
    confirmed: u64,
    terms: BTreeMap<NodeId, Term>,
    items: Vec<Item>,
}

impl Batch {
    /// Sets that this node holds and looked for under the document of this epoch.
    pub fn new(document: u64, items: Vec<Item>) -> Self {
        Self { document, confirmed: 0, terms: BTreeMap::new(), items }
    }

    /// The sets that all who were asked so far confirmed.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Epoch of the document.
    pub fn document(&self) -> u64 {
        self.document
    }

    /// What a holder confirmed under; none where it did not yet.
    pub fn term(&self, holder: NodeId) -> Option<Term> {
        self.terms.get(&holder).copied()
    }

    /// A holder confirmed, at this generation, the sets that are true in `holds`; the others leave the
    /// batch and are returned. An answer of another length confirms nothing.
    pub fn confirm(
        &mut self,
        holder: NodeId,
        (generation, term): (u64, Term),
        holds: &[bool],
    ) -> Vec<Item> {
        self.terms.insert(holder, term);
        self.confirmed = self.confirmed.max(generation);
        self.keep(holds)
    }

    /// Keeps the sets that are true; returns the others.
    pub fn keep(&mut self, kept: &[bool]) -> Vec<Item> {
        let whole = kept.len() == self.items.len();
        let items = std::mem::take(&mut self.items);
        let mut left = Vec::new();
        for (place, item) in items.into_iter().enumerate() {
            match whole && kept[place] {
                true => self.items.push(item),
                false => left.push(item),
            }
        }
        left
    }

    /// Whether the batch may be erased, given this node's generation and document, the holders of the
    /// partition, and what every member of the document told of itself.
    pub fn due(
        &self,
        (own, document): (u64, u64),
        holders: &[NodeId],
        reports: &BTreeMap<NodeId, Option<Report>>,
    ) -> Due {
        let confirmed = holders.iter().all(|holder| self.terms.contains_key(holder));
        if document != self.document || !confirmed || holders.is_empty() {
            return Due::Void;
        }
        let (mut from, mut held) = (0, Vec::new());
        for (member, report) in reports {
            let Some(report) = *report else {
                held.push((*member, Hold::Unheard));
                continue;
            };
            let one = [report].into_iter();
            match Margins::RULE.erases_from(self.confirmed, self.document, one) {
                Ok(generation) => from = from.max(generation),
                Err((_, wait)) => held.push((*member, wait.into())),
            }
        }
        if !held.is_empty() {
            return Due::Held(held);
        }
        if own >= from && from > 0 { Due::Now(from) } else { Due::Soon }
    }
}

impl Hold {
    /// A stable word for status and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Generation => "generation",
            Self::Copies => "copies",
            Self::Document => "document",
        }
    }
}

impl From<Wait> for Hold {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Report { .. } => Self::Generation,
            Wait::Copies => Self::Copies,
            Wait::Document => Self::Document,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reclaim::{Goes, Held};
    use bytes::Bytes;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn item(number: u8) -> Item {
        let key = Bytes::copy_from_slice(&[number]);
        Item { bucket: Bytes::from_static(b"b"), key, goes: Goes::Set([number; 16]) }
    }

    const TERM: Term = Term { boot: 1, lost: 0 };

    fn reports(generations: &[Option<u64>]) -> BTreeMap<NodeId, Option<Report>> {
        let report = |g: &Option<u64>| {
            g.map(|generation| Report { generation, document: 7, held: Held::default() })
        };
        (1..).map(node).zip(generations.iter().map(report)).collect()
    }

    #[test]
    fn only_what_all_holders_confirmed_is_erased_three_generations_after_the_last() {
        let holders = [node(1), node(2)];
        let mut batch = Batch::new(7, vec![item(1), item(2), item(3)]);
        assert!(batch.confirm(node(1), (4, TERM), &[true; 3]).is_empty());
        let all = reports(&[Some(9), Some(9), Some(9)]);
        assert_eq!(batch.due((9, 7), &holders, &all), Due::Void, "one did not confirm");
        assert_eq!(batch.confirm(node(2), (5, TERM), &[true, false, true]), [item(2)]);
        assert_eq!(batch.items(), [item(1), item(3)]);
        assert_eq!(batch.due((8, 7), &holders, &all), Due::Now(8));
        assert_eq!(batch.due((7, 7), &holders, &all), Due::Soon);
        assert_eq!(batch.due((8, 8), &holders, &all), Due::Void, "another document");
        let down = reports(&[Some(8), Some(7), None]);
        let held = vec![(node(2), Hold::Generation), (node(3), Hold::Unheard)];
        assert_eq!(batch.due((8, 7), &holders, &down), Due::Held(held));
        assert_eq!(batch.due((8, 7), &holders, &BTreeMap::new()), Due::Soon, "no members");
    }

    #[test]
    fn a_member_that_keeps_or_kept_copies_holds_up() {
        let mut batch = Batch::new(7, vec![item(1)]);
        batch.confirm(node(1), (4, TERM), &[true]);
        let mut all = reports(&[Some(9), Some(9)]);
        let mut held = Held::default();
        held.note(9, Some(5));
        all.insert(node(2), Some(Report { generation: 9, document: 7, held }));
        let waits = Due::Held(vec![(node(2), Hold::Copies)]);
        assert_eq!(batch.due((9, 7), &[node(1)], &all), waits);
        held.note(9, None);
        all.insert(node(2), Some(Report { generation: 9, document: 7, held }));
        assert_eq!(batch.due((11, 7), &[node(1)], &all), Due::Soon, "it is on its way until 12");
        assert_eq!(batch.due((12, 7), &[node(1)], &all), Due::Now(12));
    }

    #[test]
    fn an_answer_of_another_length_confirms_nothing() {
        let mut batch = Batch::new(7, vec![item(1), item(2)]);
        assert_eq!(batch.confirm(node(1), (4, TERM), &[true]).len(), 2);
        assert!(batch.items().is_empty());
    }
}
