//! What the operator asked the API server for, as the API server of `tests/kube/up` writes it down: every call of
//! a service account, with time, verb, object and the pod that sent it. Other clusters keep no such record here.

use std::path::PathBuf;

use serde_json::Value;

use super::cluster::OPERATOR;
use super::ground::local_ground;

/// A call that changes something, lease and events left out: nothing is decided by them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// When it was received, in RFC 3339 with microseconds: text compares as time.
    pub at: String,
    /// The pod that sent it.
    pub pod: String,
    /// Verb and object.
    pub what: String,
}

/// Every call of an operator in order of the record, or none on a cluster without one.
///
/// # Panics
/// The record cannot be read.
pub fn operator_calls() -> Option<Vec<Value>> {
    if !local_ground() {
        return None;
    }
    let state = std::env::var("KVASIR_KUBE_STATE").unwrap_or("/var/lib/kvasir-kube".to_string());
    let folder = PathBuf::from(state).join("log");
    let mut calls = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the logs of tests/kube/up").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("audit") {
            continue;
        }
        for line in std::fs::read_to_string(entry.path()).expect("a log").lines() {
            // The last line may be under way.
            let Ok(call) = serde_json::from_str::<Value>(line) else { continue };
            let user = call["user"]["username"].as_str().unwrap_or_default();
            // Version and discovery, which name no object, are open to every account.
            if user.ends_with(&format!(":{OPERATOR}")) && !call["objectRef"].is_null() {
                calls.push(call);
            }
        }
    }
    Some(calls)
}

/// What operators of a namespace wrote, in order of time.
pub fn written(namespace: &str) -> Option<Vec<Written>> {
    let mut all: Vec<Written> =
        operator_calls()?.iter().filter_map(|call| write_of(call, namespace)).collect();
    all.sort();
    Some(all)
}

fn write_of(call: &Value, namespace: &str) -> Option<Written> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let object = &call["objectRef"];
    let verb = text(&call["verb"]);
    let decides = !["get", "list", "watch"].contains(&verb.as_str())
        && !["leases", "events"].contains(&text(&object["resource"]).as_str());
    if !decides || object["namespace"] != namespace {
        return None;
    }
    let pod = &call["user"]["extra"]["authentication.kubernetes.io/pod-name"][0];
    let sub = text(&object["subresource"]);
    let what = format!("{verb} {}/{sub} {}", text(&object["resource"]), text(&object["name"]));
    Some(Written { at: text(&call["requestReceivedTimestamp"]), pod: text(pod), what })
}
