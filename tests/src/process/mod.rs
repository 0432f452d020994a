//! Real nodes as child processes, on loopback or in network namespaces: started, killed without warning, paused,
//! started again.
//!
//! Every cluster has its own directory and ports; whatever is left is killed when the value is dropped.
//! Waiting is bounded by [`PATIENCE`] everywhere. What harms networks, disks and clocks: [`netns`], [`cgroup`],
//! [`strace`], [`clock`], put together by [`ground`] and [`faults`], tried by [`trial`] and watched by [`watch`].

pub mod cgroup;
pub mod clock;
pub mod faults;
pub mod ground;
mod load;
pub mod netns;
pub mod strace;
pub mod trial;
pub mod watch;

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

pub use load::Load;

use crate::check::replicas::Held;
use crate::load::http::{Answer, Ask, NoAnswer};
use crate::load::{HttpClient, TcpDial};

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the end of a log that a failure shows.
const LOG_LINES: usize = 40;

/// The binary under test, built by the same profile as this test.
///
/// # Panics
/// It is not built: `tests/run` builds the workspace first.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let dir = own.ancestors().find(|d| d.join("kvasir").is_file());
    dir.expect("kvasir is not built. try: cargo build -p kvasir").join("kvasir")
}

/// Runs a test's future on one thread, with local tasks and the real clock.
///
/// # Panics
/// No runtime can be made.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), test)
}

/// A free block of loopback ports: `base`, `base + 100`, `base + 200` for each of `nodes`. No two
/// clusters of one process get the same, and all lie below the ports that outgoing connections take.
fn ports(nodes: usize) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..200 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 20_000 + (std::process::id() % 30) as u16 * 400 + step % 10 * 10;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let mut all = (0..nodes as u16).flat_map(|i| [base + i, base + 100 + i, base + 200 + i]);
        if all.all(free) {
            return base;
        }
    }
    panic!("no free ports on loopback");
}

/// Where a node listens and what it runs on.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `host:port` of the client API.
    pub http: String,
    /// `host:port` for peers.
    pub peer: String,
    /// `host:port` of the admin API.
    pub admin: String,
    /// Where its data lies; none: below the directory of the cluster.
    pub data: Option<PathBuf>,
    /// Its data center; none: `dc1`.
    pub datacenter: Option<String>,
}

/// One node: its place and, while it runs, its process.
pub struct Node {
    /// `host:port` of the client API.
    pub http: String,
    /// `host:port` of the admin API.
    pub admin: String,
    /// `host:port` for peers.
    pub peer: String,
    /// Its directory: the log, and the data if they lie nowhere else.
    pub dir: PathBuf,
    /// Words before the command of its next start: whatever runs a program with a difference.
    pub before: Vec<String>,
    /// Variables of its next start.
    pub variables: Vec<(String, String)>,
    data: PathBuf,
    datacenter: String,
    child: Option<Child>,
}

/// A cluster of real processes.
pub struct Cluster {
    /// Its nodes, running or not.
    pub nodes: Vec<Node>,
    dir: tempfile::TempDir,
    sets: Vec<String>,
    token: Option<String>,
    http: Rc<HttpClient>,
}

impl Cluster {
    /// Nodes that are started but form no cluster yet. `sets` are `section.key=value`.
    pub async fn start(count: usize, sets: &[&str]) -> Self {
        Self::start_in(&vec!["dc1"; count], sets).await
    }

    /// As [`Self::start`], a node in each of these data centers.
    pub async fn start_in(datacenters: &[&str], sets: &[&str]) -> Self {
        let base = ports(datacenters.len());
        let at = |port: u16| format!("127.0.0.1:{port}");
        let place = |(i, datacenter): (u16, &&str)| Place {
            http: at(base + i),
            peer: at(base + 100 + i),
            admin: at(base + 200 + i),
            data: None,
            datacenter: Some((*datacenter).to_string()),
        };
        let mut cluster = Self::at((0..).zip(datacenters).map(place).collect(), None, sets);
        cluster.start_all().await;
        cluster
    }

    /// Nodes at these places that are not started yet. Who listens elsewhere than on loopback needs a token for
    /// the admin API.
    pub fn at(places: Vec<Place>, token: Option<&str>, sets: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        if let Some(token) = token {
            let file = dir.path().join("token");
            std::fs::write(&file, token).expect("a token file");
            sets.push(format!("admin.token_file={}", file.display()));
        }
        let node = |(i, place): (usize, Place)| {
            let dir = dir.path().join(format!("node-{i}"));
            Node {
                http: place.http,
                peer: place.peer,
                admin: place.admin,
                data: place.data.unwrap_or_else(|| dir.join("data")),
                datacenter: place.datacenter.unwrap_or_else(|| "dc1".to_string()),
                dir,
                before: Vec::new(),
                variables: Vec::new(),
                child: None,
            }
        };
        let nodes = places.into_iter().enumerate().map(node).collect();
        let http = Rc::new(Self::another_client());
        Self { nodes, dir, sets, token: token.map(str::to_string), http }
    }

    /// Starts every node and waits until all answer their probes.
    pub async fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.spawn(node);
        }
        for node in 0..self.nodes.len() {
            self.until_live(node).await;
        }
    }

    /// Started and formed with `n` copies in one data center.
    pub async fn formed(count: usize, n: usize, sets: &[&str]) -> Self {
        let cluster = Self::start(count, sets).await;
        cluster.form(count, n).await;
        cluster
    }

    /// Forms a cluster of the first `count` nodes with `n` copies and waits until they serve and each
    /// has heard of all: a node serves before gossip has told it where every member is.
    pub async fn form(&self, count: usize, n: usize) {
        self.form_with(count, json!({ "dc1": n })).await;
    }

    /// As [`Self::form`], with so many copies in each data center.
    pub async fn form_with(&self, count: usize, replication: Value) {
        let nodes: Vec<&str> = self.nodes[..count].iter().map(|n| n.peer.as_str()).collect();
        let body = json!({ "clusterName": "test", "replication": replication, "nodes": nodes });
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.admin(0, Method::POST, "/v1/cluster/init", Some(body.clone())).await;
            match answer {
                Ok(answer) if answer.status == 200 || answer.status == 201 => break,
                other if Instant::now() > until => panic!("init: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        for node in 0..count {
            self.until_ready(node).await;
            self.until_all_heard(node, count).await;
        }
    }

    async fn until_all_heard(&self, node: usize, count: usize) {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, status) = self.json(node, Method::GET, "/v1/status", None).await;
            if status["cluster"]["membersUp"] == count {
                return;
            }
            assert!(Instant::now() < until, "node {node} does not hear of all: {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts a node, and waits for nothing.
    ///
    /// # Panics
    /// The machine starts no process.
    pub fn spawn(&mut self, index: usize) {
        let seeds: Vec<&str> = self.nodes.iter().map(|n| n.peer.as_str()).collect();
        let seeds = serde_json::to_string(&seeds).expect("strings");
        let node = &mut self.nodes[index];
        std::fs::create_dir_all(&node.dir).expect("a data directory");
        let log = File::options()
            .create(true)
            .append(true)
            .open(node.dir.join("log"))
            .expect("a log file");
        let program = binary().into_os_string();
        let mut words = node.before.iter().map(OsString::from).chain([program, "serve".into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(node.variables.iter().cloned());
        let fixed = [
            format!("node.data_dir={}", node.data.display()),
            format!("node.seeds={seeds}"),
            format!("node.machine=machine-{index}"),
            format!("node.datacenter={}", node.datacenter),
            format!("http.listen={}", node.http),
            format!("peer.listen={}", node.peer),
            format!("admin.listen={}", node.admin),
        ];
        for set in fixed.iter().chain(&self.sets) {
            command.arg("--set").arg(set);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        node.child = Some(command.spawn().expect("kvasir serve starts"));
    }

    /// A further `section.key=value` for every node that is started from now on; over earlier ones.
    pub fn set(&mut self, set: &str) {
        self.sets.push(set.to_string());
    }

    /// Starts a node that was killed, on the data that it left.
    pub async fn restart(&mut self, index: usize) {
        self.spawn(index);
        self.until_ready(index).await;
    }

    /// Starts a node and waits only until it answers its probes.
    pub async fn restart_alone(&mut self, index: usize) {
        self.spawn(index);
        self.until_live(index).await;
    }

    /// Kills a node as `kill -9` does.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            // An error means that it is dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name, such as `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, index: usize, name: &str) {
        let pid = self.nodes[index].child.as_ref().expect("the node runs").id();
        let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
        assert!(status.expect("kill runs").success(), "kill -{name} {pid}");
    }

    /// Waits for the end of a node's process and returns its exit code.
    pub fn wait(&mut self, index: usize) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        let child = self.nodes[index].child.as_mut().expect("the node runs");
        loop {
            if let Some(status) = child.try_wait().expect("a child of this process") {
                self.nodes[index].child = None;
                return status.code();
            }
            assert!(Instant::now() < until, "node {index} does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How a node's process has ended by itself, if it has; it does not wait.
    pub fn ended(&mut self, index: usize) -> Option<ExitStatus> {
        let child = self.nodes[index].child.as_mut()?;
        let ended = child.try_wait().expect("a child of this process")?;
        self.nodes[index].child = None;
        Some(ended)
    }

    /// The process id of a running node.
    pub fn pid(&self, index: usize) -> u32 {
        self.nodes[index].child.as_ref().expect("the node runs").id()
    }

    /// Where this cluster keeps its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a node wrote to its log.
    pub fn log(&self, index: usize) -> String {
        std::fs::read_to_string(self.nodes[index].dir.join("log")).unwrap_or_default()
    }

    /// One request to a node's client port.
    ///
    /// # Errors
    /// No answer came.
    pub async fn ask(&self, index: usize, ask: Ask) -> Result<Answer, NoAnswer> {
        self.http.ask(&self.nodes[index].http, ask).await
    }

    /// One request to a node's admin port.
    ///
    /// # Errors
    /// No answer came.
    pub async fn admin(
        &self,
        index: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, NoAnswer> {
        let mut ask = Ask::new(method, path);
        if let Some(token) = &self.token {
            ask.headers.push(("authorization", format!("Bearer {token}")));
        }
        if let Some(body) = body {
            ask.headers.push(("content-type", "application/json".to_string()));
            ask.body = body.to_string().into();
        }
        self.http.ask(&self.nodes[index].admin, ask).await
    }

    /// A client with connections of its own.
    pub fn another_client() -> HttpClient {
        HttpClient::new(Rc::new(TcpDial), Duration::from_secs(20))
    }

    /// A client that knows every node; shared by tasks of this thread.
    pub fn client(&self) -> Rc<HttpClient> {
        self.http.clone()
    }

    /// The client servers, for the load generator.
    pub fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.http.clone()).collect()
    }

    /// Every node's client API as the value of `KVASIR_URL`, the `first`-th in front.
    pub fn urls(&self, first: usize) -> String {
        let count = self.nodes.len();
        let url = |i: usize| format!("http://{}", self.nodes[(first + i) % count].http);
        (0..count).map(url).collect::<Vec<_>>().join(",")
    }

    /// A JSON answer of the admin port with its status.
    ///
    /// # Panics
    /// No answer came, or it is no JSON.
    pub async fn json(
        &self,
        index: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let answer = self.admin(index, method, path, body).await.expect("an answer");
        let value = serde_json::from_slice(&answer.body);
        (answer.status, value.unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.text())))
    }

    /// The id that a node gave itself.
    pub async fn id(&self, index: usize) -> String {
        let (_, status) = self.json(index, Method::GET, "/v1/status", None).await;
        status["answeredBy"].as_str().expect("a node id").to_string()
    }

    /// The newest document that a node uses.
    pub async fn document(&self, index: usize) -> Value {
        let (status, answer) = self.json(index, Method::GET, "/v1/cluster/document", None).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// What a node alone stores under a key.
    pub async fn replica(&self, index: usize, bucket: &str, key: &[u8]) -> Value {
        let path = format!("/v1/replica/{bucket}/{}", escaped(key));
        let (status, answer) = self.json(index, Method::GET, &path, None).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// What each running node alone stores under the keys that the load generator writes.
    pub async fn held(&self, bucket: &str, keys: u32) -> Vec<Held> {
        let mut held = Vec::new();
        for key in (0..keys).map(|number| format!("key-{number}")) {
            for node in self.running() {
                let read = self.replica(node, bucket, key.as_bytes()).await;
                let read = serde_json::from_value(read).expect("a replica read");
                held.push(Held { key: key.clone(), read });
            }
        }
        held
    }

    /// One metric of a node, summed over its labels.
    pub async fn metric(&self, index: usize, name: &str) -> f64 {
        let page = self.admin(index, Method::GET, "/metrics", None).await.expect("an answer");
        assert_eq!(page.status, 200, "{}", page.text());
        let mut found = None;
        for line in page.text().lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.split('{').next() == Some(name) {
                *found.get_or_insert(0.0) += value.parse::<f64>().expect("a number");
            }
        }
        found.unwrap_or_else(|| panic!("node {index} has no metric {name}"))
    }

    /// Resident memory of a running node in bytes.
    pub fn resident_bytes(&self, index: usize) -> u64 {
        let path = format!("/proc/{}/status", self.pid(index));
        let text = std::fs::read_to_string(path).expect("the process runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("VmRSS in kB") * 1024
    }

    /// Waits until no running node keeps anything for another.
    pub async fn until_handed_back(&self) {
        let until = Instant::now() + PATIENCE;
        for node in self.running() {
            loop {
                let copies = self.metric(node, "kvasir_handoff_copies").await;
                let hints = self.metric(node, "kvasir_handoff_hints").await;
                if copies + hints == 0.0 {
                    break;
                }
                if Instant::now() >= until {
                    let log = self.log(node);
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                    panic!("node {node}: {copies} copies, {hints} hints; its log ends:\n{last}");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Waits until every running node but one says one of these words of that one.
    pub async fn until_all_say(&self, of: usize, id: &str, words: &[&str]) {
        let until = Instant::now() + PATIENCE;
        for node in self.running().into_iter().filter(|node| *node != of) {
            loop {
                let (_, status) = self.json(node, Method::GET, "/v1/status", None).await;
                let rows = status["nodes"].as_array().cloned().unwrap_or_default();
                let row = rows.iter().find(|row| row["id"] == id);
                let said = row.and_then(|row| row["liveness"].as_str()).unwrap_or("nothing");
                if words.contains(&said) {
                    break;
                }
                assert!(Instant::now() < until, "node {node} says {said} of {id}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Posts an operation that must be taken, and waits until it is done; what it says then.
    pub async fn operate(&self, by: usize, body: Value) -> Value {
        let id = body["id"].as_str().expect("an id").to_string();
        let (status, mut said) = self.json(by, Method::POST, "/v1/operations", Some(body)).await;
        assert_eq!(status, 200, "{said}");
        let until = Instant::now() + PATIENCE;
        while said["state"] == "running" {
            assert!(Instant::now() < until, "{id} is not over: {said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            said = self.json(by, Method::GET, &format!("/v1/operations/{id}"), None).await.1;
        }
        assert_eq!(said["state"], "done", "{said}");
        said
    }

    /// The nodes whose processes were started and not killed.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].child.is_some()).collect()
    }

    /// Waits until a node's process answers.
    pub async fn until_live(&self, index: usize) {
        self.until(index, "/livez").await;
    }

    /// Waits until a node serves.
    pub async fn until_ready(&self, index: usize) {
        self.until(index, "/readyz").await;
    }

    async fn until(&self, index: usize, path: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.admin(index, Method::GET, path, None).await;
            if answer.as_ref().is_ok_and(|a| a.status == 200) {
                return;
            }
            let log = self.log(index);
            assert!(Instant::now() < until, "node {index} {path}: {answer:?}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Bytes as one segment of a path.
pub fn escaped(bytes: &[u8]) -> String {
    percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            self.kill(index);
        }
    }
}
