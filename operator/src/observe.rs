//! Fills a [`Snapshot`]: reads only, and all of them live.
//!
//! Nothing is taken from a watch cache, so what the planner sees is at most as old as the pass.
//! Watches only say when to look. Objects are found by the cluster's label; whatever belongs to
//! another `KVCluster` of the same name is marked as not ours by UID.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
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
    let mut objects = BTreeMap::new();
    for (api_version, kind) in KINDS.iter().filter(|(_, kind)| *kind != "PersistentVolumeClaim") {
        let found = if *kind == "Secret" {
            secret(eyes.client, &cluster).await?
        } else {
            list(eyes.client, &namespace, api_version, kind, &mine).await?
        };
        for mut object in found {
            object["apiVersion"] = (*api_version).into();
            object["kind"] = (*kind).into();
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            objects.insert(ObjectName::of(&object), object);
        }
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(eyes.client.clone(), &namespace);
    let volumes = claims.list(&mine).await?.items.into_iter();
    let volumes = volumes.map(|claim| volume(&cluster, &claim));
    let volumes = volumes.map(|volume| (volume.name.clone(), volume)).collect();
    let pods: Api<Pod> = Api::namespaced(eyes.client.clone(), &namespace);
    let seen = pods.list(&mine).await?.items;
    let operation = asked_for(&cluster);
    let asked = seen.iter().map(|pod| look(eyes.nodes, pod, now, operation.as_deref()));
    let pods = join_all(asked).await;
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
        OperationType::Join | OperationType::Leave | OperationType::Relocate
    );
    posted.then(|| operation.id.clone())
}

/// The metadata of the Secret with the admin token: its contents are read only when they are used.
async fn secret(client: &Client, cluster: &KVCluster) -> Result<Vec<Value>, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let found = api.get_metadata_opt(&names::token_secret(cluster)).await?;
    found
        .iter()
        .map(|secret| serde_json::to_value(secret).map_err(kube::Error::SerdeError))
        .collect()
}

/// Objects of one kind, whole.
async fn list(
    client: &Client,
    namespace: &str,
    api_version: &str,
    kind: &str,
    mine: &ListParams,
) -> Result<Vec<Value>, kube::Error> {
    let resource = resource(api_version, kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match api.list(mine).await {
        Ok(list) => {
            let values = list.items.iter().map(serde_json::to_value);
            values.collect::<Result<_, _>>().map_err(kube::Error::SerdeError)
        }
        // The Prometheus operator is not there.
        Err(kube::Error::Api(status)) if kind == "PodMonitor" && status.code == 404 => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
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

async fn look(nodes: &NodeAdmin, pod: &Pod, now: Timestamp, operation: Option<&str>) -> PodSeen {
    let mut seen = of_pod(pod, now);
    if let (Some(ip), true) = (seen.ip.clone(), seen.running) {
        seen.node = match nodes.status(&ip).await {
            Err(error) => NodeSeen::Silent(error.to_string()),
            Ok(status) => {
                let operation = match operation {
                    Some(id) => known(nodes.operation(&ip, id).await),
                    None => OperationSeen::Unasked,
                };
                NodeSeen::Answered(Box::new(NodeAnswer { status, operation }))
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
    let container = status
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|all| all.iter().find(|container| container.name == names::CONTAINER));
    let state = container.and_then(|container| container.state.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.clone());
    let ended = state.and_then(|state| {
        let ended = state.terminated.as_ref()?;
        Some(format!(
            "{} (exit code {})",
            ended.reason.as_deref().unwrap_or("ended"),
            ended.exit_code
        ))
    });
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let mut conditions = conditions.filter(|condition| condition.status == "True");
    let ready = conditions.find(|condition| condition.type_ == "Ready");
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
        running: state.is_some_and(|state| state.running.is_some()),
        trouble: waiting.or(ended),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ip: status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        worker: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        inputs: pod.annotations().get(names::INPUTS).cloned().unwrap_or_default(),
        config_map: config_map.map(|map| map.name.clone()).unwrap_or_default(),
        volume: claim.map(|claim| claim.claim_name.clone()).unwrap_or_default(),
        node: NodeSeen::Unasked,
    }
}
