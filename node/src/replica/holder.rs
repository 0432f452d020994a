//! What one owner says and does about tombstones that may go (`kvasir_core::reclaim`): confirms, agrees,
//! erases.
//!
//! Invariants: a set is confirmed only when it is stored durably, exactly; it is erased only if it still is
//! exactly what all owners agreed on, and never under a generation below the one from which it may.
//! From the agreement until the erasure it is shown to nobody, so that no other owner is given it again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kvasir_core::reclaim::{Ask, Item, Margins, Say, Term, Why};
use kvasir_core::ring::Partition;
use kvasir_core::version::Record;
use kvasir_storage::{Change, Durability, TableKey};
use tokio::time::Instant;

use super::local::{LocalError, Replica};
use super::view::View;
use crate::planted::Bug;

/// Sets that are left alone at most at a time.
const LEAVING_MAX: usize = 65_536;
/// An agreement that nobody acts on is forgotten after this long.
const LEAVING_FOR: Duration = Duration::from_secs(60);
/// Sets looked at or erased at once.
const AT_ONCE: usize = 32;

/// Sets that all owners agreed to erase, and until when that is remembered.
#[derive(Debug, Default)]
pub struct Leaving {
    sets: Mutex<BTreeMap<TableKey, ([u8; 16], Instant)>>,
    count: AtomicUsize,
}

impl Leaving {
    fn sets(&self) -> MutexGuard<'_, BTreeMap<TableKey, ([u8; 16], Instant)>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this set is shown to nobody any more; the digest is made only if the key is known.
    pub fn has(&self, key: &TableKey, digest: impl FnOnce() -> [u8; 16]) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.sets().get(key).is_some_and(|(of, until)| *until > Instant::now() && *of == digest())
    }

    fn add(&self, key: TableKey, digest: [u8; 16]) -> bool {
        let mut sets = self.sets();
        let now = Instant::now();
        if sets.len() >= LEAVING_MAX {
            sets.retain(|_, (_, until)| *until > now);
        }
        let room = sets.len() < LEAVING_MAX || sets.contains_key(&key);
        if room {
            sets.insert(key, (digest, now + LEAVING_FOR));
        }
        self.count.store(sets.len(), Ordering::Release);
        room
    }

    fn remove(&self, key: &TableKey) {
        let mut sets = self.sets();
        sets.remove(key);
        self.count.store(sets.len(), Ordering::Release);
    }
}

/// One owner's side of reclaim. One per process.
pub struct Holder {
    replica: Arc<Replica>,
    boot: u64,
    /// Sets erased since the start.
    pub erased: AtomicU64,
}

impl Holder {
    /// `boot` is this start of the node.
    pub fn new(replica: Arc<Replica>, boot: u64) -> Self {
        Self { replica, boot, erased: AtomicU64::new(0) }
    }

    fn term(&self) -> Term {
        let lost = self.replica.store().stats().quarantined_tables;
        Term { boot: self.boot, lost }
    }

    /// Answers the first owner of a partition, or this node itself when it is that.
    pub async fn answer(&self, view: &View, partition: Partition, ask: Ask) -> Say {
        let document = view.formed.as_ref().map_or(0, |formed| formed.ring.epoch());
        let early = self.replica.planted().is(Bug::EraseEarly);
        match ask {
            Ask::Confirm { document: of, .. } if of != document => Say::No(Why::Document),
            Ask::Confirm { items, .. } => self.confirm(view, partition, items).await,
            Ask::Agree { document: of, .. } if of != document => Say::No(Why::Document),
            Ask::Agree { term, .. } if term != self.term() => Say::No(Why::Void),
            Ask::Agree { from, .. } if self.replica.generation().now() < from && !early => {
                Say::No(Why::Early)
            }
            Ask::Agree { items, .. } => self.agree(view, partition, items).await,
            Ask::Erase { items } => self.erase(view, partition, items).await,
        }
    }

    async fn confirm(&self, view: &View, partition: Partition, items: Vec<Item>) -> Say {
        let generation = self.replica.generation().now();
        let (term, began) = (self.term(), self.replica.generation().began());
        let highest = view.members.values().map(|m| m.report.generation).max().unwrap_or(0);
        let early = self.replica.planted().is(Bug::EraseEarly);
        if !Margins::RULE.confirms(generation, began, highest) && !early {
            return Say::No(Why::Started);
        }
        let holds =
            self.each((view, partition), items, |key, digest| self.holds(key, digest)).await;
        // A table that was lost meanwhile may have held what was looked at.
        if term != self.term() {
            Say::No(Why::Void)
        } else {
            Say::Confirmed { generation, term, holds }
        }
    }

    async fn agree(&self, view: &View, partition: Partition, items: Vec<Item>) -> Say {
        let agree = |key: TableKey, digest| async move {
            let holds = self.holds(key.clone(), digest).await;
            holds && self.replica.leaving().add(key, digest)
        };
        Say::Agreed { agrees: self.each((view, partition), items, agree).await }
    }

    async fn erase(&self, view: &View, partition: Partition, items: Vec<Item>) -> Say {
        let erase = |key: TableKey, digest| async move {
            let erased = self.erase_one(&key, digest).await;
            self.replica.leaving().remove(&key);
            match erased {
                Ok(erased) => erased,
                Err(error) => {
                    tracing::warn!(%error, "a tombstone was not erased");
                    false
                }
            }
        };
        let erased = self.each((view, partition), items, erase).await;
        let erased = erased.into_iter().filter(|erased| *erased).count() as u64;
        self.erased.fetch_add(erased, Ordering::Relaxed);
        Say::Erased { erased }
    }

    /// Does something about each key of the partition, some at once, in order; false for others.
    async fn each<F, R>(
        &self,
        (view, partition): (&View, Partition),
        items: Vec<Item>,
        act: F,
    ) -> Vec<bool>
    where
        F: Fn(TableKey, [u8; 16]) -> R,
        R: Future<Output = bool>,
    {
        let act = &act;
        let one = move |item: Item| async move {
            match key_of(view, partition, &item.bucket, &item.key) {
                Some(key) => act(key, item.digest).await,
                None => false,
            }
        };
        stream::iter(items).map(one).buffered(AT_ONCE).collect().await
    }

    /// Whether exactly this set is stored, durably. What cannot be read is not.
    async fn holds(&self, key: TableKey, digest: [u8; 16]) -> bool {
        let looked = self.replica.store().update(&key, Durability::Group, move |old| {
            (Change::Keep, old.is_some_and(|old| is(old, digest)))
        });
        match looked.await {
            Ok(looked) => looked.out && looked.durable.await.is_ok(),
            Err(_) => false,
        }
    }

    /// Erases a set that all owners agreed on, if it is still exactly that.
    async fn erase_one(&self, key: &TableKey, digest: [u8; 16]) -> Result<bool, LocalError> {
        let agreed = self.replica.leaving().has(key, || digest);
        let Some(stored) = self.replica.store().get(key).await? else { return Ok(false) };
        let any = self.replica.planted().is(Bug::EraseUnequal);
        if !(agreed && is(&stored, digest) || any) {
            return Ok(false);
        }
        let erased = self.replica.store().erase_if_equal(key, stored, Durability::Group).await?;
        erased.durable.await?;
        Ok(erased.out)
    }
}

/// Where a key of the partition lies; nothing for a key of another.
fn key_of(view: &View, partition: Partition, bucket: &[u8], key: &[u8]) -> Option<TableKey> {
    let (hash, of) = view.formed.as_ref()?.ring.locate(bucket, key);
    (of == partition).then(|| TableKey::new(hash, bucket, key))
}

fn is(stored: &[u8], digest: [u8; 16]) -> bool {
    Record::decode(stored).is_ok_and(|record| record.set.digest().0 == digest)
}
