//! One line of an import file: a JSON object, or a key, a tab and a value.
//!
//! The form is that of the first line that is not blank, for the whole file, unless it is named:
//! a file that changes its form in the middle is a mistake, and is refused at that line.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::ValueEnum;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use serde::Deserialize;

/// How the lines of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// {"key":"...","value":"..."} or "key_b64", "value_b64", with "bucket" if it differs; one object a line
    Ndjson,
    /// key<TAB>value: raw bytes, the value goes to the end of the line
    Tsv,
}

/// What one line asks to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The bucket that the line names; none for the one of the command.
    pub bucket: Option<String>,
    /// The key.
    pub key: Bytes,
    /// The value; several where they were concurrent when they were exported.
    pub values: Vec<One>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct One {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: Option<String>,
    /// When it ends, in Unix milliseconds.
    pub expires_ms: Option<u64>,
}

impl One {
    /// A value that is nothing but its bytes.
    pub fn plain(bytes: Bytes) -> Self {
        Self { bytes, content_type: None, expires_ms: None }
    }
}

impl Pair {
    /// Bytes of all values.
    pub fn value_bytes(&self) -> usize {
        self.values.iter().map(|value| value.bytes.len()).sum()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_b64: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_b64: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    expires_ms: Option<u64>,
    #[serde(default)]
    siblings: Option<Vec<Sibling>>,
    #[serde(default)]
    bucket: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sibling {
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_b64: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    expires_ms: Option<u64>,
}

impl Form {
    /// The form that a first line suggests: an object begins with a brace.
    pub fn guess(line: &[u8]) -> Self {
        let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(&b'{') && serde_json::from_slice::<serde_json::Value>(line).is_ok() {
            Self::Ndjson
        } else {
            Self::Tsv
        }
    }

    /// Reads one line, without its line feed. The error says what is wrong, without the line number.
    pub fn parse(self, line: &[u8]) -> Result<Pair, String> {
        let pair = match self {
            Self::Ndjson => object(line)?,
            Self::Tsv => {
                let tab = line.iter().position(|byte| *byte == b'\t');
                let tab = tab.ok_or("there is no tab between key and value")?;
                let (key, value) = (&line[..tab], &line[tab + 1..]);
                Pair {
                    bucket: None,
                    key: Bytes::copy_from_slice(key),
                    values: vec![One::plain(Bytes::copy_from_slice(value))],
                }
            }
        };
        if pair.key.is_empty() {
            return Err("the key is empty".into());
        }
        if pair.key.len() > KEY_MAX_BYTES {
            return Err(format!("the key has {} bytes, at most {KEY_MAX_BYTES}", pair.key.len()));
        }
        match &pair.bucket {
            Some(bucket) if bucket.is_empty() || bucket.len() > BUCKET_MAX_BYTES => {
                Err(format!("the bucket must have 1 to {BUCKET_MAX_BYTES} bytes"))
            }
            _ => Ok(pair),
        }
    }
}

fn object(line: &[u8]) -> Result<Pair, String> {
    let object: Object = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        // The parser counts lines inside the one it was given; the caller names the real one.
        text.replace(" at line 1 column", ", column")
    })?;
    let key = either("key", object.key, object.key_b64)?;
    let values = match object.siblings {
        None => vec![Sibling {
            value: object.value,
            value_b64: object.value_b64,
            content_type: object.content_type,
            expires_ms: object.expires_ms,
        }],
        Some(values) => {
            let own = object.value.is_some() || object.value_b64.is_some();
            if own || object.content_type.is_some() || object.expires_ms.is_some() {
                return Err("siblings stand in the place of a value, not beside it".into());
            }
            values
        }
    };
    if values.is_empty() {
        return Err("siblings is an empty list".into());
    }
    let one = |value: Sibling| {
        Ok::<_, String>(One {
            bytes: either("value", value.value, value.value_b64)?,
            content_type: value.content_type,
            expires_ms: value.expires_ms,
        })
    };
    let values = values.into_iter().map(one).collect::<Result<_, _>>()?;
    Ok(Pair { bucket: object.bucket, key, values })
}

/// The bytes of a field that is text or, under another name, base64.
fn either(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::from(text)),
        (None, Some(text)) => match BASE64_STANDARD.decode(text) {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(error) => Err(format!("{name}_b64: {error}")),
        },
        _ => Err(format!("exactly one of {name} and {name}_b64 must be there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(bucket: Option<&str>, key: &str, value: &[u8]) -> Pair {
        let value = One::plain(Bytes::copy_from_slice(value));
        Pair {
            bucket: bucket.map(str::to_owned),
            key: Bytes::copy_from_slice(key.as_bytes()),
            values: vec![value],
        }
    }

    #[test]
    fn what_an_export_writes_is_read() {
        let read = |text: &str| Form::Ndjson.parse(text.as_bytes());
        let raw = One {
            bytes: Bytes::from_static(&[0, 255]),
            content_type: Some("a/b".into()),
            expires_ms: Some(5),
        };
        let text = r#"{"key_b64":"/w==","value_b64":"AP8=","content_type":"a/b","expires_ms":5}"#;
        let one = read(text).unwrap();
        assert_eq!((&one.key[..], &one.values), (&[255][..], &vec![raw.clone()]));
        let milk = r#"{"value":"milk"}"#;
        let both = r#"{"value_b64":"AP8=","content_type":"a/b","expires_ms":5}"#;
        let text = format!(r#"{{"key":"one","siblings":[{milk},{both}]}}"#);
        let milk = One::plain(Bytes::from_static(b"milk"));
        assert_eq!(read(&text).unwrap().values, [milk, raw]);
    }

    #[test]
    fn both_forms() {
        assert_eq!(Form::Tsv.parse(b"a\tb\tc ").unwrap(), pair(None, "a", b"b\tc "));
        assert_eq!(Form::Tsv.parse(b"a\t").unwrap(), pair(None, "a", b""));
        let read = |text: &str| Form::Ndjson.parse(text.as_bytes());
        assert_eq!(read(r#"{"key":"a","value":"b"}"#).unwrap(), pair(None, "a", b"b"));
        assert_eq!(
            read(r#"{"key":"a/b","value_b64":"AAE=","bucket":"x"}"#).unwrap(),
            pair(Some("x"), "a/b", &[0, 1])
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |form: Form, text: &str| form.parse(text.as_bytes()).unwrap_err();
        assert!(wrong(Form::Tsv, "no tab").contains("no tab"));
        assert!(wrong(Form::Tsv, "\tvalue").contains("empty"));
        assert!(wrong(Form::Tsv, &format!("{}\tv", "k".repeat(4097))).contains("4097 bytes"));
        for (text, names) in [
            (r#"{"key":"a"}"#, "exactly one"),
            (r#"{"value":"a"}"#, "exactly one of key"),
            (r#"{"key":"a","key_b64":"YQ==","value":"b"}"#, "exactly one of key"),
            (r#"{"key_b64":"%","value":"b"}"#, "key_b64"),
            (r#"{"key":"a","siblings":[]}"#, "empty list"),
            (r#"{"key":"a","siblings":[{}]}"#, "exactly one of value"),
            (r#"{"key":"a","value":"b","siblings":[{"value":"c"}]}"#, "not beside it"),
            (r#"{"key":"a","value":"b","value_b64":"Yg=="}"#, "exactly one"),
            (r#"{"key":"a","value_b64":"%"}"#, "value_b64"),
            (r#"{"key":"a","value":"b","ttl":1}"#, "ttl"),
            (r#"{"key":"","value":"b"}"#, "empty"),
            (r#"{"key":"a","value":"b","bucket":""}"#, "bucket"),
            (r#"{"key":"a","value":5}"#, ", column"),
            ("a\tb", "column"),
        ] {
            assert!(
                wrong(Form::Ndjson, text).contains(names),
                "{text}: {}",
                wrong(Form::Ndjson, text)
            );
        }
    }

    #[test]
    fn the_form_follows_from_the_first_line() {
        assert_eq!(Form::guess(br#" {"key":"a","value":"b"}"#), Form::Ndjson);
        assert_eq!(Form::guess(b"{\tbrace"), Form::Tsv);
        assert_eq!(Form::guess(b"a\tb"), Form::Tsv);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            Form::Ndjson.parse(&line).ok();
            if let Ok(pair) = Form::Tsv.parse(&line) {
                prop_assert_eq!([&pair.key[..], b"\t", &pair.values[0].bytes[..]].concat(), line);
            }
        }
    }
}
