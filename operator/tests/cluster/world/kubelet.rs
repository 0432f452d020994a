//! The scheduler and the kubelets: places pods, starts and stops what runs in them, says how it is.

use serde_json::{Value, json};

use super::nodes::{Nodes, Started};
use super::{Holds, set_status, terminating, text};
use crate::api::kinds::by_plural;
use crate::api::store::{Key, Store, finalizers};

const SINCE: &str = "2026-01-01T00:00:00Z";

/// One turn over all pods.
pub fn turn(store: &mut Store, nodes: &mut Nodes, holds: &Holds) {
    for (key, pod) in store.list(by_plural("pods"), "") {
        if terminating(&pod) {
            stop(store, nodes, holds, &key, &pod);
        } else if pod["spec"].get("nodeName").is_none() {
            place(store, holds, &key, &pod);
        } else {
            run(store, nodes, holds, &key, &pod);
        }
    }
}

fn stop(store: &mut Store, nodes: &mut Nodes, holds: &Holds, key: &Key, pod: &Value) {
    if holds.dead_workers.contains(text(pod, "/spec/nodeName")) {
        nodes.stop(text(pod, "/metadata/uid"));
        set_status(store, key, status(pod, "Running", &Health::lost()));
        return;
    }
    nodes.stop(text(pod, "/metadata/uid"));
    if finalizers(pod).is_empty() {
        store.remove(key);
    }
}

/// The worker with the fewest pods that takes it; the pod waits when there is none.
fn place(store: &mut Store, holds: &Holds, key: &Key, pod: &Value) {
    let term = "requiredDuringSchedulingIgnoredDuringExecution";
    let alone = pod.pointer(&format!("/spec/affinity/podAntiAffinity/{term}")).is_some();
    let cluster = &pod["metadata"]["labels"]["kvasir.dev/cluster"];
    let pods = store.list(by_plural("pods"), "");
    let selector = pod["spec"]["nodeSelector"].as_object();
    let best = store
        .list(by_plural("nodes"), "")
        .into_iter()
        .filter(|(worker, object)| {
            let labels = &object["metadata"]["labels"];
            let chosen =
                selector.into_iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
            chosen
                && object["spec"]["unschedulable"] != true
                && !holds.dead_workers.contains(&worker.name)
        })
        .filter_map(|(worker, _)| {
            let here = |pod: &&(Key, Value)| text(&pod.1, "/spec/nodeName") == worker.name;
            let kin =
                |pod: &(Key, Value)| pod.1["metadata"]["labels"]["kvasir.dev/cluster"] == *cluster;
            let here: Vec<&(Key, Value)> = pods.iter().filter(here).collect();
            let taken = alone && here.iter().any(|pod| kin(pod));
            (!taken).then_some((here.len(), worker.name))
        })
        .min();
    let Some((_, worker)) = best else {
        let status = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
             "message": "no worker takes it", "lastTransitionTime": SINCE}]});
        return set_status(store, key, status);
    };
    let mut object = pod.clone();
    object["spec"]["nodeName"] = json!(worker);
    store.replace(key, object).expect("listed above");
}

/// How a pod's container is.
struct Health {
    started: bool,
    ready: bool,
    waiting: Option<&'static str>,
}

impl Health {
    fn lost() -> Self {
        Self { started: true, ready: false, waiting: None }
    }
}

fn run(store: &mut Store, nodes: &mut Nodes, holds: &Holds, key: &Key, pod: &Value) {
    let uid = text(pod, "/metadata/uid");
    if holds.dead_workers.contains(text(pod, "/spec/nodeName")) {
        nodes.stop(uid);
        return set_status(store, key, status(pod, "Running", &Health::lost()));
    }
    let image = text(pod, "/spec/containers/0/image");
    if holds.missing_images.contains(image) {
        let health = Health { started: false, ready: false, waiting: Some("ErrImagePull") };
        return set_status(store, key, status(pod, "Pending", &health));
    }
    let volume = volume_uid(store, &key.namespace, pod);
    let Some(volume) = volume else { return };
    nodes.start(Started::of(pod, volume));
    let ready = !holds.unready.contains(&key.name) && nodes.is_member(uid);
    let health = Health { started: true, ready, waiting: None };
    set_status(store, key, status(pod, "Running", &health));
}

/// The uid of the claim that holds the node's data.
fn volume_uid(store: &Store, namespace: &str, pod: &Value) -> Option<String> {
    let volumes = pod["spec"]["volumes"].as_array()?;
    let mut claims = volumes.iter().map(|volume| text(volume, "/persistentVolumeClaim/claimName"));
    let name = claims.rfind(|name| !name.is_empty())?;
    let claim = store.get(&crate::api::key("persistentvolumeclaims", namespace, name))?;
    Some(text(claim, "/metadata/uid").to_owned())
}

/// The address of a pod: made from its uid, so that no two pods ever share one.
pub fn address(uid: &str) -> String {
    let number = u32::from_str_radix(&uid[uid.len().saturating_sub(6)..], 16).unwrap_or(0);
    format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255)
}

fn status(pod: &Value, phase: &str, health: &Health) -> Value {
    let yes = |held: bool| if held { "True" } else { "False" };
    let condition = |kind: &str, held: bool| json!({"type": kind, "status": yes(held), "lastTransitionTime": SINCE});
    let container = &pod["spec"]["containers"][0];
    let state = match health.waiting {
        Some(reason) => json!({"waiting": {"reason": reason, "message": "not found"}}),
        None => json!({"running": {"startedAt": SINCE}}),
    };
    let mut status = json!({
        "phase": phase, "startTime": SINCE,
        "conditions": [
            condition("PodScheduled", true),
            condition("ContainersReady", health.ready),
            condition("Ready", health.ready),
        ],
        "containerStatuses": [{
            "name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0,
            "ready": health.ready, "started": health.started, "state": state,
        }],
    });
    if health.waiting.is_none() {
        let ip = address(text(pod, "/metadata/uid"));
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{"ip": ip}]);
    }
    status
}
