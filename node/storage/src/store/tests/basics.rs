//! What a caller of the store may rely on, one promise a test.

use super::*;
use crate::disk::RealDisk;
use crate::disk::memory::Crash;
use crate::maintenance::Threads;
use crate::observer::NoObserver;
use crate::table::Compression;

#[test]
fn what_was_written_is_read_from_memory_tables_and_after_reopen() {
    let rig = Rig::new(tiny());
    for number in 0..200 {
        rig.put(number, &value(number)).unwrap();
    }
    for number in (0..200).step_by(3) {
        rig.erase(number).unwrap();
    }
    let check = |rig: &Rig| {
        for number in 0..210 {
            let stored = (number % 3 != 0 && number < 200).then(|| Bytes::from(value(number)));
            assert_eq!(rig.get(number).unwrap(), stored, "{number}");
        }
        assert_eq!(rig.scan(), rig.mirrored());
    };
    check(&rig);
    rig.flush();
    check(&rig);
    let stats = rig.store.stats();
    assert!(
        stats.flushes > 5 && stats.compactions > 2 && stats.tables_by_level.len() > 1,
        "{stats:?}"
    );
    let image = rig.disk.crash(Crash::DropAll, 0);
    check(&Rig::open(image, tiny()).unwrap());
}

#[test]
fn a_clean_close_loses_nothing_and_leaves_an_empty_replay() {
    let rig = Rig::new(tiny());
    for number in 0..50 {
        rig.change(number, Change::Put(value(number).into()), Durability::Memory).unwrap();
    }
    let pending = rig.store.update(&key(1), Durability::Group, |_| (Change::Keep, ()));
    let closed = rig.store.close();
    rig.settle(closed).unwrap();
    assert!(rig.settle(rig.settle(pending).unwrap().durable).is_ok(), "it is durable in a table");
    assert_eq!(rig.put(1, b"late"), Err(WriteError::Closed));
    assert_eq!(rig.get(1), Err(ReadError::Closed));
    assert_eq!(rig.settle(rig.store.close()), Err(WriteError::Closed));
    assert!(rig.disk.list(&Path::new(DIR).join("log")).unwrap().is_empty());
    let again = Rig::open(rig.disk.clone(), tiny()).unwrap();
    let recovery = *again.store.recovery();
    assert_eq!((recovery.replayed_records, recovery.torn_bytes, recovery.created), (0, 0, false));
    assert_eq!((again.scan().len(), again.scan()), (50, again.mirrored()));
}

/// Who keeps books in the closure would otherwise count what is not there.
#[test]
fn a_change_whose_closure_ran_is_there() {
    let rig = Rig::new(tiny());
    let engine = rig.store.engine.clone();
    let update = rig.store.update(&key(1), Durability::Memory, move |_| {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        engine.health.refuse(crate::error::IoFailure::new(Path::new(DIR), "append", &full));
        (Change::Put(b"counted".as_slice().into()), ())
    });
    assert!(rig.settle(update).is_ok());
    assert_eq!(rig.get(1).unwrap().as_deref(), Some(b"counted".as_slice()));
    let refused = rig.store.update(&key(1), Durability::Memory, |_| -> (Change, ()) {
        panic!("a closure ran though the store takes nothing")
    });
    assert!(matches!(rig.settle(refused), Err(WriteError::Full(_))));
}

#[test]
fn a_directory_has_one_store() {
    let rig = Rig::new(tiny());
    let second = Rig::open(rig.disk.clone(), tiny());
    assert!(matches!(second, Err(OpenError::Locked(dir)) if dir == Path::new(DIR)));
    rig.settle(rig.store.close()).unwrap();
    Rig::open(rig.disk.clone(), tiny()).unwrap();
}

#[test]
fn a_lookup_that_needs_the_disk_is_a_ticket_and_queues_updates_of_its_key() {
    let rig = Rig::new(StoreOptions { cache_bytes: 0, resident_bytes: 0, ..tiny() });
    rig.put(1, b"old").unwrap();
    rig.flush();
    let (first, second) = (rig.store.get(&key(1)), rig.store.get(&key(1)));
    assert!(!first.is_ready() && !second.is_ready());
    let updates: Vec<_> = (0..5u8)
        .map(|number| {
            rig.store.update(&key(1), Durability::Memory, move |old| {
                (Change::Put(vec![number].into()), old.map(<[u8]>::to_vec))
            })
        })
        .collect();
    assert!(updates.iter().all(|update| !update.is_ready()));
    assert!(
        rig.store.update(&key(2), Durability::Memory, |_| (Change::Keep, ())).is_ready()
            || rig.work.waiting(Lane::Read) > 0
    );
    let seen: Vec<_> =
        updates.into_iter().map(|update| rig.settle(update).unwrap().out.unwrap()).collect();
    assert_eq!(seen, [b"old".to_vec(), vec![0], vec![1], vec![2], vec![3]]);
    assert!(first.is_ready());
    assert_eq!(rig.store.stats().waiting_updates, 0);
}

#[test]
fn a_missing_key_costs_no_table_read_and_a_second_get_no_block() {
    let options = StoreOptions { cache_bytes: 1 << 20, resident_bytes: 1 << 20, ..tiny() };
    let rig = Rig::new(options);
    for number in 0..300 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    let before = rig.store.stats();
    for number in 1_000..2_000 {
        assert_eq!(rig.get(number).unwrap(), None);
    }
    let after = rig.store.stats();
    let (reads, probes) =
        (after.table_reads - before.table_reads, after.filter_negatives - before.filter_negatives);
    assert!(reads <= 10 && probes > 700, "{reads} table reads of {probes} probes");
    rig.get(7).unwrap();
    let before = rig.store.stats();
    assert!(rig.store.get(&key(7)).is_ready());
    let after = rig.store.stats();
    assert_eq!((after.cache_misses, after.pool_reads), (before.cache_misses, before.pool_reads));
}

#[test]
fn a_memtable_is_flushed_when_it_is_old() {
    let rig = Rig::new(StoreOptions { flush_age_ms: 1_000, ..tiny() });
    rig.store.tick(50);
    rig.put(1, b"x").unwrap();
    for (now, flushes) in [(900, 0), (1_049, 0), (1_050, 1), (9_000, 1)] {
        rig.store.tick(now);
        rig.work.run_all();
        assert_eq!(rig.store.stats().flushes, flushes, "at {now}");
    }
}

#[test]
fn a_keep_waits_for_the_write_that_it_relies_on() {
    let rig = Rig::new(tiny());
    let put = rig.store.update(&key(1), Durability::Memory, |_| (Change::Put("x".into()), ()));
    assert!(put.try_take().is_ok_and(|applied| applied.unwrap().durable.is_ready()));
    let keep = rig.store.update(&key(1), Durability::Group, |_| (Change::Keep, ()));
    let keep = keep.try_take().ok().unwrap().unwrap().durable;
    assert!(!keep.is_ready(), "the value that was kept is only in memory");
    rig.settle(keep).unwrap();
    let image = rig.disk.image(Crash::DropAll, 0);
    assert_eq!(Rig::open(image, tiny()).unwrap().get(1).unwrap(), Some("x".into()));
    let absent = rig.store.update(&key(2), Durability::Group, |_| (Change::Erase, ()));
    assert!(rig.settle(absent).unwrap().durable.is_ready());
}

#[test]
fn periodic_writes_are_synced_by_the_tick() {
    let rig = Rig::new(StoreOptions { periodic_sync_ms: 100, ..tiny() });
    rig.change(1, Change::Put("x".into()), Durability::Periodic).unwrap();
    let kept = |rig: &Rig| {
        let image = rig.disk.image(Crash::DropAll, 0);
        Rig::open(image, tiny()).unwrap().get(1).unwrap().is_some()
    };
    assert!(!kept(&rig));
    rig.store.tick(99);
    rig.work.run_all();
    assert!(!kept(&rig));
    rig.store.tick(100);
    rig.work.run_all();
    assert!(kept(&rig));
}

#[test]
fn memory_is_bounded_and_what_waits_is_let_in_later_or_refused() {
    let rig = Rig::new(StoreOptions { waiting_updates_max: 20, ..tiny() });
    let put = |number| {
        rig.store.update(&key(number), Durability::Memory, move |_| {
            (Change::Put(value(number).into()), ())
        })
    };
    let tickets: Vec<_> = (0..200).map(put).collect();
    let stats = rig.store.stats();
    assert!(stats.memtable_bytes < 4 * 1_500 && stats.waiting_updates == 20, "{stats:?}");
    let outcomes: Vec<_> =
        tickets.into_iter().map(|ticket| rig.settle(ticket).map(|_| ())).collect();
    let refused = outcomes.iter().filter(|o| **o == Err(WriteError::Overloaded)).count() as u64;
    assert_eq!(refused, rig.store.stats().refused);
    assert_eq!(rig.scan().len() as u64, 200 - refused);
    assert!(refused > 100 && rig.store.stats().stalls == 20);
}

#[test]
fn updates_are_let_in_by_the_pace_of_the_flush_before_memory_is_full() {
    let rig = Rig::new(StoreOptions { memtable_bytes: 20_000, level0_stop: 50, ..tiny() });
    let put = |number| {
        rig.store.update(&key(number), Durability::Memory, move |_| {
            (Change::Put(value(number).into()), ())
        })
    };
    let tickets: Vec<_> = (0..400).map(put).collect();
    let held = rig.store.stats();
    assert_eq!((held.immutable_memtables, held.flushes), (2, 0), "{held:?}");
    let active = held.memtable_bytes - 2 * 20_000;
    assert!((10_000..13_000).contains(&active), "it waits half way, not at the end: {held:?}");
    assert!(held.stalls > 50 && held.refused == 0, "{held:?}");
    // One flush lets more in, and nothing is left waiting when all work is done.
    assert!(rig.work.run_one(Lane::Flush));
    assert!(rig.store.stats().waiting_updates < held.waiting_updates);
    for ticket in tickets {
        rig.settle(ticket).unwrap();
    }
    assert_eq!((rig.scan().len(), rig.store.stats().waiting_updates), (400, 0));
}

#[test]
fn lookups_beyond_the_bound_are_refused() {
    let options =
        StoreOptions { cache_bytes: 0, resident_bytes: 0, waiting_reads_max: 3, ..tiny() };
    let rig = Rig::new(options);
    rig.put(1, b"x").unwrap();
    rig.flush();
    let tickets: Vec<_> = (0..5).map(|_| rig.store.get(&key(1))).collect();
    let update = rig.store.update(&key(1), Durability::Group, |_| (Change::Erase, ()));
    assert!(matches!(rig.settle(update), Err(WriteError::Overloaded)));
    let answers: Vec<_> = tickets.into_iter().map(|ticket| rig.settle(ticket)).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(Some("x".into()))).count(), 3);
    assert_eq!(answers.iter().filter(|answer| **answer == Err(ReadError::Overloaded)).count(), 2);
    assert_eq!(rig.get(1), Ok(Some("x".into())));
}

#[test]
fn a_snapshot_does_not_move() {
    let rig = Rig::new(tiny());
    for number in 0..60 {
        rig.put(number, &value(number)).unwrap();
    }
    let (snapshot, before) = (rig.store.snapshot(), rig.mirrored());
    for number in 0..120 {
        rig.put(number, b"new").unwrap();
    }
    for number in 0..30 {
        rig.erase(number).unwrap();
    }
    rig.flush();
    assert_eq!(rig.scan_in(&snapshot).unwrap(), before);
    assert_eq!(rig.scan(), rig.mirrored());
    let files = |rig: &Rig| rig.disk.list(&Path::new(DIR).join("tables")).unwrap().len();
    let held = files(&rig);
    drop(snapshot);
    rig.work.run_all();
    assert!(files(&rig) < held, "files wait for the last reader");
    assert_eq!(files(&rig) as u64, rig.store.stats().tables_by_level.iter().sum::<u64>() + 1);
}

#[test]
fn a_dropped_job_answers_and_frees_its_key() {
    let rig = Rig::new(StoreOptions { cache_bytes: 0, resident_bytes: 0, ..tiny() });
    rig.put(1, b"x").unwrap();
    rig.flush();
    let (get, update) = (
        rig.store.get(&key(1)),
        rig.store.update(&key(1), Durability::Group, |_| (Change::Erase, ())),
    );
    let queued = rig.store.update(&key(1), Durability::Group, |_| (Change::Erase, ()));
    rig.work.drop_all();
    assert_eq!(get.wait(), Err(ReadError::Abandoned));
    assert!(matches!(update.wait(), Err(WriteError::Abandoned)));
    assert!(matches!(queued.wait(), Err(WriteError::Abandoned)));
    assert_eq!(rig.store.stats().waiting_reads, 0);
    rig.put(1, b"y").unwrap();
}

#[test]
fn sixty_four_writers_of_one_key_see_each_other() {
    let home = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        memtable_bytes: 20_000,
        cache_bytes: 0,
        ..StoreOptions::new(home.path().join("db"))
    };
    let threads = Arc::new(Threads::start(2).unwrap());
    let open = || {
        Store::open(
            options.clone(),
            Arc::new(RealDisk),
            threads.clone(),
            Arc::new(Mirror::default()),
        )
        .unwrap()
    };
    let store = open();
    std::thread::scope(|scope| {
        for writer in 0..64u8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..10u8 {
                    let applied = store.update(&key(1), Durability::Group, move |old| {
                        let mut all = old.unwrap_or_default().to_vec();
                        all.extend([writer, round]);
                        (Change::Put(all.clone().into()), all)
                    });
                    let applied = applied.wait().unwrap();
                    assert!(applied.out.ends_with(&[writer, round]));
                    applied.durable.wait().unwrap();
                    let other = key(u64::from(writer) + 2);
                    let put = store.update(&other, Durability::Group, |_| {
                        (Change::Put(vec![7; 300].into()), ())
                    });
                    put.wait().unwrap().durable.wait().unwrap();
                }
            });
        }
    });
    let check = |store: &Store| {
        let all = store.get(&key(1)).wait().unwrap().unwrap();
        let mut seen: Vec<_> = all.chunks(2).map(<[u8]>::to_vec).collect();
        seen.sort();
        seen.dedup();
        assert_eq!((all.len(), seen.len()), (1280, 640), "no update was lost or doubled");
    };
    check(&store);
    let stats = store.stats();
    assert!(stats.log_syncs < 1_280, "{} syncs for 1,280 writes", stats.log_syncs);
    store.close().wait().unwrap();
    drop(store);
    check(&open());
}

/// Loads more than memory holds, with real threads and files, while readers read.
fn load(megabytes: u64, options: StoreOptions) -> StoreStats {
    let threads = Arc::new(Threads::start(2).unwrap());
    let open = || {
        let disk = Arc::new(RealDisk);
        Store::open(options.clone(), disk, threads.clone(), Arc::new(NoObserver)).unwrap()
    };
    let (store, count) = (open(), megabytes << 10);
    let content = |number: u64| Bytes::from(number.to_be_bytes().repeat(128));
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let store = &store;
            scope.spawn(move || {
                let mut owed = std::collections::VecDeque::new();
                for number in (writer..count).step_by(2) {
                    let change = Change::Put(content(number));
                    owed.push_back(store.update(&key(number), Durability::Group, |_| (change, ())));
                    if owed.len() == 32 {
                        let oldest = owed.pop_front().unwrap().wait().unwrap();
                        oldest.durable.wait().unwrap();
                    }
                }
                owed.into_iter().for_each(|ticket| ticket.wait().unwrap().durable.wait().unwrap());
            });
        }
    });
    let read_back = |store: &Store| {
        for number in (0..count).step_by(7) {
            assert_eq!(store.get(&key(number)).wait().unwrap(), Some(content(number)), "{number}");
        }
    };
    read_back(&store);
    let stats = store.stats();
    store.close().wait().unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.recovery().replayed_records, 0);
    read_back(&store);
    stats
}

#[test]
fn more_data_than_memory_is_loaded_and_read_back() {
    let home = tempfile::tempdir().unwrap();
    let megabytes = std::env::var("KVASIR_LOAD_MB").map_or(8, |mb| mb.parse().unwrap());
    let options = StoreOptions {
        memtable_bytes: 512 << 10,
        cache_bytes: 256 << 10,
        resident_bytes: 256 << 10,
        table_bytes: 512 << 10,
        level1_bytes: 2 << 20,
        ..StoreOptions::new(home.path().join("db"))
    };
    let stats = load(megabytes, options);
    assert!(stats.flushes >= megabytes && stats.compactions > 0, "{stats:?}");
    assert!(stats.memtable_bytes < 3 << 20 && stats.cache_bytes <= 256 << 10, "{stats:?}");
}

#[test]
fn erase_if_equal_erases_only_what_it_expects_and_its_erasure_survives_a_crash() {
    let rig = Rig::new(tiny());
    let erase = |rig: &Rig, number, expected: &'static [u8]| {
        let expected = Bytes::from_static(expected);
        let applied = rig.store.erase_if_equal(&key(number), expected, Durability::Group);
        let applied = rig.settle(applied).unwrap();
        rig.settle(applied.durable).unwrap();
        applied.out
    };
    for (number, flushed) in [(1, false), (2, true)] {
        rig.put(number, b"old").unwrap();
        if flushed {
            rig.flush();
        }
        assert!(!erase(&rig, number, b"older"), "a longer value is not equal");
        assert!(!erase(&rig, number, b""), "an empty value is not equal");
        assert_eq!(rig.get(number).unwrap().as_deref(), Some(&b"old"[..]));
        assert!(erase(&rig, number, b"old"));
        assert_eq!(rig.get(number).unwrap(), None);
        assert!(!erase(&rig, number, b"old"), "it is gone");
        assert!(!erase(&rig, number, b""), "nothing is not an empty value");
    }
    assert!(rig.mirrored().is_empty(), "the observer was told");
    // In key order behind a write of the same key that has not run yet: it judges what that leaves.
    let write = rig.store.update(&key(3), Durability::Group, |_| (Change::Put("new".into()), ()));
    let late = rig.store.erase_if_equal(&key(3), Bytes::from_static(b"new"), Durability::Group);
    rig.settle(write).unwrap();
    let late = rig.settle(late).unwrap();
    assert!(late.out);
    rig.settle(late.durable).unwrap();
    assert_eq!(rig.get(3).unwrap(), None);
    let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), tiny()).unwrap();
    for number in 1..=3 {
        assert_eq!(again.get(number).unwrap(), None, "{number} came back");
    }
}

#[test]
fn a_short_scan_that_need_not_wait_is_ready_at_once() {
    let rig = Rig::new(StoreOptions { cache_bytes: 0, resident_bytes: 0, ..tiny() });
    for number in 0..100 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    let (snapshot, from) = (rig.store.snapshot(), TableKey::first_of(0));
    let cold = rig.store.scan(&snapshot, &from, None, 20, 9_000);
    assert!(!cold.is_ready(), "the disk has it");
    let wanted = rig.settle(cold).unwrap();
    assert_eq!((wanted.entries.len(), wanted.next.is_some()), (20, true));
    rig.disk.set_warm_page_cache(true);
    let warm = rig.store.scan(&snapshot, &from, None, 20, 9_000);
    assert!(warm.is_ready());
    assert_eq!(warm.wait().unwrap(), wanted);
    assert!(!rig.store.scan(&snapshot, &from, None, 1_000, 9_000).is_ready(), "too long for here");
}

#[test]
fn a_flush_holds_back_while_a_lookup_waits_and_not_otherwise() {
    let rig = Rig::new(StoreOptions {
        memtable_bytes: 16 << 20,
        log_buffer_bytes: 16 << 20,
        compression: Compression::None,
        cache_bytes: 0,
        resident_bytes: 0,
        ..tiny()
    });
    let fill = || (10..14).for_each(|number| rig.put(number, &vec![1; 600_000]).unwrap());
    rig.put(1, b"far").unwrap();
    fill();
    rig.flush();
    assert_eq!(rig.store.stats().background_pauses, 0);
    fill();
    let waiting = rig.store.get(&key(1));
    let flushed = rig.store.flush();
    while rig.work.run_one(Lane::Flush) {}
    assert!(flushed.is_ready() && !waiting.is_ready());
    let pauses = rig.store.stats().background_pauses;
    assert!((1..=3).contains(&pauses), "{pauses}");
    assert_eq!(rig.settle(waiting).unwrap().unwrap(), "far");
}

#[test]
fn amplification_is_what_the_counters_say() {
    let rig = Rig::new(tiny());
    assert_eq!(rig.store.stats().space_amplification(), None);
    for number in (0..300).chain(0..100) {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    let stats = rig.store.stats();
    let (levels, largest) = (stats.bytes_by_level.clone(), stats.bytes_by_level.iter().max());
    assert_eq!(levels.iter().sum::<u64>(), stats.table_bytes);
    assert_eq!(levels.len(), stats.tables_by_level.len());
    let space = stats.table_bytes as f64 / *largest.unwrap() as f64;
    assert_eq!(stats.space_amplification(), Some(space));
    let tables = stats.flush_bytes_written + stats.compaction_bytes_written;
    let write = stats.write_amplification().unwrap();
    assert!(write > 1.5 && (write - 1.0) * stats.log_bytes_written as f64 > tables as f64 * 0.99);
    assert_eq!(stats.compaction_debt_bytes, 0, "compaction came to rest");
}

#[test]
fn a_put_looks_nothing_up_unless_the_observer_looks() {
    for blind in [false, true] {
        let mirror = Mirror { blind, ..Mirror::default() };
        let rig = Rig::open_with(MemoryDisk::new(), tiny(), mirror).unwrap();
        for number in 0..50 {
            rig.put(number, b"old").unwrap();
        }
        rig.flush();
        let before = rig.store.stats().table_reads;
        for number in 0..50 {
            let put = rig.store.put(&key(number), Bytes::from_static(b"new"), Durability::Group);
            rig.settle(rig.settle(put).unwrap().durable).unwrap();
        }
        assert_eq!(rig.store.stats().table_reads - before, if blind { 0 } else { 50 });
        for number in 0..50 {
            assert_eq!(rig.get(number).unwrap().as_deref(), Some(&b"new"[..]));
        }
        assert_eq!(rig.scan(), rig.mirrored());
        let large = rig.store.put(&key(1), Bytes::from(vec![0; 257 << 20]), Durability::Memory);
        assert!(matches!(rig.settle(large), Err(WriteError::TooLarge { .. })));
        assert_eq!(rig.get(1).unwrap().as_deref(), Some(&b"new"[..]));
    }
}

#[test]
fn a_put_waits_for_the_update_of_its_key_that_waits_for_the_disk() {
    let mirror = Mirror { blind: true, ..Mirror::default() };
    let rig = Rig::open_with(MemoryDisk::new(), StoreOptions { cache_bytes: 0, ..tiny() }, mirror)
        .unwrap();
    rig.put(1, b"first").unwrap();
    rig.flush();
    rig.disk.set_warm_page_cache(false);
    let append = rig.store.update(&key(1), Durability::Memory, |old| {
        (Change::Put([old.unwrap(), b", second"].concat().into()), ())
    });
    let put = rig.store.put(&key(1), Bytes::from_static(b"third"), Durability::Memory);
    assert!(!append.is_ready() && !put.is_ready());
    rig.settle(append).unwrap();
    rig.settle(put).unwrap();
    assert_eq!(rig.get(1).unwrap().as_deref(), Some(&b"third"[..]));
}
