//! From a request on the admin port to its answer.
//!
//! [`kvasir_core::admin_api::routes::ROUTES`] is the only list of routes: what is not in it does not
//! exist, who may call it stands there, and what it marks as not built answers 501. The order is:
//! route, access, query, body, backend.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode};
use kvasir_core::admin_api::operations::BUILT;
use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::routes::{self, ROUTES, Route};
use kvasir_core::admin_api::{
    OperationPlan, OperationRequest, Probe, Problem, routes::Access as By,
};
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::access::Access;
use super::backend::{AdminBackend, Answered};
use super::metrics;
use crate::http::Answer;
use crate::http::body::{self, Budget};
use crate::http::content::Content;
use crate::http::limits::HttpLimits;
use crate::http::path::unescape;
use crate::http::problem::{Code, body_answer};
use crate::http::server::Handler;

/// Largest body: a cluster document with 64 K partitions has a few MiB.
const BODY_MAX_BYTES: usize = 16 << 20;
/// Longest that a change of the document is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The admin port over a backend.
pub struct Admin<B> {
    backend: Rc<B>,
    access: Access,
    limits: HttpLimits,
    budget: Budget,
}

impl<B: AdminBackend> Admin<B> {
    /// The port of one listener, with the access rule that belongs to its address.
    pub fn new(backend: Rc<B>, access: Access) -> Self {
        let limits = Self::limits();
        let budget = Budget::new(limits.bodies_max_bytes, Arc::default());
        Self { backend, access, limits, budget }
    }

    /// The bounds of the port's connections.
    pub fn limits() -> HttpLimits {
        HttpLimits {
            value_max_bytes: BODY_MAX_BYTES,
            connections_max: 256,
            bodies_max_bytes: 2 * BODY_MAX_BYTES,
            ..HttpLimits::default()
        }
    }

    /// Answers one request.
    pub async fn answer<R>(&self, request: Request<R>) -> Answer
    where
        R: Body<Data = Bytes>,
        R::Error: std::fmt::Display,
    {
        let (head, body) = request.into_parts();
        let route = match find(head.method.as_str(), head.uri.path()) {
            Ok(route) => route,
            Err(problem) => return refusal(&problem, head.uri.path()),
        };
        let (path, may_see_secrets) =
            (head.uri.path().to_owned(), self.access.check(&head.headers));
        let allowed = if route.access == By::Token { may_see_secrets.clone() } else { Ok(()) };
        let answered = match allowed {
            Ok(()) if !route.built => Err(unsupported("this route")),
            Ok(()) => self.call(route, &head, body, may_see_secrets.is_ok()).await,
            Err(problem) => Err(problem),
        };
        answered.unwrap_or_else(|problem| refusal(&problem, &path))
    }

    async fn call<R>(
        &self,
        route: &Route,
        head: &Parts,
        body: R,
        may_see_secrets: bool,
    ) -> Answered<Answer>
    where
        R: Body<Data = Bytes>,
        R::Error: std::fmt::Display,
    {
        let backend = &self.backend;
        let flag = |name| flag(head.uri.query(), name);
        match (route.method, route.path) {
            (_, routes::LIVEZ) => Ok(probe(&backend.livez(), flag("verbose")?)),
            (_, routes::READYZ) => Ok(probe(&backend.readyz(), flag("verbose")?)),
            (_, routes::STARTUPZ) => Ok(probe(&backend.startupz(), flag("verbose")?)),
            (_, routes::OPERATIONS) => {
                let dry_run = flag("dryRun")?;
                let request: OperationRequest = self.read(body, &head.headers).await?;
                self.operate(request, dry_run).await
            }
            _ => {
                no_query(head.uri.query())?;
                self.plain(route, head, body, may_see_secrets).await
            }
        }
    }

    /// The routes that take no query.
    async fn plain<R>(
        &self,
        route: &Route,
        head: &Parts,
        body: R,
        may_see_secrets: bool,
    ) -> Answered<Answer>
    where
        R: Body<Data = Bytes>,
        R::Error: std::fmt::Display,
    {
        let backend = &self.backend;
        match (route.method, route.path) {
            (_, routes::METRICS) => metrics_page(backend.as_ref()),
            (_, routes::STATUS) => Ok(json(&patient(backend.status()).await?)),
            ("GET", routes::DOCUMENT) => {
                let mut answer = backend.document()?;
                if !may_see_secrets && let Some(secret) = answer.document.get_mut("tokenSecret") {
                    *secret = "".into();
                }
                Ok(json(&answer))
            }
            ("PUT", routes::DOCUMENT) => {
                let put = self.read(body, &head.headers).await?;
                Ok(json(&patient(backend.put_document(put)).await?))
            }
            (_, routes::INIT) => {
                let request = self.read(body, &head.headers).await?;
                Ok(json(&patient(backend.init(request)).await?))
            }
            ("GET", routes::OPERATION) => {
                let id = last_segment(head.uri.path(), "/v1/operations/")?;
                Ok(json(&backend.operation(&id)?))
            }
            ("GET", routes::REPAIR) => Ok(json(&backend.repair_status())),
            ("POST", routes::REPAIR) => {
                let status = backend.post_repair(self.read(body, &head.headers).await?)?;
                let mut answer = json(&status);
                *answer.status_mut() = StatusCode::ACCEPTED;
                Ok(answer)
            }
            ("DELETE", routes::OPERATION) => {
                let id = last_segment(head.uri.path(), "/v1/operations/")?;
                Ok(json(&patient(backend.cancel_operation(id)).await?))
            }
            (_, routes::REPLICA) => {
                let (bucket, key) = bucket_and_key(head.uri.path())?;
                Ok(json(&patient(backend.replica_read(bucket, key)).await?))
            }
            _ => Err(unsupported("this route")),
        }
    }

    async fn operate(&self, request: OperationRequest, dry_run: bool) -> Answered<Answer> {
        request.validate().map_err(Box::new)?;
        if dry_run && request.moves_data() && !OperationPlan::is_planned(request.kind) {
            let mut problem = unsupported("the plan of this kind of operation");
            *problem = problem.hint(BUILT);
            return Err(problem);
        }
        if dry_run {
            return Ok(json(&patient(self.backend.plan_operation(request)).await?));
        }
        Ok(json(&patient(self.backend.post_operation(request)).await?))
    }

    /// Reads a JSON body.
    async fn read<T, R>(&self, body: R, headers: &HeaderMap) -> Answered<T>
    where
        T: DeserializeOwned,
        R: Body<Data = Bytes>,
        R::Error: std::fmt::Display,
    {
        let deadline = Instant::now() + PATIENCE;
        let read = body::read(body, headers, &self.limits, &self.budget, deadline).await;
        let (bytes, _taken) = read.map_err(|problem| {
            let code = match problem.code() {
                Code::ValueTooLarge => code::BODY_TOO_LARGE,
                Code::Overloaded => code::UNAVAILABLE,
                _ => code::MALFORMED_BODY,
            };
            Box::new(Problem::new(code, problem.detail()))
        })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Box::new(Problem::new(
                code::MALFORMED_BODY,
                format!("the body is not the JSON that this route takes: {error}"),
            ))
        })
    }
}

impl<B: AdminBackend + 'static> Handler for Admin<B> {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Answer {
        self.answer(request).await
    }
}

/// The route of a method and a raw path; `HEAD` is `GET` without the body.
fn find(method: &str, path: &str) -> Answered<&'static Route> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut fitting = ROUTES.iter().filter(|route| fits(route.path, path)).peekable();
    if fitting.peek().is_none() {
        return Err(Box::new(Problem::new(code::UNKNOWN_ROUTE, "the admin port has no such path")));
    }
    fitting.find(|route| route.method == method).ok_or_else(|| {
        let detail = format!("this path takes {}", allowed(path));
        Box::new(Problem::new(code::METHOD_NOT_ALLOWED, detail))
    })
}

fn allowed(path: &str) -> String {
    let fitting = ROUTES.iter().filter(|route| fits(route.path, path));
    fitting.map(|route| route.method).collect::<Vec<_>>().join(", ")
}

/// Whether a path fits a pattern: a segment in braces is any non-empty one, and the last may hold
/// slashes where it is a key.
fn fits(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for part in pattern.split('/') {
        match segments.next() {
            Some(_) if part == "{key}" => return true,
            Some(segment) if part.starts_with('{') && !segment.is_empty() => {}
            Some(segment) if segment == part => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// `?name`, `?name=true` or `?name=false`; anything else is refused.
fn flag(query: Option<&str>, name: &str) -> Answered<bool> {
    let mut set = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let value = match pair.split_once('=').unwrap_or((pair, "true")) {
            (given, "true") if given == name => true,
            (given, "false") if given == name => false,
            (given, _) if given == name => {
                return Err(bad_query(format!("`{name}` must be true or false")));
            }
            _ => return Err(bad_query(format!("only `{name}` is a parameter here"))),
        };
        if set.replace(value).is_some() {
            return Err(bad_query(format!("`{name}` is given more than once")));
        }
    }
    Ok(set.unwrap_or(false))
}

fn no_query(query: Option<&str>) -> Answered<()> {
    match query.unwrap_or_default() {
        "" => Ok(()),
        _ => Err(bad_query("this route takes no parameters".to_owned())),
    }
}

fn bad_query(detail: String) -> Box<Problem> {
    Box::new(Problem::new(code::BAD_QUERY, detail))
}

fn bad_path(detail: &str) -> Box<Problem> {
    Box::new(Problem::new(code::BAD_PATH, detail))
}

fn unsupported(what: &str) -> Box<Problem> {
    let detail = format!("{what} is not part of this version");
    Box::new(Problem::new(code::UNSUPPORTED_OPERATION, detail))
}

fn last_segment(path: &str, prefix: &str) -> Answered<String> {
    let raw = path.strip_prefix(prefix).unwrap_or_default();
    let bytes = unescape(raw.as_bytes()).ok_or_else(|| bad_path("a percent escape is broken"))?;
    let text = String::from_utf8(bytes.into_owned()).map_err(|_| bad_path("not UTF-8"))?;
    if text.len() > 64 { Err(bad_path("an id has at most 64 bytes")) } else { Ok(text) }
}

fn bucket_and_key(path: &str) -> Answered<(Bytes, Bytes)> {
    let rest = path.strip_prefix("/v1/replica/").unwrap_or_default();
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let decode = |text: &str| {
        let bytes = unescape(text.as_bytes()).map(|bytes| Bytes::from(bytes.into_owned()));
        bytes.ok_or_else(|| bad_path("a percent escape is broken"))
    };
    let (bucket, key) = (decode(bucket)?, decode(key)?);
    if !(1..=BUCKET_MAX_BYTES).contains(&bucket.len()) {
        return Err(bad_path("a bucket name has 1 to 255 bytes"));
    }
    if !(1..=KEY_MAX_BYTES).contains(&key.len()) {
        return Err(bad_path("a key has 1 to 4,096 bytes"));
    }
    Ok((bucket, key))
}

/// Waits for the backend, but not for ever. What it was doing goes on or not; the answer says so.
async fn patient<T>(answer: impl Future<Output = Answered<T>>) -> Answered<T> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
        let detail = "the node gave no answer within 30 s; a change may still be chosen";
        let hint = "read /v1/cluster/document before trying again";
        Err(Box::new(Problem::new(code::UNAVAILABLE, detail).hint(hint)))
    })
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            content(StatusCode::OK, "application/json", body)
        }
        Err(error) => {
            let detail = format!("the answer cannot be written as JSON: {error}");
            body_answer(&Problem::new(code::INTERNAL, detail))
        }
    }
}

fn content(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Content::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn probe(probe: &Probe, verbose: bool) -> Answer {
    let mut answer = if verbose {
        json(probe)
    } else {
        content(StatusCode::OK, "text/plain; charset=utf-8", probe.plain().into_bytes())
    };
    let status = StatusCode::from_u16(probe.http_status());
    *answer.status_mut() = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    answer
}

fn metrics_page(backend: &impl AdminBackend) -> Answered<Answer> {
    let page = metrics::page(&backend.figures()).map_err(|error| {
        Box::new(Problem::new(code::INTERNAL, format!("the metrics cannot be written: {error}")))
    })?;
    Ok(content(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.into_bytes()))
}

/// A problem with the headers that belong to its status.
fn refusal(problem: &Problem, path: &str) -> Answer {
    let mut answer = body_answer(problem);
    let headers = answer.headers_mut();
    match problem.status {
        401 => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        405 => {
            if let Ok(value) = HeaderValue::try_from(allowed(path)) {
                headers.insert(ALLOW, value);
            }
        }
        503 => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    answer
}
