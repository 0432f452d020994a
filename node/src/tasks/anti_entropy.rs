//! Anti-entropy: compares the replicas of this node with those of its neighbours, again and again, and mends
//! what differs by merge, on both sides.
//!
//! One worker of the node runs it. Whom to compare with next is decided by `Schedule`, what to do next by
//! [`Exchange`]; this file sends, reads and merges. Between two steps it rests in proportion to what it did
//! while clients are served, and keeps to the pause that a receiver asks for.
//!
//! Nothing is compared while this node serves no data: what it holds may be of an older state.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvasir_core::handoff::Pace;
use kvasir_core::id::NodeId;
use kvasir_core::merkle::{
    Answer, Ask, Exchange, Held, Job, Limits, Merged, Neighbours, Scope, Step, place, rest_ms,
};
use kvasir_core::ring::operation::OperationKind;
use kvasir_core::ring::{Durability, Partition};
use kvasir_core::version::SiblingSet;
use kvasir_storage::TableKey;
use tokio::time::Instant;

use super::repairs::Repairs;
use crate::peer::{HEADER_BYTES, Peers, Refusal, Reply, Request, Route};
use crate::replica::{Formed, Replica, StandIns, Views, compare};

/// Longest wait before it is looked whether a comparison is due.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest comparison with one neighbour; what is left is found by the next.
const COMPARISON: Duration = Duration::from_secs(600);
/// Longest pause that a receiver is granted.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The loop and what it works with.
pub struct AntiEntropy {
    /// The local side.
    pub replica: Arc<Replica>,
    /// What is kept for others: how many hints were lost.
    pub standins: Arc<StandIns>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// Connections of the worker that runs this.
    pub peers: Rc<Peers>,
    /// What admin and metrics see.
    pub repairs: Arc<Repairs>,
    /// How fast this node takes sets in.
    pub pace: Arc<Mutex<Pace>>,
    /// Requests of clients that this node ever worked on.
    pub served: Rc<dyn Fn() -> u64>,
}

/// Why a comparison ended early. What was mended stays mended; it is tried again soon.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the neighbour is down")]
    Down,
    #[error("no answer: {0}")]
    NoAnswer(String),
    #[error("the neighbour refused: {0}")]
    Refused(Refusal),
    #[error("its answer does not fit: {0}")]
    Misfit(String),
    #[error("this replica: {0}")]
    Here(String),
    #[error("the cluster document changed")]
    Changed,
    #[error("it took too long")]
    TooLong,
}

/// What the loop remembers of the document.
#[derive(Default)]
struct Known {
    epoch: u64,
    neighbours: Neighbours,
    /// Recorded repairs that were begun here, or were over before this start.
    repairs: Option<BTreeSet<String>>,
}

/// What a comparison carried so far, and the stamps of what it carries (reclaim refuses old ones). An
/// exchange merges all sets of an answer before it asks anew, and sends all that it read before it reads
/// anew.
#[derive(Debug, Default)]
struct Carried {
    bytes: u64,
    /// The neighbour's generation from before it read what is in its last answer.
    theirs: u64,
    /// This node's generation from before it last read what it is to send.
    own: u64,
}

impl AntiEntropy {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut known = Known::default();
        loop {
            self.look(&mut known);
            let job = self.repairs.schedule().next(self.repairs.now_ms());
            match job {
                Some(job) => self.work(&job).await,
                None => {
                    // Either something was asked for or it is time to look again.
                    let _ = tokio::time::timeout(LOOK, self.repairs.asked.notified()).await;
                }
            }
        }
    }

    /// Tells the schedule who is there.
    fn look(&self, known: &mut Known) {
        let view = self.views.load();
        let shelves = self.standins.shelves();
        let lost = shelves.hints_overflowed.load(Relaxed) + shelves.hints_expired.load(Relaxed);
        let formed = view.formed.as_ref().filter(|_| view.retired.is_none());
        let Some(formed) = formed else {
            *known = Known::default();
            self.repairs.schedule().update(self.repairs.now_ms(), &Neighbours::default());
            return;
        };
        if known.epoch != formed.ring.epoch() {
            known.epoch = formed.ring.epoch();
            known.neighbours.k = formed.ring.document().partition_bits;
            known.neighbours.shared = shared(formed, view.me);
        }
        known.neighbours.up =
            known.neighbours.shared.keys().copied().filter(|n| view.rank(*n) < 2).collect();
        known.neighbours.hints_lost = lost;
        self.repairs.schedule().update(self.repairs.now_ms(), &known.neighbours);
        self.begin_recorded(known, formed, view.me);
    }

    /// Begins repairs that the document records. Those of before this start are over: each start compares
    /// everything anyway.
    fn begin_recorded(&self, known: &mut Known, formed: &Formed, me: NodeId) {
        let operations = &formed.ring.document().operations;
        let repairs = operations.iter().filter(|(_, record)| {
            let operation = &record.operation;
            operation.kind == OperationKind::Repair && operation.node.is_none_or(|node| node == me)
        });
        let begun = known.repairs.get_or_insert_with(|| {
            let before = repairs.clone().filter(|(_, record)| record.finished < known.epoch);
            before.map(|(id, _)| id.clone()).collect()
        });
        for (id, _) in repairs {
            let scope = Scope { operation: Some(id.clone()), ..Scope::default() };
            if !begun.contains(id) && self.repairs.schedule().request(scope) {
                begun.insert(id.clone());
            }
        }
        begun.retain(|id| operations.contains_key(id));
    }

    async fn work(&self, job: &Job) {
        let limits = Limits { bucket: job.bucket.clone(), ..Limits::default() };
        let tree = self.replica.trees().tree();
        let mut exchange = Exchange::new(tree, job.k, job.partitions.iter().copied(), limits);
        let mut carried = Carried::default();
        let ended = self.compare(job, &mut exchange, &mut carried).await;
        let bytes = carried.bytes;
        let (through, tally) = (ended.is_ok(), exchange.tally());
        match ended {
            Err(why) => {
                self.repairs.failed.fetch_add(1, Relaxed);
                tracing::debug!(peer = %job.peer, %why, "a comparison ended early");
            }
            Ok(()) => {
                self.repairs.through.fetch_add(1, Relaxed);
            }
        }
        if tally.mended > 0 {
            tracing::info!(peer = %job.peer, keys = tally.mended, bytes, "replicas were mended");
        }
        self.repairs.mended.fetch_add(tally.mended, Relaxed);
        let compared: Vec<_> = exchange.compared().collect();
        let now_ms = self.repairs.now_ms();
        self.repairs.schedule().done(now_ms, job, (&compared, through), (tally, bytes));
    }

    async fn compare(
        &self,
        job: &Job,
        exchange: &mut Exchange,
        carried: &mut Carried,
    ) -> Result<(), Ended> {
        let until = Instant::now() + COMPARISON;
        let formed = self.views.load().formed.clone().ok_or(Ended::Changed)?;
        loop {
            let (began, served) = (Instant::now(), (self.served)());
            if !self.step(job, &formed, exchange, carried).await? {
                return Ok(());
            }
            if began >= until {
                return Err(Ended::TooLong);
            }
            let view = self.views.load();
            let epoch = view.formed.as_ref().map(|formed| formed.ring.epoch());
            if epoch != Some(formed.ring.epoch()) || view.retired.is_some() {
                return Err(Ended::Changed);
            }
            let took_ms = began.elapsed().as_millis() as u64;
            let rest = rest_ms(took_ms, (self.served)().wrapping_sub(served));
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }

    /// One step; false when there is none left.
    async fn step(
        &self,
        job: &Job,
        formed: &Formed,
        exchange: &mut Exchange,
        carried: &mut Carried,
    ) -> Result<bool, Ended> {
        let here = |error: crate::replica::LocalError| Ended::Here(error.to_string());
        match exchange.next(self.replica.trees().tree()) {
            Step::Done => return Ok(false),
            Step::Ask { partition, ask } => {
                self.ask(job, formed, exchange, (partition, ask), carried).await?;
            }
            Step::List { spans, .. } => {
                let listed = self.replica.list(&spans, exchange.bucket(), exchange.digests()).await;
                if let Step::Ask { partition, ask } = exchange.listed(listed.map_err(here)?) {
                    self.ask(job, formed, exchange, (partition, ask), carried).await?;
                }
            }
            Step::Merge { partition, sets } => {
                let merged =
                    self.merge(formed, Partition { k: job.k, index: partition }, sets, carried);
                exchange.merged(merged.await?);
            }
            Step::Read { places, .. } => {
                carried.own = self.replica.generation().now();
                exchange.read(self.replica.held_at(&places).await.map_err(here)?);
            }
        }
        Ok(true)
    }

    async fn ask(
        &self,
        job: &Job,
        formed: &Formed,
        exchange: &mut Exchange,
        (partition, ask): (Option<u32>, Ask),
        carried: &mut Carried,
    ) -> Result<(), Ended> {
        let body = compare::encode(&ask);
        let route = match partition {
            None => None,
            Some(index) => {
                let partition = Partition { k: job.k, index };
                let entry = formed.ring.version(partition).ok_or(Ended::Changed)?;
                Some(Route { partition, version: entry.0, entry_hash: entry.1 })
            }
        };
        let view = self.views.load();
        let address = view.reachable(job.peer).ok_or(Ended::Down)?;
        let deadline = Instant::now() + ANSWER;
        let sent = (body.len() + HEADER_BYTES) as u64;
        let (head, request) = ((route, carried.own), Request::Repair(body));
        let reply = self.peers.call_stamped(job.peer, address, head, request, deadline).await;
        let reply = reply.map(|answer| {
            carried.theirs = answer.generation;
            answer.reply
        });
        let answer = match reply {
            Ok(Reply::Repair(answer)) => answer,
            Ok(Reply::Refused(refusal)) => return Err(Ended::Refused(refusal)),
            Ok(other) => return Err(Ended::Misfit(format!("a reply of kind {}", other.name()))),
            Err(error) => return Err(Ended::NoAnswer(error.to_string())),
        };
        let received = (answer.len() + HEADER_BYTES) as u64;
        self.repairs.sent_bytes.fetch_add(sent, Relaxed);
        self.repairs.received_bytes.fetch_add(received, Relaxed);
        carried.bytes += sent + received;
        let answer: Answer = compare::decode(&answer).map_err(Ended::Misfit)?;
        let pause_ms = match &answer {
            Answer::Stored { pause_ms, .. } => *pause_ms,
            _ => 0,
        };
        exchange.answered(answer).map_err(|e| Ended::Misfit(e.to_string()))?;
        tokio::time::sleep(Duration::from_millis(pause_ms).min(PAUSE_MAX)).await;
        Ok(())
    }

    /// Merges what the neighbour holds, durably.
    async fn merge(
        &self,
        formed: &Formed,
        partition: Partition,
        sets: Vec<Held>,
        carried: &Carried,
    ) -> Result<Vec<Merged>, Ended> {
        let here = |error: String| Ended::Here(error);
        // No fence goes past before what comes is visible.
        let (version, hash) = formed.ring.version(partition).ok_or(Ended::Changed)?;
        let pass = self.views.enter(partition, version, hash).map_err(|_| Ended::Changed)?;
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for held in sets {
            bytes += held.bytes() as u64;
            let (hash, at) = formed.ring.locate(&held.bucket, &held.key);
            if at != partition || held.key.is_empty() {
                return Err(Ended::Misfit("a key of another partition".to_string()));
            }
            let key = TableKey::new(hash, &held.bucket, &held.key);
            let set =
                SiblingSet::decode_shared(&held.set).map_err(|e| Ended::Misfit(e.to_string()))?;
            let merged = self.replica.merge(&key, set, carried.theirs, Durability::Group).await;
            waiting.push((key, held, merged.map_err(|e| here(e.to_string()))?));
        }
        drop(pass);
        let mut merged = Vec::with_capacity(waiting.len());
        for (key, held, applied) in waiting {
            applied.durable.await.map_err(|e| here(e.to_string()))?;
            let mine = self.replica.read(&key).await.map_err(|e| here(e.to_string()))?;
            let place = place(key.hash(), &held.bucket, &held.key);
            merged.push(Merged { place, changed: applied.out, same: mine.encode() == held.set });
        }
        let now_ms = self.repairs.now_ms();
        let pause = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now_ms, bytes);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(merged)
    }
}

/// For each other owner the partitions that it owns together with this node.
fn shared(formed: &Formed, me: NodeId) -> BTreeMap<NodeId, Vec<u32>> {
    let mut shared: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    for partition in Partition::all(formed.ring.document().partition_bits) {
        if !formed.ring.is_owner(partition, me) {
            continue;
        }
        // What moves is copied whole by whoever takes it over; comparing it would send it twice.
        let entry = formed.ring.document().entry(partition);
        if entry.is_none_or(|entry| entry.moving().is_some()) {
            continue;
        }
        for owner in formed.ring.owners(partition).iter().filter(|owner| owner.node != me) {
            shared.entry(owner.node).or_default().push(partition.index);
        }
    }
    shared
}
