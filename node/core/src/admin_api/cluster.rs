//! Forming the cluster and changing its document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::quorum::Level;

/// `POST /v1/cluster/init`: form the cluster, once. Answered by [`DocumentAnswer`] of epoch 1.
///
/// The node that gets this draws the cluster id, the seed and the token secret, plans the first
/// table and has epoch 1 accepted by all nodes that it names; each must be blank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitRequest {
    /// Name of the cluster: 1 to 63 characters, for people only.
    pub cluster_name: String,
    /// Copies in each data center; fixed from then on.
    pub replication: BTreeMap<String, u32>,
    /// log2 of the number of partitions; without it, near 64 partition replicas per node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_bits: Option<u8>,
    /// The first members, by node id or by peer address (`host:port`), the answering node
    /// included.
    pub nodes: Vec<String>,
    /// Settings of buckets that have no entry of their own; what is left out has the built-in
    /// value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<BucketDefaults>,
}

/// Bucket settings as a request gives them: every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BucketDefaults {
    /// Read level; built-in `quorum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<Level>,
    /// Write level; built-in `quorum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<Level>,
    /// `memory`, `periodic`, `group` or `each`; built-in `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<String>,
    /// Whether stand-ins count when owners are down; built-in `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    /// Lifetime of a value in milliseconds; built-in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// `siblings` or `lww`; built-in `siblings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// `PUT /v1/cluster/document`: propose the next document. Answered by [`DocumentAnswer`] once a
/// majority accepted it; 409 `stale_parent` carries the newest one in the fact `newest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentPut {
    /// Hash of the document that this one follows (lower-case hexadecimal).
    pub parent_hash: String,
    /// The whole next document; its epoch is the parent's plus one.
    pub document: Value,
}

/// A chosen document. Answer of `GET` and `PUT /v1/cluster/document` and of `init`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentAnswer {
    /// Number of this version.
    pub epoch: u64,
    /// Hash of the whole document, secret included (lower-case hexadecimal): the `parentHash` of
    /// the next one.
    pub hash: String,
    /// The document. Its `tokenSecret` is left empty for callers without a bearer token on a
    /// listener that is not loopback; such a copy cannot be put back.
    pub document: Value,
}
