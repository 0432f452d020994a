//! Nodes that can be made, crashed, cut off and started again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::Method;
use kvasir::config::Config;
use kvasir::peer::memory_net::{Cut, MemoryHost, MemoryNet};
use kvasir::planted::Planted;
use kvasir::seam::{Clock, Net, World};
use kvasir::serve::node::Shared;
use kvasir::serve::{admin, node};
use kvasir_core::id::NodeId;
use kvasir_storage::MemoryDisk;
use kvasir_storage::disk::memory::Crash;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use super::gate::Gate;
use super::lanes::Lanes;
use super::processor::{Costs, Metered};
use super::weather::Weather;
use crate::load::http::{Answer, Ask, Local, Stream};
use crate::load::{Dial, HttpClient};

/// Longest virtual wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a simulation to its end in virtual time.
///
/// With `KVASIR_SIM_LOG=FILTER` in the environment the nodes' logs go to standard error.
pub fn run<T>(body: impl Future<Output = T>) -> T {
    if let Ok(filter) = std::env::var("KVASIR_SIM_LOG") {
        let log = kvasir::config::LogConfig { filter, format: kvasir::config::LogFormat::Text };
        kvasir::serve::logging::start(&log).expect("a good filter");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O always builds");
    runtime.block_on(LocalSet::new().run_until(body))
}

/// Wall time of a host: a fixed day plus the virtual time since the start, plus what its clock is wrong by.
struct SimClock {
    start: Instant,
    wrong_by_ms: Arc<AtomicI64>,
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let right = 1_800_000_000_000 + self.start.elapsed().as_millis() as u64;
        right.saturating_add_signed(self.wrong_by_ms.load(Ordering::Relaxed))
    }
}

pub(super) struct Host {
    pub(super) disk: MemoryDisk,
    machine: String,
    datacenter: String,
    pub(super) running: Option<JoinHandle<()>>,
    drain: watch::Sender<bool>,
    /// Pauses and slows the node.
    pub(super) gate: Gate,
    pub(super) wrong_by_ms: Arc<AtomicI64>,
    /// The running node from inside, for reading one replica alone.
    pub(super) inside: Rc<RefCell<Weak<Shared>>>,
    /// Why the last start failed, if it did.
    pub(super) refused: Rc<RefCell<Option<String>>>,
}

/// A simulated cluster.
pub struct Sim {
    /// What happens to frames.
    pub weather: Weather,
    /// The mistake that every node makes, for tests of the checker.
    pub planted: Planted,
    /// Settings of buckets without an entry, for `init`; null for the built-in ones.
    pub defaults: Value,
    pub(super) net: MemoryNet,
    pub(super) hosts: Vec<Host>,
    costs: Rc<Cell<Costs>>,
    rng: SmallRng,
    start: Instant,
    sets: Vec<String>,
}

/// A client outside of all hosts.
struct Outside(Rc<MemoryHost>);

impl Dial for Outside {
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { Ok(Box::new(self.0.dial(address).await?) as Box<dyn Stream>) })
    }
}

impl Sim {
    /// Hosts with empty disks; nothing runs yet. `sets` are `section.key=value`.
    pub fn new(seed: u64, hosts: usize, sets: &[&str]) -> Self {
        let net = MemoryNet::new();
        let weather = Weather::new(seed);
        let costs: Rc<Cell<Costs>> = Rc::default();
        let gates: Vec<Gate> = (0..hosts).map(|_| Gate::default()).collect();
        let (drawn, priced, paying) = (weather.clone(), costs.clone(), gates.clone());
        net.set_fates(Some(Rc::new(move |from, to, bytes| {
            for host in [from, to].iter().filter_map(|node| drawn.host_of(*node)) {
                paying[host].charge(priced.get().frame_us);
            }
            drawn.fate(from, to, bytes)
        })));
        let host = |number: usize| Host {
            disk: MemoryDisk::new(),
            machine: format!("machine-{number}"),
            datacenter: "dc1".to_string(),
            running: None,
            drain: watch::channel(false).0,
            gate: gates[number].clone(),
            wrong_by_ms: Arc::default(),
            inside: Rc::default(),
            refused: Rc::default(),
        };
        Self {
            weather,
            planted: Planted::default(),
            defaults: Value::Null,
            net,
            hosts: (0..hosts).map(host).collect(),
            costs,
            rng: SmallRng::seed_from_u64(seed ^ 0x51),
            start: Instant::now(),
            sets: sets.iter().map(ToString::to_string).collect(),
        }
    }

    /// What it costs nodes to do things, from now on.
    pub fn set_costs(&self, costs: Costs) {
        self.costs.set(costs);
    }

    /// Starts all hosts and forms a cluster of `n` copies.
    pub async fn formed(seed: u64, hosts: usize, n: usize, sets: &[&str]) -> Self {
        let mut sim = Self::new(seed, hosts, sets);
        sim.form(n).await;
        sim
    }

    /// Starts all hosts and forms a cluster of `n` copies in each of their data centers.
    pub async fn form(&mut self, n: usize) {
        self.form_first(self.hosts.len(), n).await;
    }

    /// Starts all hosts and forms a cluster of the first `hosts`, of `n` copies in each of their data
    /// centers.
    pub async fn form_first(&mut self, hosts: usize, n: usize) {
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        let nodes: Vec<String> = (0..hosts).map(|h| format!("n{h}:8099")).collect();
        let centers = self.hosts[..hosts].iter().map(|host| (host.datacenter.clone(), n));
        let replication: BTreeMap<String, usize> = centers.collect();
        let mut body = json!({ "clusterName": "sim", "replication": replication, "nodes": nodes });
        if !self.defaults.is_null() {
            body["defaults"] = self.defaults.clone();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let path = "/v1/cluster/init";
            let answer = self.admin(0, Method::POST, path, Some(body.clone())).await;
            match answer {
                Some(answer) if answer.status < 300 => break,
                other => assert!(Instant::now() < until, "init: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for host in 0..hosts {
            self.until_ready(host).await;
        }
    }

    /// Lets a name (`host:port`) stand for the peer ports of all hosts; a host that dials it reaches
    /// itself.
    pub fn name_all(&self, name: &str) {
        let all: Vec<String> = (0..self.hosts.len()).map(|h| format!("n{h}:8099")).collect();
        self.net.set_name(name, &all);
    }

    /// The disk of a host.
    pub fn disk(&self, host: usize) -> &MemoryDisk {
        &self.hosts[host].disk
    }

    /// Client addresses of all hosts.
    pub fn servers(&self) -> Vec<String> {
        (0..self.hosts.len()).map(|h| format!("n{h}:8098")).collect()
    }

    /// A client that waits at most `timeout` for each answer.
    pub fn client(&self, timeout: Duration) -> HttpClient {
        HttpClient::new(Rc::new(Outside(self.net.host("client"))), timeout)
    }

    fn config(&self, host: usize) -> Config {
        let seeds: Vec<String> = (0..self.hosts.len()).map(|h| format!("n{h}:8099")).collect();
        let mut sets = vec![
            "node.data_dir=data".to_string(),
            format!("node.seeds={}", serde_json::to_string(&seeds).expect("strings")),
            format!("node.machine={}", self.hosts[host].machine),
            format!("node.datacenter={}", self.hosts[host].datacenter),
            format!("http.listen=n{host}:8098"),
            format!("peer.listen=n{host}:8099"),
            format!("admin.listen=n{host}:9098"),
        ];
        sets.extend(self.sets.iter().cloned());
        kvasir::config::parse("sim", "", &sets, std::iter::empty()).expect("a good configuration")
    }

    /// Starts a host on whatever its disk holds.
    pub fn start(&mut self, host: usize) {
        assert!(self.hosts[host].running.is_none(), "host {host} runs");
        let config = Arc::new(self.config(host));
        let (drain, draining) = watch::channel(false);
        let disk = self.hosts[host].disk.clone();
        let net: Rc<dyn Net> = Rc::new(Metered {
            net: self.net.host(&format!("n{host}")),
            gate: self.hosts[host].gate.clone(),
            costs: self.costs.clone(),
            clients: config.http.listen.clone(),
        });
        let wrong_by_ms = self.hosts[host].wrong_by_ms.clone();
        let clock = Arc::new(SimClock { start: self.start, wrong_by_ms });
        let (seed, weather) = (self.rng.next_u64(), self.weather.clone());
        let (inside, refused) = (self.hosts[host].inside.clone(), self.hosts[host].refused.clone());
        let planted = self.planted;
        let body = async move {
            let maintenance = Arc::new(Lanes::start(&disk));
            let world = World { net, clock, seed, disk: Arc::new(disk), maintenance, planted };
            let opened = node::open(config, &world, draining);
            *refused.borrow_mut() = opened.as_ref().err().map(ToString::to_string);
            // Whoever started it decides whether to start it again, as for a process that ends.
            let Ok((shared, parts)) = opened else { return };
            weather.place(shared.identity.node, host);
            *inside.borrow_mut() = Arc::downgrade(&shared);
            let (control, inbox) = node::control(&shared, &world, parts).expect("gossip starts");
            let admin = admin::bind(&shared, &control, &world, shared.drain.clone())
                .expect("the admin port is free");
            let worker = node::Worker::bind(&shared, world.clone()).expect("the ports are free");
            tokio::task::spawn_local(kvasir::tasks::control::run(control.clone(), inbox));
            tokio::task::spawn_local(admin);
            tokio::task::spawn_local(worker.run());
            node::tend(&shared, &control).await;
        };
        let gate = self.hosts[host].gate.clone();
        // A local set of its own: when the task is dropped, everything of the node is.
        let running = tokio::task::spawn_local(
            gate.around(async move { LocalSet::new().run_until(body).await }),
        );
        self.hosts[host].running = Some(running);
        self.hosts[host].drain = drain;
    }

    /// Ends a host in the middle of whatever it does; its disk keeps what `crash` leaves of what was
    /// not synced.
    pub async fn crash(&mut self, host: usize, crash: Crash) {
        let seed = self.rng.next_u64();
        let running = self.hosts[host].running.take().expect("the host runs");
        let disk = &mut self.hosts[host].disk;
        *disk = disk.crash(crash, seed);
        running.abort();
        // Ends with an error because it was aborted.
        let _ = running.await;
    }

    /// Puts another disk into a host that does not run.
    pub fn replace_disk(&mut self, host: usize, disk: MemoryDisk) {
        assert!(self.hosts[host].running.is_none(), "host {host} runs");
        self.hosts[host].disk = disk;
    }

    /// The machine that a host's node will say at its next start that it runs on.
    pub fn set_machine(&mut self, host: usize, machine: &str) {
        assert!(self.hosts[host].running.is_none(), "host {host} runs");
        self.hosts[host].machine = machine.to_string();
    }

    /// The data center that a host's node will say at its next start that it is in.
    pub fn set_datacenter(&mut self, host: usize, datacenter: &str) {
        assert!(self.hosts[host].running.is_none(), "host {host} runs");
        self.hosts[host].datacenter = datacenter.to_string();
    }

    /// Cuts a host off from all others, both ways.
    pub fn isolate(&self, host: usize) {
        for other in (0..self.hosts.len()).filter(|o| *o != host) {
            for (from, to) in [(host, other), (other, host)] {
                self.weather.cut(from, to);
                self.net.set_cut(&format!("n{from}"), &format!("n{to}"), Some(Cut::Silent));
            }
        }
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.weather.heal();
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                self.net.set_cut(&format!("n{from}"), &format!("n{to}"), None);
            }
        }
    }

    /// One request to a host's admin port; nothing when no answer came.
    pub async fn admin(
        &self,
        host: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<Answer> {
        let mut ask = Ask::new(method, path);
        if let Some(body) = body {
            ask.headers.push(("content-type", "application/json".to_string()));
            ask.body = body.to_string().into();
        }
        self.client(Duration::from_secs(20)).ask(&format!("n{host}:9098"), ask).await.ok()
    }

    /// Waits until a host serves.
    pub async fn until_ready(&self, host: usize) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.admin(host, Method::GET, "/readyz", None).await;
            if answer.as_ref().is_some_and(|a| a.status == 200) {
                return;
            }
            let refused = self.hosts[host].refused.borrow().clone();
            assert!(Instant::now() < until, "host {host} is not ready: {answer:?}, {refused:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The id of the node on a host, as its admin port says.
    pub async fn node_id(&self, host: usize) -> NodeId {
        let answer = self.admin(host, Method::GET, "/v1/status", None).await.expect("status");
        let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
        status["answeredBy"].as_str().expect("an id").parse().expect("a node id")
    }
}
