//! What a failed or closed store still does: nothing that the next one has to pay for.

use super::*;
use crate::disk::memory::{Crash, Fault, Op};
use std::io::ErrorKind;
use std::path::PathBuf;

fn files(disk: &MemoryDisk, dir: &str, end: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(dir);
    let wanted = |path: &PathBuf| {
        path.parent() == Some(&dir) && path.extension().is_some_and(|found| found == end)
    };
    disk.paths().into_iter().filter(wanted).collect()
}

/// The directory of the manifest refuses a sync after the new manifest has its name: it may be the one
/// that is found, so nothing that it names may go.
#[test]
fn a_manifest_whose_sync_failed_keeps_its_tables() {
    let mut failed = 0;
    for nth in 1..40 {
        for op in [Op::SyncDir, Op::Rename] {
            let rig = Rig::new(tiny());
            rig.disk.fail(Fault::once(Some(op), "", nth, ErrorKind::Other));
            let mut acknowledged = Map::new();
            for step in 0..120 {
                let number = step * 7 % 53;
                let stored = key(number).as_bytes().to_vec();
                acknowledged.remove(&stored);
                if rig.put(number, &value(step)).is_ok() {
                    acknowledged.insert(stored, value(step));
                }
                if step % 10 == 9 {
                    rig.store.tick(step * 2_000);
                    rig.work.run_all();
                }
            }
            failed += u64::from(rig.store.failed().is_some());
            for crash in [Crash::Process, Crash::KeepAll, Crash::DropAll, Crash::Subset(512)] {
                let context = format!("{op:?} {nth}, {crash:?}: {:?}", rig.store.failed());
                let again = Rig::open(rig.disk.image(crash, nth), tiny());
                let again = again.unwrap_or_else(|error| panic!("{context}: {error}"));
                let found = again.scan();
                for (key, value) in &acknowledged {
                    assert_eq!(found.get(key), Some(value), "{context}");
                }
            }
        }
    }
    assert!(failed > 20, "{failed}");
}

/// A store whose close could not flush lets go of its directory; what it still has queued, and ticks that
/// come late, write nothing into what belongs to another by then.
#[test]
fn a_closed_store_writes_nothing_into_a_directory_that_has_a_new_owner() {
    let options = || StoreOptions { scrub_interval_ms: 1_000, ..tiny() };
    let rig = Rig::new(options());
    for number in 0..12 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.store.tick(1);
    // A scrub that comes to the manifest late.
    rig.store.tick(5_000);
    while rig.work.run_one(Lane::Flush) || rig.work.run_one(Lane::Compact) {}
    rig.put(12, &value(12)).unwrap();
    rig.disk.fail(Fault::once(Some(Op::Append), "tables", 1, ErrorKind::StorageFull));
    let closed = rig.store.close();
    for lane in [Lane::Sync, Lane::Flush, Lane::Compact, Lane::Flush, Lane::Compact] {
        while rig.work.run_one(lane) {}
    }
    assert!(matches!(closed.wait(), Err(WriteError::Full(_))));
    let next = Rig::open(rig.disk.clone(), options()).unwrap();
    for number in 0..40 {
        next.put(number, &value(number + 100)).unwrap();
    }
    next.flush();
    let before = files(&rig.disk, "tables", "table");
    for time in [6_000, 20_000, 40_000] {
        rig.store.tick(time);
        rig.work.run_all();
    }
    assert_eq!(files(&rig.disk, "tables", "table"), before);
    let after = Rig::open(rig.disk.crash(Crash::Process, 0), options()).unwrap();
    assert_eq!(after.scan(), next.mirrored());
}

/// The round of the scrub reaches the manifest only after the store was closed and opened by another.
#[test]
fn a_late_scrub_does_not_put_an_old_manifest_back() {
    let options = || StoreOptions { scrub_interval_ms: 1_000, ..tiny() };
    let rig = Rig::new(options());
    rig.put(1, &value(1)).unwrap();
    rig.flush();
    rig.store.tick(1);
    rig.store.tick(5_000);
    while rig.work.run_one(Lane::Idle) {}
    // All tables are read; the rest of the round is queued.
    rig.store.tick(9_000);
    assert_eq!(rig.work.waiting(Lane::Idle), 1);
    let closed = rig.store.close();
    while rig.work.run_one(Lane::Sync)
        || rig.work.run_one(Lane::Flush)
        || rig.work.run_one(Lane::Compact)
    {}
    closed.wait().unwrap();
    let next = Rig::open(rig.disk.clone(), options()).unwrap();
    for number in 0..40 {
        next.put(number, &value(number + 100)).unwrap();
    }
    next.flush();
    for _ in 0..9 {
        rig.work.run_one(Lane::Idle);
        rig.store.tick(9_000);
    }
    let after = Rig::open(rig.disk.crash(Crash::Process, 0), options()).unwrap();
    assert_eq!(after.scan(), next.mirrored());
}

/// Reading the sound part again fails where the first reading went well: then nothing is given up.
#[test]
fn a_read_error_while_the_sound_part_is_copied_costs_no_key() {
    let options =
        || StoreOptions { memtable_bytes: 40_000, cache_bytes: 0, resident_bytes: 0, ..tiny() };
    let filled = || {
        let rig = Rig::new(options());
        for number in 0..80 {
            rig.put(number, &value(number)).unwrap();
        }
        rig.flush();
        let table = files(&rig.disk, "tables", "table").remove(0);
        rig.disk.flip_bit(&table, 2_000, 3);
        rig
    };
    let lost = |rig: &Rig| {
        let stored = rig.mirrored();
        let is_lost = |number: &u64| match rig.get(*number) {
            Err(ReadError::Lost) => true,
            found => {
                let stored = stored.get(key(*number).as_bytes()).cloned().map(Bytes::from);
                assert_eq!(found.unwrap(), stored, "{number}");
                false
            }
        };
        (0..80).filter(is_lost).collect::<Vec<_>>()
    };
    let meet = |rig: &Rig| {
        (0..80).for_each(|number| {
            let met = rig.store.get(&key(number));
            while rig.work.run_one(Lane::Read) {}
            drop(met);
        });
    };
    let rig = filled();
    meet(&rig);
    rig.work.run_all();
    let expected = lost(&rig);
    assert!(!expected.is_empty() && expected.len() < 12);
    let mut failures = 0;
    for nth in 1.. {
        let rig = filled();
        meet(&rig);
        let before = rig.disk.calls(Op::Read);
        rig.disk.fail(Fault::once(Some(Op::Read), ".table", nth, ErrorKind::Other));
        rig.work.run_one(Lane::Compact);
        let hit = rig.disk.calls(Op::Read) - before >= nth;
        rig.disk.heal();
        failures += u64::from(rig.store.stats().quarantined_tables == 0);
        for time in [20_000, 40_000] {
            rig.store.tick(time);
            rig.work.run_all();
        }
        if rig.store.failed().is_none() {
            assert_eq!(lost(&rig), expected, "read {nth}");
        }
        let again = Rig::open(rig.disk.image(Crash::Process, 0), options()).unwrap();
        meet(&again);
        again.work.run_all();
        assert_eq!(lost(&again), expected, "read {nth}, after a restart");
        if !hit {
            break;
        }
    }
    assert!(failures > 5, "{failures}");
}

/// Segments of the log are numbered from 1 again after a clean close: two damaged ones of different days
/// have the same name.
#[test]
fn a_second_salvage_keeps_what_the_first_one_set_aside_and_its_own() {
    let options = || StoreOptions { memtable_bytes: 60_000, log_segment_bytes: 1_500, ..tiny() };
    let disk = MemoryDisk::new();
    disk.set_warm_page_cache(true);
    let mut kept = Vec::new();
    for day in 0..3 {
        // No mirror: a salvage leaves no state of it.
        let (work, observer) = (Manual::new(), Arc::new(crate::observer::NoObserver));
        let store = Store::open(options(), Arc::new(disk.clone()), work.clone(), observer).unwrap();
        for number in 0..40 {
            let put = move |_: Option<&[u8]>| (Change::Put(value(number + day).into()), ());
            store
                .update(&key(number), Durability::Group, put)
                .wait()
                .unwrap()
                .durable
                .wait()
                .unwrap();
        }
        work.drop_all();
        drop(store);
        let segment = files(&disk, "log", "log").remove(0);
        assert!(disk.flip_bit(&segment, 60, 1));
        let before = disk.content(&segment).unwrap();
        let told = salvage(Path::new(DIR), Arc::new(disk.clone()), true).unwrap();
        assert_eq!(told.set_aside.len(), 1, "{told:?}");
        kept.push((told.set_aside[0].clone(), before));
        for (path, content) in &kept {
            assert_eq!(disk.content(path).as_ref(), Some(content), "day {day}: {}", path.display());
        }
    }
}

#[test]
fn an_update_that_meets_damage_has_the_table_looked_at() {
    let rig = Rig::new(StoreOptions {
        memtable_bytes: 40_000,
        cache_bytes: 0,
        resident_bytes: 0,
        ..tiny()
    });
    for number in 0..80 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    rig.disk.set_warm_page_cache(true);
    let table = files(&rig.disk, "tables", "table").remove(0);
    rig.disk.flip_bit(&table, 2_000, 3);
    let refused = (0..80).filter(|number| rig.put(*number, b"x").is_err()).count();
    assert!(refused > 0);
    rig.work.run_all();
    assert_eq!(rig.store.stats().quarantined_tables, 1);
}

/// One span, named again and again, is one span; the list of its drops is not.
#[test]
fn drops_that_no_flush_carries_away_are_bounded() {
    let rig = Rig::new(tiny());
    let mut refused = 0;
    for _ in 0..6_000 {
        let dropped =
            rig.store.drop_range(&key(1), Some(&TableKey::first_of(u64::MAX)), Durability::Memory);
        refused += u64::from(dropped.wait() == Err(WriteError::Overloaded));
    }
    assert!(refused > 1_000, "{refused}");
    rig.store.tick(5_000);
    rig.work.run_all();
    rig.drop_range(&key(1), None).unwrap();
}

/// Blocks that a start after a crash reads when all of many keys were written over in an order.
fn blocks_read_by_a_replay(order: impl Fn(u64) -> u64) -> u64 {
    const KEYS: u64 = 600;
    let options = || StoreOptions {
        memtable_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        table_bytes: 1 << 20,
        ..tiny()
    };
    let rig = Rig::new(options());
    let mut keys: Vec<u64> = (0..KEYS).collect();
    for number in &keys {
        rig.put(*number, &value(*number)).unwrap();
    }
    rig.flush();
    keys.sort_by_key(|number| order(key(*number).hash()));
    for number in &keys {
        rig.put(*number, &value(number + 1)).unwrap();
    }
    let again = Rig::open(rig.disk.image(Crash::Process, 1), options()).unwrap();
    assert_eq!(again.store.recovery().replayed_records, KEYS);
    let read = again.store.stats().blocks_read;
    assert_eq!(again.scan(), again.mirrored());
    read
}

/// What each record replaced is looked up, for an observer that looks, with every block read once: it does
/// not matter in which order the keys were written.
#[test]
fn a_replay_reads_no_block_twice() {
    let in_order = blocks_read_by_a_replay(|hash| hash);
    let scattered = blocks_read_by_a_replay(|hash| hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert_eq!(scattered, in_order);
    assert!(in_order < 500, "{in_order} blocks for 600 keys, several of which lie in each");
}
