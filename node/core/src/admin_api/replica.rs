//! What one replica alone holds under a key, dots included: `GET /v1/replica/{bucket}/{key}`.
//!
//! No other node is asked and nothing is repaired: this is for tests and for `kvasir where`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::admin_api::PartitionName;
use crate::id::NodeId;
use crate::ring::Partition;
use crate::version::{Actor, Dot, Payload, Record, Sibling};

/// Answer of the replica read; 200 also when nothing is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRead {
    /// Who answers.
    pub node: NodeId,
    /// The partition of the key.
    pub partition: PartitionName,
    /// Hash of the key: 16 hexadecimal digits.
    pub key_hash: String,
    /// Whether this node owns the partition in its newest document.
    pub owner: bool,
    /// Whether a record is stored under the key, tombstones included.
    pub found: bool,
    /// Digest of the canonical set, hexadecimal; equal digests are equal sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The actor on which this node goes on counting for the key, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting: Option<ActorName>,
    /// The causal context without its holes: each actor with the count up to which all is covered.
    pub context: Vec<VersionRow>,
    /// Dots covered beyond those counts.
    pub cloud: Vec<DotName>,
    /// Every sibling, tombstones and expired ones included, in the order of their dots.
    pub siblings: Vec<ReplicaSibling>,
}

impl ReplicaRead {
    /// The answer of `node` for the key with this hash, of which it stores `record`.
    pub fn of(
        node: NodeId,
        (key_hash, partition): (u64, Partition),
        owner: bool,
        record: Option<&Record>,
    ) -> Self {
        let set = record.map(|record| &record.set);
        let context = set.map(|set| set.context());
        Self {
            node,
            partition: partition.into(),
            key_hash: format!("{key_hash:016x}"),
            owner,
            found: record.is_some(),
            digest: set.map(|set| set.digest().to_string()),
            counting: record.and_then(|record| record.counting).map(ActorName::from),
            context: context.map_or_else(Vec::new, |context| {
                let row = |(actor, count): (Actor, u64)| VersionRow { actor: actor.into(), count };
                context.vector().map(row).collect()
            }),
            cloud: context
                .map_or_else(Vec::new, |context| context.cloud().map(DotName::from).collect()),
            siblings: set.map_or_else(Vec::new, |set| {
                set.siblings().iter().map(|(dot, one)| ReplicaSibling::of(*dot, one)).collect()
            }),
        }
    }
}

impl ReplicaSibling {
    fn of(dot: Dot, sibling: &Sibling) -> Self {
        let (content_type, value) = match &sibling.payload {
            Payload::Tombstone => (None, None),
            Payload::Value { bytes, content_type } => (content_type.clone(), Some(bytes)),
        };
        Self {
            dot: dot.into(),
            written_ms: sibling.stamp.millis(),
            written_logical: sibling.stamp.0 as u16,
            tombstone: value.is_none(),
            expires_ms: sibling.expires_ms,
            content_type,
            value_base64: value.map(|bytes| STANDARD.encode(bytes)),
        }
    }
}

impl From<Actor> for ActorName {
    fn from(actor: Actor) -> Self {
        Self { tag: format!("{:016x}", actor.tag), serial: actor.serial }
    }
}

impl From<Dot> for DotName {
    fn from(dot: Dot) -> Self {
        Self { actor: dot.actor.into(), count: dot.count }
    }
}

/// Who mints dots: a start of a node and a serial within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorName {
    /// Drawn at every start of a node: 16 hexadecimal digits.
    pub tag: String,
    /// Rises within one start.
    pub serial: u64,
}

/// An actor and the count up to which a context covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionRow {
    /// The actor.
    pub actor: ActorName,
    /// All its dots from 1 to this one are covered.
    pub count: u64,
}

/// The name of one write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DotName {
    /// Who wrote.
    pub actor: ActorName,
    /// The how-manieth write of that actor under the key.
    pub count: u64,
}

/// One sibling as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSibling {
    /// Its dot.
    pub dot: DotName,
    /// Wall-clock part of its stamp: milliseconds since 1970.
    pub written_ms: u64,
    /// Logical part of its stamp.
    pub written_logical: u16,
    /// Whether it is a tombstone.
    pub tombstone: bool,
    /// Absolute expiry in milliseconds since 1970, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Media type of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The value in standard base64 with padding; none for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}
