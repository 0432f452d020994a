//! Five real nodes, each on a machine of its own as far as the kernel gives one: a network namespace and a small
//! file system. What is done to them is in `faults.rs`.

use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;

use hyper::Method;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::netns::Network;
use super::watch::Watched;
use super::{Cluster, Place};
use crate::load::http::Ask;
use crate::power::{Missing, Volume};

/// Nodes of a ground.
pub const NODES: usize = 5;
/// Copies of a key.
const COPIES: usize = 3;
/// Size of each file system.
const VOLUME_MB: u64 = 256;
/// Small memories, so that flushes, merges and reads of the disk fall into every fault.
const SMALL: [&str; 6] = [
    "storage.memtable_bytes=128KiB",
    "storage.flush_age=1s",
    "storage.log_segment_bytes=256KiB",
    "storage.cache_bytes=64KiB",
    "repair.interval=2s",
    "workers.count=2",
];
/// What the admin ports ask for, which do not listen on loopback here.
const TOKEN: &str = "token-of-the-tests";

/// The nodes and what they stand on.
pub struct Ground {
    /// The nodes. Ended before their volumes go.
    pub cluster: Cluster,
    /// What joins them.
    pub network: Rc<Network>,
    /// For each node a key of the bucket `probe` that it owns.
    probes: Vec<String>,
    volumes: Vec<Volume>,
}

impl Ground {
    /// Fresh nodes that form a cluster.
    ///
    /// # Errors
    /// No file system can be made.
    pub async fn make(network: Rc<Network>) -> Result<Self, Missing> {
        let volumes = (0..NODES).map(|_| Volume::new(VOLUME_MB)).collect::<Result<Vec<_>, _>>()?;
        let place = |(node, volume): (usize, &Volume)| {
            let at = |port: u16| format!("{}:{port}", Network::address(node));
            let data = Some(volume.dir("data"));
            Place { http: at(8098), peer: at(8099), admin: at(9098), data, datacenter: None }
        };
        let places = volumes.iter().enumerate().map(place).collect();
        let mut cluster = Cluster::at(places, Some(TOKEN), &SMALL);
        for (node, one) in cluster.nodes.iter_mut().enumerate() {
            one.before = Network::inside(node);
        }
        cluster.start_all().await;
        cluster.form(NODES, COPIES).await;
        let mut ground = Self { cluster, network, probes: Vec::new(), volumes };
        for node in 0..NODES {
            let key = ground.owned(node).await;
            ground.probes.push(key);
        }
        Ok(ground)
    }

    /// A key that a node owns, with a value.
    async fn owned(&self, node: usize) -> String {
        for number in 0..1_000 {
            let key = format!("probe-{number}");
            if self.cluster.replica(node, "probe", key.as_bytes()).await["owner"] == true {
                let mut put = Ask::new(Method::PUT, format!("/v1/kv/probe/{key}"));
                put.body = "probe".into();
                let answer = self.cluster.ask(node, put).await.expect("an answer");
                assert_eq!(answer.status, 204, "{}", answer.text());
                return key;
            }
        }
        panic!("node {node} owns none of a thousand keys");
    }

    /// A node as its watcher sees it.
    pub fn watched(&self, node: usize) -> Watched {
        let one = &self.cluster.nodes[node];
        let (http, admin) = (one.http.clone(), one.admin.clone());
        Watched { node, http, admin, key: self.probes[node].clone() }
    }

    /// The key that a node owns.
    pub fn probe(&self, node: usize) -> &str {
        &self.probes[node]
    }

    /// Where the file system of a node is mounted.
    pub fn volume(&self, node: usize) -> PathBuf {
        self.volumes[node].path()
    }

    fn ballast(&self, node: usize) -> PathBuf {
        self.volumes[node].dir("ballast")
    }

    /// Takes all the room that the file system of a node has.
    ///
    /// # Errors
    /// Something else than room is missing.
    pub fn fill(&self, node: usize) -> Result<(), Missing> {
        let path = self.ballast(node);
        let ballast = File::create(&path).map_err(|e| Missing(e.to_string()))?;
        let (mut taken, mut piece) = (0, 16 << 20);
        while piece >= 4 << 10 {
            match fallocate(&ballast, FallocateFlags::empty(), taken, piece) {
                Ok(()) => taken += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(Missing(format!("{}: {error}", path.display()))),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn empty(&self, node: usize) {
        // It may not have been taken.
        let _ = std::fs::remove_file(self.ballast(node));
    }
}
