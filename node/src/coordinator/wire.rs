//! A client request and its answer as one node hands them to another (postcard bodies).
//!
//! The deadline travels in the frame's head as time left, so that clocks need not agree.

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Level, Shortage};
use kvasir_core::version::{Life, SiblingSet};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::request::{
    Acks, CoordinateError, DeleteOutcome, DeleteRequest, Durability, GetOutcome, GetRequest,
    PutOutcome, PutRequest, Showing,
};

/// What a node that owns nothing of a key asks of one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    bucket: Bytes,
    key: Bytes,
    token: Option<String>,
    level: Option<String>,
    sloppy: Option<bool>,
    durability: Option<Durability>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    Get,
    Put { value: Bytes, content_type: Option<String>, life: Option<Life>, return_set: bool },
    Delete,
}

/// A client request again, with the deadline of the frame that carried it.
pub enum Ask {
    /// A read.
    Get(GetRequest),
    /// A put.
    Put(PutRequest),
    /// A delete.
    Delete(DeleteRequest),
}

fn text(level: Option<Level>) -> Option<String> {
    level.map(|l| l.to_string())
}

impl Order {
    /// A read to hand over.
    pub fn get(request: &GetRequest) -> Self {
        Self {
            bucket: request.bucket.clone(),
            key: request.key.clone(),
            token: None,
            level: text(request.r),
            sloppy: request.sloppy,
            durability: None,
            what: What::Get,
        }
    }

    /// A put to hand over.
    pub fn put(request: &PutRequest) -> Self {
        Self {
            bucket: request.bucket.clone(),
            key: request.key.clone(),
            token: request.token.clone(),
            level: text(request.w),
            sloppy: request.sloppy,
            durability: request.durability,
            what: What::Put {
                value: request.value.clone(),
                content_type: request.content_type.clone(),
                life: request.life,
                return_set: request.return_set,
            },
        }
    }

    /// A delete to hand over.
    pub fn delete(request: &DeleteRequest) -> Self {
        Self {
            bucket: request.bucket.clone(),
            key: request.key.clone(),
            token: request.token.clone(),
            level: text(request.w),
            sloppy: request.sloppy,
            durability: request.durability,
            what: What::Delete,
        }
    }

    /// The bucket asked about.
    pub fn bucket(&self) -> &[u8] {
        &self.bucket
    }

    /// The key asked about.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The client request in it.
    ///
    /// # Errors
    /// The level is not one that this version knows.
    pub fn ask(self, deadline: Instant) -> Result<Ask, kvasir_core::quorum::LevelError> {
        let level: Option<Level> = self.level.map(|l| l.parse()).transpose()?;
        let Self { bucket, key, token, sloppy, durability, .. } = self;
        Ok(match self.what {
            What::Get => Ask::Get(GetRequest { bucket, key, r: level, sloppy, deadline }),
            What::Put { value, content_type, life, return_set } => Ask::Put(PutRequest {
                bucket,
                key,
                value,
                content_type,
                token,
                w: level,
                life,
                sloppy,
                durability,
                return_set,
                deadline,
            }),
            What::Delete => Ask::Delete(DeleteRequest {
                bucket,
                key,
                token,
                w: level,
                sloppy,
                durability,
                deadline,
            }),
        })
    }
}

/// What the owner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a read.
    Get(Found),
    /// To a put.
    Put(Stored),
    /// To a delete.
    Delete(Stored),
    /// It failed there.
    Error(Failed),
}

/// A read's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    set: Bytes,
    last_write_wins: bool,
    token: Option<String>,
    agreed: u32,
    replicas: u32,
    now_ms: u64,
}

/// A write's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    token: String,
    owners: Vec<NodeId>,
    standins: Vec<NodeId>,
    durability: Durability,
    returned: Option<Found>,
}

/// A failure, with what the other node's answer to its own client would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failed {
    /// See [`CoordinateError::QuorumNotReached`]: acks, required, may be stored.
    Quorum(u32, u32, bool),
    /// See [`CoordinateError::Deadline`]: acks, required, may be stored.
    Deadline(u32, u32, bool),
    /// See [`CoordinateError::Overloaded`].
    Overloaded(u64),
    /// See [`CoordinateError::BadToken`].
    BadToken(String),
    /// See [`CoordinateError::ContextRefused`].
    ContextRefused(String),
    /// See [`CoordinateError::Level`].
    Level(LevelFailed),
    /// See [`CoordinateError::TooManySiblings`]: siblings, limit.
    TooManySiblings(u64, u64),
    /// See [`CoordinateError::DiskFull`].
    DiskFull(bool),
    /// See [`CoordinateError::DiskFailed`].
    DiskFailed(String, bool),
    /// See [`CoordinateError::NotFormed`].
    NotFormed,
    /// See [`CoordinateError::NotServing`], or the node owns nothing of the key either.
    NotServing(String),
    /// See [`CoordinateError::StandInsFull`].
    StandInsFull,
    /// As [`Self::Quorum`], with the data centers in which too few answered.
    QuorumIn(u32, u32, bool, Vec<Shortage>),
    /// As [`Self::Deadline`], with the data centers in which too few answered.
    DeadlineIn(u32, u32, bool, Vec<Shortage>),
    /// See [`CoordinateError::Moved`]: the epoch.
    Moved(u64),
}

/// The levels that cannot be met, as far as a client can cause them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LevelFailed {
    /// Asked for, replicas.
    MoreThanReplicas(u32, u32),
    /// Level, data center.
    NoLocalReplica(String, String),
    /// Anything else, in words.
    Other(String),
}

impl Failed {
    /// Whether another owner may do what this one could not; nothing was applied here.
    pub fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Overloaded(_)
                | Self::DiskFull(false)
                | Self::DiskFailed(_, false)
                | Self::NotFormed
                | Self::NotServing(_)
                | Self::StandInsFull
                | Self::Moved(_)
        )
    }

    /// Whether it ran out of time, or out of nodes that it could reach: another owner may have more of both.
    pub fn is_short(&self) -> bool {
        matches!(
            self,
            Self::Quorum(..) | Self::QuorumIn(..) | Self::Deadline(..) | Self::DeadlineIn(..)
        )
    }
}

impl From<CoordinateError> for Failed {
    fn from(error: CoordinateError) -> Self {
        use CoordinateError as E;
        use kvasir_core::quorum::LevelError as L;
        match error {
            E::QuorumNotReached { acks, required, short, may_be_stored } => {
                match short.is_empty() {
                    true => Self::Quorum(acks, required, may_be_stored),
                    false => Self::QuorumIn(acks, required, may_be_stored, short),
                }
            }
            E::Deadline { acks, required, short, may_be_stored } => match short.is_empty() {
                true => Self::Deadline(acks, required, may_be_stored),
                false => Self::DeadlineIn(acks, required, may_be_stored, short),
            },
            E::Overloaded { retry_after_ms } => Self::Overloaded(retry_after_ms),
            // Lists are never handed over.
            E::BadToken { reason } | E::BadCursor { reason } => Self::BadToken(reason),
            E::ContextRefused { reason } => Self::ContextRefused(reason),
            E::Level(L::MoreThanReplicas { asked, replicas }) => {
                Self::Level(LevelFailed::MoreThanReplicas(asked, replicas))
            }
            E::Level(L::NoLocalReplica { level, datacenter }) => {
                Self::Level(LevelFailed::NoLocalReplica(level.to_string(), datacenter))
            }
            E::Level(other) => Self::Level(LevelFailed::Other(other.to_string())),
            E::TooManySiblings { siblings, limit } => {
                Self::TooManySiblings(siblings as u64, limit as u64)
            }
            E::DiskFull { may_be_stored } => Self::DiskFull(may_be_stored),
            E::StandInsFull => Self::StandInsFull,
            E::DiskFailed { reason, may_be_stored } => Self::DiskFailed(reason, may_be_stored),
            E::NotFormed => Self::NotFormed,
            E::NotServing { reason } => Self::NotServing(reason),
            E::Moved { epoch } => Self::Moved(epoch),
        }
    }
}

impl From<Failed> for CoordinateError {
    fn from(failed: Failed) -> Self {
        use kvasir_core::quorum::LevelError as L;
        match failed {
            Failed::Quorum(acks, required, may_be_stored) => {
                Self::QuorumNotReached { acks, required, short: Vec::new(), may_be_stored }
            }
            Failed::QuorumIn(acks, required, may_be_stored, short) => {
                Self::QuorumNotReached { acks, required, short, may_be_stored }
            }
            Failed::Deadline(acks, required, may_be_stored) => {
                Self::Deadline { acks, required, short: Vec::new(), may_be_stored }
            }
            Failed::DeadlineIn(acks, required, may_be_stored, short) => {
                Self::Deadline { acks, required, short, may_be_stored }
            }
            Failed::Overloaded(retry_after_ms) => Self::Overloaded { retry_after_ms },
            Failed::BadToken(reason) => Self::BadToken { reason },
            Failed::ContextRefused(reason) => Self::ContextRefused { reason },
            Failed::Level(LevelFailed::MoreThanReplicas(asked, replicas)) => {
                Self::Level(L::MoreThanReplicas { asked, replicas })
            }
            Failed::Level(LevelFailed::NoLocalReplica(level, datacenter)) => {
                let level = level.parse().unwrap_or(Level::LocalOne);
                Self::Level(L::NoLocalReplica { level, datacenter })
            }
            Failed::Level(LevelFailed::Other(text)) => Self::Level(L::Unparsable { text }),
            Failed::TooManySiblings(siblings, limit) => {
                Self::TooManySiblings { siblings: siblings as usize, limit: limit as usize }
            }
            Failed::DiskFull(may_be_stored) => Self::DiskFull { may_be_stored },
            Failed::StandInsFull => Self::StandInsFull,
            Failed::DiskFailed(reason, may_be_stored) => Self::DiskFailed { reason, may_be_stored },
            Failed::NotFormed => Self::NotFormed,
            Failed::NotServing(reason) => Self::NotServing { reason },
            Failed::Moved(epoch) => Self::Moved { epoch },
        }
    }
}

fn found(outcome: GetOutcome) -> Found {
    Found {
        set: outcome.set.encode().into(),
        last_write_wins: outcome.showing == Showing::LastWriteWins,
        token: outcome.token,
        agreed: outcome.agreed,
        replicas: outcome.replicas,
        now_ms: outcome.now_ms,
    }
}

fn stored(token: String, acks: Acks, returned: Option<GetOutcome>) -> Stored {
    Stored {
        token,
        owners: acks.owners,
        standins: acks.standins,
        durability: acks.durability,
        returned: returned.map(found),
    }
}

impl From<Result<GetOutcome, CoordinateError>> for Answer {
    fn from(outcome: Result<GetOutcome, CoordinateError>) -> Self {
        outcome.map_or_else(|e| Self::Error(e.into()), |o| Self::Get(found(o)))
    }
}

impl From<Result<PutOutcome, CoordinateError>> for Answer {
    fn from(outcome: Result<PutOutcome, CoordinateError>) -> Self {
        let put = |o: PutOutcome| Self::Put(stored(o.token, o.acks, o.returned));
        outcome.map_or_else(|e| Self::Error(e.into()), put)
    }
}

impl From<Result<DeleteOutcome, CoordinateError>> for Answer {
    fn from(outcome: Result<DeleteOutcome, CoordinateError>) -> Self {
        let delete = |o: DeleteOutcome| Self::Delete(stored(o.token, o.acks, None));
        outcome.map_or_else(|e| Self::Error(e.into()), delete)
    }
}

/// The other node answered something else than was asked: a bug there, so nothing is known.
pub fn mismatch(may_be_stored: bool) -> CoordinateError {
    CoordinateError::QuorumNotReached { acks: 0, required: 1, short: Vec::new(), may_be_stored }
}

/// A forwarded read's outcome.
///
/// # Errors
/// The set does not decode.
pub fn get_outcome(found: Found) -> Result<GetOutcome, CoordinateError> {
    let set = SiblingSet::decode(&found.set).map_err(|e| CoordinateError::NotServing {
        reason: format!("the owner's answer is unreadable: {e}"),
    })?;
    let showing = if found.last_write_wins { Showing::LastWriteWins } else { Showing::Siblings };
    Ok(GetOutcome {
        set,
        showing,
        token: found.token,
        agreed: found.agreed,
        replicas: found.replicas,
        now_ms: found.now_ms,
    })
}

fn acks(stored: &Stored) -> Acks {
    Acks {
        owners: stored.owners.clone(),
        standins: stored.standins.clone(),
        durability: stored.durability,
    }
}

/// A forwarded put's outcome.
///
/// # Errors
/// The returned set does not decode; the write itself reached its level.
pub fn put_outcome(stored: Stored) -> Result<PutOutcome, CoordinateError> {
    let acks = acks(&stored);
    // The write reached its level whatever the set looks like.
    let returned = stored.returned.map(get_outcome).transpose().map_err(|_| mismatch(true))?;
    Ok(PutOutcome { token: stored.token, acks, returned })
}

/// A forwarded delete's outcome.
pub fn delete_outcome(stored: Stored) -> DeleteOutcome {
    let acks = acks(&stored);
    DeleteOutcome { token: stored.token, acks }
}
