//! What a worker answers to anti-entropy of another node: sums, keys that the other lacks, sets to merge.

use std::sync::PoisonError;

use bytes::Bytes;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use kvasir_core::merkle::{Answer, Ask, Held, Node, Piece, respond};
use kvasir_core::ring::{Durability, Partition, Ring};
use kvasir_core::version::SiblingSet;
use kvasir_storage::TableKey;

use super::handler::{Handler, Sent, not_formed, refusal};
use crate::peer::{Refusal, Reply, Route};
use crate::replica::{Pass, compare};

fn malformed(what: impl ToString) -> Refusal {
    Refusal::Malformed(what.to_string())
}

impl Handler {
    /// Answers one question of anti-entropy. Keys and sets only where both mean the same entry of the
    /// partition; sums, which carry no data, need no such fence.
    pub(super) async fn repair(&self, sent: Sent, body: &Bytes) -> Result<Reply, Refusal> {
        let route = sent.route;
        let ask: Ask = compare::decode(body).map_err(malformed)?;
        ask.check().map_err(malformed)?;
        let replica = &self.coordinate.replica;
        let answer = match ask {
            Ask::Sums { .. } => self.sums(&ask)?,
            Ask::Keys { bucket, pieces } => {
                let partition = self.same_partition(sent)?;
                let inside = |piece: &Piece| {
                    piece.node.depth >= partition.k
                        && piece.node.above(partition.k) == Node::of(partition)
                };
                if !pieces.iter().all(inside) {
                    return Err(malformed("a piece outside the partition"));
                }
                replica.compare(&pieces, bucket.as_ref()).await.map_err(refusal)?
            }
            Ask::Store { sets } => {
                self.listed(sent.from)?;
                let partition = self.same_partition(sent)?;
                self.store((partition, self.pass(route)?), sets, sent.stamp).await?
            }
        };
        Ok(Reply::Repair(compare::encode(&answer)))
    }

    fn sums(&self, ask: &Ask) -> Result<Answer, Refusal> {
        let view = self.coordinate.views.load();
        if let Some(reason) = &view.retired {
            return Err(Refusal::NotServing(reason.clone()));
        }
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let k = ring.document().partition_bits;
        let serves = |node: Node| {
            let index = node.above(k).index;
            node.depth >= k && ring.is_owner(Partition { k, index }, view.me)
        };
        respond::sums(self.coordinate.replica.trees().tree(), ask, serves).map_err(malformed)
    }

    /// Leave to work on the copy that a route means: no fence goes past before what comes is visible.
    fn pass(&self, route: Option<Route>) -> Result<Pass, Refusal> {
        let Route { partition, version, entry_hash } =
            route.ok_or_else(|| malformed("sets without a route"))?;
        let entered = self.coordinate.views.enter(partition, version, entry_hash);
        entered.map_err(|other| Refusal::StaleEntry { epoch: other.epoch, document: None })
    }

    /// Merges what another replica holds; the answer goes out when all of it is synced.
    async fn store(
        &self,
        (partition, pass): (Partition, Pass),
        sets: Vec<Held>,
        stamp: u64,
    ) -> Result<Answer, Refusal> {
        let mut all = Vec::with_capacity(sets.len());
        let view = self.coordinate.views.load();
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let mut bytes = 0;
        // Everything is checked before anything is merged.
        for held in &sets {
            bytes += held.bytes() as u64;
            all.push((key_in(ring, partition, held)?, set_of(held)?));
        }
        let (mut waiting, mut changed) = (Vec::with_capacity(all.len()), Vec::new());
        for (at, (key, set)) in (0..).zip(all) {
            let merged = self.coordinate.replica.merge(&key, set, stamp, Durability::Group).await;
            let applied = merged.map_err(refusal)?;
            if applied.out {
                changed.push(at);
            }
            waiting.push(applied.durable);
        }
        drop(pass);
        for durable in waiting {
            durable.await.map_err(|e| Refusal::Unknown(e.to_string()))?;
        }
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Answer::Stored { changed, pause_ms: pace.take(now_ms, bytes) })
    }

    /// Both sides must mean the same entry of the partition, and this node must own it.
    fn same_partition(&self, sent: Sent) -> Result<Partition, Refusal> {
        let view = self.coordinate.views.load();
        if let Some(reason) = &view.retired {
            return Err(Refusal::NotServing(reason.clone()));
        }
        let ring = &view.formed.as_ref().ok_or_else(not_formed)?.ring;
        let epoch = ring.epoch();
        let route = sent.route.ok_or_else(|| malformed("keys or sets without a route"))?;
        let entry = ring.version(route.partition).ok_or(Refusal::NotOwner { epoch })?;
        if route.version > entry.0 {
            self.control.pull(sent.from, route.version);
            return Err(Refusal::BehindSender { epoch });
        }
        if (route.version, route.entry_hash) != entry {
            return Err(Refusal::StaleEntry { epoch, document: None });
        }
        match ring.is_owner(route.partition, view.me) {
            true => Ok(route.partition),
            false => Err(Refusal::NotOwner { epoch }),
        }
    }
}

fn key_in(ring: &Ring, partition: Partition, held: &Held) -> Result<TableKey, Refusal> {
    let bounded = |bytes: &Bytes, most| (1..=most).contains(&bytes.len());
    if !bounded(&held.bucket, BUCKET_MAX_BYTES) || !bounded(&held.key, KEY_MAX_BYTES) {
        return Err(malformed("a bucket or key that is empty or too long"));
    }
    let (hash, at) = ring.locate(&held.bucket, &held.key);
    match at == partition {
        true => Ok(TableKey::new(hash, &held.bucket, &held.key)),
        false => Err(malformed("a key outside the partition")),
    }
}

fn set_of(held: &Held) -> Result<SiblingSet, Refusal> {
    SiblingSet::decode_shared(&held.set).map_err(|e| malformed(format!("sibling set: {e}")))
}
