//! What the planner may ask for. Each step is one write that `apply` carries out, and each may be
//! done again: a crash before, in or after it leaves a state that the next snapshot shows.
//!
//! Whatever takes something away names the UID of what it means, so that a newer thing of the same
//! name is never hit.

use std::time::Duration;

use kvasir_core::admin_api::{InitRequest, OperationRequest};
use serde_json::Value;

use crate::crd::KVClusterStatus;
use crate::snapshot::ObjectName;

/// The answer of the planner.
///
/// The controller writes `status` first where it differs from what is there, under the
/// resourceVersion of the snapshot: the journal in it is the lock, and a 409 ends the pass with
/// nothing done. Then it takes the steps in their order and stops at the first that fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// The whole status as it should stand.
    pub status: KVClusterStatus,
    /// When to look again, if nothing that is watched changes before.
    pub requeue: Duration,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Server-side apply of an object as rendered. Never makes a StatefulSet smaller.
    Apply(Box<Value>),
    /// Create the Secret with this name and labels, with an admin token drawn at random; if it is
    /// there already, it is left as it is.
    CreateToken(Box<Value>),
    /// Delete an object that is not wanted any more.
    Delete {
        /// Which.
        object: ObjectName,
        /// Only this very one.
        uid: String,
    },
    /// Ask the pod's node to form the cluster.
    Form {
        /// Which pod.
        pod: PodTarget,
        /// With whom.
        request: Box<InitRequest>,
    },
    /// Post an operation to the pod's node.
    Post {
        /// Which pod.
        pod: PodTarget,
        /// What.
        request: OperationRequest,
    },
    /// Ask the pod's node to take an operation back.
    Cancel {
        /// Which pod.
        pod: PodTarget,
        /// The operation.
        id: String,
    },
    /// Evict a pod: the PodDisruptionBudget may refuse.
    Evict(PodTarget),
    /// Delete a pod without asking the budget: only for one that does not run.
    DeletePod(PodTarget),
    /// Apply a StatefulSet with fewer replicas, if it is still the one that was seen and its
    /// highest pod is still this one or gone already.
    Shrink {
        /// The StatefulSet as rendered.
        object: Box<Value>,
        /// Its UID when it was seen.
        uid: String,
        /// Its version when it was seen.
        resource_version: String,
        /// The pod that goes; the only one.
        pod: PodTarget,
    },
    /// Ask for a larger volume. Only for a claim that is bound: the API server refuses others.
    GrowVolume {
        /// The claim.
        name: String,
        /// Only this very one.
        uid: String,
        /// The size, as the spec has it.
        size: String,
    },
    /// Let a claim be deleted together with the `KVCluster`, or not any more.
    OwnVolume {
        /// The claim.
        name: String,
        /// Only this very one.
        uid: String,
        /// Whether it goes with the `KVCluster`.
        owned: bool,
    },
    /// Delete the claim of a node that left.
    DeleteVolume {
        /// The claim.
        name: String,
        /// Only this very one.
        uid: String,
    },
}

/// A pod by name and identity, with where to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTarget {
    /// Its name.
    pub name: String,
    /// Only this very one.
    pub uid: String,
    /// Its address; empty where the step does not speak to it.
    pub ip: String,
}

impl Step {
    /// What it does, in words, for logs, events and conditions.
    pub fn words(&self) -> String {
        let name = |object: &Value| {
            let object = ObjectName::of(object);
            format!("{} {}", object.kind, object.name)
        };
        match self {
            Self::Apply(object) => format!("apply {}", name(object)),
            Self::CreateToken(object) => format!("create {}", name(object)),
            Self::Delete { object, .. } => format!("delete {} {}", object.kind, object.name),
            Self::Form { pod, .. } => format!("form the cluster through pod {}", pod.name),
            Self::Post { pod, request } => {
                format!("post operation {} through pod {}", request.id, pod.name)
            }
            Self::Cancel { pod, id } => {
                format!("take back operation {id} through pod {}", pod.name)
            }
            Self::Evict(pod) => format!("evict pod {}", pod.name),
            Self::DeletePod(pod) => format!("delete pod {}", pod.name),
            Self::Shrink { object, pod, .. } => format!("shrink {} by {}", name(object), pod.name),
            Self::GrowVolume { name, size, .. } => format!("grow volume {name} to {size}"),
            Self::OwnVolume { name, owned: true, .. } => format!("own volume {name}"),
            Self::OwnVolume { name, .. } => format!("disown volume {name}"),
            Self::DeleteVolume { name, .. } => format!("delete volume {name}"),
        }
    }

    /// The name of the kind of step: the label of metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::CreateToken(_) => "create_token",
            Self::Delete { .. } => "delete",
            Self::Form { .. } => "form",
            Self::Post { .. } => "post",
            Self::Cancel { .. } => "cancel",
            Self::Evict(_) => "evict",
            Self::DeletePod(_) => "delete_pod",
            Self::Shrink { .. } => "shrink",
            Self::GrowVolume { .. } => "grow_volume",
            Self::OwnVolume { .. } => "own_volume",
            Self::DeleteVolume { .. } => "delete_volume",
        }
    }

    /// Whether something is gone afterwards.
    pub fn takes_away(&self) -> bool {
        matches!(
            self,
            Self::Delete { .. }
                | Self::Evict(_)
                | Self::DeletePod(_)
                | Self::Shrink { .. }
                | Self::DeleteVolume { .. }
        )
    }
}
