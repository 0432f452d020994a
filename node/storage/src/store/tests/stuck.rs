//! A disk call that does not come back: whoever can be answered from memory is answered at once, and the rest
//! goes on when the call returns. With real threads, and a disk that holds calls until it is told to let go.

use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::disk::{AppendFile, DirLock, Disk, RandomRead};
use crate::maintenance::Threads;
use crate::observer::NoObserver;

/// Longest real wait for a thread to come to where it is held.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Sync,
}

#[derive(Default)]
struct State {
    held: Option<Call>,
    inside: usize,
}

/// Holds calls of one kind while it is closed.
#[derive(Default)]
struct Gate(Mutex<State>, Condvar);

impl Gate {
    fn close(&self, call: Call) {
        lock(&self.0).held = Some(call);
    }

    fn open(&self) {
        lock(&self.0).held = None;
        self.1.notify_all();
    }

    fn pass(&self, call: Call) {
        let mut state = lock(&self.0);
        if state.held != Some(call) {
            return;
        }
        state.inside += 1;
        self.1.notify_all();
        let state = self.1.wait_while(state, |state| state.held == Some(call)).unwrap();
        drop(state);
    }

    /// Waits until so many calls were held since the start.
    fn until_inside(&self, count: usize) {
        let state = lock(&self.0);
        let (state, waited) =
            self.1.wait_timeout_while(state, PATIENCE, |state| state.inside < count).unwrap();
        assert!(!waited.timed_out(), "{} calls are held, not {count}", state.inside);
    }
}

/// A simulated disk behind a gate; nothing of it is ever in a page cache.
struct Gated(MemoryDisk, Arc<Gate>);

struct Reading(Arc<dyn RandomRead>, Arc<Gate>);

impl RandomRead for Reading {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.pass(Call::Read);
        self.0.read_at(offset, buf)
    }

    fn try_read_cached(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

struct Appending(Box<dyn AppendFile>, Arc<Gate>);

impl AppendFile for Appending {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.pass(Call::Sync);
        self.0.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        self.0.fill(bytes)
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        self.0.reserve(bytes)
    }
}

impl Disk for Gated {
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn RandomRead>> {
        Ok(Arc::new(Reading(self.0.open_read(path)?, self.1.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(Appending(self.0.create(path)?, self.1.clone())))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.0.truncate(path, length)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        self.0.lock(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.free_bytes(dir)
    }
}

fn opened(disk: &MemoryDisk, gate: &Arc<Gate>) -> Arc<Store> {
    let options = StoreOptions { memtable_bytes: 64 << 10, ..StoreOptions::new(DIR) };
    let disk = Arc::new(Gated(disk.clone(), gate.clone()));
    let threads = Arc::new(Threads::start(1).unwrap());
    Store::open(options, disk, threads, Arc::new(NoObserver)).unwrap()
}

fn put(store: &Store, number: u64) -> Ticket<Result<(), WriteError>> {
    let change = Change::Put(vec![number as u8; 20].into());
    let applied = store.update(&key(number), Durability::Group, |_| (change, ()));
    assert!(applied.is_ready(), "a write is applied in memory before anything is synced");
    applied.wait().unwrap().durable
}

/// What is stored under a number, which must be known at once.
fn at_once(store: &Store, number: u64) -> Option<Bytes> {
    let ticket = store.get(&key(number));
    assert!(ticket.is_ready(), "key {number} is in memory");
    ticket.wait().unwrap()
}

#[test]
fn a_sync_that_hangs_holds_back_acknowledgements_and_no_read() {
    let (disk, gate) = (MemoryDisk::new(), Arc::new(Gate::default()));
    let store = opened(&disk, &gate);
    put(&store, 1).wait().unwrap();
    gate.close(Call::Sync);
    let owed: Vec<_> = (2..6).map(|number| put(&store, number)).collect();
    std::thread::scope(|scope| {
        let waits: Vec<_> = owed.into_iter().map(|owed| scope.spawn(|| owed.wait())).collect();
        gate.until_inside(1);
        for number in 1..6 {
            assert_eq!(at_once(&store, number), Some(vec![number as u8; 20].into()));
        }
        assert_eq!(at_once(&store, 9), None);
        assert!(waits.iter().all(|wait| !wait.is_finished()), "nothing is durable yet");
        gate.open();
        waits.into_iter().for_each(|wait| wait.join().unwrap().unwrap());
    });
}

#[test]
fn a_flush_that_hangs_holds_back_no_read_of_what_it_writes() {
    let (disk, gate) = (MemoryDisk::new(), Arc::new(Gate::default()));
    let store = opened(&disk, &gate);
    for number in 0..8 {
        put(&store, number).wait().unwrap();
    }
    gate.close(Call::Sync);
    let flushed = store.flush();
    gate.until_inside(1);
    for number in 0..8 {
        assert_eq!(at_once(&store, number), Some(vec![number as u8; 20].into()));
    }
    assert!(!flushed.is_ready());
    gate.open();
    flushed.wait().unwrap();
}

#[test]
fn a_read_that_hangs_holds_back_no_read_from_memory() {
    let (disk, gate) = (MemoryDisk::new(), Arc::new(Gate::default()));
    let store = opened(&disk, &gate);
    for number in 0..8 {
        put(&store, number).wait().unwrap();
    }
    store.flush().wait().unwrap();
    store.close().wait().unwrap();
    drop(store);
    let store = opened(&disk, &gate);
    put(&store, 20).wait().unwrap();
    gate.close(Call::Read);
    let cold: Vec<_> = (0..8).map(|number| store.get(&key(number))).collect();
    gate.until_inside(1);
    assert!(cold.iter().all(|ticket| !ticket.is_ready()), "they wait for the disk");
    assert_eq!(at_once(&store, 20), Some(vec![20; 20].into()));
    assert_eq!(at_once(&store, 21), None, "the filter says so");
    put(&store, 22).wait().unwrap();
    assert_eq!(at_once(&store, 22), Some(vec![22; 20].into()));
    gate.open();
    for (number, ticket) in cold.into_iter().enumerate() {
        assert_eq!(ticket.wait().unwrap(), Some(vec![number as u8; 20].into()));
    }
}
