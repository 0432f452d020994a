//! Which call fails, and how often calls were made.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The calls of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Open for reading.
    Open,
    /// Create a file.
    Create,
    /// Append to a file.
    Append,
    /// Sync a file.
    Sync,
    /// Cut a file.
    Truncate,
    /// Reserve space.
    Reserve,
    /// Write zeros ahead.
    Fill,
    /// Positioned read.
    Read,
    /// List a directory.
    List,
    /// Remove a name.
    Remove,
    /// Rename (the path is the target).
    Rename,
    /// Give a file a second name (the path is the new one).
    Link,
    /// Sync a directory.
    SyncDir,
    /// Create a directory.
    CreateDir,
    /// Take the lock.
    Lock,
    /// Ask for free space.
    FreeBytes,
}

impl Op {
    /// Whether the call changes the disk.
    fn writes(self) -> bool {
        !matches!(self, Op::Open | Op::Read | Op::List | Op::Lock | Op::FreeBytes)
    }
}

/// A planned failure: calls of `op` (any if `None`) whose path contains `path` are counted, and
/// those numbered `first` (from 1) up to and including `last` fail with `error`.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The kind of call; any if `None`.
    pub op: Option<Op>,
    /// Part of the path; empty means any.
    pub path: String,
    /// The first matching call that fails, from 1.
    pub first: u64,
    /// The last matching call that fails; `u64::MAX` for ever.
    pub last: u64,
    /// The kind of error.
    pub error: io::ErrorKind,
    seen: u64,
}

impl Fault {
    /// The `nth` matching call fails, once.
    pub fn once(op: Option<Op>, path: &str, nth: u64, error: io::ErrorKind) -> Self {
        Self { op, path: path.to_string(), first: nth, last: nth, error, seen: 0 }
    }

    /// The `nth` matching call and all after it fail.
    pub fn from(op: Option<Op>, path: &str, nth: u64, error: io::ErrorKind) -> Self {
        Self { last: u64::MAX, ..Self::once(op, path, nth, error) }
    }
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) planned: Vec<Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) read_only: bool,
    pub(super) skip_sync: Option<String>,
    pub(super) stop_at: Option<u64>,
    pub(super) dead: bool,
    counts: BTreeMap<Op, u64>,
    total: u64,
}

impl Faults {
    pub(super) fn calls(&self, op: Op) -> u64 {
        self.counts.get(&op).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn skips(&self, path: &Path) -> bool {
        self.skip_sync.as_deref().is_some_and(|end| path.to_string_lossy().ends_with(end))
    }

    /// Counts a call and decides whether it fails. A call that fails changes nothing.
    pub(super) fn check(&mut self, op: Op, path: &Path) -> io::Result<()> {
        self.total += 1;
        *self.counts.entry(op).or_insert(0) += 1;
        if self.stop_at.is_some_and(|stop| self.total > stop) {
            self.dead = true;
        }
        if self.dead {
            return Err(io::Error::other("the power is gone"));
        }
        if self.read_only && op.writes() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let path = path.to_string_lossy();
        for fault in &mut self.planned {
            if fault.op.is_none_or(|kind| kind == op) && path.contains(&fault.path) {
                fault.seen += 1;
                if (fault.first..=fault.last).contains(&fault.seen) {
                    return Err(fault.error.into());
                }
            }
        }
        Ok(())
    }
}
