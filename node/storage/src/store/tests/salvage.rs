//! Salvage: what refuses to open is opened, nothing sound is lost, nothing missing is called absent.

use super::*;
use crate::disk::memory::Crash;
use crate::observer::NoObserver;
use std::path::PathBuf;

const COUNT: u64 = 40;

fn options() -> StoreOptions {
    StoreOptions { memtable_bytes: 60_000, log_segment_bytes: 1_500, ..tiny() }
}

fn dir() -> &'static Path {
    Path::new(DIR)
}

/// Half of the keys in tables, all of them in several segments of the log.
fn filled() -> Rig {
    let rig = Rig::new(options());
    for number in 0..COUNT / 2 {
        rig.put(number, b"old").unwrap();
    }
    rig.flush();
    for number in 0..COUNT {
        rig.put(number, &value(number)).unwrap();
    }
    rig
}

fn logs(disk: &MemoryDisk) -> Vec<PathBuf> {
    let log = |path: &PathBuf| path.extension().is_some_and(|end| end == "log");
    disk.paths().into_iter().filter(log).collect()
}

/// Opens without the mirror, which insists on old values that may be gone.
fn reopen(disk: &MemoryDisk) -> (Arc<Store>, Arc<Manual>) {
    let work = Manual::new();
    let disk = Arc::new(disk.clone());
    (Store::open(options(), disk, work.clone(), Arc::new(NoObserver)).unwrap(), work)
}

fn get(store: &Store, work: &Manual, number: u64) -> Result<Option<Bytes>, ReadError> {
    let ticket = store.get(&key(number));
    while work.run_all() > 0 {}
    ticket.wait()
}

#[test]
fn a_bad_record_costs_what_is_missing_and_nothing_is_called_absent_or_old() {
    let rig = filled();
    let segments = logs(&rig.disk);
    assert!(segments.len() > 3);
    let (mut lost, mut kept) = (0, 0);
    for path in &segments {
        let length = rig.disk.content(path).unwrap().len() as u64;
        for offset in (0..length).step_by(11) {
            let disk = rig.disk.image(Crash::KeepAll, 0);
            disk.flip_bit(path, offset, 1);
            let refusal = Rig::open(disk.image(Crash::KeepAll, 0), options());
            let Err(refusal) = refusal.map(|_| ()) else { continue };
            assert!(refusal.to_string().contains("kvasir recover --quarantine"), "{refusal}");
            assert!(refusal.to_string().contains(&*path.to_string_lossy()), "{refusal}");
            let before = disk.content(path).unwrap();
            let told = salvage(dir(), Arc::new(disk.clone()), false).unwrap();
            let context = format!("{} byte {offset}: {told:?}", path.display());
            assert_eq!(told.set_aside.len(), 1, "{context}");
            assert_eq!(disk.content(&told.set_aside[0]).unwrap(), before, "{context}");
            assert_eq!(told.lost_ranges, u64::from(told.missing > 0), "{context}");
            let (store, work) = reopen(&disk.image(Crash::DropAll, 0));
            for number in 0..COUNT {
                match get(&store, &work, number) {
                    Err(ReadError::Lost) => lost += 1,
                    found => {
                        assert_eq!(found.unwrap(), Some(value(number).into()), "{context}");
                        kept += 1;
                    }
                }
            }
            assert_eq!(store.lost_ranges().len() as u64, told.lost_ranges, "{context}");
        }
    }
    assert!(lost > 100 && kept > 1_000, "{lost} {kept}");
}

#[test]
fn the_mark_ends_when_the_range_is_dropped_and_an_accepted_loss_leaves_none() {
    let rig = filled();
    let path = &logs(&rig.disk)[1];
    let bad = rig.disk.image(Crash::KeepAll, 0);
    bad.flip_bit(path, 60, 1);
    let disk = bad.image(Crash::KeepAll, 0);
    assert_eq!(salvage(dir(), Arc::new(disk.clone()), false).unwrap().missing, 1);
    let (store, work) = reopen(&disk);
    let dropped = store.drop_range(&TableKey::first_of(0), None, Durability::Group);
    while work.run_all() > 0 {}
    dropped.wait().unwrap();
    assert!(store.lost_ranges().is_empty());
    assert_eq!(get(&store, &work, 1).unwrap(), None);
    let disk = bad.image(Crash::KeepAll, 0);
    let told = salvage(dir(), Arc::new(disk.clone()), true).unwrap();
    assert_eq!((told.missing, told.lost_ranges), (1, 0));
    let (store, work) = reopen(&disk);
    let answers: Vec<_> = (0..COUNT).map(|number| get(&store, &work, number).unwrap()).collect();
    let wrong =
        answers.iter().zip(0..).filter(|(found, number)| **found != Some(value(*number).into()));
    assert_eq!(wrong.count(), 1, "the one whose record is gone shows what was there before");
}

#[test]
fn a_missing_segment_and_a_table_that_does_not_open_are_marked_too() {
    let rig = filled();
    let disk = rig.disk.image(Crash::KeepAll, 0);
    disk.remove(&logs(&disk)[1]).unwrap();
    let told = salvage(dir(), Arc::new(disk.clone()), false).unwrap();
    assert!(told.missing > 2 && told.lost_ranges == 1 && told.set_aside.is_empty(), "{told:?}");
    let disk = rig.disk.image(Crash::KeepAll, 0);
    let table = |path: &PathBuf| path.extension().is_some_and(|end| end == "table");
    let table = disk.paths().into_iter().find(table).unwrap();
    disk.flip_bit(&table, 3, 1);
    assert!(matches!(
        Rig::open(disk.image(Crash::KeepAll, 0), options()),
        Err(OpenError::Damaged(_))
    ));
    let told = salvage(dir(), Arc::new(disk.clone()), false).unwrap();
    assert_eq!((told.set_aside.len(), told.missing, told.lost_ranges), (1, 0, 1));
    let (store, work) = reopen(&disk);
    for number in 0..COUNT {
        // All were written again after the table, so all are newer than what it held.
        assert_eq!(get(&store, &work, number).unwrap(), Some(value(number).into()));
    }
}

#[test]
fn a_crash_at_any_call_of_a_salvage_loses_nothing_more() {
    let rig = filled();
    let bad = rig.disk.image(Crash::KeepAll, 0);
    bad.flip_bit(&logs(&bad)[1], 60, 1);
    let answers = |disk: &MemoryDisk| {
        let (store, work) = reopen(disk);
        (0..COUNT).map(|number| get(&store, &work, number)).collect::<Vec<_>>()
    };
    let disk = bad.image(Crash::KeepAll, 0);
    salvage(dir(), Arc::new(disk.clone()), false).unwrap();
    let expected = answers(&disk);
    for calls in 0..400 {
        let disk = bad.image(Crash::KeepAll, 0);
        disk.stop_after(calls);
        let done = salvage(dir(), Arc::new(disk.clone()), false).is_ok();
        for (crash, seed) in [(Crash::DropAll, 0), (Crash::KeepAll, 0), (Crash::Subset(512), calls)]
        {
            let image = disk.image(crash, seed);
            salvage(dir(), Arc::new(image.clone()), false).unwrap();
            assert_eq!(answers(&image), expected, "call {calls}, {crash:?}");
        }
        if done {
            return;
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_sound_store_is_left_as_it_is_and_a_bad_manifest_is_refused() {
    let rig = filled();
    let disk = rig.disk.image(Crash::KeepAll, 0);
    let told = salvage(dir(), Arc::new(disk.clone()), false).unwrap();
    assert_eq!((told.damages.len(), told.lost_ranges, told.missing), (0, 0, 0));
    let again = Rig::open(disk, options()).unwrap();
    assert_eq!(again.scan().len() as u64, COUNT);
    let disk = rig.disk.image(Crash::KeepAll, 0);
    disk.flip_bit(&dir().join("MANIFEST"), 40, 1);
    let refused = salvage(dir(), Arc::new(disk), false);
    assert!(matches!(refused, Err(crate::error::SalvageError::Open(OpenError::Damaged(_)))));
}

/// Whatever sound records stand before the damage, none at all too: it ends.
#[test]
fn a_log_with_nothing_sound_behind_the_damage_is_salvaged_too() {
    for kept in 0..4 {
        let disk = MemoryDisk::new();
        disk.set_warm_page_cache(true);
        let (work, observer) = (Manual::new(), Arc::new(NoObserver));
        let open = |work: Arc<Manual>| {
            Store::open(options(), Arc::new(disk.clone()), work, observer.clone()).unwrap()
        };
        let store = open(work.clone());
        for number in 0..6 {
            let put = move |_: Option<&[u8]>| (Change::Put(value(number).into()), ());
            let put = store.update(&key(number), Durability::Group, put);
            put.wait().unwrap().durable.wait().unwrap();
        }
        work.drop_all();
        drop(store);
        let segment = logs(&disk).remove(0);
        let bytes = disk.content(&segment).unwrap();
        let mut at = 36;
        for _ in 0..kept {
            at += 21 + crate::sealed::u32_at(&bytes, at + 4) as usize;
        }
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let mut bad = bytes.clone();
        bad[at..=end].iter_mut().for_each(|byte| *byte ^= 0x55);
        disk.plant(&segment, &bad);
        // A second segment says that the first was complete once.
        let head = crate::sealed::Kind { magic: *b"KVLOG\0\0\n", version: 1 };
        let head = crate::sealed::seal(&head, 2, &7u64.to_le_bytes());
        disk.plant(&segment.with_file_name("0000000000000002.log"), &head);
        let told = salvage(dir(), Arc::new(disk.clone()), false).unwrap();
        assert_eq!((told.records, told.missing, told.lost_ranges), (kept, 6 - kept, 1));
        let store = open(Manual::new());
        assert_eq!(store.lost_ranges().len(), 1, "it opens, and says what it lacks");
    }
}
