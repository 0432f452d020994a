//! Reading the log back at open.
//!
//! The last segment may end in a torn write: it is cut back, durably, before any new segment
//! exists, so that a later start never meets it in the middle. Everything else that does not read
//! as written is damage and stops the open (rule R4); zeros behind the last record are neither. Missing
//! segments show as a jump in the sequence numbers. A segment that is followed by one which begins at or
//! below the floor is not needed any more, and not read. Cutting also syncs: records that a killed process
//! left in the page cache are
//! served from now on, so they must be durable from now on. Running it twice changes nothing.

use super::proof::Search;
use super::record::{self, Record};
use super::segment::{SEGMENT, START};
use super::{ClosedSegment, segment_path};
use crate::disk::Disk;
use crate::error::{Damage, IoFailure, OpenError};
use crate::{meta, sealed};
use bytes::Bytes;
use std::path::Path;

/// What the log held.
#[derive(Default)]
pub(crate) struct Replayed {
    /// The last sequence number found or known to be in tables.
    pub(crate) last: u64,
    /// The number of the next segment.
    pub(crate) next_id: u64,
    /// The segments found.
    pub(crate) closed: Vec<ClosedSegment>,
    /// Records handed to `apply`.
    pub(crate) records: u64,
    /// Bytes cut off the end of the last segment.
    pub(crate) torn_bytes: u64,
}

/// The numbers of the segments of a directory, ascending.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, IoFailure> {
    let names = disk.list(dir).map_err(|error| IoFailure::new(dir, "list", &error))?;
    let id = |name: &String| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok();
    let mut ids: Vec<u64> = names.iter().filter_map(id).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Hands every record above `floor` to `apply`, in order.
pub(crate) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    floor: u64,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<Replayed, OpenError> {
    let ids = segments(disk, dir)?;
    let mut all = Replayed { last: floor, next_id: 1, ..Replayed::default() };
    let mut seen = 0;
    for (at, id) in ids.iter().enumerate() {
        let is_last = Some(id) == ids.last();
        if let Some(next) = ids.get(at + 1)
            && first_of(disk, dir, *next).is_some_and(|first| first <= floor + 1)
        {
            // All of it is in tables: its removal was cut short, and its bytes do not matter.
            all.closed.push(ClosedSegment { id: *id, last: floor, bytes: 0 });
            continue;
        }
        replay_segment(disk, dir, *id, is_last, floor, &mut seen, &mut all, apply)?;
    }
    // Names that a killed process left unsynced are relied on from now on.
    disk.sync_dir(dir).map_err(|error| IoFailure::new(dir, "sync the directory", &error))?;
    Ok(all)
}

/// The first sequence number of a segment by its head; `None` if that cannot be read.
fn first_of(disk: &dyn Disk, dir: &Path, id: u64) -> Option<u64> {
    let path = segment_path(dir, id);
    let mut head = [0; START];
    disk.open_read(&path).ok()?.read_at(0, &mut head).ok()?;
    let body = sealed::open(&path, &SEGMENT, id, &head).ok()?;
    (body.len() == 8).then(|| sealed::u64_at(body, 0))
}

/// Reads a complete segment of `length` bytes and checks it. Errors: damaged, or the disk failed.
pub(crate) fn verify(disk: &dyn Disk, dir: &Path, id: u64, length: u64) -> Result<(), OpenError> {
    let path = segment_path(dir, id);
    let bytes = Bytes::from(meta::read_whole(disk, &path)?.unwrap_or_default());
    let damaged = |offset: usize, detail: &str| -> OpenError {
        Damage { path: path.clone(), offset: offset as u64, detail: detail.into() }.into()
    };
    sealed::open(&path, &SEGMENT, id, &bytes)?;
    let mut at = START;
    while (at as u64) < length {
        let found = record::decode(&bytes, id, at);
        at += found.ok_or_else(|| damaged(at, "no sound record here"))?.length;
    }
    match at as u64 == length {
        true => Ok(()),
        false => Err(damaged(at, "longer than it was when it was closed")),
    }
}

fn replay_segment(
    disk: &dyn Disk,
    dir: &Path,
    id: u64,
    is_last: bool,
    floor: u64,
    seen: &mut u64,
    all: &mut Replayed,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    let path = segment_path(dir, id);
    let bytes = Bytes::from(meta::read_whole(disk, &path)?.unwrap_or_default());
    let damaged = |offset: usize, detail: String| -> OpenError {
        Damage { path: path.clone(), offset: offset as u64, detail }.into()
    };
    let gap = |sequence: u64, seen: u64| sequence > seen.max(floor) + 1;
    let mut at = match sealed::open(&path, &SEGMENT, id, &bytes) {
        Ok(body) if body.len() == 8 => {
            let first = sealed::u64_at(body, 0);
            if gap(first, *seen) {
                let missing = (*seen).max(floor) + 1;
                return Err(damaged(0, format!("records {missing} to {} are missing", first - 1)));
            }
            START
        }
        Ok(_) => return Err(damaged(0, "its head has an unknown shape".into())),
        Err(OpenError::Damaged(_)) if is_last && !Search::new(&bytes, id).proves_head() => {
            all.torn_bytes += bytes.len() as u64;
            let failed = |error| IoFailure::new(&path, "remove a torn segment", &error);
            return Ok(disk.remove(&path).map_err(failed)?);
        }
        Err(error) => return Err(error),
    };
    while at < bytes.len() {
        let Some(found) = record::decode(&bytes, id, at) else {
            // Zeros written ahead are the usual end.
            let torn = bytes[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if is_last && (torn == 0 || !Search::new(&bytes, id).proves_damage(at)) {
                all.torn_bytes += torn as u64;
                break;
            }
            return Err(damaged(at, "no sound record here, and it is not the end".into()));
        };
        let sequence = found.record.sequence;
        if sequence <= *seen || gap(sequence, *seen) {
            return Err(damaged(at, format!("record {sequence} follows record {seen}")));
        }
        if found.synced > at as u64 {
            // No writer of ours: it would vouch for bytes that are not written yet.
            return Err(damaged(at, "claims that bytes behind it were synced before it".into()));
        }
        *seen = sequence;
        if sequence > floor {
            apply(found.record)?;
            all.records += 1;
        }
        at += found.length;
    }
    if is_last {
        let failed = |error| IoFailure::new(&path, "cut the torn end", &error);
        disk.truncate(&path, at as u64).map_err(failed)?;
    }
    all.last = floor.max(*seen);
    all.next_id = id + 1;
    all.closed.push(ClosedSegment { id, last: *seen, bytes: at as u64 });
    Ok(())
}
