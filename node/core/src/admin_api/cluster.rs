//! Forming the cluster and changing its document.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin_api::problem::{Problem, code};
use crate::quorum::Level;
use crate::ring::{BucketSettings, Document, DocumentHash, Durability, Mode, Sealed};

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
    pub durability: Option<Durability>,
    /// Whether stand-ins count when owners are down; built-in `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    /// Lifetime of a value in seconds, for writes that give none; built-in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// `siblings` or `lastWriteWins`; built-in `siblings`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

impl BucketDefaults {
    /// The settings with what is given here put over the built-in values.
    pub fn settings(&self) -> BucketSettings {
        let built_in = BucketSettings::default();
        BucketSettings {
            r: self.r.unwrap_or(built_in.r),
            w: self.w.unwrap_or(built_in.w),
            durability: self.durability.unwrap_or(built_in.durability),
            sloppy: self.sloppy.unwrap_or(built_in.sloppy),
            ttl: self.ttl.or(built_in.ttl),
            mode: self.mode.unwrap_or(built_in.mode),
        }
    }
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

impl DocumentPut {
    /// The parent's hash and the document; the problem is a 400 `malformed_body` that names what is
    /// wrong.
    pub fn parse(self) -> Result<(DocumentHash, Document), Problem> {
        let parent = self.parent_hash.parse().map_err(|why: &'static str| {
            Problem::new(code::MALFORMED_BODY, format!("`parentHash`: {why}"))
        })?;
        Ok((parent, read(self.document)?))
    }
}

impl DocumentAnswer {
    /// The answer with this document; its token secret only if `reveal`.
    pub fn of(sealed: &Sealed, reveal: bool) -> Self {
        let document: &Document = sealed;
        let document = serde_json::to_value(document)
            .expect("plain structs with string keys have a JSON form");
        let mut answer = Self { epoch: sealed.epoch, hash: sealed.hash().to_string(), document };
        if !reveal {
            answer.hide_secret();
        }
        answer
    }

    /// Leaves the token secret empty. What is left is for reading only: it is no document.
    pub fn hide_secret(&mut self) {
        if let Some(secret) = self.document.get_mut("tokenSecret") {
            *secret = Value::String(String::new());
        }
    }

    /// The document of the answer; the problem is a `malformed_body` that says what this version
    /// does not know.
    pub fn parse(self) -> Result<Document, Problem> {
        read(self.document)
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_json::from_value(value)
        .map_err(|error| Problem::new(code::MALFORMED_BODY, format!("`document`: {error}")))
}
