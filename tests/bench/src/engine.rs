//! One face for the three engines, and the settings that all of them get.

#[cfg(feature = "fjall")]
mod fjall;
mod kvasir;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use crate::data::{Key, number_of};
use std::path::Path;

/// When a put returns. The same word means the same for every engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// In the log's buffer of the process; lost with the process.
    Buffered,
    /// Given to the operating system; lost with the machine.
    Written,
    /// Synced (fdatasync); lost with the disk.
    Synced,
}

/// What every engine is told. Memory of indexes and filters stands beside the cache in all of them.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Cache of data blocks.
    pub cache_bytes: usize,
    /// One memtable; each engine may hold three.
    pub memtable_bytes: usize,
    /// LZ4 for blocks below level 0, or none anywhere.
    pub lz4: bool,
    /// Puts of this store are acknowledged when buffered.
    pub buffered: bool,
}

/// Bits of Bloom filter for each key.
const FILTER_BITS: u32 = 16;
/// Target size of a data block.
const BLOCK_BYTES: usize = 4 << 10;
/// Target size of a table.
const TABLE_BYTES: u64 = 32 << 20;
/// Size of level 1.
const LEVEL1_BYTES: u64 = 128 << 20;

/// A store under measurement. An error of the engine ends the run: there is nothing to measure.
pub trait Engine: Send + Sync {
    /// Stores a value whatever was there and returns when it is acknowledged.
    fn put(&self, key: &Key, value: &[u8], ack: Ack);

    /// Stores a value after a look at the old one, and gives the number in that. Kvasir: one update,
    /// atomic; the peers, which have no such call without transactions: a get, then a put.
    fn replace(&self, key: &Key, value: &[u8], ack: Ack) -> Option<u64> {
        let mut found = None;
        self.get(key, &mut |old| found = Some(number_of(old)));
        self.put(key, value, ack);
        found
    }

    /// Shows the value of a key to `look`; `false` if there is none.
    fn get(&self, key: &Key, look: &mut dyn FnMut(&[u8])) -> bool;

    /// Reads up to `count` entries from `from` on, in order, each value touched; gives how many
    /// there were.
    fn scan(&self, from: &Key, count: usize) -> usize;

    /// Writes memory out to tables. Compaction may go on after it.
    fn flush(&self);

    /// Ends the store and releases its directory.
    fn close(self: Box<Self>);
}

/// Engines that this program was built with.
pub const NAMES: &[&str] = &[
    "kvasir",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    #[cfg(feature = "fjall")]
    "fjall",
];

/// Opens or creates a store.
pub fn open(name: &str, dir: &Path, settings: Settings) -> Box<dyn Engine> {
    match name {
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(rocksdb::Rocks::open(dir, settings)),
        #[cfg(feature = "fjall")]
        "fjall" => Box::new(fjall::Fjall::open(dir, settings)),
        "kvasir" => Box::new(kvasir::Kvasir::open(dir, settings)),
        other => panic!("no engine is called {other}; there are {NAMES:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Values, key};

    #[test]
    fn every_engine_does_what_the_face_says() {
        let values = Values::new(100);
        for name in NAMES {
            let dir =
                std::env::temp_dir().join(format!("kvasir-face-{name}-{}", std::process::id()));
            let settings = Settings {
                cache_bytes: 1 << 20,
                memtable_bytes: 1 << 20,
                lz4: false,
                buffered: false,
            };
            let store = open(name, &dir, settings);
            let mut value = vec![0; 100];
            for number in 0..1_000 {
                values.fill(number, &mut value);
                let ack = if number == 999 { Ack::Synced } else { Ack::Written };
                store.put(&key(number), &value, ack);
            }
            let mut value_of_77 = vec![0; 100];
            values.fill(77, &mut value_of_77);
            for _ in 0..2 {
                let mut right = false;
                assert!(
                    store.get(&key(77), &mut |found| right = values.is_of(77, found)),
                    "{name}"
                );
                assert!(right && !store.get(&key(1_000), &mut |_| ()), "{name}");
                assert_eq!(store.replace(&key(77), &value_of_77, Ack::Written), Some(77), "{name}");
                assert_eq!(store.scan(&[0; 16], 2_000), 1_000, "{name}");
                assert_eq!(store.scan(&[0; 16], 30), 30, "{name}");
                store.flush();
            }
            store.close();
            let store = open(name, &dir, settings);
            assert_eq!(store.scan(&[0; 16], 2_000), 1_000, "{name}");
            store.close();
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}
