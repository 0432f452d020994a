//! What the operator must never ask, looked at before each request is carried out, with the truth
//! about the nodes at hand.

use std::sync::{Arc, Weak};

use kvasir_core::id::NodeId;
use serde_json::Value;

use crate::api::kinds::by_plural;
use crate::api::store::{Key, Store};
use crate::api::verbs::condition;
use crate::api::{Call, key};
use crate::operator::{NAME, NS};
use crate::world::statefulset::ordinal;
use crate::world::{World, text};

/// Sets the guards up.
pub fn set(world: &Arc<World>) {
    let weak = Arc::downgrade(world);
    world.api.state().guards.push(Box::new(move |call, store| judge(&weak, call, store)));
}

fn judge(world: &Weak<World>, call: &Call, store: &Store) -> Option<String> {
    let world = world.upgrade()?;
    let kind = call.target.kind.plural;
    let name = call.target.name.clone().unwrap_or_default();
    match (call.verb, kind, call.target.subresource.as_str()) {
        ("get" | "list" | "watch", ..) => None,
        (_, "kvclusters", "status") => status(call, store),
        (_, "kvclusters", _) => Some("the spec belongs to the user".to_owned()),
        _ if paused(store) => Some("a paused cluster was written to".to_owned()),
        ("create", "pods", "eviction") => {
            disrupt(&world, store, &name, &call.body["deleteOptions"])
        }
        ("delete", "pods", _) => disrupt(&world, store, &name, &call.body),
        ("delete", "persistentvolumeclaims", _) => claim(&world, store, &name, &call.body),
        ("delete", "statefulsets" | "secrets" | "services" | "serviceaccounts", _) => {
            Some("nothing else brings it back".to_owned())
        }
        (_, "statefulsets", _) => shrink(&world, call, store, &name),
        _ => None,
    }
}

fn cluster(store: &Store) -> Option<&Value> {
    store.get(&key("kvclusters", NS, NAME))
}

fn paused(store: &Store) -> bool {
    cluster(store).is_some_and(|cluster| cluster["spec"]["paused"] == true)
}

/// Every condition says which generation it is about, and none is called ready that is not.
fn status(call: &Call, store: &Store) -> Option<String> {
    let (body, live) = (&call.body, cluster(store)?);
    if body["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty) {
        return Some("a status without the version that it was made from".to_owned());
    }
    if live["status"]["clusterID"].is_string()
        && live["status"]["clusterID"] != body["status"]["clusterID"]
    {
        return Some("the identity of the cluster changed".to_owned());
    }
    let generation = &body["metadata"]["generation"];
    let conditions = body["status"]["conditions"].as_array()?;
    if conditions.iter().any(|held| held["observedGeneration"] != *generation) {
        return Some("a condition of another generation".to_owned());
    }
    let current = body["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
    if condition(body, "Ready") && current {
        let pods = store.list(by_plural("pods"), NS);
        let ready = pods.iter().filter(|(_, pod)| condition(pod, "Ready")).count() as u64;
        let image = &live["spec"]["image"];
        let old = pods.iter().filter(|(_, pod)| pod["spec"]["containers"][0]["image"] != *image);
        if ready != live["spec"]["nodes"].as_u64()? || old.count() > 0 {
            return Some(format!("called ready with {ready} ready pods"));
        }
    }
    None
}

/// The node behind a pod: the identity on its volume.
fn node_of(world: &World, store: &Store, pod: &str) -> Option<NodeId> {
    let claim = store.get(&key("persistentvolumeclaims", NS, &format!("data-{pod}")))?;
    world.nodes().volume(text(claim, "/metadata/uid")).map(|volume| volume.id)
}

fn is_member(world: &World, id: Option<NodeId>) -> bool {
    let nodes = world.nodes();
    let document = nodes.document();
    id.is_some_and(|id| document.is_some_and(|document| document.members.contains_key(&id)))
}

fn names_uid(live: &Value, options: &Value) -> bool {
    options["preconditions"]["uid"] == live["metadata"]["uid"]
}

/// A pod goes only by its uid, and a running one only while all other members serve.
fn disrupt(world: &World, store: &Store, name: &str, options: &Value) -> Option<String> {
    let pod = store.get(&key("pods", NS, name))?;
    if options["preconditions"]["uid"].as_str().is_none_or(str::is_empty) {
        return Some("a pod deleted by name".to_owned());
    }
    if !names_uid(pod, options) {
        return None;
    }
    let runs = pod.pointer("/status/containerStatuses/0/state/running").is_some();
    if !runs {
        return None;
    }
    let others = store.list(by_plural("pods"), NS).into_iter().filter(|(key, _)| key.name != name);
    let mut serving: Vec<NodeId> = others
        .filter(|(_, pod)| condition(pod, "Ready") && !crate::world::terminating(pod))
        .filter_map(|(key, _)| node_of(world, store, &key.name))
        .collect();
    serving.extend(node_of(world, store, name));
    let nodes = world.nodes();
    let members = nodes.document().map(|document| document.members.keys());
    let missing = members.into_iter().flatten().find(|id| !serving.contains(id));
    missing.map(|id| format!("a running pod goes while node {id} does not serve"))
}

/// A volume goes only by its uid, and only when its node is no member.
fn claim(world: &World, store: &Store, name: &str, options: &Value) -> Option<String> {
    let claim = store.get(&key("persistentvolumeclaims", NS, name))?;
    if !names_uid(claim, options) {
        return Some("a volume deleted by name".to_owned());
    }
    let id = world.nodes().volume(text(claim, "/metadata/uid")).map(|volume| volume.id);
    is_member(world, id).then(|| "the volume of a member".to_owned())
}

/// A set gets smaller by one, by its uid and version, and only when the node that goes is no member.
fn shrink(world: &World, call: &Call, store: &Store, name: &str) -> Option<String> {
    let live = store.get(&Key { kind: by_plural("statefulsets"), ..key("pods", NS, name) })?;
    let wanted = call.body["spec"]["replicas"].as_u64()?;
    let has = live["spec"]["replicas"].as_u64()?;
    if wanted >= has {
        return None;
    }
    if wanted + 1 != has {
        return Some(format!("{} pods at once", has - wanted));
    }
    for field in ["uid", "resourceVersion"] {
        if call.body["metadata"][field].as_str().is_none_or(str::is_empty) {
            return Some(format!("a set made smaller without its {field}"));
        }
    }
    let stale = call.body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"];
    let pod = format!("{name}-{wanted}");
    debug_assert_eq!(ordinal(&pod), wanted);
    let member = is_member(world, node_of(world, store, &pod));
    (member && !stale).then(|| format!("{pod} is a member"))
}
