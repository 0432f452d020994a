//! Bucket settings: `GET /v1/buckets`, `GET` and `PUT /v1/buckets/{bucket}`.
//!
//! Reading is open to whoever may read data. Changing is not: settings hold for every client of a
//! bucket, an entry can never be removed, and each change is a step of the cluster document that all
//! nodes store. So `PUT` asks for the token of the admin port, under that port's rule: none on a
//! loopback listener, the bearer token elsewhere. What a change means is decided by
//! [`kvasir_core::ring::buckets`]; here it is read and answered.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response};
use kvasir_core::admin_api::{BucketAnswer, BucketList, problem::code};
use kvasir_core::ring::{BucketName, BucketRefused, SettingsChange};
use serde::Serialize;
use tokio::time::Instant;

use super::Answer;
use super::body::{self, Budget};
use super::content::Content;
use super::limits::HttpLimits;
use super::problem::{Code, Problem};
use super::query;

/// Longest body of a change: all settings have far fewer bytes.
const BODY_MAX_BYTES: usize = 4 * 1024;

/// Bucket settings as the node keeps them. One per worker.
pub trait Buckets {
    /// Whether whoever sent these headers may change settings.
    ///
    /// # Errors
    /// A problem of the admin port, 401 or 403.
    fn may_change(&self, headers: &HeaderMap) -> Result<(), Box<kvasir_core::admin_api::Problem>>;

    /// What holds for one bucket, as this node knows it.
    ///
    /// # Errors
    /// [`SettingsError::NotFormed`].
    fn settings(&self, bucket: BucketName) -> Result<BucketAnswer, SettingsError>;

    /// All buckets with an entry of their own, as this node knows them.
    ///
    /// # Errors
    /// [`SettingsError::NotFormed`].
    fn list(&self) -> Result<BucketList, SettingsError>;

    /// Changes settings of one bucket, and gives it an entry if it has none. Answers when a majority
    /// of the members accepted the change; it goes on when nobody waits any more.
    fn change(
        &self,
        bucket: BucketName,
        change: SettingsChange,
    ) -> LocalBoxFuture<'_, Result<BucketAnswer, SettingsError>>;
}

/// Why settings were not read or changed. Nothing was changed unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// This node belongs to no cluster yet. A retry helps afterwards.
    #[error("this node belongs to no cluster yet")]
    NotFormed,
    /// No such settings can be. A retry does not help.
    #[error(transparent)]
    Refused(#[from] BucketRefused),
    /// The members refuse the change. A retry does not help.
    #[error("{detail}")]
    Illegal {
        /// The rule that it breaks, a stable word.
        rule: String,
        /// For people.
        detail: String,
    },
    /// Too few members answered. A retry is safe, and helps once a majority is up.
    #[error("no majority of the members accepted the change in time")]
    NoMajority {
        /// Whether it may be in force, or come to be.
        may_be_chosen: bool,
    },
    /// Other changes were faster, again and again. A retry helps.
    #[error("other changes of the cluster were faster {0} times in a row")]
    Races(u32),
    /// Too many changes wait already. A retry helps in a moment.
    #[error("too many changes of settings are waiting")]
    Busy,
    /// The node is stopping. Another one can do it.
    #[error("the node is stopping")]
    Stopping,
    /// The node has a fault. A retry does not help.
    #[error("{0}")]
    Internal(String),
}

/// Answers a request for all settings.
pub(super) fn list(head: &Parts, buckets: &dyn Buckets) -> Result<Answer, Problem> {
    no_query(head)?;
    Ok(json(&buckets.list().map_err(|error| problem(&error))?))
}

/// Answers a read of one bucket's settings.
pub(super) fn get(
    head: &Parts,
    bucket: BucketName,
    buckets: &dyn Buckets,
) -> Result<Answer, Problem> {
    no_query(head)?;
    Ok(json(&buckets.settings(bucket).map_err(|error| problem(&error))?))
}

/// Answers a change of one bucket's settings.
pub(super) async fn put<B>(
    (head, body): (Parts, B),
    bucket: BucketName,
    buckets: &dyn Buckets,
    (limits, budget): (&HttpLimits, &Budget),
    started: Instant,
) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    buckets.may_change(&head.headers).map_err(|refused| unauthorised(&refused))?;
    let timeout = timeout(&head, limits)?;
    let deadline = started + timeout;
    let limits = HttpLimits { value_max_bytes: BODY_MAX_BYTES, ..limits.clone() };
    let (text, _taken) =
        body::read(body, &head.headers, &limits, budget, deadline).await.map_err(|problem| {
            match problem.code() {
                Code::ValueTooLarge => problem.next("Send one JSON object of at most 4 KiB."),
                _ => problem,
            }
        })?;
    let change = wanted(&text)?;
    let outcome = tokio::time::timeout_at(deadline, buckets.change(bucket, change)).await;
    let outcome = outcome.unwrap_or(Err(SettingsError::NoMajority { may_be_chosen: true }));
    outcome.map(|answer| json(&answer)).map_err(|error| problem(&error))
}

/// The change in a body; an empty body changes nothing but declares the bucket.
fn wanted(text: &[u8]) -> Result<SettingsChange, Problem> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(SettingsChange::default());
    }
    // Serde takes an array for a struct, field by field: nobody means that.
    if text[0] != b'{' {
        return Err(Problem::new(Code::BadSettings, "the body is not a JSON object"));
    }
    serde_json::from_slice(text).map_err(|error| Problem::new(Code::BadSettings, error.to_string()))
}

fn no_query(head: &Parts) -> Result<(), Problem> {
    match head.uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Problem::new(Code::UnknownQuery, "this route takes no parameters")),
    }
}

/// How long a change is waited for: the only parameter that it takes.
fn timeout(head: &Parts, limits: &HttpLimits) -> Result<Duration, Problem> {
    let mut given = None;
    for pair in head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "timeout" {
            let shown: String = name.chars().take(64).collect();
            let detail = format!("`{shown}` is not a parameter of this request; timeout is");
            let next = "Settings go into the body, as JSON: {\"ttl\": 60}.";
            return Err(Problem::new(Code::UnknownQuery, detail).next(next));
        }
        if given.is_some() {
            return Err(Problem::new(Code::RepeatedQuery, "`timeout` is given more than once"));
        }
        given = Some(query::timeout(value, limits.timeout_max)?);
    }
    Ok(given.unwrap_or(limits.timeout_default))
}

fn json(value: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    let mut answer = Response::new(Content::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn unauthorised(refused: &kvasir_core::admin_api::Problem) -> Problem {
    let code = match refused.code.as_str() {
        code::TOKEN_REQUIRED => Code::TokenRequired,
        _ => Code::TokenRefused,
    };
    let problem = Problem::new(code, refused.detail.clone());
    match code {
        Code::TokenRequired => problem.header(WWW_AUTHENTICATE, "Bearer"),
        _ => problem,
    }
}

fn problem(error: &SettingsError) -> Problem {
    let code = match error {
        SettingsError::NotFormed => Code::NotFormed,
        SettingsError::Refused(BucketRefused::ModeFixed { .. }) => Code::BucketModeFixed,
        SettingsError::Refused(BucketRefused::TooMany) => Code::TooManyBuckets,
        SettingsError::Refused(_) | SettingsError::Illegal { .. } => Code::ImpossibleSettings,
        SettingsError::NoMajority { .. } | SettingsError::Races(_) => Code::NoMajority,
        SettingsError::Busy => Code::Overloaded,
        SettingsError::Stopping => Code::NotServing,
        SettingsError::Internal(_) => Code::Internal,
    };
    let problem = Problem::new(code, error.to_string());
    match error {
        SettingsError::Refused(BucketRefused::ModeFixed { mode, .. }) => {
            problem.with("mode", serde_json::to_value(mode).unwrap_or_default())
        }
        SettingsError::Refused(BucketRefused::TooMany) => {
            problem.with("limit", kvasir_core::ring::check::MAX_BUCKETS as u64)
        }
        SettingsError::Illegal { rule, .. } => problem.with("rule", rule.as_str()),
        SettingsError::NoMajority { may_be_chosen } => {
            problem.with("may_be_chosen", *may_be_chosen).retry_after_ms(1_000)
        }
        SettingsError::Races(_) => problem.with("may_be_chosen", false).retry_after_ms(1_000),
        SettingsError::Busy | SettingsError::NotFormed | SettingsError::Stopping => {
            problem.retry_after_ms(1_000)
        }
        _ => problem,
    }
}
