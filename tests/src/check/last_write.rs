//! What a read owes where the last write wins: the rules of an atomic register, as far as quorums give it.
//!
//! They hold with strict quorums on both sides, as in [`super::regular`]. A write is *known* from its
//! acknowledgement on, or from the end of the first read that showed it. Then:
//! - a read shows at most one value;
//! - a write that was acknowledged before a read began, and that began after another was known, has
//!   overwritten that one: the read does not show it;
//! - a read shows nothing only if a delete may be the last write;
//! - what an earlier read did not show, though it was known before that read began, was beaten, and no
//!   later read shows it.

use std::collections::BTreeMap;

use super::history::{History, Kind, Operation, Outcome};
use super::rules::Violation;

#[derive(Default)]
struct Key<'a> {
    reads: Vec<&'a Operation>,
    puts: BTreeMap<u64, &'a Operation>,
    deletes: Vec<&'a Operation>,
    /// Value to the time from which it is known.
    known: BTreeMap<u64, u64>,
}

/// Every read that breaks a rule, at most one violation for each.
pub fn violations(history: &History) -> Vec<Violation> {
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let key = keys.entry(&operation.key).or_default();
        match (operation.op, operation.outcome) {
            (Kind::Get, Outcome::Ok) => key.reads.push(operation),
            (Kind::Put, Outcome::Ok | Outcome::Unknown) => {
                key.puts.insert(operation.id, operation);
            }
            (Kind::Delete, Outcome::Ok | Outcome::Unknown) => key.deletes.push(operation),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (name, mut key) in keys {
        key.learn();
        found.extend(key.reads.iter().filter_map(|read| key.judge(name, read)));
    }
    found
}

impl Key<'_> {
    fn learn(&mut self) {
        let acknowledged = self.puts.values().filter(|p| p.outcome == Outcome::Ok);
        let shown = self.reads.iter().flat_map(|r| r.values.iter().map(|v| (*v, r.end_ms)));
        for (value, from) in acknowledged.map(|p| (p.id, p.end_ms)).chain(shown) {
            let known = self.known.entry(value).or_insert(from);
            *known = from.min(*known);
        }
    }

    fn judge(&self, name: &str, read: &Operation) -> Option<Violation> {
        let key = name.to_string();
        match read.values.as_slice() {
            [] => self.unexplained(read).map(|id| Violation::Stale { key, read: read.id, id }),
            [value] => {
                let by = self.overwritten(*value, read).or_else(|| self.beaten(*value, read));
                by.map(|by| Violation::Returned { key, read: read.id, id: *value, by })
            }
            _ => Some(Violation::Several { key, read: read.id }),
        }
    }

    /// Writes of both kinds that were acknowledged before a moment.
    fn done_before(&self, moment: u64) -> impl Iterator<Item = &Operation> {
        let all = self.puts.values().chain(&self.deletes).copied();
        all.filter(move |w| w.outcome == Outcome::Ok && w.end_ms < moment)
    }

    /// A later write that was acknowledged before the read began.
    fn overwritten(&self, value: u64, read: &Operation) -> Option<u64> {
        let known = *self.known.get(&value)?;
        self.done_before(read.start_ms).find(|w| w.start_ms > known).map(|w| w.id)
    }

    /// An earlier read that did not show the value though it was known.
    fn beaten(&self, value: u64, read: &Operation) -> Option<u64> {
        let known = *self.known.get(&value)?;
        let before = self.reads.iter().filter(|r| r.end_ms < read.start_ms && r.start_ms > known);
        before.filter(|r| r.values != [value]).map(|r| r.id).next()
    }

    /// A value that a read of nothing should have shown, or one in its place.
    fn unexplained(&self, read: &Operation) -> Option<u64> {
        let may_be_last = |delete: &&&Operation| {
            let later = |w: &Operation| w.op == Kind::Put && w.start_ms > delete.end_ms;
            let over = delete.outcome == Outcome::Ok && self.done_before(read.start_ms).any(later);
            delete.start_ms <= read.end_ms && !over
        };
        if self.deletes.iter().any(|d| may_be_last(&d)) {
            return None;
        }
        self.known.iter().find(|(_, from)| **from < read.start_ms).map(|(value, _)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Delete, Get, Put};
    use Outcome::{Ok, Unknown};

    /// Kind, values, outcome, start and end.
    type Step<'a> = (Kind, &'a [u64], Outcome, u64, u64);

    /// Operations numbered from 1.
    fn found(steps: &[Step<'_>]) -> Vec<Violation> {
        let operation = |(number, step): (usize, &Step<'_>)| Operation {
            id: number as u64 + 1,
            client: 0,
            op: step.0,
            key: "k".into(),
            token_sent: None,
            token_returned: None,
            values: step.1.to_vec(),
            foreign: vec![],
            acks: vec![],
            consistency: "quorum".into(),
            server: "n".into(),
            start_ms: step.3,
            end_ms: step.4,
            outcome: step.2,
            problem: None,
            settled: false,
        };
        violations(&History { operations: steps.iter().enumerate().map(operation).collect() })
    }

    fn returned(read: u64, id: u64, by: u64) -> Vec<Violation> {
        vec![Violation::Returned { key: "k".into(), read, id, by }]
    }

    #[test]
    fn the_later_of_two_writes_is_shown() {
        let first = (Put, &[][..], Ok, 1, 2);
        let second = (Put, &[][..], Ok, 3, 4);
        assert_eq!(found(&[first, second, (Get, &[2], Ok, 5, 6)]), vec![]);
        assert_eq!(found(&[first, second, (Get, &[1], Ok, 5, 6)]), returned(3, 1, 2));
        let at_once = (Put, &[][..], Ok, 1, 4);
        assert_eq!(found(&[first, at_once, (Get, &[1], Ok, 5, 6)]), vec![]);
        let several = found(&[first, at_once, (Get, &[1, 2], Ok, 5, 6)]);
        assert_eq!(several, vec![Violation::Several { key: "k".into(), read: 3 }]);
    }

    #[test]
    fn a_write_under_way_may_show_and_one_that_showed_is_known() {
        let first = (Put, &[][..], Ok, 1, 2);
        let lost = (Put, &[][..], Unknown, 3, 4);
        assert_eq!(found(&[first, lost, (Get, &[1], Ok, 5, 6)]), vec![]);
        assert_eq!(found(&[first, lost, (Get, &[2], Ok, 5, 6)]), vec![]);
        let shown = (Get, &[2][..], Ok, 5, 6);
        assert_eq!(found(&[first, lost, shown, (Get, &[1], Ok, 7, 8)]), returned(4, 1, 3));
        let third = (Put, &[][..], Ok, 7, 8);
        assert_eq!(found(&[first, lost, shown, third, (Get, &[2], Ok, 9, 10)]).len(), 1);
    }

    #[test]
    fn nothing_is_shown_after_a_delete_only() {
        let put = (Put, &[][..], Ok, 1, 2);
        let gone = (Get, &[][..], Ok, 5, 6);
        let stale = vec![Violation::Stale { key: "k".into(), read: 2, id: 1 }];
        assert_eq!(found(&[put, gone]), stale);
        assert_eq!(found(&[put, (Delete, &[], Ok, 3, 4), gone]), vec![]);
        assert_eq!(found(&[put, (Delete, &[], Unknown, 3, 4), gone]), vec![]);
        assert_eq!(found(&[(Delete, &[], Ok, 0, 0), put, gone]).len(), 1, "it came before");
        assert_eq!(found(&[put, (Delete, &[], Ok, 3, 4), (Get, &[1], Ok, 5, 6)]).len(), 1);
        assert_eq!(found(&[(Get, &[], Ok, 0, 0), put]), vec![], "it was read before");
    }

    #[test]
    fn of_two_at_once_the_one_that_lost_stays_lost() {
        let one = (Put, &[][..], Ok, 1, 4);
        let other = (Put, &[][..], Ok, 2, 4);
        let steps = [one, other, (Get, &[2], Ok, 5, 6), (Get, &[1], Ok, 7, 8)];
        assert_eq!(found(&steps), returned(4, 1, 3));
        let overlapping = [one, other, (Get, &[2], Ok, 5, 7), (Get, &[1], Ok, 6, 8)];
        assert_eq!(found(&overlapping), vec![]);
    }
}
