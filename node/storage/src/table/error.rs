//! What can go wrong with a table.

use crate::error::{Damage, IoFailure, OpenError, ReadError};
use std::path::PathBuf;

/// Why a table could not be written, opened or read. It never means "absent".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The disk failed. Reading: nothing changed, a retry may help. Writing: the unfinished file is
    /// worthless; remove it and write another under a new id.
    #[error("{0}")]
    Io(#[from] IoFailure),
    /// The stored bytes are not what was written; they were not returned. No retry helps: the table
    /// has to be quarantined and its ranges repaired from replicas.
    #[error("{0}")]
    Damaged(#[from] Damage),
    /// Written by a newer version. Nothing was changed; start that version.
    #[error(
        "{path} is a table of format version {found}, this program knows up to {known}: start a newer \
         version",
        path = .path.display()
    )]
    NewerVersion {
        /// The table file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// Entries were added out of order, or none was added: a defect of the caller. The file is
    /// worthless.
    #[error("defect: a table needs at least one entry, in strictly ascending order")]
    Unsorted,
    /// One entry is larger than a block can be. The file is worthless; no retry helps.
    #[error("an entry of {bytes} bytes is more than the {limit} that a block can hold")]
    TooLarge {
        /// Bytes of the entry.
        bytes: u64,
        /// The most that one block can have.
        limit: u64,
    },
    /// Only the device has what is needed, and the caller may not wait for it. Nothing changed; ask again
    /// where waiting is allowed.
    #[error("only the disk knows, and this caller does not wait for it")]
    NeedsDisk,
    /// The caller's pace hook ended a long run (scrub or compaction). Nothing was lost; start it again.
    #[error("stopped before the end")]
    Stopped,
}

impl From<TableError> for ReadError {
    fn from(error: TableError) -> ReadError {
        match error {
            TableError::Io(failure) => ReadError::Io(failure),
            TableError::Damaged(damage) => ReadError::Damaged(damage),
            other => ReadError::Damaged(Damage {
                path: PathBuf::new(),
                offset: 0,
                detail: other.to_string(),
            }),
        }
    }
}

impl From<TableError> for OpenError {
    fn from(error: TableError) -> OpenError {
        match error {
            TableError::Io(failure) => OpenError::Io(failure),
            TableError::Damaged(damage) => OpenError::Damaged(damage),
            TableError::NewerVersion { path, found, known } => {
                OpenError::NewerVersion { path, found, known }
            }
            other => OpenError::Damaged(Damage {
                path: PathBuf::new(),
                offset: 0,
                detail: other.to_string(),
            }),
        }
    }
}
