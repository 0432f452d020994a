//! The hash tree of what this node stores, kept by the engine's observer: every change is brought to it in
//! apply order, its state is stored with each flush, and a start replays what came after.
//!
//! What counts is the canonical set of a record, never the note that a record holds for its own replica.
//! The key of the digests comes from the cluster document; the member file is read for it before the store
//! opens. A change that comes without a key puts its part of the tree in doubt instead of being lost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvasir_core::merkle::{CHUNK_LEAVES, Edge, KeyDigest, Node, Restored, Stale, Tree, TreeKey};
use kvasir_core::version::{Payload, Record};
use kvasir_storage::{Chunk, Observer, ReadError, Snapshot, Store, TableKey};

use crate::planted::{Bug, Planted};

/// Keys and bytes of a piece of a chunk that is looked at.
const PIECE: (usize, usize) = (1_024, 1 << 20);

/// The tree and the key of its digests.
#[derive(Debug)]
pub struct Trees {
    /// Off: it holds nothing, looks at nothing and vouches for nothing.
    on: bool,
    tree: Tree,
    key: OnceLock<TreeKey>,
    planted: Planted,
    /// Changes brought to it since the start, those of the replay among them.
    pub changes: AtomicU64,
    /// Chunks that were read from the data because nothing was known of them.
    pub rebuilt: AtomicU64,
    /// Leaves that were found wrong though the tree vouched for them, and mended.
    pub wrong: AtomicU64,
    /// Chunks that were compared with the data.
    pub checked: AtomicU64,
}

/// What a look at one chunk came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Nothing was known of it before.
    pub rebuilt: bool,
    /// Leaves that were wrong.
    pub wrong: Vec<Node>,
    /// Keys in it.
    pub keys: u64,
}

/// Why a chunk could not be looked at. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The data could not be read: damaged, or the engine is busy.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// A range was dropped meanwhile. Look again.
    #[error("{0}")]
    Stale(#[from] Stale),
    /// This node belongs to no cluster yet.
    #[error("the key of the tree is not known yet")]
    NoKey,
}

impl Trees {
    /// An empty tree of 2^`bits` leaves; `secret` is the one of the cluster, where it is known.
    pub fn new(on: bool, bits: u8, secret: Option<[u8; 32]>, planted: Planted) -> Self {
        let bits = if on { bits } else { 0 };
        let trees = Self {
            on,
            tree: Tree::new(bits),
            key: OnceLock::new(),
            planted,
            changes: AtomicU64::new(0),
            rebuilt: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            checked: AtomicU64::new(0),
        };
        if !on {
            trees.tree.doubt(Node { depth: 0, index: 0 });
        }
        if let Some(secret) = secret {
            trees.know(&secret);
        }
        trees
    }

    /// One that is off.
    pub fn off() -> Self {
        Self::new(false, 0, None, Planted::default())
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Learns the secret of the cluster, which never changes.
    pub fn know(&self, secret: &[u8; 32]) {
        self.key.get_or_init(|| TreeKey::new(secret));
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The digest of a stored record. None for one that is no record, or before the key is known.
    pub fn digest(&self, place: &[u8], record: &[u8]) -> Option<KeyDigest> {
        let set = Record::set_bytes(record)?;
        if self.planted.is(Bug::TombstonesUnseen) && is_deleted(record) {
            return None;
        }
        Some(self.key.get()?.digest(place, set))
    }

    fn adds(&self, key: &TableKey, record: Option<&[u8]>) -> u64 {
        let digest = record.and_then(|record| self.digest(key.as_bytes(), record));
        digest.map_or(0, KeyDigest::leaf)
    }

    /// Compares one chunk of the tree with the data and corrects it. Writers go on meanwhile.
    ///
    /// # Errors
    /// [`LookError`]; the chunk is as it was.
    pub async fn look(&self, store: &Store, chunk: u32) -> Result<Looked, LookError> {
        if self.key.get().is_none() {
            return Err(LookError::NoKey);
        }
        let node = self.tree.chunk_node(chunk);
        let rebuilt = !self.tree.vouches(node);
        let (snapshot, cut) = store.snapshot_with(|| self.tree.cut(chunk));
        let (mut found, mut keys) = ([0; CHUNK_LEAVES], 0);
        let mut from = None;
        loop {
            let piece = scan(store, &snapshot, node, (from.as_ref(), None), PIECE).await?;
            for (key, record) in &piece.entries {
                found[cut.leaf_of(&self.tree, key.hash())] ^= self.adds(key, Some(record));
            }
            keys += piece.entries.len() as u64;
            from = piece.next;
            if from.is_none() {
                break;
            }
        }
        let wrong = self.tree.settle(&cut, &found)?;
        self.checked.fetch_add(1, Relaxed);
        match rebuilt {
            true => self.rebuilt.fetch_add(1, Relaxed),
            false => self.wrong.fetch_add(wrong.len() as u64, Relaxed),
        };
        Ok(Looked { rebuilt, wrong, keys })
    }

    /// Puts in doubt what lies in ranges of which the engine lost data, until they are dropped.
    pub fn doubt_lost(&self, store: &Store) {
        for range in store.lost_ranges() {
            let last = range.to.as_ref().map_or(u64::MAX, |to| to.hash());
            let (mut chunk, end) = (self.chunk_of(range.from.hash()), self.chunk_of(last));
            while chunk <= end {
                self.tree.doubt(self.tree.chunk_node(chunk));
                chunk += 1;
            }
        }
    }

    fn chunk_of(&self, hash: u64) -> u32 {
        (hash >> (64 - u32::from(self.tree.chunk_node(0).depth))) as u32
    }
}

/// Whether nothing but tombstones is stored.
fn is_deleted(record: &[u8]) -> bool {
    Record::decode(record).is_ok_and(|record| {
        record.set.siblings().values().all(|one| one.payload == Payload::Tombstone)
    })
}

/// A piece of a subtree, from one key to before another within it.
pub(super) async fn scan(
    store: &Store,
    snapshot: &Snapshot,
    node: Node,
    (from, to): (Option<&TableKey>, Option<&TableKey>),
    (entries, bytes): (usize, usize),
) -> Result<Chunk, ReadError> {
    let (first, last) = node.range();
    let (first, end) = (TableKey::first_of(first), last.checked_add(1).map(TableKey::first_of));
    let (from, to) = (from.unwrap_or(&first), to.or(end.as_ref()));
    store.scan(snapshot, from, to, entries, bytes).await
}

impl Observer for Trees {
    fn changed(&self, key: &TableKey, old: Option<&[u8]>, new: Option<&[u8]>) {
        if !self.on {
            return;
        }
        self.changes.fetch_add(1, Relaxed);
        if self.key.get().is_some() {
            self.tree.prepare(key.hash());
            self.tree.toggle(key.hash(), self.adds(key, old) ^ self.adds(key, new));
        } else {
            self.tree.doubt(self.tree.chunk_node(self.chunk_of(key.hash())));
        }
    }

    fn dropped(&self, from: &TableKey, to: Option<&TableKey>) {
        if self.on {
            self.tree.drop_range(edge(from), to.map(edge));
        }
    }

    fn looks(&self) -> bool {
        self.on
    }

    fn checkpoint(&self) -> Vec<u8> {
        match self.key.get() {
            Some(key) if self.on => self.tree.encode(key.fingerprint()),
            // Nothing that a later start could use.
            _ => Vec::new(),
        }
    }

    fn restore(&self, checkpoint: Option<&[u8]>) {
        if !self.on {
            return;
        }
        let fingerprint = self.key.get().map_or(0, TreeKey::fingerprint);
        if self.tree.restore(checkpoint, fingerprint) == Restored::Unknown {
            tracing::info!(
                "the hash tree of this volume is not usable: it is read from the data again"
            );
        }
    }
}

fn edge(key: &TableKey) -> Edge {
    Edge { hash: key.hash(), before_all: key.bucket().is_empty() && key.key().is_empty() }
}

#[cfg(test)]
#[path = "trees_tests.rs"]
mod tests;
