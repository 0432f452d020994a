//! A crash at every call of the disk: what was acknowledged at `group` is there afterwards, and
//! what is there is a prefix of what was applied.

use super::*;
use crate::disk::memory::Crash;

const STEPS: u64 = 160;

/// What the script did: the content after each step, and the last step that was acknowledged.
struct Run {
    states: Vec<Map>,
    acknowledged: usize,
}

/// A range that holds about half of all keys; every other one runs to the end.
fn arc(step: u64) -> (TableKey, Option<TableKey>) {
    let from = TableKey::first_of(step << 56);
    (from, step.is_multiple_of(2).then(|| TableKey::first_of((step << 56) | 1 << 63)))
}

/// A fixed mix of writes, with background work run at odd moments. Stops when the disk is gone.
fn script(rig: &Rig) -> Run {
    let (mut run, mut map) = (Run { states: vec![Map::new()], acknowledged: 0 }, Map::new());
    // The step that changed a key last.
    let mut changed: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut owed: Vec<(usize, Ticket<Result<(), WriteError>>)> = Vec::new();
    for step in 0..STEPS {
        if step % 37 == 20 {
            let (from, to) = arc(step);
            let durable = rig.store.drop_range(&from, to.as_ref(), Durability::Group);
            if rig.store.failed().is_some() {
                break;
            }
            map.retain(|key, _| !within(key, &from, to.as_ref()));
            run.states.push(map.clone());
            owed.push((run.states.len() - 1, durable));
            continue;
        }
        let (number, erase) = (step * 7 % 23, step % 5 == 3);
        let change = if erase { Change::Erase } else { Change::Put(value(step).into()) };
        let stored = key(number).as_bytes().to_vec();
        let changes = !erase || map.contains_key(&stored);
        match erase {
            true => _ = map.remove(&stored),
            false => _ = map.insert(stored.clone(), value(step)),
        }
        let update = rig.store.update(&key(number), Durability::Group, |_| (change, ()));
        let Ok(applied) = rig.settle(update) else { break };
        run.states.push(map.clone());
        // Whoever waits asks at once: that is what has the log written.
        applied.durable.is_ready();
        // Erasing what is not there relies on the last change of this key, not on other keys.
        if changes {
            changed.insert(stored.clone(), run.states.len() - 1);
        }
        let relies_on = changed.get(&stored).copied().unwrap_or(0);
        owed.push((relies_on, applied.durable));
        if step % 4 != 0 {
            rig.work.run_one(Lane::Sync);
        }
        if step % 3 == 0 {
            rig.work.run_all();
        }
        let mut waiting = Vec::new();
        for (at, ticket) in owed {
            match ticket.try_take() {
                Ok(Ok(())) => run.acknowledged = run.acknowledged.max(at),
                Ok(Err(_)) => {}
                Err(ticket) => waiting.push((at, ticket)),
            }
        }
        owed = waiting;
    }
    run
}

/// Opens an image and says why it breaks the promise, if it does.
fn judge(image: MemoryDisk, run: &Run) -> Result<usize, String> {
    let rig = Rig::open(image, tiny()).map_err(|error| format!("does not open: {error}"))?;
    let found = rig.scan();
    if found != rig.mirrored() {
        return Err("the observer is told something else than what is stored".into());
    }
    match run.states.iter().rposition(|state| *state == found) {
        Some(at) if at >= run.acknowledged => Ok(at),
        Some(at) => Err(format!("{at} steps are there, {} were acknowledged", run.acknowledged)),
        None => Err("what is there is no prefix of what was written".into()),
    }
}

const CRASHES: [(Crash, u64); 7] = [
    (Crash::DropAll, 1),
    (Crash::KeepAll, 1),
    (Crash::Process, 1),
    (Crash::Subset(512), 2),
    (Crash::Subset(4096), 2),
    (Crash::Torn(512), 2),
    (Crash::Torn(4096), 1),
];

/// Crashes at every `stride`-th call, into every kind of image. Gives the number of images.
fn sweep(skip: Option<&str>, stride: usize, recrash: bool) -> Result<usize, String> {
    let mut images = 0;
    for calls in (0..).step_by(stride) {
        let rig = Rig::new(tiny());
        rig.disk.skip_sync(skip);
        rig.disk.stop_after(calls);
        let run = script(&rig);
        for (crash, seeds) in CRASHES {
            for seed in 0..seeds {
                let seed = calls * 100 + seed;
                let context = |why| format!("crash at call {calls}, {crash:?}, seed {seed}: {why}");
                let image = rig.disk.image(crash, seed);
                image.skip_sync(skip);
                images += 1;
                if recrash {
                    // The second crash falls somewhere into the recovery from the first.
                    image.stop_after(seed % 29);
                    let _ = Rig::open(image.clone(), tiny()).map(|rig| rig.work.run_all());
                    let again =
                        image.image([Crash::DropAll, Crash::Subset(512)][seed as usize % 2], seed);
                    judge(again, &run).map_err(context)?;
                } else {
                    judge(image, &run).map_err(context)?;
                }
            }
        }
        if rig.store.failed().is_none() && run.states.len() as u64 > STEPS {
            return Ok(images);
        }
    }
    Ok(images)
}

#[test]
fn nothing_acknowledged_is_lost_at_any_call() {
    let images = sweep(None, 2, false).unwrap();

    assert!(images >= 5_000, "{images}");
}

#[test]
fn nothing_is_lost_when_recovery_crashes_too() {
    let images = sweep(None, 5, true).unwrap();
    assert!(images >= 300, "{images}");
}

#[test]
fn a_sync_left_out_is_found() {
    for end in ["", ".log", "/log", ".table", "/tables", ".observer", "MANIFEST.new", "/db"] {
        let found = sweep(Some(end), 1, false);
        assert!(found.is_err(), "leaving out the sync of {end:?} was not noticed");
    }
}

#[test]
fn a_store_goes_on_after_every_crash() {
    let rig = Rig::new(tiny());
    let run = script(&rig);
    rig.work.run_all();
    let (mut disk, mut last) =
        (rig.disk.crash(Crash::Torn(512), 3), judge(rig.disk.image(Crash::KeepAll, 0), &run));
    assert!(last.is_ok());
    for round in 0..40u64 {
        let rig = Rig::open(disk, tiny()).unwrap();
        for number in 0..6 {
            rig.put(number, &value(round * 10 + number)).unwrap();
        }
        rig.store.update(&key(1), Durability::Memory, |_| (Change::Put("maybe".into()), ()));
        disk = rig.disk.crash(
            [Crash::DropAll, Crash::Subset(512), Crash::Torn(512)][round as usize % 3],
            round,
        );
        let again = Rig::open(disk.image(Crash::KeepAll, 0), tiny()).unwrap();
        assert_eq!(again.get(5).unwrap(), Some(value(round * 10 + 5).into()));
        last = Ok(0);
    }
    assert!(last.is_ok());
}

#[test]
fn a_power_cut_under_four_writers_loses_nothing_acknowledged() {
    use crate::maintenance::Threads;
    for round in 0..12u64 {
        let (disk, threads) = (MemoryDisk::new(), Arc::new(Threads::start(2).unwrap()));
        let options = StoreOptions { memtable_bytes: 6_000, ..tiny() };
        let store = Store::open(
            options.clone(),
            Arc::new(disk.clone()),
            threads,
            Arc::new(Mirror::default()),
        );
        let store = store.unwrap();
        disk.stop_after(300 + round * 97);
        // Each writer counts its keys up; it knows the last count that was acknowledged.
        let acknowledged: Vec<BTreeMap<u64, u64>> = std::thread::scope(|scope| {
            let write = |writer: u64| {
                let store = &store;
                scope.spawn(move || {
                    let mut sure = BTreeMap::new();
                    for count in 1..2_000u64 {
                        let number = writer * 100 + count % 10;
                        let change = Change::Put(count.to_be_bytes().to_vec().into());
                        let update =
                            store.update(&key(number), Durability::Group, |_| (change, ()));
                        match update.wait().and_then(|applied| applied.durable.wait()) {
                            Ok(()) => _ = sure.insert(number, count),
                            Err(_) => break,
                        }
                    }
                    sure
                })
            };
            let writers: Vec<_> = (0..4).map(write).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        for crash in [Crash::DropAll, Crash::Subset(512), Crash::Torn(512)] {
            let rig = Rig::open(disk.image(crash, round), options.clone()).unwrap();
            assert_eq!(rig.scan(), rig.mirrored());
            for (number, count) in acknowledged.iter().flatten() {
                let found = rig.get(*number).unwrap().expect("it was acknowledged");
                assert!(
                    crate::sealed::u64_at(&found.iter().rev().copied().collect::<Vec<_>>(), 0)
                        >= *count
                );
            }
        }
        assert!(acknowledged.iter().map(BTreeMap::len).sum::<usize>() > 4, "not vacuous");
    }
}
