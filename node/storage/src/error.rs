//! What can go wrong, and what each failure leaves behind. One enum for opening, one for reading,
//! one for writing. All are `Clone`, since one failed batch answers many tickets.

use crate::ticket::Abandon;
use std::io;
use std::path::{Path, PathBuf};

/// An I/O failure that can be handed to many: the kind, the file and the text of the system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {detail}", path = .path.display())]
pub struct IoFailure {
    /// The file or directory concerned.
    pub path: PathBuf,
    /// The kind given by the system.
    pub kind: io::ErrorKind,
    /// What was tried and what the system said.
    pub detail: String,
}

impl IoFailure {
    /// Describes `error`, met while doing `what` ("append", "sync") to `path`.
    pub fn new(path: &Path, what: &str, error: &io::Error) -> Self {
        Self { path: path.into(), kind: error.kind(), detail: format!("{what}: {error}") }
    }

    /// Whether the disk only lacks space or is read-only: nothing is broken, a retry may work when
    /// that changed.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self.kind, StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    }
}

/// Bytes on disk that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: damaged at byte {offset}: {detail}", path = .path.display())]
pub struct Damage {
    /// The damaged file.
    pub path: PathBuf,
    /// Where the bad record or block begins.
    pub offset: u64,
    /// What is wrong with it.
    pub detail: String,
}

/// Why a store did not open. Nothing was changed that a second attempt would not do again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process (or store) holds the directory. A retry helps when it is gone.
    #[error("{path} is in use by another process; stop it first, one process per data directory", path = .0.display())]
    Locked(PathBuf),
    /// The disk failed. A retry may help; nothing was dropped.
    #[error("cannot open the store: {0}")]
    Io(#[from] IoFailure),
    /// A file is damaged before its end, or missing. No retry helps: restore the file, or let
    /// `kvasir recover --quarantine` set it aside and mark what may be missing.
    #[error(
        "{0}; the store refuses to open rather than lose data: restore the file, or run `kvasir recover \
         --quarantine DIR` with the data directory, which sets the file aside, keeps what is sound and \
         marks this replica as needing repair"
    )]
    Damaged(#[from] Damage),
    /// Written by a newer version. Start that version; this one changed nothing.
    #[error("{path} has format version {found}, this program knows up to {known}: start a newer version", path = .path.display())]
    NewerVersion {
        /// The file that names the version.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// The manifest names tables of more levels than this program keeps: a program that keeps more wrote it.
    /// Start that one; this one changed nothing.
    #[error("{path} names {levels} levels of tables, this program keeps at most {known}: start the version that wrote it", path = .path.display())]
    TooManyLevels {
        /// The manifest.
        path: PathBuf,
        /// How many it names.
        levels: usize,
        /// How many this program keeps.
        known: usize,
    },
    /// The options contradict each other. Nothing was touched.
    #[error("bad storage options: {0}")]
    Options(String),
}

/// Why a salvage did not end. The store is as it was, or salvaged in part; running it again is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SalvageError {
    /// The store does not open for another reason than a damaged log or table.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// A file could not be set aside, or the manifest not be written.
    #[error("cannot salvage: {0}")]
    Io(#[from] IoFailure),
    /// What was kept could not be written out; the log is still there.
    #[error("cannot write out what was kept: {0}")]
    Write(#[from] WriteError),
}

/// Why a lookup has no answer. It is never "absent".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk failed. The data may be intact; a retry may help.
    #[error("read failed: {0}")]
    Io(#[from] IoFailure),
    /// The stored bytes are damaged and were not returned. Ask another replica.
    #[error("{0}")]
    Damaged(#[from] Damage),
    /// The newest value of this key may have been lost with a damaged file, which was quarantined; what
    /// older files hold is not returned. Ask another replica; the range has to be dropped and filled
    /// again from replicas.
    #[error(
        "what was stored here may be lost with a file that was quarantined; ask another replica and \
         rebuild this one"
    )]
    Lost,
    /// Too many lookups wait for the disk. Nothing happened; retry later.
    #[error("too many lookups wait for the disk; retry later")]
    Overloaded,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The job that owed the answer was dropped (shutdown or panic). A retry may help.
    #[error("the lookup was dropped before it was answered")]
    Abandoned,
}

impl Abandon for ReadError {
    fn abandoned() -> Self {
        Self::Abandoned
    }
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Not applied: too many updates wait, or memory is full and flushing lags. Retry later.
    #[error("not applied: the store is overloaded; retry later")]
    Overloaded,
    /// The disk is full or read-only. From `update`: not applied. From `durable`: applied in memory
    /// and kept for the log; it may become durable when there is space again. Reads go on.
    #[error("the disk takes no writes: {0}")]
    Full(IoFailure),
    /// Not applied: the old value could not be read.
    #[error("not applied: {0}")]
    Read(#[from] ReadError),
    /// Not applied: key and value are larger than a log record may be.
    #[error("not applied: {bytes} bytes are more than the {limit} that one record may have")]
    TooLarge {
        /// Bytes of key and value.
        bytes: usize,
        /// The most that one record may have.
        limit: usize,
    },
    /// A checkpoint could not be made; the store itself is as it was. What was made of it has no
    /// manifest: remove that directory and try again.
    #[error("no checkpoint: {0}")]
    Checkpoint(IoFailure),
    /// The store failed for good: a sync was refused by the system. From `update`: not applied.
    /// From `durable`: whether it is stored is unknown. Only a restart helps.
    #[error("the store has failed and takes no more writes: {0}")]
    Failed(String),
    /// Not applied: the store is closing or closed.
    #[error("not applied: the store is closed")]
    Closed,
    /// The job that owed the answer was dropped (shutdown or panic). Whether the write is stored is
    /// unknown.
    #[error("the write was dropped before it was answered; whether it is stored is unknown")]
    Abandoned,
}

impl Abandon for WriteError {
    fn abandoned() -> Self {
        Self::Abandoned
    }
}
