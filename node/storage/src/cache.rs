//! The block cache: verified blocks in memory, under a hard byte bound.
//!
//! Why not a plain LRU: one scan over cold data would push out everything hot. `quick_cache` evicts by
//! S3-FIFO-like rules (Yang et al. 2023): a newcomer must be asked for again before it may displace what
//! is hot. Besides, scans and compactions go past the cache altogether.
//!
//! Keys are (table id, offset); table ids are never used twice, so an entry can never be stale and
//! blocks of removed tables just age out. Invariant: the sum of the weights (content plus a fixed charge
//! for each entry) never exceeds the capacity; a block heavier than a shard is not kept at all. The hash
//! is fixed, so that two runs with the same seed evict the same blocks.

use crate::striped::Striped;
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Charged for each entry besides its content: key, handle and the cache's own bookkeeping, in bytes.
const ENTRY_BYTES: u64 = 128;
/// A shard smaller than this would refuse ordinary large values.
const SHARD_MIN_BYTES: u64 = 8 << 20;
/// More shards than this bring nothing on the machines we run on.
const SHARDS_MAX: u64 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    table: u64,
    offset: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Bytes> for ByBytes {
    fn weight(&self, _: &Place, content: &Bytes) -> u64 {
        ENTRY_BYTES + content.len() as u64
    }
}

/// A fixed 64-bit mixer over the two words of a [`Place`].
#[derive(Clone, Copy, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^ (x >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    }
}

#[derive(Clone, Copy, Default)]
struct FixedState;

impl BuildHasher for FixedState {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer::default()
    }
}

/// What the cache did so far; plain numbers for the metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Lookups answered from memory.
    pub hits: u64,
    /// Lookups that found nothing.
    pub misses: u64,
    /// Blocks offered to the cache after a read.
    pub inserts: u64,
    /// Blocks held now.
    pub entries: u64,
    /// Bytes charged now.
    pub bytes: u64,
    /// The bound on `bytes`.
    pub capacity_bytes: u64,
}

/// Verified blocks by table and offset, shared by all tables of a store.
pub struct BlockCache {
    cache: Option<Cache<Place, Bytes, ByBytes, FixedState>>,
    capacity: u64,
    counts: Striped<Counts>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    inserts: AtomicU64,
}

impl BlockCache {
    /// A cache of at most `capacity_bytes`; 0 keeps nothing.
    pub fn new(capacity_bytes: u64) -> Arc<Self> {
        let shards = (capacity_bytes / SHARD_MIN_BYTES).clamp(1, SHARDS_MAX);
        // Rounded down to a power of two: the cache would round up and make the shards too small.
        let shards = 1usize << shards.ilog2();
        let items = (capacity_bytes / 4096).max(16) as usize;
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(capacity_bytes)
            .build();
        let cache = options.ok().filter(|_| capacity_bytes > 0).map(|options| {
            Cache::with_options(options, ByBytes, FixedState, DefaultLifecycle::default())
        });
        Arc::new(BlockCache { cache, capacity: capacity_bytes, counts: Striped::default() })
    }

    /// Numbers so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.counts.sum(|counts| &counts.hits),
            misses: self.counts.sum(|counts| &counts.misses),
            inserts: self.counts.sum(|counts| &counts.inserts),
            entries: self.cache.as_ref().map_or(0, |cache| cache.len() as u64),
            bytes: self.cache.as_ref().map_or(0, |cache| cache.weight()),
            capacity_bytes: self.capacity,
        }
    }

    /// The verified content at `offset` of table number `table`, if held.
    pub(crate) fn get(&self, table: u64, offset: u64) -> Option<Bytes> {
        let found = self.cache.as_ref().and_then(|cache| cache.get(&Place { table, offset }));
        let counts = self.counts.mine();
        let counter = if found.is_some() { &counts.hits } else { &counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Offers a verified content, which must own its memory: a slice would hold more than is charged.
    pub(crate) fn keep(&self, table: u64, offset: u64, content: Bytes) {
        if let Some(cache) = &self.cache {
            cache.insert(Place { table, offset }, content);
            self.counts.mine().inserts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: usize) -> Bytes {
        Bytes::from(vec![1; bytes])
    }

    #[test]
    fn the_bound_holds_whatever_is_put_in() {
        let cache = BlockCache::new(1 << 20);
        for i in 0..5000u64 {
            cache.keep(i % 7, i, page((i as usize * 37) % 9000));
            assert!(cache.stats().bytes <= 1 << 20);
        }
        cache.keep(1, 1, page(2 << 20));
        assert!(cache.get(1, 1).is_none());
        assert!(cache.stats().bytes <= 1 << 20);
        assert!(cache.stats().entries > 100);
    }

    #[test]
    fn hot_blocks_survive_a_flood_of_cold_ones() {
        let cache = BlockCache::new(1 << 20);
        let hot = |cache: &BlockCache| (0..50u64).filter(|i| cache.get(1, *i).is_some()).count();
        for i in 0..50 {
            cache.keep(1, i, page(4096));
        }
        for _ in 0..3 {
            assert_eq!(hot(&cache), 50);
        }
        for i in 0..10_000u64 {
            cache.keep(2, i, page(4096));
        }
        assert!(hot(&cache) >= 45, "{} of 50 left", hot(&cache));
    }

    #[test]
    fn a_cache_of_nothing_keeps_nothing() {
        let cache = BlockCache::new(0);
        cache.keep(1, 0, page(10));
        assert!(cache.get(1, 0).is_none());
        assert_eq!(cache.stats().entries, 0);
    }

    #[test]
    fn two_caches_fed_alike_hold_alike() {
        let (a, b) = (BlockCache::new(200_000), BlockCache::new(200_000));
        for i in 0..3000u64 {
            for cache in [&a, &b] {
                if cache.get(i % 3, i * 7 % 100).is_none() {
                    cache.keep(i % 3, i * 7 % 100, page(3000));
                }
            }
        }
        assert_eq!(a.stats(), b.stats());
    }
}
