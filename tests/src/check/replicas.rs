//! What replicas hold alone, and what answers say of them: false conflicts (I4), convergence (I5), honest
//! acknowledgements (I9), unique dots, each of them one write and each write one of them (I10).

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::ReplicaRead;

use super::causality::Causality;
use super::history::{History, Kind, Outcome};
use super::rules::Violation;

/// What one replica alone held under a key.
#[derive(Clone, Debug)]
pub struct Held {
    /// The key.
    pub key: String,
    /// The answer of the replica read.
    pub read: ReplicaRead,
}

/// Reads that showed a value beside another that superseded it.
pub fn false_conflicts(history: &History) -> Vec<Violation> {
    let causality = Causality::of(history);
    let mut found = Vec::new();
    for read in history.operations.iter().filter(|o| o.op == Kind::Get && o.values.len() > 1) {
        for new in &read.values {
            let older: BTreeSet<u64> = causality.superseded(*new).collect();
            if let Some(old) = read.values.iter().find(|v| older.contains(v)) {
                let (key, pair) = (read.key.clone(), (*old, *new));
                found.push(Violation::FalseConflict { key, read: read.id, pair });
            }
        }
    }
    found
}

/// Acknowledged writes whose answer names fewer than `required` different nodes.
pub fn honest(history: &History, required: usize) -> Vec<Violation> {
    let acknowledged =
        history.operations.iter().filter(|o| o.op != Kind::Get && o.outcome == Outcome::Ok);
    acknowledged
        .filter(|o| {
            let different: BTreeSet<&String> = o.acks.iter().collect();
            different.len() < required || different.len() != o.acks.len()
        })
        .map(|o| Violation::Acks { id: o.id, named: o.acks.clone() })
        .collect()
}

/// Dots under which different writes are stored, on whichever replica and at whatever time.
pub fn unique_dots(held: &[&Held]) -> Vec<Violation> {
    let mut content = BTreeMap::new();
    let mut found = BTreeSet::new();
    for one in held {
        for sibling in &one.read.siblings {
            let what = (&sibling.value_base64, sibling.written_ms, sibling.written_logical);
            let dot = (&one.key, &sibling.dot);
            if *content.entry(dot).or_insert(what) != what {
                found.insert((one.key.clone(), format!("{:?}", sibling.dot)));
            }
        }
    }
    found.into_iter().map(|(key, dot)| Violation::DotTwice { key, dot }).collect()
}

/// Writes that are stored under several dots, on whichever replicas and at whatever time: a request that was
/// handed on was carried out twice. Every write of a load has a value of its own; where the last write wins a
/// coordinator may well make one again.
pub fn doubled(held: &[&Held]) -> Vec<Violation> {
    let mut dots: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for one in held {
        for sibling in &one.read.siblings {
            if let Some(value) = &sibling.value_base64 {
                let dot = format!("{:?}", sibling.dot);
                dots.entry((&one.key, value)).or_default().insert(dot);
            }
        }
    }
    dots.into_iter()
        .filter(|(_, dots)| dots.len() > 1)
        .map(|((key, _), dots)| Violation::Doubled {
            key: key.clone(),
            dots: dots.into_iter().collect(),
        })
        .collect()
}

/// Keys of which two owners hold different sets.
pub fn converged(held: &[Held]) -> Vec<Violation> {
    let mut keys: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for one in held.iter().filter(|one| one.read.owner) {
        let digest = one.read.digest.clone().unwrap_or_else(|| "nothing".to_string());
        keys.entry(&one.key).or_default().push((one.read.node.to_string(), digest));
    }
    let differ = |digests: &[(String, String)]| digests.windows(2).any(|two| two[0].1 != two[1].1);
    keys.into_iter()
        .filter(|(_, digests)| differ(digests))
        .map(|(key, digests)| Violation::Diverged { key: key.to_string(), digests })
        .collect()
}

#[cfg(test)]
mod tests {
    use kvasir_core::id::NodeId;
    use kvasir_core::ring::Partition;
    use kvasir_core::version::{Actor, Context, Payload, Record, Sibling, SiblingSet, Stamp};

    use super::*;

    fn held(node: u8, value: &'static str) -> Held {
        held_as(1, node, value)
    }

    fn held_as(count: u64, node: u8, value: &'static str) -> Held {
        let sibling = Sibling {
            stamp: Stamp(1),
            payload: Payload::Value { bytes: value.into(), content_type: None },
            expires_ms: None,
        };
        let set =
            SiblingSet::delta(Context::new(), Actor { tag: 1, serial: 0 }.dot(count), sibling);
        let record = Record { set, counting: None };
        let partition = Partition::of(0, 4);
        let node = NodeId::from_bytes([node; 16]);
        let read = ReplicaRead::of(node, (0, partition), true, Some(&record));
        Held { key: "k".into(), read }
    }

    #[test]
    fn one_dot_with_two_values_is_seen_and_so_are_replicas_that_differ() {
        let (one, same, other) = (held(1, "a"), held(2, "a"), held(2, "b"));
        assert_eq!(unique_dots(&[&one, &same]), vec![]);
        assert!(matches!(unique_dots(&[&one, &other])[..], [Violation::DotTwice { .. }]));
        assert_eq!(doubled(&[&one, &same, &held_as(2, 1, "b")]), vec![]);
        let again = held_as(2, 3, "a");
        assert!(matches!(doubled(&[&one, &same, &again])[..], [Violation::Doubled { .. }]));
        assert_eq!(converged(&[one.clone(), same]), vec![]);
        assert!(matches!(converged(&[one, other])[..], [Violation::Diverged { .. }]));
    }
}
