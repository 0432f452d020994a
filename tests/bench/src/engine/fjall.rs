//! fjall with the shared settings; everything else as it comes, indexes and filters held in memory.

use super::{Ack, BLOCK_BYTES, Engine, FILTER_BITS, LEVEL1_BYTES, Settings, TABLE_BYTES};
use crate::data::Key;
use fjall::compaction::Leveled;
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PartitioningPolicy, PinningPolicy,
};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::sync::Arc;

/// An open database with its one keyspace.
pub struct Fjall {
    db: Database,
    keys: Keyspace,
}

impl Fjall {
    /// Opens or creates.
    pub fn open(dir: &Path, settings: Settings) -> Self {
        let none = CompressionType::None;
        let db = Database::builder(dir)
            .cache_size(settings.cache_bytes as u64)
            .worker_threads(2)
            .journal_compression(none)
            .manual_journal_persist(settings.buffered)
            .open()
            .expect("fjall opens");
        let below = if settings.lz4 { CompressionType::Lz4 } else { none };
        let options = || {
            let bloom = |bits| FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(bits));
            KeyspaceCreateOptions::default()
                .manual_journal_persist(settings.buffered)
                .max_memtable_size(settings.memtable_bytes as u64)
                .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES as u32))
                .data_block_compression_policy(CompressionPolicy::new([none, below]))
                .index_block_compression_policy(CompressionPolicy::all(none))
                .filter_policy(FilterPolicy::all(bloom(FILTER_BITS as f32)))
                .index_block_pinning_policy(PinningPolicy::all(true))
                .filter_block_pinning_policy(PinningPolicy::all(true))
                .index_block_partitioning_policy(PartitioningPolicy::all(false))
                .filter_block_partitioning_policy(PartitioningPolicy::all(false))
                .compaction_strategy(Arc::new(
                    // Level 1 is as large as its tables that start a merge of level 0.
                    Leveled::default()
                        .with_table_target_size(TABLE_BYTES)
                        .with_l0_threshold((LEVEL1_BYTES / TABLE_BYTES) as u8),
                ))
        };
        let keys = db.keyspace("bench", options).expect("the keyspace opens");
        Self { db, keys }
    }
}

impl Engine for Fjall {
    fn put(&self, key: &Key, value: &[u8], ack: Ack) {
        self.keys.insert(key, value).expect("a put is applied");
        if ack == Ack::Synced {
            self.db.persist(PersistMode::SyncData).expect("a put is acknowledged");
        }
    }

    fn get(&self, key: &Key, look: &mut dyn FnMut(&[u8])) -> bool {
        match self.keys.get(key).expect("a get is answered") {
            Some(value) => {
                look(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, from: &Key, count: usize) -> usize {
        let mut seen = 0;
        for entry in self.keys.range(*from..).take(count) {
            let (key, value) = entry.into_inner().expect("a scan is answered");
            std::hint::black_box((key[0], value[0]));
            seen += 1;
        }
        seen
    }

    fn flush(&self) {
        self.keys.rotate_memtable_and_wait().expect("a flush ends");
    }

    fn close(self: Box<Self>) {}
}
