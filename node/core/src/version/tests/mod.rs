//! Tests of this room: laws of the merge, bytes, minting, tokens, views, and the causal oracle.

mod encoding;
mod folding;
mod laws;
mod minting;
mod oracle;
mod showing;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// The `number`-th actor of the tests.
fn actor(number: u64) -> Actor {
    Actor { tag: 0xa0 + number, serial: number }
}

/// The sibling that the write with this name left: as in real life, one dot, one sibling.
fn sibling_of(dot: Dot) -> Sibling {
    let stamp = Stamp::from_millis(1_000 * dot.count + dot.actor.serial);
    match (dot.actor.serial + dot.count) % 4 {
        0 => Sibling::tombstone(stamp),
        1 => Sibling { expires_ms: Some(2_500), ..Sibling::value(stamp, "short-lived") },
        2 => Sibling {
            payload: Payload::Value {
                bytes: Bytes::from(vec![dot.count as u8; dot.count as usize]),
                content_type: Some("text/plain".into()),
            },
            ..Sibling::value(stamp, "")
        },
        _ => Sibling::value(stamp, dot.to_string()),
    }
}

/// Any dot of a small universe in which dots meet often.
fn any_dot() -> impl Strategy<Value = Dot> {
    (0..4u64, 1..=6u64).prop_map(|(number, count)| actor(number).dot(count))
}

/// Any context over that universe.
fn any_context() -> impl Strategy<Value = Context> {
    prop::collection::vec(any_dot(), 0..14).prop_map(|dots| dots.into_iter().collect())
}

/// Any set over that universe.
fn any_set() -> impl Strategy<Value = SiblingSet> {
    prop::collection::vec((any_dot(), any::<bool>()), 0..14).prop_map(|dots| {
        let context: Context = dots.iter().map(|(dot, _)| *dot).collect();
        let held = dots.into_iter().filter(|(_, held)| *held);
        let siblings: BTreeMap<Dot, Sibling> =
            held.map(|(dot, _)| (dot, sibling_of(dot))).collect();
        SiblingSet::from_parts(context, siblings).expect("every dot was put into the context")
    })
}
