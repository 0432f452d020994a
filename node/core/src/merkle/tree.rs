//! The sums over everything that one node stores, changed in place by each write.
//!
//! 2^bits leaves of 8 bytes in chunks of [`CHUNK_LEAVES`], of which only those exist that a key lies in: the
//! memory is what the owned share of the ring takes, at most 8 bytes * 2^bits and a directory. A change is
//! one XOR without a lock, so writers of different keys do not wait for each other, and a mark that the sum
//! of its chunk is no longer known. The marks lie together, so that a write reaches for one distant place
//! in memory and not for two; whoever reads a sum adds up what is marked. A reader beside writers may get
//! the sum of a moment ago; it then looks closer and finds nothing.
//!
//! Invariant: outside the chunks in doubt, a leaf is the XOR over the keys under it. In doubt is what was
//! restored from nothing, and what a drop cut in the middle of a leaf. A leaf that is wrong stays wrong by
//! the same XOR whatever is written meanwhile, so [`Tree::cut`] and [`Tree::settle`] mend it beside writers.

use super::place::{BITS_MAX, BITS_MIN, Node};
use std::collections::BTreeSet;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Relaxed, Release},
};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Leaves of a chunk.
pub const CHUNK_LEAVES: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u8 = 8;

pub(super) struct Chunk {
    leaves: [AtomicU64; CHUNK_LEAVES],
}

/// What the tree keeps for a chunk whether it exists or not: where it is, whether it changed, its sum.
const DIRECTORY_BYTES: usize = size_of::<OnceLock<Box<Chunk>>>() + size_of::<AtomicBool>() + 8;

/// What is known to be uncertain.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    pub(super) chunks: BTreeSet<u32>,
    /// Ranges dropped so far: a cut from before a drop settles nothing.
    drops: u64,
}

/// The tree of one node.
pub struct Tree {
    bits: u8,
    pub(super) chunks: Box<[OnceLock<Box<Chunk>>]>,
    /// For each chunk whether a leaf changed since its sum was made.
    changed: Box<[AtomicBool]>,
    /// The sums of the chunks as they were last asked for.
    sums: Mutex<Box<[u64]>>,
    allocated: AtomicUsize,
    doubts: Mutex<Doubts>,
}

/// Where a dropped range begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The hash that it lies at.
    pub hash: u64,
    /// Whether it lies before every key of this hash.
    pub before_all: bool,
}

/// The leaves of a chunk at one instant.
#[derive(Debug, Clone)]
pub struct Cut {
    chunk: u32,
    leaves: Vec<u64>,
    drops: u64,
}

/// A range was dropped since the cut: nothing was settled, take another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a range was dropped meanwhile")]
pub struct Stale;

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({} bits, {} bytes)", self.bits, self.memory_bytes())
    }
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { leaves: std::array::from_fn(|_| AtomicU64::new(0)) })
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = u64> {
        self.leaves.iter().map(|leaf| leaf.load(Relaxed))
    }
}

impl Tree {
    /// An empty tree. `bits` is brought between [`BITS_MIN`] and [`BITS_MAX`].
    pub fn new(bits: u8) -> Self {
        let bits = bits.clamp(BITS_MIN, BITS_MAX);
        let count = 1_usize << (bits - CHUNK_BITS);
        Self {
            bits,
            chunks: (0..count).map(|_| OnceLock::new()).collect(),
            changed: (0..count).map(|_| AtomicBool::new(false)).collect(),
            sums: Mutex::new(vec![0; count].into()),
            allocated: AtomicUsize::new(0),
            doubts: Mutex::default(),
        }
    }

    /// How deep the leaves are.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// How many chunks there could be.
    pub fn chunk_count(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// The subtree of a chunk.
    pub fn chunk_node(&self, chunk: u32) -> Node {
        Node { depth: self.bits - CHUNK_BITS, index: chunk }
    }

    /// Bytes that it takes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let directory = self.chunks.len() * DIRECTORY_BYTES;
        (directory + self.allocated.load(Relaxed) * size_of::<Chunk>()) as u64
    }

    /// Bytes that a tree of so many bits never exceeds.
    pub fn memory_limit(bits: u8) -> u64 {
        let chunks = 1_u64 << (bits.clamp(BITS_MIN, BITS_MAX) - CHUNK_BITS);
        chunks * (DIRECTORY_BYTES + size_of::<Chunk>()) as u64
    }

    fn leaf_of(&self, hash: u64) -> (usize, usize) {
        let leaf = (hash >> (64 - u32::from(self.bits))) as usize;
        (leaf >> CHUNK_BITS, leaf % CHUNK_LEAVES)
    }

    fn chunk(&self, chunk: usize) -> &Chunk {
        self.chunks[chunk].get_or_init(|| {
            self.allocated.fetch_add(1, Relaxed);
            Chunk::new()
        })
    }

    pub(super) fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a change of a key: `by` is the XOR of what it added to its leaf before and what it adds now.
    pub fn toggle(&self, hash: u64, by: u64) {
        if by != 0 {
            let (chunk, leaf) = self.leaf_of(hash);
            self.toggle_at(chunk, leaf, by);
        }
    }

    pub(super) fn toggle_leaf(&self, leaf: usize, by: u64) {
        self.toggle_at(leaf >> CHUNK_BITS, leaf % CHUNK_LEAVES, by);
    }

    fn toggle_at(&self, chunk: usize, leaf: usize, by: u64) {
        self.chunk(chunk).leaves[leaf].fetch_xor(by, Relaxed);
        self.changed[chunk].store(true, Release);
    }

    /// Reaches for the leaf of a hash that is about to change, so that it is near when it does: what a
    /// change has to compute first takes as long as memory takes to bring it.
    pub fn prepare(&self, hash: u64) {
        let (chunk, leaf) = self.leaf_of(hash);
        if let Some(chunk) = self.chunks[chunk].get() {
            std::hint::black_box(chunk.leaves[leaf].load(Relaxed));
        }
    }

    /// The sum of a subtree; one below the leaves counts as its leaf.
    pub fn sum(&self, node: Node) -> u64 {
        let node = if node.depth > self.bits { node.above(self.bits) } else { node };
        let (first, last) = node.range();
        let ((from, first_leaf), (to, last_leaf)) = (self.leaf_of(first), self.leaf_of(last));
        if from == to && node.depth > self.bits - CHUNK_BITS {
            let leaves = self.chunks[from].get().map(|chunk| &chunk.leaves[first_leaf..=last_leaf]);
            return leaves.into_iter().flatten().fold(0, |sum, leaf| sum ^ leaf.load(Relaxed));
        }
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        (from..=to).fold(0, |sum, at| {
            // A leaf that changes after the mark was taken sets it again.
            if self.changed[at].load(Relaxed) && self.changed[at].swap(false, AcqRel) {
                let leaves = self.chunks[at].get().into_iter().flat_map(|chunk| chunk.leaves());
                sums[at] = leaves.fold(0, |sum, leaf| sum ^ leaf);
            }
            sum ^ sums[at]
        })
    }

    fn chunks_of(&self, node: Node) -> std::ops::RangeInclusive<u32> {
        let (first, last) = node.range();
        self.leaf_of(first).0 as u32..=self.leaf_of(last).0 as u32
    }

    /// Whether the sums of a subtree can be relied upon.
    pub fn vouches(&self, node: Node) -> bool {
        self.doubts().chunks.range(self.chunks_of(node)).next().is_none()
    }

    /// Puts every chunk of a subtree in doubt, until it is settled.
    pub fn doubt(&self, node: Node) {
        let chunks = self.chunks_of(node);
        self.doubts().chunks.extend(chunks);
    }

    /// Chunks in doubt: how many, and the first at or behind one.
    pub fn doubtful(&self, from: u32) -> (usize, Option<u32>) {
        let doubts = self.doubts();
        (doubts.chunks.len(), doubts.chunks.range(from..).next().copied())
    }

    /// Every key between the edges is gone (`to` none: to the end). Leaves that an edge cuts are in doubt.
    pub fn drop_range(&self, from: Edge, to: Option<Edge>) {
        let mut doubts = self.doubts();
        doubts.drops += 1;
        let width = 64 - u32::from(self.bits);
        let cuts = |edge: Edge| !edge.before_all || edge.hash.trailing_zeros() < width;
        let leaf = |edge: Edge| edge.hash >> width;
        // Leaves [first, end) are dropped whole.
        let first = leaf(from) + u64::from(cuts(from));
        let end = to.map_or(1 << self.bits, leaf);
        let cut = std::iter::once(from).chain(to).filter(|edge| cuts(*edge));
        doubts.chunks.extend(cut.map(|edge| (leaf(edge) >> CHUNK_BITS) as u32));
        for at in first..end {
            let (chunk, leaf) = ((at >> CHUNK_BITS) as usize, at as usize % CHUNK_LEAVES);
            if let Some(there) = self.chunks[chunk].get() {
                there.leaves[leaf].store(0, Relaxed);
                self.changed[chunk].store(true, Release);
            }
        }
        let whole = first.div_ceil(CHUNK_LEAVES as u64) as u32..(end >> CHUNK_BITS) as u32;
        doubts.chunks.retain(|chunk| !whole.contains(chunk));
    }

    /// The leaves of a chunk now. To be taken at the same instant as the snapshot that it is compared with.
    pub fn cut(&self, chunk: u32) -> Cut {
        let drops = self.doubts().drops;
        let leaves = match self.chunks[chunk as usize].get() {
            Some(chunk) => chunk.leaves().collect(),
            None => vec![0; CHUNK_LEAVES],
        };
        Cut { chunk, leaves, drops }
    }

    /// Takes in what the data at the instant of a cut came to. The leaves that were wrong are corrected and
    /// named; the chunk is in doubt no longer.
    ///
    /// # Errors
    /// [`Stale`]; nothing was changed.
    pub fn settle(&self, cut: &Cut, found: &[u64; CHUNK_LEAVES]) -> Result<Vec<Node>, Stale> {
        let mut doubts = self.doubts();
        if doubts.drops != cut.drops {
            return Err(Stale);
        }
        let mut wrong = Vec::new();
        for (leaf, (was, is)) in cut.leaves.iter().zip(found).enumerate() {
            if was != is {
                self.toggle_at(cut.chunk as usize, leaf, was ^ is);
                let index = (cut.chunk << CHUNK_BITS) + leaf as u32;
                wrong.push(Node { depth: self.bits, index });
            }
        }
        doubts.chunks.remove(&cut.chunk);
        Ok(wrong)
    }
}

impl Cut {
    /// Where in its chunk a hash lies.
    pub fn leaf_of(&self, tree: &Tree, hash: u64) -> usize {
        tree.leaf_of(hash).1
    }
}
