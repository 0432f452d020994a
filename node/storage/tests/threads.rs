//! Several threads on one store of a real directory while it flushes and merges all the time: each
//! thread owns some keys and must always read back what it wrote last.

#![allow(clippy::unwrap_used)] // a failed call fails the test

use bytes::Bytes;
use kvasir_storage::{
    Change, Durability, NoObserver, OpenError, RealDisk, Store, StoreOptions, TableKey, Threads,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;
const KEYS: u64 = 400;

/// A small deterministic generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn key(owner: u64, i: u64) -> TableKey {
    let number = i * WRITERS + owner;
    TableKey::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"b", &number.to_be_bytes())
}

fn options(dir: &std::path::Path) -> StoreOptions {
    let mut options = StoreOptions::new(dir.join("data"));
    options.memtable_bytes = 64 << 10;
    options.log_segment_bytes = 128 << 10;
    options.cache_bytes = 256 << 10;
    options.resident_bytes = 8 << 10;
    options.table_bytes = 32 << 10;
    options.level1_bytes = 64 << 10;
    options
}

/// Writes and reads its own keys until the time is over; gives what must be stored.
fn own(store: &Store, owner: u64, until: Instant) -> BTreeMap<u64, Option<Bytes>> {
    let (mut model, mut random) = (BTreeMap::new(), Random(77 + owner));
    let (mut operations, mut last) = (0u64, None);
    while Instant::now() < until {
        operations += 1;
        let i = random.below(KEYS);
        let stored: Option<Bytes> = model.get(&i).cloned().flatten();
        if random.below(3) == 0 {
            let found = store.get(&key(owner, i)).wait().unwrap();
            assert!(found == stored, "operation {operations} of {owner} on {i}");
            continue;
        }
        let value = (random.below(5) > 0).then(|| {
            let mut bytes = vec![operations as u8; random.below(900) as usize + 8];
            bytes[..8].copy_from_slice(&operations.to_le_bytes());
            Bytes::from(bytes)
        });
        let change = value.clone().map_or(Change::Erase, Change::Put);
        let applied = store.update(&key(owner, i), Durability::Periodic, move |old| {
            (change, old.map(Bytes::copy_from_slice))
        });
        let applied = applied.wait().unwrap();
        assert!(applied.out == stored, "operation {operations} of {owner} on {i}");
        last = Some(applied.durable);
        model.insert(i, value);
    }
    // Acknowledged is only what somebody waited for, and everything before it.
    last.unwrap().wait().unwrap();
    model
}

fn scan_all(store: &Store) -> BTreeMap<TableKey, Bytes> {
    let snapshot = store.snapshot();
    let (mut all, mut next) = (BTreeMap::new(), Some(TableKey::first_of(0)));
    while let Some(from) = next {
        let chunk = store.scan(&snapshot, &from, None, 50, 20_000).wait().unwrap();
        all.extend(chunk.entries);
        next = chunk.next;
    }
    all
}

#[test]
fn everybody_reads_what_he_wrote_last() {
    let dir = tempfile::tempdir().unwrap();
    let threads = Arc::new(Threads::start(2).unwrap());
    let open = || {
        // A store that was dropped holds its directory until its last background job ends.
        for _ in 0..200 {
            let (options, disk) = (options(dir.path()), Arc::new(RealDisk));
            match Store::open(options, disk, threads.clone(), Arc::new(NoObserver)) {
                Err(OpenError::Locked(_)) => std::thread::sleep(Duration::from_millis(50)),
                opened => return opened.unwrap(),
            }
        }
        panic!("the directory stays locked");
    };
    let store = open();
    let until = Instant::now() + Duration::from_secs(4);
    let models: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|owner| {
                scope.spawn({
                    let store = &store;
                    move || own(store, owner, until)
                })
            })
            .collect();
        let mut ticks = 0;
        while Instant::now() < until {
            ticks += 200;
            store.tick(ticks);
            // A scan must neither fail nor disturb.
            let _ = scan_all(&store);
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let mut expected = BTreeMap::new();
    for (owner, model) in models.iter().enumerate() {
        for (i, value) in model {
            value.clone().map(|value| expected.insert(key(owner as u64, *i), value));
        }
    }
    assert!(scan_all(&store) == expected);
    let stats = store.stats();
    println!(
        "{} flushes, {} compactions, {} stalls, tables {:?}",
        stats.flushes, stats.compactions, stats.stalls, stats.tables_by_level
    );
    assert!(stats.flushes > 5 && stats.compactions > 1);
    assert_eq!((store.failed(), stats.background_errors), (None, 0));
    // Left as a killed process leaves it: the log has what the tables lack.
    drop(store);
    store_reopens(&open, &expected);
}

fn store_reopens(open: &dyn Fn() -> Arc<Store>, expected: &BTreeMap<TableKey, Bytes>) {
    let store = open();
    assert!(scan_all(&store) == *expected);
    store.close().wait().unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.recovery().replayed_records, 0);
    assert!(scan_all(&store) == *expected);
}
