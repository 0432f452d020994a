//! Whole tables: written, read, damaged.

use super::*;
use crate::disk::memory::{Fault, Op};
use crate::disk::{Disk, MemoryDisk, RandomRead};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

type Oracle = BTreeMap<(Vec<u8>, Reverse<u64>), Option<Vec<u8>>>;

const ID: TableId = TableId(7);
const PATH: &str = "/d/t";

/// Options that make many blocks and index partitions of little data.
fn small() -> TableOptions {
    TableOptions { block_bytes: 128, index_bytes: 64, ..Default::default() }
}

fn empty() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn write(disk: &MemoryDisk, entries: &Oracle, options: TableOptions) -> TableMeta {
    write_as(ID, Path::new(PATH), disk, entries, options)
}

fn write_as(
    id: TableId,
    path: &Path,
    disk: &MemoryDisk,
    entries: &Oracle,
    options: TableOptions,
) -> TableMeta {
    let mut writer = TableWriter::new(id, path, disk.create(path).unwrap(), options).unwrap();
    for ((key, Reverse(seq)), value) in entries {
        writer.add(key, *seq, value.as_deref()).unwrap();
    }
    writer.finish().unwrap()
}

fn open(disk: &MemoryDisk, context: &TableContext) -> Result<Arc<Table>, TableError> {
    let path = Path::new(PATH);
    Table::open(ID, path, disk.open_read(path).unwrap(), context).map(Arc::new)
}

/// Everything resident, nothing resident, and no cache either.
fn contexts() -> [TableContext; 3] {
    [TableContext::new(1 << 20, 1 << 20), TableContext::new(1 << 20, 0), TableContext::new(0, 0)]
}

fn hashed(i: u64) -> Vec<u8> {
    let mut key = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
    key.extend_from_slice(b"\x01bkey-");
    key.extend_from_slice(i.to_string().as_bytes());
    key
}

fn plain(count: u64, value_bytes: usize) -> Oracle {
    let value = |i: u64| Some(vec![i as u8; value_bytes]);
    (0..count).map(|i| ((hashed(i), Reverse(i + 1)), value(i))).collect()
}

fn collect(mut cursor: impl Cursor) -> Result<Oracle, TableError> {
    let mut found = Oracle::new();
    while cursor.valid() {
        let slot = (cursor.key().to_vec(), Reverse(cursor.seq()));
        assert!(found.last_key_value().is_none_or(|(last, _)| *last < slot));
        found.insert(slot, cursor.value().map(|value| value.to_vec()));
        cursor.advance()?;
    }
    Ok(found)
}

fn newest(entries: &Oracle, key: &[u8], limit: u64) -> Option<(u64, Option<Vec<u8>>)> {
    let (slot, value) = entries.range((key.to_vec(), Reverse(limit))..).next()?;
    (slot.0 == key).then(|| (slot.1.0, value.clone()))
}

fn found(lookup: Lookup) -> Option<(u64, Option<Vec<u8>>)> {
    match lookup {
        Lookup::Found { seq, value } => Some((seq, value.map(|value| value.to_vec()))),
        Lookup::Absent(_) => None,
        Lookup::NeedsDisk => panic!("a blocking lookup says that it needs the disk"),
    }
}

fn oracle() -> impl Strategy<Value = Oracle> {
    let key = prop::collection::vec(0u8..4, 0..8);
    let value = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Some),
        1 => Just(None),
        1 => (0usize..2000, any::<u8>()).prop_map(|(len, byte)| Some(vec![byte; len])),
    ];
    prop::collection::btree_map((key, (0u64..12).prop_map(Reverse)), value, 1..150)
}

fn bound(range: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    range.as_ref().map(Vec::as_slice)
}

fn any_bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    let key = || prop::collection::vec(0u8..4, 0..8);
    prop_oneof![
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

fn in_range(entries: &Oracle, start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> Oracle {
    let inside = |key: &Vec<u8>| {
        (match start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        }) && (match end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        })
    };
    entries
        .iter()
        .filter(|(slot, _)| inside(&slot.0))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

proptest! {
    #[test]
    fn a_table_reads_back_like_a_sorted_map(
        entries in oracle(),
        block_bytes in 32usize..400,
        packed: bool,
        probes in prop::collection::vec((prop::collection::vec(0u8..4, 0..9), 0u64..13), 30),
        ranges in prop::collection::vec((any_bound(), any_bound()), 8),
        read_ahead in 1usize..3000,
    ) {
        let disk = empty();
        let compression = if packed { Compression::Lz4 } else { Compression::None };
        let options = TableOptions { block_bytes, index_bytes: 48, compression, ..small() };
        let meta = write(&disk, &entries, options);
        prop_assert_eq!(meta.entries, entries.len() as u64);
        prop_assert_eq!(meta.bytes, disk.content(Path::new(PATH)).unwrap().len() as u64);
        for context in contexts() {
            let table = open(&disk, &context).unwrap();
            prop_assert_eq!(table.meta(), &meta);
            for ((key, seq), value) in &entries {
                let lookup = table.find(&Probe::new(key), seq.0, ReadMode::Blocking).unwrap();
                prop_assert_eq!(found(lookup), Some((seq.0, value.clone())));
            }
            for (key, seq) in &probes {
                let lookup = table.find(&Probe::new(key), *seq, ReadMode::Blocking).unwrap();
                prop_assert_eq!(found(lookup), newest(&entries, key, *seq));
            }
            for (start, end) in &ranges {
                let cursor = table.scan(bound(start), bound(end), read_ahead).unwrap();
                prop_assert_eq!(collect(cursor).unwrap(), in_range(&entries, start, end));
            }
            let report = table.verify(&mut |_| true).unwrap();
            prop_assert!(report.is_sound(), "{:?}", report);
            prop_assert_eq!(report.entries, meta.entries);
        }
    }
}

proptest! {
    #[test]
    fn a_level_reads_like_one_table(
        entries in oracle(),
        cuts in prop::collection::btree_set(prop::collection::vec(0u8..4, 0..4), 0..5),
        ranges in prop::collection::vec((any_bound(), any_bound()), 8),
    ) {
        let (disk, context) = (empty(), TableContext::new(1 << 20, 0));
        let mut parts: BTreeMap<usize, Oracle> = BTreeMap::new();
        for (slot, value) in &entries {
            let part = cuts.iter().filter(|cut| **cut <= slot.0).count();
            parts.entry(part).or_default().insert(slot.clone(), value.clone());
        }
        let tables: Vec<_> = parts.iter().map(|(number, part)| {
            let (id, path) = (TableId(*number as u64 + 1), format!("/d/{number}"));
            let path = Path::new(&path);
            write_as(id, path, &disk, part, small());
            Arc::new(Table::open(id, path, disk.open_read(path).unwrap(), &context).unwrap())
        }).collect();
        for (start, end) in &ranges {
            let cursor = LevelCursor::new(tables.clone(), bound(start), bound(end), 500).unwrap();
            prop_assert_eq!(collect(cursor).unwrap(), in_range(&entries, start, end));
        }
    }
}

#[test]
fn disorder_and_nothing_are_refused() {
    let disk = empty();
    let begin = || {
        let path = Path::new(PATH);
        TableWriter::new(ID, path, disk.create(path).unwrap(), small()).unwrap()
    };
    assert_eq!(begin().finish().err(), Some(TableError::Unsorted));
    let mut writer = begin();
    writer.add(b"b", 5, None).unwrap();
    assert_eq!(writer.add(b"a", 9, None), Err(TableError::Unsorted));
    assert_eq!(writer.add(b"b", 5, None), Err(TableError::Unsorted));
    assert_eq!(writer.add(b"b", 6, None), Err(TableError::Unsorted));
    writer.add(b"b", 4, None).unwrap();
}

/// What a damaged table may do: refuse, or answer exactly as before. Returns whether it was noticed.
fn right_or_refused(disk: &MemoryDisk, context: &TableContext, entries: &Oracle) -> bool {
    let table = match open(disk, context) {
        Ok(table) => table,
        Err(TableError::Damaged(_)) => return true,
        Err(other) => panic!("{other}"),
    };
    let mut noticed = !table.faults().is_empty();
    let strangers = (1_000_000..1_000_010).map(hashed);
    for key in entries.keys().map(|(key, _)| key.clone()).chain(strangers) {
        match table.get(&key, ReadMode::Blocking) {
            Ok(lookup) => assert_eq!(found(lookup), newest(entries, &key, u64::MAX)),
            Err(TableError::Damaged(_)) => noticed = true,
            Err(other) => panic!("{other}"),
        }
    }
    match table.scan(Bound::Unbounded, Bound::Unbounded, 500).and_then(collect) {
        Ok(all) => assert!(all == *entries),
        Err(TableError::Damaged(_)) => noticed = true,
        Err(other) => panic!("{other}"),
    }
    noticed |= !table.faults().is_empty();
    match table.verify(&mut |_| true) {
        Ok(report) => noticed |= !report.is_sound(),
        Err(other) => panic!("{other}"),
    }
    noticed
}

#[test]
fn every_damaged_byte_is_noticed_and_never_becomes_data() {
    damage_each_byte(&plain(30, 9), small());
}

#[test]
fn every_damaged_byte_of_packed_blocks_is_noticed_too() {
    let options =
        TableOptions { block_bytes: 400, compression: Compression::Lz4, ..TableOptions::default() };
    let (disk, entries) = (empty(), plain(12, 90));
    let packed = write(&disk, &entries, options).bytes;
    let bare = write(&disk, &entries, TableOptions { compression: Compression::None, ..options });
    assert!(packed < bare.bytes - 500, "{packed} of {}", bare.bytes);
    damage_each_byte(&entries, options);
}

fn damage_each_byte(entries: &Oracle, options: TableOptions) {
    let disk = empty();
    write(&disk, entries, options);
    let path = Path::new(PATH);
    let sound = disk.content(path).unwrap();
    let [resident, paged, _] = contexts();
    assert!(!right_or_refused(&disk, &resident, entries));
    for at in 0..sound.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            disk.plant(path, &bytes);
            // A fresh cache, or the sound blocks of the round before would answer.
            let context = if at % 2 == 0 {
                TableContext::new(1 << 20, 1 << 20)
            } else {
                TableContext::new(1 << 20, 0)
            };
            assert!(right_or_refused(&disk, &context, entries), "byte {at} ^ {change}");
        }
    }
    disk.plant(path, &sound);
    assert!(!right_or_refused(&disk, &paged, entries));
    println!("{} bytes, each damaged three ways, all noticed", sound.len());
}

#[test]
fn every_truncation_is_refused_at_open() {
    let (disk, entries) = (empty(), plain(30, 9));
    write(&disk, &entries, small());
    let path = Path::new(PATH);
    let sound = disk.content(path).unwrap();
    for cut in 0..sound.len() {
        disk.plant(path, &sound[..cut]);
        let refused = open(&disk, &contexts()[0]);
        assert!(matches!(refused, Err(TableError::Damaged(_))), "cut at {cut}");
        // Zeros up to the old length, as a file system may leave them.
        let mut zeros = sound[..cut].to_vec();
        zeros.resize(sound.len(), 0);
        disk.plant(path, &zeros);
        assert!(matches!(open(&disk, &contexts()[1]), Err(TableError::Damaged(_))), "cut at {cut}");
    }
    let mut longer = sound.clone();
    longer.push(0);
    disk.plant(path, &longer);
    assert!(matches!(open(&disk, &contexts()[0]), Err(TableError::Damaged(_))));
}

#[test]
fn another_table_under_this_name_is_refused() {
    let (disk, path) = (empty(), Path::new(PATH));
    write(&disk, &plain(10, 5), small());
    let opened = Table::open(TableId(8), path, disk.open_read(path).unwrap(), &contexts()[0]);
    let Err(TableError::Damaged(damage)) = opened else { panic!("opened") };
    assert!(damage.detail.contains("another table"), "{damage}");
}

#[test]
fn no_wrong_filter_bit_hides_a_key() {
    let (disk, entries) = (empty(), plain(40, 3));
    write(&disk, &entries, small());
    let path = Path::new(PATH);
    let table = open(&disk, &contexts()[0]).unwrap();
    let page = table.page_handle(0);
    assert_eq!(table.page_count(), 1);
    let mut flips = 0;
    for offset in page.offset..page.end().unwrap() {
        for bit in 0..8 {
            assert!(disk.flip_bit(path, offset, bit));
            for context in [TableContext::new(1 << 20, 1 << 20), TableContext::new(1 << 20, 0)] {
                let table = open(&disk, &context).unwrap();
                for (key, Reverse(seq)) in entries.keys() {
                    let lookup = table.get(key, ReadMode::Blocking).unwrap();
                    assert!(matches!(lookup, Lookup::Found { seq: s, .. } if s == *seq));
                }
                assert_eq!(table.faults().len(), 1, "reported");
                assert!(context.counters.stats().filter_faults > 0);
                assert!(!table.verify(&mut |_| true).unwrap().is_sound());
            }
            disk.flip_bit(path, offset, bit);
            flips += 1;
        }
    }
    println!("{flips} filter bits flipped, no key hidden");
}

#[test]
fn a_filter_that_cannot_be_read_costs_no_answer() {
    let (disk, entries) = (empty(), plain(40, 3));
    write(&disk, &entries, small());
    let table = open(&disk, &contexts()[1]).unwrap();
    disk.fail(Fault::once(Some(Op::Read), "", 1, std::io::ErrorKind::Other));
    let lookup = table.get(&hashed(3), ReadMode::Blocking).unwrap();
    assert_eq!(found(lookup), newest(&entries, &hashed(3), u64::MAX));
    assert_eq!(table.faults().len(), 1);
}

#[test]
fn missing_keys_cost_no_block_and_few_pass_the_filter() {
    let (disk, entries) = (empty(), plain(20_000, 40));
    write(&disk, &entries, TableOptions::default());
    let context = TableContext::new(8 << 20, 8 << 20);
    let table = open(&disk, &context).unwrap();
    let before = context.counters.stats();
    let lookups = 100_000;
    let mut quiet = 0;
    for i in 0..lookups {
        let reads = disk.calls(Op::Read);
        let lookup = table.get(&hashed(1 << 40 | i), ReadMode::Blocking).unwrap();
        assert!(matches!(lookup, Lookup::Absent(_)));
        quiet += u64::from(disk.calls(Op::Read) == reads);
    }
    let stats = context.counters.stats();
    let passed = (stats.filter_false_positives - before.filter_false_positives) as f64;
    let rate = passed / lookups as f64;
    println!("false positives {:.3} %, no read in {:.3} %", rate * 100.0, quiet as f64 / 1000.0);
    assert!(rate <= 0.012, "{rate}");
    assert!(quiet * 100 >= lookups * 99);
}

#[test]
fn cached_only_never_waits_and_learns_from_blocking_reads() {
    let (disk, entries) = (empty(), plain(500, 40));
    write(&disk, &entries, TableOptions::default());
    for (resident, first) in [(1 << 20, true), (0, false)] {
        let context = TableContext::new(1 << 20, resident);
        let table = open(&disk, &context).unwrap();
        let key = hashed(123);
        let wanted = newest(&entries, &key, u64::MAX);
        assert_eq!(table.get(&key, ReadMode::CachedOnly), Ok(Lookup::NeedsDisk));
        let stranger = table.get(&hashed(1 << 40), ReadMode::CachedOnly).unwrap();
        let by_filter = stranger == Lookup::Absent(Absence::Filter);
        assert_eq!(by_filter, first, "only a resident filter answers from memory");
        assert_eq!(found(table.get(&key, ReadMode::Blocking).unwrap()), wanted);
        let reads = context.counters.stats().blocks_read;
        assert_eq!(found(table.get(&key, ReadMode::CachedOnly).unwrap()), wanted);
        assert_eq!(context.counters.stats().blocks_read, reads, "the second read reads no block");
    }
    // What the page cache holds needs no reader either.
    disk.set_warm_page_cache(true);
    let table = open(&disk, &contexts()[1]).unwrap();
    assert!(matches!(table.get(&hashed(9), ReadMode::CachedOnly), Ok(Lookup::Found { .. })));
}

#[test]
fn a_bad_block_fails_only_the_keys_in_it() {
    let (disk, entries) = (empty(), plain(400, 40));
    write(&disk, &entries, TableOptions::default());
    let table = open(&disk, &contexts()[0]).unwrap();
    let at = table.place_of(&hashed(5), ReadMode::Blocking).unwrap().unwrap();
    assert!(disk.flip_bit(Path::new(PATH), at.offset + 20, 3));
    let table = open(&disk, &contexts()[0]).unwrap();
    let mut lost = Vec::new();
    for (key, _) in entries.keys() {
        match table.get(key, ReadMode::Blocking) {
            Ok(lookup) => assert_eq!(found(lookup), newest(&entries, key, u64::MAX)),
            Err(TableError::Damaged(damage)) => {
                assert_eq!(damage.offset, at.offset);
                lost.push(key.clone());
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(lost.contains(&hashed(5)) && lost.len() < 100);
    let report = table.verify(&mut |_| true).unwrap();
    assert_eq!(report.damages.len(), 1);
    let [(first, last)] = report.lost.as_slice() else { panic!("{:?}", report.lost) };
    assert!(
        lost.iter().all(|key| first.as_ref() <= key.as_slice() && key.as_slice() <= last.as_ref())
    );
    let kept = entries.keys().filter(|(key, _)| !lost.contains(key));
    let named =
        kept.filter(|(key, _)| first.as_ref() < key.as_slice() && key.as_slice() < last.as_ref());
    assert_eq!(named.count(), 0, "the report names no more than the block");
}

#[test]
fn large_values_get_blocks_of_their_own() {
    let (disk, mut entries) = (empty(), plain(50, 10));
    let large = vec![9; (16 << 20) + 5000];
    entries.insert((hashed(7), Reverse(999)), Some(large.clone()));
    entries.insert((hashed(8), Reverse(999)), Some(vec![]));
    let meta = write(&disk, &entries, TableOptions::default());
    let context = TableContext::new(1 << 20, 1 << 20);
    let table = open(&disk, &context).unwrap();
    assert_eq!(found(table.get(&hashed(7), ReadMode::Blocking).unwrap()), Some((999, Some(large))));
    assert_eq!(
        found(table.get(&hashed(8), ReadMode::Blocking).unwrap()),
        Some((999, Some(vec![])))
    );
    assert!(context.cache.stats().bytes <= 1 << 20, "not kept in a cache that is smaller");
    assert!(meta.bytes < (16 << 20) + 20_000);
    assert!(
        collect(table.scan(Bound::Unbounded, Bound::Unbounded, 4096).unwrap()).unwrap() == entries
    );
    // Checking 16 MiB is not for a worker, even if the page cache has them.
    disk.set_warm_page_cache(true);
    assert_eq!(table.get(&hashed(7), ReadMode::CachedOnly), Ok(Lookup::NeedsDisk));
}

struct Counting {
    inner: Arc<dyn RandomRead>,
    widest: std::sync::atomic::AtomicUsize,
    furthest: std::sync::atomic::AtomicU64,
}

impl RandomRead for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.widest.fetch_max(buf.len(), std::sync::atomic::Ordering::Relaxed);
        self.furthest.fetch_max(offset + buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.inner.read_at(offset, buf)
    }

    fn try_read_cached(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<bool> {
        self.inner.try_read_cached(offset, buf)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

#[test]
fn scans_are_bounded_and_leave_the_cache_alone() {
    use std::sync::atomic::Ordering::Relaxed;
    let (disk, entries) = (empty(), plain(20_000, 40));
    write(&disk, &entries, TableOptions::default());
    let path = Path::new(PATH);
    let inner = disk.open_read(path).unwrap();
    let file =
        Arc::new(Counting { inner, widest: Default::default(), furthest: Default::default() });
    let context = TableContext::new(8 << 20, 8 << 20);
    let table = Arc::new(Table::open(ID, path, file.clone(), &context).unwrap());
    let (widest, furthest) = (&file.widest, &file.furthest);
    widest.store(0, Relaxed);
    furthest.store(0, Relaxed);
    let held = context.cache.stats();
    let end = hashed(77);
    let cursor = table.scan(Bound::Unbounded, Bound::Included(&end), 64 << 10).unwrap();
    let range = in_range(&entries, &Bound::Unbounded, &Bound::Included(end.clone()));
    assert!(collect(cursor).unwrap() == range);
    assert!(widest.load(Relaxed) <= 64 << 10, "{}", widest.load(Relaxed));
    let stop = table.place_of(&end, ReadMode::Blocking).unwrap().unwrap().end().unwrap();
    assert!(furthest.load(Relaxed) <= stop, "reads nothing behind its range");
    assert_eq!(context.cache.stats(), held);
    let between = table.bytes_between(&[], &end).unwrap();
    assert!((stop - between) < 100, "{stop} {between}");
}

#[test]
fn a_crash_before_finish_leaves_nothing_that_opens() {
    let (disk, path) = (empty(), Path::new(PATH));
    let mut writer = TableWriter::new(ID, path, disk.create(path).unwrap(), small()).unwrap();
    for ((key, Reverse(seq)), value) in &plain(40, 300) {
        writer.add(key, *seq, value.as_deref()).unwrap();
    }
    drop(writer);
    assert!(matches!(open(&disk, &contexts()[0]), Err(TableError::Damaged(_))));
    write(&disk, &plain(40, 300), small());
    disk.sync_dir(Path::new("/d")).unwrap();
    let after = disk.image(crate::disk::memory::Crash::DropAll, 1);
    assert!(!right_or_refused(&after, &contexts()[0], &plain(40, 300)), "finish has synced it");
}

#[test]
fn a_scrub_can_be_stopped() {
    let disk = empty();
    write(&disk, &plain(400, 40), small());
    let table = open(&disk, &contexts()[0]).unwrap();
    let mut left = 5;
    let stopped = table.verify(&mut |_| {
        left -= 1;
        left > 0
    });
    assert_eq!(stopped, Err(TableError::Stopped));
}

#[test]
fn a_failing_disk_is_an_error_not_an_answer() {
    let (disk, entries) = (empty(), plain(100, 40));
    write(&disk, &entries, small());
    for call in 1..40 {
        disk.heal();
        let context = TableContext::new(1 << 20, 0);
        let Ok(table) = open(&disk, &context) else { continue };
        disk.fail(Fault::once(Some(Op::Read), "", call, std::io::ErrorKind::Other));
        for (key, _) in entries.keys().take(20) {
            match table.get(key, ReadMode::Blocking) {
                Ok(lookup) => assert_eq!(found(lookup), newest(&entries, key, u64::MAX)),
                Err(error) => assert!(matches!(error, TableError::Io(_)), "{error}"),
            }
        }
    }
}
