//! Reading a log that is damaged before its end: every sound record, and what is missing.
//!
//! Sequence numbers are consecutive, so what is missing between two sound records is known, though not
//! which keys it changed. Where nothing sound follows, the number of records that the bad bytes may have
//! held bounds it. Nothing is cut or removed here.

use super::proof::Search;
use super::record::{self, HEAD_BYTES, Record};
use super::replay::{Replayed, segments};
use super::segment::{SEGMENT, START};
use super::{ClosedSegment, segment_path};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::{meta, sealed};
use bytes::Bytes;
use std::path::Path;

/// What a damaged log lacks.
#[derive(Default)]
pub(crate) struct Missing {
    pub(crate) damages: Vec<Damage>,
    /// The last sequence number that is missing, 0 if none is.
    pub(crate) to: u64,
    /// How many are missing, at most.
    pub(crate) count: u64,
}

/// A reading under way.
struct Reading<'a> {
    floor: u64,
    /// The last sequence number accounted for: read, or known to be missing.
    seen: u64,
    /// Bytes that may hold records behind `seen` and end before anything sound.
    unread: u64,
    missing: Missing,
    all: Replayed,
    apply: &'a mut dyn FnMut(Record) -> Result<(), OpenError>,
}

/// Hands every sound record above `floor` to `apply`, in order.
pub(crate) fn read(
    disk: &dyn Disk,
    dir: &Path,
    floor: u64,
    apply: &mut dyn FnMut(Record) -> Result<(), OpenError>,
) -> Result<(Replayed, Missing), OpenError> {
    let ids = segments(disk, dir)?;
    let all = Replayed { last: floor, next_id: 1, ..Replayed::default() };
    let missing = Missing::default();
    let mut reading = Reading { floor, seen: floor, unread: 0, missing, all, apply };
    for id in &ids {
        let path = segment_path(dir, *id);
        let bytes = Bytes::from(meta::read_whole(disk, &path)?.unwrap_or_default());
        reading.segment(&path, *id, &bytes, Some(id) == ids.last())?;
    }
    if reading.unread > 0 {
        // A record takes no fewer bytes than its head and the shortest key.
        reading.reaches(reading.seen + 1 + reading.unread / (HEAD_BYTES as u64 + 2 + 9));
    }
    reading.all.last = reading.seen;
    Ok((reading.all, reading.missing))
}

impl Reading<'_> {
    /// A sequence number that is known to follow everything read so far.
    fn reaches(&mut self, next: u64) {
        if next > self.seen + 1 {
            self.missing.to = next - 1;
            self.missing.count += next - 1 - self.seen;
            self.seen = next - 1;
        }
        self.unread = 0;
    }

    fn damage(&mut self, path: &Path, at: usize, detail: &str) {
        let (path, offset) = (path.to_path_buf(), at as u64);
        self.missing.damages.push(Damage { path, offset, detail: detail.into() });
    }

    fn segment(
        &mut self,
        path: &Path,
        id: u64,
        bytes: &Bytes,
        is_last: bool,
    ) -> Result<(), OpenError> {
        let search = Search::new(bytes, id);
        match sealed::open(path, &SEGMENT, id, bytes) {
            Ok(body) if body.len() == 8 => self.reaches(sealed::u64_at(body, 0)),
            Err(error @ OpenError::NewerVersion { .. }) => return Err(error),
            _ if is_last && !search.proves_head() => {}
            _ => self.damage(path, 0, "its head is not sound"),
        }
        let mut at = START;
        while at < bytes.len() {
            if let Some(found) = record::decode(bytes, id, at) {
                at += found.length;
                self.record(found.record)?;
                continue;
            }
            if bytes[at..].iter().all(|byte| *byte == 0) || (is_last && !search.proves_damage(at)) {
                break;
            }
            self.damage(path, at, "no sound record here, and it is not the end");
            let next = search.next_sound(at + 1);
            let end = next.unwrap_or(bytes.len());
            self.unread += (end - at) as u64;
            at = end;
        }
        self.all.next_id = id + 1;
        self.all.closed.push(ClosedSegment { id, last: self.seen, bytes: bytes.len() as u64 });
        Ok(())
    }

    fn record(&mut self, record: Record) -> Result<(), OpenError> {
        if record.sequence > self.seen {
            self.reaches(record.sequence);
            self.seen = record.sequence;
            (self.apply)(record)?;
            self.all.records += 1;
        }
        // At or below the floor, or already there: it says where the log stands, and no more.
        self.unread = 0;
        debug_assert!(self.seen >= self.floor);
        Ok(())
    }
}
