//! A store on a real directory with far more data than memory: reads stay cheap, memory bounded.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a failed call fails the test

use bytes::Bytes;
use kvasir_storage::{
    Change, Durability, NoObserver, RealDisk, Store, StoreOptions, TableKey, Threads,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 4000;
const KEYS: u64 = 25_000;

fn key(i: u64) -> TableKey {
    TableKey::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"b", format!("key-{i}").as_bytes())
}

/// Bytes that do not compress: on disk the data is as large as it says.
fn value(i: u64, round: u64) -> Bytes {
    let mut state = (i + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; VALUE_BYTES];
    for part in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        part.copy_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

/// Resident memory of this process in bytes; `None` where the machine does not say.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

fn load(store: &Store, keys: impl Iterator<Item = u64>, round: u64) {
    let mut last = None;
    for i in keys {
        let put = value(i, round);
        let applied = store.update(&key(i), Durability::Periodic, |_| (Change::Put(put), ()));
        last = Some(applied.wait().unwrap().durable);
    }
    last.unwrap().wait().unwrap();
}

#[test]
fn reads_stay_cheap_and_memory_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(dir.path().join("data"));
    options.memtable_bytes = 4 << 20;
    options.cache_bytes = 8 << 20;
    options.table_bytes = 8 << 20;
    options.level1_bytes = 16 << 20;
    let threads = Arc::new(Threads::start(2).unwrap());
    let disk = Arc::new(RealDisk);
    let store =
        Store::open(options.clone(), disk.clone(), threads.clone(), Arc::new(NoObserver)).unwrap();
    load(&store, 0..KEYS, 0);
    // A quarter is written again, so that merges have something to drop.
    load(&store, (0..KEYS).step_by(4), 1);
    store.flush().wait().unwrap();

    let expected = |i: u64| value(i, u64::from(i.is_multiple_of(4)));
    for i in (0..KEYS).chain((0..KEYS).step_by(3)) {
        assert!(store.get(&key(i)).wait().unwrap() == Some(expected(i)), "key {i}");
    }
    let before = store.stats();
    assert!(before.cache_bytes <= 8 << 20, "{}", before.cache_bytes);

    let missing = 20_000;
    for i in KEYS..KEYS + missing {
        assert_eq!(store.get(&key(i)).wait().unwrap(), None);
    }
    let after = store.stats();
    let reads = after.table_reads - before.table_reads;
    assert!(reads * 100 <= missing, "{reads} table reads for {missing} missing keys");

    let cold = key(77);
    store.get(&cold).wait().unwrap();
    let once = store.stats().blocks_read;
    store.get(&cold).wait().unwrap();
    assert_eq!(store.stats().blocks_read, once, "the second read of a key reads no block");

    // How far merges have come by now depends on the machine; that they end does not.
    let patience = Instant::now() + Duration::from_secs(120);
    while store.stats().compaction_debt_bytes > 0 {
        assert!(Instant::now() < patience, "merges never end: {:?}", store.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = store.stats();
    let live = KEYS * VALUE_BYTES as u64;
    println!(
        "{} MB live, {} MB in tables {:?}, write amplification {:.2}, {} compactions, resident {:?} MB, \
         {reads} table reads for {missing} missing keys",
        live >> 20,
        stats.table_bytes >> 20,
        stats.tables_by_level,
        (stats.flush_bytes_written + stats.compaction_bytes_written) as f64 / (live as f64 * 1.25),
        stats.compactions,
        resident().map(|bytes| bytes >> 20),
    );
    // What the options allow, and some for the program, the threads and the allocator.
    let bound = options.memory_bytes(2) + (40 << 20);
    assert!(resident().is_none_or(|bytes| bytes < bound), "{:?} of {bound}", resident());
    assert!(stats.cache_bytes <= options.cache_bytes as u64);
    assert!(stats.resident_bytes <= options.resident_bytes as u64);
    let (write, space) =
        (stats.write_amplification().unwrap(), stats.space_amplification().unwrap());
    println!("write amplification {write:.2} of what the log took, space amplification {space:.2}");
    assert!((2.0..10.0).contains(&write) && (1.0..1.6).contains(&space), "{write} {space}");
    assert_eq!((stats.background_errors, store.failed()), (0, None));
    store.close().wait().unwrap();
    drop(store);

    let store = Store::open(options, disk, threads, Arc::new(NoObserver)).unwrap();
    assert_eq!(store.recovery().replayed_records, 0);
    for i in (0..KEYS).step_by(101) {
        assert!(store.get(&key(i)).wait().unwrap() == Some(expected(i)), "key {i} after reopening");
    }
    store.close().wait().unwrap();
}
