//! What clients may see of the death of one node, its process killed, while a quorum of every key's owners lives.
//!
//! Clients of living nodes lose nothing but writes that had been handed to the dead node and were not answered
//! by then: these are unknown, and say so. Clients of the dead node lose what they were asking it, once each,
//! and go on elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{History, Kind, Operation, Outcome};
use super::rules::Violation;

/// One death.
#[derive(Clone, Debug)]
pub struct Death {
    /// When it was ordered; whoever asked before may be hit.
    pub at_ms: u64,
    /// When nothing was left of it, its connections closed.
    pub gone_ms: u64,
    /// Where clients reached the node.
    pub server: String,
    /// Where clients reach the owners of each key.
    pub owners: BTreeMap<String, BTreeSet<String>>,
}

/// The counts behind the judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Operations at living nodes.
    pub living: usize,
    /// Those of them that began after the death.
    pub after: usize,
    /// Writes at living nodes that were under way at the death and may have been handed to the dead node.
    pub in_flight: usize,
    /// Those of them that are unknown.
    pub unknown: usize,
    /// Clients that were asking the dead node.
    pub moved: usize,
    /// How long the slowest of them had to wait for its next success, in milliseconds.
    pub slowest_ms: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations at living nodes, {} begun after the death; {} writes may have been in the hands of \
             the dead node, of which {} are unknown and none failed otherwise; its {} clients went on \
             elsewhere, the slowest after {} ms",
            self.living, self.after, self.in_flight, self.unknown, self.moved, self.slowest_ms
        )
    }
}

/// What the clients of a history saw, and what they should not have seen. Sessions are those of
/// [`crate::load::drive_at_home`].
pub fn seen(history: &History, death: &Death) -> (Seen, Vec<Violation>) {
    let in_its_hands = |o: &Operation| {
        let owners = death.owners.get(&o.key);
        let owns = |server: &String| owners.is_some_and(|owners| owners.contains(server));
        let under_way = o.start_ms <= death.at_ms && o.end_ms >= death.gone_ms;
        o.op != Kind::Get && under_way && owns(&death.server) && !owns(&o.server)
    };
    let (mut seen, mut found) = (Seen::default(), Vec::new());
    for operation in history.operations.iter().filter(|o| o.server != death.server) {
        seen.living += 1;
        seen.after += usize::from(operation.start_ms > death.gone_ms);
        seen.in_flight += usize::from(in_its_hands(operation));
        if operation.outcome == Outcome::Ok {
            continue;
        }
        let says = |problem: &String| problem.starts_with("503 quorum_not_reached");
        let told = operation.problem.as_ref().is_some_and(says);
        if in_its_hands(operation) && operation.outcome == Outcome::Unknown && told {
            seen.unknown += 1;
        } else {
            let (id, server) = (operation.id, operation.server.clone());
            found.push(Violation::Noticed { id, server, problem: operation.problem.clone() });
        }
    }
    for operations in moved(history, death).values() {
        seen.moved += 1;
        let lost = operations.iter().filter(|o| o.outcome != Outcome::Ok);
        found.extend(lost.skip(1).map(|o| Violation::Noticed {
            id: o.id,
            server: o.server.clone(),
            problem: o.problem.clone(),
        }));
        let first = operations.iter().find(|o| o.outcome == Outcome::Ok);
        let waited = first.map_or(u64::MAX, |o| o.end_ms.saturating_sub(death.gone_ms));
        seen.slowest_ms = seen.slowest_ms.max(waited);
    }
    (seen, found)
}

/// Clients that had asked the dead node last, and what they asked from then on, in the order of the ends.
fn moved<'a>(history: &'a History, death: &Death) -> BTreeMap<u32, Vec<&'a Operation>> {
    let mut last: BTreeMap<u32, &Operation> = BTreeMap::new();
    for operation in history.operations.iter().filter(|o| o.start_ms <= death.at_ms) {
        let known = last.entry(operation.client).or_insert(operation);
        if operation.start_ms >= known.start_ms {
            *known = operation;
        }
    }
    last.retain(|_, operation| operation.server == death.server);
    let mut moved: BTreeMap<u32, Vec<&Operation>> =
        last.keys().map(|client| (*client, Vec::new())).collect();
    for operation in history.operations.iter().filter(|o| o.end_ms >= death.gone_ms) {
        if let Some(operations) = moved.get_mut(&operation.client) {
            operations.push(operation);
        }
    }
    moved.values_mut().for_each(|operations| operations.sort_by_key(|o| o.end_ms));
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client, kind, server, from, to, outcome.
    type Row = (u32, Kind, &'static str, u64, u64, Outcome);

    fn history(rows: &[Row]) -> History {
        let operation = |(number, row): (usize, &Row)| Operation {
            id: number as u64 + 1,
            client: row.0,
            op: row.1,
            key: "k".into(),
            token_sent: None,
            token_returned: None,
            values: vec![],
            foreign: vec![],
            acks: vec![],
            consistency: "quorum".into(),
            server: row.2.into(),
            start_ms: row.3,
            end_ms: row.4,
            outcome: row.5,
            problem: (row.5 == Outcome::Unknown).then(|| "503 quorum_not_reached".into()),
            settled: false,
        };
        History { operations: rows.iter().enumerate().map(operation).collect() }
    }

    fn death() -> Death {
        let owners = ["dead", "owner"].map(str::to_string).into_iter().collect();
        Death {
            at_ms: 100,
            gone_ms: 110,
            server: "dead".into(),
            owners: BTreeMap::from([("k".into(), owners)]),
        }
    }

    use Kind::{Get, Put};
    use Outcome::{Fail, Ok, Unknown};

    #[test]
    fn a_write_in_the_hands_of_the_dead_may_be_unknown() {
        let rows = [(1, Put, "other", 90, 120, Unknown), (1, Put, "other", 130, 140, Ok)];
        let (counts, found) = seen(&history(&rows), &death());
        assert_eq!(found, vec![]);
        assert_eq!((counts.living, counts.after, counts.in_flight, counts.unknown), (2, 1, 1, 1));
    }

    #[test]
    fn nothing_else_may_fail_at_the_living() {
        for row in [
            (1, Put, "other", 111, 120, Unknown),
            (1, Put, "owner", 90, 120, Unknown),
            (1, Get, "other", 90, 120, Unknown),
            (1, Put, "other", 90, 120, Fail),
        ] {
            assert_eq!(seen(&history(&[row]), &death()).1.len(), 1, "{row:?}");
        }
    }

    #[test]
    fn a_client_of_the_dead_loses_one_operation_and_goes_on() {
        let rows = [
            (1, Put, "dead", 90, 115, Unknown),
            (1, Put, "other", 116, 150, Ok),
            (2, Put, "other", 50, 60, Ok),
        ];
        let (counts, found) = seen(&history(&rows), &death());
        assert_eq!((found, counts.moved, counts.slowest_ms), (vec![], 1, 40));
        let twice = [rows[0], (1, Put, "dead", 116, 117, Fail), (1, Put, "other", 118, 150, Ok)];
        assert_eq!(seen(&history(&twice), &death()).1.len(), 1);
        assert_eq!(seen(&history(&rows[..1]), &death()).0.slowest_ms, u64::MAX, "never again");
    }
}
