//! A world of one's own for tests that cut networks and fill disks: the program starts itself again as the first
//! process of new network, mount and process namespaces, with one network namespace more for each node.
//!
//! Nothing of it outlives that first process, however it ends, since the kernel removes namespaces, mounts, loop
//! devices and processes with it; what is left on disk and in control groups is removed by whoever made the
//! world. No name needs to be unique, and there is no way out: the world has no interface of the machine.
//!
//! The nodes hang on one bridge, and the clients sit at the bridge itself, so that what is cut between nodes never
//! cuts off a client. Links are cut by iptables, where a packet arrives, and narrowed by `tbf`. Delay, jitter and
//! packets out of order need `netem`, which many kernels lack: the simulation has them, frame by frame.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::cgroup;
use crate::power::Missing;
use crate::power::volume::run;

/// Names the process that made the world; set in it and nowhere else.
const MAKER: &str = "KVASIR_OWN_WORLD_OF";
/// What the world consists of.
const UNSHARE: [&str; 5] = ["--net", "--mount", "--pid", "--mount-proc", "--fork"];
/// What a network is made with, and where it comes from.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
];
/// The bridge, and where the clients are on it.
const BRIDGE: &str = "kvasir";
const CLIENTS: &str = "10.77.0.250/24";

/// Where the program finds itself.
#[derive(Debug)]
pub enum World {
    /// In a world of its own.
    Inside,
    /// Outside, and the run inside has ended so.
    Outside(ExitStatus),
}

/// Who made this world; only inside.
pub(super) fn maker() -> String {
    std::env::var(MAKER).unwrap_or_default()
}

/// Starts this program again with these words in a world of its own, unless it is there already, and waits for
/// it, at most so long.
///
/// # Errors
/// This machine gives no such world: who asks is not root on Linux, or something is missing.
pub fn enter(words: &[OsString], within: Duration) -> Result<World, Missing> {
    // The first process of a world has the number 1, which no test has elsewhere: what follows must never be
    // done to the machine itself.
    if !maker().is_empty() && std::process::id() == 1 {
        settle_in()?;
        return Ok(World::Inside);
    }
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        return Err(Missing("needs root on Linux, to make network namespaces and mounts".into()));
    }
    for (tool, package) in TOOLS {
        let missing = |_| Missing(format!("{tool} is missing. try: apt-get install {package}"));
        run("sh", &["-c", &format!("command -v {tool}")]).map_err(missing)?;
    }
    run("unshare", &[&UNSHARE[..], &["true"]].concat())?;
    let missing = |what: &str, error: std::io::Error| Missing(format!("{what}: {error}"));
    let home = tempfile::tempdir().map_err(|e| missing("a temporary directory", e))?;
    let program = std::env::current_exe().map_err(|e| missing("this program", e))?;
    let mut inside = Command::new("unshare");
    inside.args(UNSHARE).arg("--kill-child").arg(program).args(words);
    inside.env(MAKER, std::process::id().to_string()).env("TMPDIR", home.path());
    let status = wait(inside.spawn().map_err(|e| missing("unshare", e))?, within);
    cgroup::sweep();
    status.map(World::Outside).map_err(|e| missing("the world", e))
}

fn wait(mut world: Child, within: Duration) -> std::io::Result<ExitStatus> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Some(status) = world.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("the world did not end within {within:?}: it is ended");
    world.kill()?;
    world.wait()
}

/// Names of namespaces and shared memory of its own, and a loopback that is up.
fn settle_in() -> Result<(), Missing> {
    for dir in ["/run", "/dev/shm"] {
        run("mount", &["-t", "tmpfs", "-o", "size=16m", "kvasir", dir])?;
    }
    run("ip", &["link", "set", "lo", "up"])
}

/// The nodes' network. Everything that was done to it ends with [`Network::mend`], and it with the world.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
}

impl Network {
    /// A namespace for each node, on one bridge. Once in a world.
    ///
    /// # Errors
    /// `ip` is missing, or refused.
    pub fn make(nodes: usize) -> Result<Self, Missing> {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        run("ip", &["addr", "add", CLIENTS, "dev", BRIDGE])?;
        run("ip", &["link", "set", BRIDGE, "up"])?;
        for node in 0..nodes {
            let (name, port) = (name(node), format!("port{node}"));
            run("ip", &["netns", "add", &name])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
            run("ip", &[&["link", "add", &port][..], &peer].concat())?;
            run("ip", &["link", "set", &port, "master", BRIDGE, "up"])?;
            let address = format!("{}/24", Self::address(node));
            run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            for device in ["lo", "eth0"] {
                run("ip", &["-n", &name, "link", "set", device, "up"])?;
            }
        }
        Ok(Self { nodes })
    }

    /// The address of a node.
    pub fn address(node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    /// The words before a command that put it into the namespace of a node, without a process between.
    pub fn inside(node: usize) -> Vec<String> {
        vec!["nsenter".to_string(), format!("--net=/run/netns/{}", name(node))]
    }

    fn at(node: usize, words: &[&str]) -> Result<(), Missing> {
        let net = format!("--net=/run/netns/{}", name(node));
        run("nsenter", &[&[net.as_str()][..], words].concat())
    }

    /// Drops what comes to one node from another.
    ///
    /// # Errors
    /// `iptables` is missing, or refused.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), Missing> {
        let from = Self::address(from);
        Self::at(to, &["iptables", "-w", "-A", "INPUT", "-s", &from, "-j", "DROP"])
    }

    /// Drops so many of 100 packets that come to a node from other nodes.
    ///
    /// # Errors
    /// As [`Network::cut`].
    pub fn lose(&self, to: usize, percent: u32) -> Result<(), Missing> {
        let part = format!("{:.2}", f64::from(percent.min(100)) / 100.0);
        for from in (0..self.nodes).filter(|from| *from != to) {
            let from = Self::address(from);
            let which =
                ["-s", &from, "-m", "statistic", "--mode", "random", "--probability", &part];
            let rule = [&["iptables", "-w", "-A", "INPUT"][..], &which, &["-j", "DROP"]].concat();
            Self::at(to, &rule)?;
        }
        Ok(())
    }

    /// Lets a node send no more than so many kilobits in a second.
    ///
    /// # Errors
    /// `tc` or its `tbf` is missing.
    pub fn narrow(&self, node: usize, kbit: u32) -> Result<(), Missing> {
        let rate = format!("{kbit}kbit");
        let bucket = ["rate", &rate, "burst", "16kb", "latency", "400ms"];
        Self::at(
            node,
            &[&["tc", "qdisc", "add", "dev", "eth0", "root", "tbf"][..], &bucket].concat(),
        )
    }

    /// Packets that were dropped on their way to any node since the last mending.
    pub fn dropped(&self) -> u64 {
        let count = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
        let at = |node| {
            let said = said(node, &["iptables", "-w", "-nvxL", "INPUT"]);
            said.lines().filter(|line| line.contains("DROP")).filter_map(count).sum::<u64>()
        };
        (0..self.nodes).map(at).sum()
    }

    /// Packets that a narrow link made wait or dropped.
    pub fn held_up(&self, node: usize) -> u64 {
        let said = said(node, &["tc", "-s", "qdisc", "show", "dev", "eth0"]);
        let number = |word: &str| {
            let (_, rest) = said.split_once(word)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        number("overlimits ").unwrap_or(0) + number("dropped ").unwrap_or(0)
    }

    /// Takes away whatever was done to the network.
    ///
    /// # Errors
    /// As [`Network::cut`].
    pub fn mend(&self) -> Result<(), Missing> {
        for node in 0..self.nodes {
            Self::at(node, &["iptables", "-w", "-F", "INPUT"])?;
            if said(node, &["tc", "qdisc", "show", "dev", "eth0"]).contains("tbf") {
                Self::at(node, &["tc", "qdisc", "del", "dev", "eth0", "root"])?;
            }
        }
        Ok(())
    }
}

fn name(node: usize) -> String {
    format!("node{node}")
}

/// What a command says in the namespace of a node; nothing if it fails.
fn said(node: usize, words: &[&str]) -> String {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", name(node))).args(words);
    let out = command.output();
    out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default()
}
