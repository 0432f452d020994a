//! Takes over the copies of partitions that move to this node: pulls them piece by piece from whoever
//! gives them, merges, syncs, and only then tells the driver.
//!
//! One worker runs it. A copy whose source refuses or falls silent goes on a little later where it was; so
//! does one after a start, since how far each copy is is stored at most every half second, and always before
//! the driver is told. What came twice changes nothing. `moves.rate` bounds the bytes a second; less of it is
//! used while clients of either side wait (`kvasir_core::handoff::Throttle`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use kvasir_core::ring::{Durability, Partition};
use kvasir_core::version::SiblingSet;
use kvasir_storage::TableKey;
use tokio::time::Instant;

use super::small_files::{SmallFileError, SmallFiles};
use crate::peer::{Peers, Reply, Request};
use crate::replica::moving::{self, Task};
use crate::replica::{Moving, Replica, Views};

/// Name of the file that says how far each copy is.
pub const FILE: &str = "copies";
/// Between two looks at the document.
const ROUND: Duration = Duration::from_millis(100);
/// Longest wait for one piece.
const PIECE: Duration = Duration::from_secs(5);
/// Longest pause that a source is granted.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Shortest time between two stores of how far copies are.
const STORE_EVERY: Duration = Duration::from_millis(500);
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
    /// Where it is stored how far copies are.
    pub files: SmallFiles,
    /// When that was last begun.
    pub stored: Cell<Option<Instant>>,
    /// How many requests of clients this node ever answered, and the microseconds that they waited.
    pub felt: Rc<dyn Fn() -> (u64, u64)>,
}

/// A copy that came whole, and the bytes of its last piece.
struct Came {
    task: Task,
    bytes: u64,
}

/// Why a copy stopped before its end. What came stays; it goes on later.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the source is down")]
    Down,
    #[error("no piece came: {0}")]
    NoPiece(String),
    #[error("a piece did not arrive as it was read")]
    Checksum,
    #[error("a piece does not fit: {0}")]
    Misfit(String),
    #[error("data of the partition was lost here")]
    Lost,
    #[error("this replica: {0}")]
    Here(String),
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
            let open = tasks.into_iter().filter(|task| !self.moving.cursor(task).whole);
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
            self.store().await;
        }
    }

    /// One copy, from where it is to its end; nothing if it stopped before.
    async fn copy(&self, task: Task) -> Option<Came> {
        let began = Instant::now();
        let outcome = self.pull(task).await;
        self.moving.tally.copying_ms.fetch_add(began.elapsed().as_millis() as u64, Relaxed);
        match outcome {
            Ok(bytes) => Some(Came { task, bytes }),
            Err(why) => {
                let (partition, _, source) = task;
                self.moving.tally.stopped.fetch_add(1, Relaxed);
                self.moving
                    .tally
                    .bad_pieces
                    .fetch_add(u64::from(matches!(why, Stopped::Checksum)), Relaxed);
                tracing::debug!(%partition, from = %source.node, %why, "a copy stopped");
                None
            }
        }
    }

    /// Pulls pieces until there are no more. The bytes of the last one, which no cursor counts yet.
    async fn pull(&self, task: Task) -> Result<u64, Stopped> {
        let (partition, since, source) = task;
        loop {
            if !moving::is_whole(self.replica.store(), partition) {
                return Err(Stopped::Lost);
            }
            let view = self.views.load();
            let address = view.reachable(source.node).ok_or(Stopped::Down)?.to_string();
            let request =
                Request::CopyRange { partition, since, from: self.moving.cursor(&task).next };
            let deadline = Instant::now() + PIECE;
            let reply = self.peers.call(source.node, &address, None, request, deadline).await;
            let (entries, next, checksum, theirs_ms) = match reply {
                Ok(Reply::Piece { entries, next, checksum, pause_ms }) => {
                    (entries, next, checksum, pause_ms)
                }
                Ok(Reply::Refused(refusal)) => return Err(Stopped::NoPiece(refusal.to_string())),
                Ok(other) => return Err(Stopped::NoPiece(other.name().to_string())),
                Err(error) => return Err(Stopped::NoPiece(error.to_string())),
            };
            let (weight, piece) = (moving::weight(&entries), (entries, next));
            if moving::checksum(&piece) != checksum {
                return Err(Stopped::Checksum);
            }
            let (entries, next) = piece;
            self.merge(partition, entries).await?;
            self.moving.tally.taking.traffic.piece(weight);
            let Some(next) = next else { return Ok(weight) };
            self.moving.came(task, next, weight);
            self.store_now_and_then().await;
            tokio::time::sleep(Duration::from_millis(theirs_ms).min(PAUSE_MAX)).await;
            self.rest(weight).await;
        }
    }

    /// Waits until the budget covers a piece that came.
    async fn rest(&self, bytes: u64) {
        let (tally, mut bytes) = (&self.moving.tally, bytes);
        loop {
            match tally.pause(&tally.taking, bytes, (self.felt)()) {
                0 => return,
                ms => tokio::time::sleep(Duration::from_millis(ms)).await,
            }
            bytes = 0;
        }
    }

    /// Stores the entries of a piece, synced.
    async fn merge(
        &self,
        partition: Partition,
        entries: Vec<(Bytes, Bytes)>,
    ) -> Result<(), Stopped> {
        let each = |(key, set): (Bytes, Bytes)| async move {
            let key = TableKey::from_encoded(key).map_err(|e| Stopped::Misfit(e.to_string()))?;
            if !partition.contains(key.hash()) {
                return Err(Stopped::Misfit("a key of another partition".to_string()));
            }
            let set =
                SiblingSet::decode_shared(&set).map_err(|e| Stopped::Misfit(e.to_string()))?;
            // Nothing of a partition that moves is erased, so that what a stream brings is never too old.
            let stamp = self.views.load().generation;
            let merged = self.replica.merge(&key, set, stamp, Durability::Group).await;
            let applied = merged.map_err(|e| Stopped::Here(e.to_string()))?;
            applied.durable.await.map_err(|e| Stopped::Here(e.to_string()))
        };
        let mut merged = stream::iter(entries).map(each).buffer_unordered(MERGED_AT_ONCE);
        while let Some(one) = merged.next().await {
            one?;
        }
        Ok(())
    }

    async fn store_now_and_then(&self) {
        let due = self.stored.get().is_none_or(|last| last.elapsed() >= STORE_EVERY);
        if due {
            self.store().await;
        }
    }

    /// Stores how far copies are. Where that fails, more is copied again after a start.
    async fn store(&self) {
        self.stored.set(Some(Instant::now()));
        match self.files.replace(FILE, self.moving.encode()).await {
            Ok(()) | Err(SmallFileError::Stopping) => {}
            Err(error) => tracing::warn!(%error, "how far copies are could not be stored"),
        }
    }
}
