//! `GET /v1/status`: the cluster as one node sees it.
//!
//! The first thing in it answers "is my data safe now?" ([`Safety`]); the rest says why: the
//! document, the partitions, and one row per node that the document or gossip knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admin_api::{OperationStatus, PartitionHealth, Safety, SharedMachine};
use crate::gossip;
use crate::id::{ClusterId, NodeId};
use crate::quorum::Level;
use crate::ring::{BucketSettings, Durability, MemberState, Mode};

/// Answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Is my data safe now?
    pub safety: Safety,
    /// Who answers.
    pub answered_by: NodeId,
    /// Version of the program that answers.
    pub server_version: String,
    /// The cluster; none before it is formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// The partitions counted by what is up.
    pub partitions: PartitionHealth,
    /// Which copies share a machine; left out where each has one of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_machines: Vec<SharedMachine>,
    /// Every node of the document and every other that gossip knows, by id.
    pub nodes: Vec<NodeStatus>,
    /// Operations that are not over.
    #[serde(default)]
    pub operations: Vec<OperationStatus>,
}

/// What the document says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Never changes.
    pub cluster_id: ClusterId,
    /// For people.
    pub cluster_name: String,
    /// Number of the document that the answering node uses.
    pub epoch: u64,
    /// Its hash, hexadecimal.
    pub document_hash: String,
    /// Whether every member that is up uses this very document.
    pub settled: bool,
    /// Members in the document.
    pub members: u32,
    /// Members that are up (alive or suspect).
    pub members_up: u32,
    /// Copies in each data center.
    pub replication: BTreeMap<String, u32>,
    /// log2 of the number of partitions.
    pub partition_bits: u8,
    /// Settings of buckets without an entry.
    pub defaults: DefaultsStatus,
}

/// Settings of buckets without an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefaultsStatus {
    /// Read level.
    pub r: Level,
    /// Write level.
    pub w: Level,
    /// Whether stand-ins count.
    pub sloppy: bool,
    /// `memory`, `periodic`, `group` or `each`.
    pub durability: Durability,
    /// `siblings` or `lastWriteWins`.
    pub mode: Mode,
}

impl From<&BucketSettings> for DefaultsStatus {
    fn from(settings: &BucketSettings) -> Self {
        Self {
            r: settings.r,
            w: settings.w,
            sloppy: settings.sloppy,
            durability: settings.durability,
            mode: settings.mode,
        }
    }
}

/// What gossip says about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Liveness {
    /// Its heartbeats arrive.
    Alive,
    /// They are late; it still counts as up.
    Suspect,
    /// They stopped, or it said goodbye.
    Down,
    /// The document names it, but gossip never heard of it.
    Unheard,
}

impl From<gossip::Status> for Liveness {
    fn from(status: gossip::Status) -> Self {
        match status {
            gossip::Status::Alive => Self::Alive,
            gossip::Status::Suspect => Self::Suspect,
            gossip::Status::Down => Self::Down,
        }
    }
}

impl Liveness {
    /// Whether requests are sent there and its copies count as reachable.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its identity.
    pub id: NodeId,
    /// What gossip says.
    pub liveness: Liveness,
    /// Milliseconds since `liveness` changed; none for `unheard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Its state in the document; none when the document does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberState>,
    /// Where clients reach it (`host:port`); empty when unknown. So for the next two.
    pub http: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Where the admin API of this node is.
    pub admin: String,
    /// Physical machine.
    pub machine: String,
    /// Rack.
    pub rack: String,
    /// Zone.
    pub zone: String,
    /// Data center.
    pub datacenter: String,
    /// Share of the data it should hold, relative to the others.
    pub weight: u32,
    /// Partition replicas that it owns.
    pub partitions: u32,
    /// The same as a part of all partition replicas, 0 to 1.
    pub owned: f64,
    /// Epoch of the document that it uses, as far as it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Number of its present start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<u64>,
    /// The mark that it last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u64>,
    /// Suspicion, as the negative decimal logarithm of the chance that it is alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phi: Option<f64>,
    /// Version of its program; empty when unknown.
    pub version: String,
    /// Why it serves no data though it runs, if it said so: its copies count as missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_serving: Option<gossip::NotServing>,
    /// It keeps stand-in copies for others: it must not be removed before they were handed back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_copies: bool,
    /// What its store holds; the answering node knows only its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<NodeLoad>,
}

/// What a node's store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLoad {
    /// Bytes of its tables and log on disk.
    pub disk_bytes: u64,
    /// Bytes of writes in memory, not yet in a table.
    pub memory_bytes: u64,
    /// Free bytes on its volume, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Why writes are refused, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What its disk lost, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<DiskDamage>,
    /// What it keeps for owners that are or were down; left out where it keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<HandoffLoad>,
    /// How far it is with giving back the space of what was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<ReclaimLoad>,
    /// What it has taken on for clients, and how much of it there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureLoad>,
}

/// What a node has taken on for clients, and its bounds, all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PressureLoad {
    /// Client connections that are open.
    pub connections: u64,
    /// How many there may be.
    pub connections_max: u64,
    /// Requests of clients that are being answered; a batch counts as 16.
    pub requests: u64,
    /// How many there may be.
    pub requests_max: u64,
    /// Requests of clients that were refused since the start, before anything was done.
    pub requests_refused: u64,
    /// Bytes of request bodies that are held.
    pub body_bytes: u64,
    /// How many there may be.
    pub body_max_bytes: u64,
    /// Workers that are behind, and take on no further requests until they caught up.
    pub workers_behind: u64,
    /// How late the latest worker is.
    pub late_ms: u64,
    /// Files that the process may open, connections among them.
    pub descriptors_max: u64,
    /// Memory that its queues, buffers and caches may take together.
    pub memory_max_bytes: u64,
}

/// Reclaim of tombstones, as one node leads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReclaimLoad {
    /// The generation that the node reached.
    pub generation: u64,
    /// Tombstones that its last pass saw in the partitions whose turn it led.
    pub tombstones: u64,
    /// Keys of which all owners confirmed what may go, tombstones or rows, and that wait for the generations to
    /// pass.
    pub waiting: u64,
    /// Tombstones that it erased since it started.
    pub erased: u64,
    /// Rows that it dropped from causal contexts since it started: of writers that ended long ago.
    #[serde(default)]
    pub folded_rows: u64,
    /// Members without whose word nothing more is erased. Empty while all goes on.
    pub held_up_by: Vec<HeldUp>,
}

/// A member that holds reclaim up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldUp {
    /// Which.
    pub node: NodeId,
    /// `unheard`, `generation` (it does not go on), `copies` (it keeps stand-in copies), `document`.
    pub why: String,
}

/// Damaged files that a node met. Reads of a lost range are answered by the other copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDamage {
    /// Tables set aside since the node started; their reports are in `quarantine` beside its data.
    pub quarantined_tables: u64,
    /// Damaged tables that are still in use because they could not be set aside yet.
    pub damaged_tables: u64,
    /// Key ranges of which this copy may lack changes. Kept over restarts.
    pub lost_ranges: u64,
}

/// What a node keeps for others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoffLoad {
    /// Stand-in copies: counted writes whose owners do not all have them yet.
    pub stand_in_copies: u64,
    /// Their bytes.
    pub stand_in_bytes: u64,
    /// Notes that an owner missed a write which others have.
    pub hints: u64,
    /// Their bytes.
    pub hint_bytes: u64,
    /// Why what an earlier start left could not be counted, if so: until it is, this node stands in for
    /// nobody and hands nothing back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Status {
    /// The first line of `kvasir status`: name, verdict and sentence.
    pub fn headline(&self) -> String {
        let word = self.safety.verdict.word();
        match &self.cluster {
            Some(cluster) => format!("{}  {word}  {}", cluster.cluster_name, self.safety.sentence),
            None => format!("{word}  {}", self.safety.sentence),
        }
    }

    /// The second line: nodes, n/r/w, ring, operations. None before the cluster is formed.
    pub fn summary(&self) -> Option<String> {
        let cluster = self.cluster.as_ref()?;
        let copies = match cluster.replication.len() {
            1 => cluster.replication.values().sum::<u32>().to_string(),
            _ => cluster
                .replication
                .iter()
                .map(|(name, copies)| format!("{name}:{copies}"))
                .collect::<Vec<_>>()
                .join("+"),
        };
        let settled = if cluster.settled { "settled" } else { "spreading" };
        Some(format!(
            "nodes {} ({} up)   n/r/w {copies}/{}/{}   ring epoch {} {settled}   partitions {} \
             ({} under-replicated, {} without quorum, {} moving)",
            cluster.members,
            cluster.members_up,
            cluster.defaults.r,
            cluster.defaults.w,
            cluster.epoch,
            self.partitions.total,
            self.partitions.under_replicated,
            self.partitions.no_quorum,
            self.partitions.moving,
        ))
    }
}
