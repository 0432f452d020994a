//! Tests of the choices: each rule by example, and a simulation that runs whole loads through them.

use super::*;
use bytes::Bytes;
use std::collections::BTreeMap;

const KIB: u64 = 1 << 10;

fn limits() -> Limits {
    Limits { level0_tables: 4, base_bytes: 100, ratio: 10, table_bytes: 10 }
}

fn table(id: u64, first: u8, last: u8, bytes: u64) -> TableMeta {
    TableMeta {
        id: TableId(id),
        bytes,
        entries: 10,
        erasures: 0,
        first: Bytes::from(vec![first]),
        last: Bytes::from(vec![last]),
        min_seq: 0,
        max_seq: id,
    }
}

fn deep(levels: [Vec<TableMeta>; 3]) -> Vec<Vec<TableMeta>> {
    let [zero, five, six] = levels;
    vec![zero, vec![], vec![], vec![], vec![], five, six]
}

fn ids(choice: &Choice) -> Vec<u64> {
    choice.inputs.iter().map(|id| id.0).collect()
}

fn idle(levels: &[Vec<TableMeta>]) -> Option<Choice> {
    choose(levels, &limits(), &BTreeSet::new())
}

#[test]
fn nothing_to_do() {
    assert_eq!(idle(&[]), None);
    assert_eq!(idle(&[vec![table(1, 0, 9, 50), table(2, 0, 9, 50), table(3, 0, 9, 50)]]), None);
    assert_eq!(idle(&deep([vec![], vec![], vec![table(1, 0, 9, 1000)]])), None);
}

#[test]
fn level_0_goes_whole_into_the_deepest_level_while_the_store_is_small() {
    let zero = vec![table(4, 0, 9, 10), table(3, 1, 8, 10), table(2, 2, 9, 10), table(1, 3, 4, 10)];
    let choice = idle(std::slice::from_ref(&zero)).unwrap();
    assert_eq!((choice.level, choice.output_level, choice.moves), (0, 6, false));
    assert_eq!(ids(&choice), [4, 3, 2, 1]);
    let levels =
        deep([zero, vec![], vec![table(5, 0, 2, 90), table(6, 9, 9, 90), table(7, 10, 11, 90)]]);
    let choice = idle(&levels).unwrap();
    assert_eq!(ids(&choice), [4, 3, 2, 1, 5, 6]);
    assert_eq!((choice.output_level, choice.bytes), (6, 220));
}

#[test]
fn a_base_level_opens_when_the_deepest_is_ten_times_its_size() {
    let six = |bytes| deep([vec![], vec![], vec![table(1, 0, 9, bytes)]]);
    assert_eq!(targets(&six(1000), &limits()).base, 6);
    let opened = targets(&six(1010), &limits());
    assert_eq!((opened.base, opened.bytes[5], opened.bytes[6]), (5, 101, 1010));
    let more = targets(&six(20_000), &limits());
    assert_eq!((more.base, more.bytes[4], more.bytes[5]), (4, 200, 2000));
}

#[test]
fn level_0_never_passes_a_level_that_holds_something() {
    let mut levels = deep([vec![], vec![], vec![table(1, 0, 9, 500)]]);
    levels[0] = (10..14).map(|id| table(id, 0, 9, 10)).collect();
    levels[2] = vec![table(2, 4, 5, 10)];
    let choice = idle(&levels).unwrap();
    assert_eq!((choice.level, choice.output_level), (0, 2));
    assert_eq!(ids(&choice), [10, 11, 12, 13, 2]);
    // The level without a target is emptied, by a move where nothing overlaps.
    levels[0].clear();
    let choice = idle(&levels).unwrap();
    assert_eq!((choice.level, choice.output_level, choice.moves), (2, 3, true));
}

#[test]
fn the_table_that_costs_least_is_taken_and_its_neighbours_for_free() {
    let five =
        vec![table(1, 0, 19, 60), table(2, 20, 22, 60), table(3, 23, 24, 60), table(4, 30, 49, 60)];
    let six: Vec<_> = (0..5).map(|i| table(10 + u64::from(i), i * 10, i * 10 + 9, 400)).collect();
    let levels = deep([vec![], five, six]);
    let choice = idle(&levels).unwrap();
    assert_eq!((choice.level, choice.reason), (5, Reason::LevelSize));
    // Tables 2 and 3 overlap one table below, 1 and 4 two. 3 lies inside but is over the size cap.
    assert_eq!(ids(&choice), [2, 12]);
    let roomy = Limits { table_bytes: 100, ..limits() };
    assert_eq!(ids(&choose(&levels, &roomy, &BTreeSet::new()).unwrap()), [2, 3, 12]);
}

#[test]
fn busy_tables_are_left_alone() {
    let zero: Vec<_> = (1..6).map(|id| table(id, 0, 9, 10)).collect();
    let levels = deep([zero, vec![table(20, 11, 12, 160)], vec![table(21, 0, 40, 1500)]]);
    assert_eq!(idle(&levels).unwrap().level, 0);
    let busy = BTreeSet::from([TableId(2)]);
    assert_eq!(ids(&choose(&levels, &limits(), &busy).unwrap()), [20, 21], "level 0 is busy");
    let busy = BTreeSet::from([TableId(2), TableId(21)]);
    assert_eq!(choose(&levels, &limits(), &busy), None);
}

#[test]
fn a_table_of_erase_marks_does_not_wait_for_more_writes() {
    let mut marks = table(1, 2, 5, 10);
    marks.erasures = 5;
    let levels = deep([vec![], vec![marks, table(2, 6, 9, 10)], vec![table(3, 0, 9, 1500)]]);
    let choice = idle(&levels).unwrap();
    assert_eq!((choice.reason, ids(&choice)), (Reason::Erasures, vec![1, 3]));
}

#[test]
fn erase_marks_are_needed_where_something_lies_below() {
    let mut levels = deep([(1..5).map(|id| table(id, 0, 9, 10)).collect(), vec![], vec![]]);
    levels[3] = vec![table(7, 0, 9, 10)];
    levels[5] = vec![table(8, 2, 3, 10), table(9, 6, 7, 10)];
    let choice = idle(&levels).unwrap();
    assert_eq!(choice.output_level, 3);
    let below = Below::new(&levels, &choice);
    let held: Vec<u8> = (0..10).filter(|key| below.may_hold(&[*key])).collect();
    assert_eq!(held, [2, 3, 6, 7]);
}

/// Bytes of one simulated entry.
const ENTRY: u64 = 100;

#[derive(Clone)]
struct Simulated {
    meta: TableMeta,
    /// Key to (sequence number, is a value).
    entries: BTreeMap<u32, (u64, bool)>,
}

/// A store of which only keys exist: what a load costs under the choices.
struct Simulation {
    limits: Limits,
    memtable_entries: usize,
    levels: Vec<Vec<Simulated>>,
    memtable: BTreeMap<u32, (u64, bool)>,
    live: BTreeMap<u32, u64>,
    seq: u64,
    next_id: u64,
    user: u64,
    written: u64,
    worst_level0: usize,
    worst_space: f64,
}

impl Simulation {
    fn new() -> Self {
        let limits =
            Limits { level0_tables: 4, base_bytes: 200 * KIB, ratio: 10, table_bytes: 50 * KIB };
        Simulation {
            limits,
            memtable_entries: 500,
            levels: vec![Vec::new(); LEVELS],
            memtable: BTreeMap::new(),
            live: BTreeMap::new(),
            seq: 0,
            next_id: 1,
            user: 0,
            written: 0,
            worst_level0: 0,
            worst_space: 1.0,
        }
    }

    fn write(&mut self, key: u32, value: bool) {
        self.seq += 1;
        self.user += ENTRY;
        self.memtable.insert(key, (self.seq, value));
        if value {
            self.live.insert(key, self.seq);
        } else {
            self.live.remove(&key);
        }
        if self.memtable.len() >= self.memtable_entries {
            self.flush();
        }
    }

    fn table(&mut self, entries: BTreeMap<u32, (u64, bool)>) -> Simulated {
        let id = TableId(self.next_id);
        self.next_id += 1;
        let edge =
            |key: Option<&u32>| Bytes::from(key.copied().unwrap_or(0).to_be_bytes().to_vec());
        let erasures = entries.values().filter(|(_, value)| !value).count() as u64;
        let meta = TableMeta {
            id,
            // An erase mark is a tenth of a value.
            bytes: (entries.len() as u64 - erasures) * ENTRY + erasures * ENTRY / 10,
            entries: entries.len() as u64,
            erasures,
            first: edge(entries.keys().next()),
            last: edge(entries.keys().next_back()),
            min_seq: entries.values().map(|(seq, _)| *seq).min().unwrap_or(0),
            max_seq: entries.values().map(|(seq, _)| *seq).max().unwrap_or(0),
        };
        self.written += meta.bytes;
        Simulated { meta, entries }
    }

    fn metas(&self) -> Vec<Vec<TableMeta>> {
        let level = |tables: &Vec<Simulated>| tables.iter().map(|t| t.meta.clone()).collect();
        self.levels.iter().map(level).collect()
    }

    fn flush(&mut self) {
        let entries = std::mem::take(&mut self.memtable);
        let table = self.table(entries);
        self.levels[0].push(table);
        self.worst_level0 = self.worst_level0.max(self.levels[0].len());
        let mut steps = 0;
        while let Some(choice) = choose(&self.metas(), &self.limits, &BTreeSet::new()) {
            self.apply(&choice);
            steps += 1;
            assert!(steps < 1000, "compaction never comes to rest: {choice:?}");
        }
        assert_eq!(debt(&self.metas(), &self.limits), 0);
        let stored: u64 = self.metas().iter().map(|level| size(level)).sum();
        let live = self.live.len() as u64 * ENTRY;
        // A small store is dominated by level 0, which is bounded in tables, not in proportion.
        if live > 10 * self.limits.base_bytes {
            self.worst_space = self.worst_space.max(stored as f64 / live as f64);
        }
    }

    fn apply(&mut self, choice: &Choice) {
        let below = Below::new(&self.metas(), choice);
        let mut inputs = Vec::new();
        for level in &mut self.levels {
            inputs.extend(level.extract_if(.., |table| choice.inputs.contains(&table.meta.id)));
        }
        assert_eq!(inputs.len(), choice.inputs.len());
        if choice.moves {
            self.levels[choice.output_level].extend(inputs);
        } else {
            let mut merged: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
            for (key, version) in inputs.into_iter().flat_map(|table| table.entries) {
                let slot = merged.entry(key).or_insert(version);
                *slot = (*slot).max(version);
            }
            merged.retain(|key, (_, value)| *value || below.may_hold(&key.to_be_bytes()));
            let per_table = (self.limits.table_bytes / ENTRY) as usize;
            let all: Vec<_> = merged.into_iter().collect();
            for piece in all.chunks(per_table) {
                let table = self.table(piece.iter().copied().collect());
                self.levels[choice.output_level].push(table);
            }
        }
        for level in &mut self.levels[1..] {
            level.sort_by(|a, b| a.meta.first.cmp(&b.meta.first));
            assert!(level.windows(2).all(|pair| pair[0].meta.last < pair[1].meta.first));
        }
    }

    /// Every live key is found, going down, with its newest version; erased keys are not.
    fn check(&mut self) {
        self.flush();
        let mut found: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
        for level in &self.levels {
            let mut here: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
            for (key, version) in level.iter().flat_map(|table| &table.entries) {
                let slot = here.entry(*key).or_insert(*version);
                *slot = (*slot).max(*version);
            }
            for (key, version) in here {
                let upper = found.entry(key).or_insert(version);
                assert!(*upper >= version, "an older version lies above a newer one");
            }
        }
        found.retain(|_, (_, value)| *value);
        let found: BTreeMap<u32, u64> =
            found.into_iter().map(|(key, (seq, _))| (key, seq)).collect();
        assert!(found == self.live);
    }

    fn report(&self, name: &str) -> (f64, f64) {
        let amplification = self.written as f64 / self.user as f64;
        let used: Vec<usize> = self.levels.iter().map(Vec::len).collect();
        println!(
            "{name:<16} write amplification {amplification:5.2}, space amplification {:4.2}, level 0 at \
             most {}, tables by level {used:?}",
            self.worst_space, self.worst_level0
        );
        (amplification, self.worst_space)
    }
}

/// A small deterministic generator; the storage engine itself draws no random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// Spreads keys as the ring hash does.
fn spread(key: u32) -> u32 {
    key.wrapping_mul(0x9e37_79b1)
}

#[test]
fn loads_stay_within_their_amplification() {
    let mut random = Random(42);

    let mut insert = Simulation::new();
    (0..150_000).for_each(|key| insert.write(spread(key), true));
    insert.check();
    let (write, space) = insert.report("insert");
    assert!(write < 14.0 && space < 1.05);

    let mut uniform = Simulation::new();
    (0..200_000).for_each(|_| uniform.write(spread(random.below(60_000)), true));
    uniform.check();
    let (write, space) = uniform.report("overwrite");
    assert!(write < 16.0 && space < 1.35);

    let mut skewed = Simulation::new();
    (0..60_000).for_each(|key| skewed.write(spread(key), true));
    for _ in 0..140_000 {
        let bound = 1 + random.below(60_000);
        let bound = 1 + random.below(bound);
        skewed.write(spread(random.below(bound)), true);
    }
    skewed.check();
    let (write, space) = skewed.report("skewed");
    assert!(write < 16.0 && space < 1.35);

    let mut mixed = Simulation::new();
    for _ in 0..200_000 {
        let key = random.below(60_000);
        mixed.write(spread(key), random.below(3) > 0);
    }
    mixed.check();
    let (write, space) = mixed.report("with erasures");
    assert!(write < 16.0 && space < 1.5);

    let mut emptied = Simulation::new();
    (0..60_000).for_each(|key| emptied.write(spread(key), true));
    (0..60_000).for_each(|key| emptied.write(spread(key), false));
    emptied.check();
    emptied.report("emptied");
    let left: u64 = emptied.metas().iter().map(|level| size(level)).sum();
    assert!(left < 400 * KIB, "{left} bytes left of nothing");
    assert!([&insert, &uniform, &skewed, &mixed, &emptied].iter().all(|s| s.worst_level0 <= 4));
}

#[test]
fn sequential_keys_move_without_rewriting() {
    let mut simulation = Simulation::new();
    (0..100_000).for_each(|key| simulation.write(key, true));
    simulation.check();
    let (write, _) = simulation.report("sequential");
    assert!(write < 3.0, "{write}");
}
