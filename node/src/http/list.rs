//! Lists of keys: a page as JSON, or all pages as lines while the client reads.
//!
//! A line that begins with `next` closes a page: whatever came before it is complete, and its cursor goes
//! on there. The last line of a whole list is one whose `next` is null. A stream that ends with any other
//! line was cut off; an error that comes after the head was sent is a line of its own, the last one.
//!
//! A page holds what its own bounds allow, and a stream one page and the piece that the client is reading,
//! so memory does not grow with the bucket. How many lists a listener makes at once is bounded too.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Response};
use kvasir_core::version::{Group, Payload};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Answer;
use super::content::Content;
use super::date::rfc3339;
use super::get;
use super::headers::REPLICAS;
use super::problem::{Code, Problem};
use super::query::Query;
use super::stats::{HttpStats, Operation};
use super::write;
use crate::coordinator::request::{Coordinator, GetOutcome};
use crate::coordinator::{ListPage, ListRequest, ListedKey, PAGE_KEYS_MAX};

/// Keys of a page where the client does not say.
const LIMIT_DEFAULT: usize = 1_000;
/// Keys of one page of a stream.
const STREAM_PAGE: usize = 1_000;
/// Lists that one listener makes at once.
const LISTS_MAX: usize = 16;

/// The media type of lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";

/// Places for lists under way.
#[derive(Clone, Default)]
pub struct Slots(Rc<Cell<usize>>);

/// A place that is taken; given back on drop.
pub struct Slot(Slots);

impl Slots {
    fn take(&self) -> Result<Slot, Problem> {
        if self.0.get() >= LISTS_MAX {
            let detail = format!("{LISTS_MAX} lists are under way on this listener");
            return Err(Problem::new(Code::Overloaded, detail).retry_after_ms(1_000));
        }
        self.0.set(self.0.get() + 1);
        Ok(Slot(self.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// Whether the client wants lines instead of a page.
pub fn wants_lines(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    ranges.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        media.eq_ignore_ascii_case(NDJSON) && !parts.any(|part| part == "q=0")
    })
}

/// A list that was asked for.
pub struct Listing<C> {
    /// Who makes the pages.
    pub coordinator: Rc<C>,
    /// The bucket.
    pub bucket: Bytes,
    /// What the query says.
    pub query: Query,
    /// How long each page may take.
    pub timeout: Duration,
}

impl<C: Coordinator + 'static> Listing<C> {
    /// A page, or the beginning of a stream of them.
    ///
    /// # Errors
    /// The first page failed.
    pub async fn answer(
        self,
        lines: bool,
        slots: &Slots,
        stats: &Arc<HttpStats>,
    ) -> Result<Answer, Problem> {
        let asked = self.query.limit;
        let slot = slots.take()?;
        if lines {
            return self.stream(asked, slot, stats.clone()).await;
        }
        let limit = match asked {
            None => LIMIT_DEFAULT,
            Some(limit) if limit <= PAGE_KEYS_MAX as u64 => limit as usize,
            Some(_) => {
                let detail = format!(
                    "`limit`: a page has at most {PAGE_KEYS_MAX} keys; `Accept: {NDJSON}` has no limit"
                );
                return Err(Problem::new(Code::BadQueryValue, detail));
            }
        };
        let page = self.page(self.query.cursor.clone(), limit).await?;
        let mut body = serde_json::to_vec(&whole(&page)).unwrap_or_default();
        body.push(b'\n');
        let mut answer = Response::new(Content::from(body));
        dress(answer.headers_mut(), "application/json", &page);
        Ok(answer)
    }

    async fn page(&self, cursor: Option<String>, limit: usize) -> Result<ListPage, Problem> {
        let request = ListRequest {
            bucket: self.bucket.clone(),
            prefix: self.query.prefix.clone(),
            cursor,
            limit,
            values: self.query.values,
            r: self.query.r,
            sloppy: self.query.sloppy,
            deadline: Instant::now() + self.timeout,
        };
        self.coordinator.list(request).await.map_err(|error| write::problem(&error, false))
    }

    async fn stream(
        self,
        asked: Option<u64>,
        slot: Slot,
        stats: Arc<HttpStats>,
    ) -> Result<Answer, Problem> {
        let started = Instant::now();
        let mut left = asked.unwrap_or(u64::MAX);
        let page = self.page(self.query.cursor.clone(), page_of(left)).await?;
        let (pieces, content) = Content::pieces();
        let mut answer = Response::new(content);
        dress(answer.headers_mut(), NDJSON, &page);
        tokio::task::spawn_local(async move {
            let mut sent = 0;
            let mut page = Some(page);
            while let Some(one) = page.take() {
                left = left.saturating_sub(one.keys.len() as u64);
                if !put(&pieces, lines(&one), &mut sent).await {
                    break;
                }
                let Some(next) = one.next.filter(|_| left > 0) else { break };
                page = match self.page(Some(next), page_of(left)).await {
                    Ok(page) => Some(page),
                    Err(problem) => {
                        stats.problem(problem.code());
                        let broken = line(&Broken { error: problem.body() });
                        put(&pieces, broken, &mut sent).await;
                        None
                    }
                };
            }
            stats.answered(Operation::ListStream, 200, started.elapsed(), sent);
            drop(slot);
        });
        Ok(answer)
    }
}

fn page_of(left: u64) -> usize {
    left.min(STREAM_PAGE as u64) as usize
}

/// Hands a piece to the client; false if it is gone.
async fn put(pieces: &mpsc::Sender<Bytes>, piece: Vec<u8>, sent: &mut u64) -> bool {
    *sent += piece.len() as u64;
    pieces.send(piece.into()).await.is_ok()
}

fn dress(headers: &mut HeaderMap, content_type: &'static str, page: &ListPage) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(value) = HeaderValue::try_from(format!("{}/{}", page.agreed, page.replicas)) {
        headers.insert(REPLICAS, value);
    }
}

/// One key.
#[derive(Serialize)]
struct Key<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    siblings: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<Value>>,
}

/// One value of a key.
#[derive(Serialize)]
struct Value {
    vtag: String,
    content_type: Option<String>,
    value_b64: String,
    modified: String,
    expires: Option<String>,
    expires_ms: Option<u64>,
}

/// What closes a page.
#[derive(Serialize)]
struct Close<'a> {
    next: Option<&'a str>,
    progress: f64,
    agreed: u32,
    replicas: u32,
    standins: u32,
}

#[derive(Serialize)]
struct Whole<'a> {
    keys: Vec<Key<'a>>,
    #[serde(flatten)]
    close: Close<'a>,
}

#[derive(Serialize)]
struct Broken<'a> {
    error: &'a kvasir_core::admin_api::Problem,
}

fn key<'a>(page: &ListPage, listed: &'a ListedKey) -> Key<'a> {
    let (siblings, bytes) = listed.counts(page.showing, page.now_ms);
    let text = std::str::from_utf8(&listed.key).ok();
    let values = listed.set.as_ref().map(|set| {
        let outcome = GetOutcome {
            set: set.clone(),
            showing: page.showing,
            token: None,
            agreed: page.agreed,
            replicas: page.replicas,
            now_ms: page.now_ms,
        };
        get::view(&outcome).groups.iter().map(value).collect()
    });
    let key_b64 = text.is_none().then(|| STANDARD.encode(&listed.key));
    Key { key: text, key_b64, siblings, bytes, values }
}

fn value(group: &Group<'_>) -> Value {
    let (bytes, content_type) = match &group.sibling.payload {
        Payload::Value { bytes, content_type } => (bytes.clone(), content_type.clone()),
        Payload::Tombstone => (Bytes::new(), None),
    };
    let expires_ms = group.sibling.expires_ms;
    Value {
        vtag: group.vtag().to_string(),
        content_type,
        value_b64: STANDARD.encode(bytes),
        modified: rfc3339(group.stamp.millis()),
        expires: expires_ms.map(rfc3339),
        expires_ms,
    }
}

fn close(page: &ListPage) -> Close<'_> {
    Close {
        next: page.next.as_deref(),
        // Four digits say enough about how far it is.
        progress: (page.progress * 1e4).floor() / 1e4,
        agreed: page.agreed,
        replicas: page.replicas,
        standins: page.standins,
    }
}

fn whole(page: &ListPage) -> Whole<'_> {
    Whole { keys: page.keys.iter().map(|listed| key(page, listed)).collect(), close: close(page) }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn lines(page: &ListPage) -> Vec<u8> {
    let mut out = Vec::new();
    for listed in &page.keys {
        out.extend_from_slice(&line(&key(page, listed)));
    }
    out.extend_from_slice(&line(&close(page)));
    out
}
