//! Batches: several requests for single keys in one body, several results in one answer.
//!
//! The body is a JSON array of items or one item a line, and the answer has the form of the body. It is
//! bounded in bytes before it is read and in items while it is, and read whole before anything is done:
//! a body that is no JSON, or too much of it, does nothing. From then on each item answers for itself:
//! one that cannot be used, or fails, says so in its result and stops no other.

use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use kvasir_core::limits::{BUCKET_MAX_BYTES, CONTENT_TYPE_MAX_BYTES, KEY_MAX_BYTES};
use kvasir_core::version::Life;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::Answer;
use super::content::Content;
use super::get::{self, Listed};
use super::list::NDJSON;
use super::problem::{Code, Problem};
use super::query::{self, Query};
use super::write;
use crate::coordinator::batch::{Done, Item, side_by_side};
use crate::coordinator::request::{
    Acks, Coordinator, DeleteRequest, GetOutcome, GetRequest, PutRequest,
};

/// Most items of a batch.
pub const ITEMS_MAX: usize = 1_000;
/// Longest body of a batch.
pub const BODY_MAX_BYTES: usize = 8 << 20;
/// Bytes of results after which no further key is read.
const RESULTS_MAX_BYTES: usize = 32 << 20;

/// How the items of a body are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON array.
    Array,
    /// A JSON object a line.
    Lines,
}

/// One item as it was written, before anything but its JSON was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Written(Value);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    op: String,
    bucket: String,
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
    context: Option<String>,
    #[serde(default)]
    ttl: Option<String>,
}

/// What holds for all items of a batch.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Levels, sloppiness and durability.
    pub query: Query,
    /// Largest value.
    pub value_max_bytes: usize,
    /// When the client stops waiting, for the whole batch.
    pub deadline: Instant,
}

/// The items of a body.
///
/// # Errors
/// [`Code::BadBatch`]: it is no JSON, or no list of items; [`Code::BatchTooLarge`]: too many items.
pub fn items(body: &[u8]) -> Result<(Form, Vec<Written>), Problem> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let (form, items) = match first {
        Some(b'[') => (Form::Array, array(body)?),
        Some(b'{') => (Form::Lines, lines(body)?),
        _ => return Err(bad("the body is neither a JSON array nor JSON objects, one a line")),
    };
    match items.is_empty() {
        true => Err(bad("the batch has no item")),
        false => Ok((form, items)),
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadBatch, detail).with("may_be_stored", false)
}

/// A body longer than a batch may be, in the words of a batch.
pub fn too_long(problem: Problem) -> Problem {
    if problem.code() != Code::ValueTooLarge {
        return problem;
    }
    let detail = format!("the body has more than {BODY_MAX_BYTES} bytes");
    let problem = Problem::new(Code::BatchTooLarge, detail);
    problem.with("limit_bytes", BODY_MAX_BYTES as u64).with("may_be_stored", false).close()
}

fn too_many() -> Problem {
    let detail = format!("the batch has more than {ITEMS_MAX} items");
    let problem = Problem::new(Code::BatchTooLarge, detail);
    problem.with("limit_items", ITEMS_MAX as u64).with("may_be_stored", false)
}

/// At most one item more than a batch may have, so that reading ends there.
struct Array(Vec<Written>);

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Array;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Array, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Value>()? {
                    items.push(Written(item));
                    if items.len() > ITEMS_MAX {
                        return Err(serde::de::Error::custom(TOO_MANY));
                    }
                }
                Ok(Array(items))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

/// How the reader of an array says that it stopped at the bound.
const TOO_MANY: &str = "more items than a batch may have";

fn array(body: &[u8]) -> Result<Vec<Written>, Problem> {
    match serde_json::from_slice::<Array>(body) {
        Ok(Array(items)) => Ok(items),
        Err(error) if error.to_string().starts_with(TOO_MANY) => Err(too_many()),
        Err(error) => Err(bad(format!("the body is no JSON array: {error}"))),
    }
}

fn lines(body: &[u8]) -> Result<Vec<Written>, Problem> {
    let mut items = Vec::new();
    for (number, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if items.len() == ITEMS_MAX {
            return Err(too_many());
        }
        let item = serde_json::from_slice(line);
        let item = item.map_err(|e| bad(format!("line {} is no JSON: {e}", number + 1)))?;
        items.push(Written(item));
    }
    Ok(items)
}

impl Written {
    /// The request that an item stands for.
    ///
    /// # Errors
    /// Why it cannot be used; the code is the one that a request of its own would get, or
    /// [`Code::BadItem`].
    pub fn read(self, terms: &Terms) -> Result<Item, Problem> {
        let unusable = |detail: String| Problem::new(Code::BadItem, detail);
        let fields: Fields =
            serde_json::from_value(self.0).map_err(|error| unusable(error.to_string()))?;
        let bucket = Bytes::from(fields.bucket);
        if bucket.is_empty() || bucket.len() > BUCKET_MAX_BYTES {
            let detail =
                format!("the bucket name has {} bytes; 1 to 255 are allowed", bucket.len());
            return Err(Problem::new(Code::BadBucket, detail));
        }
        let key = either("key", fields.key, fields.key_b64)?;
        let key = key.ok_or_else(|| unusable("`key` or `key_b64` is missing".into()))?;
        if key.is_empty() || key.len() > KEY_MAX_BYTES {
            let code = if key.is_empty() { Code::EmptyKey } else { Code::KeyTooLong };
            let detail =
                format!("the key has {} bytes; 1 to {KEY_MAX_BYTES} are allowed", key.len());
            return Err(Problem::new(code, detail));
        }
        let value = either("value", fields.value, fields.value_b64)?;
        let ttl_ms = fields.ttl.as_deref().map(query::ttl).transpose()?;
        let token = fields.context.map(token).transpose()?;
        let content_type = fields.content_type;
        let only_puts = value.is_some() || ttl_ms.is_some() || content_type.is_some();
        if fields.op != "put" && only_puts {
            return Err(unusable("`value`, `ttl` and `content_type` belong to `put`".into()));
        }
        let Terms { query, deadline, .. } = terms;
        let (sloppy, durability, deadline) = (query.sloppy, query.durability, *deadline);
        match fields.op.as_str() {
            "get" if token.is_some() => Err(unusable("`context` does not belong to `get`".into())),
            "get" => Ok(Item::Get(GetRequest { bucket, key, r: query.r, sloppy, deadline })),
            "delete" => {
                let w = query.w;
                let delete = DeleteRequest { bucket, key, token, w, sloppy, durability, deadline };
                Ok(Item::Delete(delete))
            }
            "put" => {
                let value = value.ok_or_else(|| {
                    unusable("`put` needs exactly one of `value` and `value_b64`".into())
                })?;
                fits(&value, content_type.as_deref(), terms)?;
                Ok(Item::Put(PutRequest {
                    bucket,
                    key,
                    value,
                    content_type,
                    token,
                    w: query.w,
                    life: ttl_ms.map(Life::Lasts),
                    sloppy,
                    durability,
                    return_set: false,
                    deadline,
                }))
            }
            other => {
                let other: String = other.chars().take(32).collect();
                Err(unusable(format!("`op` is `{other}`; get, put and delete are known")))
            }
        }
    }
}

fn fits(value: &[u8], content_type: Option<&str>, terms: &Terms) -> Result<(), Problem> {
    if value.len() > terms.value_max_bytes {
        let detail = format!("the value has more than {} bytes", terms.value_max_bytes);
        return Err(Problem::new(Code::ValueTooLarge, detail));
    }
    let text = content_type.unwrap_or("a/b");
    let plain = HeaderValue::from_str(text).is_ok() && text.is_ascii();
    if !plain || text.is_empty() || text.len() > CONTENT_TYPE_MAX_BYTES {
        let detail = format!("`content_type` is not 1 to {CONTENT_TYPE_MAX_BYTES} visible letters");
        return Err(Problem::new(Code::BadItem, detail));
    }
    Ok(())
}

fn token(text: String) -> Result<String, Problem> {
    match text.is_empty() || text.len() > kvasir_core::limits::TOKEN_HEADER_MAX_BYTES {
        true => Err(Problem::new(Code::BadContext, "`context` is empty or longer than any token")),
        false => Ok(text),
    }
}

/// The bytes of a field that is text or, under another name, base64.
fn either(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, Problem> {
    let unusable = |detail: String| Problem::new(Code::BadItem, detail);
    match (text, base64) {
        (Some(_), Some(_)) => Err(unusable(format!("both `{name}` and `{name}_b64` are given"))),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(unusable(format!("`{name}_b64`: {error}"))),
        },
        (None, None) => Ok(None),
    }
}

/// The result of one item.
#[derive(Serialize)]
#[serde(untagged)]
enum Told {
    Stored {
        status: u16,
        context: String,
        acks: String,
    },
    Found {
        status: u16,
        context: Option<String>,
        replicas: String,
        siblings: Vec<Listed>,
    },
    Problem(Box<kvasir_core::admin_api::Problem>),
    Absent {
        #[serde(flatten)]
        problem: Box<kvasir_core::admin_api::Problem>,
        context: Option<String>,
        replicas: String,
    },
}

/// Does the items of a batch, and answers with their results in the order of the items.
pub async fn answer(
    coordinator: &impl Coordinator,
    (form, items): (Form, Vec<Written>),
    terms: &Terms,
) -> Answer {
    let used = Cell::new(0);
    let results = side_by_side(items, |written| {
        let (used, item) = (&used, written.read(terms));
        async move {
            let told = match item {
                Err(problem) => refused(problem),
                Ok(Item::Get(_)) if used.get() > RESULTS_MAX_BYTES => full(),
                Ok(item) => one(coordinator, item).await,
            };
            let text = serde_json::to_vec(&told).unwrap_or_default();
            used.set(used.get() + text.len());
            text
        }
    });
    let (open, between, end) = match form {
        Form::Array => ("[", ",\n", "]\n"),
        Form::Lines => ("", "\n", "\n"),
    };
    let mut body = open.as_bytes().to_vec();
    let mut results = std::pin::pin!(results.enumerate());
    while let Some((number, text)) = results.next().await {
        body.extend_from_slice(if number > 0 { between.as_bytes() } else { b"" });
        body.extend_from_slice(&text);
    }
    body.extend_from_slice(end.as_bytes());
    let mut answer = Response::new(Content::from(body));
    let media = if form == Form::Array { "application/json" } else { NDJSON };
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    answer
}

fn refused(problem: Problem) -> Told {
    Told::Problem(Box::new(problem.with("may_be_stored", false).body().clone()))
}

fn full() -> Told {
    let detail = format!("the results before it have {RESULTS_MAX_BYTES} bytes; read it by itself");
    refused(Problem::new(Code::BatchTooLarge, detail))
}

async fn one(coordinator: &impl Coordinator, item: Item) -> Told {
    let is_write = !matches!(item, Item::Get(_));
    match item.run(coordinator).await {
        Ok(Done::Get(outcome)) => found(&outcome),
        Ok(Done::Put(outcome)) => stored(outcome.token, &outcome.acks),
        Ok(Done::Delete(outcome)) => stored(outcome.token, &outcome.acks),
        Err(error) => Told::Problem(Box::new(write::problem(&error, is_write).body().clone())),
    }
}

fn stored(context: String, acks: &Acks) -> Told {
    Told::Stored { status: 204, context, acks: write::acks_text(acks) }
}

fn found(outcome: &GetOutcome) -> Told {
    let siblings = get::listed(&get::view(outcome).groups);
    let context = outcome.token.clone();
    let replicas = format!("{}/{}", outcome.agreed, outcome.replicas);
    match siblings.len() {
        0 => {
            let problem = Problem::new(Code::NotFound, "no live value is stored under the key");
            Told::Absent { problem: Box::new(problem.body().clone()), context, replicas }
        }
        1 => Told::Found { status: 200, context, replicas, siblings },
        _ => Told::Found { status: 300, context, replicas, siblings },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn terms() -> Terms {
        let deadline = Instant::now() + Duration::from_secs(5);
        Terms { query: Query::default(), value_max_bytes: 10, deadline }
    }

    fn read(body: &str) -> Result<Vec<Result<Item, Code>>, Code> {
        let (_, items) = items(body.as_bytes()).map_err(|problem| problem.code())?;
        let read = |item: Written| item.read(&terms()).map_err(|problem| problem.code());
        Ok(items.into_iter().map(read).collect())
    }

    #[tokio::test]
    async fn both_forms_hold_the_same_items() {
        let get = r#"{"op":"get","bucket":"b","key":"k"}"#;
        let put = r#"{"op":"put","bucket":"b","key_b64":"AP8=","value_b64":"AAE=","ttl":"60s"}"#;
        let array = read(&format!(" [{get},\n{put}]")).unwrap();
        let lines = read(&format!("{get}\n\n{put}\r\n")).unwrap();
        for items in [array, lines] {
            assert!(matches!(&items[0], Ok(Item::Get(get)) if get.key == "k"));
            let Ok(Item::Put(put)) = &items[1] else { panic!("{items:?}") };
            assert_eq!((&put.key[..], &put.value[..]), (&[0, 255][..], &[0, 1][..]));
            assert_eq!(put.life, Some(Life::Lasts(60_000)));
        }
    }

    #[tokio::test]
    async fn a_body_that_is_no_batch_is_refused_whole() {
        let item = r#"{"op":"get","bucket":"b","key":"k"}"#;
        let cut = format!("[{item},");
        let broken = format!("{item}\nno json\n");
        for body in ["", " ", "[]", "[", "7", "\"a\"", &cut, &broken, &format!("[{item}] x")] {
            assert_eq!(read(body).unwrap_err(), Code::BadBatch, "{body}");
        }
        let many = vec![item; ITEMS_MAX + 1];
        assert_eq!(read(&format!("[{}]", many.join(","))).unwrap_err(), Code::BatchTooLarge);
        assert_eq!(read(&many.join("\n")).unwrap_err(), Code::BatchTooLarge);
        assert_eq!(read(&many[1..].join("\n")).unwrap().len(), ITEMS_MAX);
    }

    #[tokio::test]
    async fn an_item_that_cannot_be_used_says_why_and_stops_no_other() {
        let long = "k".repeat(KEY_MAX_BYTES + 1);
        let long_key = format!(r#"{{"op":"get","bucket":"b","key":"{long}"}}"#);
        let long_bucket = format!(r#"{{"op":"get","bucket":"{}","key":"k"}}"#, "b".repeat(256));
        for (item, code) in [
            (r#"{"op":"incr","bucket":"b","key":"k"}"#, Code::BadItem),
            (r#"{"bucket":"b","key":"k"}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b"}"#, Code::BadItem),
            (r#"{"op":"get","key":"k"}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b","key":"k","n":3}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b","key":7}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b","key":"k","key_b64":"aw=="}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b","key":"k","value":"v"}"#, Code::BadItem),
            (r#"{"op":"get","bucket":"b","key":"k","context":"t"}"#, Code::BadItem),
            (r#"{"op":"put","bucket":"b","key":"k"}"#, Code::BadItem),
            (r#"{"op":"put","bucket":"b","key":"k","value_b64":"%"}"#, Code::BadItem),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","content_type":""}"#, Code::BadItem),
            (r#"{"op":"put","bucket":"b","key":"k","value":"12345678901"}"#, Code::ValueTooLarge),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","ttl":"0s"}"#, Code::BadQueryValue),
            (r#"{"op":"put","bucket":"b","key":"k","value":"v","context":""}"#, Code::BadContext),
            (r#"{"op":"get","bucket":"b","key":""}"#, Code::EmptyKey),
            (r#"{"op":"get","bucket":"","key":"k"}"#, Code::BadBucket),
            ("7", Code::BadItem),
            (&long_key, Code::KeyTooLong),
            (&long_bucket, Code::BadBucket),
        ] {
            let good = r#"{"op":"delete","bucket":"b","key":"k"}"#;
            let items = read(&format!("[{item},{good}]")).unwrap();
            assert_eq!(items[0].as_ref().unwrap_err(), &code, "{item}");
            assert!(matches!(items[1], Ok(Item::Delete(_))), "{item}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_refused(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = items(&body);
            let _ = items(&[b"[", &body[..]].concat());
            let _ = items(&[b"{", &body[..]].concat());
        }
    }
}
