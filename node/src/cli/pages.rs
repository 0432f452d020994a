//! The keys of a bucket, page by page, for the commands that go through all of them.
//!
//! Every page is a request of its own, tried on one server after another, so that a node that dies in
//! between costs nothing but the page it was making. Memory is that of one page.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use serde::Deserialize;

use super::client::{Ask, Client};
use super::failure::Failure;
use super::values::{Query, path};

/// What is listed, and how.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The bucket.
    pub bucket: String,
    /// What keys begin with.
    pub prefix: Option<String>,
    /// Replicas that must answer.
    pub r: Option<String>,
    /// Whether stand-ins may answer.
    pub sloppy: Option<bool>,
    /// Whether values are wanted.
    pub values: bool,
}

/// One page.
#[derive(Debug, Clone, Deserialize)]
pub struct Page {
    /// Its keys; there may be none, and more behind it.
    pub keys: Vec<Listed>,
    /// Where the next one begins; none at the end.
    pub next: Option<String>,
    /// How much of the ring is behind it: 0 to 1.
    #[serde(default)]
    pub progress: f64,
}

/// One key.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_b64: Option<String>,
    /// Concurrent values.
    pub siblings: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The values, where they were asked for.
    #[serde(default)]
    pub values: Vec<Value>,
}

/// One value of a key.
#[derive(Debug, Clone, Deserialize)]
pub struct Value {
    /// Its media type.
    #[serde(default)]
    pub content_type: Option<String>,
    /// Its bytes.
    pub value_b64: String,
    /// When it ends, in Unix milliseconds.
    #[serde(default)]
    pub expires_ms: Option<u64>,
}

impl Wanted {
    /// What no node would take is not sent.
    fn check(&self) -> Result<(), Failure> {
        let bucket = self.bucket.len();
        if bucket == 0 || bucket > BUCKET_MAX_BYTES {
            return Err(Failure::usage(
                format!("the bucket name has {bucket} bytes; 1 to {BUCKET_MAX_BYTES} are allowed"),
                "name a bucket, for example `default`",
            ));
        }
        let prefix = self.prefix.as_ref().map_or(0, String::len);
        if prefix > KEY_MAX_BYTES {
            return Err(Failure::usage(
                format!("the prefix has {prefix} bytes; no key has more than {KEY_MAX_BYTES}"),
                "name a shorter prefix",
            ));
        }
        Ok(())
    }
}

impl Listed {
    /// The bytes of the key.
    ///
    /// # Errors
    /// The answer names none.
    pub fn key(&self) -> Result<Vec<u8>, Failure> {
        match (&self.key, &self.key_b64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => decoded(text),
            _ => Err(unreadable("a key has no name")),
        }
    }
}

impl Value {
    /// Its bytes.
    ///
    /// # Errors
    /// They are no base64.
    pub fn bytes(&self) -> Result<Vec<u8>, Failure> {
        decoded(&self.value_b64)
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Failure> {
    BASE64_STANDARD.decode(text).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(why: &str) -> Failure {
    Failure::error(
        format!("the list that came cannot be read: {why}"),
        "check that `kvasir version` and the version of the nodes agree",
    )
}

/// Asks for the page at a cursor, of at most `limit` keys.
///
/// # Errors
/// No server answered with a page.
pub async fn page(
    client: &Client,
    wanted: &Wanted,
    cursor: Option<&str>,
    limit: u64,
) -> Result<Page, Failure> {
    wanted.check()?;
    let mut query = Query::default();
    let attempt = client.attempt().min(Duration::from_secs(30));
    query.add("timeout", Some(format!("{}ms", attempt.as_millis().max(1))));
    query.add("limit", Some(limit.to_string()));
    query.add("prefix", wanted.prefix.clone().filter(|prefix| !prefix.is_empty()));
    query.add("cursor", cursor.map(str::to_owned));
    query.add("values", wanted.values.then(|| "true".to_owned()));
    query.add("r", wanted.r.clone());
    query.add("sloppy", wanted.sloppy.map(|sloppy| sloppy.to_string()));
    let path = path(wanted.bucket.as_bytes(), b"");
    let target = format!("{}{}", path.trim_end_matches('/'), query.text());
    let reply = client.ask(&Ask::get(target)).await?;
    if reply.status != 200 {
        return Err(reply.failure());
    }
    serde_json::from_slice(&reply.body).map_err(|error| unreadable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;

    #[test]
    fn what_no_node_would_take_is_not_sent() {
        let wanted = |bucket: usize, prefix: usize| Wanted {
            bucket: "b".repeat(bucket),
            prefix: Some("p".repeat(prefix)),
            r: None,
            sloppy: None,
            values: false,
        };
        assert_eq!(wanted(1, 0).check(), Ok(()));
        assert_eq!(wanted(255, 4_096).check(), Ok(()));
        for (bucket, prefix) in [(0, 0), (256, 0), (1, 4_097)] {
            assert_eq!(wanted(bucket, prefix).check().unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn a_page_that_is_none_is_said() {
        let key = |text: &str| serde_json::from_str::<Listed>(text).unwrap().key();
        assert_eq!(key(r#"{"key_b64":"AP8=","siblings":1,"bytes":0}"#), Ok(vec![0, 255]));
        for text in [r#"{"siblings":1,"bytes":0}"#, r#"{"key_b64":"%","siblings":1,"bytes":0}"#] {
            assert!(key(text).unwrap_err().message.contains("cannot be read"), "{text}");
        }
    }
}
