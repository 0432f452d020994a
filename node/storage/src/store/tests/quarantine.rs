//! Damaged tables: what is lost is known, what is sound stays, and the rest of the store goes on.

use super::*;
use crate::disk::memory::{Crash, Fault, Op};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

const COUNT: u64 = 80;

/// One table of many blocks.
fn options() -> StoreOptions {
    StoreOptions { memtable_bytes: 40_000, cache_bytes: 0, resident_bytes: 0, ..tiny() }
}

fn one_table() -> (Rig, PathBuf) {
    let rig = Rig::new(options());
    for number in 0..COUNT {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    let table = tables(&rig.disk, "tables").remove(0);
    (rig, table)
}

fn tables(disk: &MemoryDisk, dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(dir);
    let within = |path: &PathBuf| path.parent() == Some(&dir);
    let table = |path: &PathBuf| path.extension().is_some_and(|end| end == "table");
    disk.paths().into_iter().filter(|path| within(path) && table(path)).collect()
}

/// The keys that answer "lost"; every other one must answer what was stored.
fn lost(rig: &Rig, stored: &Map) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for number in 0..COUNT + 20 {
        match rig.get(number) {
            Err(ReadError::Lost) => _ = lost.insert(number),
            found => {
                let stored = stored.get(key(number).as_bytes()).cloned().map(Bytes::from);
                assert_eq!(found.unwrap(), stored, "{number}");
            }
        }
    }
    lost
}

/// Meets the damage: the first lookup says so, the job that it starts sets the table aside.
fn provoke(rig: &Rig) {
    for number in 0..COUNT {
        let _ = rig.get(number);
    }
    rig.work.run_all();
}

#[test]
fn a_bad_block_costs_its_keys_and_no_others_and_the_mark_lasts_until_the_range_is_dropped() {
    let (rig, table) = one_table();
    let stored = rig.mirrored();
    rig.disk.flip_bit(&table, 2_000, 3);
    let first: Vec<_> = (0..COUNT).filter(|number| rig.get(*number).is_err()).collect();
    rig.work.run_all();
    let gone = lost(&rig, &stored);
    assert!(!gone.is_empty() && gone.len() < 12 && gone.is_superset(&first.into_iter().collect()));
    let stats = rig.store.stats();
    assert_eq!((stats.quarantined_tables, stats.damaged_tables, stats.lost_ranges), (1, 0, 1));
    assert_eq!((tables(&rig.disk, "quarantine").len(), rig.disk.content(&table)), (1, None));
    let reports = rig.store.quarantine_reports();
    let report = reports[0].1.clone().unwrap();
    assert!(report.contains("damaged at byte") && report.contains("may be lost"), "{report}");
    let path = tables(&rig.disk, "quarantine")[0].with_extension("report");
    for byte in 0..rig.disk.content(&path).unwrap().len() as u64 {
        for bit in 0..8 {
            rig.disk.flip_bit(&path, byte, bit);
            assert!(rig.store.quarantine_reports()[0].1.is_err(), "byte {byte} bit {bit}");
            rig.disk.flip_bit(&path, byte, bit);
        }
    }
    // Writes there are not applied either: they would build on what is not known.
    let one = *gone.first().unwrap();
    assert!(matches!(rig.put(one, b"x"), Err(WriteError::Read(ReadError::Lost))));
    assert!(matches!(rig.scan_in(&rig.store.snapshot()), Err(ReadError::Lost)));
    let rig = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert_eq!(lost(&rig, &stored), gone, "after a restart too");
    let ranges = rig.store.lost_ranges();
    assert_eq!(ranges.len(), 1);
    rig.drop_range(&ranges[0].from, ranges[0].to.as_ref()).unwrap();
    assert!(rig.store.lost_ranges().is_empty());
    for number in &gone {
        assert_eq!(rig.get(*number).unwrap(), None);
        rig.put(*number, &value(*number)).unwrap();
    }
    rig.flush();
    assert_eq!(rig.scan(), stored);
    let rig = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert!(rig.store.lost_ranges().is_empty());
    assert_eq!((rig.scan(), lost(&rig, &stored).len()), (stored.clone(), 0));
}

#[test]
fn something_newer_than_the_damaged_table_is_an_answer() {
    let (rig, table) = one_table();
    for number in (0..COUNT).step_by(2) {
        rig.put(number, b"new").unwrap();
    }
    rig.erase(1).unwrap();
    let stored = rig.mirrored();
    for offset in [700, 1_400, 2_100, 2_800, 3_500] {
        rig.disk.flip_bit(&table, offset, 3);
    }
    provoke(&rig);
    let gone = lost(&rig, &stored);
    // Keys that were never stored may lie in the range, too.
    let stored_once: Vec<_> = gone.iter().filter(|number| **number < COUNT).collect();
    assert!(!stored_once.is_empty(), "{gone:?}");
    assert!(stored_once.iter().all(|number| *number % 2 == 1 && **number != 1), "{gone:?}");
    rig.flush();
    assert_eq!(lost(&rig, &stored), gone);
}

#[test]
fn an_older_value_under_a_lost_one_is_not_shown() {
    let rig = Rig::new(StoreOptions { level0_tables: 9, level0_stop: 12, ..options() });
    for round in 0..2 {
        for number in 0..COUNT {
            rig.put(number, &value(number + round)).unwrap();
        }
        rig.flush();
    }
    let newest = tables(&rig.disk, "tables").pop().unwrap();
    rig.disk.flip_bit(&newest, 2_000, 3);
    let stored = rig.mirrored();
    provoke(&rig);
    assert!(!lost(&rig, &stored).is_empty());
}

#[test]
fn any_flipped_byte_is_met_and_set_aside_without_a_wrong_answer() {
    let (rig, table) = one_table();
    let stored = rig.mirrored();
    let length = rig.disk.content(&table).unwrap().len() as u64;
    let (mut set_aside, mut refused, mut unseen) = (0, 0, 0);
    for offset in (0..length).step_by(7) {
        let image = rig.disk.image(Crash::KeepAll, 0);
        image.flip_bit(&table, offset, (offset % 8) as u8);
        let Ok(again) = Rig::open(image, options()) else {
            refused += 1;
            continue;
        };
        provoke(&again);
        let gone = lost(&again, &stored);
        let stats = again.store.stats();
        assert_eq!(stats.damaged_tables, 0, "byte {offset}");
        assert!(gone.is_empty() || stats.lost_ranges > 0, "byte {offset}");
        set_aside += stats.quarantined_tables;
        unseen += u64::from(stats.quarantined_tables == 0);
        // Once more from what it left behind.
        let after = Rig::open(again.disk.crash(Crash::DropAll, 0), options()).unwrap();
        assert_eq!(lost(&after, &stored), gone, "byte {offset}");
    }
    assert!(set_aside > 500 && refused > 10 && unseen < 60, "{set_aside} {refused} {unseen}");
}

#[test]
fn a_crash_at_any_call_of_a_quarantine_loses_no_sound_key_and_invents_none() {
    for calls in 0..200 {
        let (rig, table) = one_table();
        let stored = rig.mirrored();
        rig.disk.flip_bit(&table, 2_000, 3);
        let first = (0..COUNT).find(|number| rig.get(*number).is_err()).unwrap();
        rig.work.run_all();
        let expected = lost(&rig, &stored);
        let (rig, table) = one_table();
        rig.disk.flip_bit(&table, 2_000, 3);
        // The lookup queues the job; the power goes while it runs.
        let met = rig.store.get(&key(first));
        rig.work.run_one(Lane::Read);
        assert!(matches!(met.wait(), Err(ReadError::Damaged(_))));
        rig.disk.stop_after(calls);
        rig.work.run_all();
        let done = rig.store.stats().quarantined_tables == 1;
        for (crash, seed) in [(Crash::DropAll, 0), (Crash::KeepAll, 0), (Crash::Subset(512), calls)]
        {
            let again = Rig::open(rig.disk.image(crash, seed), options()).unwrap();
            provoke(&again);
            assert_eq!(lost(&again, &stored), expected, "call {calls}, {crash:?}");
        }
        if done {
            return;
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_quarantine_that_fails_is_tried_again_and_a_read_error_is_no_damage() {
    let (rig, table) = one_table();
    rig.disk.flip_bit(&table, 2_000, 3);
    rig.disk.fail(Fault::once(Some(Op::Link), "quarantine", 1, io::ErrorKind::StorageFull));
    provoke(&rig);
    let stats = rig.store.stats();
    assert_eq!((stats.quarantined_tables, stats.damaged_tables), (0, 1));
    assert!(rig.store.failed().is_none());
    rig.store.tick(20_000);
    rig.work.run_all();
    let stats = rig.store.stats();
    assert_eq!((stats.quarantined_tables, stats.damaged_tables), (1, 0));

    let (rig, _) = one_table();
    rig.disk.fail(Fault::from(Some(Op::Read), ".table", 1, io::ErrorKind::Other));
    provoke(&rig);
    rig.disk.heal();
    assert!(lost(&rig, &rig.mirrored()).is_empty());
    assert_eq!(rig.store.stats().quarantined_tables, 0);
}

/// Wants old values, as an observer that keeps something does, so that a replay has to read the tables.
struct Onlooker;

impl crate::observer::Observer for Onlooker {
    fn changed(&self, _: &TableKey, _: Option<&[u8]>, _: Option<&[u8]>) {}

    fn dropped(&self, _: &TableKey, _: Option<&TableKey>) {}

    fn checkpoint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&self, _: Option<&[u8]>) {}
}

#[test]
fn replay_over_a_damaged_table_opens_and_keeps_what_the_log_holds() {
    let (rig, table) = one_table();
    for number in 0..COUNT {
        rig.put(number, b"in the log").unwrap();
    }
    rig.disk.flip_bit(&table, 2_000, 3);
    // The mirror would insist on old values that cannot be read.
    let (work, disk) = (Manual::new(), Arc::new(rig.disk.crash(Crash::DropAll, 0)));
    let store = Store::open(options(), disk, work.clone(), Arc::new(Onlooker)).unwrap();
    store.tick(1);
    work.run_all();
    let stats = store.stats();
    assert_eq!((stats.quarantined_tables, stats.lost_ranges), (1, 1));
    for number in 0..COUNT {
        assert_eq!(store.get(&key(number)).wait().unwrap(), Some("in the log".into()));
    }
}
