//! What was superseded stays gone (I3), whoever counted towards a quorum: once everything was mended and handed
//! back, no read shows a value that an acknowledged write or delete had covered with its token.
//!
//! [`super::regular`] asks more, and of every read, but only where owners alone count. A delete without a token
//! supersedes what its quorum showed it, which stand-ins may not know of: it proves nothing here. Nor does
//! anything where the last write wins, since there a write may be covered by one that never saw it.

use std::collections::BTreeMap;

use super::causality::Causality;
use super::history::{History, Kind, Operation, Outcome};
use super::rules::Violation;

/// Settled reads that show what was gone, at most one violation for each.
pub fn settled(history: &History) -> Vec<Violation> {
    shown(history, |read| read.settled)
}

/// The same of all other reads that began at `from_ms` or later, when everything had been mended for long.
pub fn calm(history: &History, from_ms: u64) -> Vec<Violation> {
    shown(history, |read| !read.settled && read.start_ms >= from_ms)
}

fn shown(history: &History, looked_at: impl Fn(&Operation) -> bool) -> Vec<Violation> {
    let causality = Causality::of(history);
    // The first to put an end to a value: when it was acknowledged, and which operation it was.
    let mut ended: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let writes = history.operations.iter().filter(|o| o.op != Kind::Get);
    for write in writes.filter(|o| o.outcome == Outcome::Ok) {
        for value in causality.superseded(write.id) {
            let by = (write.end_ms, write.id);
            let first = ended.entry(value).or_insert(by);
            *first = by.min(*first);
        }
    }
    let reads = history.operations.iter().filter(|o| o.op == Kind::Get && o.outcome == Outcome::Ok);
    let judged = |read: &Operation| {
        read.values.iter().find_map(|value| {
            let (_, by) = *ended.get(value).filter(|(at, _)| *at < read.start_ms)?;
            Some(Violation::Returned { key: read.key.clone(), read: read.id, id: *value, by })
        })
    };
    reads.filter(|read| looked_at(read)).filter_map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, token sent, token back, values, outcome, settled.
    type Step<'a> = (Kind, Option<&'a str>, &'a str, &'a [u64], Outcome, bool);

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
                settled: step.5,
            }
        };
        History { operations: steps.iter().enumerate().map(operation).collect() }
    }

    fn returned(steps: &[Step<'_>]) -> Vec<Violation> {
        settled(&history(steps))
    }

    use Kind::{Delete, Get, Put};
    use Outcome::{Ok, Unknown};

    #[test]
    fn what_a_delete_or_a_write_covered_does_not_come_back() {
        let deleted = |token, outcome, settled| {
            returned(&[
                (Put, None, "a", &[], Ok, false),
                (Delete, token, "b", &[], outcome, false),
                (Get, None, "c", &[1], Ok, settled),
            ])
        };
        let back = |by| vec![Violation::Returned { key: "k".into(), read: 3, id: 1, by }];
        assert_eq!(deleted(Some("a"), Ok, true), back(2));
        assert_eq!(deleted(Some("a"), Ok, false), vec![], "copies were still under way");
        assert_eq!(deleted(Some("a"), Unknown, true), vec![], "nobody promised it");
        assert_eq!(deleted(None, Ok, true), vec![], "it may not have seen it");
        let written = |values: &[u64]| {
            returned(&[
                (Put, None, "a", &[], Ok, false),
                (Put, Some("a"), "b", &[], Ok, false),
                (Get, None, "c", values, Ok, true),
            ])
        };
        let steps = [
            (Put, None, "a", &[][..], Ok, false),
            (Delete, Some("a"), "b", &[], Ok, false),
            (Get, None, "c", &[1], Ok, false),
        ];
        assert_eq!(calm(&history(&steps), 30), back(2));
        assert_eq!(calm(&history(&steps), 31), vec![]);
        assert_eq!(written(&[2]), vec![]);
        assert_eq!(written(&[1]), back(2));
    }
}
