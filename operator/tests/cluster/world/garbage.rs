//! The garbage collector: an object goes when all of its owners are gone.

use std::collections::BTreeSet;

use serde_json::Value;

use super::terminating;
use crate::api::kinds::by_plural;
use crate::api::store::{Key, Store};

/// One turn over all objects.
pub fn turn(store: &mut Store) {
    let uids: BTreeSet<String> = store
        .all()
        .filter_map(|(_, object)| object["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    let lost = |object: &Value| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.is_some_and(|owners| {
            !owners.is_empty()
                && owners
                    .iter()
                    .all(|owner| owner["uid"].as_str().is_none_or(|uid| !uids.contains(uid)))
        })
    };
    let orphans: Vec<(Key, bool)> = store
        .all()
        .filter(|(_, object)| lost(object) && !terminating(object))
        .map(|(key, object)| {
            let runs = key.kind == by_plural("pods") && object["spec"].get("nodeName").is_some();
            (key.clone(), runs)
        })
        .collect();
    for (key, runs) in orphans {
        store.mark_deleted(&key, runs).expect("listed above");
    }
}
