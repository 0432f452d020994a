//! One file of the log while it is written.
//!
//! A segment begins with a sealed frame (its id, the first sequence number); the frame and the
//! file's name are durable before the first record is written. Invariant: `length` is the end of
//! the last complete batch; bytes behind it are zeros, or are cut before anything else is written.
//!
//! Space for the whole segment is reserved when it is made, and before a sync zeros are written ahead of
//! the records, so that the syncs that follow only write data: one that also has to store a new file
//! size or a new place of the file on the disk waits for the file system's journal, and takes about
//! twice as long. A segment that is complete ends with its last record. Segments are deleted and not
//! used again: zeros ahead bring nearly all of what that would, and no record of an earlier use is
//! ever in the way.

use super::writing::Batch;
use super::{ClosedSegment, segment_path, unknown_state};
use crate::disk::{AppendFile, Disk};
use crate::error::IoFailure;
use crate::sealed::{self, FRAME_BYTES, Kind};
use std::path::{Path, PathBuf};

pub(super) const SEGMENT: Kind = Kind { magic: *b"KVLOG\0\0\n", version: 1 };

/// Bytes before the first record.
pub(crate) const START: usize = FRAME_BYTES + 8;
/// Zeros are written this far ahead of what is to be synced.
const AHEAD_BYTES: u64 = 256 << 10;

pub(super) struct Segment {
    file: Box<dyn AppendFile>,
    path: PathBuf,
    id: u64,
    bytes_max: u64,
    length: u64,
    synced: u64,
    /// How far the file's length reaches; `u64::MAX` if there is no space for zeros.
    filled: u64,
    last: u64,
    half_written: bool,
}

impl Segment {
    /// Creates a segment. Error: there may be a file without a sound frame; the next attempt takes
    /// the same id and replaces it.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        id: u64,
        first_sequence: u64,
        bytes_max: u64,
    ) -> Result<Self, IoFailure> {
        let path = segment_path(dir, id);
        let failed = |what| {
            let path = path.clone();
            move |error| IoFailure::new(&path, what, &error)
        };
        let mut file = disk.create(&path).map_err(failed("create"))?;
        match file.reserve(bytes_max).map_err(failed("reserve space")) {
            // The records may still fit.
            Err(failure) if failure.is_full() => {}
            reserved => reserved?,
        }
        let head = sealed::seal(&SEGMENT, id, &first_sequence.to_le_bytes());
        file.append(&head).map_err(failed("append"))?;
        file.sync().map_err(|error| unknown_state(&path, "sync", &error))?;
        disk.sync_dir(dir).map_err(|error| unknown_state(dir, "sync the directory", &error))?;
        let length = head.len() as u64;
        let (synced, filled) = (length, length);
        Ok(Self { file, path, id, bytes_max, length, synced, filled, last: 0, half_written: false })
    }

    /// Writes a batch. Error: part of it may lie behind `length`; it is cut off before the next
    /// batch, and a crash before that finds an unsynced tail.
    pub(super) fn append(&mut self, batch: &Batch, sync_follows: bool) -> Result<(), IoFailure> {
        debug_assert_eq!((batch.segment, batch.offset), (self.id, self.length));
        let failed = |what| {
            let path = &self.path;
            move |error| IoFailure::new(path, what, &error)
        };
        if self.half_written {
            self.file.cut(self.length).map_err(failed("cut a failed append"))?;
            self.filled = self.length;
        }
        self.half_written = true;
        self.file.append(&batch.bytes).map_err(failed("append"))?;
        self.half_written = false;
        self.length += batch.bytes.len() as u64;
        self.last = batch.last;
        let ahead = AHEAD_BYTES.min(self.bytes_max.saturating_sub(self.length));
        if sync_follows && self.length > self.filled && ahead > 0 {
            match self.file.fill(ahead).map_err(failed("write zeros ahead")) {
                Err(failure) if failure.is_full() => self.filled = u64::MAX,
                filled => {
                    filled?;
                    self.filled = self.length + ahead;
                }
            }
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), IoFailure> {
        self.file.sync().map_err(|error| unknown_state(&self.path, "sync", &error))?;
        self.synced = self.length;
        Ok(())
    }

    /// Takes away what lies behind the last record, and syncs. Error: as of [`Segment::sync`], or
    /// nothing was done.
    pub(super) fn close(&mut self) -> Result<(), IoFailure> {
        let failed = |error| IoFailure::new(&self.path, "cut the end", &error);
        self.file.cut(self.length).map_err(failed)?;
        (self.filled, self.half_written) = (self.length, false);
        self.sync()
    }

    pub(super) fn closed(&self) -> ClosedSegment {
        ClosedSegment { id: self.id, last: self.last, bytes: self.length }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How much of it is durable.
    pub(super) fn synced(&self) -> u64 {
        self.synced
    }
}
