//! What is kept for others: over a restart, at its cap, and while it is handed back.

use std::sync::Arc;

use bytes::Bytes;
use kvasir_core::handoff::Cap;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Durability;
use kvasir_core::version::{Actor, Context, Minter, Payload, Sibling, Stamp};
use kvasir_storage::{MemoryDisk, NoObserver, Store, StoreOptions, TableKey, Threads};

use super::*;
use crate::seam::Clock;

struct Still;

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        1_000
    }
}

fn store(disk: &MemoryDisk, dir: &str) -> Arc<Store> {
    let threads = Arc::new(Threads::start(1).unwrap());
    let disk = Arc::new(disk.clone());
    Store::open(StoreOptions::new(dir), disk, threads, Arc::new(NoObserver)).unwrap()
}

fn standins(disk: &MemoryDisk, tag: u64, cap: u64) -> StandIns {
    let minter = Arc::new(Minter::new(tag));
    let owned = (store(disk, "store"), Arc::new(crate::replica::Trees::off()));
    let owned = Arc::new(Replica::new(owned, minter, Arc::new(Still), Default::default()));
    owned.generation().reached(1);
    let (copies, hints) = (Cap { max_bytes: cap }, Cap { max_bytes: 200 });
    StandIns::new(store(disk, "standins"), owned, copies, hints)
}

fn order(value: &'static [u8]) -> Order {
    let payload = Payload::Value { bytes: Bytes::from_static(value), content_type: None };
    Order { context: Context::new(), payload, life: None, over: None }
}

fn key(name: &[u8]) -> TableKey {
    TableKey::new(9 << 50, b"bucket", name)
}

#[tokio::test]
async fn copies_outlive_the_process_and_only_equal_ones_are_erased() {
    let disk = MemoryDisk::new();
    let kept = standins(&disk, 1, 10_000);
    let refused = kept.mint(&key(b"k"), order(b"v"), Durability::Group).await;
    assert!(matches!(refused, Err(LocalError::NotCounted)), "nothing before the count");
    kept.count().await.unwrap();
    let first = kept.mint(&key(b"k"), order(b"v"), Durability::Group).await.unwrap();
    first.durable.await.unwrap();
    assert!(kept.owned.read(&key(b"k")).await.unwrap().context().is_empty(), "not owned data");
    let shelf = Shelf::of(&key(b"k"));
    let held = kept.piece(shelf, None).await.unwrap().entries;
    assert_eq!(held.len(), 1);
    kept.store.close().await.unwrap();
    kept.owned.store().close().await.unwrap();

    let again = standins(&disk, 2, 10_000);
    again.count().await.unwrap();
    assert_eq!(again.shelves().held(), kept.shelves().held());
    let set = again.read(&key(b"k")).await.unwrap();
    assert_eq!(set, first.out.set);
    again.merge(&key(b"k"), set, 1, Durability::Group).await.unwrap().durable.await.unwrap();
    assert_eq!(again.shelves().held(), kept.shelves().held(), "the same once more changes nothing");
    again.mint(&key(b"k"), order(b"w"), Durability::Group).await.unwrap();
    let (at, stored) = held[0].clone();
    assert!(!again.erase_copy(&at, stored).await.unwrap(), "it grew meanwhile");
    let (at, stored) = again.piece(shelf, None).await.unwrap().entries[0].clone();
    assert!(again.erase_copy(&at, stored).await.unwrap());
    assert_eq!(again.shelves().held(), Default::default());
    assert!(again.read(&key(b"k")).await.unwrap().context().is_empty());
}

#[tokio::test]
async fn at_the_cap_a_copy_is_refused_before_it_is_applied() {
    let disk = MemoryDisk::new();
    let kept = standins(&disk, 1, 300);
    kept.count().await.unwrap();
    kept.mint(&key(b"a"), order(b"v"), Durability::Group).await.unwrap();
    let mut refused = 0;
    for name in [b"b", b"c", b"d", b"e"] {
        match kept.mint(&key(name), order(b"v"), Durability::Group).await {
            Ok(_) => {}
            Err(LocalError::StandInsFull) => {
                refused += 1;
                assert!(kept.read(&key(name)).await.unwrap().context().is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    assert!(kept.shelves().held().0.bytes <= 300);
    let counted = kept.shelves().copies_refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, refused);
}

#[tokio::test]
async fn a_hint_renewed_while_it_is_handed_back_stays() {
    let disk = MemoryDisk::new();
    let kept = standins(&disk, 1, 10_000);
    kept.count().await.unwrap();
    let target = NodeId::from_bytes([7; 16]);
    let of = key(b"k");
    kept.hint(target, &of);
    let (at, old) = kept.piece(Shelf::of(&of), None).await.unwrap().entries[0].clone();
    assert_eq!(Entry::of(&at), Some(Entry::Hint { target, of: of.clone() }));
    assert_eq!(Hint::decode(&old).unwrap().since_ms, 1_000);
    kept.hint(target, &of);
    assert!(!kept.erase_hint(&at, old).await.unwrap());
    let (at, new) = kept.piece(Shelf::of(&of), None).await.unwrap().entries[0].clone();
    // The cap of these tests has room for one hint.
    kept.hint(target, &key(b"another"));
    assert_eq!(kept.shelves().held().1.entries, 1);
    let dropped = &kept.shelves().hints_overflowed;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(kept.erase_hint(&at, new).await.unwrap());
    assert_eq!(kept.shelves().held(), Default::default());
}

fn written(stamp_ms: u64, serial: u64, seen: Context) -> SiblingSet {
    let dot = Actor { tag: 99, serial }.dot(1);
    SiblingSet::delta(seen, dot, Sibling::value(Stamp::from_millis(stamp_ms), "v"))
}

#[tokio::test]
async fn who_stores_a_write_tells_what_stands_above_it() {
    let disk = MemoryDisk::new();
    let kept = standins(&disk, 1, 10_000);
    kept.count().await.unwrap();
    // The clock of these tests stands at one second; five minutes is too far ahead to be followed.
    let high = written(300_000, 1, Context::new());
    let low = written(2_000, 2, Context::new());
    let dot = Actor { tag: 99, serial: 1 }.dot(1);
    let stored = kept.merge(&key(b"k"), high.clone(), 0, Durability::Group).await.unwrap();
    assert_eq!(stored.out, None);
    let stored = kept.merge(&key(b"k"), low.clone(), 0, Durability::Group).await.unwrap();
    let above = stored.out.expect("the first one stands above it");
    assert_eq!((above.dots, above.stamp.millis()), (vec![dot], 300_000));
    let covering = written(3_000, 3, high.context().clone());
    let stored = kept.merge(&key(b"k"), covering, 0, Durability::Group).await.unwrap();
    assert_eq!(stored.out, None);
    // An owner tells the same of what it owns.
    let owner = &kept.owned;
    owner.apply(&key(b"k"), high, 0, Durability::Group).await.unwrap();
    let stored = owner.apply(&key(b"k"), low, 0, Durability::Group).await.unwrap();
    assert_eq!(stored.out.map(|above| above.dots), Some(vec![dot]));
    assert_eq!(owner.stamps(), (2, 2_000), "counted, and the near ones were followed");
}

#[tokio::test]
async fn a_write_over_all_covers_what_is_held_and_stands_above_it() {
    let disk = MemoryDisk::new();
    let kept = standins(&disk, 1, 10_000);
    kept.count().await.unwrap();
    let owner = &kept.owned;
    let (high, low) = (written(300_000, 1, Context::new()), written(500, 2, Context::new()));
    for held in [&high, &low] {
        owner.apply(&key(b"k"), held.clone(), 0, Durability::Group).await.unwrap();
    }
    let over = |stamp_ms| Order { over: Some(Stamp::from_millis(stamp_ms)), ..order(b"w") };
    let first = owner.mint(&key(b"k"), over(0), Durability::Group).await.unwrap().out;
    assert_eq!(first.set.siblings().len(), 1, "nothing is left beside it");
    assert_eq!(first.set.siblings()[&first.dot].stamp, Stamp::from_millis(300_000).next());
    let second = owner.mint(&key(b"k"), over(900_000), Durability::Group).await.unwrap().out;
    assert_eq!(second.set.siblings()[&second.dot].stamp, Stamp::from_millis(900_000).next());
    let beside = owner.mint(&key(b"k"), order(b"x"), Durability::Group).await.unwrap().out;
    assert_eq!(beside.set.siblings().len(), 2, "in other buckets a blind write covers nothing");
    assert_eq!(beside.set.siblings()[&beside.dot].stamp.millis(), 1_000);
}
