//! The commit log that an open finds. It opens or refuses by name; what it serves is what a reader written
//! from `FORMAT.md` alone finds in the segment; a second open finds the same; and what refuses as
//! damaged can be salvaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use kvasir_storage::disk::memory::Crash;
use kvasir_storage::{
    Change, Disk, Durability, Manual, MemoryDisk, NoObserver, OpenError, Store, StoreOptions,
    TableKey, salvage,
};
use kvasir_tests::fuzz::{Target, crc32c, run};

const DIR: &str = "/volume/db";
/// Bytes of the frame of a head, and with the head.
const FRAME: usize = 28;
const START: usize = 36;
/// A record before its body.
const HEAD: usize = 21;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn segment() -> PathBuf {
    Path::new(DIR).join("log/0000000000000001.log")
}

fn placed(bytes: &[u8], offset: usize) -> u32 {
    crc32c::of(&[bytes, &1u64.to_le_bytes(), &(offset as u64).to_le_bytes()].concat())
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

fn mend(input: &mut [u8]) {
    if input.len() < START {
        return;
    }
    let head =
        crc32c::of(&[&input[..24], &input[FRAME..START], &1u64.to_le_bytes(), &[0; 8]].concat());
    input[24..28].copy_from_slice(&head.to_le_bytes());
    let mut at = START;
    while at + HEAD <= input.len() {
        let room = input.len() - at - HEAD;
        let body = u32_at(input, at + 4).min(room);
        input[at + 4..at + 8].copy_from_slice(&(body as u32).to_le_bytes());
        let sum = placed(&input[at + 4..at + HEAD + body], at);
        input[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at += HEAD + body;
    }
}

/// What the records of a segment come to, read by the page and not by the engine.
fn by_the_page(input: &[u8]) -> Map {
    let (mut map, mut at) = (Map::new(), START);
    let is_key = |key: &[u8]| key.len() >= 9 && key.len() >= 9 + usize::from(key[8]);
    while input.len() >= at + HEAD + 2 {
        let (length, kind) = (u32_at(input, at + 4), input[at + 8]);
        let Some(record) = input.get(at..at + HEAD + length) else { break };
        if length < 2 || placed(&record[4..], at) as usize != u32_at(record, 0) {
            break;
        }
        let body = &record[HEAD..];
        let key_length = usize::from(u16::from_le_bytes([body[0], body[1]]));
        let Some(key) = body.get(2..2 + key_length).filter(|key| is_key(key)) else { break };
        let rest = &body[2 + key_length..];
        match kind {
            1 => _ = map.insert(key.to_vec(), rest.to_vec()),
            2 => _ = map.remove(key),
            3 if rest.is_empty() => map.retain(|stored, _| stored.as_slice() < key),
            3 if is_key(rest) => {
                map.retain(|stored, _| stored.as_slice() < key || stored.as_slice() >= rest)
            }
            _ => break,
        }
        at += HEAD + length;
    }
    map
}

fn options() -> StoreOptions {
    StoreOptions { memtable_bytes: 256 << 10, cache_bytes: 0, ..StoreOptions::new(DIR) }
}

fn open(disk: &MemoryDisk) -> Result<(Arc<Store>, Arc<Manual>), OpenError> {
    let work = Manual::new();
    let store = Store::open(options(), Arc::new(disk.clone()), work.clone(), Arc::new(NoObserver))?;
    Ok((store, work))
}

fn scan(store: &Store, work: &Manual) -> Result<Map, kvasir_storage::ReadError> {
    let (snapshot, mut from, mut map) = (store.snapshot(), Some(TableKey::first_of(0)), Map::new());
    while let Some(start) = from {
        let chunk = store.scan(&snapshot, &start, None, 100, 1 << 20);
        while work.run_all() > 0 {}
        let chunk = chunk.wait()?;
        map.extend(
            chunk.entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.to_vec())),
        );
        from = chunk.next;
    }
    Ok(map)
}

fn end((store, work): (Arc<Store>, Arc<Manual>)) {
    let closed = store.close();
    while work.run_all() > 0 {}
    closed.wait().expect("a sound store closes");
}

/// A store that was made and never written to.
fn blank() -> MemoryDisk {
    static MADE: LazyLock<MemoryDisk> = LazyLock::new(|| {
        let disk = MemoryDisk::new();
        end(open(&disk).expect("a new store"));
        disk
    });
    let disk = MADE.image(Crash::KeepAll, 0);
    disk.set_warm_page_cache(true);
    disk
}

fn written() -> Vec<u8> {
    let disk = blank();
    let (store, work) = open(&disk).expect("a sound store");
    for step in 0..12u64 {
        let key = TableKey::new((step % 7) << 60, b"b", &[step as u8 % 5]);
        let put = Change::Put(vec![step as u8; step as usize * 3].into());
        let change = if step % 5 == 4 { Change::Erase } else { put };
        let applied =
            store.update(&key, Durability::Group, |_| (change, ())).wait().expect("applied");
        applied.durable.wait().expect("synced");
    }
    let (from, to) = (TableKey::first_of(2 << 60), TableKey::first_of(4 << 60));
    store.drop_range(&from, Some(&to), Durability::Group).wait().expect("dropped");
    work.drop_all();
    let bytes = disk.content(&segment()).expect("a segment");
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes[..length].to_vec()
}

fn fed(input: &[u8]) -> String {
    let disk = blank();
    disk.plant(&segment(), input);
    match open(&disk) {
        Ok((store, work)) => {
            let (found, records) =
                (scan(&store, &work).expect("nothing is lost"), store.recovery().replayed_records);
            assert_eq!(found, by_the_page(input));
            work.drop_all();
            drop(store);
            let again = open(&disk).expect("what opened opens again");
            assert_eq!(scan(&again.0, &again.1).as_ref(), Ok(&found));
            end(again);
            let last = open(&disk).expect("what was closed opens");
            assert_eq!(scan(&last.0, &last.1), Ok(found));
            format!("{} records", records.min(9))
        }
        Err(OpenError::Damaged(damage)) => {
            assert!(disk.open_read(&segment()).is_ok(), "a refusal takes nothing away");
            salvage(Path::new(DIR), Arc::new(disk.clone()), false).expect("a way out");
            let (store, work) = open(&disk).expect("what was salvaged opens");
            let lost = scan(&store, &work).is_err();
            assert_eq!(lost, !store.lost_ranges().is_empty());
            format!(
                "{} {lost}",
                damage.detail.chars().filter(|c| !c.is_numeric()).take(30).collect::<String>()
            )
        }
        Err(OpenError::NewerVersion { .. }) => String::from("newer"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn segments() {
    let whole = written();
    let seeds = vec![whole[..START].to_vec(), whole[..whole.len() / 2].to_vec(), whole, Vec::new()];
    let words: &[&[u8]] = &[b"KVLOG\0\0\n", &[0; 40], &[1, 0, 0, 0, 0], &[3, 0, 0, 0, 0]];
    let target = Target { name: "log_recovery", seeds, words, inputs: 800, mend: &mend, run: &fed };
    assert!(run(&target).outcomes.len() > 8);
}
