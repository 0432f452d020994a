//! What the admin port asks of the node: one trait of plain data.
//!
//! The port parses, checks access and writes answers; the node decides. Whatever goes wrong is a
//! [`Problem`] with a code of [`kvasir_core::admin_api::problem::code`], which also is its status.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use kvasir_core::admin_api::{
    DocumentAnswer, DocumentPut, InitRequest, OperationPlan, OperationRequest, OperationStatus,
    PartitionHealth, Probe, Problem, ReclaimLoad, RepairRequest, RepairStatus, ReplicaRead, Status,
};
use kvasir_core::id::NodeId;
use kvasir_storage::StoreStats;

use super::OperationFigures;
use crate::coordinator;
use crate::http::stats::HttpStats;
use crate::peer::PeerStats;
use crate::pressure::{PressureStats, Work};
use crate::replica::{MoveFigures, Shelves};
use crate::tasks::RepairFigures;

/// An answer of the node, or the problem that the client gets instead. Boxed, because problems are
/// large and rare.
pub type Answered<T> = Result<T, Box<Problem>>;

/// The node as its admin port sees it. Probes and figures answer from memory at once; nothing here
/// may wait for the disk on the calling thread.
pub trait AdminBackend {
    /// Whether the process runs its loops; never depends on peers.
    fn livez(&self) -> Probe;
    /// Whether this node should get requests.
    fn readyz(&self) -> Probe;
    /// Whether the start is over.
    fn startupz(&self) -> Probe;
    /// Everything that is counted.
    fn figures(&self) -> Figures;
    /// The cluster as this node sees it.
    fn status(&self) -> LocalBoxFuture<'_, Answered<Status>>;
    /// The newest document, its token secret included; the port takes that out where the caller
    /// may not see it.
    fn document(&self) -> Answered<DocumentAnswer>;
    /// Proposes the next document and waits until it or another one is chosen.
    fn put_document(&self, put: DocumentPut) -> LocalBoxFuture<'_, Answered<DocumentAnswer>>;
    /// Forms the cluster.
    fn init(&self, request: InitRequest) -> LocalBoxFuture<'_, Answered<DocumentAnswer>>;
    /// Posts an operation; idempotent by id.
    fn post_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationStatus>>;
    /// What posting the operation would do. Nothing is changed.
    fn plan_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationPlan>>;
    /// How far an operation is.
    fn operation(&self, id: &str) -> Answered<OperationStatus>;
    /// How far anti-entropy is.
    fn repair_status(&self) -> RepairStatus;
    /// Starts, pauses or resumes anti-entropy.
    fn post_repair(&self, request: RepairRequest) -> Answered<RepairStatus>;
    /// Takes an operation back: what has not reached its second step is undone.
    fn cancel_operation(&self, id: String) -> LocalBoxFuture<'_, Answered<OperationStatus>>;
    /// What this replica alone holds under a key, without asking others and without repair.
    fn replica_read(&self, bucket: Bytes, key: Bytes) -> LocalBoxFuture<'_, Answered<ReplicaRead>>;
}

/// What the metrics page is made from.
#[derive(Debug, Clone)]
pub struct Figures {
    /// This node.
    pub node: NodeId,
    /// Version of the binary.
    pub version: String,
    /// Placement labels.
    pub rack: String,
    /// Placement labels.
    pub zone: String,
    /// Placement labels.
    pub datacenter: String,
    /// The client port, all workers together.
    pub http: Arc<HttpStats>,
    /// What workers take on and refuse, all together.
    pub pressure: Arc<PressureStats>,
    /// How much that may be.
    pub bounds: Bounds,
    /// Traffic between nodes, all workers together.
    pub peers: Arc<PeerStats>,
    /// The engine.
    pub store: StoreStats,
    /// What is kept for others.
    pub shelves: Arc<Shelves>,
    /// Anti-entropy and its tree.
    pub repair: RepairFigures,
    /// Copies of partitions that move.
    pub moves: MoveFigures,
    /// Operations, and this node's rebuild.
    pub operations: OperationFigures,
    /// How far reclaim is.
    pub reclaim: ReclaimLoad,
    /// Batches of reclaim that came to nothing.
    pub reclaim_void: u64,
    /// What the coordinators counted.
    pub coordination: Arc<coordinator::Figures>,
    /// Stamps heard that were too far ahead of this node's clock to be followed.
    pub stamps_ahead: u64,
    /// By how many milliseconds the stamps that this node gives out are ahead of its clock.
    pub stamps_lead_ms: u64,
    /// Whether the engine gave up after a failed sync.
    pub store_failed: bool,
    /// Why the node serves no data, as one of [`Unfit::CODES`].
    ///
    /// [`Unfit::CODES`]: crate::tasks::Unfit::CODES
    pub unfit: Option<&'static str>,
    /// Bytes free on the volume, where known.
    pub disk_free_bytes: Option<u64>,
    /// Members by what gossip thinks of them, this node included.
    pub members: MemberFigures,
    /// What gossip counted.
    pub gossip: GossipFigures,
    /// The cluster document.
    pub ring: RingFigures,
}

/// What the configuration bounds, for all workers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Client connections.
    pub connections: u64,
    /// Bytes of request bodies.
    pub body_bytes: u64,
    /// Pieces of work of each kind.
    pub work: [u64; Work::ALL.len()],
    /// Open files of the process, connections among them.
    pub descriptors: u64,
    /// Memory by what takes it, in bytes. What the allocator, the program itself and answers under way take
    /// comes on top.
    pub memory: [(&'static str, u64); 6],
}

impl Bounds {
    /// All parts of the memory together.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What gossip counted since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GossipFigures {
    /// Messages, refusals, changes, questions and alarms.
    pub counters: kvasir_core::gossip::Counters,
    /// How much the node doubts itself now.
    pub doubt: u32,
}

/// Members by liveness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberFigures {
    /// Alive.
    pub alive: u64,
    /// Suspected.
    pub suspect: u64,
    /// Down.
    pub down: u64,
}

/// The ring as this node sees it. All zero before the cluster is formed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RingFigures {
    /// Epoch of the newest document.
    pub epoch: u64,
    /// Members that it names.
    pub members: u64,
    /// Partition replicas that this node owns.
    pub owned_partitions: u64,
    /// This node's share of all partition replicas, 0 to 1.
    pub owned_ratio: f64,
    /// How the partitions are.
    pub partitions: PartitionHealth,
}
