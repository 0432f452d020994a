//! What a read owes to what was acknowledged or shown before it began (I3, I6, I7): the rules of a regular
//! register with siblings, and of monotonic reads over all clients.
//!
//! They hold with strict quorums on both sides (R + W > N, only owners counted), stable membership, repair
//! awaited by reads, and a durability that survives what happens: all operations of the history are taken
//! to be such. Linear orders are not claimed: of two writes under way at a time either may show first.
//!
//! A value is *known* from the end of the write that acknowledged it, or of the first read that showed it.
//! A later read shows it, or shows what superseded it, or a delete explains its absence. And it does not
//! show what an acknowledged operation that ended before had superseded.

use std::collections::{BTreeMap, BTreeSet};

use super::causality::Causality;
use super::history::{History, Kind, Operation, Outcome};
use super::rules::{Violation, may_have_deleted};

#[derive(Default)]
struct Key<'a> {
    reads: Vec<&'a Operation>,
    puts: BTreeMap<u64, &'a Operation>,
    deletes: Vec<&'a Operation>,
    /// Value to the time from which it is known.
    known: BTreeMap<u64, u64>,
}

/// Every read that owes something, at most one violation for each.
pub fn violations(history: &History) -> Vec<Violation> {
    let causality = Causality::of(history);
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
        for read in &key.reads {
            let violation = key.stale(name, read, &causality);
            found.extend(violation.or_else(|| key.returned(name, read, &causality)));
        }
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

    fn stale(&self, name: &str, read: &Operation, causality: &Causality) -> Option<Violation> {
        let mut accounted: BTreeSet<u64> = read.values.iter().copied().collect();
        accounted.extend(read.values.iter().flat_map(|v| causality.superseded(*v)));
        let owed = self.known.iter().filter(|(_, from)| **from < read.start_ms).map(|(v, _)| *v);
        let missing = owed.filter(|v| !accounted.contains(v)).find(|value| {
            let Some(put) = self.puts.get(value) else { return false };
            let deleted =
                |d: &&&Operation| d.start_ms <= read.end_ms && may_have_deleted(causality, d, put);
            !self.deletes.iter().any(|d| deleted(&d))
        });
        missing.map(|id| Violation::Stale { key: name.to_string(), read: read.id, id })
    }

    fn returned(&self, name: &str, read: &Operation, causality: &Causality) -> Option<Violation> {
        let puts = self.puts.values().copied();
        let over = |o: &&Operation| o.outcome == Outcome::Ok && o.end_ms < read.start_ms;
        for writer in puts.chain(self.deletes.iter().copied()).filter(over) {
            for value in &read.values {
                let known = self.known.get(value).is_some_and(|from| *from < writer.start_ms);
                let blind = writer.op == Kind::Delete && writer.token_sent.is_none();
                let gone = causality.superseded(writer.id).any(|v| v == *value) || blind && known;
                if gone {
                    let (key, by) = (name.to_string(), writer.id);
                    return Some(Violation::Returned { key, read: read.id, id: *value, by });
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, token sent, token back, values, outcome.
    type Step<'a> = (Kind, Option<&'a str>, &'a str, &'a [u64], Outcome);

    /// Operations one after the other.
    fn history(steps: &[Step<'_>]) -> History {
        let operation = |(number, step): (usize, &Step<'_>)| {
            let id = number as u64 + 1;
            Operation {
                id,
                client: 0,
                op: step.0,
                key: "k".into(),
                token_sent: step.1.map(Into::into),
                token_returned: Some(step.2.into()),
                values: step.3.to_vec(),
                foreign: vec![],
                acks: vec![],
                consistency: "quorum".into(),
                server: "n".into(),
                start_ms: id * 10,
                end_ms: id * 10 + 5,
                outcome: step.4,
                problem: None,
                settled: false,
            }
        };
        History { operations: steps.iter().enumerate().map(operation).collect() }
    }

    use Kind::{Delete, Get, Put};
    use Outcome::{Ok, Unknown};

    #[test]
    fn a_read_shows_what_was_acknowledged_or_what_superseded_it() {
        let good = history(&[
            (Put, None, "a", &[], Ok),
            (Put, Some("a"), "b", &[], Ok),
            (Get, None, "c", &[2], Ok),
            (Delete, Some("c"), "d", &[], Ok),
            (Get, None, "e", &[], Ok),
        ]);
        assert_eq!(violations(&good), vec![]);
        let stale = history(&[(Put, None, "a", &[], Ok), (Get, None, "b", &[], Ok)]);
        assert_eq!(violations(&stale), vec![Violation::Stale { key: "k".into(), read: 2, id: 1 }]);
    }

    #[test]
    fn what_one_read_showed_the_next_one_shows() {
        let steps = [
            (Put, None, "a", &[][..], Unknown),
            (Get, None, "b", &[1], Ok),
            (Get, None, "c", &[], Ok),
        ];
        let inverted = history(&steps);
        assert_eq!(
            violations(&inverted),
            vec![Violation::Stale { key: "k".into(), read: 3, id: 1 }]
        );
        let unknown = history(&[(Put, None, "a", &[], Unknown), (Get, None, "b", &[], Ok)]);
        assert_eq!(violations(&unknown), vec![]);
    }

    #[test]
    fn what_was_superseded_does_not_come_back() {
        let back = history(&[
            (Put, None, "a", &[], Ok),
            (Put, Some("a"), "b", &[], Ok),
            (Get, None, "c", &[1, 2], Ok),
        ]);
        let returned = Violation::Returned { key: "k".into(), read: 3, id: 1, by: 2 };
        assert_eq!(violations(&back), vec![returned]);
        let deleted = history(&[
            (Put, None, "a", &[], Ok),
            (Delete, None, "b", &[], Ok),
            (Get, None, "c", &[1], Ok),
        ]);
        let returned = Violation::Returned { key: "k".into(), read: 3, id: 1, by: 2 };
        assert_eq!(violations(&deleted), vec![returned]);
    }
}
