//! The objects: one revision counter, every version kept, so that a reader can be shown the past.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::failure::{Answer, Failure};
use super::kinds::Kind;

/// What names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty where the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The revision that it made.
    pub revision: u64,
    /// What changed.
    pub key: Key,
    /// The object before; none when it was created.
    pub before: Option<Value>,
    /// The object after; none when it was removed.
    pub after: Option<Value>,
}

/// Every object and its past.
#[derive(Debug, Clone, Default)]
pub struct Store {
    objects: BTreeMap<Key, Value>,
    history: Vec<Change>,
    revision: u64,
    uids: u64,
    /// Watches from before this revision answer 410.
    compacted: u64,
    /// How many of the newest changes watchers and cached readers do not see yet.
    lag: usize,
}

impl Store {
    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The newest revision that watchers and cached readers see.
    pub fn visible(&self) -> u64 {
        let seen = self.history.len().saturating_sub(self.lag);
        seen.checked_sub(1).map_or(0, |last| self.history[last].revision)
    }

    /// Holds the newest `changes` changes back from watchers and cached readers.
    pub fn set_lag(&mut self, changes: usize) {
        self.lag = changes;
    }

    /// Forgets the past: watches from before now answer 410.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// The oldest revision that a watch may start from.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Changes from `revision` (exclusive) that are visible.
    pub fn changes(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let visible = self.visible();
        self.history
            .iter()
            .filter(move |change| change.revision > revision && change.revision <= visible)
    }

    /// Becomes what it was at an earlier time. No uid is given out a second time.
    pub fn put_back(&mut self, older: Self) {
        *self = Self { uids: self.uids, ..older };
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// One object, or 404.
    pub fn find(&self, key: &Key) -> Answer<&Value> {
        self.get(key).ok_or_else(|| Failure::not_found(key.kind.plural, &key.name))
    }

    /// All objects of a kind, in all namespaces where `namespace` is empty.
    pub fn list(&self, kind: Kind, namespace: &str) -> Vec<(Key, Value)> {
        let here = self.objects.iter().filter(|(key, _)| {
            key.kind == kind && (namespace.is_empty() || key.namespace == namespace)
        });
        here.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// The same as it was at a revision.
    pub fn list_at(&self, kind: Kind, namespace: &str, revision: u64) -> Vec<(Key, Value)> {
        let mut objects = BTreeMap::new();
        for change in self.history.iter().take_while(|change| change.revision <= revision) {
            let key = &change.key;
            if key.kind == kind && (namespace.is_empty() || key.namespace == namespace) {
                match &change.after {
                    Some(object) => objects.insert(key.clone(), object.clone()),
                    None => objects.remove(key),
                };
            }
        }
        objects.into_iter().collect()
    }

    /// Everything there is.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    /// Stores a new object: uid, time, revision and generation are set here.
    pub fn create(&mut self, key: Key, mut object: Value) -> Answer<Value> {
        if self.objects.contains_key(&key) {
            let message = format!("{} \"{}\" already exists", key.kind.plural, key.name);
            return Err(Failure::new(409, "AlreadyExists", message));
        }
        self.uids += 1;
        object["apiVersion"] = json!(key.kind.api_version());
        object["kind"] = json!(key.kind.name);
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.name);
        if key.kind.namespaced {
            metadata["namespace"] = json!(key.namespace);
        }
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
        metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        metadata["generation"] = json!(1);
        Ok(self.put(key, object))
    }

    /// Stores another version of an object. Nothing happens when nothing differs.
    pub fn replace(&mut self, key: &Key, mut object: Value) -> Answer<Value> {
        let live = self.find(key)?.clone();
        for field in ["uid", "creationTimestamp", "resourceVersion", "generation", "name"] {
            object["metadata"][field] = live["metadata"][field].clone();
        }
        if let Some(stamp) = live["metadata"].get("deletionTimestamp") {
            object["metadata"]["deletionTimestamp"] = stamp.clone();
        }
        if object == live {
            return Ok(live);
        }
        let body = |object: &Value| {
            let mut body = object.clone();
            if let Some(fields) = body.as_object_mut() {
                fields.remove("metadata");
                fields.remove("status");
            }
            body
        };
        if body(&object) != body(&live) {
            let generation = live["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let object = self.put(key.clone(), object);
        if deletion_is_due(&object) {
            self.remove(key);
        }
        Ok(object)
    }

    /// Marks an object as being deleted; it goes when nothing holds it.
    pub fn mark_deleted(&mut self, key: &Key, held: bool) -> Answer<Value> {
        let mut object = self.find(key)?.clone();
        if !held && finalizers(&object).is_empty() {
            self.remove(key);
        } else if object["metadata"].get("deletionTimestamp").is_none() {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object = self.put(key.clone(), object);
        }
        Ok(object)
    }

    /// Takes an object away.
    pub fn remove(&mut self, key: &Key) {
        if let Some(mut before) = self.objects.remove(key) {
            self.revision += 1;
            let (revision, key) = (self.revision, key.clone());
            before["metadata"]["resourceVersion"] = json!(revision.to_string());
            self.history.push(Change { revision, key, before: Some(before), after: None });
        }
    }

    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let before = self.objects.insert(key.clone(), object.clone());
        self.history.push(Change { revision, key, before, after: Some(object.clone()) });
        object
    }
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> &[Value] {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// Only finalizers held it, and they are gone. A pod goes when its kubelet says so.
fn deletion_is_due(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
        && finalizers(object).is_empty()
        && object["kind"] != "Pod"
}
