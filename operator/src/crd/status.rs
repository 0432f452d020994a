//! What the operator answers: counts, the ring, one row for each node, the journal of the one
//! operation that may run, and conditions.
//!
//! Conditions are the interface; `phase` is a word for people, made from them. Everything here is
//! computed from one observation of one generation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Types of conditions.
pub mod condition {
    /// Nodes wanted are there and serve, nothing is under way, nothing is wrong: what to wait for.
    pub const READY: &str = "Ready";
    /// All data can be read and written at the default levels.
    pub const AVAILABLE: &str = "Available";
    /// Something is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong, though it may still serve.
    pub const DEGRADED: &str = "Degraded";
    /// The cluster was formed. Set once, never taken back: such a cluster is never formed again.
    pub const INITIALIZED: &str = "Initialized";
    /// The spec can be carried out. False: nothing is changed until it is mended.
    pub const VALID: &str = "Valid";
    /// `spec.paused` is on.
    pub const PAUSED: &str = "Paused";
    /// Data is not where it should be yet: it moves, or some members own none though they could.
    pub const REBALANCE_PENDING: &str = "RebalancePending";
    /// All replicas were last compared with each other longer ago than the spec allows.
    pub const REPAIR_OVERDUE: &str = "RepairOverdue";
    /// Every type, in the order in which the status lists them.
    pub const ALL: [&str; 9] = [
        READY,
        AVAILABLE,
        PROGRESSING,
        DEGRADED,
        INITIALIZED,
        VALID,
        PAUSED,
        REBALANCE_PENDING,
        REPAIR_OVERDUE,
    ];
}

/// What is, as the operator last saw it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KVClusterStatus {
    /// The generation of the spec that all of this was computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people; programs read the conditions.
    #[schemars(length(max = 32))]
    #[serde(default)]
    pub phase: String,
    /// Pods that exist.
    #[serde(default)]
    pub nodes: i32,
    /// Pods that are ready and members of the ring.
    #[serde(default)]
    pub ready_nodes: i32,
    /// Pods that run what the spec asks for.
    #[serde(default)]
    pub updated_nodes: i32,
    /// Label selector of the pods, for the scale subresource.
    #[schemars(length(max = 256))]
    #[serde(default)]
    pub selector: String,
    /// Version of the program that all ready nodes run; the lowest where they differ.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub version: String,
    /// Identity of the cluster, from the moment it was formed.
    #[serde(rename = "clusterID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub cluster_id: Option<String>,
    /// The cluster document, as most nodes have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingStatus>,
    /// One row for each node, by node id.
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nodeID".into()]))]
    #[serde(default)]
    pub node_statuses: Vec<NodeStatus>,
    /// The one change of the topology that is under way, written before anything is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// When all replicas were compared last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairRecord>,
    /// What holds, with reasons.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// The cluster document in short.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RingStatus {
    /// Number of the document.
    pub epoch: i64,
    /// Its hash.
    #[schemars(length(max = 64))]
    pub hash: String,
    /// Members that it names.
    pub members: i32,
    /// Partitions that the ring is cut into.
    pub partitions: i32,
    /// Hash of the members, their machines and how much each owned after the last change that moved
    /// data to its end: only another one can call for a rebalance.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub balanced: String,
}

/// When all replicas were compared with each other last.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RepairRecord {
    /// Hash of the members and of how much each owned then: another one calls for a new repair.
    #[schemars(length(max = 16))]
    #[serde(default)]
    pub layout: String,
    /// When the last one came to its end, every pair of replicas compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// When one was given up since then; it is asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted_at: Option<Time>,
}

/// One node. Written when something in it changes; it holds nothing that changes by itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its identity: written on its volume.
    #[serde(rename = "nodeID")]
    #[schemars(length(max = 36))]
    pub node_id: String,
    /// Its pod; empty when no pod shows this identity.
    #[schemars(length(max = 63))]
    pub pod: String,
    /// UID of the pod.
    #[serde(rename = "podUID")]
    #[schemars(length(max = 64))]
    pub pod_uid: String,
    /// UID of the claim of its volume.
    #[serde(rename = "volumeUID")]
    #[schemars(length(max = 64))]
    pub volume_uid: String,
    /// Its rack.
    #[schemars(length(max = 63))]
    pub rack: String,
    /// The worker that the pod runs on.
    #[schemars(length(max = 253))]
    pub worker: String,
    /// The machine that the cluster document names for it; empty when it is no member.
    #[schemars(length(max = 253))]
    pub machine: String,
    /// What it is and how it is.
    pub state: NodeState,
    /// Since when its peers do not hear it; kept after a long absence until all that it has was
    /// compared with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_since: Option<Time>,
    /// Partition replicas that it owns.
    pub partitions: i32,
    /// Version of its program.
    #[schemars(length(max = 64))]
    pub version: String,
}

/// What a node is and how it is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// A member that its peers hear.
    Up,
    /// A member that its peers suspect.
    Suspect,
    /// A member that its peers do not hear.
    Down,
    /// Runs, but is no member.
    Outside,
}

/// The journal: what is being done to the topology. Identities, not names, say to whom.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Its id: that of the operation posted to the nodes, where one is posted.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// What is done.
    #[serde(rename = "type")]
    pub kind: OperationType,
    /// How far it is.
    pub step: OperationStep,
    /// The node that it is about; empty for Form.
    #[serde(rename = "nodeID", default)]
    #[schemars(length(max = 36))]
    pub node_id: String,
    /// Its pod.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub pod: String,
    /// UID of the pod when it began.
    #[serde(rename = "podUID", default)]
    #[schemars(length(max = 64))]
    pub pod_uid: String,
    /// Claim of its volume.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub volume: String,
    /// UID of the claim when it began.
    #[serde(rename = "volumeUID", default)]
    #[schemars(length(max = 64))]
    pub volume_uid: String,
    /// Relocate: the machine it runs on now.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub machine: String,
    /// Replace: the lost member whose copies are made anew on the node.
    #[serde(default)]
    #[schemars(length(max = 36))]
    pub replaces: String,
    /// No data moves. Join: others join right after it, and the last one takes the data of all in one
    /// go. Leave: the node has none.
    #[serde(default)]
    pub without_data: bool,
    /// Copies of partitions that it moves, once the nodes have planned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub moves_total: Option<i32>,
    /// Those of them that have their new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub moves_done: Option<i32>,
    /// Bytes of keys and values that went to new owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub moved_bytes: Option<i64>,
    /// Repair: hash of the members and of how much each owned when it began.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub layout: String,
    /// Repair: how much is compared, in hundredths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub progress_percent: Option<i32>,
    /// Why the nodes refused it for good; empty when they did not. Other work goes on meanwhile.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub refusal: String,
    /// Epoch of the document that it began on; 0 before there is one.
    #[serde(default)]
    pub base_epoch: i64,
    /// Epoch in which the document recorded it as done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_epoch: Option<i64>,
    /// When it began.
    pub started_at: Time,
}

impl Operation {
    /// How far it is, in words; empty where it moves nothing.
    pub fn moved(&self) -> String {
        let (Some(total), Some(done)) = (self.moves_total, self.moves_done) else {
            return String::new();
        };
        format!("{done} of {total} copies moved, {} bytes", self.moved_bytes.unwrap_or(0))
    }
}

impl Operation {
    /// A new operation about nothing yet.
    pub fn new(kind: OperationType, started_at: Time) -> Self {
        Self {
            id: String::new(),
            kind,
            step: OperationStep::Requested,
            node_id: String::new(),
            pod: String::new(),
            pod_uid: String::new(),
            volume: String::new(),
            volume_uid: String::new(),
            machine: String::new(),
            replaces: String::new(),
            without_data: false,
            moves_total: None,
            moves_done: None,
            moved_bytes: None,
            layout: String::new(),
            progress_percent: None,
            refusal: String::new(),
            base_epoch: 0,
            done_epoch: None,
            started_at,
        }
    }
}

/// What is done.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationType {
    /// The cluster is formed.
    Form,
    /// A node becomes a member and is given its share.
    Join,
    /// A member gives all that it owns to the others and leaves, then its pod goes.
    Leave,
    /// The copies of a member that is lost are made anew on the node that has its pod now.
    Replace,
    /// Every member is given its share again.
    Rebalance,
    /// A member runs on another worker, and the document is told.
    Relocate,
    /// A pod is replaced by one of the newest template.
    Restart,
    /// All replicas, or all that one node has, are compared with the others, and what differs is
    /// mended.
    Repair,
}

/// How far an operation is. Each step may be repeated.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStep {
    /// Written down; nothing may have been done yet.
    Requested,
    /// The nodes were asked; the document may or may not hold it.
    Posted,
    /// It is being taken back. What already depends on it goes on to its end.
    Cancelling,
    /// The document records its end and the nodes agree: `doneEpoch` says since when.
    Verified,
    /// Leave: the StatefulSet is being made smaller. Restart: the pod was told to go.
    Shrinking,
    /// Leave: the pod is gone, its volume is dealt with.
    Volume,
}
