//! Bucket settings as the client port answers them, and as the command line shows them.
//!
//! What a client sends to change them is [`crate::ring::SettingsChange`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ring::{BucketName, BucketSettings, Document};

/// `GET` and `PUT /v1/buckets/{bucket}`: what holds for one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketAnswer {
    /// Its name; every byte but printable ASCII, and `%`, as `%XX`.
    pub bucket: BucketName,
    /// Whether it has an entry of its own. If not, the settings are the defaults, and change with them.
    pub declared: bool,
    /// What a request means that does not say otherwise.
    pub settings: BucketSettings,
    /// The version of the cluster document that says so.
    pub epoch: u64,
}

/// `GET /v1/buckets`: all buckets that have an entry of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketList {
    /// The version of the cluster document that says so.
    pub epoch: u64,
    /// What holds for every bucket that is not listed.
    pub defaults: BucketSettings,
    /// The listed ones.
    pub buckets: BTreeMap<BucketName, BucketSettings>,
}

impl BucketAnswer {
    /// What a document says of a bucket.
    pub fn of(document: &Document, bucket: BucketName) -> Self {
        let declared = document.buckets.contains_key(&bucket);
        let settings = document.settings(bucket.as_bytes()).clone();
        Self { bucket, declared, settings, epoch: document.epoch }
    }
}

impl BucketList {
    /// What a document says of all buckets.
    pub fn of(document: &Document) -> Self {
        let (defaults, buckets) = (document.defaults.clone(), document.buckets.clone());
        Self { epoch: document.epoch, defaults, buckets }
    }
}
