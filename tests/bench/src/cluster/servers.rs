//! Three nodes of a store as processes on loopback: started in a directory of their own, killed, started again,
//! and gone with everything that they wrote when the value is dropped.

use super::ask::{ask, field};
use super::protocol::Protocol;
use super::{grpc::Grpc, http1::Http1};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nodes of a cluster.
pub const NODES: usize = 3;
/// Longest wait for a cluster to form, and for a node to be back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Three copies, quorums of two, synced before the acknowledgement: what a cluster has that nobody told
    /// otherwise, in buckets where the last write wins, since etcd keeps one value as well.
    Kvasir,
    /// As it is installed, with room for the whole load; its history is not compacted, which costs it nothing.
    Etcd,
}

/// The programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `kvasir`.
    pub kvasir: PathBuf,
    /// `etcd`.
    pub etcd: PathBuf,
}

/// One node.
struct Node {
    client: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

/// A cluster that runs.
pub struct Servers {
    store: Store,
    programs: Programs,
    dir: PathBuf,
    nodes: Vec<Node>,
}

/// Ports of loopback that nobody listens on, below those that outgoing connections take.
fn ports(count: usize) -> Result<Vec<u16>, String> {
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let found: Vec<u16> = (first..first + 2_000).filter(free).take(count).collect();
    if found.len() < count { Err("no free ports on loopback".into()) } else { Ok(found) }
}

impl Servers {
    /// Starts the nodes and waits until they are one cluster that serves. `dir` is made and removed again.
    pub fn start(store: Store, programs: &Programs, dir: &Path) -> Result<Self, String> {
        let ports = ports(3 * NODES)?;
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let node = |three: &[u16]| Node {
            client: local(three[0]),
            peer: local(three[1]),
            admin: local(three[2]),
            child: None,
        };
        let nodes = ports.chunks(3).map(node).collect();
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut servers = Self { store, programs: programs.clone(), dir: dir.into(), nodes };
        for node in 0..NODES {
            servers.spawn(node)?;
        }
        if store == Store::Kvasir {
            servers.form()?;
        }
        servers.until_well()?;
        Ok(servers)
    }

    fn spawn(&mut self, node: usize) -> Result<(), String> {
        let mut command = match self.store {
            Store::Kvasir => self.kvasir(node),
            Store::Etcd => self.etcd(node),
        };
        let log = self.dir.join(format!("log-{node}"));
        let said = |e: std::io::Error| format!("{}: {e}", log.display());
        let out = File::options().create(true).append(true).open(&log).map_err(said)?;
        let err = out.try_clone().map_err(said)?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child =
            child.map_err(|e| format!("{:?} cannot be started: {e}", command.get_program()))?;
        self.nodes[node].child = Some(child);
        Ok(())
    }

    fn kvasir(&self, node: usize) -> Command {
        let Node { client, peer, admin, .. } = &self.nodes[node];
        let seeds: Vec<String> = self.nodes.iter().map(|n| format!("\"{}\"", n.peer)).collect();
        let mut command = Command::new(&self.programs.kvasir);
        command.arg("serve");
        for set in [
            format!("node.data_dir={}", self.dir.join(format!("data-{node}")).display()),
            format!("node.seeds=[{}]", seeds.join(",")),
            format!("node.machine=machine-{node}"),
            "node.datacenter=dc1".to_string(),
            format!("http.listen={client}"),
            format!("peer.listen={peer}"),
            format!("admin.listen={admin}"),
        ] {
            command.arg("--set").arg(set);
        }
        command
    }

    fn etcd(&self, node: usize) -> Command {
        let Node { client, peer, .. } = &self.nodes[node];
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let members = self.nodes.iter().enumerate();
        let members: Vec<String> =
            members.map(|(i, n)| format!("n{i}=http://{}", n.peer)).collect();
        let mut command = Command::new(&self.programs.etcd);
        command
            .args(["--name", &format!("n{node}"), "--data-dir"])
            .arg(self.dir.join(format!("data-{node}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"])
            .args(["--initial-cluster-token", "kvasir-bench"])
            .args(["--quota-backend-bytes", "8589934592"]);
        command
    }

    fn form(&self) -> Result<(), String> {
        let peers: Vec<String> = self.nodes.iter().map(|n| format!("\"{}\"", n.peer)).collect();
        let body = format!(
            r#"{{"clusterName":"bench","replication":{{"dc1":{NODES}}},"nodes":[{}],"defaults":{{"mode":"lastWriteWins"}}}}"#,
            peers.join(",")
        );
        let admin = self.nodes[0].admin;
        self.until("the cluster does not form", &|| {
            let (status, said) = ask(&admin, "POST", "/v1/cluster/init", &body)?;
            if status < 300 { Ok(()) } else { Err(format!("{status} {said}")) }
        })
    }

    /// Waits until every node serves and knows of all others.
    pub fn until_well(&self) -> Result<(), String> {
        for node in &self.nodes {
            self.until("a node does not serve", &|| match self.store {
                Store::Kvasir => {
                    let (ready, _) = ask(&node.admin, "GET", "/readyz", "")?;
                    let (_, status) = ask(&node.admin, "GET", "/v1/status", "")?;
                    let up = field(&status, "membersUp").unwrap_or_default();
                    let well = ready == 200 && up == NODES.to_string();
                    if well { Ok(()) } else { Err(format!("{ready}, {up} members are up")) }
                }
                Store::Etcd => self.leader_by(node).map(|_| ()),
            })?;
        }
        Ok(())
    }

    fn until(&self, what: &str, well: &dyn Fn() -> Result<(), String>) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while let Err(wrong) = well() {
            if Instant::now() > end {
                return Err(format!("{what}: {wrong}; {}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The last lines of each node's log.
    fn last_words(&self) -> String {
        let last = |node| {
            let text =
                std::fs::read_to_string(self.dir.join(format!("log-{node}"))).unwrap_or_default();
            let from = text.lines().count().saturating_sub(3);
            text.lines().skip(from).collect::<Vec<_>>().join("\n")
        };
        (0..NODES).map(|node| format!("\nnode {node}: {}", last(node))).collect()
    }

    /// What a node of etcd says of the leader, and of itself: member ids.
    fn leader_by(&self, node: &Node) -> Result<(String, String), String> {
        let (status, said) = ask(&node.client, "POST", "/v3/maintenance/status", "{}")?;
        let (leader, own) = (field(&said, "leader"), field(&said, "member_id"));
        match (status, leader, own) {
            (200, Some(leader), Some(own)) if leader != "0" => Ok((leader, own)),
            _ => Err(format!("{status} {said}")),
        }
    }

    /// The node that leads; of Kvasir, where none does, the first.
    pub fn leader(&self) -> usize {
        if self.store == Store::Kvasir {
            return 0;
        }
        let leads = |node: &Node| self.leader_by(node).is_ok_and(|(leader, own)| leader == own);
        self.nodes.iter().position(leads).unwrap_or(0)
    }

    /// Where clients connect, the `first`-th node in front.
    pub fn clients(&self, first: usize) -> Vec<SocketAddr> {
        (0..NODES).map(|i| self.nodes[(first + i) % NODES].client).collect()
    }

    /// What a client speaks.
    pub fn speak(&self) -> fn(usize) -> Box<dyn Protocol> {
        match self.store {
            Store::Kvasir => |value_bytes| Box::new(Http1::new(value_bytes)),
            Store::Etcd => |value_bytes| Box::new(Grpc::new(value_bytes)),
        }
    }

    /// Ids of the processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id).collect()
    }

    /// Kills a node as `kill -9` does.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            // An error means that it is dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a node that was killed, and waits until all are well.
    pub fn restart(&mut self, node: usize) -> Result<(), String> {
        self.spawn(node)?;
        self.until_well()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..NODES).for_each(|node| self.kill(node));
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}
