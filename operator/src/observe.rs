//! Fills a [`Snapshot`]: reads only, and all of them live.
//!
//! Nothing is taken from a watch cache, so what the planner sees is at most as old as the pass.
//! Watches only say when to look. Objects are found by the cluster's label; whatever belongs to
//! another `KVCluster` of the same name is marked as not ours by UID.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{ContainerState, PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt};
use kvasir_core::admin_api::problem::code;
use serde_json::Value;

use crate::crd::{KVCluster, OperationType};
use crate::node_admin::{AskError, NodeAdmin};
use crate::render::{KINDS, names};
use crate::snapshot::{
    Failure, NodeAnswer, NodeSeen, ObjectName, OperationSeen, PodSeen, SetSeen, Snapshot,
    Surroundings, VolumeSeen,
};

/// Nodes that are asked at once.
const AT_ONCE: usize = 64;

/// What an observation needs besides the resource.
pub struct Eyes<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The nodes.
    pub nodes: &'a NodeAdmin,
    /// Where the operator runs.
    pub surroundings: &'a Surroundings,
}

/// The snapshot of a cluster that was just read.
///
/// # Errors
/// A list that the API server did not answer: without it nothing is planned. A node that does not
/// answer is no error, it is seen as silent.
pub async fn observe(
    eyes: Eyes<'_>,
    cluster: KVCluster,
    now: Timestamp,
    failure: Option<Failure>,
) -> Result<Snapshot, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let mine = ListParams::default().labels(&names::selector_text(&cluster));
    let kinds = KINDS.iter().filter(|(_, kind)| *kind != "PersistentVolumeClaim");
    let found = kinds.map(|(api_version, kind)| list(eyes.client, &cluster, api_version, kind));
    let objects: BTreeMap<ObjectName, Value> = try_join_all(found)
        .await?
        .into_iter()
        .flatten()
        .map(|object| (ObjectName::of(&object), object))
        .collect();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(eyes.client.clone(), &namespace);
    let volumes = claims.list(&mine).await?.items.into_iter();
    let volumes = volumes.map(|claim| volume(&cluster, &claim));
    let volumes = volumes.map(|volume| (volume.name.clone(), volume)).collect();
    let pods: Api<Pod> = Api::namespaced(eyes.client.clone(), &namespace);
    let seen = pods.list(&mine).await?.items.into_iter().map(|pod| of_pod(&pod, now));
    let operation = asked_for(&cluster);
    let repairs = is_repair(&cluster);
    let asked = seen.map(|pod| ask(eyes.nodes, pod, operation.as_deref(), repairs));
    let pods: Vec<PodSeen> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    Ok(Snapshot {
        now,
        sets: sets(&cluster, &objects),
        pods: pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(),
        volumes,
        objects,
        surroundings: eyes.surroundings.clone(),
        failure,
        cluster,
    })
}

/// The id in the journal, if it is one that nodes know.
fn asked_for(cluster: &KVCluster) -> Option<String> {
    let operation = cluster.status.as_ref()?.operation.as_ref()?;
    let posted = matches!(
        operation.kind,
        OperationType::Join
            | OperationType::Leave
            | OperationType::Replace
            | OperationType::Rebalance
            | OperationType::Relocate
            | OperationType::Repair
    );
    posted.then(|| operation.id.clone())
}

/// Is it a repair, whose progress every node tells of itself?
fn is_repair(cluster: &KVCluster) -> bool {
    let journal = cluster.status.as_ref().and_then(|status| status.operation.as_ref());
    journal.is_some_and(|operation| operation.kind == OperationType::Repair)
}

/// The cluster's objects of one kind, whole but for the bookkeeping of field managers. Of the
/// Secret only the metadata: the token is read where it is used.
async fn list(
    client: &Client,
    cluster: &KVCluster,
    api_version: &str,
    kind: &str,
) -> Result<Vec<Value>, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &namespace, &resource(api_version, kind));
    let values: Result<Vec<Value>, _> = if kind == "Secret" {
        let secret = api.get_metadata_opt(&names::token_secret(cluster)).await?;
        secret.iter().map(serde_json::to_value).collect()
    } else {
        match api.list(&ListParams::default().labels(&names::selector_text(cluster))).await {
            Ok(list) => list.items.iter().map(serde_json::to_value).collect(),
            // The Prometheus operator is not there.
            Err(kube::Error::Api(status)) if kind == "PodMonitor" && status.code == 404 => {
                Ok(Vec::new())
            }
            Err(error) => return Err(error),
        }
    };
    let mut values = values.map_err(kube::Error::SerdeError)?;
    for value in &mut values {
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    Ok(values)
}

/// The API of a kind.
pub fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn owned(cluster: &KVCluster, metadata: &Value) -> bool {
    let uid = cluster.metadata.uid.as_deref();
    let owners = metadata["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| uid.is_some() && owner["uid"].as_str() == uid)
}

fn sets(cluster: &KVCluster, objects: &BTreeMap<ObjectName, Value>) -> BTreeMap<String, SetSeen> {
    let of_kind = objects.iter().filter(|(name, _)| name.kind == "StatefulSet");
    let seen = of_kind.map(|(name, set)| {
        let metadata = &set["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let rack = metadata["labels"][names::RACK].as_str().unwrap_or_default().to_owned();
        let seen = SetSeen {
            name: name.name.clone(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            replicas: set["spec"]["replicas"]
                .as_i64()
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(1),
            ours: owned(cluster, metadata),
            deleting: metadata["deletionTimestamp"].is_string(),
        };
        (rack, seen)
    });
    seen.collect()
}

fn ordinal(name: &str) -> i32 {
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(-1)
}

fn volume(cluster: &KVCluster, claim: &PersistentVolumeClaim) -> VolumeSeen {
    let label = |name: &str| claim.labels().get(name).cloned().unwrap_or_default();
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    VolumeSeen {
        name: claim.name_any(),
        uid: claim.uid().unwrap_or_default(),
        resource_version: claim.resource_version().unwrap_or_default(),
        rack: label(names::RACK),
        ordinal: ordinal(&claim.name_any()),
        requested: requests.and_then(|map| map.get("storage")).cloned().unwrap_or_default(),
        capacity: capacity.and_then(|map| map.get("storage")).cloned(),
        owned: claim.owner_references().iter().any(|owner| owner.uid == uid),
        deleting: claim.metadata.deletion_timestamp.is_some(),
    }
}

/// The pod with what its node says, if it runs.
async fn ask(
    nodes: &NodeAdmin,
    mut seen: PodSeen,
    operation: Option<&str>,
    repairs: bool,
) -> PodSeen {
    if let (Some(ip), true) = (seen.ip.clone(), seen.running) {
        seen.node = match nodes.status(&ip).await {
            Err(error) => NodeSeen::Silent(error.to_string()),
            Ok(status) => {
                let operation = match operation {
                    Some(id) => known(nodes.operation(&ip, id).await),
                    None => OperationSeen::Unasked,
                };
                let repair = match repairs {
                    true => nodes.repair(&ip).await.ok().map(Box::new),
                    false => None,
                };
                NodeSeen::Answered(Box::new(NodeAnswer { status, operation, repair }))
            }
        };
    }
    seen
}

fn known(answer: Result<kvasir_core::admin_api::OperationStatus, AskError>) -> OperationSeen {
    match answer {
        Ok(status) => OperationSeen::Known(Box::new(status)),
        Err(AskError::Refused { problem, .. }) if problem.code == code::UNKNOWN_OPERATION => {
            OperationSeen::Unknown
        }
        Err(error) => OperationSeen::Failed(error.to_string()),
    }
}

/// What the API server says about a pod.
fn of_pod(pod: &Pod, now: Timestamp) -> PodSeen {
    let since =
        |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO);
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    let running = runs(pod);
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True");
    let volumes = spec.and_then(|spec| spec.volumes.as_ref());
    let volume = |name: &str| volumes?.iter().find(|volume| volume.name == name);
    let config_map = volume("config").and_then(|volume| volume.config_map.as_ref());
    let claim = volume(names::DATA).and_then(|volume| volume.persistent_volume_claim.as_ref());
    PodSeen {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        rack: label(names::RACK),
        ordinal: ordinal(&pod.name_any()),
        age: pod.creation_timestamp().map_or(Duration::ZERO, |at| since(at.0)),
        ready_for: ready.map(|ready| {
            ready.last_transition_time.as_ref().map_or(Duration::ZERO, |at| since(at.0))
        }),
        running,
        trouble: trouble(pod),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ip: status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        worker: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        inputs: pod.annotations().get(names::INPUTS).cloned().unwrap_or_default(),
        config_map: config_map.map(|map| map.name.clone()).unwrap_or_default(),
        volume: claim.map(|claim| claim.claim_name.clone()).unwrap_or_default(),
        node: NodeSeen::Unasked,
    }
}

/// Does the node's container run?
pub fn runs(pod: &Pod) -> bool {
    node_container(pod).is_some_and(|state| state.running.is_some())
}

/// The state of the node's container.
fn node_container(pod: &Pod) -> Option<&ContainerState> {
    let mut all = pod.status.as_ref()?.container_statuses.as_ref()?.iter();
    all.find(|container| container.name == names::CONTAINER)?.state.as_ref()
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.as_ref()?.iter();
    conditions.find(|condition| condition.type_ == kind)
}

/// Why the node does not run, if something is wrong: a pod that is merely being made has none.
fn trouble(pod: &Pod) -> Option<String> {
    if let Some(state) = node_container(pod) {
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.clone().unwrap_or_default();
            let usual = ["", "ContainerCreating", "PodInitializing"].contains(&reason.as_str());
            return (!usual).then_some(reason);
        }
        let ended = state.terminated.as_ref()?;
        let reason = ended.reason.as_deref().unwrap_or("Terminated");
        return Some(format!("{reason} (exit code {})", ended.exit_code));
    }
    let scheduled = condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False");
    scheduled.and_then(|scheduled| scheduled.reason.clone())
}

#[cfg(test)]
mod tests;
