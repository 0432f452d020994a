//! Lives of the operator in a world: passes until nothing is left to do, deaths, and what users do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, Response};
use k8s_openapi::ByteString;
use kvasir_core::admin_api::Problem;
use kvasir_core::admin_api::problem::code;
use kvasir_core::ring::Sealed;
use kvasir_operator::apply::Hands;
use kvasir_operator::crd::KVCluster;
use kvasir_operator::metrics::Metrics;
use kvasir_operator::node_admin::{Exchange, Exchanged, NodeAdmin};
use kvasir_operator::pass::{Operator, PassError};
use kvasir_operator::snapshot::{Failure, Surroundings};
use serde_json::{Value, json};

use crate::api::key;
use crate::api::kinds::by_plural;
use crate::api::process::{Death, Process};
use crate::api::store::Key;
use crate::guards;
use crate::world::World;

/// Where everything happens.
pub const NS: &str = "default";
/// The one resource.
pub const NAME: &str = "demo";
/// Passes after which a cluster that is still written to is said to be restless.
const MOST: usize = 150;

/// A world with an operator in it.
pub struct Bench {
    /// The world.
    pub world: Arc<World>,
    /// Whether the world takes one turn between passes instead of coming to rest.
    pub slow: bool,
    lives: AtomicU64,
}

/// One life of the operator.
pub struct Life {
    /// What it sends counts here.
    pub process: Arc<Process>,
    /// The operator itself.
    pub operator: Operator,
    failure: Option<Failure>,
    /// Failures of passes so far, in words.
    pub failures: Vec<String>,
}

/// The wire between the operator and the nodes.
struct Wire {
    world: Arc<World>,
    process: Arc<Process>,
}

impl Exchange for Wire {
    fn exchange<'a>(&'a self, address: &'a str, request: Request<Full<Bytes>>) -> Exchanged<'a> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.map_err(|never| never.to_string())?.to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let writes = head.method != Method::GET;
            let token = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let answered = self.process.send(writes, || {
                if writes && !self.world.takes(token.unwrap_or_default()) {
                    let problem = Problem::new(code::TOKEN_REFUSED, "not this node's token");
                    return Some((problem.status, json!(problem)));
                }
                let path = head.uri.path();
                self.world.nodes().call(host, head.method.as_str(), path, &body)
            });
            let (status, answer) = answered.await.ok_or("connection refused")?;
            let answer = Bytes::from(answer.to_string());
            Ok(Response::builder().status(status).body(answer).expect("a plain response"))
        })
    }
}

impl World {
    /// Is this the token that the nodes mount?
    fn takes(&self, header: &str) -> bool {
        let state = self.api.state();
        let Some(secret) = state.store.get(&key("secrets", NS, "demo-admin")) else { return false };
        let given = header.strip_prefix("Bearer ").unwrap_or_default();
        secret["data"]["token"] == json!(ByteString(given.as_bytes().to_vec()))
    }
}

/// A resource with three nodes, and what a test changes in it.
pub fn resource(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "nodes": 3, "clusterName": NAME, "image": "kvasir:1.0.0", "storage": {"size": "1Gi"},
        "updateStrategy": {"minReadySeconds": 10}, "ring": {"initialPartitions": 16},
    });
    change(&mut spec);
    // What the schema of a real API server fills in.
    let object = json!({"apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": NAME, "namespace": NS}, "spec": spec});
    let cluster: KVCluster = serde_json::from_value(object).expect("a plain resource");
    serde_json::to_value(cluster).expect("it was JSON before")
}

impl Bench {
    /// A world of five workers with nothing in it.
    pub fn new() -> Self {
        let world = World::new(5);
        guards::set(&world);
        Self { world, slow: false, lives: AtomicU64::new(0) }
    }

    /// A world with a cluster that was formed and is at rest.
    pub async fn formed(change: impl FnOnce(&mut Value)) -> Self {
        let bench = Self::new();
        bench.create(change);
        bench.rest(&mut bench.life(None)).await;
        assert_eq!(bench.condition("Ready"), ("True".to_owned(), "AllNodesServe".to_owned()));
        bench
    }

    /// Another bench that begins as this one is now.
    pub fn fork(&self) -> Self {
        let world = self.world.fork();
        guards::set(&world);
        Self { world, slow: false, lives: AtomicU64::new(0) }
    }

    /// Kinds of which there is anything.
    pub fn kinds(&self) -> Vec<&'static str> {
        let state = self.world.api.state();
        let there = state.store.all().filter(|(key, _)| key.kind.namespaced);
        let mut kinds: Vec<&str> = there.map(|(key, _)| key.kind.name).collect();
        kinds.dedup();
        kinds
    }

    /// A new life.
    pub fn life(&self, death: Option<Death>) -> Life {
        let number = self.lives.fetch_add(1, Ordering::SeqCst);
        let process = Process::new(format!("operator {number}"), death);
        let wire = Wire { world: Arc::clone(&self.world), process: Arc::clone(&process) };
        let hands = Hands {
            client: self.world.api.client(&process),
            nodes: NodeAdmin::new(Arc::new(wire), 9098),
            draw: Arc::new(|| Ok("a token drawn for a test".to_owned())),
        };
        let operator = Operator {
            hands,
            surroundings: Surroundings::default(),
            clock: Arc::new(|| "2026-01-01T01:00:00Z".parse().expect("a time")),
            may_write: Arc::new(|| true),
            recorder: None,
            metrics: Arc::new(Metrics::new().expect("fresh metrics")),
        };
        Life { process, operator, failure: None, failures: Vec::new() }
    }

    /// The user creates the resource.
    pub fn create(&self, change: impl FnOnce(&mut Value)) {
        let object = resource(change);
        let create = |store: &mut crate::api::store::Store| {
            store.create(key("kvclusters", NS, NAME), object)
        };
        self.world.api.with_store(create).expect("it was not there");
    }

    /// The user edits the spec.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        self.change("kvclusters", NAME, |object| change(&mut object["spec"]));
    }

    /// Somebody edits an object.
    pub fn change(&self, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.world.api.with_store(|store| {
            let key = key(plural, NS, name);
            let mut object = store.get(&key).cloned().expect("it is there");
            change(&mut object);
            store.replace(&key, object).expect("nobody else writes now");
        });
    }

    /// Somebody deletes an object.
    pub fn delete(&self, plural: &str, name: &str) {
        let key = key(plural, NS, name);
        let delete = |store: &mut crate::api::store::Store| {
            crate::api::verbs::delete(store, &key, &Value::Null)
        };
        self.world.api.with_store(delete).expect("it is there");
    }

    /// Somebody gives a pod's volume up: its claim goes, and the pod with it.
    pub fn lose_volume(&self, pod: &str) {
        self.delete("persistentvolumeclaims", &format!("data-{pod}"));
        self.delete("pods", pod);
    }

    /// The status of the resource.
    pub fn status(&self) -> Value {
        self.object("kvclusters", NAME).expect("the resource is there")["status"].clone()
    }

    /// An object.
    pub fn object(&self, plural: &str, name: &str) -> Option<Value> {
        self.world.api.state().store.get(&key(plural, NS, name)).cloned()
    }

    /// Names of all objects of a kind.
    pub fn names(&self, plural: &str) -> Vec<String> {
        let all = self.world.api.state().store.list(by_plural(plural), NS);
        all.into_iter().map(|(key, _)| key.name).collect()
    }

    /// Status and reason of a condition.
    pub fn condition(&self, kind: &str) -> (String, String) {
        let cluster = self.object("kvclusters", NAME).expect("the resource is there");
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let text = |field: &str| {
            found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned()
        };
        (text("status"), text("reason"))
    }

    /// One pass of a life, as the controller makes it. Says whether it went through.
    pub async fn pass(&self, life: &mut Life) -> bool {
        let failure = life.failure.take();
        let Err(error) = life.operator.pass(NS, NAME, failure).await else { return true };
        life.failures.push(error.to_string());
        if let PassError::Step(failure) = error {
            life.failure = Some(*failure);
        }
        false
    }

    /// Passes until nothing changes any more, or the life ends. Says how it ended.
    pub async fn rest(&self, life: &mut Life) -> Ended {
        let process = Arc::clone(&life.process);
        let mut quiet = 0;
        for _ in 0..MOST {
            let before = self.world.api.state().store.revision();
            let epoch = self.world.nodes().document().map(|document| document.epoch);
            let ended = tokio::select! {
                biased;
                () = process.died() => return Ended::Died,
                done = self.pass(life) => done,
            };
            let moved = if self.slow { self.world.turn() } else { self.settle() };
            let same = before == self.world.api.state().store.revision()
                && epoch == self.world.nodes().document().map(|document| document.epoch);
            quiet = if ended && same && !moved { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ended::AtRest;
            }
        }
        panic!(
            "restless: {:#?}\n{:#?}",
            self.object("kvclusters", NAME).map(|cluster| cluster["status"].clone()),
            life.failures.iter().rev().take(5).collect::<Vec<_>>()
        );
    }

    fn settle(&self) -> bool {
        let before = self.world.api.state().store.revision();
        self.world.settle();
        before != self.world.api.state().store.revision()
    }

    /// What was asked that must never be asked.
    pub fn violations(&self) -> Vec<String> {
        self.world.api.state().violations.clone()
    }

    /// The same without what the API server refused because its precondition did not hold any more:
    /// that is what preconditions are for.
    pub fn harm(&self) -> Vec<String> {
        self.violations().into_iter().filter(|told| !told.contains(" -> 409: ")).collect()
    }

    /// All objects without what differs from run to run, for comparing two ends.
    pub fn picture(&self) -> Value {
        let state = self.world.api.state();
        let objects = state.store.all().filter(|(key, _)| key.kind.namespaced);
        let mut all: serde_json::Map<String, Value> =
            objects.map(|(key, object)| (title(key), plain(object))).collect();
        let nodes = self.world.nodes();
        let document = nodes.document();
        all.insert("members".to_owned(), json!(document.map(|document| document.members.len())));
        all.insert("formed".to_owned(), json!(nodes.formed));
        let idle = |document: &Sealed| {
            document.members.keys().filter(|id| !document.owns_anything(**id)).count()
        };
        all.insert("idle".to_owned(), json!(document.map(idle)));
        let running = |document: &Sealed| {
            document.operations.values().filter(|record| record.is_running()).count()
        };
        all.insert("running".to_owned(), json!(document.map(running)));
        Value::Object(all)
    }
}

/// How [`Bench::rest`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing changes any more.
    AtRest,
    /// The life ended first.
    Died,
}

fn title(key: &Key) -> String {
    format!("{} {}", key.kind.name, key.name)
}

/// Identities, versions, addresses, places and times differ from run to run, and so do node ids and
/// epochs: they count the tries.
fn plain(value: &Value) -> Value {
    const VARY: &[&str] = &[
        "uid",
        "resourceVersion",
        "managedFields",
        "generation",
        "observedGeneration",
        "creationTimestamp",
        "lastTransitionTime",
        "podUID",
        "volumeUID",
        "nodeID",
        "nodeName",
        "podIP",
        "podIPs",
        "worker",
        "machine",
        "epoch",
        "hash",
        "balanced",
        "layout",
        "clusterID",
    ];
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !VARY.contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name.clone(), plain(value))).collect())
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(plain).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}
