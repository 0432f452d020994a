//! What one owner says and does about tombstones and spent rows that may go (`kvasir_core::reclaim`):
//! confirms, agrees, erases.
//!
//! Invariants: a set is confirmed only when it is stored durably, exactly; it is erased only if it still is
//! exactly what all owners agreed on, and never under a generation below the one from which it may.
//! From the agreement until the erasure it is shown to nobody, so that no other owner is given it again.
//! Of rows the same holds, but for the last: an owner that is late gives them back, and they go later. No
//! row of this start is confirmed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kvasir_core::reclaim::{Ask, Goes, Item, Margins, Say, Term, Why};
use kvasir_core::ring::Partition;
use kvasir_core::version::fold::rows_in;
use kvasir_core::version::{Dot, Minter, Record};
use kvasir_storage::{Change, Durability, TableKey};
use tokio::time::Instant;

use super::local::{LocalError, Replica, put};
use super::view::View;
use crate::planted::Bug;

/// Sets that are left alone at most at a time.
const LEAVING_MAX: usize = 65_536;
/// An agreement that nobody acts on is forgotten after this long.
const LEAVING_FOR: Duration = Duration::from_secs(60);
/// Sets looked at or erased at once.
const AT_ONCE: usize = 32;

/// What all owners agreed to erase, and until when that is remembered.
#[derive(Debug, Default)]
pub struct Leaving {
    sets: Mutex<Agreed>,
    count: AtomicUsize,
}

type Agreed = BTreeMap<TableKey, (Goes, Instant)>;

impl Leaving {
    fn sets(&self) -> MutexGuard<'_, Agreed> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this set is shown to nobody any more; the digest is made only if the key is known.
    pub fn has(&self, key: &TableKey, digest: impl FnOnce() -> [u8; 16]) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.sets().get(key).is_some_and(|(of, until)| match of {
            Goes::Set(of) => *until > Instant::now() && *of == digest(),
            Goes::Rows(_) => false,
        })
    }

    /// Whether exactly this was agreed on.
    fn agreed(&self, key: &TableKey, goes: &Goes) -> bool {
        let sets = self.sets();
        sets.get(key).is_some_and(|(of, until)| *until > Instant::now() && of == goes)
    }

    fn add(&self, key: TableKey, goes: Goes) -> bool {
        let mut sets = self.sets();
        let now = Instant::now();
        if sets.len() >= LEAVING_MAX {
            sets.retain(|_, (_, until)| *until > now);
        }
        let room = sets.len() < LEAVING_MAX || sets.contains_key(&key);
        if room {
            sets.insert(key, (goes, now + LEAVING_FOR));
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
    /// Rows dropped from contexts since the start.
    pub folded: AtomicU64,
}

impl Holder {
    /// `boot` is this start of the node.
    pub fn new(replica: Arc<Replica>, boot: u64) -> Self {
        let count = || AtomicU64::new(0);
        Self { replica, boot, erased: count(), folded: count() }
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
            Ask::Tag => Say::Tag(self.replica.minter().tag()),
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
        let holds = self.each((view, partition), items, |key, goes| self.holds(key, goes)).await;
        // A table that was lost meanwhile may have held what was looked at.
        if term != self.term() {
            Say::No(Why::Void)
        } else {
            Say::Confirmed { generation, term, holds }
        }
    }

    async fn agree(&self, view: &View, partition: Partition, items: Vec<Item>) -> Say {
        let agree = |key: TableKey, goes: Goes| async move {
            let holds = self.holds(key.clone(), goes.clone()).await;
            holds && self.replica.leaving().add(key, goes)
        };
        Say::Agreed { agrees: self.each((view, partition), items, agree).await }
    }

    async fn erase(&self, view: &View, partition: Partition, items: Vec<Item>) -> Say {
        let erase = |key: TableKey, goes: Goes| async move {
            let erased = match goes {
                Goes::Set(digest) => self.erase_one(&key, digest).await,
                Goes::Rows(rows) => self.fold_one(&key, rows).await,
            };
            self.replica.leaving().remove(&key);
            match erased {
                Ok(erased) => erased,
                Err(error) => {
                    tracing::warn!(%error, "a tombstone was not erased");
                    false
                }
            }
        };
        let rows: Vec<u64> = items.iter().map(rows_of).collect();
        let done = self.each((view, partition), items, erase).await;
        let mut erased = 0;
        for (rows, _) in rows.into_iter().zip(done).filter(|(_, done)| *done) {
            erased += 1;
            let (count, by) = if rows == 0 { (&self.erased, 1) } else { (&self.folded, rows) };
            count.fetch_add(by, Ordering::Relaxed);
        }
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
        F: Fn(TableKey, Goes) -> R,
        R: Future<Output = bool>,
    {
        let act = &act;
        let one = move |item: Item| async move {
            match key_of(view, partition, &item.bucket, &item.key) {
                Some(key) => act(key, item.goes).await,
                None => false,
            }
        };
        stream::iter(items).map(one).buffered(AT_ONCE).collect().await
    }

    /// Whether exactly this set, or these rows as spent ones, are stored, durably. What cannot be read is not.
    async fn holds(&self, key: TableKey, goes: Goes) -> bool {
        let minter = self.replica.minter().clone();
        let looked = self.replica.store().update(&key, Durability::Group, move |old| {
            let holds = |old: &[u8]| match &goes {
                Goes::Set(digest) => is(old, *digest),
                Goes::Rows(rows) => folded(old, &minter, rows).is_some(),
            };
            (Change::Keep, old.is_some_and(holds))
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

    /// Drops rows that all owners agreed on, if they are still spent.
    async fn fold_one(&self, key: &TableKey, rows: Vec<Dot>) -> Result<bool, LocalError> {
        let goes = Goes::Rows(rows);
        if !self.replica.leaving().agreed(key, &goes) {
            return Ok(false);
        }
        let minter = self.replica.minter().clone();
        let update = self.replica.store().update(key, Durability::Group, move |old| {
            let Goes::Rows(rows) = &goes else { return (Change::Keep, false) };
            match old.and_then(|old| folded(old, &minter, rows)) {
                Some(record) => (put(&record), true),
                None => (Change::Keep, false),
            }
        });
        let done = update.await?;
        done.durable.await?;
        Ok(done.out)
    }
}

/// How many rows are to go; 0 where it is a whole set.
fn rows_of(item: &Item) -> u64 {
    match &item.goes {
        Goes::Set(_) => 0,
        Goes::Rows(rows) => rows_in(rows).count() as u64,
    }
}

/// What is stored without these rows, if each of them is spent there and none is of this start.
fn folded(stored: &[u8], minter: &Minter, rows: &[Dot]) -> Option<Record> {
    minter.fold(Record::decode(stored).ok()?, rows)
}

/// Where a key of the partition lies; nothing for a key of another.
fn key_of(view: &View, partition: Partition, bucket: &[u8], key: &[u8]) -> Option<TableKey> {
    let (hash, of) = view.formed.as_ref()?.ring.locate(bucket, key);
    (of == partition).then(|| TableKey::new(hash, bucket, key))
}

fn is(stored: &[u8], digest: [u8; 16]) -> bool {
    Record::decode(stored).is_ok_and(|record| record.set.digest().0 == digest)
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
