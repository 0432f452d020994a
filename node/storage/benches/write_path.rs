//! Times the write path as a caller of the `Store` sees it, for work on it: one row for each load,
//! with operations a second, processor time for each operation, p50 and p99.
//!
//! `cargo bench -p kvasir-storage --bench write_path -- [--keys N] [--dir DIR] [ROW...]`. The
//! comparison with other engines is `tests/run bench engine`; this one builds in seconds and is small
//! enough for `perf record`. Wall times mean little on a machine with other load; the processor time
//! of an operation (all threads of the store counted) still does.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use bytes::Bytes;
use kvasir_storage::{
    Change, Durability, NoObserver, RealDisk, Store, StoreOptions, TableKey, Threads,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

const VALUE_BYTES: usize = 200;

struct Arguments {
    keys: u64,
    dir: PathBuf,
    rows: Vec<String>,
}

fn arguments() -> Arguments {
    let dir = std::env::temp_dir().join("kvasir-write-path");
    let mut all = Arguments { keys: 1_000_000, dir, rows: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("the option wants a value");
        match word.as_str() {
            "--keys" => all.keys = next().parse().expect("a number"),
            "--dir" => all.dir = next().into(),
            // Cargo says so to every bench target.
            "--bench" => {}
            row => all.rows.push(row.to_string()),
        }
    }
    all
}

/// Keys of 16 bytes, spread as the ring spreads them.
fn key(number: u64) -> TableKey {
    let text = format!("{number:016}");
    TableKey::new(xxh3_64(text.as_bytes()), b"b", text.as_bytes())
}

/// Half of the bytes can be compressed away.
fn value(number: u64) -> Bytes {
    let mut bytes = vec![b'v'; VALUE_BYTES];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for part in bytes[..VALUE_BYTES / 2].chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
    Bytes::from(bytes)
}

fn open(dir: &Path) -> Arc<Store> {
    let options = StoreOptions { memtable_bytes: 64 << 20, ..StoreOptions::new(dir) };
    let threads = Arc::new(Threads::start(2).unwrap());
    Store::open(options, Arc::new(RealDisk), threads, Arc::new(NoObserver)).unwrap()
}

fn put(store: &Store, number: u64, durability: Durability) {
    let value = value(number);
    let applied = store.update(&key(number), durability, |_| (Change::Put(value), ()));
    applied.wait().unwrap().durable.wait().unwrap();
}

/// User and system time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Runs `operation` for the numbers below `count`, split over threads, and prints a row.
fn row(name: &str, threads: u64, count: u64, operation: impl Fn(u64) + Sync) {
    let (start, cpu, done) = (Instant::now(), processor_time(), AtomicU64::new(0));
    let mut nanos: Vec<u32> = std::thread::scope(|scope| {
        let run = |_| {
            scope.spawn(|| {
                let mut nanos = Vec::with_capacity((count / threads) as usize);
                loop {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return nanos;
                    }
                    let begun = Instant::now();
                    operation(number);
                    nanos.push(begun.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
                }
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (wall, cpu) = (start.elapsed(), processor_time() - cpu);
    nanos.sort_unstable();
    let at = |share: f64| f64::from(nanos[((nanos.len() - 1) as f64 * share) as usize]) / 1e3;
    println!(
        "{name:<24} {:>9.0} op/s  {:>6.2} us cpu/op  p50 {:>8.1}  p99 {:>8.1}  p999 {:>9.1} us",
        count as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

fn fresh(dir: &Path) -> Arc<Store> {
    let _ = std::fs::remove_dir_all(dir);
    open(dir)
}

fn main() {
    let Arguments { keys, dir, rows } = arguments();
    let wanted = |name: &str| rows.is_empty() || rows.iter().any(|row| name.starts_with(&**row));
    let spread = |number: u64| number.wrapping_mul(7_919) % keys;
    for (mode, durability) in [("memory", Durability::Memory), ("periodic", Durability::Periodic)] {
        for threads in [1, 2] {
            let name = |what: &str| format!("{what}-{mode}-{threads}");
            if ["load", "overwrite", "mixed"].iter().all(|what| !wanted(&name(what))) {
                continue;
            }
            let store = fresh(&dir);
            row(&name("load"), threads, keys, |n| put(&store, n, durability));
            if wanted(&name("overwrite")) {
                row(&name("overwrite"), threads, keys, |n| put(&store, spread(n), durability));
            }
            if wanted(&name("mixed")) {
                row(&name("mixed"), threads, keys, |n| match n % 2 {
                    0 => put(&store, spread(n), durability),
                    _ => assert!(store.get(&key(spread(n))).wait().unwrap().is_some()),
                });
            }
            let stats = store.stats();
            println!(
                "  stalls {} flushes {} compactions {} tables {:?} log batches {}",
                stats.stalls,
                stats.flushes,
                stats.compactions,
                stats.tables_by_level,
                stats.log_batches
            );
            store.close().wait().unwrap();
        }
    }
    for threads in [1, 4, 16] {
        let name = format!("durable-{threads}");
        if wanted(&name) {
            let store = fresh(&dir);
            row(&name, threads, 400 * threads.min(8), |n| put(&store, n, Durability::Group));
            println!("  log syncs {}", store.stats().log_syncs);
            store.close().wait().unwrap();
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}
