//! A handful of keys whose hashes lie close together, and all their versions.
//!
//! A short chain of chunks, each with the hashes of its keys side by side. A place in a chunk is claimed
//! by counting up and written once; it never moves, so readers follow what is there without a lock and
//! writers of different keys never wait for each other. Chunks beyond the first few would make lookups
//! linear: what does not fit into them goes into a sorted list. That happens only when hashes are not
//! spread, as in a store that holds a small arc of the ring.

use super::Version;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Keys in a chunk: their hashes fill a cache line.
const CHUNK_KEYS: usize = 8;
/// Chunks of a bucket.
const CHUNKS_MAX: usize = 6;

/// See the top of the file.
#[derive(Default)]
pub(super) struct Bucket {
    first: OnceLock<Box<Chunk>>,
}

#[derive(Default)]
struct Chunk {
    hashes: [AtomicU64; CHUNK_KEYS],
    /// Places claimed; may count beyond the end.
    claimed: AtomicUsize,
    keys: [OnceLock<Key>; CHUNK_KEYS],
    next: OnceLock<Next>,
}

/// What stands behind a full chunk.
enum Next {
    Chunk(Box<Chunk>),
    Sorted(Box<SkipMap<Bytes, Key>>),
}

/// A key and its versions: the first one in place, as most keys have no other.
struct Key {
    key: Bytes,
    first: Version,
    newest: ArcSwapOption<Newer>,
}

/// A version behind the first, and the one before it unless that is the first.
struct Newer {
    version: Version,
    older: Option<Arc<Newer>>,
}

impl Drop for Newer {
    fn drop(&mut self) {
        // One behind the other, not one inside the other: the chain may be long.
        let mut next = self.older.take();
        while let Some(mut newer) = next.and_then(Arc::into_inner) {
            next = newer.older.take();
        }
    }
}

impl Key {
    fn new(key: Bytes, first: Version) -> Self {
        Self { key, first, newest: ArcSwapOption::empty() }
    }

    fn push(&self, version: Version) {
        let older = self.newest.load_full();
        self.newest.store(Some(Arc::new(Newer { version, older })));
    }

    fn newest(&self) -> Version {
        match &*self.newest.load() {
            Some(newer) => newer.version.clone(),
            None => self.first.clone(),
        }
    }

    /// Every version, the newest first.
    fn versions(&self, out: &mut Vec<(Bytes, Version)>) {
        let mut next = self.newest.load_full();
        while let Some(newer) = next {
            out.push((self.key.clone(), newer.version.clone()));
            next = newer.older.clone();
        }
        out.push((self.key.clone(), self.first.clone()));
    }
}

impl Bucket {
    /// Adds a version of a key. No two threads insert the same key at the same time.
    pub(super) fn insert(&self, hash: u64, key: Bytes, version: Version) {
        let mut chunk = self.first.get_or_init(Box::default);
        for depth in 1.. {
            if let Some(known) = chunk.find(hash, &key) {
                return known.push(version);
            }
            if chunk.claimed.load(Ordering::Relaxed) < CHUNK_KEYS {
                let place = chunk.claimed.fetch_add(1, Ordering::AcqRel);
                if place < CHUNK_KEYS {
                    chunk.hashes[place].store(hash, Ordering::Release);
                    // Claimed once, so written once.
                    let _ = chunk.keys[place].set(Key::new(key, version));
                    return;
                }
            }
            match chunk.next.get_or_init(|| Next::behind(depth)) {
                Next::Chunk(next) => chunk = next,
                Next::Sorted(list) => {
                    match list.get(&key) {
                        Some(known) => known.value().push(version),
                        None => _ = list.insert(key.clone(), Key::new(key, version)),
                    }
                    return;
                }
            }
        }
    }

    /// The newest version of a key.
    pub(super) fn newest(&self, hash: u64, key: &[u8]) -> Option<Version> {
        let mut chunk = self.first.get()?;
        loop {
            if let Some(known) = chunk.find(hash, key) {
                return Some(known.newest());
            }
            match chunk.next.get()? {
                Next::Chunk(next) => chunk = next,
                Next::Sorted(list) => return list.get(key).map(|known| known.value().newest()),
            }
        }
    }

    /// Every version of the keys from `from` on, in order.
    pub(super) fn versions(&self, from: &[u8]) -> Vec<(Bytes, Version)> {
        let mut out = Vec::new();
        let mut next = self.first.get();
        while let Some(chunk) = next.take() {
            for key in chunk.keys.iter().filter_map(OnceLock::get) {
                if *key.key >= *from {
                    key.versions(&mut out);
                }
            }
            match chunk.next.get() {
                Some(Next::Chunk(behind)) => next = Some(behind),
                Some(Next::Sorted(list)) => {
                    list.range(Bytes::copy_from_slice(from)..)
                        .for_each(|key| key.value().versions(&mut out));
                }
                None => {}
            }
        }
        // Stable: the versions of a key stay the newest first.
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }
}

impl Chunk {
    fn find(&self, hash: u64, key: &[u8]) -> Option<&Key> {
        for (place, known) in self.hashes.iter().enumerate() {
            if known.load(Ordering::Acquire) == hash
                && let Some(found) = self.keys[place].get()
                && *found.key == *key
            {
                return Some(found);
            }
        }
        None
    }
}

impl Next {
    fn behind(depth: usize) -> Self {
        match depth < CHUNKS_MAX {
            true => Next::Chunk(Box::default()),
            false => Next::Sorted(Box::new(SkipMap::new())),
        }
    }
}
