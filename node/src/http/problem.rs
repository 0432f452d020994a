//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! One table names every code with its status, its title and what to do next. A code never changes
//! its meaning; programs match on it and people read `detail` and `hint`. Bodies name parameters,
//! limits and states, never keys, values or tokens. The admin port has a table of its own beside
//! the body that both share, [`kvasir_core::admin_api::Problem`].

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use kvasir_core::admin_api;
use serde_json::Value;

use super::Answer;
use super::content::Content;

/// One row of the table: the Rust name, the code, the status, the title, what to do next.
macro_rules! codes {
    ($($name:ident $code:literal $status:literal $title:literal $next:literal)*) => {
        /// Every code that the client port answers with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            fn row(self) -> (&'static str, u16, &'static str, &'static str) {
                match self {
                    $(Code::$name => ($code, $status, $title, $next),)*
                }
            }
        }
    };
}

codes! {
    MalformedRequest "malformed_request" 400 "The request is not well-formed HTTP/1.1."
        "Send one well-formed HTTP/1.1 request; this connection was closed."
    BadPercentEncoding "bad_percent_encoding" 400 "The path holds a broken percent escape."
        "Write every escape as % and two hexadecimal digits; a plain percent sign is %25."
    EmptyKey "empty_key" 400 "The key is empty."
        "Use /v1/kv/{bucket}/{key} with a key of at least one byte."
    KeyTooLong "key_too_long" 400 "The key is too long."
        "Use a key of at most 4,096 bytes after percent-decoding."
    BadBucket "bad_bucket" 400 "The bucket name cannot be used."
        "Use a bucket name of 1 to 255 bytes, for example `default`."
    UnknownQuery "unknown_query" 400 "The query holds a parameter that this route does not know."
        "Leave the parameter out or correct its name."
    RepeatedQuery "repeated_query" 400 "A query parameter is given twice."
        "Give each parameter once."
    BadQueryValue "bad_query_value" 400 "A query parameter has a value that breaks its rule."
        "Correct the value as the detail says."
    BadHeader "bad_header" 400 "A request header cannot be used."
        "Correct the header as the detail says."
    BadBody "bad_body" 400 "The request body is broken or incomplete."
        "Send the whole body, framed by Content-Length or chunked coding."
    BadContext "bad_context" 400 "The causal token cannot be used for this key."
        "Read the key again and send the X-Kvasir-Context of that answer, unchanged."
    ContextRefused "context_refused" 400 "The causal token names a write that was never made."
        "Read the key again and send the X-Kvasir-Context of that answer."
    BadCursor "bad_cursor" 400 "The cursor cannot be used for this list."
        "Send the cursor exactly as received, with the same bucket and prefix, or begin anew without one."
    BadBatch "bad_batch" 400 "The body is no batch; nothing was done."
        "Send a JSON array of items, or one item a line: {\"op\":\"get\",\"bucket\":\"b\",\"key\":\"k\"}."
    BadItem "bad_item" 400 "This item of the batch cannot be used."
        "Correct the item as the detail says; the other items were done."
    BadLevel "bad_level" 400 "The key does not have the replicas that r or w asks for."
        "Ask for at most as many replicas as the key has, or for one, quorum or all; for a local level use a node in a data center that holds copies."
    NotFound "not_found" 404 "Nothing is stored under this key."
        "If X-Kvasir-Context is present, send it with the next write."
    NoSuchSibling "no_such_sibling" 404 "No sibling of this key has this vtag."
        "Read the key without vtag to see its siblings of now."
    BadSettings "bad_settings" 400 "The settings cannot be read."
        "Send a JSON object with some of r, w, durability, sloppy, ttl (seconds or null) and mode."
    TokenRequired "token_required" 401 "A bearer token is required."
        "Send `Authorization: Bearer TOKEN` with the token of admin.token_file, or use a loopback listener."
    TokenRefused "token_refused" 403 "The bearer token was refused."
        "Use the token of admin.token_file, or a loopback listener of the node."
    UnknownRoute "unknown_route" 404 "There is no such route."
        "Keys are under /v1/kv/{bucket}/{key}, settings under /v1/buckets/{bucket}."
    MethodNotAllowed "method_not_allowed" 405 "The route does not take this method."
        "Use one of the methods in Allow."
    RequestTimeout "request_timeout" 408 "The request came in too slowly."
        "Send the whole request at once; this connection was closed."
    Siblings "siblings" 409 "The key has several concurrent values."
        "Read with `Accept: application/json` or `multipart/mixed`, resolve them, and write the result with this X-Kvasir-Context."
    TooManySiblings "too_many_siblings" 409 "The key has as many concurrent values as it may have."
        "Read the key, resolve its siblings, and write the result with the X-Kvasir-Context of that read."
    BucketModeFixed "bucket_mode_fixed" 409 "The bucket was declared with the other mode."
        "Use another bucket for the other mode; the mode of this one stays as it was declared."
    TooManyBuckets "too_many_buckets" 409 "As many buckets are declared as may be."
        "Share a bucket's settings among kinds of data, or let the defaults hold: a bucket needs no entry."
    PreconditionFailed "precondition_failed" 412 "The key is not in the state that If-Match or If-None-Match asks for."
        "Read the key again and decide anew."
    ValueTooLarge "value_too_large" 413 "The value is too large."
        "Send a smaller value, or raise http.value_max_bytes on every node."
    BatchTooLarge "batch_too_large" 413 "The batch is too large."
        "Send fewer items, or values of their own by PUT: at most 1,000 items and 8 MiB."
    UriTooLong "uri_too_long" 414 "The request target is too long."
        "Use a key of at most 4,096 bytes."
    ImpossibleSettings "impossible_settings" 422 "No bucket of this cluster can have these settings."
        "Correct the settings as the detail says."
    Overloaded "overloaded" 503 "The node has too much in flight; nothing was applied."
        "Try again after the pause in Retry-After, or use another node."
    HeaderTooLarge "header_too_large" 431 "The request head is too large."
        "Keep all headers together under 96 KiB, in at most 100 fields."
    Internal "internal" 500 "The node could not answer because of a fault in itself."
        "Report it with the node's log; whether a write was applied is unknown."
    UnsupportedOperation "unsupported_operation" 501 "This operation is not part of this version."
        "Use GET, HEAD, PUT and DELETE on /v1/kv/{bucket}/{key}, GET on /v1/kv/{bucket}, POST on /v1/batch."
    TooManyConnections "too_many_connections" 503 "The node has as many connections as it may have."
        "Use fewer connections, or another node."
    QuorumNotReached "quorum_not_reached" 503 "Too few replicas answered."
        "Try again when nodes are back, or ask for less (r, w, sloppy=true)."
    NoMajority "no_majority" 503 "Too few members accepted the change in time."
        "Read the settings, then try again when more members are up; the same change again does no harm."
    DiskFailed "disk_failed" 503 "A disk failed under this node."
        "Use another node; replace this one's volume."
    NotFormed "not_formed" 503 "The cluster is not formed yet."
        "Form it once by POST /v1/cluster/init on the admin port."
    NotServing "not_serving" 503 "This node does not serve requests now."
        "Use another node."
    StandInsFull "standins_full" 503 "Too few owners are up and the stand-ins keep as much as they may; nothing was applied."
        "Try again when nodes are back, or raise handoff.standins_max_bytes on the nodes that are up."
    Deadline "deadline" 504 "The deadline passed before enough replicas answered."
        "Try again, or allow more time with timeout=."
    DiskFull "disk_full" 507 "The disks of the key's replicas are full."
        "Make room or add nodes; reads and deletes still work."
}

impl Code {
    /// The code as text, stable for ever.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Its HTTP status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The table as rows of (code, status, title), for documentation tests.
    pub fn table() -> impl Iterator<Item = (&'static str, u16, &'static str)> {
        Self::ALL.iter().map(|code| (code.row().0, code.row().1, code.row().2))
    }
}

/// One error answer: the body that all ports share, and what goes with it on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    code: Code,
    close: bool,
    begun: bool,
    // Boxed, so that the answers that are no errors do not pay for its size.
    body: Box<admin_api::Problem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with what went wrong in this very request.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (name, status, title, next) = code.row();
        let body = admin_api::Problem::new(name, detail).with_status(status, title).hint(next);
        Self { code, close: false, begun: true, body: Box::new(body), headers: Vec::new() }
    }

    /// Replaces the table's advice.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        *self.body = self.body.hint(next);
        self
    }

    /// Adds a field to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        *self.body = self.body.fact(name, value);
        self
    }

    /// Adds a header. A value that no header can carry is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds `Retry-After`, in whole seconds of at least 1.
    #[must_use]
    pub fn retry_after_ms(self, pause_ms: u64) -> Self {
        let seconds = pause_ms.div_ceil(1_000).max(1);
        self.header(RETRY_AFTER, &seconds.to_string())
    }

    /// Closes the connection after the answer, because the framing of what follows is lost or
    /// not worth reading.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Says that the node refused the request before it began with it.
    #[must_use]
    pub fn not_begun(mut self) -> Self {
        self.begun = false;
        self
    }

    /// Whether the node had begun with the request.
    pub fn was_begun(&self) -> bool {
        self.begun
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The body alone, for an answer that holds several.
    pub fn body(&self) -> &admin_api::Problem {
        &self.body
    }

    /// What went wrong in this very request.
    pub fn detail(&self) -> &str {
        &self.body.detail
    }

    /// The whole answer. Its extensions carry the [`Code`], for whoever counts.
    pub fn answer(&self) -> Answer {
        let mut answer = body_answer(&self.body);
        answer.extensions_mut().insert(self.code);
        let headers = answer.headers_mut();
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// A problem body as an answer with its status.
pub fn body_answer(body: &admin_api::Problem) -> Answer {
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut answer = Response::new(Content::from(text));
    let status = StatusCode::from_u16(body.status);
    *answer.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = HeaderValue::from_static(admin_api::problem::MEDIA_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut seen = BTreeSet::new();
        for (code, status, title) in Code::table() {
            assert!(seen.insert(code), "{code} stands twice in the table");
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
            assert!((400..=511).contains(&status), "{code}: {status}");
            assert!(title.ends_with('.'), "{code}: {title}");
        }
        assert_eq!(seen.len(), Code::ALL.len());
    }

    #[test]
    fn a_problem_carries_everything() {
        let problem = Problem::new(Code::QuorumNotReached, "1 of 2 required replicas answered")
            .with("acks", 1)
            .with("may_be_stored", true)
            .retry_after_ms(1_001)
            .close();
        let answer = problem.answer();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["connection"], "close");
        let body = serde_json::to_value(&*problem.body).unwrap();
        assert_eq!(body["code"], "quorum_not_reached");
        assert_eq!(body["acks"], 1);
        assert_eq!(body["may_be_stored"], true);
        assert_eq!(body["status"], 503);
        assert!(body["hint"].as_str().unwrap().contains("Try again"));
    }
}
