//! What this node keeps for owners that were down: stand-in copies, which were counted, and hints.
//!
//! Both live in a store of their own beside that of owned data (`standins/` next to `store/`), so that
//! neither a scan nor a range drop of a partition ever meets them, and so that they can be found without
//! reading what this node owns. Same engine, same format:
//!
//! ```text
//! stand-in copy   table key of the client's key -> 0x80 | stamp u64 | record (`version/record.rs`)
//! hint            hash | 0 | node id (16) | bucket length (1) | bucket | key -> first seen u64 | writes u64
//! ```
//!
//! The stamp of a copy is the lowest generation that anything in it came with (reclaim counts on it). A copy
//! without one, as earlier versions wrote it, counts as older than any.
//!
//! No client's bucket is empty, so the two never meet. A hint holds no value: whoever writes one is an
//! owner, and hands back what it holds itself.
//!
//! Invariants: a stand-in copy leaves only by [`StandIns::erase_copy`], for exactly the bytes that every
//! owner stored; neither age nor cap drops one. At the cap the write is refused before it is applied.

use std::sync::Arc;

use bytes::Bytes;
use kvasir_core::handoff::Cap;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Durability;
use kvasir_core::version::{Outranked, Record, SiblingSet};
use kvasir_storage::{Applied, Change, Snapshot, Store, TableKey};

use super::local::{LocalError, Minted, Order, Replica, engine, merge_into, mint_into};
use super::shelves::{Shelf, Shelves};
use crate::planted::Bug;

/// Entries of the store are counted with this much beside their key and value.
const ENTRY_BYTES: u64 = 64;
/// A piece of a pass over the store.
const CHUNK: (usize, usize) = (64, 1 << 20);

/// First byte of a copy with a stamp; no record begins so.
const STAMPED: u8 = 0x80;

/// The stamp of a stand-in copy and its record, from what is stored.
pub fn unstamped(stored: &Bytes) -> (u64, Bytes) {
    let (stamp, record) = split_stamp(stored);
    (stamp, stored.slice(stored.len() - record.len()..))
}

fn split_stamp(stored: &[u8]) -> (u64, &[u8]) {
    match stored.split_first_chunk::<9>() {
        Some(([STAMPED, stamp @ ..], record)) => (u64::from_be_bytes(*stamp), record),
        _ => (0, stored),
    }
}

fn stamped(stamp: u64, record: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(9 + record.len());
    bytes.push(STAMPED);
    bytes.extend_from_slice(&stamp.to_be_bytes());
    bytes.extend_from_slice(record);
    bytes.into()
}

/// What stands under a key of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A copy that was counted.
    Copy,
    /// This node missed writes of the key in `of`.
    Hint {
        /// Who missed them.
        target: NodeId,
        /// The client's key as owned data is stored under.
        of: TableKey,
    },
}

impl Entry {
    /// What a key of the store means; nothing if it is none that this version writes.
    pub fn of(key: &TableKey) -> Option<Self> {
        if !key.bucket().is_empty() {
            return Some(Self::Copy);
        }
        let (target, rest) = key.key().split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        let (bucket, name) = rest.split_at_checked(usize::from(*length))?;
        let of = TableKey::new(key.hash(), bucket, name);
        Some(Self::Hint { target: NodeId::from_bytes(*target), of })
    }

    fn hint_key(target: NodeId, of: &TableKey) -> TableKey {
        let mut name = target.as_bytes().to_vec();
        name.push(of.bucket().len() as u8);
        name.extend_from_slice(of.bucket());
        name.extend_from_slice(of.key());
        TableKey::new(of.hash(), b"", &name)
    }
}

/// The value of a hint: when the first missed write was noted, and how many were since, so that a
/// hint which was renewed while it was handed back is not erased with the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Unix milliseconds.
    pub since_ms: u64,
    writes: u64,
}

impl Hint {
    /// Reads the value; nothing if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (since, rest) = bytes.split_first_chunk::<8>()?;
        let writes = rest.try_into().ok()?;
        Some(Self { since_ms: u64::from_be_bytes(*since), writes: u64::from_be_bytes(writes) })
    }

    fn encode(self) -> Bytes {
        [self.since_ms.to_be_bytes(), self.writes.to_be_bytes()].concat().into()
    }
}

/// Copies and hints for others. One per process, shared by its workers.
pub struct StandIns {
    store: Arc<Store>,
    owned: Arc<Replica>,
    shelves: Arc<Shelves>,
}

impl StandIns {
    /// Over a store of its own; `owned` mints and reads the clock. Nothing is taken before
    /// [`Self::count`] is done.
    pub fn new(store: Arc<Store>, owned: Arc<Replica>, copies: Cap, hints: Cap) -> Self {
        let shelves = Shelves::new(copies, hints, owned.generation().clone());
        Self { store, owned, shelves: Arc::new(shelves) }
    }

    /// The engine, for maintenance and figures.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is held, and what happened to it.
    pub fn shelves(&self) -> &Arc<Shelves> {
        &self.shelves
    }

    /// Counts what an earlier start left behind.
    ///
    /// # Errors
    /// [`LocalError::Read`]; nothing is counted, and a further attempt begins anew.
    pub async fn count(&self) -> Result<(), LocalError> {
        let snapshot = self.store.snapshot();
        let mut found = Vec::new();
        let mut from = Some(TableKey::first_of(0));
        while let Some(at) = from {
            let chunk = self.store.scan(&snapshot, &at, None, CHUNK.0, CHUNK.1).await?;
            for (key, value) in &chunk.entries {
                // What a later version may have put there counts as a copy: it is never dropped.
                let hint = matches!(Entry::of(key), Some(Entry::Hint { .. }));
                let stamp = (!hint).then(|| split_stamp(value).0);
                found.push((Shelf::of(key), stamp, cost(key, value.len())));
            }
            from = chunk.next;
        }
        self.shelves.counted(found);
        Ok(())
    }

    /// The stand-in copy of a key; an empty set when none is held.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn read(&self, key: &TableKey) -> Result<SiblingSet, LocalError> {
        match self.store.get(key).await? {
            Some(bytes) => Ok(Record::decode_shared(&unstamped(&bytes).1)?.set),
            None => Ok(SiblingSet::new()),
        }
    }

    /// Mints a dot for a client's write, of which this node stands in as the coordinator.
    ///
    /// # Errors
    /// Any [`LocalError`]; the write was not applied.
    pub async fn mint(
        &self,
        key: &TableKey,
        order: Order,
        durability: Durability,
    ) -> Result<Applied<Minted>, LocalError> {
        let (seen, sibling) = self.owned.sibling(order);
        let minter = self.owned.minter().clone();
        let mint = move |old: Option<&[u8]>| mint_into(old, &minter, seen, sibling);
        self.store_copy(key, None, durability, mint).await
    }

    /// Merges a set into the stand-in copy of a key, and tells what stands above it there without being
    /// covered by it. `stamp` is the generation of who read or minted it.
    ///
    /// # Errors
    /// Any [`LocalError`]; nothing was applied.
    pub async fn merge(
        &self,
        key: &TableKey,
        delta: SiblingSet,
        stamp: u64,
        durability: Durability,
    ) -> Result<Applied<Option<Outranked>>, LocalError> {
        self.owned.observe(&delta);
        let (minter, planted) = (self.owned.minter().clone(), self.owned.planted());
        let merge = move |old: Option<&[u8]>| {
            let (record, _) = merge_into(old, &minter, &delta, planted)?;
            let above = record.set.outranks(&delta);
            Ok((record, above))
        };
        self.store_copy(key, Some(stamp), durability, merge).await
    }

    /// Stores what `change` makes of the copy, if there is room for it.
    async fn store_copy<T: Send + 'static>(
        &self,
        key: &TableKey,
        stamp: Option<u64>,
        durability: Durability,
        change: impl FnOnce(Option<&[u8]>) -> Result<(Record, T), LocalError> + Send + 'static,
    ) -> Result<Applied<T>, LocalError> {
        if !self.shelves.is_counted() {
            return Err(LocalError::NotCounted);
        }
        let (shelves, of) = (self.shelves.clone(), key.clone());
        let drops = self.owned.planted().is(Bug::DropAtCap);
        let update = self.store.update(key, engine(durability), move |old| {
            let (old_stamp, old_record) = old.map(split_stamp).unzip();
            let (record, out) = match change(old_record) {
                Ok(changed) => changed,
                Err(error) => return (Change::Keep, Err(error)),
            };
            let record = record.encode();
            let younger = old_stamp.is_some_and(|old| stamp.is_some_and(|stamp| old <= stamp));
            if old_record == Some(&*record) && younger {
                return (Change::Keep, Ok(out));
            }
            let before = old.map_or(0, |old| cost(&of, old.len()));
            let after = cost(&of, record.len() + 9);
            match shelves.grow_copy(Shelf::of(&of), (before, after), (old_stamp, stamp)) {
                Ok(stamp) => (Change::Put(stamped(stamp, &record)), Ok(out)),
                Err(LocalError::StandInsFull) if drops => (Change::Keep, Ok(out)),
                Err(error) => (Change::Keep, Err(error)),
            }
        });
        let applied = update.await?;
        Ok(Applied { out: applied.out?, durable: applied.durable })
    }

    /// Notes that an owner missed a write of a key that this node owns too. At the cap the note is
    /// dropped and counted. Nobody waits for it: a crash may lose it.
    pub fn hint(&self, target: NodeId, of: &TableKey) {
        if !self.shelves.is_counted() {
            self.shelves.overflowed();
            return;
        }
        let key = Entry::hint_key(target, of);
        let (shelves, at, now) = (self.shelves.clone(), key.clone(), self.owned.now_ms());
        let noted = self.store.update(&key, engine(Durability::Periodic), move |old| {
            let known = old.and_then(Hint::decode);
            let next = match known {
                Some(hint) => Hint { writes: hint.writes.wrapping_add(1), ..hint },
                None => Hint { since_ms: now, writes: 1 },
            };
            let bytes = next.encode();
            let before = old.map_or(0, |old| cost(&at, old.len()));
            match shelves.grow_hint(Shelf::of(&at), before, cost(&at, bytes.len())) {
                true => (Change::Put(bytes), ()),
                false => (Change::Keep, ()),
            }
        });
        drop(noted);
    }

    /// A piece of what one shelf holds, as it is now.
    ///
    /// # Errors
    /// [`LocalError::Read`].
    pub async fn piece(
        &self,
        shelf: Shelf,
        from: Option<&TableKey>,
    ) -> Result<kvasir_storage::Chunk, LocalError> {
        let snapshot: Snapshot = self.store.snapshot();
        let (first, end) = shelf.range();
        let from = from.unwrap_or(&first);
        Ok(self.store.scan(&snapshot, from, end.as_ref(), CHUNK.0, CHUNK.1).await?)
    }

    /// Deletes a copy that every owner stored, if it is still exactly `stored`. True if it was.
    ///
    /// # Errors
    /// [`LocalError::Write`]; the copy may still be there.
    pub async fn erase_copy(&self, key: &TableKey, stored: Bytes) -> Result<bool, LocalError> {
        let (stamp, _) = split_stamp(&stored);
        self.erase(key, stored, move |shelves, shelf, bytes| {
            shelves.shrink_copy(shelf, bytes, stamp);
        })
        .await
    }

    /// Deletes a hint, if nothing was missed since it was read as `stored`. True if it was deleted.
    ///
    /// # Errors
    /// [`LocalError::Write`]; the hint may still be there.
    pub async fn erase_hint(&self, key: &TableKey, stored: Bytes) -> Result<bool, LocalError> {
        self.erase(key, stored, Shelves::shrink_hint).await
    }

    async fn erase(
        &self,
        key: &TableKey,
        stored: Bytes,
        shrink: impl FnOnce(&Shelves, Shelf, u64) + Send + 'static,
    ) -> Result<bool, LocalError> {
        let (shelves, at) = (self.shelves.clone(), key.clone());
        let update = self.store.update(key, engine(Durability::Group), move |old| {
            if old != Some(&*stored) {
                return (Change::Keep, false);
            }
            shrink(&shelves, Shelf::of(&at), cost(&at, stored.len()));
            (Change::Erase, true)
        });
        let applied = update.await?;
        applied.durable.await?;
        Ok(applied.out)
    }

    /// Drops everything that is kept here: it may be of an older state.
    ///
    /// # Errors
    /// [`LocalError::Write`]; all of it may still be there.
    pub async fn drop_all(&self) -> Result<(), LocalError> {
        let first = TableKey::first_of(0);
        self.store.drop_range(&first, None, engine(Durability::Group)).await?;
        self.shelves.emptied();
        Ok(())
    }

    /// Why this store takes no more writes, for good, if so.
    pub fn failed(&self) -> Option<String> {
        self.store.failed()
    }
}

fn cost(key: &TableKey, value: usize) -> u64 {
    key.as_bytes().len() as u64 + value as u64 + ENTRY_BYTES
}

#[cfg(test)]
#[path = "standins_tests.rs"]
mod tests;
