//! Checkpoints: a second store made of links.

use super::*;
use crate::disk::RealDisk;
use crate::disk::memory::{Crash, Fault, Op};
use crate::maintenance::Threads;
use crate::observer::NoObserver;
use std::io;

const COPY: &str = "/volume/backup/monday";

fn at(dir: &str) -> StoreOptions {
    StoreOptions { dir: dir.into(), ..tiny() }
}

#[test]
fn a_checkpoint_is_a_store_of_its_own_with_everything_up_to_the_call() {
    let rig = Rig::new(tiny());
    for number in 0..120 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.drop_range(&TableKey::first_of(1 << 62), Some(&TableKey::first_of(3 << 61))).unwrap();
    let taken = rig.mirrored();
    let made = rig.store.checkpoint(Path::new(COPY));
    let made = rig.settle(made).unwrap();
    assert_eq!((made.sequence, made.tables > 0 && made.bytes > 0), (121, true));
    for number in 0..200 {
        rig.put(number, b"later").unwrap();
    }
    rig.flush();
    let image = rig.disk.crash(Crash::DropAll, 0);
    let copy = Rig::open(image.clone(), at(COPY)).unwrap();
    assert_eq!((copy.scan(), copy.mirrored()), (taken.clone(), taken));
    assert_eq!(copy.store.recovery().replayed_records, 0);
    copy.put(1, b"its own").unwrap();
    copy.flush();
    let original = Rig::open(image, tiny()).unwrap();
    assert_eq!(original.get(1).unwrap(), Some("later".into()));
    assert_eq!(original.scan().len(), 200);
}

#[test]
fn a_checkpoint_cut_short_at_any_call_does_not_open_and_harms_nothing() {
    let mut whole = 0;
    for calls in 0..200 {
        let rig = Rig::new(tiny());
        for number in 0..40 {
            rig.put(number, &value(number)).unwrap();
        }
        rig.flush();
        rig.disk.stop_after(calls);
        let made = rig.store.checkpoint(Path::new(COPY));
        let made = rig.settle(made);
        for (crash, seed) in [(Crash::DropAll, 0), (Crash::Subset(512), calls), (Crash::KeepAll, 0)]
        {
            let image = rig.disk.image(crash, seed);
            match Rig::open(image.clone(), at(COPY)) {
                Ok(copy) => {
                    let found = copy.scan();
                    // Nothing of it was durable yet, or all of it was.
                    assert!(
                        found == rig.mirrored() || (found.is_empty() && made.is_err()),
                        "{calls}"
                    );
                    whole += usize::from(!found.is_empty());
                }
                Err(error) => assert!(made.is_err(), "call {calls}, {crash:?}: {error}"),
            }
            assert_eq!(Rig::open(image, tiny()).unwrap().scan(), rig.mirrored(), "{calls}");
        }
        if made.is_ok() {
            assert!(whole >= 3, "{whole}");
            return;
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_directory_in_use_and_a_failing_disk_are_refused_and_a_second_try_works() {
    let rig = Rig::new(tiny());
    for number in 0..40 {
        rig.put(number, &value(number)).unwrap();
    }
    let own = rig.store.checkpoint(Path::new(DIR));
    assert!(matches!(rig.settle(own), Err(WriteError::Checkpoint(_))));
    rig.disk.fail(Fault::once(Some(Op::Link), "", 2, io::ErrorKind::StorageFull));
    let failed = rig.store.checkpoint(Path::new(COPY));
    assert!(matches!(rig.settle(failed), Err(WriteError::Checkpoint(_))));
    let again = rig.store.checkpoint(Path::new("/volume/backup/tuesday"));
    rig.settle(again).unwrap();
    rig.put(77, b"it goes on").unwrap();
    rig.settle(rig.store.close()).unwrap();
    let closed = rig.store.checkpoint(Path::new("/volume/backup/late"));
    assert!(matches!(rig.settle(closed), Err(WriteError::Closed)));
}

#[test]
fn a_checkpoint_under_writers_on_real_files_is_a_prefix_of_each_writer() {
    let home = tempfile::tempdir().unwrap();
    let threads = Arc::new(Threads::start(2).unwrap());
    let open = |name: &str| {
        let options =
            StoreOptions { memtable_bytes: 30_000, dir: home.path().join(name), ..tiny() };
        Store::open(options, Arc::new(RealDisk), threads.clone(), Arc::new(NoObserver)).unwrap()
    };
    let store = open("db");
    let counter = |store: &Store, writer: u64| {
        let found = store.get(&key(writer)).wait().unwrap();
        found.map_or(0, |bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap()))
    };
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let store = &store;
            scope.spawn(move || {
                for count in 1..600u64 {
                    for number in [writer, 100 + writer * 1_000 + count] {
                        let change = Change::Put(count.to_be_bytes().repeat(20).into());
                        store
                            .update(&key(number), Durability::Memory, |_| (change, ()))
                            .wait()
                            .unwrap();
                    }
                }
            });
        }
        for round in 0..3 {
            let name = format!("copy{round}");
            let before = [counter(&store, 0), counter(&store, 1)];
            store.checkpoint(&home.path().join(&name)).wait().unwrap();
            let copy = open(&name);
            for writer in 0..2u64 {
                let count = counter(&copy, writer);
                assert!(count >= before[writer as usize]);
                for earlier in 1..count {
                    let number = 100 + writer * 1_000 + earlier;
                    assert!(copy.get(&key(number)).wait().unwrap().is_some(), "{number}");
                }
            }
            copy.close().wait().unwrap();
        }
    });
    store.close().wait().unwrap();
}
