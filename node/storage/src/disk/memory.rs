//! A disk in memory that behaves as badly as a real one may: what was not synced can be lost,
//! kept in part, or torn; names not synced can be lost or come back in another order; calls fail,
//! files rot, space ends. Deterministic: the same calls and the same seed give the same bytes.
//!
//! Model of durability. A file is bytes, the length that its last sync covered, and what stood in
//! that length before it was written over (only zeros filled in ahead ever are). A directory is what names mean now, what they mean on the medium, and the operations in
//! between. [`MemoryDisk::image`] builds the disk that a machine would find after a crash here, as
//! a new disk; the old one goes on or, after [`MemoryDisk::crash`], fails every call.

mod crash;
mod faults;
mod tree;

pub use crash::Crash;
pub use faults::{Fault, Op};

use super::{AppendFile, DirLock, Disk, RandomRead};
use crate::maintenance::Lane;
use faults::Faults;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tree::Tree;

/// A shared handle of one simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    tree: Tree,
    faults: Faults,
    locks: BTreeMap<std::path::PathBuf, ()>,
    latency_ms: BTreeMap<Lane, u64>,
    warm_page_cache: bool,
}

impl Inner {
    /// How many bytes can be written into a file from a place on before the disk is full.
    fn room_behind(&self, id: u64, place: usize) -> usize {
        let within = self.tree.file(id).bytes.len().saturating_sub(place);
        self.faults.capacity.map_or(usize::MAX, |all| {
            within.saturating_add(all.saturating_sub(self.tree.used()) as usize)
        })
    }
}

impl MemoryDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk found after a crash at this point: a new disk without faults and locks. This one
    /// is not changed.
    pub fn image(&self, crash: Crash, seed: u64) -> MemoryDisk {
        let tree = self.inner().tree.after(crash, seed);
        Self { inner: Arc::new(Mutex::new(Inner { tree, ..Inner::default() })) }
    }

    /// As [`MemoryDisk::image`]; this disk fails every call from now on, so that work left over
    /// from before the crash reaches nothing.
    pub fn crash(&self, crash: Crash, seed: u64) -> MemoryDisk {
        let image = self.image(crash, seed);
        self.inner().faults.dead = true;
        image
    }

    /// Every call after the next `calls` fails as if the power were gone.
    pub fn stop_after(&self, calls: u64) {
        let mut inner = self.inner();
        inner.faults.stop_at = Some(inner.faults.total() + calls);
    }

    /// Adds a fault; several may be active.
    pub fn fail(&self, fault: Fault) {
        self.inner().faults.planned.push(fault);
    }

    /// Removes every planned fault; full and read-only end too.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.faults.planned.clear();
        inner.faults.capacity = None;
        inner.faults.read_only = false;
    }

    /// Bounds the bytes of all files together; appends beyond it fail with `StorageFull`, writing
    /// what still fits. `None`: unbounded.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().faults.capacity = bytes;
    }

    /// Refuses every change with `ReadOnlyFilesystem`.
    pub fn set_read_only(&self, on: bool) {
        self.inner().faults.read_only = on;
    }

    /// Planted bug: syncs of files and directories whose path ends with `end` do nothing and say
    /// they succeeded. An empty `end` means all of them.
    pub fn skip_sync(&self, end: Option<&str>) {
        self.inner().faults.skip_sync = end.map(str::to_string);
    }

    /// How long, in virtual milliseconds, a job of a lane takes on this disk.
    pub fn set_latency_ms(&self, lane: Lane, ms: u64) {
        self.inner().latency_ms.insert(lane, ms);
    }

    /// The figure set by [`MemoryDisk::set_latency_ms`], 0 if none: the simulation's maintenance
    /// asks before it schedules a job, and runs it that much later.
    pub fn latency_ms(&self, lane: Lane) -> u64 {
        self.inner().latency_ms.get(&lane).copied().unwrap_or(0)
    }

    /// Whether non-blocking reads succeed (everything is in the page cache). Off at first, so that
    /// simulations exercise the readers.
    pub fn set_warm_page_cache(&self, on: bool) {
        self.inner().warm_page_cache = on;
    }

    /// Flips one bit of a stored byte. `false`: the file does not exist or is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.inner().tree.flip_bit(path, offset, bit)
    }

    /// Calls of one kind made so far.
    pub fn calls(&self, op: Op) -> u64 {
        self.inner().faults.calls(op)
    }

    /// Calls of all kinds made so far, those that failed included.
    pub fn total_calls(&self) -> u64 {
        self.inner().faults.total()
    }

    /// A file's present content, durable or not.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        let id = inner.tree.id(path).ok()?;
        Some(inner.tree.file(id).bytes.clone())
    }

    /// Replaces a file's content by hand, durably: for tests that damage files.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        self.inner().tree.plant(path, bytes);
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<std::path::PathBuf> {
        self.inner().tree.paths()
    }
}

impl Disk for MemoryDisk {
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn RandomRead>> {
        let mut inner = self.inner();
        inner.faults.check(Op::Open, path)?;
        let id = inner.tree.open(path)?;
        let length = inner.tree.file(id).bytes.len() as u64;
        Ok(Arc::new(Handle { disk: self.clone(), id, path: path.into(), length, end: 0 }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let mut inner = self.inner();
        inner.faults.check(Op::Create, path)?;
        let id = inner.tree.create(path)?;
        Ok(Box::new(Handle { disk: self.clone(), id, path: path.into(), length: 0, end: 0 }))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::Truncate, path)?;
        let id = inner.tree.id(path)?;
        let skip = inner.faults.skips(path);
        inner.tree.cut(id, length, !skip);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.inner();
        inner.faults.check(Op::List, dir)?;
        inner.tree.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::Remove, path)?;
        inner.tree.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::Rename, to)?;
        inner.tree.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::Link, to)?;
        inner.tree.link(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::SyncDir, dir)?;
        if !inner.faults.skips(dir) {
            inner.tree.sync_dir(dir)?;
        }
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.faults.check(Op::CreateDir, dir)?;
        inner.tree.create_dir(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut inner = self.inner();
        inner.faults.check(Op::Lock, path)?;
        if inner.locks.insert(path.into(), ()).is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Held { disk: self.clone(), path: path.into() }))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut inner = self.inner();
        inner.faults.check(Op::FreeBytes, dir)?;
        let used = inner.tree.used();
        Ok(inner.faults.capacity.map_or(1 << 40, |all| all.saturating_sub(used)))
    }
}

struct Held {
    disk: MemoryDisk,
    path: std::path::PathBuf,
}

impl DirLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.disk.inner().locks.remove(&self.path);
    }
}

/// An open file, for reading or for appending; keeps the file alive after its name is gone.
struct Handle {
    disk: MemoryDisk,
    id: u64,
    path: std::path::PathBuf,
    length: u64,
    /// Where the next append goes.
    end: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.disk.inner().tree.close(self.id);
    }
}

impl RandomRead for Handle {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.faults.check(Op::Read, &self.path)?;
        inner.tree.file(self.id).read(offset, buf)
    }

    fn try_read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let mut inner = self.disk.inner();
        if !inner.warm_page_cache {
            return Ok(false);
        }
        inner.faults.check(Op::Read, &self.path)?;
        inner.tree.file(self.id).read(offset, buf).map(|()| true)
    }

    fn len(&self) -> u64 {
        self.length
    }
}

impl AppendFile for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.faults.check(Op::Append, &self.path)?;
        let fits = bytes.len().min(inner.room_behind(self.id, self.end));
        inner.tree.write(self.id, self.end, &bytes[..fits]);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.end += bytes.len();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.faults.check(Op::Sync, &self.path)?;
        if !inner.faults.skips(&self.path) {
            inner.tree.sync(self.id);
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.faults.check(Op::Truncate, &self.path)?;
        inner.tree.cut(self.id, length, false);
        self.end = length as usize;
        Ok(())
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.faults.check(Op::Fill, &self.path)?;
        if inner.room_behind(self.id, self.end) < bytes as usize {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.tree.fill(self.id, self.end + bytes as usize);
        Ok(())
    }

    fn reserve(&mut self, _bytes: u64) -> io::Result<()> {
        self.disk.inner().faults.check(Op::Reserve, &self.path)
    }
}

#[cfg(test)]
mod tests;
