//! The rest of Kubernetes and the nodes: what happens between two acts of the operator.
//!
//! One turn lets every controller do all that it can do now: StatefulSets make and remove pods, the
//! scheduler places them, kubelets start and stop them, the garbage collector takes what lost its
//! owner, nodes hear of new documents. [`World::settle`] takes turns until nothing changes any more.
//! A test holds things up by name: an image that does not exist, a pod that does not become ready,
//! a worker that is dead.

pub mod garbage;
pub mod kubelet;
pub mod nodes;
pub mod statefulset;

#[cfg(test)]
mod laws;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::api::store::Store;
use crate::api::{Api, key};
use nodes::Nodes;

/// What a test holds up.
#[derive(Debug, Default)]
pub struct Holds {
    /// Images that no registry has.
    pub missing_images: BTreeSet<String>,
    /// Pods that run but do not become ready.
    pub unready: BTreeSet<String>,
    /// Workers whose kubelet does nothing any more.
    pub dead_workers: BTreeSet<String>,
}

/// Kubernetes and the nodes.
pub struct World {
    /// The API server.
    pub api: Arc<Api>,
    nodes: Mutex<Nodes>,
    holds: Mutex<Holds>,
}

impl World {
    /// A cluster with this many workers, named `w0`, `w1` and so on.
    pub fn new(workers: usize) -> Arc<Self> {
        let api = Api::new();
        api.with_store(|store| {
            for number in 0..workers {
                let name = format!("w{number}");
                let labels = json!({"kubernetes.io/hostname": name});
                let worker = json!({"metadata": {"labels": labels}, "spec": {}});
                store.create(key("nodes", "", &name), worker).expect("a new name");
            }
        });
        Arc::new(Self { api, nodes: Mutex::default(), holds: Mutex::default() })
    }

    /// Another world that begins as this one is now, with nothing held up.
    pub fn fork(&self) -> Arc<Self> {
        let api = Api::new();
        let store = self.api.state().store.clone();
        api.with_store(|other| *other = store);
        let nodes = Mutex::new(self.nodes().clone());
        Arc::new(Self { api, nodes, holds: Mutex::default() })
    }

    /// The nodes, locked.
    pub fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().expect("no request panics")
    }

    /// What is held up, locked.
    pub fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().expect("no request panics")
    }

    /// One turn of every controller; says whether anything changed.
    pub fn turn(&self) -> bool {
        let holds = self.holds();
        let mut nodes = self.nodes();
        let before = self.api.state().store.revision();
        let heard = self.api.with_store(|store| {
            statefulset::turn(store);
            kubelet::turn(store, &mut nodes, &holds);
            garbage::turn(store);
            let pods = store.list(crate::api::kinds::by_plural("pods"), "");
            let uids = pods.iter().map(|(_, pod)| text(pod, "/metadata/uid").to_owned());
            nodes.keep_only(&uids.collect());
            let heard = nodes.gossip();
            let went_on = nodes.drive();
            nodes.gossip() || heard || went_on
        });
        heard || self.api.state().store.revision() != before
    }

    /// Takes turns until nothing changes.
    pub fn settle(&self) {
        for _ in 0..100 {
            if !self.turn() {
                return;
            }
        }
        panic!("the world does not come to rest: two controllers undo each other's work");
    }

    /// The API server is put back to what it held then; processes of pods that it does not know end.
    pub fn restore(&self, older: Store) {
        self.api.with_store(|store| store.put_back(older));
        self.settle();
    }

    /// A worker stops answering: its pods are not ready any more and are not removed.
    pub fn kill_worker(&self, name: &str) {
        self.holds().dead_workers.insert(name.to_owned());
    }

    /// Names of the pods that are ready.
    pub fn ready_pods(&self, namespace: &str) -> Vec<String> {
        let state = self.api.state();
        let pods = state.store.list(crate::api::kinds::by_plural("pods"), namespace);
        pods.into_iter()
            .filter(|(_, pod)| crate::api::verbs::condition(pod, "Ready"))
            .map(|(key, _)| key.name)
            .collect()
    }
}

/// Text at a pointer; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Is it being deleted?
pub fn terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Writes the status of an object if it differs.
pub fn set_status(store: &mut Store, key: &crate::api::store::Key, status: Value) {
    let Some(live) = store.get(key) else { return };
    if live.get("status") != Some(&status) {
        let mut object = live.clone();
        object["status"] = status;
        store.replace(key, object).expect("it was there a line ago");
    }
}
