//! What a client may ask of the coordinator, and what it can answer: plain data and one trait.
//!
//! The HTTP room (and later the Redis one) parses bytes into these structs and writes the outcomes
//! back; it decides nothing about replicas. The coordinator decides everything and knows no header.
//!
//! Three outcomes exist for a write: applied (`Ok`), not applied, and unknown. Every error says
//! which of the last two it is through [`CoordinateError::may_be_stored`].

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, LevelError, Shortage};
pub use kvasir_core::ring::Durability;
use kvasir_core::version::{Life, SiblingSet};
use tokio::time::Instant;

use super::list::{ListPage, ListRequest};

/// Read the siblings of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetRequest {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// The key, 1 to 4,096 bytes.
    pub key: Bytes,
    /// Replicas that must answer; the bucket's setting where absent.
    pub r: Option<Level>,
    /// Whether stand-ins may answer for owners that are down; the bucket's setting where absent.
    pub sloppy: Option<bool>,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// Store one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// The key, 1 to 4,096 bytes.
    pub key: Bytes,
    /// The value, at most the configured limit.
    pub value: Bytes,
    /// The value's content type as the client named it, if it did.
    pub content_type: Option<String>,
    /// The causal token of the client's last read or write, still encoded; absent = a blind write.
    pub token: Option<String>,
    /// Acknowledgements wanted; the bucket's setting where absent.
    pub w: Option<Level>,
    /// How long the value lives; the bucket's setting where absent.
    pub life: Option<Life>,
    /// Whether stand-ins count; the bucket's setting where absent.
    pub sloppy: Option<bool>,
    /// What an acknowledgement promises; the bucket's setting where absent.
    pub durability: Option<Durability>,
    /// Whether [`PutOutcome::returned`] is wanted.
    pub return_set: bool,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// Delete one key: what the token covers, or what a quorum read sees where there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// The key, 1 to 4,096 bytes.
    pub key: Bytes,
    /// The causal token of the client's last read or write, still encoded.
    pub token: Option<String>,
    /// Acknowledgements wanted; the bucket's setting where absent.
    pub w: Option<Level>,
    /// Whether stand-ins count; the bucket's setting where absent.
    pub sloppy: Option<bool>,
    /// What an acknowledgement promises; the bucket's setting where absent.
    pub durability: Option<Durability>,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// How siblings of the bucket are shown: the bucket's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// All live siblings; the client resolves them.
    Siblings,
    /// The one with the highest (stamp, dot), judged after it was chosen.
    LastWriteWins,
}

/// What a read found, merged over the replicas that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetOutcome {
    /// The merged set; empty where nothing was ever written.
    pub set: SiblingSet,
    /// How to show it.
    pub showing: Showing,
    /// The token that covers exactly this set; absent where nothing was ever written.
    pub token: Option<String>,
    /// Replicas that hold the merged set, those just repaired not counted.
    pub agreed: u32,
    /// Replicas of the key by the cluster document (N).
    pub replicas: u32,
    /// The coordinator's wall clock in Unix milliseconds, by which expiry is judged.
    pub now_ms: u64,
}

/// Who acknowledged a write, and what that promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    /// Owners that were counted.
    pub owners: Vec<NodeId>,
    /// Stand-ins that were counted.
    pub standins: Vec<NodeId>,
    /// The durability that every counted copy obeyed.
    pub durability: Durability,
}

/// A put that reached its level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The client's context plus the new dot.
    pub token: String,
    /// Who acknowledged.
    pub acks: Acks,
    /// The coordinator's set after the write, if [`PutRequest::return_set`]. Its token covers all
    /// of it, because the client is about to see all of it.
    pub returned: Option<GetOutcome>,
}

/// A delete that reached its level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// What was superseded plus the tombstone's dot.
    pub token: String,
    /// Who acknowledged.
    pub acks: Acks,
}

/// Why a request was not answered as asked. Nothing is applied and nothing left behind unless the
/// variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinateError {
    /// Too few replicas answered and no more can. A retry helps once nodes are back.
    #[error("{acks} of {required} required replicas answered{}", missing(.short))]
    QuorumNotReached {
        /// Replicas that did.
        acks: u32,
        /// Replicas that were needed.
        required: u32,
        /// Data centers that the level counts by themselves, where too few did.
        short: Vec<Shortage>,
        /// Whether the write may be stored somewhere and show up later. False for reads.
        may_be_stored: bool,
    },
    /// The deadline passed first. A retry with more time may help.
    #[error("the deadline passed with {acks} of {required} required replicas{}", missing(.short))]
    Deadline {
        /// Replicas that answered in time.
        acks: u32,
        /// Replicas that were needed.
        required: u32,
        /// Data centers that the level counts by themselves, where too few did.
        short: Vec<Shortage>,
        /// Whether the write may be stored somewhere and show up later. False for reads.
        may_be_stored: bool,
    },
    /// Refused early because too much is in flight. A retry after the pause helps.
    #[error("too much is in flight")]
    Overloaded {
        /// Suggested pause in milliseconds.
        retry_after_ms: u64,
    },
    /// The token does not decode, or belongs to another cluster or key. A retry does not help.
    #[error("{reason}")]
    BadToken {
        /// What is wrong with it.
        reason: String,
    },
    /// The cursor does not decode, or belongs to another cluster or list. A retry does not help.
    #[error("{reason}")]
    BadCursor {
        /// What is wrong with it.
        reason: String,
    },
    /// The token decodes, but names a write that this node never made. Reading again gives a good one.
    #[error("{reason}")]
    ContextRefused {
        /// Which row was refused.
        reason: String,
    },
    /// The level cannot be met by the replicas that the key has. A retry does not help.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The key already has as many siblings as clients may make. Resolving them helps.
    #[error("the key holds {siblings} siblings; the limit is {limit}")]
    TooManySiblings {
        /// How many it holds.
        siblings: usize,
        /// How many it may.
        limit: usize,
    },
    /// The disk of too many replicas is full. A retry helps once there is room.
    #[error("the disk is full")]
    DiskFull {
        /// Whether the write may be stored on replicas that had room.
        may_be_stored: bool,
    },
    /// Too few owners are up, and whoever could stand in keeps as many copies as it may. Nothing was
    /// applied. A retry helps once owners are back or others have room.
    #[error("a stand-in keeps as many copies as it may")]
    StandInsFull,
    /// A disk failed under this node. Another node can serve the request.
    #[error("the disk failed: {reason}")]
    DiskFailed {
        /// What failed.
        reason: String,
        /// Whether the write may be stored.
        may_be_stored: bool,
    },
    /// The cluster was not formed yet. A retry helps afterwards.
    #[error("the cluster is not formed yet")]
    NotFormed,
    /// The key changed hands before anything was done: other nodes coordinate it now. Nothing was applied.
    #[error("the key changed hands by the cluster document of epoch {epoch}")]
    Moved {
        /// The epoch of the document that says so.
        epoch: u64,
    },
    /// This node cannot serve: draining, retired, or behind the newest document. Another can.
    #[error("this node does not serve now: {reason}")]
    NotServing {
        /// Why.
        reason: String,
    },
}

/// Where acknowledgements are missing, in words.
fn missing(short: &[Shortage]) -> String {
    let one = |Shortage { datacenter, acks, required }: &Shortage| {
        format!("; data center {datacenter}: {acks} of {required}")
    };
    short.iter().map(one).collect()
}

impl CoordinateError {
    /// Whether a write that failed so may be stored and show up later.
    pub fn may_be_stored(&self) -> bool {
        match self {
            Self::QuorumNotReached { may_be_stored, .. }
            | Self::Deadline { may_be_stored, .. }
            | Self::DiskFull { may_be_stored }
            | Self::DiskFailed { may_be_stored, .. } => *may_be_stored,
            _ => false,
        }
    }
}

/// The life of one client request, as the client rooms see it. Every future ends by the deadline
/// of its request; dropping it (the client went away) leaves a write unknown, never half merged.
pub trait Coordinator {
    /// Reads one key.
    fn get(&self, request: GetRequest) -> LocalBoxFuture<'_, Result<GetOutcome, CoordinateError>>;
    /// Writes one key.
    fn put(&self, request: PutRequest) -> LocalBoxFuture<'_, Result<PutOutcome, CoordinateError>>;
    /// Deletes one key.
    fn delete(
        &self,
        request: DeleteRequest,
    ) -> LocalBoxFuture<'_, Result<DeleteOutcome, CoordinateError>>;
    /// Lists a page of a bucket's keys.
    fn list(&self, request: ListRequest) -> LocalBoxFuture<'_, Result<ListPage, CoordinateError>>;
}
