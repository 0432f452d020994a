//! The log alone: modes, segments, crashes at every call, damage against torn tails.

use super::*;
use crate::disk::MemoryDisk;
use crate::disk::memory::{Crash, Fault, Op};
use crate::error::OpenError;
use std::collections::BTreeSet;

const DIR: &str = "/d/log";

fn key(number: u64) -> TableKey {
    TableKey::new(number, b"bucket", b"key")
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk
}

type Rig = (Arc<Log>, Arc<Health>);

fn log_after(disk: &MemoryDisk, segment_bytes: u64, last: u64, next_id: u64) -> Rig {
    let health = Arc::new(Health::default());
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    (Log::new(disk, DIR.into(), segment_bytes, health.clone(), last, next_id, vec![]), health)
}

fn log(disk: &MemoryDisk) -> Rig {
    log_after(disk, 1 << 20, 0, 1)
}

/// Appends a record and asks about it, as whoever waits for it does.
fn put(log: &Arc<Log>, durability: Durability) -> Appended {
    let number = log.last() + 1;
    let value = Bytes::from(vec![number as u8; 50]);
    let appended = log.append(&key(number), Some(&value), durability);
    appended.durable.is_ready();
    appended
}

fn replayed(disk: &MemoryDisk, floor: u64) -> Result<(Vec<u64>, replay::Replayed), OpenError> {
    let mut sequences = Vec::new();
    let all = replay::replay(disk, Path::new(DIR), floor, &mut |record| {
        let value = record::Logged::Put(Bytes::from(vec![record.sequence as u8; 50]));
        assert_eq!((record.key, record.change), (key(record.sequence), value));
        sequences.push(record.sequence);
        Ok(())
    })?;
    Ok((sequences, all))
}

fn to(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[test]
fn one_sync_serves_a_batch_and_each_mode_waits_for_its_own() {
    let disk = disk();
    let (log, _) = log(&disk);
    let memory = put(&log, Durability::Memory);
    assert!(memory.durable.is_ready() && !memory.schedule);
    let periodic = put(&log, Durability::Periodic);
    assert!(!periodic.durable.is_ready());
    assert!(!log.run());
    assert_eq!(periodic.durable.wait(), Ok(()));
    assert_eq!(log.figures.syncs.get(), 1, "only the segment's head");
    let grouped: Vec<Appended> = (0..10).map(|_| put(&log, Durability::Group)).collect();
    let keep = log.ticket(2, Durability::Group);
    assert!(!keep.is_ready(), "record 2 was written but never synced");
    assert!(!log.run());
    assert!(grouped.into_iter().all(|appended| appended.durable.wait() == Ok(())));
    assert_eq!((keep.wait(), log.figures.syncs.get()), (Ok(()), 2));
    assert!(log.ticket(12, Durability::Each).is_ready());
    let image = disk.image(Crash::DropAll, 0);
    assert_eq!(replayed(&image, 0).unwrap().0, to(12));
    assert_eq!(replayed(&image, 10).unwrap().0, [11, 12]);
}

#[test]
fn segments_end_by_size_or_on_demand_and_go_when_released() {
    let disk = disk();
    let (log, _) = log_after(&disk, 200, 0, 1);
    for _ in 0..20 {
        put(&log, Durability::Group);
        log.run();
    }
    let count = |disk: &MemoryDisk| replay::segments(disk, Path::new(DIR)).unwrap().len();
    let before = count(&disk);
    assert!(before > 4);
    log.new_segment_soon();
    put(&log, Durability::Group);
    log.run();
    assert_eq!(count(&disk), before + 1);
    log.release(20);
    assert_eq!((count(&disk), replayed(&disk, 20).unwrap().0), (1, vec![21]));
    log.finish(21);
    assert_eq!((count(&disk), log.figures.bytes_on_disk.get()), (0, 0));
}

#[test]
fn a_failed_sync_ends_acknowledgements_for_good() {
    let disk = disk();
    let (log, health) = log(&disk);
    disk.fail(Fault::once(Some(Op::Sync), "log", 2, io::ErrorKind::Other));
    let first = put(&log, Durability::Group);
    log.run();
    assert!(matches!(first.durable.wait(), Err(WriteError::Failed(_))));
    assert!(health.failed().unwrap().contains("sync"));
    let calls = disk.total_calls();
    let second = put(&log, Durability::Group);
    assert!(!log.run());
    assert!(matches!(second.durable.wait(), Err(WriteError::Failed(_))));
    assert_eq!(disk.total_calls(), calls, "nothing is tried again");
}

#[test]
fn a_full_disk_keeps_the_batch_and_goes_on_when_there_is_space() {
    let disk = disk();
    let (log, health) = log_after(&disk, 150, 0, 1);
    put(&log, Durability::Group);
    log.run();
    disk.set_capacity(Some(200));
    let failed: Vec<_> = (0..5).map(|_| put(&log, Durability::Group).durable).collect();
    assert!(!log.run());
    assert!(health.refusing().is_some() && health.failed().is_none());
    for ticket in failed {
        assert!(matches!(ticket.wait(), Err(WriteError::Full(_))));
    }
    assert_eq!(replayed(&disk.image(Crash::DropAll, 0), 0).unwrap().0, [1]);
    assert!(log.nudge(false) && !log.run(), "still full");
    disk.heal();
    assert!(log.nudge(true) && !log.run());
    assert!(health.refusing().is_none());
    assert_eq!(replayed(&disk.image(Crash::DropAll, 0), 0).unwrap().0, to(6));
}

#[test]
fn a_crash_at_any_call_keeps_a_prefix_with_everything_acknowledged() {
    let (mut images, mut torn) = (0, 0);
    for calls in 0.. {
        let disk = disk();
        let (log, health) = log_after(&disk, 600, 0, 1);
        let before = disk.total_calls();
        disk.stop_after(calls);
        let mut acknowledged = 0;
        for batch in 0..8 {
            let tickets: Vec<_> = (0..4)
                .map(|_| put(&log, [Durability::Group, Durability::Periodic][batch % 2]).durable)
                .collect();
            log.run();
            if batch % 2 == 0 && tickets.into_iter().all(|ticket| ticket.wait().is_ok()) {
                acknowledged = log.last();
            }
        }
        for seed in 0..8 {
            for crash in [
                Crash::DropAll,
                Crash::KeepAll,
                Crash::Subset(512),
                Crash::Subset(4096),
                Crash::Torn(512),
            ] {
                let image = disk.image(crash, seed);
                let (found, all) = replayed(&image, 0).unwrap();
                assert_eq!(found, to(found.len() as u64), "{calls} {crash:?} {seed}");
                assert!(found.len() as u64 >= acknowledged, "{calls} {crash:?} {seed}");
                torn += u64::from(all.torn_bytes > 0);
                images += 1;
                let again = replayed(&image.image(Crash::DropAll, 0), 0).unwrap();
                assert_eq!(
                    (again.0, again.1.torn_bytes),
                    (found, 0),
                    "a second start finds the same"
                );
            }
        }
        if health.failed().is_none() {
            assert!(calls < 200 && before < 10);
            break;
        }
    }
    assert!(images > 500 && torn > 50, "{images} {torn}");
}

#[test]
fn damage_before_the_tail_is_named_and_never_cut() {
    let disk = disk();
    let (log, _) = log_after(&disk, 600, 0, 1);
    for _ in 0..12 {
        put(&log, Durability::Group);
        log.run();
    }
    let ids = replay::segments(&disk, Path::new(DIR)).unwrap();
    assert!(ids.len() >= 2);
    for id in &ids {
        let path = segment_path(Path::new(DIR), *id);
        let whole = disk.content(&path).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let last_record = end - record::stored_bytes(&key(1), Some(&Bytes::from(vec![0; 50])));
        for offset in 0..whole.len() {
            let image = disk.image(Crash::KeepAll, 0);
            image.flip_bit(&path, offset as u64, (offset % 8) as u8);
            let in_tail = Some(id) == ids.last() && offset >= last_record;
            match replayed(&image, 0) {
                Ok((found, all)) => {
                    assert!(in_tail, "segment {id}, byte {offset}: damage was taken for a tail");
                    // A bit in the zeros behind the last record takes nothing away.
                    let last = if offset < end { 11 } else { 12 };
                    assert_eq!((found, all.torn_bytes > 0), (to(last), true));
                }
                Err(OpenError::Damaged(damage)) => {
                    assert!(!in_tail && damage.path == path && damage.offset <= offset as u64);
                    assert_eq!(image.content(&path).unwrap().len(), whole.len(), "nothing was cut");
                }
                Err(OpenError::NewerVersion { .. }) => panic!("a flipped version is damage"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_missing_segment_is_noticed_and_a_released_one_is_not() {
    let disk = disk();
    let (log, _) = log_after(&disk, 200, 0, 1);
    for _ in 0..12 {
        put(&log, Durability::Group);
        log.run();
    }
    let ids = replay::segments(&disk, Path::new(DIR)).unwrap();
    for id in &ids[..ids.len() - 1] {
        let image = disk.image(Crash::KeepAll, 0);
        image.remove(&segment_path(Path::new(DIR), *id)).unwrap();
        assert!(matches!(replayed(&image, 0), Err(OpenError::Damaged(_))), "segment {id}");
        assert_eq!(replayed(&image, 12).unwrap().0, [], "all of it is in tables");
    }
}

#[test]
fn a_damaged_segment_whose_every_record_is_in_tables_harms_nobody() {
    let disk = disk();
    let (log, _) = log_after(&disk, 200, 0, 1);
    for _ in 0..12 {
        put(&log, Durability::Group);
        log.run();
    }
    let ids = replay::segments(&disk, Path::new(DIR)).unwrap();
    let of = |id: u64| {
        let bytes = disk.content(&segment_path(Path::new(DIR), id)).unwrap();
        crate::sealed::u64_at(&bytes, crate::sealed::FRAME_BYTES)
    };
    let (bad, next) = (ids[1], of(ids[2]));
    for offset in 0..100 {
        let image = disk.image(Crash::KeepAll, 0);
        image.flip_bit(&segment_path(Path::new(DIR), bad), offset, 1);
        assert!(matches!(replayed(&image, next - 2), Err(OpenError::Damaged(_))), "{offset}");
        let (found, all) = replayed(&image, next - 1).unwrap();
        assert_eq!((found, all.last), ((next..=12).collect(), 12));
    }
}

#[test]
fn a_damaged_head_before_sound_records_is_no_torn_tail() {
    let disk = disk();
    let (log, _) = log(&disk);
    // One batch and one sync: none of the records says that anything was synced before it.
    put(&log, Durability::Memory);
    assert_eq!(put(&log, Durability::Group).durable.wait(), Ok(()));
    let path = segment_path(Path::new(DIR), 1);
    for offset in 0..segment::START as u64 {
        let image = disk.image(Crash::DropAll, 0);
        image.flip_bit(&path, offset, 1);
        assert!(replayed(&image, 0).is_err(), "offset {offset}");
        assert!(image.content(&path).is_some(), "a refusal takes nothing away");
    }
    assert_eq!(replayed(&disk.image(Crash::DropAll, 0), 0).unwrap().0, to(2));
}

#[test]
fn a_newer_segment_is_refused_by_version() {
    let disk = disk();
    let newer = crate::sealed::Kind { version: 2, ..segment::SEGMENT };
    let head = crate::sealed::seal(&newer, 1, &1u64.to_le_bytes());
    disk.plant(&segment_path(Path::new(DIR), 1), &head);
    assert!(matches!(replayed(&disk, 0), Err(OpenError::NewerVersion { found: 2, .. })));
}

#[test]
fn threads_append_while_batches_are_written() {
    let disk = disk();
    let (log, _) = log_after(&disk, 4_000, 0, 1);
    let (log, acknowledged) = (&log, Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let value = Bytes::from(vec![1; 50]);
                    let appended = log.append(&key(1), Some(&value), Durability::Group);
                    assert_eq!(appended.durable.wait(), Ok(()));
                    lock(&acknowledged).insert(appended.sequence);
                }
            });
        }
    });
    assert_eq!(lock(&acknowledged).len(), 800);
    assert!(log.figures.batches.get() <= 800);
    assert_eq!(disk.image(Crash::DropAll, 0).paths().len(), disk.paths().len());
}

#[test]
fn nothing_is_synced_that_nobody_asks_about() {
    let disk = disk();
    let (log, _) = log(&disk);
    let value = Bytes::from_static(b"v");
    let silent = log.append(&key(1), Some(&value), Durability::Group);
    assert!(!silent.schedule && !log.run());
    assert_eq!(log.figures.syncs.get(), 1, "only the segment's head");
    assert!(log.nudge(true) && !log.run());
    assert_eq!((log.figures.syncs.get(), silent.durable.is_ready()), (2, true));
    let waited = log.append(&key(2), Some(&value), Durability::Group);
    assert_eq!((waited.durable.wait(), log.figures.syncs.get()), (Ok(()), 3), "by this thread");
}

#[test]
fn a_task_is_woken_by_whoever_writes() {
    struct Flag(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let disk = disk();
    let (log, _) = log(&disk);
    let mut first = log.append(&key(1), None, Durability::Group).durable;
    let flag = Arc::new(Flag(false.into()));
    let waker = flag.clone().into();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(std::pin::Pin::new(&mut first).poll(&mut context).is_pending());
    let second = log.append(&key(2), None, Durability::Group).durable;
    assert_eq!((second.wait(), flag.0.load(Ordering::SeqCst)), (Ok(()), true));
    assert_eq!(std::pin::Pin::new(&mut first).poll(&mut context), std::task::Poll::Ready(Ok(())));
}

#[test]
fn after_its_end_a_log_answers_what_it_knows_and_nobody_waits_for_the_rest() {
    let disk = disk();
    let (log, _) = log(&disk);
    put(&log, Durability::Group);
    log.run();
    let (stored, lost) = (log.ticket(1, Durability::Group), put(&log, Durability::Group).durable);
    log.finish(0);
    assert_eq!((stored.wait(), lost.wait()), (Ok(()), Err(WriteError::Abandoned)));
    assert_eq!(replayed(&disk.image(Crash::DropAll, 0), 0).unwrap().0, [1]);
}

#[test]
fn tickets_of_a_log_that_is_gone_say_so() {
    let disk = disk();
    let (log, _) = log(&disk);
    let ticket = log.append(&key(1), None, Durability::Group).durable;
    log.abandon(None);
    assert_eq!(ticket.wait(), Err(WriteError::Abandoned));
}

#[test]
fn a_segment_is_filled_ahead_and_ends_with_its_last_record() {
    let disk = disk();
    let (log, _) = log_after(&disk, 4_000, 0, 1);
    for _ in 0..60 {
        put(&log, Durability::Group);
        log.run();
    }
    let ids = replay::segments(&disk, Path::new(DIR)).unwrap();
    let content = |id: &u64| disk.content(&segment_path(Path::new(DIR), *id)).unwrap();
    let (last, closed) = ids.split_last().unwrap();
    assert!(closed.len() == 1 && content(&closed[0]).last() != Some(&0));
    assert!(content(last).len() == 4_000 && content(last).last() == Some(&0));
    assert_eq!(disk.calls(Op::Fill), 2, "once for each segment");
    let (found, all) = replayed(&disk.image(Crash::DropAll, 0), 0).unwrap();
    assert_eq!((found, all.torn_bytes), (to(60), 0));
}
