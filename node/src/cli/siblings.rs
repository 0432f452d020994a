//! Several values under one key: how they arrive, how they are shown, how they are resolved.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::output;

/// Widest value that the table shows, in characters.
const VALUE_WIDTH: usize = 48;

/// One of several concurrent values, as the node lists them with status 300.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// Short name of the sibling, for `?vtag=`.
    pub vtag: String,
    /// Its content type, if the writer named one.
    #[serde(default)]
    pub content_type: Option<String>,
    /// The value in base64; none for a tombstone.
    #[serde(default)]
    pub value_b64: Option<String>,
    /// When it was written, as the node says it.
    #[serde(default)]
    pub modified: serde_json::Value,
    /// Whether it is a deletion that is concurrent with the values.
    #[serde(default)]
    pub tombstone: bool,
}

/// Reads the body of a 300 answer.
pub fn parse(body: &[u8]) -> Result<Vec<Sibling>, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::error(
            format!("the list of siblings cannot be read: {error}"),
            "check that `kvasir version` and the version of the nodes agree",
        )
    })
}

/// The siblings as a table.
pub fn show(siblings: &[Sibling]) -> String {
    let rows = siblings.iter().map(|sibling| {
        let value = sibling.value_b64.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let (size, shown) = match (&value, sibling.tombstone) {
            (_, true) => ("-".to_owned(), "(deleted)".to_owned()),
            (Some(value), _) => {
                (output::grouped(value.len() as u64), output::preview(value, VALUE_WIDTH))
            }
            (None, _) => ("-".to_owned(), "(no value in the answer)".to_owned()),
        };
        let modified = match &sibling.modified {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let kind = sibling.content_type.clone().unwrap_or_else(|| "-".into());
        vec![sibling.vtag.clone(), modified, size, kind, shown]
    });
    output::table(&["VTAG", "MODIFIED", "BYTES", "TYPE", "VALUE"], &[2], rows.collect())
}

/// The failure that tells how to resolve them: write one value with the token that covers all.
pub fn conflict(bucket: &str, key: &str, count: usize, token: Option<&str>) -> Failure {
    let context = token.unwrap_or("TOKEN");
    Failure::new(
        super::Exit::Siblings,
        format!("{bucket}/{key} holds {count} concurrent values"),
        format!(
            "decide on one value and store it over all of them: kvasir put {} {} VALUE --context \
             {context}",
            quoted(bucket),
            quoted(key)
        ),
    )
}

/// A word as a POSIX shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_as_a_table() {
        let body = br#"[
            {"vtag":"00000000000000a1","content_type":"text/plain","value_b64":"bWlsaw==",
             "modified":"2026-11-22T10:00:00Z","tombstone":false},
            {"vtag":"00000000000000b2","content_type":null,"value_b64":"AAE=","modified":null,
             "tombstone":false},
            {"vtag":"00000000000000c3","tombstone":true,"later_field":1}
        ]"#;
        let siblings = parse(body).unwrap();
        assert_eq!(
            show(&siblings),
            "\
VTAG              MODIFIED              BYTES  TYPE        VALUE
00000000000000a1  2026-11-22T10:00:00Z      4  text/plain  milk
00000000000000b2  -                         2  -           0x0001
00000000000000c3  -                         -  -           (deleted)"
        );
        assert!(parse(b"milk").is_err());
    }

    #[test]
    fn the_way_out_can_be_pasted() {
        let failure = conflict("default", "it's", 2, Some("tok"));
        assert_eq!(failure.exit.code(), 5);
        assert!(
            failure.next.ends_with(r"kvasir put default 'it'\''s' VALUE --context tok"),
            "{failure}"
        );
    }
}
