//! Operations on the ring of a simulated cluster: posted, waited for, taken back; and what documents, stores
//! and counters of nodes say of them.

use std::time::Duration;

use hyper::Method;
use kvasir::replica::MoveFigures;
use kvasir_core::id::NodeId;
use kvasir_core::merkle::Node;
use kvasir_core::ring::{Document, Partition, Sealed};
use kvasir_core::version::Record;
use kvasir_storage::TableKey;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::cluster::Sim;

/// Longest virtual wait for an operation.
const PATIENCE: Duration = Duration::from_secs(180);
/// Entries and bytes of a piece of a scan.
const PIECE: (usize, usize) = (4_096, 1 << 22);

/// What one store holds of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and sets.
    pub bytes: u64,
    /// The sum of the hash tree.
    pub sum: u64,
}

impl Sim {
    /// Starts all hosts, of which the first `members` form a cluster of three copies; `bits` is log2 of the
    /// number of partitions, where it matters.
    pub async fn some_formed(
        seed: u64,
        (hosts, members): (usize, usize),
        bits: Option<u8>,
        sets: &[&str],
    ) -> Self {
        let mut sim = Self::new(seed, hosts, sets);
        sim.form_some(members, bits).await;
        sim
    }

    /// As [`Self::some_formed`], of hosts that do not run yet.
    pub async fn form_some(&mut self, members: usize, bits: Option<u8>) {
        for host in 0..self.servers().len() {
            self.start(host);
        }
        let nodes: Vec<String> = (0..members).map(|host| format!("n{host}:8099")).collect();
        let mut body = json!({ "clusterName": "sim", "replication": { "dc1": 3 }, "nodes": nodes });
        if let Some(bits) = bits {
            body["partitionBits"] = json!(bits);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let path = "/v1/cluster/init";
            match self.admin(0, Method::POST, path, Some(body.clone())).await {
                Some(answer) if answer.status < 300 => break,
                other => assert!(Instant::now() < until, "init: {other:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
        for host in 0..members {
            self.until_ready(host).await;
        }
        // Gossip has to know who may join.
        sleep(Duration::from_secs(5)).await;
    }

    /// Posts an operation; what the node said.
    pub async fn post(&self, by: usize, body: Value) -> (u16, Value) {
        let answer = self.admin(by, Method::POST, "/v1/operations", Some(body)).await;
        let answer = answer.expect("an answer");
        (answer.status, serde_json::from_str(&answer.text()).expect("JSON"))
    }

    /// Takes an operation back; what the node said.
    pub async fn take_back(&self, by: usize, id: &str) -> (u16, Value) {
        let path = format!("/v1/operations/{id}");
        let answer = self.admin(by, Method::DELETE, &path, None).await.expect("an answer");
        (answer.status, serde_json::from_str(&answer.text()).expect("JSON"))
    }

    /// What has become of an operation.
    pub async fn operation(&self, by: usize, id: &str) -> Value {
        let path = format!("/v1/operations/{id}");
        let answer = self.admin(by, Method::GET, &path, None).await.expect("an answer");
        serde_json::from_str(&answer.text()).expect("JSON")
    }

    /// Waits until an operation has ended.
    pub async fn carried_out(&self, by: usize, id: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.operation(by, id).await;
            if now["state"] != "running" {
                return now;
            }
            assert!(Instant::now() < until, "{id} does not end: {now}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Posts an operation that must be taken, and waits until it is done.
    pub async fn done(&self, by: usize, body: Value) -> Value {
        let id = body["id"].as_str().expect("an id").to_string();
        let (status, answer) = self.post(by, body).await;
        assert_eq!(status, 200, "{answer}");
        let end = self.carried_out(by, &id).await;
        assert_eq!(end["state"], "done", "{end}");
        end
    }

    /// The document in force at a host.
    pub fn document(&self, host: usize) -> Option<Sealed> {
        let shared = self.hosts[host].inside.borrow().upgrade()?;
        Some(shared.views.load().formed.as_ref()?.ring.sealed().clone())
    }

    /// Whether the document in force at a host names its node. One that does not run, or has heard of no
    /// cluster, counts as named: it should.
    pub fn is_member(&self, host: usize) -> bool {
        let Some(shared) = self.hosts[host].inside.borrow().upgrade() else { return true };
        let document = self.document(host);
        document.is_none_or(|document| document.members.contains_key(&shared.identity.node))
    }

    /// Waits until all of these hosts use the newest document that any of them does.
    pub async fn settled(&self, hosts: &[usize]) -> Sealed {
        let until = Instant::now() + PATIENCE;
        loop {
            let all: Vec<Option<Sealed>> = hosts.iter().map(|host| self.document(*host)).collect();
            if let Some(Some(first)) = all.first()
                && all.iter().all(|one| one.as_ref() == Some(first))
            {
                return first.clone();
            }
            assert!(Instant::now() < until, "the hosts do not come to one document");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a host's node did for moves since its start; nothing where none runs.
    pub fn moves(&self, host: usize) -> Option<MoveFigures> {
        let shared = self.hosts[host].inside.borrow().upgrade()?;
        let document = self.document(host)?;
        Some(shared.moving.tally.figures(Some(&document), shared.identity.node))
    }

    /// Bytes of the tables of a host's store.
    pub fn table_bytes(&self, host: usize) -> u64 {
        let shared = self.hosts[host].inside.borrow().upgrade().expect("the host runs");
        shared.replica.store().stats().table_bytes
    }

    /// What a host's store holds of a partition, whoever owns it.
    pub async fn stored(&self, host: usize, partition: Partition) -> Stored {
        let shared = self.hosts[host].inside.borrow().upgrade().expect("the host runs");
        let (store, mut stored) = (shared.replica.store(), Stored::default());
        stored.sum = shared.replica.trees().tree().sum(Node::of(partition));
        let snapshot = store.snapshot();
        let (first, end) = kvasir::replica::moving::keys(partition);
        let mut from: Option<TableKey> = Some(first);
        while let Some(at) = from {
            let piece = store.scan(&snapshot, &at, end.as_ref(), PIECE.0, PIECE.1).await;
            let piece = piece.expect("a sound disk");
            for (key, record) in &piece.entries {
                let set = Record::decode_shared(record).expect("a record").set.encode();
                stored.keys += 1;
                stored.bytes += (key.encoded().len() + set.len()) as u64;
            }
            from = piece.next;
        }
        stored
    }
}

/// How many slots of the table name a node, and whether any slot is in motion.
pub fn owned(document: &Document, node: NodeId) -> (usize, bool) {
    let slots = || document.table.iter().flat_map(|entry| entry.slots.values().flatten());
    let own = slots().filter(|slot| slot.owner == node).count();
    (own, slots().any(|slot| slot.state.moves()))
}
