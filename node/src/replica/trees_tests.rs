//! The tree over a store whose disk crashes, loses state and is salvaged.

use std::path::Path;
use std::sync::Arc;

use kvasir_core::version::{Actor, Context, Sibling, SiblingSet, Stamp};
use kvasir_storage::disk::memory::Crash;
use kvasir_storage::{Change, Durability, Manual, MemoryDisk, StoreOptions, salvage};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SECRET: [u8; 32] = [7; 32];
const ALL: Node = Node { depth: 0, index: 0 };

struct Open {
    trees: Arc<Trees>,
    store: Arc<Store>,
    work: Arc<Manual>,
}

impl Open {
    fn at(disk: &MemoryDisk, secret: Option<[u8; 32]>) -> Self {
        let trees = Arc::new(Trees::new(true, 16, secret, Planted::default()));
        let options = StoreOptions { memtable_bytes: 16 << 10, ..StoreOptions::new("db") };
        let work = Manual::new();
        let store =
            Store::open(options, Arc::new(disk.clone()), work.clone(), trees.clone()).unwrap();
        while work.run_all() > 0 {}
        Self { trees, store, work }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..10_000 {
            if let std::task::Poll::Ready(out) = work.as_mut().poll(&mut context) {
                return out;
            }
            self.work.run_all();
        }
        panic!("it never ends");
    }

    fn put(&self, number: u64, record: Option<Vec<u8>>) {
        let change = match record {
            Some(record) => Change::Put(record.into()),
            None => Change::Erase,
        };
        let update = self.store.update(&key(number), Durability::Group, move |_| (change, ()));
        let applied = self.run(update).unwrap();
        self.run(applied.durable).unwrap();
        while self.work.run_all() > 0 {}
    }

    /// The sum over everything that is stored, from the data.
    fn truth(&self) -> u64 {
        let snapshot = self.store.snapshot();
        let all =
            self.run(scan(&self.store, &snapshot, ALL, (None, None), (usize::MAX, usize::MAX)));
        let sum = |sum, (key, record): &(TableKey, bytes::Bytes)| {
            sum ^ self.trees.adds(key, Some(record))
        };
        all.unwrap().entries.iter().fold(0, sum)
    }

    fn look_at_doubts(&self) -> usize {
        let mut looked = 0;
        while let Some(chunk) = self.trees.tree().doubtful(0).1 {
            assert!(self.run(self.trees.look(&self.store, chunk)).unwrap().rebuilt);
            looked += 1;
        }
        looked
    }
}

fn key(number: u64) -> TableKey {
    TableKey::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"b", &number.to_be_bytes())
}

fn record(count: u64, padding: usize, counting: bool) -> Vec<u8> {
    let payload = Payload::Value { bytes: vec![b'v'; padding].into(), content_type: None };
    let actor = Actor { tag: 3, serial: 200 };
    let sibling = Sibling { stamp: Stamp(count), payload, expires_ms: None };
    let set = SiblingSet::delta(Context::new(), actor.dot(count), sibling);
    Record { set, counting: counting.then_some(actor) }.encode()
}

#[test]
fn a_crash_costs_no_rebuild_whatever_it_leaves() {
    for seed in 0..24 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut disk = MemoryDisk::new();
        for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(512), Crash::Torn(512)] {
            let open = Open::at(&disk, Some(SECRET));
            assert_eq!(open.trees.tree().doubtful(0).0, 0, "seed {seed}: a rebuild");
            assert_eq!(open.trees.tree().sum(ALL), open.truth(), "seed {seed} after a start");
            for count in 1..rng.random_range(1..120) {
                let erase = rng.random_range(0..8) == 0;
                let record = (!erase).then(|| record(count, rng.random_range(0..900), true));
                open.put(rng.random_range(0..60), record);
                if rng.random_range(0..60) == 0 {
                    let to = TableKey::first_of(1 << 62);
                    let dropped =
                        open.store.drop_range(&TableKey::first_of(0), Some(&to), Durability::Group);
                    open.run(dropped).unwrap();
                }
            }
            assert_eq!(open.trees.tree().sum(ALL), open.truth(), "seed {seed}");
            assert_eq!(open.trees.checked.load(Relaxed), 0);
            disk = disk.crash(crash, seed);
            open.work.drop_all();
        }
    }
}

#[test]
fn the_note_of_a_replica_does_not_count() {
    let (one, other) = (MemoryDisk::new(), MemoryDisk::new());
    let (one, other) = (Open::at(&one, Some(SECRET)), Open::at(&other, Some(SECRET)));
    one.put(1, Some(record(1, 10, true)));
    other.put(1, Some(record(1, 10, false)));
    assert_eq!(one.trees.tree().sum(ALL), other.trees.tree().sum(ALL));
    other.put(1, Some(record(2, 10, false)));
    assert_ne!(one.trees.tree().sum(ALL), other.trees.tree().sum(ALL));
}

#[test]
fn what_was_salvaged_or_kept_without_a_tree_is_read_again() {
    let disk = MemoryDisk::new();
    let open = Open::at(&disk, Some(SECRET));
    (0..200).for_each(|number| open.put(number, Some(record(1, 200, true))));
    let before = open.trees.tree().sum(ALL);
    open.run(open.store.close()).unwrap();
    while open.work.run_all() > 0 {}
    drop(open);
    salvage(Path::new("db"), Arc::new(disk.clone()), false).unwrap();
    let open = Open::at(&disk, Some(SECRET));
    assert!(!open.trees.tree().vouches(ALL), "what was lost is not known");
    assert_eq!(open.look_at_doubts(), 256);
    assert_eq!((open.trees.tree().sum(ALL), open.truth()), (before, before));
    assert_eq!(open.trees.rebuilt.load(Relaxed), 256);
    open.work.drop_all();
    drop(open);
    // Of another cluster, or before its secret was known.
    for secret in [Some([8; 32]), None] {
        let open = Open::at(&disk, secret);
        assert!(!open.trees.tree().vouches(ALL));
        open.trees.know(&SECRET);
        open.put(1, Some(record(2, 20, true)));
        open.look_at_doubts();
        assert_eq!(open.trees.tree().sum(ALL), open.truth());
        open.work.drop_all();
    }
}

#[test]
fn a_wrong_leaf_is_counted_named_and_mended() {
    let disk = MemoryDisk::new();
    let open = Open::at(&disk, Some(SECRET));
    (0..200).for_each(|number| open.put(number, Some(record(1, 20, true))));
    let hash = key(5).hash();
    open.trees.tree().toggle(hash, 0xbad);
    let (mut wrong, mut keys) = (Vec::new(), 0);
    for chunk in 0..open.trees.tree().chunk_count() {
        let looked = open.run(open.trees.look(&open.store, chunk)).unwrap();
        assert!(!looked.rebuilt);
        wrong.extend(looked.wrong);
        keys += looked.keys;
    }
    assert_eq!(wrong, [Node { depth: 16, index: (hash >> 48) as u32 }]);
    assert_eq!((open.trees.wrong.load(Relaxed), keys), (1, 200));
    assert_eq!(open.trees.tree().sum(ALL), open.truth());
    open.work.drop_all();
}

#[test]
fn a_tree_that_is_off_vouches_for_nothing_and_keeps_nothing() {
    let off = Trees::off();
    off.changed(&key(1), None, Some(&record(1, 1, false)));
    assert!(!off.looks() && !off.tree().vouches(ALL) && off.checkpoint().is_empty());
    assert_eq!(off.tree().sum(ALL), 0);
}
