//! Answers to reads: one value raw, several as a list, a multipart body or a refusal.
//!
//! Every answer but an error carries the token of what it shows, also where nothing is shown: a
//! write after a delete must supersede the tombstone. Several live values are 300, or 409 for a
//! client that takes neither form, so that code which only tests for a status below 400 never
//! stores a list as if it were the value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED, VARY};
use hyper::{HeaderMap, Response, StatusCode};
use kvasir_core::version::{Etag, Group, Payload, View, Vtag};
use serde::Serialize;

use super::Answer;
use super::content::Content;
use super::date::{http_date, rfc3339};
use super::headers::{CONTEXT, Conditions, REPLICAS, SiblingForm, TTL, Verdict};
use super::problem::{Code, Problem};
use crate::coordinator::request::{GetOutcome, Showing};

const OCTETS: &str = "application/octet-stream";

/// How the client wants the answer.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// One sibling of several.
    pub vtag: Option<Vtag>,
    /// `If-Match`, `If-None-Match`.
    pub conditions: Conditions,
    /// By `Accept`.
    pub form: SiblingForm,
}

/// What the bucket's mode shows of a set.
pub fn view(outcome: &GetOutcome) -> View<'_> {
    match outcome.showing {
        Showing::Siblings => outcome.set.view(outcome.now_ms),
        Showing::LastWriteWins => outcome.set.latest_view(outcome.now_ms),
    }
}

/// The answer to a read.
pub fn answer(outcome: &GetOutcome, wishes: &Wishes) -> Answer {
    let view = view(outcome);
    let mut answer = match chosen(&view, wishes) {
        Ok(answer) => answer,
        Err(problem) => problem.answer(),
    };
    dress(answer.headers_mut(), outcome);
    answer
}

fn chosen(view: &View<'_>, wishes: &Wishes) -> Result<Answer, Problem> {
    let (groups, tag) = match wishes.vtag {
        Some(vtag) if !view.groups.is_empty() => {
            let group = view.find(vtag).ok_or_else(|| {
                let detail = format!("none of the {} live values has it", view.groups.len());
                Problem::new(Code::NoSuchSibling, detail)
            })?;
            (std::slice::from_ref(group), Some(vtag.to_string()))
        }
        _ => (view.groups.as_slice(), view.etag().map(|etag: Etag| etag.to_string())),
    };
    match wishes.conditions.judge(tag.as_deref()) {
        Verdict::Hold => {}
        Verdict::MatchFailed => {
            return Err(Problem::new(Code::PreconditionFailed, "If-Match names another state"));
        }
        Verdict::NoneMatchFailed => {
            let mut answer = Response::new(Content::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            put_tag(answer.headers_mut(), tag.as_deref());
            return Ok(answer);
        }
    }
    let mut answer = match groups {
        [] => return Err(Problem::new(Code::NotFound, "no live value is stored under the key")),
        [one] => raw(one),
        several => match wishes.form {
            SiblingForm::Json => list(several),
            SiblingForm::Multipart => multipart(several),
            SiblingForm::Refuse => {
                let detail = format!("{} live values are stored under the key", several.len());
                let count = several.len() as u64;
                return Err(Problem::new(Code::Siblings, detail).with("siblings", count));
            }
        },
    };
    put_tag(answer.headers_mut(), tag.as_deref());
    if let Some(newest) = groups.first() {
        let modified = http_date(newest.stamp.millis());
        if let Ok(value) = HeaderValue::try_from(modified) {
            answer.headers_mut().insert(LAST_MODIFIED, value);
        }
    }
    Ok(answer)
}

/// Headers of every answer to a read: the token, and how many replicas agreed.
fn dress(headers: &mut HeaderMap, outcome: &GetOutcome) {
    if let Some(token) = &outcome.token
        && let Ok(value) = HeaderValue::from_str(token)
    {
        headers.insert(CONTEXT, value);
    }
    if let Ok(value) = HeaderValue::try_from(format!("{}/{}", outcome.agreed, outcome.replicas)) {
        headers.insert(REPLICAS, value);
    }
    let live = view(outcome).groups;
    // Only a single shown value has one life to speak of.
    if let [one] = live.as_slice()
        && let Some(left) = life(one, outcome.now_ms)
        && let Ok(value) = HeaderValue::try_from(left)
    {
        headers.insert(TTL, value);
    }
}

/// Seconds that a value has left, rounded up, in the form that `ttl=` takes.
fn life(group: &Group<'_>, now_ms: u64) -> Option<String> {
    let expires_ms = group.sibling.expires_ms?;
    Some(format!("{}s", expires_ms.saturating_sub(now_ms).div_ceil(1_000)))
}

fn put_tag(headers: &mut HeaderMap, tag: Option<&str>) {
    if let Some(tag) = tag
        && let Ok(value) = HeaderValue::try_from(format!("\"{tag}\""))
    {
        headers.insert(ETAG, value);
    }
}

/// Value and content type of a group; groups are made of values only.
fn parts<'a>(group: &Group<'a>) -> (Bytes, Option<&'a str>) {
    match &group.sibling.payload {
        Payload::Value { bytes, content_type } => (bytes.clone(), content_type.as_deref()),
        Payload::Tombstone => (Bytes::new(), None),
    }
}

fn raw(group: &Group<'_>) -> Answer {
    let (bytes, content_type) = parts(group);
    let content_type = content_type.and_then(|text| HeaderValue::from_str(text).ok());
    let mut answer = Response::new(Content::from(bytes));
    let fallback = HeaderValue::from_static(OCTETS);
    answer.headers_mut().insert(CONTENT_TYPE, content_type.unwrap_or(fallback));
    answer
}

fn several(content_type: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(Content::from(body));
    *answer.status_mut() = StatusCode::MULTIPLE_CHOICES;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// One sibling of the JSON list.
#[derive(Serialize)]
pub struct Listed {
    vtag: String,
    content_type: Option<String>,
    value_b64: String,
    modified: String,
    expires: Option<String>,
    tombstone: bool,
}

/// The values of a view, as a list shows them.
pub fn listed(groups: &[Group<'_>]) -> Vec<Listed> {
    groups
        .iter()
        .map(|group| {
            let (bytes, content_type) = parts(group);
            Listed {
                vtag: group.vtag().to_string(),
                content_type: content_type.map(str::to_owned),
                value_b64: STANDARD.encode(bytes),
                modified: rfc3339(group.stamp.millis()),
                expires: group.sibling.expires_ms.map(rfc3339),
                // Tombstones are never shown; the field keeps the list's shape for readers.
                tombstone: false,
            }
        })
        .collect()
}

fn list(groups: &[Group<'_>]) -> Answer {
    let mut body = serde_json::to_vec(&listed(groups)).unwrap_or_default();
    body.push(b'\n');
    several(HeaderValue::from_static("application/json"), body.into())
}

fn multipart(groups: &[Group<'_>]) -> Answer {
    let boundary = boundary(groups);
    let mut body = BytesMut::new();
    for group in groups {
        let (bytes, content_type) = parts(group);
        let head = format!(
            "--{boundary}\r\nContent-Type: {}\r\nETag: \"{}\"\r\nLast-Modified: {}\r\n\r\n",
            content_type.filter(|text| HeaderValue::from_str(text).is_ok()).unwrap_or(OCTETS),
            group.vtag(),
            http_date(group.stamp.millis())
        );
        body.put_slice(head.as_bytes());
        body.put_slice(&bytes);
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::try_from(format!("multipart/mixed; boundary={boundary}"));
    several(content_type.unwrap_or(HeaderValue::from_static(OCTETS)), body.freeze())
}

/// A boundary that no value contains: derived from the tags, counted up where a value holds it.
fn boundary(groups: &[Group<'_>]) -> String {
    let tags: String = groups.iter().take(2).map(|group| group.vtag().to_string()).collect();
    let mut number = 0u64;
    loop {
        let boundary = format!("kvasir-{tags}-{number}");
        let needle = boundary.as_bytes();
        let inside =
            |group: &Group<'_>| parts(group).0.windows(needle.len()).any(|window| window == needle);
        if !groups.iter().any(inside) {
            return boundary;
        }
        number += 1;
    }
}
