//! RocksDB with the shared settings; everything else as it comes.

use super::{Ack, BLOCK_BYTES, Engine, FILTER_BITS, LEVEL1_BYTES, Settings, TABLE_BYTES};
use crate::data::Key;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, WriteOptions};
use std::path::Path;

/// An open database.
pub struct Rocks {
    db: DB,
    unsynced: WriteOptions,
    synced: WriteOptions,
}

impl Rocks {
    /// Opens or creates. Indexes and filters stay in memory beside the cache, as they do by default.
    pub fn open(dir: &Path, settings: Settings) -> Self {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(settings.cache_bytes));
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(f64::from(FILTER_BITS), false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(settings.memtable_bytes);
        options.set_max_write_buffer_number(3);
        options.set_target_file_size_base(TABLE_BYTES);
        options.set_max_bytes_for_level_base(LEVEL1_BYTES);
        options.set_max_open_files(-1);
        options.set_max_background_jobs(2);
        options.set_manual_wal_flush(settings.buffered);
        let none = DBCompressionType::None;
        options.set_compression_type(none);
        if settings.lz4 {
            let lz4 = DBCompressionType::Lz4;
            options.set_compression_per_level(&[none, lz4, lz4, lz4, lz4, lz4, lz4]);
        }
        let db = DB::open(&options, dir).expect("RocksDB opens");
        let (unsynced, mut synced) = (WriteOptions::default(), WriteOptions::default());
        synced.set_sync(true);
        Self { db, unsynced, synced }
    }
}

impl Engine for Rocks {
    fn put(&self, key: &Key, value: &[u8], ack: Ack) {
        let options = if ack == Ack::Synced { &self.synced } else { &self.unsynced };
        self.db.put_opt(key, value, options).expect("a put is acknowledged");
    }

    fn get(&self, key: &Key, look: &mut dyn FnMut(&[u8])) -> bool {
        match self.db.get_pinned(key).expect("a get is answered") {
            Some(value) => {
                look(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, from: &Key, count: usize) -> usize {
        let mut entries = self.db.raw_iterator();
        entries.seek(from);
        let mut seen = 0;
        while seen < count && entries.valid() {
            std::hint::black_box((entries.key(), entries.value().map(|value| value[0])));
            entries.next();
            seen += 1;
        }
        entries.status().expect("a scan ends well");
        seen
    }

    fn flush(&self) {
        self.db.flush().expect("a flush ends");
    }

    fn close(self: Box<Self>) {}
}
