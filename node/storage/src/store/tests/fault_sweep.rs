//! Every call of an open, of a run and of a close fails, once or for ever: no panic, nothing lost that
//! was acknowledged, and a state that says what it is. `faults.rs` has the single cases.

use super::*;
use crate::disk::memory::{Crash, Fault};
use std::io::ErrorKind;

/// Errors of a broken disk, a full one and one that became read-only.
const ERRORS: [ErrorKind; 3] =
    [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem];

/// A store with tables in two levels, a log of several segments and a torn tail, as a crash leaves it.
fn left_by_a_crash() -> (MemoryDisk, Map) {
    let rig = Rig::new(tiny());
    for step in 0..90 {
        rig.put(step * 7 % 31, &value(step)).unwrap();
        if step % 20 == 19 {
            rig.flush();
        }
    }
    let all = rig.mirrored();
    let torn =
        rig.store.update(&key(1), Durability::Memory, |_| (Change::Put(value(5).into()), ()));
    drop(torn);
    (rig.disk.crash(Crash::Torn(512), 4), all)
}

/// What is stored, with key 1 left out, of which the last write was never acknowledged.
fn sure(mut map: Map) -> Map {
    map.remove(key(1).as_bytes());
    map
}

#[test]
fn each_call_of_an_open_fails_and_the_next_open_finds_everything() {
    let (left, all) = left_by_a_crash();
    let all = sure(all);
    for error in ERRORS {
        for (nth, for_ever) in (1..).flat_map(|nth| [(nth, false), (nth, true)]) {
            let disk = left.image(Crash::KeepAll, 0);
            let fault = if for_ever { Fault::from } else { Fault::once };
            disk.fail(fault(None, "", nth, error));
            let before = disk.total_calls();
            let opened = Rig::open(disk.clone(), tiny());
            let hit = disk.total_calls() - before >= nth;
            let context = format!("{error:?} at call {nth}, for ever: {for_ever}");
            match opened {
                Ok(rig) => {
                    rig.work.run_all();
                    disk.heal();
                    assert_eq!(sure(rig.scan()), all, "{context}");
                }
                Err(OpenError::Io(failure)) => assert_eq!(failure.kind, error, "{context}"),
                Err(other) => panic!("{context}: {other}"),
            }
            disk.heal();
            let again = Rig::open(disk.crash(Crash::Subset(512), nth), tiny());
            let again = again.unwrap_or_else(|error| panic!("{context}, then: {error}"));
            assert_eq!(sure(again.scan()), all, "{context}");
            assert_eq!(again.scan(), again.mirrored(), "{context}");
            again.put(500, b"goes on").unwrap();
            if !hit {
                assert!(nth > 20, "{nth}");
                break;
            }
        }
    }
}

#[test]
fn from_any_call_on_the_disk_fails_for_ever_and_nothing_acknowledged_is_lost() {
    for error in ERRORS {
        for nth in (1..).step_by(3) {
            let rig = Rig::new(tiny());
            let before = rig.disk.total_calls();
            rig.disk.fail(Fault::from(None, "", nth, error));
            let mut acknowledged = Map::new();
            for step in 0..60 {
                let number = step * 7 % 23;
                let stored = key(number).as_bytes().to_vec();
                // A write that was not acknowledged may be there or not.
                acknowledged.remove(&stored);
                match rig.put(number, &value(step)) {
                    Ok(()) => _ = acknowledged.insert(stored, value(step)),
                    // Each says what is wrong with the disk.
                    Err(WriteError::Read(_) | WriteError::Full(_) | WriteError::Failed(_)) => {}
                    Err(other) => panic!("{error:?} from call {nth} on: {other}"),
                }
                if step % 8 == 7 {
                    rig.store.tick(step * 3_000);
                    rig.work.run_all();
                }
            }
            let hit = rig.disk.total_calls() - before >= nth;
            let (failed, refusing) = (rig.store.failed(), rig.store.refusing());
            let context = format!("{error:?} from call {nth} on: {failed:?}, {refusing:?}");
            // It ends, well or not, and answers.
            let _ = rig.settle(rig.store.close());
            let again = Rig::open(rig.disk.crash(Crash::DropAll, nth), tiny());
            let again = again.unwrap_or_else(|error| panic!("{context}: {error}"));
            let found = again.scan();
            for (key, value) in &acknowledged {
                assert_eq!(found.get(key), Some(value), "{context}");
            }
            if !hit {
                assert!(nth > 60, "{nth}");
                break;
            }
        }
    }
}

#[test]
fn each_call_of_a_close_fails_and_nothing_is_lost() {
    for error in ERRORS {
        for nth in 1.. {
            let rig = Rig::new(tiny());
            for number in 0..8 {
                rig.put(number, &value(number)).unwrap();
            }
            assert!(rig.store.stats().memtable_bytes > 0, "the close has something to flush");
            let all = rig.mirrored();
            let before = rig.disk.total_calls();
            rig.disk.fail(Fault::once(None, "", nth, error));
            let closed = rig.settle(rig.store.close());
            rig.work.run_all();
            let hit = rig.disk.total_calls() - before >= nth;
            let context = format!("{error:?} at call {nth} of the close: {closed:?}");
            let again = Rig::open(rig.disk.crash(Crash::DropAll, nth), tiny());
            let again = again.unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(again.scan(), all, "{context}");
            if !hit {
                assert!(closed.is_ok() && nth > 3, "{context}");
                break;
            }
        }
    }
}

#[test]
fn a_store_on_a_full_disk_opens_or_says_so_and_loses_nothing() {
    let (left, all) = left_by_a_crash();
    let used: usize = left.paths().iter().map(|path| left.content(path).unwrap().len()).sum();
    for room in (0..4_000).step_by(100) {
        let disk = left.image(Crash::KeepAll, 0);
        disk.set_capacity(Some((used + room) as u64));
        match Rig::open(disk.clone(), tiny()) {
            Ok(rig) => {
                assert_eq!(sure(rig.scan()), sure(all.clone()), "{room}");
                let refused = (0..60).filter(|n| rig.put(600 + n, &value(*n)).is_err()).count();
                assert!(refused > 0, "{room}: there is no end to the space");
                assert_eq!(
                    rig.get(3).unwrap(),
                    all.get(key(3).as_bytes()).cloned().map(Bytes::from)
                );
                disk.heal();
                for time in [20_000, 40_000] {
                    rig.store.tick(time);
                    rig.work.run_all();
                }
                rig.put(700, b"again").unwrap();
            }
            Err(OpenError::Io(failure)) => assert!(failure.is_full(), "{room}: {failure}"),
            Err(other) => panic!("{room}: {other}"),
        }
        disk.heal();
        let again = Rig::open(disk.crash(Crash::DropAll, 0), tiny()).unwrap();
        let found = again.scan();
        assert!(
            sure(all.clone()).iter().all(|(key, value)| found.get(key) == Some(value)),
            "{room}"
        );
    }
}
