//! One file of the log while it is written.
//!
//! A segment begins with a sealed frame (its id, the first sequence number); the frame and the
//! file's name are durable before the first record is written. Invariant: `length` is the end of
//! the last complete batch; bytes behind it are cut before anything else is written.

use super::record::Record;
use super::{segment_path, unknown_state};
use crate::disk::{AppendFile, Disk};
use crate::error::IoFailure;
use crate::sealed::{self, FRAME_BYTES, Kind};
use std::path::{Path, PathBuf};

pub(super) const SEGMENT: Kind = Kind { magic: *b"KVLOG\0\0\n", version: 1 };

/// Bytes before the first record.
pub(crate) const START: usize = FRAME_BYTES + 8;

pub(super) struct Segment {
    file: Box<dyn AppendFile>,
    path: PathBuf,
    id: u64,
    length: u64,
    synced: u64,
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
    ) -> Result<Self, IoFailure> {
        let path = segment_path(dir, id);
        let mut file =
            disk.create(&path).map_err(|error| IoFailure::new(&path, "create", &error))?;
        let head = sealed::seal(&SEGMENT, id, &first_sequence.to_le_bytes());
        file.append(&head).map_err(|error| IoFailure::new(&path, "append", &error))?;
        file.sync().map_err(|error| unknown_state(&path, "sync", &error))?;
        disk.sync_dir(dir).map_err(|error| unknown_state(dir, "sync the directory", &error))?;
        let length = head.len() as u64;
        Ok(Self { file, path, id, length, synced: length, last: 0, half_written: false })
    }

    /// Writes a batch. Error: part of it may lie behind `length`; it is cut off before the next
    /// batch, and a crash before that finds an unsynced tail.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<u64, IoFailure> {
        let bytes = records.iter().map(Record::stored_bytes).sum();
        let mut batch = Vec::with_capacity(bytes);
        let synced = u32::try_from(self.synced).unwrap_or(u32::MAX);
        for record in records {
            let offset = self.length + batch.len() as u64;
            record.encode(&mut batch, self.id, offset, synced);
        }
        if self.half_written {
            let failed = |error| IoFailure::new(&self.path, "cut a failed append", &error);
            self.file.cut(self.length).map_err(failed)?;
        }
        self.half_written = true;
        let failed = |error| IoFailure::new(&self.path, "append", &error);
        self.file.append(&batch).map_err(failed)?;
        self.half_written = false;
        self.length += batch.len() as u64;
        self.last = records.last().map_or(self.last, |record| record.sequence);
        Ok(batch.len() as u64)
    }

    pub(super) fn sync(&mut self) -> Result<(), IoFailure> {
        self.file.sync().map_err(|error| unknown_state(&self.path, "sync", &error))?;
        self.synced = self.length;
        Ok(())
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The last sequence number written, 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}
