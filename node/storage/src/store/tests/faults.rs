//! Calls that fail, space that ends, bytes that rot.

use super::*;
use crate::disk::memory::{Crash, Fault, Op};
use std::io;

/// Writes a little of everything; gives what was acknowledged.
fn write_some(rig: &Rig) -> (Map, usize) {
    let (mut acknowledged, mut refused) = (Map::new(), 0);
    for step in 0..80 {
        let number = step * 7 % 23;
        let stored = key(number).as_bytes().to_vec();
        // An update that was not acknowledged may be there or not: only sure keys are kept.
        acknowledged.remove(&stored);
        match rig.put(number, &value(step)) {
            Ok(()) => _ = acknowledged.insert(stored, value(step)),
            Err(_) => refused += 1,
        }
        if step % 10 == 9 {
            rig.work.run_all();
            rig.store.tick(step * 2_000);
            rig.work.run_all();
        }
    }
    (acknowledged, refused)
}

fn assert_holds(found: &Map, acknowledged: &Map, context: &str) {
    for (key, value) in acknowledged {
        assert_eq!(found.get(key), Some(value), "{context}");
    }
}

#[test]
fn each_call_fails_once_and_nothing_acknowledged_is_lost() {
    for error in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for nth in 1.. {
            let rig = Rig::new(tiny());
            let before = rig.disk.total_calls();
            rig.disk.fail(Fault::once(None, "", nth, error));
            let (acknowledged, refused) = write_some(&rig);
            let hit = rig.disk.total_calls() - before >= nth;
            rig.disk.heal();
            let context = format!("{error:?} at call {nth}, failed: {:?}", rig.store.failed());
            // Reads go on, whatever happened to writes.
            assert_holds(&rig.scan(), &acknowledged, &context);
            if refused > 1 && error == io::ErrorKind::StorageFull && rig.store.failed().is_none() {
                assert!(refused < 20, "it recovers by itself: {context}");
            }
            let image = rig.disk.crash(Crash::DropAll, nth);
            let again =
                Rig::open(image, tiny()).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_holds(&again.scan(), &acknowledged, &context);
            if !hit {
                assert!(nth > 100, "{nth}");
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_poisons_and_nothing_is_acknowledged_after_it() {
    for nth in 1..40 {
        let rig = Rig::new(tiny());
        rig.disk.fail(Fault::once(Some(Op::Sync), "", nth, io::ErrorKind::Other));
        let mut failed_at = None;
        for step in 0..60 {
            let outcome = rig.put(step, &value(step));
            rig.work.run_all();
            assert!(outcome.is_err() || failed_at.is_none(), "acknowledged after {failed_at:?}");
            if failed_at.is_none() && rig.store.failed().is_some() {
                failed_at = Some(step);
            }
        }
        assert!(failed_at.is_some() || rig.disk.calls(Op::Sync) < nth, "sync {nth}");
        if failed_at.is_some() {
            assert!(matches!(rig.put(1, b"x"), Err(WriteError::Failed(_))));
            assert!(rig.get(0).is_ok(), "reads go on");
            assert!(matches!(rig.settle(rig.store.flush()), Err(WriteError::Failed(_))));
            assert!(matches!(rig.settle(rig.store.close()), Err(WriteError::Failed(_))));
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    for room in (0..6_000).step_by(150) {
        let rig = Rig::new(tiny());
        for number in 0..20 {
            rig.put(number, &value(number)).unwrap();
        }
        let used: usize =
            rig.disk.paths().iter().map(|path| rig.disk.content(path).unwrap().len()).sum();
        rig.disk.set_capacity(Some(used as u64 + room));
        let mut refused = 0;
        for number in 20..120 {
            match rig.put(number, &value(number)) {
                Ok(()) => {}
                Err(WriteError::Full(_)) => refused += 1,
                Err(other) => panic!("{room}: {other}"),
            }
            rig.work.run_all();
        }
        assert!(refused > 0 && rig.store.refusing().is_some(), "{room}");
        for number in 0..20 {
            assert_eq!(rig.get(number).unwrap(), Some(value(number).into()), "{room}");
        }
        rig.disk.heal();
        for time in [20_000, 40_000] {
            rig.store.tick(time);
            rig.work.run_all();
        }
        assert!(rig.store.refusing().is_none() && rig.store.failed().is_none(), "{room}");
        rig.put(999, b"again").unwrap();
        let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), tiny()).unwrap();
        assert_eq!(again.get(999).unwrap(), Some("again".into()));
        assert_eq!(again.scan(), again.mirrored());
    }
}

#[test]
fn a_read_only_disk_refuses_writes_and_serves_reads() {
    let rig = Rig::new(tiny());
    for number in 0..40 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.disk.set_read_only(true);
    assert!(matches!(rig.put(1, b"x"), Err(WriteError::Full(_))));
    assert!(matches!(rig.put(2, b"x"), Err(WriteError::Full(_))));
    assert_eq!(rig.get(30).unwrap(), Some(value(30).into()));
    rig.disk.set_read_only(false);
    rig.store.tick(1);
    rig.work.run_all();
    rig.put(2, b"y").unwrap();
    assert_eq!(
        rig.get(1).unwrap(),
        Some("x".into()),
        "kept in memory and logged when that was possible"
    );
}

#[test]
fn a_read_that_fails_is_never_absent() {
    let rig = Rig::new(StoreOptions { cache_bytes: 0, resident_bytes: 0, ..tiny() });
    for number in 0..60 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    rig.disk.fail(Fault::from(Some(Op::Read), ".table", 1, io::ErrorKind::Other));
    for number in 0..60 {
        assert!(matches!(rig.get(number), Err(ReadError::Io(_))));
    }
    let update = rig.store.update(&key(1), Durability::Group, |_| (Change::Put("x".into()), ()));
    assert!(matches!(rig.settle(update), Err(WriteError::Read(ReadError::Io(_)))));
    rig.disk.heal();
    assert_eq!(rig.get(1).unwrap(), Some(value(1).into()), "the failed update was not applied");
}

#[test]
fn a_flipped_bit_is_never_returned_as_data() {
    let rig = Rig::new(StoreOptions { memtable_bytes: 6_000, ..tiny() });
    for number in 0..40 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    for number in 40..50 {
        rig.put(number, &value(number)).unwrap();
    }
    let (whole, mut refused, mut failing) = (rig.mirrored(), 0, 0);
    let paths = rig.disk.paths();
    for path in paths.iter().filter(|path| !path.ends_with("LOCK")) {
        let length = rig.disk.content(path).unwrap().len() as u64;
        for offset in 0..length {
            let image = rig.disk.image(Crash::KeepAll, 0);
            image.flip_bit(path, offset, (offset % 8) as u8);
            let context = format!("{} byte {offset}", path.display());
            let Ok(again) = Rig::open(image, tiny()) else {
                refused += 1;
                continue;
            };
            let torn = again.store.recovery().torn_bytes > 0;
            for number in 0..50 {
                let stored = whole.get(key(number).as_bytes()).cloned().map(Bytes::from);
                match again.get(number) {
                    // The very last record of the log may pass for a torn tail.
                    Ok(None) if torn && number == 49 => {}
                    Ok(found) => assert_eq!(found, stored, "{context}"),
                    Err(ReadError::Damaged(damage)) => {
                        assert_eq!(&damage.path, path, "{context}");
                        failing += 1;
                    }
                    Err(ReadError::Lost) => {
                        assert!(again.store.stats().quarantined_tables == 1, "{context}");
                        failing += 1;
                    }
                    Err(other) => panic!("{context}: {other}"),
                }
            }
        }
    }
    assert!(refused > 100 && failing > 100, "{refused} {failing}");
}

#[test]
fn a_missing_file_is_damage_and_never_an_empty_store() {
    let rig = Rig::new(tiny());
    for number in 0..60 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    rig.settle(rig.store.close()).unwrap();
    for path in rig.disk.paths() {
        let image = rig.disk.image(Crash::KeepAll, 0);
        image.remove(&path).unwrap();
        assert!(
            matches!(Rig::open(image, tiny()), Err(OpenError::Damaged(_))),
            "{}",
            path.display()
        );
    }
}

#[test]
fn damage_stops_a_compaction_and_copies_nothing() {
    let rig = Rig::new(StoreOptions {
        memtable_bytes: 9_000,
        level0_tables: 4,
        level0_stop: 9,
        ..tiny()
    });
    for round in 0..3 {
        for number in 0..8 {
            rig.put(number, &value(round * 8 + number)).unwrap();
        }
        rig.flush();
    }
    let bad = rig
        .disk
        .paths()
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".table"))
        .unwrap();
    rig.disk.flip_bit(&bad, 60, 1);
    for number in 100..108 {
        rig.put(number, b"new").unwrap();
    }
    rig.flush();
    let after = rig.store.stats();
    let sound = rig.store.failed().is_none();
    assert!(after.quarantined_tables == 1 && after.damaged_tables == 0 && sound, "{after:?}");
    assert!(after.background_errors == 1, "the merge that met it failed: {after:?}");
    for round in 0..20 {
        let put = rig.put(200 + round, b"more");
        assert!(matches!(put, Ok(()) | Err(WriteError::Read(ReadError::Lost))));
        rig.flush();
    }
    let later = rig.store.stats();
    assert!(later.tables_by_level[0] < 5 && later.compactions > 0, "merging goes on: {later:?}");
    assert_eq!(rig.get(101).unwrap(), Some("new".into()));
    let lost = (0..24).filter(|number| rig.get(*number) == Err(ReadError::Lost)).count();
    assert!(lost > 0, "what was in the bad block is not called absent");
}

#[test]
fn a_panicking_observer_ends_the_store_and_nobody_hangs() {
    struct Panics;
    impl Observer for Panics {
        fn changed(&self, key: &TableKey, _old: Option<&[u8]>, _new: Option<&[u8]>) {
            assert!(key.hash() != super::key(3).hash(), "a planted panic");
        }
        fn dropped(&self, _from: &TableKey, _to: Option<&TableKey>) {}
        fn checkpoint(&self) -> Vec<u8> {
            vec![]
        }
        fn restore(&self, _checkpoint: Option<&[u8]>) {}
    }
    let work = Manual::new();
    let disk = Arc::new(MemoryDisk::new());
    let store = Store::open(tiny(), disk, work.clone(), Arc::new(Panics)).unwrap();
    let put =
        |number| store.update(&key(number), Durability::Group, |_| (Change::Put("x".into()), ()));
    let first = put(1).wait().unwrap().durable;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(put(3))));
    assert!(panicked.is_err() && store.failed().unwrap().contains("panicked"));
    store.tick(1);
    assert!(matches!(first.wait(), Err(WriteError::Failed(_))));
    assert!(matches!(put(4).wait(), Err(WriteError::Failed(_))));
    assert!(matches!(store.flush().wait(), Err(WriteError::Failed(_))));
    let closed = store.close();
    work.run_all();
    assert!(matches!(closed.wait(), Err(WriteError::Failed(_))));
}

#[test]
fn a_sync_that_hangs_shows_in_the_figures() {
    let rig = Rig::new(tiny());
    rig.store.tick(1_000);
    let put = rig.store.update(&key(1), Durability::Group, |_| (Change::Put("x".into()), ()));
    let durable = rig.settle(put).unwrap().durable;
    assert!(!durable.is_ready());
    rig.store.tick(8_000);
    assert_eq!(rig.store.stats().log_job_ms, 7_000);
    rig.settle(durable).unwrap();
    assert_eq!(rig.store.stats().log_job_ms, 0);
}

#[test]
fn a_full_disk_does_not_hang_flush_or_close() {
    let rig = Rig::new(tiny());
    for number in 0..5 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.disk.set_capacity(Some(10));
    for _ in 0..2 {
        assert!(matches!(rig.settle(rig.store.flush()), Err(WriteError::Full(_))));
    }
    assert!(matches!(rig.settle(rig.store.close()), Err(WriteError::Full(_))));
    rig.disk.heal();
    let again = Rig::open(rig.disk.clone(), tiny()).unwrap();
    assert_eq!(again.scan().len(), 5);
}

#[test]
fn a_file_cut_at_any_length_is_damage_or_a_torn_tail() {
    let rig = Rig::new(StoreOptions { memtable_bytes: 4_000, ..tiny() });
    let mut states = vec![Map::new()];
    for number in 0..30 {
        rig.put(number, &value(number)).unwrap();
        states.push(rig.mirrored());
    }
    let (mut refused, mut torn) = (0, 0);
    for path in rig.disk.paths().into_iter().filter(|path| !path.ends_with("LOCK")) {
        let whole = rig.disk.content(&path).unwrap();
        let last_log =
            rig.disk.paths().into_iter().rfind(|p| p.to_string_lossy().ends_with(".log"));
        for length in 0..whole.len() {
            let image = rig.disk.image(Crash::KeepAll, 0);
            image.plant(&path, &whole[..length]);
            match Rig::open(image, tiny()) {
                Ok(again) => {
                    assert_eq!(Some(&path), last_log.as_ref(), "cut at {length}");
                    assert!(states.contains(&again.scan()), "a prefix of what was written");
                    torn += 1;
                }
                Err(OpenError::Damaged(_)) => refused += 1,
                Err(other) => panic!("{} cut at {length}: {other}", path.display()),
            }
        }
    }
    assert!(refused > 1_000 && torn > 100, "{refused} {torn}");
}
