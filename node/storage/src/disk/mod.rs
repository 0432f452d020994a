//! The files of the engine behind one blocking seam, so that the same engine runs on a real
//! directory and on a simulated disk that loses, tears and delays.
//!
//! What callers may rely on, and nothing more: appended bytes survive a crash only after
//! [`AppendFile::sync`]; a created, renamed or removed name survives only after [`Disk::sync_dir`]
//! of its directory; a rename is atomic. A failed sync says nothing about which bytes are stored
//! and must never be tried again on the same file.

pub mod memory;
pub mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// A file system as the engine needs it. Every call may block; none is made by a request's thread
/// except [`RandomRead::try_read_cached`].
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for positioned reads. `NotFound` if it does not exist.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn RandomRead>>;

    /// Creates a file, empty; one that exists under this name is emptied. The name is durable only
    /// after [`Disk::sync_dir`] of its directory.
    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>>;

    /// Makes a file exactly `length` bytes long if it is longer, and its remaining content durable.
    /// Returns only when both hold.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()>;

    /// Names of the files in a directory (not its subdirectories), sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Removes a file's name. Readers that are open keep reading.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames atomically within one directory, replacing what `to` named.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, in any directory of the same file system. The name is durable after
    /// [`Disk::sync_dir`] of its directory. `AlreadyExists` if something has that name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes creations, renames, links and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a directory and the missing ones above it; no error if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of a data directory, held until the value is dropped.
    /// `WouldBlock` if another holder lives.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;

    /// Bytes that may still be written under a directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// A file that is read at positions. Safe to share; stays readable after its name is removed.
pub trait RandomRead: Send + Sync {
    /// Fills `buf` from `offset`. `UnexpectedEof` if the file ends before that.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills `buf` only if that needs no wait for the device; `false` means "would wait" and leaves
    /// `buf` in any state.
    fn try_read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;

    /// Length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether the file had no byte when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file that only grows, written by one owner.
pub trait AppendFile: Send {
    /// Appends all bytes behind what was appended before, over zeros that were filled in there. After
    /// an error it is undefined what stands behind the end: [`AppendFile::cut`] it back.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended so far durable (fdatasync). Never repeat it after an error.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length` bytes, at or before the end: undoes an append that failed half way,
    /// drops zeros and reserved space behind the end. Durable with the next sync.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// Writes `bytes` zeros behind the end, so that syncs after the appends that overwrite them store
    /// data and nothing else. The file is longer then; the place of the next append stays. Durable with
    /// the next sync. After an error any part of it may have been done.
    fn fill(&mut self, bytes: u64) -> io::Result<()>;

    /// Reserves space so that appends up to `bytes` cannot fail for lack of it, where the file
    /// system can; does not change the length.
    fn reserve(&mut self, bytes: u64) -> io::Result<()>;
}

/// The exclusive lock of a data directory; released by dropping it.
pub trait DirLock: Send + Sync {}
