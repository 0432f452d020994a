//! One request of the client API from its head to its answer.
//!
//! The order is: path, query, headers, whether the worker takes on more, body, conditions, coordinator. So
//! whatever is wrong with a head is said before its body is read in, and nothing reaches the coordinator half
//! checked. A worker that has too much in work, or is behind, says so (`overloaded`) before it reads a body,
//! and once more after it: while a body comes in its request holds no place, so that slow clients keep nobody
//! out.
//!
//! Conditions on writes are a read followed by the write. They are best effort, as in other stores
//! without locks: a write that slips in between is not lost but becomes a sibling. For that, a
//! conditional write without a token takes the token of the read that judged it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request};
use tokio::time::Instant;

use super::Answer;
use super::batch::{self, Terms};
use super::body::{self, Budget};
use super::buckets::{self, Buckets};
use super::get::{self, Wishes};
use super::headers::{self, Conditions, Verdict};
use super::limits::HttpLimits;
use super::list::{self, Listing, Slots};
use super::path::{self, Action, Route};
use super::problem::{Code, Problem};
use super::query::{self, Asked, Query};
use super::server::Handler;
use super::stats::{HttpStats, Operation, Raised};
use super::write;
use crate::coordinator::batch::AT_ONCE;
use crate::coordinator::request::{Coordinator, DeleteRequest, GetOutcome, GetRequest, PutRequest};
use crate::pressure::{Full, Permit, Pressure, Share, Work};

/// The client API over one coordinator; one per worker.
pub struct Api<C> {
    coordinator: Rc<C>,
    buckets: Rc<dyn Buckets>,
    limits: HttpLimits,
    budget: Budget,
    lists: Slots,
    stats: Arc<HttpStats>,
    pressure: Rc<Pressure>,
}

/// What a request for one key, or a page of a list, weighs.
const ONE: Share = Share { count: 1, bytes: 0 };
/// What a batch weighs: as many as it works on at once.
const BATCH: Share = Share { count: AT_ONCE, bytes: 0 };

/// A key request after its head was read.
struct KeyRequest {
    bucket: Bytes,
    key: Bytes,
    query: Query,
    deadline: Instant,
}

impl<C: Coordinator + 'static> Api<C> {
    /// The API with its own body budget. `pressure` is that of its worker.
    pub fn new(
        coordinator: Rc<C>,
        buckets: Rc<dyn Buckets>,
        limits: HttpLimits,
        stats: Arc<HttpStats>,
        pressure: Rc<Pressure>,
    ) -> Self {
        let budget = Budget::new(limits.bodies_max_bytes, stats.clone());
        Self { coordinator, buckets, limits, budget, lists: Slots::default(), stats, pressure }
    }

    /// Refuses early what would not be taken on.
    fn judge(&self, weight: Share) -> Result<(), Problem> {
        self.pressure.judge(Work::Client, weight).map_err(|full| self.overloaded(full))
    }

    fn enter(&self, weight: Share) -> Result<Permit, Problem> {
        self.pressure.enter(Work::Client, weight).map_err(|full| self.overloaded(full))
    }

    fn overloaded(&self, full: Full) -> Problem {
        let detail = match full {
            Full::Count | Full::Bytes => "as many requests as may be are being answered",
            Full::Behind => "requests come in faster than they can be answered",
        };
        let problem = Problem::new(Code::Overloaded, detail).with("may_be_stored", false);
        problem.retry_after_ms(self.pressure.pause_ms()).not_begun()
    }

    /// Answers one request, and counts it.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let started = Instant::now();
        let _in_flight = Raised::by_one(&self.stats.in_flight);
        let (head, body) = request.into_parts();
        let (operation, answer) = match path::route(&head.method, head.uri.path()) {
            Ok(Route::Key { bucket, key, action }) => {
                let operation = match action {
                    Action::Get => Operation::Get,
                    Action::Put => Operation::Put,
                    Action::Delete => Operation::Delete,
                };
                (operation, self.key(head, body, (bucket, key), action, started).await)
            }
            Ok(Route::List { bucket }) => (Operation::List, self.list(&head, bucket).await),
            Ok(Route::Batch) => (Operation::Batch, self.batch(&head, body, started).await),
            Ok(Route::Buckets) => (Operation::Bucket, buckets::list(&head, &*self.buckets)),
            Ok(Route::Bucket { bucket, change: false }) => {
                (Operation::Bucket, buckets::get(&head, bucket, &*self.buckets))
            }
            Ok(Route::Bucket { bucket, change: true }) => {
                let bounds = (&self.limits, &self.budget);
                let put = buckets::put((head, body), bucket, &*self.buckets, bounds, started);
                (Operation::Bucket, put.await)
            }
            Err(problem) => (Operation::Other, Err(problem)),
        };
        // What was refused early says nothing of how long requests take.
        let begun = answer.as_ref().err().is_none_or(Problem::was_begun);
        let operation = if begun { operation } else { Operation::Other };
        let answer = answer.unwrap_or_else(|problem| problem.answer());
        if answer.body().is_in_pieces() {
            // Counted at its end, by whoever makes the pieces.
            return answer;
        }
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        self.stats.answered(operation, answer.status().as_u16(), started.elapsed(), bytes);
        answer
    }

    async fn key<B>(
        &self,
        head: Parts,
        body: B,
        (bucket, key): (Bytes, Bytes),
        action: Action,
        started: Instant,
    ) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let query = query::parse(head.uri.query(), action, self.limits.timeout_max)?;
        let deadline = started + query.timeout.unwrap_or(self.limits.timeout_default);
        let request = KeyRequest { bucket, key, query, deadline };
        match action {
            Action::Get => self.get(request, &head.headers).await,
            Action::Put => self.put(request, &head.headers, body).await,
            Action::Delete => self.delete(request, &head.headers).await,
        }
    }

    async fn list(&self, head: &Parts, bucket: Bytes) -> Result<Answer, Problem> {
        let query = query::parse(head.uri.query(), Asked::List, self.limits.timeout_max)?;
        let timeout = query.timeout.unwrap_or(self.limits.timeout_default);
        let lines = list::wants_lines(&head.headers) && head.method != Method::HEAD;
        let _permit = self.enter(ONE)?;
        let coordinator = self.coordinator.clone();
        let listing = Listing { coordinator, bucket, query, timeout };
        listing.answer(lines, &self.lists, &self.stats).await
    }

    async fn batch<B>(&self, head: &Parts, body: B, started: Instant) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let query = query::parse(head.uri.query(), Asked::Batch, self.limits.timeout_max)?;
        let deadline = started + query.timeout.unwrap_or(self.limits.timeout_default);
        self.judge(BATCH)?;
        let value_max_bytes = self.limits.value_max_bytes;
        let limits = HttpLimits { value_max_bytes: batch::BODY_MAX_BYTES, ..self.limits.clone() };
        let read = body::read(body, &head.headers, &limits, &self.budget, deadline).await;
        let (body, _taken) = read.map_err(batch::too_long)?;
        let bytes = &self.stats.of(Operation::Batch).request_bytes;
        bytes.fetch_add(body.len() as u64, Relaxed);
        let items = batch::items(&body)?;
        let _permit = self.enter(BATCH)?;
        let terms = Terms { query, value_max_bytes, deadline };
        Ok(batch::answer(&*self.coordinator, items, &terms).await)
    }

    async fn get(&self, request: KeyRequest, headers: &HeaderMap) -> Result<Answer, Problem> {
        let wishes = Wishes {
            vtag: request.query.vtag,
            conditions: Conditions::parse(headers)?,
            form: headers::sibling_form(headers),
        };
        let _permit = self.enter(ONE)?;
        let outcome = self.look(&request, false).await?;
        if get::view(&outcome).groups.len() > 1 {
            self.stats.conflicts_shown.fetch_add(1, Relaxed);
        }
        Ok(get::answer(&outcome, &wishes))
    }

    async fn put<B>(
        &self,
        request: KeyRequest,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let token = headers::token(headers)?;
        let content_type = headers::content_type(headers)?;
        let conditions = Conditions::parse(headers)?;
        let form = headers::sibling_form(headers);
        self.judge(ONE)?;
        let (value, _taken) =
            body::read(body, headers, &self.limits, &self.budget, request.deadline).await?;
        let _permit = self.enter(ONE)?;
        self.stats.of(Operation::Put).request_bytes.fetch_add(value.len() as u64, Relaxed);
        let token = self.judged(&request, &conditions, token).await?;
        let KeyRequest { bucket, key, query, deadline } = request;
        let put = PutRequest {
            bucket,
            key,
            value,
            content_type,
            token,
            w: query.w,
            life: query.life,
            sloppy: query.sloppy,
            durability: query.durability,
            return_set: query.returnbody,
            deadline,
        };
        match self.coordinator.put(put).await {
            Ok(outcome) => Ok(write::put_answer(&outcome, form)),
            Err(error) => Err(write::problem(&error, true)),
        }
    }

    async fn delete(&self, request: KeyRequest, headers: &HeaderMap) -> Result<Answer, Problem> {
        let token = headers::token(headers)?;
        let conditions = Conditions::parse(headers)?;
        let _permit = self.enter(ONE)?;
        let token = self.judged(&request, &conditions, token).await?;
        let KeyRequest { bucket, key, query, deadline } = request;
        let delete = DeleteRequest {
            bucket,
            key,
            token,
            w: query.w,
            sloppy: query.sloppy,
            durability: query.durability,
            deadline,
        };
        match self.coordinator.delete(delete).await {
            Ok(outcome) => Ok(write::delete_answer(&outcome)),
            Err(error) => Err(write::problem(&error, true)),
        }
    }

    /// Judges the conditions of a write; returns the token to write with.
    async fn judged(
        &self,
        request: &KeyRequest,
        conditions: &Conditions,
        token: Option<String>,
    ) -> Result<Option<String>, Problem> {
        if conditions.is_empty() {
            return Ok(token);
        }
        let outcome = self.look(request, true).await?;
        let tag = get::view(&outcome).etag().map(|etag| etag.to_string());
        let failed = match conditions.judge(tag.as_deref()) {
            Verdict::Hold => return Ok(token.or(outcome.token)),
            Verdict::MatchFailed => "If-Match names another state than the present one",
            Verdict::NoneMatchFailed => "If-None-Match names the present state",
        };
        let mut problem =
            Problem::new(Code::PreconditionFailed, failed).with("may_be_stored", false);
        if let Some(token) = &outcome.token {
            problem = problem.header(headers::CONTEXT, token);
        }
        Err(problem)
    }

    async fn look(&self, request: &KeyRequest, for_write: bool) -> Result<GetOutcome, Problem> {
        let get = GetRequest {
            bucket: request.bucket.clone(),
            key: request.key.clone(),
            r: request.query.r,
            sloppy: request.query.sloppy,
            deadline: request.deadline,
        };
        self.coordinator.get(get).await.map_err(|error| write::problem(&error, for_write))
    }
}

impl<C: Coordinator + 'static> Handler for Api<C> {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Answer {
        self.answer(request).await
    }
}
