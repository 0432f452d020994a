//! Random operations with random options against a sorted map, reopened and killed in between.

use super::*;
use crate::disk::memory::Crash;
use crate::table::Compression;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u64, u64),
    Erase(u64),
    Get(u64),
    /// Applied but not waited for.
    Fire(u64, u64),
    Run(usize),
    Flush,
    Tick(u64),
    Scan,
    Snapshot,
    Drop(u64, Option<u64>),
    Close,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let keys = 0..40u64;
    prop_oneof![
        8 => (keys.clone(), any::<u64>()).prop_map(|(key, number)| Step::Put(key, number % 1_000)),
        3 => keys.clone().prop_map(Step::Erase),
        4 => keys.clone().prop_map(Step::Get),
        6 => (keys, any::<u64>()).prop_map(|(key, number)| Step::Fire(key, number % 1_000)),
        4 => (0..6usize).prop_map(Step::Run),
        1 => Just(Step::Flush),
        1 => (0..2_000u64).prop_map(Step::Tick),
        1 => Just(Step::Scan),
        1 => Just(Step::Snapshot),
        1 => (any::<u64>(), prop::option::of(any::<u64>())).prop_map(|(from, to)| Step::Drop(from, to)),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ]
}

fn options() -> impl Strategy<Value = StoreOptions> {
    let sizes = (500..4_000usize, 200..4_000u64, 0..9_000usize, 100..600usize, 300..3_000u64);
    let shape = (1..4usize, 2..5usize, 1..4usize, any::<bool>());
    (sizes, shape).prop_map(|(sizes, (level0, ratio, frozen, packed))| {
        let (memtable_bytes, log_segment_bytes, cache_bytes, block_bytes, table_bytes) = sizes;
        StoreOptions {
            memtable_bytes,
            log_segment_bytes,
            cache_bytes,
            block_bytes,
            compression: if packed { Compression::Lz4 } else { Compression::None },
            table_bytes,
            resident_bytes: cache_bytes / 4,
            level0_tables: level0,
            level0_stop: level0 + 3,
            level1_bytes: 3_000,
            level_ratio: ratio as u64,
            immutable_memtables_max: frozen,
            flush_age_ms: 1_000,
            ..StoreOptions::new(DIR)
        }
    })
}

/// The store, and what it must hold.
struct Run {
    rig: Rig,
    model: Map,
    options: StoreOptions,
    snapshots: Vec<(Snapshot, Map)>,
    fired: Vec<Ticket<Result<Applied<()>, WriteError>>>,
}

impl Run {
    fn set(&mut self, number: u64, value: Option<Vec<u8>>) {
        let key = key(number).as_bytes().to_vec();
        match value {
            Some(value) => self.model.insert(key, value),
            None => self.model.remove(&key),
        };
    }

    /// Every fired update has been applied, in order.
    fn catch_up(&mut self) {
        for ticket in std::mem::take(&mut self.fired) {
            self.rig.settle(self.rig.settle(ticket).unwrap().durable).unwrap();
        }
    }

    fn reopen(&mut self, disk: MemoryDisk) {
        self.snapshots.clear();
        self.rig = Rig::open(disk, self.options.clone()).unwrap();
        assert_eq!(self.rig.mirrored(), self.model);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(number, seed) => {
                self.catch_up();
                self.rig.put(number, &value(seed)).unwrap();
                self.set(number, Some(value(seed)));
            }
            Step::Erase(number) => {
                self.catch_up();
                self.rig.erase(number).unwrap();
                self.set(number, None);
            }
            Step::Fire(number, seed) => {
                let change = Change::Put(value(seed).into());
                self.fired
                    .push(self.rig.store.update(&key(number), Durability::Group, |_| (change, ())));
                self.set(number, Some(value(seed)));
            }
            Step::Get(number) => {
                self.catch_up();
                let stored = self.model.get(key(number).as_bytes()).cloned().map(Bytes::from);
                assert_eq!(self.rig.get(number).unwrap(), stored);
            }
            Step::Run(lane) => _ = self.rig.work.run_one(Lane::ALL[lane]),
            Step::Flush => _ = self.rig.store.flush(),
            Step::Tick(now) => self.rig.store.tick(now),
            Step::Scan => {
                self.catch_up();
                assert_eq!(self.rig.scan(), self.model);
                for (snapshot, map) in &self.snapshots {
                    assert_eq!(self.rig.scan_in(snapshot).unwrap(), *map);
                }
            }
            Step::Snapshot => {
                self.catch_up();
                self.snapshots.push((self.rig.store.snapshot(), self.model.clone()));
            }
            Step::Drop(from, to) => {
                self.catch_up();
                let (from, to) = (TableKey::first_of(from), to.map(TableKey::first_of));
                self.rig.drop_range(&from, to.as_ref()).unwrap();
                self.model.retain(|key, _| !within(key, &from, to.as_ref()));
                assert_eq!(self.rig.mirrored(), self.model);
            }
            Step::Close => {
                self.catch_up();
                self.rig.settle(self.rig.store.close()).unwrap();
                self.reopen(self.rig.disk.crash(Crash::DropAll, 0));
            }
            Step::Kill => {
                self.catch_up();
                self.reopen(self.rig.disk.crash(Crash::Process, 0));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_sorted_map_that_survives(options in options(), steps in prop::collection::vec(step(), 1..250)) {
        let rig = Rig::new(options.clone());
        let mut run = Run { rig, model: Map::new(), options, snapshots: vec![], fired: vec![] };
        for step in steps {
            run.take(step);
        }
        run.take(Step::Scan);
        prop_assert_eq!(run.rig.mirrored(), run.model);
    }
}
