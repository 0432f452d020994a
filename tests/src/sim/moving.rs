//! Stories in which nodes come and go while everything else goes wrong.

use std::time::Duration;

use hyper::Method;
use kvasir_core::id::NodeId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::cluster::Sim;
use super::script::{Fault, Script};
use super::story::Story;
use super::weather::Conditions;
use crate::load::HttpClient;
use crate::load::http::Ask;

/// Between two looks at an operation.
const LOOK: Duration = Duration::from_secs(1);

impl Story {
    /// Three of five nodes are a cluster that becomes five and three again, is cut more finely meanwhile, and
    /// erases what was deleted as soon as it may; a join may be taken back first. Nodes crash, pause and are
    /// cut off; no volume is lost.
    pub fn moving(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x303e);
        let chaos_ms = 100_000;
        let mut script = Script::draw(&mut rng, 5, chaos_ms - 20_000);
        script.0.retain(|timed| !timed.fault.spoils() && !matches!(timed.fault, Fault::Swap(..)));
        let conditions = Conditions {
            loss_permille: rng.random_range(0..10),
            twice_permille: rng.random_range(0..50),
            delay_ms: rng.random_range(0..10),
            late_permille: rng.random_range(0..10),
            late_ms: 30_000,
        };
        Self {
            word: "--moves ",
            members: 3,
            moves: true,
            chaos_ms,
            script,
            conditions,
            clients: 5,
            think_ms: 1_000,
            keys: 24,
            delete_percent: 15,
            sets: &["reclaim.generation=2s", "reclaim.min_age=1s", "reclaim.pause=2s"],
            ..Self::random(seed)
        }
    }
}

/// Asks whoever answers for one operation after the other, as an operator outside would.
pub(super) struct Operator {
    http: HttpClient,
}

impl Operator {
    /// Brings the nodes of hosts 3 and 4 in and out again. Ends when that is done.
    pub(super) fn start(sim: &Sim, seed: u64) -> JoinHandle<()> {
        let operator = Self { http: sim.client(Duration::from_secs(5)) };
        tokio::task::spawn_local(async move {
            let mut rng = SmallRng::seed_from_u64(seed ^ 0x09e7);
            let nodes = [operator.node(3).await, operator.node(4).await];
            if rng.random() {
                let wait = Duration::from_millis(rng.random_range(0..3_000));
                operator.begin_and_take_back(&join("back", nodes[0]), wait).await;
            }
            operator.carry_out(&join("join-3", nodes[0])).await;
            operator.carry_out(&json!({ "id": "double", "kind": "double" })).await;
            operator.carry_out(&join("join-4", nodes[1])).await;
            for (id, node) in [("leave-3", nodes[0]), ("leave-4", nodes[1])] {
                let leave = json!({ "id": id, "kind": "leave", "node": node.to_string() });
                operator.carry_out(&leave).await;
            }
        })
    }

    /// The id of the node on a host, once it says so.
    async fn node(&self, host: usize) -> NodeId {
        loop {
            if let Some(status) = self.ask_at(host, Method::GET, "/v1/status", None).await
                && let Some(node) = status["answeredBy"].as_str()
            {
                return node.parse().expect("a node id");
            }
            sleep(LOOK).await;
        }
    }

    /// Posts it until it is taken, and waits until it has ended.
    async fn carry_out(&self, operation: &Value) {
        let path = format!("/v1/operations/{}", operation["id"].as_str().expect("an id"));
        loop {
            match self.ask(Method::GET, &path, None).await {
                Some(status) if status["state"] == "running" => {}
                Some(status) if status["state"].is_string() => return,
                // It is not there, or who was asked does not know of it yet: posting again is harmless.
                _ => drop(self.ask(Method::POST, "/v1/operations", Some(operation.clone())).await),
            }
            sleep(LOOK).await;
        }
    }

    /// Posts it and takes it back a little later. Ends when it has ended.
    async fn begin_and_take_back(&self, operation: &Value, after: Duration) {
        let path = format!("/v1/operations/{}", operation["id"].as_str().expect("an id"));
        while self.ask(Method::GET, &path, None).await.is_none_or(|said| said["state"].is_null()) {
            self.ask(Method::POST, "/v1/operations", Some(operation.clone())).await;
            sleep(LOOK).await;
        }
        sleep(after).await;
        loop {
            match self.ask(Method::GET, &path, None).await {
                Some(status) if status["state"] == "running" => {
                    self.ask(Method::DELETE, &path, None).await;
                }
                Some(status) if status["state"].is_string() => return,
                _ => {}
            }
            sleep(LOOK).await;
        }
    }

    /// What the first of the first three hosts says that answers.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
        for host in 0..3 {
            let said = self.ask_at(host, method.clone(), path, body.clone()).await;
            if said.is_some() {
                return said;
            }
        }
        None
    }

    async fn ask_at(
        &self,
        host: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<Value> {
        let mut ask = Ask::new(method, path);
        if let Some(body) = body {
            ask.headers.push(("content-type", "application/json".to_string()));
            ask.body = body.to_string().into();
        }
        let answer = self.http.ask(&format!("n{host}:9098"), ask).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }
}

fn join(id: &str, node: NodeId) -> Value {
    json!({ "id": id, "kind": "join", "node": node.to_string() })
}
