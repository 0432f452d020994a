//! The faults: for each how it is done, how one sees that it was, what becomes of the process, how it is undone.
//!
//! Where the kernel gives it a fault is real: signals, dropped packets, a file system without room, a throttled
//! device, a limit of memory. System calls that fail come from `strace`, a wrong clock from `libfaketime`. What
//! is missing on a machine is said, and the fault is not counted as tried.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use hyper::Method;

use super::cgroup::Group;
use super::ground::{Ground, NODES};
use super::netns::Network;
use super::strace::Strace;
use super::{Cluster, PATIENCE, clock};
use crate::load::http::Ask;
use crate::power::Missing;

/// The call by which connections are accepted.
const ACCEPT: &str = "accept4";

/// What a node is to do while it is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Go on, in the same process.
    Lives,
    /// End by itself, because its disk failed.
    DiskFailed,
    /// Either live, or end because its disk failed.
    MayFail,
    /// Either live, or be killed by the kernel.
    MayBeKilled,
    /// It was ended by the fault itself.
    Ended,
}

/// Something that happens to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, so many times, with a start between.
    Kills {
        /// Who.
        node: usize,
        /// How often.
        times: u32,
    },
    /// SIGSTOP, and SIGCONT in the end.
    Pause {
        /// Who.
        node: usize,
    },
    /// Links that carry nothing, from one node to another.
    Cut {
        /// What it looks like.
        name: &'static str,
        /// From where to where.
        links: Vec<(usize, usize)>,
    },
    /// Packets between nodes that get lost, so many of 100.
    Loss {
        /// How many.
        percent: u32,
    },
    /// A node that can send only so much.
    Narrow {
        /// Who.
        node: usize,
        /// Kilobits in a second.
        kbit: u32,
    },
    /// No room on the disk.
    FullDisk {
        /// Whose.
        node: usize,
    },
    /// A node that is killed and comes up on a disk without room.
    FullStart {
        /// Whose.
        node: usize,
    },
    /// A disk that takes little in a second.
    SlowDisk {
        /// Whose.
        node: usize,
    },
    /// System calls that fail or take long.
    Calls {
        /// Who.
        node: usize,
        /// What it looks like.
        name: &'static str,
        /// Which calls, by names and commas.
        calls: &'static str,
        /// What they do, as `strace -e inject` takes it.
        what: &'static str,
        /// What the node does.
        fate: Fate,
    },
    /// A node that may use only so much memory, under large writes.
    Memory {
        /// Who.
        node: usize,
        /// Mebibytes.
        mib: u64,
    },
    /// A wall clock that jumps ten minutes ahead, then an hour back.
    Clock {
        /// Whose.
        node: usize,
    },
}

/// A fault that is under way.
#[derive(Debug, Default)]
pub struct Begun {
    /// Who ran as what before, where a process is to stay.
    pids: Vec<(usize, u32)>,
    strace: Option<Strace>,
    group: Option<Group>,
}

/// Every pair of nodes of different groups, both ways.
fn apart(groups: &[&[usize]]) -> Vec<(usize, usize)> {
    let mut links = Vec::new();
    for (i, one) in groups.iter().enumerate() {
        for other in &groups[i + 1..] {
            for (a, b) in one.iter().flat_map(|a| other.iter().map(|b| (*a, *b))) {
                links.extend([(a, b), (b, a)]);
            }
        }
    }
    links
}

impl Fault {
    /// Two nodes on one side, three on the other, from a node on.
    pub fn split(first: usize) -> Self {
        let all: Vec<usize> = (0..NODES).map(|i| (first + i) % NODES).collect();
        Self::Cut { name: "split 2 | 3", links: apart(&[&all[..2], &all[2..]]) }
    }

    /// One node alone.
    pub fn alone(node: usize) -> Self {
        let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
        Self::Cut { name: "one node alone", links: apart(&[&[node], &others]) }
    }

    /// A node that nobody hears, though it hears all.
    pub fn unheard(node: usize) -> Self {
        let links = (0..NODES).filter(|to| *to != node).map(|to| (node, to)).collect();
        Self::Cut { name: "one way: unheard", links }
    }

    /// Two sides of two, and one node between that hears both.
    pub fn bridge(node: usize) -> Self {
        let at = |i: usize| (node + i) % NODES;
        Self::Cut { name: "bridge 2 - 1 - 2", links: apart(&[&[at(1), at(2)], &[at(3), at(4)]]) }
    }

    /// Every sync of the disk fails: the node must stop.
    pub fn sync_fails(node: usize) -> Self {
        let (name, calls, what) = ("fdatasync: EIO", "fdatasync,fsync", "error=EIO");
        Self::Calls { node, name, calls, what, fate: Fate::DiskFailed }
    }

    /// Writes to files fail: the node must stop.
    pub fn writes_fail(node: usize) -> Self {
        let (name, calls, what) = ("pwrite: EIO", "pwrite64", "error=EIO");
        Self::Calls { node, name, calls, what, fate: Fate::DiskFailed }
    }

    /// What lies in files cannot be read: others have it. What a flush wrote is read again, and must be there.
    pub fn reads_fail(node: usize) -> Self {
        let (name, calls, what) = ("pread: EIO", "pread64,preadv2", "error=EIO");
        Self::Calls { node, name, calls, what, fate: Fate::MayFail }
    }

    /// Every sync takes long.
    pub fn slow_sync(node: usize) -> Self {
        let (name, calls, what) = ("fdatasync: 400 ms", "fdatasync", "delay_enter=400000");
        Self::Calls { node, name, calls, what, fate: Fate::Lives }
    }

    /// Two of three connections are not accepted, for want of descriptors.
    pub fn no_descriptors(node: usize) -> Self {
        let (name, calls, what) = ("accept: EMFILE", ACCEPT, "error=EMFILE:when=2+3");
        Self::Calls { node, name, calls, what, fate: Fate::Lives }
    }

    /// Who is harmed.
    pub fn nodes(&self) -> Vec<usize> {
        match self {
            Self::Cut { .. } | Self::Loss { .. } => (0..NODES).collect(),
            Self::Kills { node, .. }
            | Self::Pause { node }
            | Self::Narrow { node, .. }
            | Self::FullDisk { node }
            | Self::FullStart { node }
            | Self::SlowDisk { node }
            | Self::Calls { node, .. }
            | Self::Memory { node, .. }
            | Self::Clock { node } => vec![*node],
        }
    }

    fn fate(&self) -> Fate {
        match self {
            Self::Kills { .. } => Fate::Ended,
            Self::FullStart { .. } => Fate::MayFail,
            Self::Memory { .. } => Fate::MayBeKilled,
            Self::Calls { fate, .. } => *fate,
            _ => Fate::Lives,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// This machine cannot. Nothing was done that [`Fault::end`] does not undo.
    pub async fn begin(&self, ground: &mut Ground) -> Result<Begun, Missing> {
        let mut begun = Begun::default();
        match self {
            Self::Kills { node, times } => {
                for _ in 1..*times {
                    ground.cluster.kill(*node);
                    ground.cluster.restart_alone(*node).await;
                }
                ground.cluster.kill(*node);
            }
            Self::Pause { node } => ground.cluster.signal(*node, "STOP"),
            Self::Cut { links, .. } => {
                links.iter().try_for_each(|(from, to)| ground.network.cut(*from, *to))?;
            }
            Self::Loss { percent } => {
                (0..NODES).try_for_each(|to| ground.network.lose(to, *percent))?;
            }
            Self::Narrow { node, kbit } => ground.network.narrow(*node, *kbit)?,
            Self::FullDisk { node } => ground.fill(*node)?,
            Self::FullStart { node } => {
                ground.cluster.kill(*node);
                // The end of the process gave back what it had open.
                ground.fill(*node)?;
                ground.cluster.spawn(*node);
            }
            Self::SlowDisk { node } => {
                let group = Group::slow_disk("disk", &ground.volume(*node), 128 << 10, 15)?;
                group.add(ground.cluster.pid(*node))?;
                begun.group = Some(group);
            }
            Self::Calls { node, calls, what, .. } => {
                let (pid, dir) = (ground.cluster.pid(*node), ground.cluster.dir().to_path_buf());
                begun.strace = Some(Strace::attach(pid, calls, what, &dir).await?);
            }
            Self::Memory { node, mib } => {
                let group = Group::memory("memory", mib << 20)?;
                squeeze(ground, *node, &group).await;
                begun.group = Some(group);
            }
            Self::Clock { node } => clock::jump(ground, *node).await?,
        }
        if self.fate() == Fate::Lives {
            let pid = |node: usize| (node, ground.cluster.pid(node));
            begun.pids = self.nodes().into_iter().map(pid).collect();
        }
        Ok(begun)
    }

    /// What shows that it is done; nothing yet.
    pub async fn shown(&self, ground: &mut Ground, begun: &Begun) -> Option<String> {
        match self {
            Self::Kills { times, .. } => Some(format!("{times} kills")),
            Self::Pause { node } => {
                let path = format!("/proc/{}/stat", ground.cluster.pid(*node));
                let stopped = std::fs::read_to_string(path).is_ok_and(|s| s.contains(") T "));
                stopped.then(|| "stopped".to_string())
            }
            Self::Cut { .. } | Self::Loss { .. } => {
                some(ground.network.dropped(), "packets dropped")
            }
            Self::Narrow { node, .. } => some(ground.network.held_up(*node), "packets held up"),
            Self::FullDisk { node } => refused(ground, *node).await,
            Self::FullStart { .. } => Some("started without room".to_string()),
            Self::SlowDisk { .. } => some(begun.group.as_ref()?.written(), "bytes throttled"),
            Self::Calls { node, calls, .. } => {
                if *calls == ACCEPT {
                    knock(ground, *node).await;
                }
                some(begun.strace.as_ref()?.injected() as u64, "calls")
            }
            Self::Memory { .. } => some(begun.group.as_ref()?.reached(), "times at the limit"),
            Self::Clock { node } => clock::behind(&ground.cluster, *node).await,
        }
    }

    /// Waits until a node that must end has ended, and says what is not as it must be.
    pub async fn broken(&self, ground: &mut Ground, begun: &Begun) -> Vec<String> {
        let mut broken = Vec::new();
        for (node, pid) in &begun.pids {
            if let Some(status) = ground.cluster.ended(*node) {
                broken.push(format!("ended: node {node}: {status}{}", last_words(ground, *node)));
            } else if ground.cluster.pid(*node) != *pid {
                broken.push(format!("ended: node {node} is another process"));
            }
        }
        let (fate, node) = (self.fate(), self.nodes()[0]);
        if fate == Fate::DiskFailed {
            let until = Instant::now() + PATIENCE;
            let status = loop {
                match ground.cluster.ended(node) {
                    None if Instant::now() < until => {}
                    ended => break ended,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            let code = status.and_then(|status| status.code());
            if code != Some(i32::from(kvasir::serve::EXIT_DISK)) {
                let words = last_words(ground, node);
                broken.push(format!(
                    "ended: node {node} should say that its disk failed: {status:?}{words}"
                ));
            }
        }
        if fate == Fate::MayFail
            && let Some(status) = ground.cluster.ended(node)
            && status.code() != Some(i32::from(kvasir::serve::EXIT_DISK))
        {
            let words = last_words(ground, node);
            broken.push(format!("ended: node {node} does not say why: {status}{words}"));
        }
        if fate == Fate::MayBeKilled
            && let Some(status) = ground.cluster.ended(node)
            && status.signal() != Some(9)
        {
            let words = last_words(ground, node);
            broken.push(format!("ended: node {node} was not killed: {status}{words}"));
        }
        broken
    }

    /// Undoes it; nodes that do not run are started.
    ///
    /// # Errors
    /// This machine does not take it back.
    pub async fn end(&self, ground: &mut Ground, begun: Begun) -> Result<(), Missing> {
        drop(begun);
        let node = self.nodes()[0];
        match self {
            Self::Cut { .. } | Self::Loss { .. } | Self::Narrow { .. } => ground.network.mend()?,
            Self::Pause { node } => ground.cluster.signal(*node, "CONT"),
            Self::FullDisk { node } | Self::FullStart { node } => ground.empty(*node),
            Self::Clock { .. } => ground.cluster.kill(node),
            _ => {}
        }
        ground.cluster.nodes[node].before = Network::inside(node);
        ground.cluster.nodes[node].variables.clear();
        // One that ended by itself is noticed here.
        let _ = ground.cluster.ended(node);
        if !ground.cluster.running().contains(&node) {
            ground.cluster.restart_alone(node).await;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kills { times, .. } => write!(f, "kill -9, {times} times"),
            Self::Pause { .. } => f.write_str("SIGSTOP"),
            Self::Cut { name, .. } | Self::Calls { name, .. } => f.write_str(name),
            Self::Loss { percent } => write!(f, "{percent} % of packets lost"),
            Self::Narrow { kbit, .. } => write!(f, "{kbit} kbit/s"),
            Self::FullDisk { .. } => f.write_str("full disk"),
            Self::FullStart { .. } => f.write_str("start on a full disk"),
            Self::SlowDisk { .. } => f.write_str("slow disk"),
            Self::Memory { mib, .. } => write!(f, "{mib} MiB of memory"),
            Self::Clock { .. } => f.write_str("clock +10 min, -1 h"),
        }
    }
}

fn some(count: u64, what: &str) -> Option<String> {
    (count > 0).then(|| format!("{count} {what}"))
}

/// The last line of a node's log that warns or tells of an error.
fn last_words(ground: &Ground, node: usize) -> String {
    let log = ground.cluster.log(node);
    let grave = |line: &&str| {
        line.contains("ERROR") || line.contains("WARN") || line.contains("kvasir serve:")
    };
    log.lines().rev().find(grave).map(|line| format!("; it said: {line}")).unwrap_or_default()
}

/// Connects to a node some times, since clients keep the connections that they have.
async fn knock(ground: &Ground, node: usize) {
    for _ in 0..6 {
        let ask = Ask::new(Method::GET, format!("/v1/kv/probe/{}?r=one", ground.probe(node)));
        let (client, server) = (Cluster::another_client(), &ground.cluster.nodes[node].http);
        // Who is not accepted waits in the kernel's queue.
        let _ = tokio::time::timeout(Duration::from_millis(500), client.ask(server, ask)).await;
    }
}

/// Whether a node says that its disk is full.
async fn refused(ground: &Ground, node: usize) -> Option<String> {
    let free = ground.cluster.metric(node, "kvasir_disk_free_bytes").await;
    (free < 64_000.0).then(|| format!("{free} bytes free"))
}

/// Starts a node in a group with little memory, and has it take large values at once.
async fn squeeze(ground: &mut Ground, node: usize, group: &Group) {
    const VALUES: usize = 32;
    const VALUE_BYTES: usize = 600_000;
    ground.cluster.kill(node);
    let enter = format!("echo $$ > {} && exec \"$@\"", group.procs().display());
    let words = ["sh".to_string(), "-c".to_string(), enter, "sh".to_string()];
    ground.cluster.nodes[node].before.extend(words);
    ground.cluster.spawn(node);
    let until = Instant::now() + PATIENCE;
    while ground.cluster.ended(node).is_none() && Instant::now() < until {
        let ready = ground.cluster.admin(node, Method::GET, "/readyz", None).await;
        if ready.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let puts = (0..VALUES).map(|number| {
        let (client, server) = (Cluster::another_client(), ground.cluster.nodes[node].http.clone());
        tokio::task::spawn_local(async move {
            let mut put = Ask::new(Method::PUT, format!("/v1/kv/large/value-{number}?timeout=3s"));
            put.body = vec![b'x'; VALUE_BYTES].into();
            // Whatever comes of it: the history is of other writes.
            let _ = client.ask(&server, put).await;
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.expect("a write ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_part_what_they_say() {
        let links = |fault: Fault| match fault {
            Fault::Cut { links, .. } => links,
            other => panic!("no cut: {other}"),
        };
        assert_eq!(links(Fault::split(4)).len(), 2 * 6);
        assert!(!links(Fault::split(4)).contains(&(4, 0)), "they are on one side");
        assert_eq!(links(Fault::alone(2)).len(), 8);
        assert_eq!(links(Fault::unheard(2)), [(2, 0), (2, 1), (2, 3), (2, 4)]);
        let bridge = links(Fault::bridge(0));
        assert_eq!(bridge.len(), 8);
        assert!(bridge.iter().all(|(a, b)| *a != 0 && *b != 0), "the one between hears all");
    }
}
