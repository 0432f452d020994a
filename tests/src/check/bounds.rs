//! Bounds (I11): what a node holds stays under its caps at all times, and so does what answers carry.
//!
//! Whoever runs the nodes measures them while the run goes on; here only the figures are judged.

use std::collections::BTreeMap;

use super::history::{History, Kind};
use super::rules::Violation;

/// The longest token that a header carries.
const TOKEN_MAX_BYTES: usize = 64 << 10;
/// A key with so many siblings takes no further one from clients.
const SIBLINGS_MAX: usize = 100;

/// One thing that a node holds, at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Which node.
    pub host: usize,
    /// What was measured.
    pub what: &'static str,
    /// How much there was.
    pub held: u64,
    /// How much there may be.
    pub cap: u64,
}

/// Whatever was above its cap, at its worst, once for each node and thing.
pub fn exceeded(measured: &[Measured]) -> Vec<Violation> {
    let mut worst: BTreeMap<(usize, &str), Measured> = BTreeMap::new();
    for one in measured.iter().filter(|one| one.held > one.cap) {
        let known = worst.entry((one.host, one.what)).or_insert(*one);
        if one.held > known.held {
            *known = *one;
        }
    }
    worst.into_values().map(Violation::Exceeded).collect()
}

/// Answers that carry more than an answer may: tokens, and siblings, of which a key has at most a hundred
/// and those whose writes were under way when it reached them.
pub fn oversized(history: &History) -> Vec<Violation> {
    let mut writers: BTreeMap<&str, std::collections::BTreeSet<u32>> = BTreeMap::new();
    for write in history.operations.iter().filter(|o| o.op != Kind::Get) {
        writers.entry(&write.key).or_default().insert(write.client);
    }
    let all = |key: &str| SIBLINGS_MAX + writers.get(key).map_or(0, |clients| clients.len());
    let over = |what, held: usize, cap: usize| {
        let (host, held, cap) = (usize::MAX, held as u64, cap as u64);
        (held > cap).then_some(Measured { host, what, held, cap })
    };
    let found: Vec<Measured> = history
        .operations
        .iter()
        .flat_map(|o| {
            let token = o.token_returned.as_ref().map_or(0, String::len);
            let shown = over("siblings of an answer", o.values.len(), all(&o.key));
            [over("bytes of a token", token, TOKEN_MAX_BYTES), shown].into_iter().flatten()
        })
        .collect();
    exceeded(&found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::history::{Operation, Outcome};

    fn held(host: usize, held: u64) -> Measured {
        Measured { host, what: "bytes of hints", held, cap: 10 }
    }

    #[test]
    fn the_worst_of_each_node_is_told_once() {
        assert_eq!(exceeded(&[held(0, 10), held(1, 3)]), vec![]);
        let found = exceeded(&[held(0, 11), held(0, 15), held(0, 12), held(1, 11)]);
        assert_eq!(found, vec![Violation::Exceeded(held(0, 15)), Violation::Exceeded(held(1, 11))]);
    }

    #[test]
    fn answers_carry_no_more_than_they_may() {
        let read = |values: u64, token: usize| Operation {
            id: values,
            client: 0,
            op: Kind::Get,
            key: "k".into(),
            token_sent: None,
            token_returned: Some("t".repeat(token)),
            values: (0..values).collect(),
            foreign: vec![],
            acks: vec![],
            consistency: "quorum".into(),
            server: "n".into(),
            start_ms: 0,
            end_ms: 1,
            outcome: Outcome::Ok,
            problem: None,
            settled: false,
        };
        let history = |operations| History { operations };
        assert_eq!(oversized(&history(vec![read(100, 65_536)])), vec![]);
        assert_eq!(oversized(&history(vec![read(101, 65_537)])).len(), 2);
    }
}
