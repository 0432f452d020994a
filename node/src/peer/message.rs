//! What nodes ask of each other and answer: postcard bodies of request, reply and notice frames.
//!
//! Protocols whose messages belong to a core (gossip, ballots, the cluster document) or to the
//! coordinator travel as bytes that their rooms encode: this room needs to know none of them. The
//! order of variants is the format: new ones go to the end, none is ever removed or moved while a
//! protocol version that knows it is spoken (DESIGN section 9).

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use kvasir_core::list::Place;
use kvasir_core::ring::check::MAX_REPLICATION;
use kvasir_core::ring::{Durability, Partition};
use kvasir_core::version::{Dot, Stamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::frame::Class;
use crate::pressure::Work;

/// Something asked of another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A gossip message (`kvasir_core::gossip`). Sent as a notice; answered by notices.
    Gossip(Bytes),
    /// A message of the ballots by which members accept the next cluster document.
    Ballot(Bytes),
    /// Send the newest cluster document if its epoch is above this one.
    FetchDocument {
        /// The newest epoch that the sender holds; 0 when it holds none.
        have_epoch: u64,
    },
    /// Merge this set into the record of the key.
    Apply {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
        /// A canonical encoded set.
        delta: Bytes,
        /// What the acknowledgement promises.
        durability: Durability,
    },
    /// Send the set of the key.
    Read {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
    },
    /// Send the digest of the set of the key.
    ReadDigest {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
    },
    /// Coordinate a client's request, which the coordinator room encoded.
    Coordinate(Bytes),
    /// Merge this set into the stand-in copy of the key, in the place of an owner that is down.
    StandIn {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
        /// A canonical encoded set.
        delta: Bytes,
        /// What the acknowledgement promises.
        durability: Durability,
    },
    /// Send the set of the stand-in copy of the key.
    ReadStandIn {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
    },
    /// Coordinate a client's request though no owner: none of them is reachable.
    CoordinateAsStandIn(Bytes),
    /// Merge what was kept for this owner into the record of the key, durably.
    HandBack {
        /// The bucket, 1 to 255 bytes.
        bucket: Bytes,
        /// The key, 1 to 4,096 bytes.
        key: Bytes,
        /// A canonical encoded set.
        set: Bytes,
    },
    /// Send what is held of a bucket in a partition, from a place on.
    Scan(Scan),
    /// A question of anti-entropy (`kvasir_core::merkle`).
    Repair(Bytes),
    /// A message of reclaim between owners of one partition (`kvasir_core::reclaim`).
    Reclaim(Bytes),
    /// Give a piece of your copy of a partition that moves to the asker, from a key on.
    CopyRange {
        /// Which partition.
        partition: Partition,
        /// The epoch in which the asker's tenure began.
        since: u64,
        /// Encoded table key to go on at; none for the beginning.
        from: Option<Bytes>,
    },
    /// Say what you did for the moves of partitions.
    MoveReport,
    /// As [`Request::Apply`], and have other owners do so too: the write comes from another data center.
    Relay(Relay),
}

/// A write for all owners in a data center, sent to one of them. The frame's route and stamp are for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// The key, 1 to 4,096 bytes.
    pub key: Bytes,
    /// A canonical encoded set.
    pub delta: Bytes,
    /// What each acknowledgement promises.
    pub durability: Durability,
    /// The other owners, at most [`RELAY_MAX`].
    pub others: Vec<NodeId>,
    /// Answer as soon as a majority of the data center stored it; otherwise wait a little for the others.
    pub soon: bool,
}

/// Most owners that a write is passed on to: both of each slot of a data center.
pub const RELAY_MAX: usize = 2 * MAX_REPLICATION as usize;

/// What became of a passed-on write at one owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// As [`Reply::Applied`].
    Stored,
    /// As [`Reply::Outranked`].
    Outranked {
        /// The siblings, highest first.
        dots: Vec<Dot>,
        /// The highest stamp among them.
        stamp: Stamp,
    },
    /// As [`Reply::Refused`].
    Refused(Refusal),
}

/// What a list asks of one replica. The frame's route names the partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// What its keys begin with, at most 4,096 bytes; may be empty.
    pub prefix: Bytes,
    /// Where to begin.
    pub from: Place,
    /// Whether whole sets are wanted; otherwise their shapes.
    pub values: bool,
    /// Whether what is kept for others is asked for; otherwise what is owned.
    pub stand_in: bool,
    /// Most rows, at least one.
    pub rows: u32,
    /// Bytes of rows after which no further one is sent.
    pub bytes: u32,
}

/// What one replica holds from a place on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scanned {
    /// Keys by rising place, each with its canonical encoded set or shape.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Where to go on; none at the end of the partition.
    pub next: Option<Place>,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The answer to [`Request::Ballot`], or to gossip that was sent as a request.
    Message(Bytes),
    /// The newest cluster document as canonical JSON; none when the asker's is as new.
    Document(Option<Bytes>),
    /// The set was merged and is as durable as was asked for.
    Applied,
    /// The set of the key, canonical; an empty set where nothing is stored.
    Set(Bytes),
    /// The digest of the set of the key; none where nothing is stored.
    Digest(Option<[u8; 16]>),
    /// The outcome of [`Request::Coordinate`], encoded by the coordinator room.
    Coordinated(Bytes),
    /// It was not done, or nobody can say. See the variant.
    Refused(Refusal),
    /// What was handed back is stored and synced.
    HandedBack {
        /// How long to wait before handing back more.
        pause_ms: u64,
    },
    /// The answer to [`Request::Scan`].
    Scanned(Scanned),
    /// What [`Request::Apply`] or [`Request::StandIn`] brought is stored as it asked, and siblings that it
    /// does not cover stand above it there: where the last write wins, it is not what a read shows.
    Outranked {
        /// The siblings, highest first.
        dots: Vec<Dot>,
        /// The highest stamp among them.
        stamp: Stamp,
    },
    /// The answer to [`Request::Repair`].
    Repair(Bytes),
    /// A piece of a partition's copy.
    Piece {
        /// Encoded table keys with their sets, in key order.
        entries: Vec<(Bytes, Bytes)>,
        /// Where the next piece begins; none behind the last.
        next: Option<Bytes>,
        /// Over both, from where the entries were read (`kvasir_core::ring::piece`).
        checksum: u64,
        /// How long to wait before asking for more.
        pause_ms: u64,
    },
    /// The answer to [`Request::MoveReport`] (`kvasir_core::ring::driver::Report`).
    MoveReport(Bytes),
    /// The answer to [`Request::Relay`]: what became of it at each owner that has answered, the one that was
    /// asked too.
    Relayed(Vec<(NodeId, Told)>),
}

/// Why a node did not do what was asked. Nothing was applied, except where the variant says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The frame names an entry of the table that is not the newest. A retry with the newer
    /// document helps.
    #[error("the request names a stale partition entry; the newest document has epoch {epoch}")]
    StaleEntry {
        /// Epoch of the newest document here.
        epoch: u64,
        /// That document as canonical JSON, unless it is large: then fetch it.
        document: Option<Bytes>,
    },
    /// The frame names a newer document than is held here. A retry helps once it was fetched.
    #[error("the request names a newer document than this node's epoch {epoch}")]
    BehindSender {
        /// Epoch of the newest document here.
        epoch: u64,
    },
    /// The newest document does not name this node for the partition. Ask an owner.
    #[error("this node owns no copy of the key (document epoch {epoch})")]
    NotOwner {
        /// Epoch of the newest document here.
        epoch: u64,
    },
    /// Too much is in flight. A retry after the pause helps.
    #[error("too much is in flight, retry after {retry_after_ms} ms")]
    Overloaded {
        /// Suggested pause in milliseconds.
        retry_after_ms: u64,
    },
    /// The deadline had passed before the work began.
    #[error("the deadline passed before the work began")]
    Deadline,
    /// The context names a write that this node never made.
    #[error("{0}")]
    ContextRefused(String),
    /// The request does not decode or breaks a bound. A retry does not help.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// The node draws to an end, or serves nothing yet. Another node can.
    #[error("the node does not serve now: {0}")]
    NotServing(String),
    /// The disk takes no more writes. A retry helps once there is room.
    #[error("the disk is full")]
    DiskFull,
    /// The disk failed before anything was written. Another node can serve.
    #[error("the disk failed: {0}")]
    WriteFailed(String),
    /// The record could not be read. Another node can serve.
    #[error("the read failed: {0}")]
    ReadFailed(String),
    /// The answer is longer than a frame may be. A retry does not help.
    #[error("the answer has {bytes} bytes, more than a frame may carry")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// The work began and its outcome is not known: it may be applied.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The node keeps as many stand-in copies as it may. Another may stand in.
    #[error("the node keeps as many stand-in copies as it may")]
    StandInsFull,
    /// What the request carries was read or minted too long ago. Reading the store again helps.
    #[error("the data is stamped too old; this node is at generation {generation}")]
    OldGeneration {
        /// That of the node; 0 when it has none yet.
        generation: u64,
    },
    /// The newest document does not list the sender. Nothing helps until it does.
    #[error("the sender is no member as of epoch {epoch}")]
    NotListed {
        /// Epoch of the newest document here.
        epoch: u64,
    },
}

impl Refusal {
    /// Whether nothing was applied for sure.
    pub fn not_applied(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// A body is not what its frame says it is. The connection may go on: framing is intact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The bytes do not decode.
    #[error("undecodable body: {0}")]
    Undecodable(String),
    /// Bytes are left over behind the value.
    #[error("{0} bytes behind the end of the body")]
    Trailing(usize),
    /// A bucket or key is empty or too long.
    #[error("{what} of {bytes} bytes; it has 1 to {limit}")]
    OutOfBounds {
        /// What breaks its bound.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Its limit.
        limit: usize,
    },
}

impl Request {
    /// Which connection it travels on: what keeps the cluster together never queues behind data, and
    /// requests of clients never behind copies that move.
    pub fn class(&self) -> Class {
        match self {
            Self::Gossip(_) | Self::Ballot(_) | Self::FetchDocument { .. } | Self::MoveReport => {
                Class::Control
            }
            Self::Apply { .. }
            | Self::Read { .. }
            | Self::ReadDigest { .. }
            | Self::Coordinate(_)
            | Self::StandIn { .. }
            | Self::ReadStandIn { .. }
            | Self::CoordinateAsStandIn(_)
            | Self::HandBack { .. }
            | Self::Scan(_)
            | Self::Repair(_)
            | Self::Relay(_)
            | Self::Reclaim(_) => Class::Data,
            Self::CopyRange { .. } => Class::Stream,
        }
    }

    /// Whose share of a worker it takes; none for what keeps the cluster together, which is never refused
    /// for want of room.
    pub fn work(&self) -> Option<Work> {
        match self {
            Self::HandBack { .. } => Some(Work::HandBack),
            Self::Repair(_) | Self::Reclaim(_) => Some(Work::Repair),
            Self::CopyRange { .. } => Some(Work::Stream),
            Self::Gossip(_) | Self::Ballot(_) | Self::FetchDocument { .. } | Self::MoveReport => {
                None
            }
            Self::Apply { .. }
            | Self::Read { .. }
            | Self::ReadDigest { .. }
            | Self::Coordinate(_)
            | Self::StandIn { .. }
            | Self::ReadStandIn { .. }
            | Self::CoordinateAsStandIn(_)
            | Self::Scan(_)
            | Self::Relay(_) => Some(Work::Replica),
        }
    }

    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gossip(_) => "gossip",
            Self::Ballot(_) => "ballot",
            Self::FetchDocument { .. } => "fetch_document",
            Self::Apply { .. } => "apply",
            Self::Read { .. } => "read",
            Self::ReadDigest { .. } => "read_digest",
            Self::Coordinate(_) => "coordinate",
            Self::StandIn { .. } => "stand_in",
            Self::ReadStandIn { .. } => "read_stand_in",
            Self::CoordinateAsStandIn(_) => "coordinate_as_stand_in",
            Self::HandBack { .. } => "hand_back",
            Self::Scan(_) => "scan",
            Self::Repair(_) => "repair",
            Self::Reclaim(_) => "reclaim",
            Self::CopyRange { .. } => "copy_range",
            Self::MoveReport => "move_report",
            Self::Relay(_) => "relay",
        }
    }

    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a body and checks the bounds of bucket and key.
    ///
    /// # Errors
    /// [`BodyError`]; nothing was changed.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let request: Self = decode(body)?;
        match &request {
            Self::Apply { bucket, key, .. }
            | Self::Read { bucket, key }
            | Self::ReadDigest { bucket, key }
            | Self::StandIn { bucket, key, .. }
            | Self::ReadStandIn { bucket, key }
            | Self::HandBack { bucket, key, .. } => {
                bounded("bucket", bucket, BUCKET_MAX_BYTES)?;
                bounded("key", key, KEY_MAX_BYTES)?;
            }
            Self::Scan(scan) => scan.check()?,
            Self::Relay(relay) => relay.check()?,
            Self::Gossip(_)
            | Self::Ballot(_)
            | Self::FetchDocument { .. }
            | Self::Coordinate(_)
            | Self::CopyRange { .. }
            | Self::MoveReport
            | Self::CoordinateAsStandIn(_)
            | Self::Repair(_)
            | Self::Reclaim(_) => {}
        }
        Ok(request)
    }
}

impl Reply {
    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Document(_) => "document",
            Self::Applied => "applied",
            Self::Set(_) => "set",
            Self::Digest(_) => "digest",
            Self::Coordinated(_) => "coordinated",
            Self::Refused(_) => "refused",
            Self::HandedBack { .. } => "handed_back",
            Self::Scanned(_) => "scanned",
            Self::Outranked { .. } => "outranked",
            Self::Repair(_) => "repair",
            Self::Piece { .. } => "piece",
            Self::MoveReport(_) => "move_report",
            Self::Relayed(_) => "relayed",
        }
    }

    /// The body of its frame.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BodyError`]; nothing was changed.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        decode(body)
    }
}

impl Scan {
    fn check(&self) -> Result<(), BodyError> {
        bounded("bucket", &self.bucket, BUCKET_MAX_BYTES)?;
        // Right behind the longest key is one byte more.
        for (what, bytes, limit) in [
            ("prefix", self.prefix.len(), KEY_MAX_BYTES),
            ("place", self.from.key.len(), KEY_MAX_BYTES + 1),
        ] {
            if bytes > limit {
                return Err(BodyError::OutOfBounds { what, bytes, limit });
            }
        }
        match self.rows {
            0 => Err(BodyError::OutOfBounds { what: "rows", bytes: 0, limit: u32::MAX as usize }),
            _ => Ok(()),
        }
    }
}

impl Relay {
    fn check(&self) -> Result<(), BodyError> {
        bounded("bucket", &self.bucket, BUCKET_MAX_BYTES)?;
        bounded("key", &self.key, KEY_MAX_BYTES)?;
        match self.others.len() {
            1..=RELAY_MAX => Ok(()),
            others => {
                Err(BodyError::OutOfBounds { what: "owners", bytes: others, limit: RELAY_MAX })
            }
        }
    }
}

fn bounded(what: &'static str, bytes: &Bytes, limit: usize) -> Result<(), BodyError> {
    if bytes.is_empty() || bytes.len() > limit {
        return Err(BodyError::OutOfBounds { what, bytes: bytes.len(), limit });
    }
    Ok(())
}

/// Encodes any plain message.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data of known lengths always encodes into a vector")
}

/// Decodes a plain message that fills `body` exactly.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(BodyError::Trailing(rest.len())),
        Err(error) => Err(BodyError::Undecodable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(bucket: &[u8], key: &[u8]) -> Request {
        Request::Apply {
            bucket: Bytes::copy_from_slice(bucket),
            key: Bytes::copy_from_slice(key),
            delta: Bytes::from_static(b"delta"),
            durability: Durability::Group,
        }
    }

    fn scan(prefix: usize, place: usize, rows: u32) -> Scan {
        Scan {
            bucket: Bytes::from_static(b"b"),
            prefix: vec![1; prefix].into(),
            from: Place::of(7, &vec![2; place]),
            values: true,
            stand_in: false,
            rows,
            bytes: 9,
        }
    }

    fn relay(others: usize) -> Request {
        Request::Relay(Relay {
            bucket: Bytes::from_static(b"b"),
            key: Bytes::from_static(b"k"),
            delta: Bytes::from_static(b"delta"),
            durability: Durability::Each,
            others: vec![NodeId::from_bytes([9; 16]); others],
            soon: true,
        })
    }

    #[test]
    fn bodies_round_trip() {
        for request in [
            apply(b"b", b"k"),
            Request::Gossip(Bytes::from_static(b"g")),
            Request::FetchDocument { have_epoch: u64::MAX },
            Request::Coordinate(Bytes::new()),
            Request::CoordinateAsStandIn(Bytes::new()),
            Request::Repair(Bytes::from_static(b"r")),
            Request::CopyRange { partition: Partition { k: 4, index: 3 }, since: 9, from: None },
            Request::MoveReport,
            Request::HandBack {
                bucket: Bytes::from_static(b"b"),
                key: Bytes::from_static(b"k"),
                set: Bytes::from_static(b"set"),
            },
            Request::Scan(scan(4_096, 4_097, 1)),
            relay(RELAY_MAX),
        ] {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for reply in [
            Reply::Applied,
            Reply::HandedBack { pause_ms: 7 },
            Reply::Scanned(Scanned {
                rows: vec![(Bytes::from_static(b"k"), Bytes::new())],
                next: Some(Place::START),
            }),
            Reply::Outranked {
                dots: vec![kvasir_core::version::Actor { tag: 1, serial: 2 }.dot(3)],
                stamp: Stamp(4),
            },
            Reply::Repair(Bytes::from_static(b"r")),
            Reply::Piece {
                entries: vec![(Bytes::from_static(b"key"), Bytes::from_static(b"set"))],
                next: Some(Bytes::from_static(b"next")),
                checksum: u64::MAX,
                pause_ms: 7,
            },
            Reply::Relayed(vec![
                (NodeId::from_bytes([1; 16]), Told::Stored),
                (NodeId::from_bytes([2; 16]), Told::Refused(Refusal::DiskFull)),
            ]),
            Reply::Refused(Refusal::StandInsFull),
            Reply::Digest(Some([7; 16])),
            Reply::Refused(Refusal::StaleEntry { epoch: 3, document: None }),
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn bounds_of_bucket_and_key_are_checked() {
        for (bucket, key, good) in [
            (1, 1, true),
            (BUCKET_MAX_BYTES, KEY_MAX_BYTES, true),
            (0, 1, false),
            (1, 0, false),
            (BUCKET_MAX_BYTES + 1, 1, false),
            (1, KEY_MAX_BYTES + 1, false),
        ] {
            let body = apply(&vec![1; bucket], &vec![2; key]).encode();
            assert_eq!(Request::decode(&body).is_ok(), good, "{bucket} {key}");
        }
        for bad in [scan(4_097, 0, 1), scan(0, 4_098, 1), scan(0, 0, 0)] {
            assert!(Request::decode(&Request::Scan(bad).encode()).is_err());
        }
        for bad in [relay(0), relay(RELAY_MAX + 1)] {
            assert!(Request::decode(&bad.encode()).is_err());
        }
        let mut body = Reply::Applied.encode();
        body.push(0);
        assert_eq!(Reply::decode(&body), Err(BodyError::Trailing(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::decode(&body) {
                prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            }
            let _ = Reply::decode(&body);
        }
    }
}
