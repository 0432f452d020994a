//! What the simulated controllers and nodes have in common with real ones.

use serde_json::{Value, json};

use super::{World, text};
use crate::api::{key, verbs};

const NS: &str = "default";

fn set(replicas: u64, image: &str) -> Value {
    let labels = json!({"kvasir.dev/cluster": "c", "kvasir.dev/rack": "r"});
    json!({"spec": {
        "replicas": replicas, "serviceName": "peers", "selector": {"matchLabels": labels},
        "updateStrategy": {"type": "OnDelete"}, "podManagementPolicy": "Parallel",
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [{"name": "kvasir", "image": image}],
                "affinity": {"podAntiAffinity":
                    {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}},
            },
        },
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
    }})
}

fn world(replicas: u64, workers: usize) -> std::sync::Arc<World> {
    let world = World::new(workers);
    world.api.with_store(|store| {
        store.create(key("statefulsets", NS, "s"), set(replicas, "kvasir:1")).unwrap();
    });
    world.settle();
    world
}

fn object(world: &World, plural: &str, name: &str) -> Option<Value> {
    world.api.state().store.get(&key(plural, NS, name)).cloned()
}

fn edit(world: &World, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
    world.api.with_store(|store| {
        let key = key(plural, NS, name);
        let mut object = store.get(&key).cloned().unwrap();
        change(&mut object);
        store.replace(&key, object).unwrap();
    });
    world.settle();
}

fn delete(world: &World, plural: &str, name: &str) {
    let deleted = |store: &mut _| verbs::delete(store, &key(plural, NS, name), &json!({}));
    world.api.with_store(deleted).unwrap();
    world.settle();
}

fn call(world: &World, method: &str, path: &str, body: &Value) -> (u16, Value) {
    world.nodes().call("s-0.peers.default.svc", method, path, body).expect("s-0 runs")
}

fn form(world: &World) -> (u16, Value) {
    let nodes = ["s-0.peers:8099", "s-1.peers:8099", "s-2.peers:8099"];
    let init = json!({"clusterName": "c", "replication": {"dc1": 3}, "nodes": nodes});
    let answer = call(world, "POST", "/v1/cluster/init", &init);
    world.settle();
    answer
}

#[test]
fn a_stateful_set_keeps_its_pods_and_replaces_them_only_when_they_are_gone() {
    let world = world(3, 3);
    let pod = object(&world, "pods", "s-1").unwrap();
    assert_eq!(text(&pod, "/status/phase"), "Running");
    let claim = object(&world, "persistentvolumeclaims", "data-s-1").unwrap();
    edit(&world, "statefulsets", "s", |set| *set = merged(set, &self::set(3, "kvasir:2")));
    let same = object(&world, "pods", "s-1").unwrap();
    assert_eq!(pod["metadata"]["uid"], same["metadata"]["uid"]);
    let before = world.nodes().id_in("s-1");
    delete(&world, "pods", "s-1");
    let new = object(&world, "pods", "s-1").unwrap();
    assert_ne!(pod["metadata"]["uid"], new["metadata"]["uid"]);
    assert_eq!(text(&new, "/spec/containers/0/image"), "kvasir:2");
    assert_eq!(world.nodes().id_in("s-1"), before, "identity stays with the volume");
    edit(&world, "statefulsets", "s", |set| set["spec"]["replicas"] = json!(1));
    assert_eq!(object(&world, "pods", "s-2"), None);
    let kept = object(&world, "persistentvolumeclaims", "data-s-1").unwrap();
    assert_eq!(kept["metadata"]["uid"], claim["metadata"]["uid"]);
    delete(&world, "statefulsets", "s");
    assert_eq!(object(&world, "pods", "s-0"), None, "the garbage collector took it");
    assert!(object(&world, "persistentvolumeclaims", "data-s-0").is_some());
}

fn merged(old: &Value, new: &Value) -> Value {
    crate::api::fields::merge(old, new)
}

#[test]
fn a_pod_waits_for_a_worker_an_image_and_the_ring() {
    let world = world(3, 2);
    assert_eq!(text(&object(&world, "pods", "s-2").unwrap(), "/status/phase"), "Pending");
    assert_eq!(world.ready_pods(NS), Vec::<String>::new(), "not in the ring, not ready");
    let world = self::world(2, 2);
    world.holds().missing_images.insert("kvasir:9".to_owned());
    edit(&world, "statefulsets", "s", |set| *set = merged(set, &self::set(2, "kvasir:9")));
    delete(&world, "pods", "s-1");
    let pod = object(&world, "pods", "s-1").unwrap();
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    assert_eq!(text(&pod, waiting), "ErrImagePull");
    assert_eq!(world.nodes().id_in("s-1"), None);
}

#[test]
fn a_worker_that_died_takes_its_pod_out_of_the_ring_and_keeps_it_from_going() {
    let world = world(3, 3);
    assert_eq!(form(&world).0, 200);
    assert_eq!(world.ready_pods(NS), ["s-0", "s-1", "s-2"]);
    let worker = text(&object(&world, "pods", "s-2").unwrap(), "/spec/nodeName").to_owned();
    world.kill_worker(&worker);
    world.settle();
    assert_eq!(world.ready_pods(NS), ["s-0", "s-1"]);
    assert!(!world.nodes().healthy());
    let (_, status) = call(&world, "GET", "/v1/status", &Value::Null);
    assert_eq!(status["safety"]["verdict"], "degraded");
    delete(&world, "pods", "s-2");
    assert!(object(&world, "pods", "s-2").is_some());
    world.holds().unready.insert("s-1".to_owned());
    world.settle();
    assert_eq!(world.ready_pods(NS), ["s-0"]);
}

#[test]
fn nodes_form_once_and_take_members_by_the_rules_of_the_ring() {
    let world = world(4, 4);
    assert_eq!(call(&world, "GET", "/readyz", &Value::Null).0, 503);
    let (status, formed) = form(&world);
    assert_eq!((status, &formed["epoch"]), (200, &json!(1)));
    let (status, again) = form(&world);
    assert_eq!((status, again["code"].as_str()), (409, Some("already_formed")));
    assert_eq!(again["newest"]["document"]["clusterId"], formed["document"]["clusterId"]);
    let formed = world.nodes().formed;
    assert_eq!((formed, call(&world, "GET", "/readyz", &Value::Null).0), (1, 200));
    let id = world.nodes().id_in("s-3").unwrap();
    let post = |id: &str, kind: &str, node: Value| {
        let body = json!({"id": id, "kind": kind, "node": node, "rebalance": false});
        let answer = call(&world, "POST", "/v1/operations", &body);
        world.settle();
        answer
    };
    assert_eq!(call(&world, "GET", "/v1/operations/j", &Value::Null).0, 404);
    let (status, joined) = post("j", "join", json!(id));
    assert_eq!((status, &joined["endedEpoch"]), (200, &json!(2)));
    assert_eq!(post("j", "join", json!(id)), (status, joined.clone()));
    assert_eq!(call(&world, "GET", "/v1/operations/j", &Value::Null), (200, joined));
    assert_eq!(world.ready_pods(NS).len(), 4);
    let owner = world.nodes().id_in("s-0").unwrap();
    assert_eq!(post("l", "leave", json!(owner)).0, 422, "it owns partitions");
    assert_eq!(post("l", "leave", json!(id)).0, 200);
    let nodes = world.nodes();
    let document = nodes.document().unwrap();
    assert_eq!((document.epoch, document.members.len()), (3, 3));
    let claim = object(&world, "persistentvolumeclaims", "data-s-3").unwrap();
    let volume = nodes.volume(text(&claim, "/metadata/uid")).unwrap();
    assert_eq!(volume.document.as_ref().unwrap().epoch, 3, "it heard that it left");
}
