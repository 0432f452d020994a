//! Two data centers in simulation: what each level promises while one of them is dead or cut off, how often
//! a write crosses over, who stands in, and that both hold the same again when all is mended.
//!
//! `crossing` counts what goes from one to the other, `failures` kills and cuts, `membership` lets nodes join
//! and leave, `refusals` asks for what makes no sense.

mod crossing;
mod failures;
mod membership;
mod refusals;

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Method;
use kvasir_core::id::NodeId;
use kvasir_tests::check::replicas::{Held, converged};
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{HttpClient, Plan, Recorder, drive, fill};
use kvasir_tests::sim::Sim;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest virtual wait for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// Hosts of which the even ones are in `dc1` and the odd ones in `dc2`; nothing runs yet.
fn two_centers(seed: u64, hosts: usize, sets: &[&str]) -> Sim {
    let mut sim = Sim::new(seed, hosts, sets);
    for host in (1..hosts).step_by(2) {
        sim.set_datacenter(host, "dc2");
    }
    sim
}

/// Three nodes in each of two data centers, three copies in each.
async fn three_and_three(seed: u64, sets: &[&str]) -> Sim {
    let mut sim = two_centers(seed, 6, sets);
    sim.form(3).await;
    // Until everybody has heard of everybody.
    sleep(Duration::from_secs(5)).await;
    sim
}

/// The hosts of `dc1` or `dc2`.
fn hosts(center: usize, count: usize) -> Vec<usize> {
    (0..count).filter(|host| host % 2 == center - 1).collect()
}

async fn ask(http: &HttpClient, server: &str, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.as_bytes().to_vec().into();
    http.ask(server, ask).await.expect("an answer")
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

/// A put that must be acknowledged; the owners and stand-ins that it names.
async fn put(sim: &Sim, host: usize, path: &str) -> (Vec<NodeId>, Vec<NodeId>) {
    let http = sim.client(Duration::from_secs(20));
    let answer = ask(&http, &sim.servers()[host], Method::PUT, path, "v").await;
    assert_eq!(answer.status, 204, "{path} through host {host}: {}", answer.text());
    let header = answer.header("x-kvasir-acks").expect("acks");
    let list = |name: &str| {
        let part = header.split("; ").find_map(|part| part.strip_prefix(name)).expect("a list");
        part.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().expect("an id")).collect()
    };
    let (owners, standins): (Vec<NodeId>, Vec<NodeId>) = (list("owners="), list("standins="));
    let distinct: BTreeSet<_> = owners.iter().chain(&standins).collect();
    assert_eq!(distinct.len(), owners.len() + standins.len(), "a node twice: {header}");
    (owners, standins)
}

/// A request that must fail for want of acknowledgements, and the data centers that it names.
async fn refused(sim: &Sim, host: usize, method: Method, path: &str) -> Vec<String> {
    let http = sim.client(Duration::from_secs(20));
    let answer = ask(&http, &sim.servers()[host], method, path, "v").await;
    let body = json_of(&answer);
    assert_eq!((answer.status, &body["code"]), (503, &json!("quorum_not_reached")), "{body}");
    let names = body["data_centers"].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = names.iter().map(|n| n.as_str().expect("text").to_owned()).collect();
    let detail = body["detail"].as_str().expect("text");
    assert!(names.iter().all(|name| detail.contains(name.as_str())), "{detail}");
    names
}

/// One number of a host's metrics page.
async fn metric(sim: &Sim, host: usize, name: &str) -> f64 {
    let answer = sim.admin(host, Method::GET, "/metrics", None).await.expect("an answer");
    let text = answer.text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("{name}"))
}

/// The same, over hosts.
async fn sum(sim: &Sim, hosts: &[usize], name: &str) -> f64 {
    let mut sum = 0.0;
    for host in hosts {
        sum += metric(sim, *host, name).await;
    }
    sum
}

const CROSSINGS: &str = "kvasir_coordinator_cross_center_writes_total";
const GIVEN_UP: &str = "kvasir_coordinator_relays_given_up_total";

async fn until_down(sim: &Sim, host: usize, count: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = json_of(&sim.admin(host, Method::GET, "/v1/status", None).await.expect("one"));
        let nodes = status["nodes"].as_array().expect("nodes");
        let down = nodes.iter().filter(|node| node["liveness"] == "down").count();
        if down == count {
            return;
        }
        assert!(Instant::now() < until, "host {host} holds {down} nodes for down, not {count}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// What all hosts hold alone under the keys of the load.
async fn held(sim: &Sim, hosts: usize, keys: u32) -> Vec<Held> {
    let mut held = Vec::new();
    for key in (0..keys).map(|number| format!("key-{number}")) {
        for host in 0..hosts {
            if let Some(read) = sim.replica(host, "check", &key).await {
                held.push(Held { key: key.clone(), read });
            }
        }
    }
    held
}

/// Waits until all owners of each key hold the same, `owners` of each.
async fn until_equal(sim: &Sim, hosts: usize, keys: u32, owners: usize) -> Vec<Held> {
    let until = Instant::now() + PATIENCE;
    loop {
        let held = held(sim, hosts, keys).await;
        let own = held.iter().filter(|one| one.read.owner && one.read.found).count();
        let differing = converged(&held);
        if differing.is_empty() && own == keys as usize * owners {
            return held;
        }
        assert!(Instant::now() < until, "{own} copies, differing: {differing:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

fn plan(seed: u64, operations: u32) -> Plan {
    Plan {
        seed,
        clients: 4,
        operations,
        keys: 40,
        read_percent: 40,
        delete_percent: 8,
        token_percent: 50,
        padding: 50,
    }
}

fn aim(sim: &Sim, hosts: &[usize], level: &str, query: &str) -> Aim {
    Aim {
        servers: hosts.iter().map(|host| sim.servers()[*host].clone()).collect(),
        level: level.to_string(),
        query: query.to_string(),
        think_ms: 200,
    }
}

fn load(sim: &Sim, plan: &Plan, aim: &Aim, to: &Recorder) -> Vec<JoinHandle<()>> {
    let session = |client| {
        let (plan, aim, to, http) =
            (plan.clone(), aim.clone(), to.clone(), sim.client(Duration::from_secs(6)));
        tokio::task::spawn_local(async move { drive(&plan, client, &aim, &http, &to).await })
    };
    (0..plan.clients).map(session).collect()
}

/// Waits for the end of all sessions.
async fn all(sessions: Vec<JoinHandle<()>>) {
    for session in sessions {
        session.await.expect("a session ends");
    }
}

/// Writes every key once.
async fn filled(sim: &Sim, plan: &Plan, aim: &Aim, to: &Recorder) {
    for client in 0..plan.clients {
        fill(plan, client, aim, &sim.client(Duration::from_secs(6)), to).await;
    }
}

/// The newest document that a host knows.
async fn document(sim: &Sim, host: usize) -> Value {
    let answer = sim.admin(host, Method::GET, "/v1/cluster/document", None).await;
    json_of(&answer.expect("an answer"))["document"].clone()
}
