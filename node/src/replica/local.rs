//! The local record of a key: read it, mint a write into it, merge a delta into it.
//!
//! Invariants: a record that does not decode fails the request and is never overwritten; a local
//! read error is never "absent"; what was refused changed nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kvasir_core::limits::{SIBLINGS_REFUSE, VALUE_HARD_MAX_BYTES};
use kvasir_core::ring::Durability;
use kvasir_core::version::{
    CodecError, Context, ContextRefused, Dot, HybridClock, Life, Minter, Outranked, Payload,
    Record, SerialFloor, Sibling, SiblingSet, Stamp,
};
use kvasir_storage::{Applied, Change, ReadError, Store, TableKey, WriteError};

use super::generation::Generation;
use super::holder::Leaving;
use super::trees::Trees;
use crate::planted::{Bug, Planted};
use crate::seam::Clock;

/// Bytes of values up to which clients may add siblings to one key, so that a set always travels whole.
const SET_MAX_BYTES: usize = VALUE_HARD_MAX_BYTES;

/// What a client wants written, before it has a dot.
#[derive(Debug, Clone)]
pub struct Order {
    /// What the client has seen.
    pub context: Context,
    /// The value or tombstone.
    pub payload: Payload,
    /// How long it lives, if not for ever.
    pub life: Option<Life>,
    /// Where the last write wins: a stamp above which it must stand. Then it also supersedes all that this
    /// node holds, seen by the client or not. None elsewhere.
    pub over: Option<Stamp>,
}

/// A write that has its dot.
#[derive(Debug, Clone)]
pub struct Minted {
    /// The name of the write.
    pub dot: Dot,
    /// What travels to the other owners.
    pub delta: SiblingSet,
    /// The local set with the write in it.
    pub set: SiblingSet,
}

/// Why the local record did not take or give what was asked. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LocalError {
    /// The engine could not read. Another replica may answer.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The engine did not write. The variant says whether a retry helps.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// The stored bytes are no record that this version knows. Another replica may answer.
    #[error("the stored record is unreadable: {0}")]
    Record(#[from] CodecError),
    /// The context names a write that this node never made (DESIGN section 4, Token).
    #[error("{0}")]
    Context(#[from] ContextRefused),
    /// The key has as many siblings as clients may make, by count or by the bytes of their values.
    #[error("{siblings} siblings; the limit is {limit}")]
    TooManySiblings {
        /// How many there are.
        siblings: usize,
        /// How many there may be: fewer than the usual limit when their values are large.
        limit: usize,
    },
    /// This node keeps as many stand-in copies as it may. Another may stand in.
    #[error("this node keeps as many stand-in copies as it may")]
    StandInsFull,
    /// What was to be merged was read or minted too long ago. Whoever sent it reads its store again.
    #[error("it is stamped with generation {stamp}; this node is at {own}")]
    OldGeneration {
        /// Its stamp.
        stamp: u64,
        /// The generation of this node; 0 when it has none yet.
        own: u64,
    },
    /// Stand-in copies of an earlier start are still being counted. A retry helps in a moment.
    #[error("the stand-in copies of an earlier start are still being counted")]
    NotCounted,
    /// A message names a place that is no key.
    #[error("a place that is no key")]
    Place,
}

/// The local side of every owner. One per process, shared by its workers.
pub struct Replica {
    store: Arc<Store>,
    trees: Arc<Trees>,
    minter: Arc<Minter>,
    stamps: Mutex<HybridClock>,
    /// Stamps heard that were too far ahead to be followed.
    stamps_ahead: AtomicU64,
    wall: Arc<dyn Clock>,
    planted: Planted,
    generation: Arc<Generation>,
    leaving: Leaving,
}

impl Replica {
    /// `minter` must be new at every start of the node, and `trees` the observer of the store.
    pub fn new(
        (store, trees): (Arc<Store>, Arc<Trees>),
        minter: Arc<Minter>,
        wall: Arc<dyn Clock>,
        planted: Planted,
    ) -> Self {
        let stamps = Mutex::new(HybridClock::new());
        Self {
            store,
            trees,
            minter,
            stamps,
            stamps_ahead: AtomicU64::new(0),
            wall,
            planted,
            generation: Arc::default(),
            leaving: Leaving::default(),
        }
    }

    /// The engine, for maintenance and figures.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The hash tree of the engine's content.
    pub fn trees(&self) -> &Arc<Trees> {
        &self.trees
    }

    /// The generation of this node.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The wall clock in Unix milliseconds: judges expiry, never order.
    pub fn now_ms(&self) -> u64 {
        self.wall.wall_ms()
    }

    fn stamp(&self) -> Stamp {
        let now = self.wall.wall_ms();
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner).now(now)
    }

    /// Keeps the clock of stamps ahead of what was seen, unless that is far ahead of the wall clock.
    pub(super) fn observe(&self, set: &SiblingSet) {
        if let Some(highest) = set.siblings().values().map(|s| s.stamp).max() {
            self.hear(highest);
        }
    }

    /// Hears a stamp that another node gave out; counted where it is too far ahead to be followed.
    pub fn hear(&self, stamp: Stamp) {
        let now = self.wall.wall_ms();
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if !stamps.observe(stamp, now) {
            self.stamps_ahead.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stamps heard that were too far ahead of the wall clock to be followed, and by how many
    /// milliseconds those that this node gives out are ahead of it.
    pub fn stamps(&self) -> (u64, u64) {
        let now = self.wall.wall_ms();
        let lead_ms = self.stamps.lock().unwrap_or_else(PoisonError::into_inner).lead_ms(now);
        (self.stamps_ahead.load(Ordering::Relaxed), lead_ms)
    }

    /// A mistake made on purpose; none but in tests.
    pub(crate) fn planted(&self) -> Planted {
        self.planted
    }

    /// Makes the dots of this start.
    pub(super) fn minter(&self) -> &Arc<Minter> {
        &self.minter
    }

    /// What an order writes over, and the sibling that it writes. A life counts from the stamp: where this
    /// clock is behind those of others, a value is not over before it was written.
    pub(super) fn sibling(&self, order: Order) -> (Seen, Sibling) {
        let stamp = self.stamp();
        let expires_ms = order.life.map(|life| life.end_ms(stamp));
        let seen = Seen { context: order.context, over: order.over };
        (seen, Sibling { stamp, payload: order.payload, expires_ms })
    }

    /// Sets that all owners agreed to erase.
    pub(super) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// The record of a key; an empty one when nothing is stored, or what is stored is about to be erased
    /// by all owners.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn read(&self, key: &TableKey) -> Result<SiblingSet, LocalError> {
        match self.store.get(key).await? {
            Some(bytes) => {
                let set = Record::decode_shared(&bytes)?.set;
                let leaves = self.leaving.has(key, || set.digest().0);
                Ok(if leaves { SiblingSet::new() } else { set })
            }
            None => Ok(SiblingSet::new()),
        }
    }

    /// Whether what is stored under a key is about to be erased by all owners, and so offered to nobody.
    pub(super) fn leaves(&self, key: &TableKey, record: &[u8]) -> bool {
        let digest = || Record::decode(record).map_or([0; 16], |record| record.set.digest().0);
        self.leaving.has(key, digest)
    }

    /// The whole record of a key, its local field too: for the replica read of the admin port.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn record(&self, key: &TableKey) -> Result<Option<Record>, LocalError> {
        let stored = self.store.get(key).await?;
        Ok(stored.as_ref().map(Record::decode_shared).transpose()?)
    }

    /// Mints a dot for a client's write and stores it. The answer comes when the write is visible
    /// here; its `durable` ticket when it is stored at `durability`.
    ///
    /// # Errors
    /// Any [`LocalError`]; the write was not applied.
    pub async fn mint(
        &self,
        key: &TableKey,
        order: Order,
        durability: Durability,
    ) -> Result<Applied<Minted>, LocalError> {
        let (seen, sibling) = self.sibling(order);
        let minter = self.minter.clone();
        let applied = self
            .store
            .update(key, engine(durability), move |old| {
                let minted = mint_into(old, &minter, seen, sibling);
                split(minted.map(|(record, minted)| (Some(record), minted)))
            })
            .await?;
        Ok(Applied { out: applied.out?, durable: applied.durable })
    }

    /// Merges what a client wrote through another node, and tells what stands above it here without being
    /// covered by it. `stamp` as in [`Self::merge`].
    ///
    /// # Errors
    /// Any [`LocalError`]; nothing was applied.
    pub async fn apply(
        &self,
        key: &TableKey,
        delta: SiblingSet,
        stamp: u64,
        durability: Durability,
    ) -> Result<Applied<Option<Outranked>>, LocalError> {
        self.observe(&delta);
        let (minter, planted) = (self.minter.clone(), self.planted);
        let generation = self.generation.clone();
        let applied = self
            .store
            .update(key, engine(durability), move |old| {
                if let Err(error) = in_time(&generation, stamp, planted) {
                    return (Change::Keep, Err(error));
                }
                let merged = merge_into(old, &minter, &delta, planted);
                split(merged.map(|(record, changed)| {
                    let above = record.set.outranks(&delta);
                    (changed.then_some(record), above)
                }))
            })
            .await?;
        Ok(Applied { out: applied.out?, durable: applied.durable })
    }

    /// Merges a set that another node minted or holds, or that was read from one. `stamp` is the
    /// generation of whoever read or minted it, from before that; it is judged under the lock of the
    /// key, so that a set never follows an erase that it should have come before. True when it changed
    /// the record.
    ///
    /// # Errors
    /// Any [`LocalError`]; nothing was applied.
    pub async fn merge(
        &self,
        key: &TableKey,
        delta: SiblingSet,
        stamp: u64,
        durability: Durability,
    ) -> Result<Applied<bool>, LocalError> {
        self.observe(&delta);
        let (minter, planted) = (self.minter.clone(), self.planted);
        let generation = self.generation.clone();
        let applied = self
            .store
            .update(key, engine(durability), move |old| {
                if let Err(error) = in_time(&generation, stamp, planted) {
                    return (Change::Keep, Err(error));
                }
                let merged = merge_into(old, &minter, &delta, planted);
                split(merged.map(|(record, changed)| (changed.then_some(record), changed)))
            })
            .await?;
        Ok(Applied { out: applied.out?, durable: applied.durable })
    }
}

/// What a write supersedes.
pub(super) struct Seen {
    context: Context,
    /// Where the last write wins: all that the record holds besides, and the stamp to stand above.
    over: Option<Stamp>,
}

/// Whether what is stamped so is still taken.
fn in_time(generation: &Generation, stamp: u64, planted: Planted) -> Result<(), LocalError> {
    match generation.takes(stamp) || planted.is(Bug::TakeLate) {
        true => Ok(()),
        false => Err(LocalError::OldGeneration { stamp, own: generation.now() }),
    }
}

/// The engine's word for a durability.
pub(super) fn engine(durability: Durability) -> kvasir_storage::Durability {
    match durability {
        Durability::Memory => kvasir_storage::Durability::Memory,
        Durability::Periodic => kvasir_storage::Durability::Periodic,
        Durability::Group => kvasir_storage::Durability::Group,
        Durability::Each => kvasir_storage::Durability::Each,
    }
}

/// The engine is to store this record.
pub(super) fn put(record: &Record) -> Change {
    Change::Put(Bytes::from(record.encode()))
}

/// What the engine is to do, and what the caller is told.
fn split<T>(outcome: Result<(Option<Record>, T), LocalError>) -> (Change, Result<T, LocalError>) {
    match outcome {
        Ok((Some(record), out)) => (put(&record), Ok(out)),
        Ok((None, out)) => (Change::Keep, Ok(out)),
        Err(error) => (Change::Keep, Err(error)),
    }
}

fn decode(old: Option<&[u8]>) -> Result<Option<Record>, LocalError> {
    Ok(old.map(Record::decode).transpose()?)
}

pub(super) fn mint_into(
    old: Option<&[u8]>,
    minter: &Minter,
    Seen { mut context, over }: Seen,
    mut sibling: Sibling,
) -> Result<(Record, Minted), LocalError> {
    let record = decode(old)?;
    if let Some(floor) = over {
        sibling.stamp = sibling.stamp.max(floor.next());
        if let Some(record) = &record {
            sibling.stamp = record.set.stamp_over(sibling.stamp);
            context.join(record.set.context());
        }
    }
    // Expired values and tombstones count: they stay in the record until somebody covers them.
    let before = record.as_ref().map_or(0, |r| r.set.siblings().len());
    let bytes_before = record.as_ref().map_or(0, |r| value_bytes(&r.set));
    let minted = minter.mint(record, SerialFloor::default(), &context, sibling)?;
    let siblings = minted.record.set.siblings().len();
    // A write that resolves siblings is always taken, even from above the limit.
    if siblings > SIBLINGS_REFUSE && siblings > before {
        return Err(LocalError::TooManySiblings { siblings: before, limit: SIBLINGS_REFUSE });
    }
    let bytes = value_bytes(&minted.record.set);
    if bytes > SET_MAX_BYTES && bytes > bytes_before {
        return Err(LocalError::TooManySiblings { siblings: before, limit: before });
    }
    let set = minted.record.set.clone();
    Ok((minted.record, Minted { dot: minted.dot, delta: minted.delta, set }))
}

/// Bytes of the values in a set.
fn value_bytes(set: &SiblingSet) -> usize {
    let bytes = |sibling: &Sibling| match &sibling.payload {
        Payload::Value { bytes, .. } => bytes.len(),
        Payload::Tombstone => 0,
    };
    set.siblings().values().map(bytes).sum()
}

/// The record with a set merged in, and whether that changed it.
pub(super) fn merge_into(
    old: Option<&[u8]>,
    minter: &Minter,
    delta: &SiblingSet,
    planted: Planted,
) -> Result<(Record, bool), LocalError> {
    let (mut record, changed) = minter.accept(decode(old)?, SerialFloor::default(), delta)?;
    record.set = spoilt(record.set, planted);
    Ok((record, changed))
}

/// The set as a planted bug leaves it; without one, as it is.
fn spoilt(set: SiblingSet, planted: Planted) -> SiblingSet {
    let all = set.siblings();
    let kept = if planted.is(Bug::DropSibling) && all.len() > 1 {
        all.iter().skip(1).map(|(dot, one)| (*dot, one.clone())).collect()
    } else if planted.is(Bug::WallClockMerge) {
        let newest = all.iter().max_by_key(|(dot, one)| (one.stamp, **dot));
        newest.map(|(dot, one)| (*dot, one.clone())).into_iter().collect()
    } else {
        return set;
    };
    SiblingSet::from_parts(set.context().clone(), kept).unwrap_or(set)
}
