//! The StatefulSet controller: pods and claims by ordinal, all at once, replaced only when they are
//! gone (`OnDelete`), so that whoever deletes a pod gets one of the newest template.

use serde_json::{Value, json};

use super::{set_status, terminating, text};
use crate::api::kinds::by_plural;
use crate::api::store::{Key, Store};
use crate::api::verbs::{condition, stable};

/// One turn over all sets.
pub fn turn(store: &mut Store) {
    for (key, set) in store.list(by_plural("statefulsets"), "") {
        if !terminating(&set) {
            set_up(store, &key, &set);
        }
    }
}

/// The name of the revision of a template.
pub fn revision(set: &Value) -> String {
    let name = text(set, "/metadata/name");
    format!("{name}-{:010x}", stable(&set["spec"]["template"].to_string()) & 0xff_ffff_ffff)
}

fn set_up(store: &mut Store, key: &Key, set: &Value) {
    let strategy = text(set, "/spec/updateStrategy/type");
    assert_eq!(strategy, "OnDelete", "the operator decides which pod is replaced when");
    let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1);
    for ordinal in 0..wanted {
        let pod = Key { kind: by_plural("pods"), ..of(key, &format!("{}-{ordinal}", key.name)) };
        claims(store, key, set, ordinal);
        if store.get(&pod).is_none() {
            let object = made(key, set, ordinal);
            store.create(pod, object).expect("looked a line ago");
        }
    }
    let uid = &set["metadata"]["uid"];
    let mine: Vec<(Key, Value)> = store
        .list(by_plural("pods"), &key.namespace)
        .into_iter()
        .filter(|(_, pod)| pod["metadata"]["ownerReferences"][0]["uid"] == *uid)
        .collect();
    for (pod, object) in &mine {
        if ordinal(&pod.name) >= wanted && !terminating(object) {
            let runs = object["spec"].get("nodeName").is_some();
            store.mark_deleted(pod, runs).expect("listed above");
        }
    }
    let newest = revision(set);
    let is_newest =
        |pod: &&(Key, Value)| text(&pod.1, "/metadata/labels/controller-revision-hash") == newest;
    let ready = mine.iter().filter(|(_, pod)| condition(pod, "Ready")).count();
    let updated = mine.iter().filter(is_newest).count();
    let old = text(set, "/status/currentRevision");
    let current = if old.is_empty() || updated == mine.len() { newest.as_str() } else { old };
    let status = json!({
        "observedGeneration": set["metadata"]["generation"], "replicas": mine.len(),
        "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": updated,
        "currentRevision": current, "updateRevision": newest, "collisionCount": 0,
    });
    set_status(store, key, status);
}

/// The number at the end of a pod's name.
pub fn ordinal(pod: &str) -> u64 {
    let digits = pod.rsplit('-').next().unwrap_or_default();
    digits.parse().expect("pods of a StatefulSet end in their ordinal")
}

fn of(set: &Key, name: &str) -> Key {
    Key { kind: set.kind, namespace: set.namespace.clone(), name: name.to_owned() }
}

fn templates(set: &Value) -> Vec<Value> {
    set["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default()
}

fn claim_name(set: &Key, template: &Value, ordinal: u64) -> String {
    format!("{}-{}-{ordinal}", text(template, "/metadata/name"), set.name)
}

fn claims(store: &mut Store, set: &Key, object: &Value, ordinal: u64) {
    for template in templates(object) {
        let name = claim_name(set, &template, ordinal);
        let claim = Key { kind: by_plural("persistentvolumeclaims"), ..of(set, &name) };
        if store.get(&claim).is_none() {
            let mut labels = object["spec"]["selector"]["matchLabels"].clone();
            if let Some(more) = template["metadata"]["labels"].as_object() {
                for (label, value) in more {
                    labels[label] = value.clone();
                }
            }
            let body = json!({"metadata": {"labels": labels}, "spec": template["spec"],
                "status": {"phase": "Bound"}});
            store.create(claim, body).expect("looked a line ago");
        }
    }
}

/// A pod of the set's newest template.
fn made(set: &Key, object: &Value, ordinal: u64) -> Value {
    let template = &object["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    let name = format!("{}-{ordinal}", set.name);
    let labels = &mut metadata["labels"];
    labels["statefulset.kubernetes.io/pod-name"] = json!(name);
    labels["apps.kubernetes.io/pod-index"] = json!(ordinal.to_string());
    labels["controller-revision-hash"] = json!(revision(object));
    metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set.name,
        "uid": object["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }]);
    let mut spec = template["spec"].clone();
    spec["hostname"] = json!(name);
    spec["subdomain"] = object["spec"]["serviceName"].clone();
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.extend(templates(object).iter().map(|claim| {
        json!({"name": claim["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim_name(set, claim, ordinal)}})
    }));
    spec["volumes"] = json!(volumes);
    json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
}
