//! What a worker does with a question from another node: checks that both mean the same partition
//! entry, hands it to the room that answers it, and turns that room's errors into refusals.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use kvasir_core::handoff::Pace;
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::Ask;
use kvasir_core::ring::{Durability, Partition};
use kvasir_core::version::{Outranked, SiblingSet};
use kvasir_storage::error::{ReadError, WriteError};
use kvasir_storage::key::TableKey;
use tokio::time::Instant;

use crate::coordinator::Coordinate;
use crate::coordinator::fanout::Failure;
use crate::coordinator::wire::{Answer, Order};
use crate::http::stats::HttpStats;
use crate::peer::{Hello, Incoming, PeerHandler, Refusal, Relay, Reply, Request, Route, Scan};
use crate::planted::Bug;
use crate::replica::{Holder, LocalError, Moving, OtherVersion, Pass, View, moving};
use crate::tasks::ControlHandle;

/// How long a request waits for a document that its sender knows already.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Answers the peers of one worker.
pub struct Handler {
    /// The coordinator of this worker.
    pub coordinate: Rc<Coordinate>,
    /// The control thread.
    pub control: ControlHandle,
    /// This node as one of the owners that reclaim asks.
    pub holder: Arc<Holder>,
    /// What this node did for the moves of its partitions.
    pub moving: Arc<Moving>,
    /// What clients of this node wait, for the pace of copies.
    pub http: Arc<HttpStats>,
    /// How fast this node takes things back, shared by all workers.
    pub pace: Arc<Mutex<Pace>>,
    /// From when the pace counts.
    pub started: Instant,
    /// Requests that other nodes sent for their clients, counted by all workers.
    pub served: Arc<AtomicU64>,
}

/// Who sent stored data, by which entry it was routed, and the generation that it is stamped with.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) from: NodeId,
    pub(super) route: Option<Route>,
    pub(super) stamp: u64,
}

impl PeerHandler for Handler {
    fn handle(&self, from: NodeId, request: Request, head: Incoming) -> LocalBoxFuture<'_, Reply> {
        Box::pin(self.answer(from, request, head))
    }

    fn generation(&self) -> u64 {
        self.coordinate.replica.generation().now()
    }

    fn carries_its_id(&self, hello: &Hello) -> bool {
        let view = self.coordinate.views.load();
        view.members.get(&hello.node).is_none_or(|known| known.may_be((hello.boot, hello.start)))
    }

    fn takes_repeats(&self) -> bool {
        self.coordinate.planted.is(Bug::TakeRepeats)
    }
}

impl Handler {
    /// Answers one question. Never fails: what goes wrong is a [`Reply::Refused`].
    async fn answer(&self, from: NodeId, request: Request, head: Incoming) -> Reply {
        let Incoming { route, deadline, generation, .. } = head;
        let sent = Sent { from, route, stamp: generation };
        let for_clients = !matches!(
            request,
            Request::Gossip(_)
                | Request::Ballot(_)
                | Request::FetchDocument { .. }
                | Request::HandBack { .. }
                | Request::Repair(_)
                | Request::Reclaim(_)
                | Request::CopyRange { .. }
                | Request::MoveReport
        );
        self.served.fetch_add(u64::from(for_clients), Ordering::Relaxed);
        let done = match request {
            Request::Gossip(_) | Request::Ballot(_) | Request::FetchDocument { .. } => {
                Ok(self.control.ask(from, request).await)
            }
            Request::Apply { bucket, key, delta, durability } => {
                self.apply(sent, &bucket, &key, &delta, durability).await
            }
            Request::Relay(relay) => self.relay(sent, relay, deadline).await,
            Request::Read { bucket, key } => self.read(sent, &bucket, &key).await,
            Request::ReadDigest { bucket, key } => self.digest(sent, &bucket, &key).await,
            Request::Coordinate(order) => self.coordinate(sent, order, deadline, false).await,
            Request::CoordinateAsStandIn(order) => {
                self.coordinate(sent, order, deadline, true).await
            }
            Request::StandIn { bucket, key, delta, durability } => {
                self.stand_in(sent, &bucket, &key, &delta, durability).await
            }
            Request::ReadStandIn { bucket, key } => self.read_stand_in(sent, &bucket, &key).await,
            Request::HandBack { bucket, key, set } => {
                self.take_back(sent, &bucket, &key, &set).await
            }
            Request::Scan(scan) => self.scan(sent, scan, deadline).await,
            Request::Repair(body) => self.repair(sent, &body).await,
            Request::Reclaim(body) => self.reclaim(sent, &body).await,
            Request::CopyRange { partition, since, from: at } => {
                self.give((partition, since, from), at).await
            }
            Request::MoveReport => self.report_moves(),
        };
        done.unwrap_or_else(Reply::Refused)
    }

    async fn apply(
        &self,
        sent: Sent,
        bucket: &Bytes,
        key: &Bytes,
        delta: &Bytes,
        durability: Durability,
    ) -> Result<Reply, Refusal> {
        let (table_key, pass) = self.admit(sent, Asked::Store, bucket, key).await?;
        self.listed(sent.from)?;
        let set = SiblingSet::decode_shared(delta)
            .map_err(|e| Refusal::Malformed(format!("sibling set: {e}")))?;
        let replica = &self.coordinate.replica;
        let applied =
            replica.apply(&table_key, set, sent.stamp, durability).await.map_err(refusal)?;
        // What is visible is in every later piece; the fence need not wait for the disk.
        drop(pass);
        applied.durable.await.map_err(|e| Refusal::Unknown(e.to_string()))?;
        Ok(stored(applied.out))
    }

    /// Stores a write from another data center and passes it on to the other owners in this one.
    async fn relay(&self, sent: Sent, relay: Relay, deadline: Instant) -> Result<Reply, Refusal> {
        let Relay { bucket, key, delta, durability, others, soon } = relay;
        let route = sent.route.ok_or_else(unrouted)?;
        let (table_key, pass) = self.admit(sent, Asked::Store, &bucket, &key).await?;
        self.listed(sent.from)?;
        let plan = self.coordinate.relaying((&bucket, &key), (route, sent.stamp), &others)?;
        let set = SiblingSet::decode_shared(&delta)
            .map_err(|e| Refusal::Malformed(format!("sibling set: {e}")))?;
        let (replica, delta) = (&self.coordinate.replica, Rc::new(set.clone()));
        let applied =
            replica.apply(&table_key, set, sent.stamp, durability).await.map_err(refusal)?;
        drop(pass);
        let own = async move {
            let durable = applied.durable.await;
            durable.map(|()| applied.out).map_err(|e| Failure::Unknown(e.to_string()))
        };
        let (what, whom) = ((&delta, durability), (&others[..], soon));
        Ok(Reply::Relayed(self.coordinate.relay(&plan, what, whom, own, deadline).await))
    }

    async fn read(&self, sent: Sent, bucket: &Bytes, key: &Bytes) -> Result<Reply, Refusal> {
        let (table_key, _pass) = self.admit(sent, Asked::Answer, bucket, key).await?;
        let set = self.coordinate.replica.read(&table_key).await.map_err(refusal)?;
        Ok(Reply::Set(set.encode().into()))
    }

    async fn digest(&self, sent: Sent, bucket: &Bytes, key: &Bytes) -> Result<Reply, Refusal> {
        let (table_key, _pass) = self.admit(sent, Asked::Answer, bucket, key).await?;
        let set = self.coordinate.replica.read(&table_key).await.map_err(refusal)?;
        Ok(Reply::Digest((!set.context().is_empty()).then(|| set.digest().0)))
    }

    async fn stand_in(
        &self,
        sent: Sent,
        bucket: &Bytes,
        key: &Bytes,
        delta: &Bytes,
        durability: Durability,
    ) -> Result<Reply, Refusal> {
        let table_key = self.admit_stand_in(sent, bucket, key).await?;
        self.listed(sent.from)?;
        let set = SiblingSet::decode_shared(delta)
            .map_err(|e| Refusal::Malformed(format!("sibling set: {e}")))?;
        let standins = &self.coordinate.standins;
        let merged = standins.merge(&table_key, set, sent.stamp, durability).await;
        let applied = merged.map_err(refusal)?;
        applied.durable.await.map_err(|e| Refusal::Unknown(e.to_string()))?;
        Ok(stored(applied.out))
    }

    async fn read_stand_in(
        &self,
        sent: Sent,
        bucket: &Bytes,
        key: &Bytes,
    ) -> Result<Reply, Refusal> {
        let table_key = self.admit_stand_in(sent, bucket, key).await?;
        let set = self.coordinate.standins.read(&table_key).await.map_err(refusal)?;
        Ok(Reply::Set(set.encode().into()))
    }

    /// A piece of this node's copy of a partition that moves to the asker.
    async fn give(
        &self,
        to: (Partition, u64, NodeId),
        from: Option<Bytes>,
    ) -> Result<Reply, Refusal> {
        let (views, me) = (&self.coordinate.views, self.coordinate.views.load().me);
        let rate = self.moving.tally.giving.rate();
        let piece = self.coordinate.replica.piece((views, me), to, from, rate).await;
        let piece = piece.map_err(refusal)?;
        let Some((entries, next)) = piece else {
            let why = "this copy is not to be given to the asker now";
            return Err(Refusal::NotServing(why.to_string()));
        };
        let (weight, piece) = (moving::weight(&entries), (entries, next));
        let (tally, checksum) = (&self.moving.tally, moving::checksum(&piece));
        tally.giving.traffic.piece(weight);
        let pause_ms = tally.pause(&tally.giving, weight, self.http.waited());
        let (entries, next) = piece;
        Ok(Reply::Piece { entries, next, checksum, pause_ms })
    }

    fn report_moves(&self) -> Result<Reply, Refusal> {
        let coordinate = &self.coordinate;
        let report = self.moving.report(&coordinate.views, coordinate.replica.store());
        let bytes = postcard::to_allocvec(&report)
            .map_err(|e| Refusal::Unknown(format!("the report does not encode: {e}")))?;
        Ok(Reply::MoveReport(bytes.into()))
    }

    /// Takes back what another node kept, and says when it may hand back more.
    async fn take_back(
        &self,
        sent: Sent,
        bucket: &Bytes,
        key: &Bytes,
        set: &Bytes,
    ) -> Result<Reply, Refusal> {
        self.apply(sent, bucket, key, set, Durability::Group).await?;
        self.coordinate.standins.shelves().taken_back.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (bucket.len() + key.len() + set.len()) as u64;
        Ok(Reply::HandedBack { pause_ms: pace.take(now_ms, bytes) })
    }

    /// A page of a partition: of what this node owns there, or of what it keeps for its owners.
    async fn scan(&self, sent: Sent, scan: Scan, deadline: Instant) -> Result<Reply, Refusal> {
        let (view, route) = self.same_version(sent).await?;
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let partition = route.partition;
        match (ring.is_owner(partition, view.me), scan.stand_in) {
            (true, true) => return Err(owner_stands_in()),
            (_, false) if !ring.is_reader(partition, view.me) => {
                return Err(Refusal::NotOwner { epoch: ring.epoch() });
            }
            _ => {}
        }
        let scanned = self.coordinate.scan_here(scan, partition, deadline).await;
        // A page takes its time, and a fence does not wait for it: it counts if no newer version came.
        let views = &self.coordinate.views;
        views.enter(partition, route.version, route.entry_hash).map_err(stale)?;
        Ok(Reply::Scanned(scanned.map_err(refusal)?))
    }

    async fn coordinate(
        &self,
        sent: Sent,
        order: Bytes,
        deadline: Instant,
        stand_in: bool,
    ) -> Result<Reply, Refusal> {
        let order: Order =
            postcard::from_bytes(&order).map_err(|e| Refusal::Malformed(format!("order: {e}")))?;
        // By the document of whoever hands it over this node may own the key, and not yet by its own.
        if let Some(route) = sent.route
            && route.version > self.coordinate.views.load().epoch()
        {
            self.control.pull(sent.from, route.version);
            let until = deadline.min(Instant::now() + ON_ITS_WAY);
            self.coordinate.views.reach(route.version, until).await;
        }
        if !stand_in {
            must_own(&self.coordinate.views.load(), order.bucket(), order.key())?;
        }
        let ask = order.ask(deadline).map_err(|e| Refusal::Malformed(e.to_string()))?;
        // Never handed over again, whoever owns the key by now.
        let answer: Answer = self.coordinate.here(ask).await;
        let bytes = postcard::to_allocvec(&answer)
            .map_err(|e| Refusal::Unknown(format!("the answer does not encode: {e}")))?;
        Ok(Reply::Coordinated(bytes.into()))
    }

    /// Answers the first owner of a partition about tombstones.
    async fn reclaim(&self, sent: Sent, body: &Bytes) -> Result<Reply, Refusal> {
        let ask: Ask =
            postcard::from_bytes(body).map_err(|e| Refusal::Malformed(format!("reclaim: {e}")))?;
        let view = self.coordinate.views.load();
        if let Some(reason) = &view.retired {
            return Err(Refusal::NotServing(reason.clone()));
        }
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let epoch = ring.epoch();
        let route =
            sent.route.ok_or_else(|| Refusal::Malformed("reclaim without a route".into()))?;
        if ring.version(route.partition) != Some((route.version, route.entry_hash)) {
            return Err(Refusal::StaleEntry { epoch, document: None });
        }
        let both = [view.me, sent.from].iter().all(|node| ring.is_owner(route.partition, *node));
        if !both {
            return Err(Refusal::NotOwner { epoch });
        }
        let say = self.holder.answer(&view, route.partition, ask).await;
        let bytes = postcard::to_allocvec(&say)
            .map_err(|e| Refusal::Unknown(format!("the answer does not encode: {e}")))?;
        Ok(Reply::Message(bytes.into()))
    }

    /// Stored data is taken from members only: what a removed node kept is not counted by reclaim.
    pub(super) fn listed(&self, from: NodeId) -> Result<(), Refusal> {
        let view = self.coordinate.views.load();
        let document = view.formed.as_ref().ok_or_else(not_formed)?.ring.document();
        match document.members.contains_key(&from) {
            true => Ok(()),
            false => Err(Refusal::NotListed { epoch: document.epoch }),
        }
    }

    /// Both sides must mean the same entry of the partition, and this node must hold a copy that does
    /// what is asked. The pass is held until that is done.
    async fn admit(
        &self,
        sent: Sent,
        asked: Asked,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<(TableKey, Pass), Refusal> {
        let (view, table_key, route) = self.same_entry(sent, bucket, key).await?;
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let does = match asked {
            Asked::Store => ring.is_owner(route.partition, view.me),
            Asked::Answer => ring.is_reader(route.partition, view.me),
        };
        if !does {
            return Err(Refusal::NotOwner { epoch: ring.epoch() });
        }
        let views = &self.coordinate.views;
        let pass = views.enter(route.partition, route.version, route.entry_hash);
        Ok((table_key, pass.map_err(stale)?))
    }

    /// Both sides must mean the same entry of the partition, and this node must not own it.
    async fn admit_stand_in(
        &self,
        sent: Sent,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<TableKey, Refusal> {
        let (view, table_key, route) = self.same_entry(sent, bucket, key).await?;
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        if ring.is_owner(route.partition, view.me) {
            return Err(owner_stands_in());
        }
        Ok(table_key)
    }

    /// The key, under the document in which both sides mean the same entry of its partition.
    async fn same_entry(
        &self,
        sent: Sent,
        bucket: &[u8],
        key: &[u8],
    ) -> Result<(Arc<View>, TableKey, Route), Refusal> {
        let (view, route) = self.same_version(sent).await?;
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let (hash, partition) = ring.locate(bucket, key);
        if partition != route.partition {
            return Err(Refusal::StaleEntry { epoch: ring.epoch(), document: None });
        }
        Ok((view, TableKey::new(hash, bucket, key), route))
    }

    /// The view under which both sides mean the same entry of a partition. A newer document that the
    /// sender knows is waited for a little: it is on its way to all members.
    async fn same_version(&self, sent: Sent) -> Result<(Arc<View>, Route), Refusal> {
        let route = sent.route.ok_or_else(unrouted)?;
        let until = Instant::now() + ON_ITS_WAY;
        loop {
            let view = self.coordinate.views.load();
            if let Some(reason) = view.unused(route.partition) {
                return Err(Refusal::NotServing(reason.to_string()));
            }
            let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
            let epoch = ring.epoch();
            // No version is of a later epoch than its document.
            if route.version > epoch {
                self.control.pull(sent.from, route.version);
                if self.coordinate.views.reach(route.version, until).await {
                    continue;
                }
                return Err(Refusal::BehindSender { epoch });
            }
            if ring.version(route.partition) != Some((route.version, route.entry_hash)) {
                return Err(Refusal::StaleEntry { epoch, document: None });
            }
            return Ok((view, route));
        }
    }
}

fn stale(other: OtherVersion) -> Refusal {
    Refusal::StaleEntry { epoch: other.epoch, document: None }
}

fn unrouted() -> Refusal {
    Refusal::Malformed("a data request without a route".to_string())
}

fn owner_stands_in() -> Refusal {
    Refusal::Malformed("an owner of the key does not stand in for another".to_string())
}

/// What a copy is asked for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// To store a write, or what a read or another node found.
    Store,
    /// To answer a read.
    Answer,
}

/// The answer to what was stored.
fn stored(above: Option<Outranked>) -> Reply {
    match above {
        Some(Outranked { dots, stamp }) => Reply::Outranked { dots, stamp },
        None => Reply::Applied,
    }
}

pub(super) fn not_formed() -> Refusal {
    Refusal::NotServing("the cluster is not formed here yet".to_string())
}

/// A forwarded request is not forwarded again.
fn must_own(view: &View, bucket: &[u8], key: &[u8]) -> Result<(), Refusal> {
    let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
    let (_, partition) = ring.locate(bucket, key);
    let owned = ring.is_reader(partition, view.me);
    if owned { Ok(()) } else { Err(Refusal::NotOwner { epoch: ring.epoch() }) }
}

/// A local failure before anything was applied.
pub(super) fn refusal(error: LocalError) -> Refusal {
    match error {
        LocalError::Write(WriteError::Overloaded) | LocalError::Read(ReadError::Overloaded) => {
            Refusal::Overloaded { retry_after_ms: 100 }
        }
        LocalError::Place => Refusal::Malformed(error.to_string()),
        LocalError::StandInsFull => Refusal::StandInsFull,
        LocalError::OldGeneration { own, .. } => Refusal::OldGeneration { generation: own },
        LocalError::NotCounted => Refusal::NotServing(error.to_string()),
        LocalError::Write(WriteError::Full(_)) => Refusal::DiskFull,
        LocalError::Context(refused) => Refusal::ContextRefused(refused.to_string()),
        LocalError::Write(error @ WriteError::Abandoned) => Refusal::Unknown(error.to_string()),
        LocalError::Write(error) => Refusal::WriteFailed(error.to_string()),
        other => Refusal::ReadFailed(other.to_string()),
    }
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
