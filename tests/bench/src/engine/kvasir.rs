//! Kvasir's engine as a caller of `Store` sees it: threads of its own, tickets waited for.

use super::{Ack, BLOCK_BYTES, Engine, FILTER_BITS, LEVEL1_BYTES, Settings, TABLE_BYTES};
use crate::data::{Key, number_of};
use bytes::Bytes;
use kvasir_storage::{
    Change, Compression, Durability, NoObserver, RealDisk, Store, StoreOptions, TableKey, Threads,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that read what is not in memory.
const READERS: usize = 8;

/// A store, and the thread that tells it the time as the node does.
pub struct Kvasir {
    store: Arc<Store>,
    ended: Arc<AtomicBool>,
    clock: Option<JoinHandle<()>>,
}

impl Kvasir {
    /// Opens or creates.
    pub fn open(dir: &Path, settings: Settings) -> Self {
        let options = StoreOptions {
            cache_bytes: settings.cache_bytes,
            memtable_bytes: settings.memtable_bytes,
            immutable_memtables_max: 2,
            filter_bits_per_key: FILTER_BITS,
            block_bytes: BLOCK_BYTES,
            compression: if settings.lz4 { Compression::Lz4 } else { Compression::None },
            table_bytes: TABLE_BYTES,
            level1_bytes: LEVEL1_BYTES,
            // Nobody syncs unless asked: the peers have no timer either.
            periodic_sync_ms: 3_600_000,
            ..StoreOptions::new(dir)
        };
        let threads = Arc::new(Threads::start(READERS).expect("threads start"));
        let store = Store::open(options, Arc::new(RealDisk), threads, Arc::new(NoObserver))
            .expect("the store opens");
        let (begun, ended) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let clock = {
            let (store, ended) = (store.clone(), ended.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    store.tick(begun.elapsed().as_millis() as u64);
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        Self { store, ended, clock: Some(clock) }
    }
}

fn table_key(key: &Key) -> TableKey {
    TableKey::from_encoded(Bytes::copy_from_slice(key)).expect("the zero is an empty bucket")
}

fn durability(ack: Ack) -> Durability {
    match ack {
        Ack::Buffered => Durability::Memory,
        Ack::Written => Durability::Periodic,
        Ack::Synced => Durability::Group,
    }
}

impl Engine for Kvasir {
    fn put(&self, key: &Key, value: &[u8], ack: Ack) {
        let put = self.store.put(&table_key(key), Bytes::copy_from_slice(value), durability(ack));
        put.wait().expect("a put is applied").durable.wait().expect("a put is acknowledged");
    }

    fn replace(&self, key: &Key, value: &[u8], ack: Ack) -> Option<u64> {
        let change = Change::Put(Bytes::copy_from_slice(value));
        let update =
            self.store.update(&table_key(key), durability(ack), |old| (change, old.map(number_of)));
        let applied = update.wait().expect("an update is applied");
        applied.durable.wait().expect("an update is acknowledged");
        applied.out
    }

    fn get(&self, key: &Key, look: &mut dyn FnMut(&[u8])) -> bool {
        match self.store.get(&table_key(key)).wait().expect("a get is answered") {
            Some(value) => {
                look(&value);
                true
            }
            None => false,
        }
    }

    fn scan(&self, from: &Key, count: usize) -> usize {
        let snapshot = self.store.snapshot();
        let (mut seen, mut next) = (0, Some(table_key(from)));
        while let Some(start) = next.filter(|_| seen < count) {
            let most = (count - seen).min(10_000);
            let chunk = self.store.scan(&snapshot, &start, None, most, 1 << 20).wait();
            let chunk = chunk.expect("a scan is answered");
            for (_, value) in &chunk.entries {
                std::hint::black_box(value[0]);
            }
            seen += chunk.entries.len();
            next = chunk.next;
        }
        seen
    }

    fn flush(&self) {
        self.store.flush().wait().expect("a flush ends");
    }

    fn close(self: Box<Self>) {
        self.store.close().wait().expect("the store closes");
    }
}

impl Drop for Kvasir {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(clock) = self.clock.take() {
            let _ = clock.join();
        }
    }
}
