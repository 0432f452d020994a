//! Takes over the copies of partitions that move to this node: pulls them piece by piece from whoever
//! gives them, merges, syncs, and only then tells the driver.
//!
//! One worker runs it. A copy begins anew when its source refuses or falls silent; pieces that came
//! before stay, since merging them again changes nothing. `handoff.rate` bounds the bytes a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use kvasir_core::handoff::Pace;
use kvasir_core::ring::Durability;
use kvasir_core::version::SiblingSet;
use kvasir_storage::TableKey;
use tokio::time::Instant;

use crate::peer::{Peers, Reply, Request};
use crate::replica::moving::{self, Task};
use crate::replica::{Moving, Replica, Views};

/// Between two looks at the document.
const ROUND: Duration = Duration::from_millis(100);
/// Longest wait for one piece.
const PIECE: Duration = Duration::from_secs(5);
/// Copies on their way at once.
const AT_ONCE: usize = 4;
/// Entries of a piece that are merged at once.
const MERGED_AT_ONCE: usize = 32;

/// The loop and what it works with.
pub struct Copying {
    /// The local side.
    pub replica: Arc<Replica>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// Connections of the worker that runs this.
    pub peers: Rc<Peers>,
    /// What was taken over.
    pub moving: Arc<Moving>,
    /// How fast.
    pub pace: RefCell<Pace>,
    /// From when the pace counts.
    pub started: Instant,
}

/// A copy that came whole.
struct Came {
    task: Task,
    bytes: u64,
}

impl Copying {
    /// Runs until the node stops.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(ROUND).await;
            let view = self.views.load();
            let (Some(formed), Some(above)) = (view.formed.clone(), view.above) else { continue };
            let tasks = moving::tasks(formed.ring.document(), view.me, above);
            self.moving.keep(|done| tasks.contains(done));
            let open = tasks.into_iter().filter(|task| !self.moving.is_done(task));
            let copies = stream::iter(open).map(|task| self.copy(task)).buffer_unordered(AT_ONCE);
            let came: Vec<Came> = copies.filter_map(std::future::ready).collect().await;
            if came.is_empty() {
                continue;
            }
            // Also what clients wrote meanwhile at weaker durabilities, before the old owner may go.
            if let Err(error) = self.replica.store().flush().await {
                tracing::warn!(%error, "copies of partitions that move could not be synced");
                continue;
            }
            for Came { task, bytes } in came {
                self.moving.done(task, bytes);
            }
        }
    }

    /// One copy, whole; nothing if it did not get through.
    async fn copy(&self, task: Task) -> Option<Came> {
        let (partition, since, source) = task;
        let (mut from, mut bytes) = (None, 0);
        loop {
            let view = self.views.load();
            let address = view.reachable(source.node)?.to_string();
            let request = Request::CopyRange { partition, since, from: from.take() };
            let deadline = Instant::now() + PIECE;
            let reply = self.peers.call(source.node, &address, None, request, deadline).await;
            let (entries, next) = match reply {
                Ok(Reply::Piece { entries, next }) => (entries, next),
                other => {
                    tracing::debug!(%partition, from = %source.node, ?other, "no piece came");
                    return None;
                }
            };
            let weight = moving::weight(&entries);
            self.merge(entries).await?;
            bytes += weight;
            moving::count(&self.moving.received_bytes, weight);
            let Some(next) = next else { return Some(Came { task, bytes }) };
            from = Some(next);
            let now_ms = self.started.elapsed().as_millis() as u64;
            let pause_ms = self.pace.borrow_mut().take(now_ms, weight);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// Stores the entries of a piece, synced.
    async fn merge(&self, entries: Vec<(Bytes, Bytes)>) -> Option<()> {
        let each = |(key, set): (Bytes, Bytes)| async move {
            let key = TableKey::from_encoded(key).map_err(|e| e.to_string())?;
            let set = SiblingSet::decode_shared(&set).map_err(|e| e.to_string())?;
            // Nothing of a partition that moves is erased, so that what a stream brings is never too old.
            let stamp = self.views.load().generation;
            let merged = self.replica.merge(&key, set, stamp, Durability::Group).await;
            let applied = merged.map_err(|e| e.to_string())?;
            applied.durable.await.map_err(|e| e.to_string())
        };
        let mut merged = stream::iter(entries).map(each).buffer_unordered(MERGED_AT_ONCE);
        while let Some(one) = merged.next().await {
            if let Err(error) = one {
                tracing::warn!(error, "an entry of a partition that moves was not stored");
                return None;
            }
        }
        Some(())
    }
}
