//! What the hash tree costs and what it saves, on real files: `writes` compares the throughput of writes with
//! the tree on and off; `differences` lets two replicas of a million keys find and mend 300 differences and
//! counts the bytes that would travel. `tests/run bench trees` runs both.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use kvasir::planted::Planted;
use kvasir::replica::{Replica, Trees, compare};
use kvasir::seam::Clock;
use kvasir_core::merkle::{
    Answer, Ask, Compared, Exchange, Held, Limits, Merged, Node, Step, place, respond,
};
use kvasir_core::ring::{Durability, hash::key_hash};
use kvasir_core::version::{Actor, Context, Minter, Payload, Sibling, SiblingSet, Stamp};
use kvasir_storage::{RealDisk, Store, StoreOptions, TableKey, Threads};

/// The head of a frame.
const HEAD_BYTES: u64 = 60;
/// Partitions: 2^6.
const K: u8 = 6;

/// The tree under load and over a wire.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand)]
enum Word {
    /// Writes with the tree on and off, in turns: synced as nodes do it, and without any sync
    Writes {
        /// Writes of each turn
        #[arg(long, default_value_t = 200_000)]
        writes: u64,
        /// Pairs of turns
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
        turns: u32,
        /// Least median of the pairs' ratios, of synced writes
        #[arg(long, default_value_t = 0.95)]
        least: f64,
        /// Least median of the pairs' ratios, without any sync
        #[arg(long, default_value_t = 0.8)]
        least_bare: f64,
    },
    /// Two replicas that differ in 300 keys
    Differences {
        /// Keys of each replica
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
    },
}

struct Wall;

impl Clock for Wall {
    fn wall_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

fn open(dir: &Path, on: bool) -> Replica {
    let trees = Arc::new(Trees::new(on, 20, Some([1; 32]), Planted::default()));
    let threads = Arc::new(Threads::start(2).expect("threads"));
    let options = StoreOptions::new(dir);
    let store = Store::open(options, Arc::new(RealDisk), threads, trees.clone()).expect("a store");
    let minter = Arc::new(Minter::new(1));
    let replica = Replica::new((store, trees), minter, Arc::new(Wall), Planted::default());
    replica.generation().reached(1);
    replica
}

fn key(number: u64) -> TableKey {
    let name = format!("key-{number:012}");
    TableKey::new(key_hash(1, b"bench", name.as_bytes()), b"bench", name.as_bytes())
}

fn set(actor: u64, count: u64, seen: Context) -> SiblingSet {
    let payload = Payload::Value { bytes: Bytes::from(vec![b'v'; 100]), content_type: None };
    let sibling = Sibling { stamp: Stamp(count), payload, expires_ms: None };
    SiblingSet::delta(seen, Actor { tag: actor, serial: 0 }.dot(count), sibling)
}

async fn close(replica: &Replica) {
    replica.store().close().await.expect("a close");
}

/// Merges a set and waits until it is as durable as asked for.
async fn put(replica: &Replica, number: u64, set: SiblingSet, durability: Durability) {
    let merged = replica.merge(&key(number), set, 1, durability).await.expect("a write");
    if durability == Durability::Group {
        merged.durable.await.expect("a sync");
    }
}

/// How a turn writes.
#[derive(Clone, Copy)]
struct Way {
    said: &'static str,
    writers: u64,
    durability: Durability,
}

/// What nodes do unless they are told otherwise: each answer waits for a sync that writers share.
const DURABLE: Way = Way { said: "16 writers, synced", writers: 16, durability: Durability::Group };
/// Nothing waits for the disk, so nothing hides what the tree costs.
const BARE: Way = Way { said: "one writer, no sync", writers: 1, durability: Durability::Periodic };

/// Writes a second in one turn: as many keys new as overwritten.
async fn turn(on: bool, way: Way, writes: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let replica = Rc::new(open(dir.path(), on));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..way.writers)
        .map(|writer| {
            let replica = replica.clone();
            tokio::task::spawn_local(async move {
                for number in (writer..writes).step_by(way.writers as usize) {
                    let (count, key) = (number / (writes / 2) + 1, number % (writes / 2));
                    put(&replica, key, set(7 + writer, count, Context::new()), way.durability)
                        .await;
                    if number.is_multiple_of(1_000) {
                        replica.store().tick(begun.elapsed().as_millis() as u64);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer ends");
    }
    let rate = writes as f64 / begun.elapsed().as_secs_f64();
    close(&replica).await;
    rate
}

/// Writes with the tree and without it in pairs of turns, each first as often as the other. Returns the median of
/// the pairs' ratios: what slows a machine down for a while slows both of a pair.
async fn writes(way: Way, writes: u64, turns: u32) -> f64 {
    let (mut on, mut off, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    turn(true, way, writes / 10).await;
    for pair in 0..turns {
        let mut rates = [0.0; 2];
        for place in [pair % 2, 1 - pair % 2] {
            rates[place as usize] = turn(place == 1, way, writes).await;
        }
        off.push(rates[0]);
        on.push(rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    for rates in [&mut on, &mut off, &mut ratios] {
        rates.sort_by(f64::total_cmp);
    }
    let median = |rates: &[f64]| rates[rates.len() / 2];
    println!(
        "{}: {:.0} writes/s with the tree, {:.0} without it: {:.3} ({:.3} to {:.3} in {turns} pairs)",
        way.said,
        median(&on),
        median(&off),
        median(&ratios),
        ratios[0],
        ratios[ratios.len() - 1],
    );
    median(&ratios)
}

async fn fill(replica: &Replica, keys: impl Iterator<Item = u64>) {
    let begun = Instant::now();
    for number in keys {
        put(replica, number, set(7, 1, Context::new()), Durability::Memory).await;
        if number.is_multiple_of(1_000) {
            replica.store().tick(begun.elapsed().as_millis() as u64);
        }
    }
    replica.store().flush().await.expect("a flush");
}

async fn differ(keys: u64) {
    let dirs =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (one, other) = (open(dirs.0.path(), true), open(dirs.1.path(), true));
    let each = keys / 100;
    fill(&one, 0..keys).await;
    fill(&other, (0..keys).filter(|number| number % each != 1)).await;
    for number in (0..keys).step_by(each as usize) {
        let seen = set(7, 1, Context::new()).context().clone();
        put(&one, number + 2, set(8, 1, seen), Durability::Group).await;
        put(&other, number + 3, set(9, 1, Context::new()), Durability::Group).await;
    }
    let memory = one.trees().tree().memory_bytes();
    let begun = Instant::now();
    let (bytes, tally) = meet(&one, &other).await;
    let took = begun.elapsed();
    let equal = Instant::now();
    let (again, rest) = meet(&one, &other).await;
    println!(
        "{keys} keys, 100 newer, 100 missing, 100 with one more sibling: {bytes} bytes in {took:?}, {tally:?}; \
         equal replicas: {again} bytes in {:?}; tree: {memory} bytes",
        equal.elapsed()
    );
    assert_eq!((tally.mended, rest.mended, rest.asks), (300, 0, 1));
    assert!(bytes < 200_000 && took < Duration::from_secs(2));
    restart(one, dirs.0.path()).await;
    close(&other).await;
}

/// How long a start takes whose log has to be brought to the tree, beside one without a tree.
async fn restart(replica: Replica, dir: &Path) {
    fill(&replica, 0..1).await;
    let begun = Instant::now();
    for number in 0..200_000 {
        put(&replica, number, set(7, 2, Context::new()), Durability::Memory).await;
    }
    println!("200,000 overwrites in {:?}", begun.elapsed());
    // The process goes on without a close: what follows is the start after a crash.
    put(&replica, 0, set(7, 3, Context::new()), Durability::Group).await;
    let copies =
        [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    for copy in &copies {
        copy_dir(dir, copy.path());
    }
    for (on, copy) in [true, false].into_iter().zip(&copies) {
        let begun = Instant::now();
        let replica = open(copy.path(), on);
        println!(
            "start with the tree {}: {:?}, {} records replayed, {} chunks in doubt",
            if on { "on" } else { "off" },
            begun.elapsed(),
            replica.store().recovery().replayed_records,
            if on { replica.trees().tree().doubtful(0).0 } else { 0 },
        );
        close(&replica).await;
    }
    close(&replica).await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// One exchange; the bytes of all messages with the heads of their frames.
async fn meet(one: &Replica, other: &Replica) -> (u64, kvasir_core::merkle::Tally) {
    let tree = one.trees().tree();
    let mut exchange = Exchange::new(tree, K, 0..1 << K, Limits::default());
    let mut bytes = 0;
    loop {
        let mut step = exchange.next(tree);
        if let Step::List { spans, .. } = &step {
            let listed = one.list(spans, None, exchange.digests()).await.expect("a list");
            step = exchange.listed(listed);
        }
        match step {
            Step::Done => break,
            Step::List { .. } => unreachable!("told above"),
            Step::Ask { ask, .. } => {
                let answer = answer(other, &ask).await;
                let lengths = compare::encode(&ask).len() + compare::encode(&answer).len();
                bytes += lengths as u64 + 2 * HEAD_BYTES;
                exchange.answered(answer).expect("it fits");
            }
            Step::Merge { sets, .. } => exchange.merged(merge(one, &sets).await),
            Step::Read { places, .. } => {
                exchange.read(one.held_at(&places).await.expect("a read"));
            }
        }
    }
    assert!(exchange.compared().all(|(_, compared)| compared == Compared::Equal));
    (bytes, exchange.tally())
}

async fn answer(replica: &Replica, ask: &Ask) -> Answer {
    match ask {
        Ask::Sums { .. } => {
            respond::sums(replica.trees().tree(), ask, |_: Node| true).expect("it is sound")
        }
        Ask::Keys { bucket, pieces } => {
            replica.compare(pieces, bucket.as_ref()).await.expect("a comparison")
        }
        Ask::Store { sets } => {
            let merged = merge(replica, sets).await;
            let changed = (0..).zip(merged).filter(|(_, merged)| merged.changed);
            Answer::Stored { changed: changed.map(|(at, _)| at).collect(), pause_ms: 0 }
        }
    }
}

async fn merge(replica: &Replica, sets: &[Held]) -> Vec<Merged> {
    let mut waiting = Vec::new();
    for held in sets {
        let hash = key_hash(1, &held.bucket, &held.key);
        let key = TableKey::new(hash, &held.bucket, &held.key);
        let set = SiblingSet::decode(&held.set).expect("a set");
        let applied = replica.merge(&key, set, 1, Durability::Group).await.expect("a merge");
        waiting.push((key, held, applied));
    }
    let mut merged = Vec::new();
    for (key, held, applied) in waiting {
        applied.durable.await.expect("a sync");
        let same = replica.read(&key).await.expect("a read").encode() == held.set;
        let place = place(key.hash(), &held.bucket, &held.key);
        merged.push(Merged { place, changed: applied.out, same });
    }
    merged
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match Arguments::parse().word {
            Word::Writes { writes: count, turns, least, least_bare } => {
                for (way, least) in [(DURABLE, least), (BARE, least_bare)] {
                    let ratio = writes(way, count, turns).await;
                    assert!(ratio >= least, "{}: {ratio:.3} is below {least}", way.said);
                }
            }
            Word::Differences { keys } => differ(keys).await,
        }
    });
}
