//! Who may talk to whom: the first frame of each side, and the last.
//!
//! The side that dialed says hello first. The other judges it and answers with its own hello, which
//! is judged in turn; whoever refuses sends a goodbye with a stable code and closes. Nothing else
//! is read from a stream before a good hello.
//!
//! Refused are: nodes of another cluster (a node that belongs to none yet may talk to any), no
//! protocol version in common, a node that carries this node's own id (a cloned volume: both would
//! mint and vote under one name), and bytes that are no hello. A node that dialed itself, by a seed
//! list that names it, is told so without an alarm: same id and same start. Data is also refused from
//! the one of two processes with one node id that gossip does not list, while the listed one is alive;
//! gossip and ballots have rules of their own for it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kvasir_core::id::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::frame::{self, Class, Frame, FrameKind, Header};
use super::message::{decode, encode};

/// Lowest protocol version spoken.
pub const PROTOCOL_MIN: u8 = 1;
/// Highest protocol version spoken.
pub const PROTOCOL_MAX: u8 = 1;
/// Longest hello or goodbye body that is read.
pub const HELLO_MAX_BYTES: usize = 1024;

/// What a node says about itself when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub protocol_min: u8,
    /// Highest protocol version it speaks.
    pub protocol_max: u8,
    /// Its cluster; nil while it belongs to none.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Random number drawn at this start: tells a node that dialed itself from a cloned volume.
    pub start: u64,
    /// Its boot number, fsynced and raised at every start.
    pub boot: u64,
    /// Epoch of its newest cluster document; 0 when it has none.
    pub epoch: u64,
    /// Hash of that document; zeroes when it has none.
    pub document_hash: [u8; 32],
    /// What the connection is for.
    pub class: Class,
    /// Version of its build, for people.
    pub version: String,
}

impl Hello {
    /// A node that belongs to no cluster yet.
    pub fn blank(node: NodeId, start: u64, boot: u64) -> Self {
        Self {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: ClusterId::nil(),
            node,
            start,
            boot,
            epoch: 0,
            document_hash: [0; 32],
            class: Class::Data,
            version: env!("CARGO_PKG_VERSION").to_string(),
        }
    }

    /// Judges what the other side said. The result is the protocol version to speak.
    ///
    /// # Errors
    /// The goodbye to send before closing.
    pub fn judge(&self, other: &Self) -> Result<u8, Goodbye> {
        let (low, high) =
            (self.protocol_min.max(other.protocol_min), self.protocol_max.min(other.protocol_max));
        if low > high {
            return Err(Goodbye::Protocol { min: self.protocol_min, max: self.protocol_max });
        }
        if other.node.is_nil() {
            return Err(Goodbye::Garbage);
        }
        if other.node == self.node {
            return Err(if other.start == self.start { Goodbye::Yourself } else { Goodbye::OwnId });
        }
        if self.is_foreign(other) {
            return Err(Goodbye::OtherCluster { cluster: self.cluster });
        }
        Ok(high)
    }

    /// Whether both belong to a cluster, and not to the same one.
    pub fn is_foreign(&self, other: &Self) -> bool {
        !self.cluster.is_nil() && !other.cluster.is_nil() && self.cluster != other.cluster
    }

    /// The frame that carries it on a connection of this class.
    pub fn frame(&self, class: Class) -> bytes::Bytes {
        let body = encode(&Self { class, ..self.clone() });
        frame::encode(&Header::plain(FrameKind::Hello, class), &body)
            .expect("a hello is far below the longest frame")
    }

    /// Reads the first frame of the other side.
    ///
    /// # Errors
    /// The goodbye that it sent instead, or [`Goodbye::Garbage`].
    pub fn parse(frame: &Frame) -> Result<Self, Goodbye> {
        if frame.body.len() > HELLO_MAX_BYTES {
            return Err(Goodbye::Garbage);
        }
        match frame.header.kind {
            FrameKind::Hello => match decode::<Self>(&frame.body) {
                Ok(hello) if hello.class == frame.header.class => Ok(hello),
                _ => Err(Goodbye::Garbage),
            },
            FrameKind::Goodbye => Err(Goodbye::parse(frame)),
            FrameKind::Request | FrameKind::Reply | FrameKind::Notice => Err(Goodbye::Garbage),
        }
    }
}

/// Why a connection ends. Nothing was applied because of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Goodbye {
    /// The other side belongs to another cluster. Check seeds and addresses.
    #[error("it belongs to another cluster, {cluster}")]
    OtherCluster {
        /// The cluster of whoever says goodbye.
        cluster: ClusterId,
    },
    /// No protocol version in common. Upgrade one side at a time, never over two versions.
    #[error("no common protocol version: it speaks {min} to {max}")]
    Protocol {
        /// Lowest version of whoever says goodbye.
        min: u8,
        /// Highest version of whoever says goodbye.
        max: u8,
    },
    /// Two live nodes carry one id: a volume was copied. Stop one and empty its volume.
    #[error("it carries the same node id: a volume was copied")]
    OwnId,
    /// The node dialed itself. Harmless.
    #[error("it is this node itself")]
    Yourself,
    /// The first bytes are no hello, or came too late.
    #[error("the connection did not begin with a hello")]
    Garbage,
    /// Bytes that are no frame came in the middle of a connection.
    #[error("framing was lost")]
    FramingLost,
    /// Too many connections. A retry later helps.
    #[error("it has too many connections")]
    Busy,
    /// The node draws to an end. Another node serves.
    #[error("it is shutting down")]
    Draining,
    /// Another node than the one that was wanted answers at this address.
    #[error("another node answers at this address")]
    OtherNode,
    /// A later start of the same node id is alive: a volume was copied. Data is taken from that one alone.
    #[error("another process that carries the same node id is alive: a volume was copied")]
    Twin,
}

impl Goodbye {
    /// Every stable code, in the order of [`Goodbye::number`].
    pub const CODES: [&'static str; 10] = [
        "other_cluster",
        "protocol_version",
        "own_id",
        "self",
        "garbage",
        "framing_lost",
        "busy",
        "draining",
        "other_node",
        "twin",
    ];

    /// Position in [`Goodbye::CODES`].
    pub fn number(&self) -> usize {
        match self {
            Self::OtherCluster { .. } => 0,
            Self::Protocol { .. } => 1,
            Self::OwnId => 2,
            Self::Yourself => 3,
            Self::Garbage => 4,
            Self::FramingLost => 5,
            Self::Busy => 6,
            Self::Draining => 7,
            Self::OtherNode => 8,
            Self::Twin => 9,
        }
    }

    /// A stable word for logs and metrics.
    pub fn code(&self) -> &'static str {
        Self::CODES[self.number()]
    }

    /// Whether a person has to do something about it.
    pub fn is_alarming(&self) -> bool {
        !matches!(self, Self::Yourself | Self::Busy | Self::Draining)
    }

    /// The frame that carries it.
    pub fn frame(&self, class: Class) -> bytes::Bytes {
        frame::encode(&Header::plain(FrameKind::Goodbye, class), &encode(self))
            .expect("a goodbye is far below the longest frame")
    }

    /// Reads a goodbye frame; one that does not decode is [`Goodbye::Garbage`].
    pub fn parse(frame: &Frame) -> Self {
        decode(&frame.body).unwrap_or(Self::Garbage)
    }
}

/// What this node says about itself now: one value shared by all workers, replaced when the node
/// joins a cluster or learns a newer document.
#[derive(Clone)]
pub struct Me(Arc<ArcSwap<Hello>>);

impl Me {
    /// Says this from now on.
    pub fn new(hello: Hello) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(hello)))
    }

    /// What is said now.
    pub fn hello(&self) -> Arc<Hello> {
        self.0.load_full()
    }

    /// The node's id, which never changes.
    pub fn node(&self) -> NodeId {
        self.0.load().node
    }

    /// Names cluster and document from now on. Connections that are open stay open, unless they
    /// turn out to lead into another cluster.
    pub fn set_document(&self, cluster: ClusterId, epoch: u64, document_hash: [u8; 32]) {
        self.0.rcu(|old| Hello { cluster, epoch, document_hash, ..(**old).clone() });
    }

    /// Whether a node that said this belongs to another cluster than this node does now.
    pub fn is_foreign(&self, other: &Hello) -> bool {
        self.0.load().is_foreign(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u8, start: u64, cluster: u8) -> Hello {
        let cluster = ClusterId::from_bytes([cluster; 16]);
        Hello { cluster, ..Hello::blank(NodeId::from_bytes([node; 16]), start, 1) }
    }

    #[test]
    fn judges_by_cluster_version_and_id() {
        let me = hello(1, 7, 9);
        assert_eq!(me.judge(&hello(2, 8, 9)), Ok(PROTOCOL_MAX));
        assert_eq!(me.judge(&hello(2, 8, 0)), Ok(PROTOCOL_MAX), "blank may join");
        assert_eq!(hello(1, 7, 0).judge(&hello(2, 8, 9)), Ok(PROTOCOL_MAX));
        assert_eq!(me.judge(&hello(2, 8, 8)), Err(Goodbye::OtherCluster { cluster: me.cluster }));
        assert_eq!(me.judge(&hello(1, 7, 9)), Err(Goodbye::Yourself));
        assert_eq!(me.judge(&hello(1, 8, 9)), Err(Goodbye::OwnId));
        assert_eq!(me.judge(&hello(0, 8, 9)), Err(Goodbye::Garbage));
        for (min, max) in [(PROTOCOL_MAX + 1, PROTOCOL_MAX + 1), (0, PROTOCOL_MIN - 1)] {
            let other = Hello { protocol_min: min, protocol_max: max, ..hello(2, 8, 9) };
            assert!(matches!(me.judge(&other), Err(Goodbye::Protocol { .. })));
        }
        let newer = Hello { protocol_max: PROTOCOL_MAX + 3, ..hello(2, 8, 9) };
        assert_eq!(me.judge(&newer), Ok(PROTOCOL_MAX));
    }

    #[test]
    fn travels_in_a_frame_and_codes_are_distinct() {
        let me = hello(1, 7, 9);
        let mut bytes = bytes::BytesMut::from(&me.frame(Class::Control)[..]);
        let frame = frame::take(&mut bytes).unwrap().unwrap();
        assert_eq!(Hello::parse(&frame), Ok(Hello { class: Class::Control, ..me }));
        let mut bytes = bytes::BytesMut::from(&Goodbye::OwnId.frame(Class::Data)[..]);
        let frame = frame::take(&mut bytes).unwrap().unwrap();
        assert_eq!(Hello::parse(&frame), Err(Goodbye::OwnId));
        let distinct: std::collections::BTreeSet<_> = Goodbye::CODES.into_iter().collect();
        assert_eq!(distinct.len(), Goodbye::CODES.len());
    }

    #[test]
    fn a_new_document_is_said_at_once() {
        let me = Me::new(Hello::blank(NodeId::from_bytes([1; 16]), 1, 1));
        assert!(!me.is_foreign(&hello(2, 2, 4)));
        me.set_document(ClusterId::from_bytes([3; 16]), 5, [6; 32]);
        assert_eq!((me.hello().epoch, me.hello().document_hash), (5, [6; 32]));
        assert!(me.is_foreign(&hello(2, 2, 4)));
    }
}
