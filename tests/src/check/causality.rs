//! Which values a token covers, as far as clients can know.
//!
//! A put supersedes what its token covers. The token a put returns covers what it sent plus its own value;
//! the token a get returns covers each value that came with it and whatever those had superseded. Nothing
//! else is ever covered: a value that vanishes without being in such a set was lost.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, Kind, Operation};

/// Value ids under one key.
pub type Values = BTreeSet<u64>;

/// The black-box causal graph of a history.
#[derive(Debug, Default)]
pub struct Causality {
    /// (key, token) to what it covers.
    tokens: BTreeMap<(String, String), Values>,
    /// Put or delete, by operation id, to what it superseded if it was applied.
    superseded: BTreeMap<u64, Values>,
}

impl Causality {
    /// Follows the tokens in the order of the starts: a token is returned before it is sent.
    pub fn of(history: &History) -> Self {
        let mut graph = Self::default();
        let mut events: Vec<(u64, bool, &Operation)> = Vec::new();
        for operation in &history.operations {
            events.push((operation.start_ms, true, operation));
            events.push((operation.end_ms, false, operation));
        }
        // At equal times ends come first: a token returned at t may be sent at t.
        events.sort_by_key(|(at, start, operation)| (*at, *start, operation.id));
        for (_, start, operation) in events {
            // An operation of no duration ends before it starts in the order above.
            if start || !graph.end(operation) {
                graph.start(operation);
                if !start {
                    graph.end(operation);
                }
            }
        }
        graph
    }

    fn start(&mut self, operation: &Operation) {
        if operation.op == Kind::Get || self.superseded.contains_key(&operation.id) {
            return;
        }
        let covered = operation
            .token_sent
            .as_ref()
            .and_then(|t| self.tokens.get(&(operation.key.clone(), t.clone())))
            .cloned()
            .unwrap_or_default();
        self.superseded.insert(operation.id, covered);
    }

    /// False when the start of the operation was not seen yet.
    fn end(&mut self, operation: &Operation) -> bool {
        let mut covered = Values::new();
        match operation.op {
            Kind::Get => {
                for value in &operation.values {
                    covered.insert(*value);
                    covered.extend(self.superseded.get(value).into_iter().flatten());
                }
            }
            Kind::Put | Kind::Delete => {
                let Some(superseded) = self.superseded.get(&operation.id) else { return false };
                covered.extend(superseded);
                if operation.op == Kind::Put {
                    covered.insert(operation.id);
                }
            }
        }
        if let Some(token) = &operation.token_returned {
            let known = self.tokens.entry((operation.key.clone(), token.clone())).or_default();
            known.extend(covered);
        }
        true
    }

    /// What a put or delete superseded, if it was applied.
    pub fn superseded(&self, id: u64) -> impl Iterator<Item = u64> + '_ {
        self.superseded.get(&id).into_iter().flatten().copied()
    }
}
