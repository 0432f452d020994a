//! Runs sessions against servers and records the history.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;

use super::http::{Answer, Ask, HttpClient, NoAnswer};
use super::plan::{Plan, Session, Step};
use crate::check::history::{body, value_id};
use crate::check::{History, Kind, Operation, Outcome};

/// Milliseconds of the run's own clock: tokio's, which a simulation pauses.
#[derive(Clone, Copy, Debug)]
pub struct Clock(tokio::time::Instant);

impl Clock {
    /// Starts at zero now.
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The history under construction, shared by all sessions of a thread.
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    next: Rc<Cell<u64>>,
    history: Rc<RefCell<History>>,
}

impl Recorder {
    /// An empty history.
    pub fn new(clock: Clock) -> Self {
        Self { clock, next: Rc::new(Cell::new(1)), history: Rc::default() }
    }

    /// An empty history beside this one, with the same clock and the same count of operations.
    pub fn beside(&self) -> Self {
        Self { clock: self.clock, next: self.next.clone(), history: Rc::default() }
    }

    /// Operations that ended so far.
    pub fn ended(&self) -> usize {
        self.history.borrow().operations.len()
    }

    /// Those of them that did not succeed.
    pub fn failed(&self) -> usize {
        let history = self.history.borrow();
        history.operations.iter().filter(|operation| operation.outcome != Outcome::Ok).count()
    }

    /// What was recorded so far.
    pub fn history(&self) -> History {
        self.history.borrow().clone()
    }

    /// Milliseconds of the run's clock.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn id(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }
}

/// Where and how operations are sent.
#[derive(Clone, Debug)]
pub struct Aim {
    /// `host:port` of each server's client port.
    pub servers: Vec<String>,
    /// `r` and `w`.
    pub level: String,
    /// More query parameters, such as `sloppy=false`.
    pub query: String,
    /// Longest pause between two operations of a session, in milliseconds.
    pub think_ms: u64,
}

/// Writes the client's share of the keys once each, so that afterwards every key was written.
pub async fn fill(plan: &Plan, client: u32, aim: &Aim, http: &HttpClient, to: &Recorder) {
    for key in (client..plan.keys).step_by(plan.clients.max(1) as usize) {
        let server = &aim.servers[key as usize % aim.servers.len()];
        let step = Step::Put(format!("key-{key}"), None);
        let operation = perform(&step, client, server, aim, http, to, plan.padding).await;
        to.history.borrow_mut().operations.push(operation);
    }
}

/// Runs one session to its end; a read before the first write of a key gives it a token.
pub async fn drive(plan: &Plan, client: u32, aim: &Aim, http: &HttpClient, to: &Recorder) {
    drive_while(plan, client, aim, http, to, &|| true).await;
}

/// As [`drive`], and ends before the next operation once `go_on` says so.
pub async fn drive_while(
    plan: &Plan,
    client: u32,
    aim: &Aim,
    http: &HttpClient,
    to: &Recorder,
    go_on: &dyn Fn() -> bool,
) {
    let mut session = Session::new(plan, client);
    while go_on() {
        let Some(step) = session.next_step() else { break };
        let server = session.below(aim.servers.len() as u64) as usize;
        session_step(&mut session, &step, client, (plan, aim, server), http, to).await;
    }
}

/// As [`drive_while`], by a client that keeps to the first server of its list and goes on to the next when
/// an operation does not succeed there. It never repeats one: what a failed write did is for the judge.
pub async fn drive_at_home(
    plan: &Plan,
    client: u32,
    aim: &Aim,
    http: &HttpClient,
    to: &Recorder,
    go_on: &dyn Fn() -> bool,
) {
    let mut session = Session::new(plan, client);
    let mut server = 0;
    while go_on() {
        let Some(step) = session.next_step() else { break };
        let outcome =
            session_step(&mut session, &step, client, (plan, aim, server), http, to).await;
        if outcome != Outcome::Ok {
            server = (server + 1) % aim.servers.len();
        }
    }
}

/// One operation of a session at one of its servers, recorded, and the pause after it.
async fn session_step(
    session: &mut Session,
    step: &Step,
    client: u32,
    (plan, aim, server): (&Plan, &Aim, usize),
    http: &HttpClient,
    to: &Recorder,
) -> Outcome {
    let operation = perform(step, client, &aim.servers[server], aim, http, to, plan.padding).await;
    session.learn(&operation.key, operation.token_returned.as_deref());
    let outcome = operation.outcome;
    to.history.borrow_mut().operations.push(operation);
    if aim.think_ms > 0 {
        tokio::time::sleep(Duration::from_millis(session.below(aim.think_ms))).await;
    }
    outcome
}

/// Reads every key once and writes it with the token of that read, server after server.
pub async fn write_calmly(plan: &Plan, aim: &Aim, http: &HttpClient, to: &Recorder) {
    for key in 0..plan.keys {
        let server = &aim.servers[key as usize % aim.servers.len().max(1)];
        let name = format!("key-{key}");
        let read = perform(&Step::Get(name.clone()), u32::MAX, server, aim, http, to, 0).await;
        let write = Step::Put(name, read.token_returned.clone());
        to.history.borrow_mut().operations.push(read);
        let written = perform(&write, u32::MAX, server, aim, http, to, plan.padding).await;
        to.history.borrow_mut().operations.push(written);
    }
}

/// Reads every key of the plan once from each server and records these reads as settled.
pub async fn settle(plan: &Plan, aim: &Aim, http: &HttpClient, to: &Recorder) {
    for key in 0..plan.keys {
        for server in &aim.servers {
            let step = Step::Get(format!("key-{key}"));
            let mut operation = perform(&step, u32::MAX, server, aim, http, to, 0).await;
            operation.settled = true;
            to.history.borrow_mut().operations.push(operation);
        }
    }
}

/// As [`settle`], with one server and several tries per key: for stores whose nodes come back meanwhile.
pub async fn settle_patiently(
    plan: &Plan,
    aim: &Aim,
    http: &HttpClient,
    to: &Recorder,
    tries: u32,
) {
    for key in 0..plan.keys {
        for _ in 0..tries {
            let step = Step::Get(format!("key-{key}"));
            let server = &aim.servers[key as usize % aim.servers.len()];
            let mut operation = perform(&step, u32::MAX, server, aim, http, to, 0).await;
            operation.settled = true;
            let read = operation.outcome == Outcome::Ok;
            to.history.borrow_mut().operations.push(operation);
            if read {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn perform(
    step: &Step,
    client: u32,
    server: &str,
    aim: &Aim,
    http: &HttpClient,
    to: &Recorder,
    padding: usize,
) -> Operation {
    let id = to.id();
    let (op, key, token_sent) = match step {
        Step::Get(key) => (Kind::Get, key, None),
        Step::Put(key, token) => (Kind::Put, key, token.clone()),
        Step::Delete(key, token) => (Kind::Delete, key, token.clone()),
    };
    let start_ms = to.clock.now_ms();
    let answer = http.ask(server, ask(op, key, id, token_sent.as_deref(), aim, padding)).await;
    let mut operation = Operation {
        id,
        client,
        op,
        key: key.clone(),
        token_sent,
        token_returned: None,
        values: Vec::new(),
        foreign: Vec::new(),
        acks: Vec::new(),
        consistency: aim.level.clone(),
        server: server.to_string(),
        start_ms,
        end_ms: to.clock.now_ms(),
        outcome: Outcome::Unknown,
        problem: None,
        settled: false,
    };
    match answer {
        Ok(answer) => understand(&mut operation, &answer),
        Err(NoAnswer::NotSent(why)) => {
            operation.outcome = Outcome::Fail;
            operation.problem = Some(format!("not sent: {why}"));
        }
        Err(NoAnswer::Lost(why)) => operation.problem = Some(format!("no answer: {why}")),
    }
    operation
}

fn ask(op: Kind, key: &str, id: u64, token: Option<&str>, aim: &Aim, padding: usize) -> Ask {
    let level = if op == Kind::Get { "r" } else { "w" };
    let and = if aim.query.is_empty() { "" } else { "&" };
    let path = format!("/v1/kv/check/{key}?{level}={}{and}{}", aim.level, aim.query);
    let method = match op {
        Kind::Get => Method::GET,
        Kind::Put => Method::PUT,
        Kind::Delete => Method::DELETE,
    };
    let mut ask = Ask::new(method, path);
    if let Some(token) = token {
        ask.headers.push(("x-kvasir-context", token.to_string()));
    }
    if op == Kind::Put {
        ask.body = Bytes::from(body(id, key, padding));
    }
    ask
}

fn understand(operation: &mut Operation, answer: &Answer) {
    operation.token_returned = answer.header("x-kvasir-context").map(str::to_string);
    operation.acks = answer.header("x-kvasir-acks").map(counted).unwrap_or_default();
    operation.problem = problem(answer);
    operation.outcome = match (operation.op, answer.status) {
        (Kind::Get, 200 | 300 | 404) | (Kind::Put | Kind::Delete, 204) => Outcome::Ok,
        (Kind::Get, _) | (_, 400..=499) => Outcome::Fail,
        _ if answer.text().contains("\"may_be_stored\":false") => Outcome::Fail,
        _ => Outcome::Unknown,
    };
    if operation.op == Kind::Get && operation.outcome == Outcome::Ok {
        for value in bodies(answer) {
            match value_id(&operation.key, &value) {
                Some(id) => operation.values.push(id),
                None => operation.foreign.push(String::from_utf8_lossy(&value).into_owned()),
            }
        }
    }
}

/// Status, code and detail of an answer in `application/problem+json`; a key without a value is no problem.
fn problem(answer: &Answer) -> Option<String> {
    if matches!(answer.status, 200..=399 | 404) {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let word =
        |name: &str, without: &'static str| body[name].as_str().unwrap_or(without).to_string();
    let (code, detail) = (word("code", "without a code"), word("detail", "without a detail"));
    Some(format!("{} {code}: {detail}", answer.status))
}

/// The node ids in `owners=ID,ID; standins=ID; durability=group`.
fn counted(acks: &str) -> Vec<String> {
    let lists = acks.split(';').filter_map(|part| part.trim().split_once('='));
    let nodes = lists.filter(|(name, _)| matches!(*name, "owners" | "standins"));
    let ids = nodes.flat_map(|(_, ids)| ids.split(','));
    ids.filter(|id| !id.is_empty()).map(str::to_string).collect()
}

/// The values in an answer: the body itself, or each sibling of a 300 list.
fn bodies(answer: &Answer) -> Vec<Vec<u8>> {
    match answer.status {
        200 => vec![answer.body.to_vec()],
        300 => {
            let list: Vec<serde_json::Value> =
                serde_json::from_slice(&answer.body).unwrap_or_default();
            list.iter()
                .filter(|s| s["tombstone"] != serde_json::Value::Bool(true))
                .map(|s| {
                    STANDARD.decode(s["value_b64"].as_str().unwrap_or_default()).unwrap_or_default()
                })
                .collect()
        }
        _ => Vec::new(),
    }
}
