//! An API server in memory, behind a [`kube::Client`]: no socket, no process, no wall clock.
//!
//! It keeps what an operator can depend on: one revision counter, optimistic locking, uids and
//! preconditions, server-side apply with owners of fields, subresources for status and scale,
//! evictions under disruption budgets, finalizers, watches that may lag behind. Requests are
//! carried out one at a time under one lock, so the order of the audit is the order of effects.

pub mod admission;
pub mod failure;
pub mod fields;
pub mod kinds;
pub mod process;
pub mod selector;
pub mod store;
pub mod verbs;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::http;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Notify;

use failure::{Answer, Failure};
use kinds::{Kind, Target, by_plural};
use process::Process;
use store::{Key, Store};
use verbs::Request;

/// One request that was carried out or refused.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which life sent it.
    pub process: String,
    /// The verb as a Role names it.
    pub verb: &'static str,
    /// What it was about.
    pub target: Target,
    /// The body.
    pub body: Value,
    /// The code of the refusal, if it was refused.
    pub refused: Option<u16>,
}

impl Call {
    /// `verb plural[/subresource] name`, for messages.
    pub fn words(&self) -> String {
        let Target { kind, name, subresource, .. } = &self.target;
        let under = if subresource.is_empty() { "" } else { "/" };
        let body_name = self.body["metadata"]["name"].as_str();
        let name = name.as_deref().or(body_name).unwrap_or("");
        let refused = self.refused.map_or(String::new(), |code| format!(" -> {code}"));
        format!("{} {}{under}{subresource} {name}{refused}", self.verb, kind.plural)
    }
}

fn counts(verb: &str, kind: Kind) -> bool {
    !["get", "list", "watch"].contains(&verb) && !["Event", "Lease"].contains(&kind.name)
}

/// What looks at every request before it is carried out; says what is wrong with it.
pub type Guard = Box<dyn Fn(&Call, &Store) -> Option<String> + Send>;

/// A refusal to inject: of requests that match, so many times.
pub struct Fault {
    /// Verb as a Role names it.
    pub verb: &'static str,
    /// Plural of the kind.
    pub plural: &'static str,
    /// How many requests it still hits.
    pub times: usize,
    /// What they get.
    pub failure: Failure,
}

/// All that the server knows.
#[derive(Default)]
pub struct State {
    /// The objects.
    pub store: Store,
    /// Every request, in order.
    pub calls: Vec<Call>,
    /// Refusals to come.
    pub faults: Vec<Fault>,
    /// What must never be asked.
    pub guards: Vec<Guard>,
    /// What was asked all the same.
    pub violations: Vec<String>,
}

/// The server.
#[derive(Default)]
pub struct Api {
    state: Mutex<State>,
    /// Told after every request that may have changed something.
    pub changed: Notify,
}

impl Api {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What it knows, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panics")
    }

    /// A client whose requests are those of `process`.
    pub fn client(self: &Arc<Self>, process: &Arc<Process>) -> kube::Client {
        let (api, process) = (Arc::clone(self), Arc::clone(process));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (api, process) = (Arc::clone(&api), Arc::clone(&process));
            async move { Ok::<_, Infallible>(serve(api, process, request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Changes the cluster from outside any operator: a user, or a controller of Kubernetes.
    pub fn with_store<R>(&self, change: impl FnOnce(&mut Store) -> R) -> R {
        let result = change(&mut self.state().store);
        self.changed.notify_waiters();
        result
    }

    /// Lets watchers and cached readers fall `changes` changes behind; 0 shows them everything.
    pub fn set_lag(&self, changes: usize) {
        self.with_store(|store| store.set_lag(changes));
    }

    /// What a Role must allow for the requests so far: group, resource and verb.
    pub fn rights_used(&self) -> BTreeSet<(String, String, &'static str)> {
        let state = self.state();
        let right = |call: &Call| {
            let Target { kind, subresource, .. } = &call.target;
            let resource = match subresource.as_str() {
                "" => kind.plural.to_owned(),
                under => format!("{}/{under}", kind.plural),
            };
            (kind.group.to_owned(), resource, call.verb)
        };
        state.calls.iter().map(right).collect()
    }

    fn perform(&self, process: &Process, request: &Request) -> Answer<Value> {
        let mut state = self.state();
        let mut call = Call {
            process: process.name.clone(),
            verb: request.verb(),
            target: request.target.clone(),
            body: request.body.clone(),
            refused: None,
        };
        let wrong = state.guards.iter().filter_map(|guard| guard(&call, &state.store));
        let wrong: Vec<String> = wrong.collect();
        let fault = state.faults.iter_mut().find(|fault| {
            fault.times > 0 && fault.verb == call.verb && fault.plural == call.target.kind.plural
        });
        let answer = match fault {
            Some(fault) => {
                fault.times -= 1;
                Err(fault.failure.clone())
            }
            None => verbs::perform(&mut state.store, request),
        };
        call.refused = answer.as_ref().err().map(|failure| failure.code);
        let told = format!("{}: {}", call.process, call.words());
        state.violations.extend(wrong.iter().map(|why| format!("{told}: {why}")));
        state.calls.push(call);
        drop(state);
        self.changed.notify_waiters();
        answer
    }
}

/// The key of an object, for tests that look into the store.
pub fn key(plural: &str, namespace: &str, name: &str) -> Key {
    Key { kind: by_plural(plural), namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The body of an answer: a text, or a watch.
type Answered = UnsyncBoxBody<Bytes, Infallible>;

async fn serve(
    api: Arc<Api>,
    process: Arc<Process>,
    request: http::Request<Body>,
) -> http::Response<Answered> {
    let (parts, body) = request.into_parts();
    let Some(target) = kinds::target(parts.uri.path()) else {
        return refusal(&Failure::new(404, "NotFound", format!("no path {}", parts.uri.path())));
    };
    let header = |name: http::HeaderName| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let bytes = body.collect().await.expect("bodies are whole").to_bytes();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).expect("the operator sends JSON")
    };
    let request = Request {
        method: parts.method.to_string(),
        target,
        query: query(parts.uri.query().unwrap_or_default()),
        content_type: header(http::header::CONTENT_TYPE),
        body,
    };
    let metadata_only = header(http::header::ACCEPT).contains("as=PartialObjectMetadata");
    if request.is_watch() {
        let note = Arc::clone(&api);
        process.send(false, || note.state().calls.push(watch_call(&process, &request))).await;
        let body = watch::body(api, request, metadata_only);
        return http::Response::new(body.boxed_unsync());
    }
    let writes = counts(request.verb(), request.target.kind);
    match process.send(writes, || api.perform(&process, &request)).await {
        Ok(object) => {
            let created = request.method == "POST";
            let body = shown(object, metadata_only);
            let code = if created { 201 } else { 200 };
            reply(code, &body)
        }
        Err(failure) => refusal(&failure),
    }
}

fn watch_call(process: &Process, request: &Request) -> Call {
    Call {
        process: process.name.clone(),
        verb: "watch",
        target: request.target.clone(),
        body: Value::Null,
        refused: None,
    }
}

/// An object as the client asked to see it: whole, or its metadata alone.
pub fn shown(object: Value, metadata_only: bool) -> Value {
    if !metadata_only || object["kind"] == "Status" {
        return object;
    }
    if let Some(items) = object["items"].as_array() {
        let items: Vec<Value> = items.iter().map(|item| shown(item.clone(), true)).collect();
        return json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"], "items": items,
        });
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

fn refusal(failure: &Failure) -> http::Response<Answered> {
    reply(failure.code, &failure.body())
}

fn reply(code: u16, body: &Value) -> http::Response<Answered> {
    http::Response::builder()
        .status(code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())).boxed_unsync())
        .expect("a plain response")
}

fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect()
}

/// Percent-decoding, with `+` for a space.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (hex, bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 2;
            }
            (None, b'+') => out.push(b' '),
            (None, byte) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
