//! A store written by version 1 of the formats opens for ever after, and answers what it answered then.
//!
//! `fixture/v1/store` was written once, by `write` below: tables of several levels,
//! packed and plain, a table in quarantine with its report, lost and dropped ranges, a log with puts,
//! erasures and a drop behind the last flush, an observer's state, the note of a scrub. `expected.txt`
//! has one line for each key. Never write it again: a change that cannot read it is a break, and needs a
//! new version beside the old one. `KVASIR_WRITE_FIXTURE=DIR` writes the fixture of a new version.

#![allow(clippy::unwrap_used)] // a failed call fails the test

use bytes::Bytes;
use kvasir_storage::{
    Change, Compression, Durability, Lane, Manual, Observer, ReadError, RealDisk, Store,
    StoreOptions, TableKey, Ticket,
};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const KEYS: u64 = 420;

fn key(number: u64) -> TableKey {
    TableKey::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"bucket", &number.to_be_bytes())
}

fn value(number: u64, round: u64) -> Bytes {
    let length = 10 + (number * 37 % 90) as usize;
    let bytes = number.to_be_bytes().into_iter().chain([round as u8]).cycle();
    bytes.take(length).collect::<Vec<u8>>().into()
}

/// Keeps a text and notes what it was given back.
#[derive(Default)]
struct Notes(Mutex<Option<Vec<u8>>>);

impl Observer for Notes {
    fn changed(&self, _key: &TableKey, _old: Option<&[u8]>, _new: Option<&[u8]>) {}

    fn dropped(&self, _from: &TableKey, _to: Option<&TableKey>) {}

    fn checkpoint(&self) -> Vec<u8> {
        b"what the observer kept".to_vec()
    }

    fn restore(&self, checkpoint: Option<&[u8]>) {
        *self.0.lock().unwrap() = checkpoint.map(<[u8]>::to_vec);
    }
}

struct Rig {
    store: Arc<Store>,
    work: Arc<Manual>,
    notes: Arc<Notes>,
}

impl Rig {
    fn open(dir: &Path, compression: Compression) -> Rig {
        let options = StoreOptions {
            memtable_bytes: 6_000,
            table_bytes: 3_000,
            block_bytes: 512,
            level0_tables: 2,
            level0_stop: 9,
            level1_bytes: 6_000,
            level_ratio: 3,
            log_segment_bytes: 4_000,
            scrub_interval_ms: 1_000,
            compression,
            ..StoreOptions::new(dir)
        };
        let (work, notes) = (Manual::new(), Arc::new(Notes::default()));
        let disk = Arc::new(RealDisk);
        let store = Store::open(options, disk, work.clone(), notes.clone()).unwrap();
        Rig { store, work, notes }
    }

    fn settle<T>(&self, ticket: Ticket<T>) -> T {
        while !ticket.is_ready() && self.work.run_all() > 0 {}
        ticket.wait()
    }

    fn change(&self, number: u64, change: Change) {
        let update = self.store.update(&key(number), Durability::Group, |_| (change, ()));
        let applied = self.settle(update).unwrap();
        self.settle(applied.durable).unwrap();
    }

    /// Runs lookups only.
    fn read<T>(&self, ticket: Ticket<T>) -> T {
        while !ticket.is_ready() && self.work.run_one(Lane::Read) {}
        ticket.wait()
    }

    fn flush(&self) {
        self.settle(self.store.flush()).unwrap();
        self.work.run_all();
    }

    fn drop_part(&self, part: u64) {
        let (from, to) = (TableKey::first_of(part << 60), TableKey::first_of((part + 1) << 60));
        self.store.drop_range(&from, Some(&to), Durability::Group).wait().unwrap();
    }

    /// One line for each key.
    fn answers(&self) -> String {
        let mut text = String::new();
        for number in 0..KEYS {
            let told = match self.read(self.store.get(&key(number))) {
                Ok(None) => "absent".to_string(),
                Ok(Some(found)) => match (0..4).find(|round| value(number, *round) == found) {
                    Some(round) => format!("round {round}"),
                    None => format!("something else: {}", found.escape_ascii()),
                },
                Err(ReadError::Lost) => "lost".to_string(),
                Err(other) => format!("error: {other}"),
            };
            let _ = writeln!(text, "{number} {told}");
        }
        text
    }
}

/// Writes the fixture; by hand, once for each version.
fn write(dir: &Path) {
    let home = dir.join("store");
    let rig = Rig::open(&home, Compression::Lz4);
    (0..300).for_each(|number| rig.change(number, Change::Put(value(number, 0))));
    rig.flush();
    rig.settle(rig.store.close()).unwrap();
    let rig = Rig::open(&home, Compression::None);
    (250..400).for_each(|number| rig.change(number, Change::Put(value(number, 1))));
    (0..400).step_by(9).for_each(|number| rig.change(number, Change::Erase));
    rig.flush();
    rig.settle(rig.store.close()).unwrap();
    // Rot in the largest table, met by lookups.
    let tables = fs::read_dir(home.join("tables")).unwrap().map(|entry| entry.unwrap().path());
    let tables = tables.filter(|path| path.extension().is_some_and(|end| end == "table"));
    let largest = tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[700] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let rig = Rig::open(&home, Compression::None);
    rig.answers();
    rig.work.run_all();
    assert_eq!(rig.store.stats().quarantined_tables, 1);
    // A drop that the manifest names and tables are not rid of yet, then one that only the log has: from
    // here on nothing may merge.
    rig.drop_part(3);
    let flushed = rig.store.flush();
    while rig.work.run_one(Lane::Flush) {}
    flushed.wait().unwrap();
    for time_ms in [0, 2_000, 2_100] {
        rig.store.tick(time_ms);
        while rig.work.run_one(Lane::Idle) {}
    }
    for number in 380..KEYS {
        let change = if number == 401 { Change::Erase } else { Change::Put(value(number, 2)) };
        let update = rig.store.update(&key(number), Durability::Group, |_| (change, ()));
        // Not applied where the range is lost.
        if let Ok(applied) = rig.read(update) {
            applied.durable.wait().unwrap();
        }
    }
    rig.drop_part(9);
    fs::write(dir.join("expected.txt"), rig.answers()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = fs::copy(entry.path(), target).unwrap(),
        }
    }
}

#[test]
fn a_store_of_version_1_opens_and_answers_as_it_did() {
    if let Some(dir) = std::env::var_os("KVASIR_WRITE_FIXTURE") {
        write(Path::new(&dir));
    }
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/v1");
    let expected = fs::read_to_string(fixture.join("expected.txt")).unwrap();
    for told in ["round 0", "round 1", "round 2", "absent", "lost"] {
        assert!(expected.contains(told), "the fixture shows no {told}");
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    copy(&fixture.join("store"), &dir);
    let rig = Rig::open(&dir, Compression::Lz4);
    assert_eq!(rig.notes.0.lock().unwrap().as_deref(), Some(&b"what the observer kept"[..]));
    assert!(rig.store.recovery().replayed_records > 10);
    assert_eq!(rig.answers(), expected);
    let reports = rig.store.quarantine_reports();
    assert!(reports.len() == 1 && reports[0].1.is_ok(), "{reports:?}");
    // And it goes on: written by this version, read by it again.
    rig.flush();
    rig.change(401, Change::Put(value(401, 3)));
    rig.settle(rig.store.close()).unwrap();
    let rig = Rig::open(&dir, Compression::None);
    let now = rig.answers();
    let changed: Vec<_> = now.lines().zip(expected.lines()).filter(|(a, b)| a != b).collect();
    assert_eq!(changed, [("401 round 3", "401 absent")]);
}
