//! Range drops: what they hide, where they stand in the order of changes, how tables give space back.

use super::*;
use crate::disk::memory::Crash;

fn first(part: u64) -> TableKey {
    TableKey::first_of(part << 60)
}

/// Drops the sixteenth `part` of the ring.
fn drop_part(rig: &Rig, part: u64) {
    rig.drop_range(&first(part), (part < 15).then(|| first(part + 1)).as_ref()).unwrap();
}

fn in_part(key: &[u8], part: u64) -> bool {
    u64::from(key[0] >> 4) == part
}

fn filled(options: StoreOptions, count: u64) -> Rig {
    let rig = Rig::new(options);
    for number in 0..count {
        rig.put(number, &value(number)).unwrap();
    }
    rig
}

/// Lets flushes and merges do all they have to.
fn quiet(rig: &Rig, now_ms: u64) {
    for step in 0..3 {
        rig.store.tick(now_ms + step * 20_000);
        rig.work.run_all();
    }
}

#[test]
fn a_drop_hides_memory_and_tables_and_nothing_that_comes_later() {
    for flushed in [false, true] {
        let rig = filled(tiny(), 200);
        if flushed {
            rig.flush();
        }
        let (snapshot, before) = (rig.store.snapshot(), rig.mirrored());
        drop_part(&rig, 3);
        let mut model = before.clone();
        model.retain(|key, _| !in_part(key, 3));
        assert!(before.len() > model.len() + 4);
        assert_eq!((rig.scan(), rig.mirrored()), (model.clone(), model.clone()));
        assert_eq!(rig.scan_in(&snapshot).unwrap(), before, "taken before the drop");
        for number in 0..200 {
            let stored = model.get(key(number).as_bytes()).cloned().map(Bytes::from);
            assert_eq!(rig.get(number).unwrap(), stored);
        }
        let again = (0..200).find(|number| in_part(key(*number).as_bytes(), 3)).unwrap();
        let seen = rig.store.update(&key(again), Durability::Group, |old| {
            (Change::Put("new".into()), old.map(<[u8]>::to_vec))
        });
        assert_eq!(rig.settle(seen).unwrap().out, None, "an update sees that it is gone");
        rig.flush();
        assert_eq!(rig.get(again).unwrap(), Some("new".into()));
        for crash in [Crash::DropAll, Crash::Process] {
            let reopened = Rig::open(rig.disk.image(crash, 0), tiny()).unwrap();
            assert_eq!(reopened.scan(), rig.mirrored());
            assert_eq!(reopened.mirrored(), rig.mirrored());
        }
    }
}

#[test]
fn an_update_that_read_before_the_drop_does_not_bring_the_old_value_back() {
    let rig = filled(StoreOptions { cache_bytes: 0, resident_bytes: 0, ..tiny() }, 20);
    rig.flush();
    // The lookup waits for a reader; the drop comes first.
    let update = rig.store.update(&key(5), Durability::Group, |old| {
        let mut all = old.unwrap_or_default().to_vec();
        all.push(b'!');
        (Change::Put(all.into()), old.is_some())
    });
    assert!(!update.is_ready());
    let dropped = rig.store.drop_range(&first(0), None, Durability::Group);
    assert!(!rig.settle(update).unwrap().out);
    rig.settle(dropped).unwrap();
    assert_eq!(rig.get(5).unwrap(), Some("!".into()));
    assert_eq!((rig.scan().len(), rig.scan()), (1, rig.mirrored()));
}

#[test]
fn a_drop_between_the_lookup_and_the_change_is_seen_by_the_closure() {
    // Whatever the moment: 2 threads, one drops, one appends to a counter of its key.
    use crate::maintenance::Threads;
    let (disk, threads) = (MemoryDisk::new(), Arc::new(Threads::start(1).unwrap()));
    let mirror = Arc::new(Mirror::default());
    let store = Store::open(tiny(), Arc::new(disk), threads, mirror.clone()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                store.drop_range(&first(0), None, Durability::Memory).wait().unwrap();
            }
        });
        for round in 0..3_000u32 {
            let put = store.update(&key(u64::from(round % 3)), Durability::Memory, |old| {
                // The mirror asserts that `old` is what the observer was told last.
                (Change::Put(vec![1; old.map_or(1, |old| old.len() % 50 + 1)].into()), ())
            });
            put.wait().unwrap();
        }
    });
    assert!(store.failed().is_none());
    store.close().wait().unwrap();
}

#[test]
fn whole_tables_go_unread_and_cut_ones_are_rewritten_and_then_the_drop_is_forgotten() {
    // All in the last level, so that nothing but the drops makes work.
    let rig = filled(StoreOptions { level1_bytes: 1 << 20, ..tiny() }, 600);
    rig.flush();
    let before = rig.store.stats();
    assert!(before.tables_by_level.iter().sum::<u64>() > 20, "{before:?}");
    drop_part(&rig, 15);
    for part in 4..12 {
        drop_part(&rig, part);
    }
    quiet(&rig, 5_000);
    let after = rig.store.stats();
    assert!(after.table_bytes < before.table_bytes * 10 / 16, "{after:?}");
    let written = after.compaction_bytes_written - before.compaction_bytes_written;
    assert!(written < before.table_bytes / 4, "{written} bytes rewritten to drop 9 of 16 parts");
    let manifest = crate::manifest::Manifest::load(&rig.disk, Path::new(DIR)).unwrap().unwrap();
    assert!(manifest.drops.is_empty(), "{:?}", manifest.drops);
    assert_eq!(rig.scan(), rig.mirrored());
    let reopened = Rig::open(rig.disk.crash(Crash::DropAll, 0), tiny()).unwrap();
    assert_eq!((reopened.scan(), reopened.mirrored()), (rig.mirrored(), rig.mirrored()));
}

#[test]
fn a_drop_of_everything_leaves_no_table() {
    let rig = filled(tiny(), 300);
    rig.flush();
    rig.drop_range(&first(0), None).unwrap();
    rig.flush();
    quiet(&rig, 0);
    let stats = rig.store.stats();
    assert_eq!((stats.tables_by_level.iter().sum::<u64>(), stats.table_bytes), (0, 0));
    rig.settle(rig.store.close()).unwrap();
    let again = Rig::open(rig.disk.clone(), tiny()).unwrap();
    assert_eq!((again.scan().len(), again.store.recovery().replayed_records), (0, 0));
}

#[test]
fn a_drop_reaches_the_tables_by_itself_even_if_nothing_else_is_written() {
    let rig = filled(tiny(), 100);
    rig.flush();
    rig.store.tick(1_000);
    rig.drop_range(&first(0), None).unwrap();
    let flushes = rig.store.stats().flushes;
    rig.store.tick(1_900);
    rig.work.run_all();
    assert_eq!(rig.store.stats().flushes, flushes);
    rig.store.tick(2_000);
    rig.work.run_all();
    let stats = rig.store.stats();
    assert_eq!((stats.flushes, stats.table_bytes), (flushes + 1, 0));
}

#[test]
fn a_drop_that_was_never_synced_takes_nothing_with_it() {
    let rig = Rig::new(StoreOptions { level0_tables: 9, level0_stop: 20, ..tiny() });
    // A memtable that is full is written out after the drop, whose record is only in the buffer.
    let put = |number: u64| {
        let change = Change::Put(value(number).into());
        rig.store.update(&key(number), Durability::Group, |_| (change, ())).wait().unwrap()
    };
    let owed: Vec<_> = (0..12).map(put).collect();
    while rig.work.run_one(Lane::Sync) {}
    assert!(owed.into_iter().all(|applied| applied.durable.wait().is_ok()));
    let before = rig.mirrored();
    assert!(rig.store.stats().immutable_memtables > 0);
    rig.store.drop_range(&first(0), None, Durability::Memory).wait().unwrap();
    while rig.work.run_one(Lane::Flush) {}
    assert!(rig.store.stats().flushes > 0);
    let image = Rig::open(rig.disk.image(Crash::DropAll, 0), tiny()).unwrap();
    assert_eq!((image.scan(), image.mirrored()), (before.clone(), before));
}

#[test]
fn an_empty_or_too_long_range_and_a_closed_store_are_harmless() {
    let rig = filled(tiny(), 40);
    let before = rig.mirrored();
    rig.drop_range(&first(5), Some(&first(5))).unwrap();
    rig.drop_range(&first(9), Some(&first(2))).unwrap();
    assert_eq!(rig.scan(), before);
    let long = TableKey::new(1, b"b", &vec![0; 70_000]);
    assert!(matches!(rig.drop_range(&long, None), Err(WriteError::TooLarge { .. })));
    rig.settle(rig.store.close()).unwrap();
    assert!(matches!(rig.drop_range(&first(0), None), Err(WriteError::Closed)));
}
