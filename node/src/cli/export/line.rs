//! One key as a line of an export: what `import` reads (`import/line.rs`).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::pages::{Listed, Value};

#[derive(Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    #[serde(flatten)]
    held: Held,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Held {
    One(One),
    Several { siblings: Vec<One> },
}

#[derive(Serialize)]
struct One {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

/// The line of a key, with its line feed.
///
/// # Errors
/// The list says something that cannot be read.
pub fn of(listed: &Listed) -> Result<Vec<u8>, Failure> {
    let (key, key_b64) = text_or_base64(listed.key()?);
    let mut values = listed.values.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let held = match (values.len(), values.pop()) {
        (1, Some(value)) => Held::One(value),
        (_, last) => {
            values.extend(last);
            Held::Several { siblings: values }
        }
    };
    let line = serde_json::to_vec(&Line { key, key_b64, held });
    let mut line = line.map_err(|error| {
        Failure::error(format!("a key has no JSON form: {error}"), "report it with the key's name")
    })?;
    line.push(b'\n');
    Ok(line)
}

fn one(value: &Value) -> Result<One, Failure> {
    let (text, base64) = text_or_base64(value.bytes()?);
    let (content_type, expires_ms) = (value.content_type.clone(), value.expires_ms);
    Ok(One { value: text, value_b64: base64, content_type, expires_ms })
}

fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
    }
}
