//! Tests of the store over the simulated disk; the observer is the first oracle.

mod aftermath;
mod basics;
mod checkpoint;
mod crash;
mod fault_sweep;
mod faults;
mod model;
mod quarantine;
mod random_crash;
mod ranges;
mod salvage;
mod scrub;
mod stuck;

use super::*;
use crate::disk::MemoryDisk;
use crate::guard::lock;
use crate::maintenance::{Lane, Manual};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

const DIR: &str = "/volume/db";

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// An observer that mirrors the store and refuses to be told anything that does not follow; a blind one
/// says that it does not look at old values, and is told of none where nobody looked them up.
#[derive(Default)]
struct Mirror {
    map: Mutex<Map>,
    blind: bool,
}

impl Observer for Mirror {
    fn changed(&self, key: &TableKey, old: Option<&[u8]>, new: Option<&[u8]>) {
        let mut map = lock(&self.map);
        let before = match new {
            Some(new) => map.insert(key.as_bytes().to_vec(), new.to_vec()),
            None => map.remove(key.as_bytes()),
        };
        let untold = self.blind && old.is_none();
        assert!(
            untold || before.as_deref() == old,
            "the old value of {key:?} is {before:?}, not {old:?}"
        );
    }

    fn looks(&self) -> bool {
        !self.blind
    }

    fn dropped(&self, from: &TableKey, to: Option<&TableKey>) {
        lock(&self.map).retain(|key, _| !within(key, from, to));
    }

    fn checkpoint(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in lock(&self.map).iter() {
            for part in [key, value] {
                out.extend_from_slice(&(part.len() as u32).to_le_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    }

    fn restore(&self, checkpoint: Option<&[u8]>) {
        let mut rest = checkpoint.unwrap_or_default();
        let mut part = || {
            let (length, tail) = rest.split_at_checked(4)?;
            let (part, tail) = tail.split_at(crate::sealed::u32_at(length, 0) as usize);
            rest = tail;
            Some(part.to_vec())
        };
        let mut map = Map::new();
        while let (Some(key), Some(value)) = (part(), part()) {
            map.insert(key, value);
        }
        *lock(&self.map) = map;
    }
}

fn within(key: &[u8], from: &TableKey, to: Option<&TableKey>) -> bool {
    key >= from.as_bytes() && to.is_none_or(|to| key < to.as_bytes())
}

/// A store on a simulated disk whose background work is run by hand.
struct Rig {
    disk: MemoryDisk,
    work: Arc<Manual>,
    mirror: Arc<Mirror>,
    store: Arc<Store>,
}

fn tiny() -> StoreOptions {
    StoreOptions {
        memtable_bytes: 1_500,
        log_segment_bytes: 2_000,
        cache_bytes: 8 << 10,
        resident_bytes: 1 << 10,
        block_bytes: 256,
        table_bytes: 1_000,
        level0_tables: 2,
        level0_stop: 5,
        level1_bytes: 4_000,
        level_ratio: 4,
        ..StoreOptions::new(DIR)
    }
}

impl Rig {
    fn open(disk: MemoryDisk, options: StoreOptions) -> Result<Rig, OpenError> {
        Rig::open_with(disk, options, Mirror::default())
    }

    fn open_with(
        disk: MemoryDisk,
        options: StoreOptions,
        mirror: Mirror,
    ) -> Result<Rig, OpenError> {
        let (work, mirror) = (Manual::new(), Arc::new(mirror));
        let store = Store::open(options, Arc::new(disk.clone()), work.clone(), mirror.clone())?;
        Ok(Rig { disk, work, mirror, store })
    }

    fn new(options: StoreOptions) -> Rig {
        Rig::open(MemoryDisk::new(), options).unwrap()
    }

    /// Runs background work until a ticket is there.
    fn settle<T>(&self, mut ticket: Ticket<T>) -> T {
        for _ in 0..10_000 {
            match ticket.try_take() {
                Ok(value) => return value,
                Err(waiting) => ticket = waiting,
            }
            if self.work.run_all() == 0 {
                self.store.tick(0);
            }
        }
        panic!("a ticket was never answered");
    }

    fn change(
        &self,
        number: u64,
        change: Change,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let applied = self.settle(self.store.update(&key(number), durability, |_| (change, ())))?;
        self.settle(applied.durable)
    }

    fn put(&self, number: u64, value: &[u8]) -> Result<(), WriteError> {
        self.change(number, Change::Put(Bytes::copy_from_slice(value)), Durability::Group)
    }

    fn erase(&self, number: u64) -> Result<(), WriteError> {
        self.change(number, Change::Erase, Durability::Group)
    }

    fn drop_range(&self, from: &TableKey, to: Option<&TableKey>) -> Result<(), WriteError> {
        self.settle(self.store.drop_range(from, to, Durability::Group))
    }

    fn get(&self, number: u64) -> Result<Option<Bytes>, ReadError> {
        self.settle(self.store.get(&key(number)))
    }

    fn flush(&self) {
        self.settle(self.store.flush()).unwrap();
        self.work.run_all();
    }

    /// Everything, by scanning in small chunks.
    fn scan(&self) -> Map {
        let snapshot = self.store.snapshot();
        self.scan_in(&snapshot).unwrap()
    }

    fn scan_in(&self, snapshot: &Snapshot) -> Result<Map, ReadError> {
        let (mut map, mut from) = (Map::new(), Some(TableKey::first_of(0)));
        while let Some(start) = from {
            let chunk = self.settle(self.store.scan(snapshot, &start, None, 7, 500))?;
            assert!(chunk.entries.len() <= 7 && chunk.entries.is_sorted());
            map.extend(chunk.entries.into_iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())));
            from = chunk.next;
        }
        Ok(map)
    }

    fn mirrored(&self) -> Map {
        lock(&self.mirror.map).clone()
    }
}

fn key(number: u64) -> TableKey {
    TableKey::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"bucket", &number.to_be_bytes())
}

/// A value of a length that depends on its number.
fn value(number: u64) -> Vec<u8> {
    let length = 10 + (number * 37 % 150) as usize;
    number.to_be_bytes().into_iter().cycle().take(length).collect()
}
