//! Times the read path as a caller of [`Store`] sees it: hits, misses, scans, reopening.
//!
//! `cargo bench -p kvasir-storage --bench reads -- [--keys N] [--value BYTES] [--cache MIB]
//! [--seconds S] [--row NAME] [--lz4] [--dir DIR] [--leave]`. A plain main: one store in a temporary directory, loaded and
//! merged first, then each row for some seconds. Prints operations per second, processor time and percentiles
//! of one call. Good for profiles and for before-and-after; figures beside other engines are the business of
//! `tests/bench`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a failed call ends the program; it has a clock

use bytes::Bytes;
use kvasir_storage::{
    Change, Compression, Durability, NoObserver, RealDisk, Store, StoreOptions, TableKey, Threads,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// What the command line asks for.
struct Plan {
    keys: u64,
    value_bytes: usize,
    cache_mib: usize,
    seconds: f64,
    row: Option<String>,
    dir: Option<String>,
    lz4: bool,
    leave: bool,
}

/// Log-linear histogram of nanoseconds: 16 steps for each doubling.
struct Latencies([u64; 1024]);

impl Latencies {
    fn add(&mut self, elapsed: Duration) {
        let ns = (elapsed.as_nanos() as u64).max(16);
        let log = 63 - u64::from(ns.leading_zeros());
        let slot = (log - 4) * 16 + ((ns >> (log - 4)) & 15);
        self.0[(slot as usize).min(1023)] += 1;
    }

    fn percentile(&self, share: f64) -> u64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * share) as u64;
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        let slot = at.unwrap_or(0) as u64;
        (16 + slot % 16) << (slot / 16)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks by Zipf's law with exponent 0.99 (Gray et al. 1994), scattered over the keys.
struct Zipf {
    keys: f64,
    zeta: f64,
    eta: f64,
    alpha: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    fn new(keys: u64) -> Self {
        let zeta: f64 = (1..=keys).map(|rank| 1.0 / (rank as f64).powf(THETA)).sum();
        let two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - THETA)) / (1.0 - two / zeta);
        Zipf { keys: keys as f64, zeta, eta, alpha: 1.0 / (1.0 - THETA) }
    }

    fn pick(&self, random: &mut Random) -> u64 {
        let (u, keys) = (random.unit(), self.keys as u64);
        let uz = u * self.zeta;
        let rank = match uz {
            _ if uz < 1.0 => 0,
            _ if uz < 1.0 + 0.5f64.powf(THETA) => 1,
            _ => (self.keys * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64,
        };
        xxh3_64(&rank.to_le_bytes()) % keys
    }
}

fn key(id: u64) -> TableKey {
    let name = format!("{id:016x}");
    TableKey::new(xxh3_64(name.as_bytes()), b"b", name.as_bytes())
}

/// Half of it compresses, half does not.
fn value(id: u64, bytes: usize) -> Bytes {
    let mut random = Random(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut out = vec![b'v'; bytes];
    for chunk in out[..bytes / 2].chunks_mut(8) {
        let word = random.next().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    out.into()
}

fn open(plan: &Plan, dir: &std::path::Path) -> Arc<Store> {
    let mut options = StoreOptions::new(dir.join("data"));
    options.cache_bytes = plan.cache_mib << 20;
    options.compression = if plan.lz4 { Compression::Lz4 } else { Compression::None };
    let threads = Arc::new(Threads::start(2).unwrap());
    Store::open(options, Arc::new(RealDisk), threads, Arc::new(NoObserver)).unwrap()
}

fn load(store: &Store, plan: &Plan) {
    let start = Instant::now();
    for id in 0..plan.keys {
        let put = value(id, plan.value_bytes);
        let applied = store.update(&key(id), Durability::Memory, |_| (Change::Put(put), ()));
        drop(applied.wait().unwrap());
        if id % 10_000 == 0 {
            store.tick(start.elapsed().as_millis() as u64);
        }
    }
    let loaded = start.elapsed();
    store.flush().wait().unwrap();
    let mut last = (0, Instant::now());
    while last.1.elapsed() < Duration::from_millis(700) {
        store.tick(start.elapsed().as_millis() as u64);
        let now = store.stats().compactions;
        if now != last.0 {
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = store.stats();
    let raw = plan.keys * (plan.value_bytes as u64 + 26);
    println!(
        "load {:.0} k/s, merged after {:.1} s, {} MiB of {} MiB raw in tables {:?}, write amplification {:.2}, resident {} KiB",
        plan.keys as f64 / loaded.as_secs_f64() / 1e3,
        start.elapsed().as_secs_f64(),
        stats.table_bytes >> 20,
        raw >> 20,
        stats.tables_by_level,
        (stats.flush_bytes_written + stats.compaction_bytes_written) as f64 / raw as f64,
        stats.resident_bytes >> 10,
    );
}

/// Nanoseconds that this thread ran on a processor: what others do on the machine does not count.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Runs `once` on some threads until the time is over; prints a row.
fn row(plan: &Plan, name: &str, threads: u64, once: impl Fn(&mut Random) + Sync) {
    if plan.row.as_ref().is_some_and(|row| !name.starts_with(row.as_str())) {
        return;
    }
    let start = Instant::now();
    let until = start + Duration::from_secs_f64(plan.seconds);
    let work = |thread: u64| {
        let (mut random, mut seen) = (Random(0x1234_5678 + thread * 77), Latencies([0; 1024]));
        let start = on_processor();
        loop {
            let before = Instant::now();
            if before >= until {
                return (seen, on_processor() - start);
            }
            once(&mut random);
            seen.add(before.elapsed());
        }
    };
    let (mut all, mut ran) = (Latencies([0; 1024]), 0);
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        for seen in running {
            let (seen, busy) = seen.join().unwrap();
            ran += busy;
            all.0.iter_mut().zip(seen.0).for_each(|(sum, count)| *sum += count);
        }
    });
    let count = all.0.iter().sum::<u64>() as f64;
    println!(
        "{name:20} {threads} threads {:9.0} ops/s  cpu {:6.0} ns  p50 {:7} ns  p99 {:7} ns  p999 {:7} ns",
        count / start.elapsed().as_secs_f64(),
        ran as f64 / count,
        all.percentile(0.5),
        all.percentile(0.99),
        all.percentile(0.999)
    );
}

fn scan(store: &Store, plan: &Plan) {
    if plan.row.as_ref().is_some_and(|row| row != "scan") {
        return;
    }
    let (start, snapshot) = (Instant::now(), store.snapshot());
    let (mut entries, mut bytes, mut next) = (0u64, 0, Some(TableKey::first_of(0)));
    while let Some(from) = next {
        let chunk = store.scan(&snapshot, &from, None, 10_000, 1 << 20).wait().unwrap();
        entries += chunk.entries.len() as u64;
        bytes += chunk.entries.iter().map(|(_, value)| value.len()).sum::<usize>();
        next = chunk.next;
    }
    assert_eq!(entries, plan.keys);
    let rate = entries as f64 / start.elapsed().as_secs_f64();
    println!("scan {rate:.0} entries/s ({} MiB of values)", bytes >> 20);
}

fn rows(store: &Store, plan: &Plan) {
    let zipf = Zipf::new(plan.keys);
    let get = |id: u64| store.get(&key(id)).wait().unwrap();
    let hit = |id: u64| assert!(get(id).is_some_and(|value| value.len() == plan.value_bytes));
    for threads in [1, 2] {
        row(plan, "hit-uniform", threads, |random| hit(random.next() % plan.keys));
        row(plan, "hit-zipf", threads, |random| hit(zipf.pick(random)));
        row(plan, "miss", threads, |random| {
            assert!(get(plan.keys + random.next() % plan.keys).is_none());
        });
    }
    row(plan, "scan-100", 1, |random| {
        let snapshot = store.snapshot();
        let from = TableKey::first_of(random.next() & (u64::MAX >> 1));
        let chunk = store.scan(&snapshot, &from, None, 100, 1 << 20).wait().unwrap();
        assert!(chunk.entries.len() == 100);
    });
    row(plan, "key-and-clock-alone", 1, |random| {
        std::hint::black_box(key(random.next() % plan.keys));
    });
    scan(store, plan);
    let stats = store.stats();
    println!(
        "cache {} hits {} misses, {} blocks read, {} pool reads, {} filter negatives, {} false positives",
        stats.cache_hits,
        stats.cache_misses,
        stats.blocks_read,
        stats.pool_reads,
        stats.filter_negatives,
        stats.filter_false_positives
    );
}

/// Overwrites some keys and ends the program as a kill would: the next run with this directory opens
/// what the log has.
fn leave(store: &Store, plan: &Plan) -> ! {
    let mut last = None;
    for id in (0..plan.keys).step_by(3) {
        let put = value(id + 1, plan.value_bytes);
        let applied = store.update(&key(id), Durability::Periodic, |_| (Change::Put(put), ()));
        last = Some(applied.wait().unwrap().durable);
    }
    last.unwrap().wait().unwrap();
    println!("left with {} MiB of log", store.stats().log_bytes >> 20);
    std::process::exit(0)
}

fn plan() -> Plan {
    let mut plan = Plan {
        keys: 1_000_000,
        value_bytes: 200,
        cache_mib: 64,
        seconds: 3.0,
        row: None,
        dir: None,
        lz4: false,
        leave: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().unwrap();
        match word.as_str() {
            "--keys" => plan.keys = number().parse().unwrap(),
            "--value" => plan.value_bytes = number().parse().unwrap(),
            "--cache" => plan.cache_mib = number().parse().unwrap(),
            "--seconds" => plan.seconds = number().parse().unwrap(),
            "--row" => plan.row = Some(number()),
            "--dir" => plan.dir = Some(number()),
            "--leave" => plan.leave = true,
            "--lz4" => plan.lz4 = true,
            "--bench" => {}
            other => panic!("unknown word {other}"),
        }
    }
    plan
}

fn main() {
    let plan = plan();
    let home = tempfile::tempdir().unwrap();
    let dir = plan.dir.as_ref().map_or(home.path().into(), std::path::PathBuf::from);
    let fresh = !dir.join("data").exists();
    let start = Instant::now();
    let store = open(&plan, &dir);
    println!("open {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    if fresh {
        load(&store, &plan);
    }
    if plan.leave {
        leave(&store, &plan);
    }
    rows(&store, &plan);
    store.close().wait().unwrap();
    drop(store);
    let start = Instant::now();
    let store = open(&plan, &dir);
    println!("reopen {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    store.close().wait().unwrap();
}
