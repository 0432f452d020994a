//! The life of one client request: plan, send, tally, answer.
//!
//! [`plan`] says who owns the key and what was asked for, [`fanout`] sends to owners and collects
//! what they say, and [`put`], [`get`] and [`delete`] read like the story. A node that owns nothing
//! of the key hands the whole request to one that does ([`forward`]); where none is reachable, a
//! stand-in coordinates (`seats` says who answers in the place of whom). A write goes to another data center
//! once ([`centers`]). [`list`] goes through the
//! partitions of the ring (`sweep` through one), [`batch`] does several requests side by side.
//!
//! Invariants: a write that was refused before it was minted is `not applied`; from the mint on,
//! anything but success is `unknown`. A read at a quorum level answers only when as many replicas as
//! it asked for hold what it returns.

pub mod batch;
pub mod centers;
pub mod delete;
pub mod fanout;
pub mod forward;
pub mod get;
pub mod hedge;
pub mod list;
pub mod plan;
pub mod put;
pub mod request;
mod seats;
mod sweep;
pub mod wire;

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
pub use hedge::{Figures, Learned};
use kvasir_core::id::NodeId;
use kvasir_storage::{ReadError, WriteError};
pub use list::{ListPage, ListRequest, ListedKey, PAGE_KEYS_MAX};
pub use request::{
    Acks, CoordinateError, Coordinator, DeleteOutcome, DeleteRequest, Durability, GetOutcome,
    GetRequest, PutOutcome, PutRequest, Showing,
};

use crate::peer::Peers;
use crate::planted::Planted;
use crate::replica::{LocalError, Replica, StandIns, Views};

/// A local failure before anything was applied.
impl From<LocalError> for CoordinateError {
    fn from(error: LocalError) -> Self {
        match error {
            LocalError::Read(ReadError::Overloaded) | LocalError::Write(WriteError::Overloaded) => {
                Self::Overloaded { retry_after_ms: 100 }
            }
            LocalError::Write(WriteError::Full(_)) => Self::DiskFull { may_be_stored: false },
            LocalError::Context(refused) => Self::ContextRefused { reason: refused.to_string() },
            LocalError::TooManySiblings { siblings, limit } => {
                Self::TooManySiblings { siblings, limit }
            }
            LocalError::StandInsFull => Self::StandInsFull,
            LocalError::NotCounted | LocalError::OldGeneration { .. } => {
                Self::NotServing { reason: error.to_string() }
            }
            LocalError::Write(error @ WriteError::Abandoned) => {
                Self::DiskFailed { reason: error.to_string(), may_be_stored: true }
            }
            other => Self::DiskFailed { reason: other.to_string(), may_be_stored: false },
        }
    }
}

/// The coordinator of one worker thread.
#[derive(Clone)]
pub struct Coordinate {
    /// The local side.
    pub replica: Arc<Replica>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// What is kept for others.
    pub standins: Arc<StandIns>,
    /// This worker's connections.
    pub peers: Rc<Peers>,
    /// How fast the others are.
    pub learned: Rc<Learned>,
    /// Has the document of an epoch fetched from a node that showed to know it; returns at once.
    pub fetch: Rc<dyn Fn(NodeId, u64)>,
    /// A mistake made on purpose; none but in tests.
    pub planted: Planted,
}

impl Coordinate {
    /// Coordinates on this node a request that another handed over, though it may own nothing of the key.
    pub async fn here(&self, ask: wire::Ask) -> wire::Answer {
        match ask {
            wire::Ask::Get(request) => get::here(self, request).await.into(),
            wire::Ask::Put(request) => put::here(self, request).await.into(),
            wire::Ask::Delete(request) => delete::here(self, request).await.into(),
        }
    }
}

impl Coordinator for Coordinate {
    fn get(&self, request: GetRequest) -> LocalBoxFuture<'_, Result<GetOutcome, CoordinateError>> {
        Box::pin(get::get(self, request))
    }

    fn put(&self, request: PutRequest) -> LocalBoxFuture<'_, Result<PutOutcome, CoordinateError>> {
        Box::pin(put::put(self, request))
    }

    fn delete(
        &self,
        request: DeleteRequest,
    ) -> LocalBoxFuture<'_, Result<DeleteOutcome, CoordinateError>> {
        Box::pin(delete::delete(self, request))
    }

    fn list(&self, request: ListRequest) -> LocalBoxFuture<'_, Result<ListPage, CoordinateError>> {
        Box::pin(async move { list::list(self, &request).await })
    }
}
