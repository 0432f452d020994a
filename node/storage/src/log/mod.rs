//! The commit log: every change, in order, before memory.
//!
//! [`Log::append`] frames a record once, under a short lock, straight into the bytes that will be
//! written: the place of every record (segment and offset) is known before anything is on disk. One
//! thread at a time writes what is there, syncs if somebody waits for that, and answers (`writing`);
//! what arrives meanwhile shares the next sync: group commit without a timer. It is the thread that
//! waits for an answer, if one does, or else a job on the sync lane; nobody asks for a sync that nobody
//! waits for (`waiting`).
//!
//! Invariants: sequence numbers are consecutive and in log order; a segment is synced before the
//! next one exists; after a failed sync nothing is acknowledged or written again, for good
//! (rule R6); a full disk keeps the batch and tries it again, cut back to where it began.

mod proof;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod salvage;
mod segment;
mod waiting;
mod writing;

use crate::disk::Disk;
use crate::durability::Durability;
use crate::error::{IoFailure, WriteError};
use crate::guard::lock;
use crate::health::Health;
use crate::key::TableKey;
use crate::stats::Count;
use crate::ticket::Ticket;
use bytes::Bytes;
use record::Framing;
use segment::START;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use waiting::{Goal, Waiting};
use writing::{Batch, Writer};

/// Buffered bytes at which a write is scheduled even if nobody waits for it.
const WRITE_AT_BYTES: usize = 256 << 10;

pub(crate) type Answer = Result<(), WriteError>;

/// The log of one store.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    health: Arc<Health>,
    owner: OnceLock<Box<dyn Owner>>,
    buffer: Mutex<Buffer>,
    /// Progress was made, or the thread that writes has stopped.
    progress: Condvar,
    /// Copies of what the buffer says, for those who only ask.
    buffered: AtomicUsize,
    written: AtomicU64,
    synced: AtomicU64,
    writer: Mutex<Writer>,
    closed: Mutex<Vec<ClosedSegment>>,
    /// Every record up to this one is in tables.
    floor: AtomicU64,
    now_ms: AtomicU64,
    /// When the write that is due or under way was asked for, `u64::MAX` if there is none.
    job_since_ms: AtomicU64,
    pub(crate) figures: Figures,
}

/// Who runs the log's jobs. Called without any lock of the log.
pub(crate) trait Owner: Send + Sync {
    /// Queue a call of [`Log::run`] on the sync lane.
    fn submit(&self);

    /// A batch was written, or the log failed.
    fn ran(&self);
}

/// Counters of the log.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) syncs: Count,
    pub(crate) batches: Count,
    pub(crate) bytes_written: Count,
    pub(crate) bytes_on_disk: Count,
}

struct Buffer {
    /// What is still to be written, in order; the last one may grow.
    batches: Vec<Batch>,
    /// An emptied batch, for its memory.
    spare: Vec<u8>,
    bytes: usize,
    /// Where the next record goes.
    segment: u64,
    end: u64,
    /// How much of that segment is synced.
    segment_synced: u32,
    last: u64,
    waiting: Waiting,
    /// A job is queued.
    scheduled: bool,
    /// A thread writes.
    writing: bool,
    sync_due: bool,
    new_segment_due: bool,
}

/// A segment that is complete, and the last record in it.
pub(crate) struct ClosedSegment {
    pub(crate) id: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
}

/// What became of an append.
pub(crate) struct Appended {
    /// The record's place in the order of all changes.
    pub(crate) sequence: u64,
    /// Ready when the record is stored as asked.
    pub(crate) durable: Ticket<Answer>,
    /// So much is buffered that the caller must queue a call of [`Log::run`].
    pub(crate) schedule: bool,
}

/// The file of a segment.
pub(crate) fn segment_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.log"))
}

impl Log {
    /// A log that goes on after `last`, in segments numbered from `next_id`. `closed`: segments
    /// found at recovery, all durable.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        health: Arc<Health>,
        last: u64,
        next_id: u64,
        closed: Vec<ClosedSegment>,
    ) -> Arc<Self> {
        let figures = Figures::default();
        figures.bytes_on_disk.add(closed.iter().map(|segment| segment.bytes).sum());
        Arc::new(Self {
            disk,
            dir,
            segment_bytes,
            health,
            owner: OnceLock::new(),
            buffer: Mutex::new(Buffer::starting_at(last, next_id)),
            progress: Condvar::new(),
            buffered: AtomicUsize::new(0),
            written: AtomicU64::new(last),
            synced: AtomicU64::new(last),
            writer: Mutex::new(Writer::starting_at(last)),
            closed: Mutex::new(closed),
            floor: AtomicU64::new(0),
            now_ms: AtomicU64::new(0),
            job_since_ms: AtomicU64::new(u64::MAX),
            figures,
        })
    }

    /// Says who runs jobs; once.
    pub(crate) fn belongs_to(&self, owner: Box<dyn Owner>) {
        let _ = self.owner.set(owner);
    }

    /// Appends a change to the buffer. The caller holds the gate of the store.
    pub(crate) fn append(
        self: &Arc<Self>,
        key: &TableKey,
        value: Option<&Bytes>,
        durability: Durability,
    ) -> Appended {
        self.append_record(key, Framing::of(value), durability)
    }

    /// Appends the drop of a range. The caller holds the gate of the store exclusively.
    pub(crate) fn append_drop(
        self: &Arc<Self>,
        from: &TableKey,
        to: Option<&TableKey>,
        durability: Durability,
    ) -> Appended {
        self.append_record(from, Framing::Drop(to), durability)
    }

    fn append_record(
        self: &Arc<Self>,
        key: &TableKey,
        change: Framing<'_>,
        durability: Durability,
    ) -> Appended {
        let mut buffer = lock(&self.buffer);
        let sequence = buffer.append(key, change, self.segment_bytes);
        self.buffered.store(buffer.bytes, Ordering::Relaxed);
        let schedule = buffer.bytes >= WRITE_AT_BYTES && buffer.schedule();
        drop(buffer);
        Appended { sequence, durable: self.ticket(sequence, durability), schedule }
    }

    /// A ticket for a record appended earlier.
    pub(crate) fn ticket(
        self: &Arc<Self>,
        sequence: u64,
        durability: Durability,
    ) -> Ticket<Answer> {
        let goal = match durability {
            Durability::Memory => return Ticket::ready(Ok(())),
            Durability::Periodic => Goal::Written,
            Durability::Group => Goal::Synced,
            Durability::Each => Goal::SyncedAtOnce,
        };
        match self.has_reached(sequence, goal) {
            true => Ticket::ready(Ok(())),
            false => Ticket::at(self.clone(), goal.point(sequence)),
        }
    }

    /// The sequence number given last.
    pub(crate) fn last(&self) -> u64 {
        lock(&self.buffer).last
    }

    /// Bytes applied but not yet written.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// The next record starts a new segment, so that the present one can be deleted after a flush.
    pub(crate) fn new_segment_soon(&self) {
        lock(&self.buffer).new_segment_due = true;
    }

    /// Asks for a write of what is buffered and, if `sync`, a sync. Whether to submit a job.
    pub(crate) fn nudge(&self, sync: bool) -> bool {
        let mut buffer = lock(&self.buffer);
        let unsynced = self.synced.load(Ordering::Acquire) < buffer.last;
        if buffer.batches.is_empty() && !(sync && unsynced) {
            return false;
        }
        buffer.sync_due |= sync;
        buffer.schedule()
    }

    /// Everything up to `sequence` is durable in tables: its tickets are answered.
    pub(crate) fn stored_elsewhere(&self, sequence: u64) {
        self.reached(&mut lock(&self.buffer), sequence, sequence).wake();
    }

    /// The time of the ticks.
    pub(crate) fn tell_time(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// A write is asked for at this time.
    pub(crate) fn job_starts(&self) {
        self.job_since_ms.store(self.now_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// How long the present write has been due or under way.
    pub(crate) fn job_ms(&self) -> u64 {
        match self.job_since_ms.load(Ordering::Relaxed) {
            u64::MAX => 0,
            since => self.now_ms.load(Ordering::Relaxed).saturating_sub(since),
        }
    }

    /// Whether a write or sync is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.job_since_ms.load(Ordering::Relaxed) != u64::MAX
    }

    /// Deletes segments whose every record is at or below `floor`, which is durable in tables.
    /// A file that cannot be deleted is left for the next start.
    pub(crate) fn release(&self, floor: u64) {
        let floor = self.floor.fetch_max(floor, Ordering::AcqRel).max(floor);
        let gone: Vec<ClosedSegment> =
            lock(&self.closed).extract_if(.., |segment| segment.last <= floor).collect();
        for segment in gone {
            if self.disk.remove(&segment_path(&self.dir, segment.id)).is_ok() {
                self.figures.bytes_on_disk.sub(segment.bytes);
            }
        }
    }

    /// Segments that are complete: their numbers and lengths.
    pub(crate) fn closed_segments(&self) -> Vec<(u64, u64)> {
        lock(&self.closed).iter().map(|segment| (segment.id, segment.bytes)).collect()
    }

    /// Whether a segment is complete and still needed.
    pub(crate) fn is_closed_segment(&self, id: u64) -> bool {
        lock(&self.closed).iter().any(|segment| segment.id == id)
    }

    /// Ends the log of a store whose every record up to `floor` is durable in tables. Who waits for more
    /// is told that nobody writes it.
    pub(crate) fn finish(&self, floor: u64) {
        if let Some(closed) = lock(&self.writer).finish() {
            lock(&self.closed).push(closed);
        }
        self.abandon(None);
        self.release(floor);
    }

    /// The store failed, or (`None`) is gone: nobody waits for it any longer.
    pub(crate) fn abandon(&self, reason: Option<String>) {
        let woken = {
            let mut buffer = lock(&self.buffer);
            buffer.scheduled = false;
            buffer.waiting.end(match reason {
                Some(reason) => WriteError::Failed(reason),
                None => WriteError::Abandoned,
            })
        };
        self.job_since_ms.store(u64::MAX, Ordering::Relaxed);
        self.progress.notify_all();
        woken.wake();
    }
}

impl Buffer {
    fn starting_at(last: u64, segment: u64) -> Self {
        Self {
            batches: Vec::new(),
            spare: Vec::new(),
            bytes: 0,
            segment,
            end: START as u64,
            segment_synced: 0,
            last,
            waiting: Waiting::default(),
            scheduled: false,
            writing: false,
            sync_due: false,
            new_segment_due: false,
        }
    }

    /// Frames a record at its place; gives its sequence number.
    fn append(&mut self, key: &TableKey, change: Framing<'_>, segment_bytes: u64) -> u64 {
        self.last += 1;
        let due = std::mem::take(&mut self.new_segment_due);
        if self.end > START as u64 && (due || self.end >= segment_bytes) {
            (self.segment, self.end, self.segment_synced) = (self.segment + 1, START as u64, 0);
        }
        if self.batches.last().is_none_or(|batch| batch.segment != self.segment) {
            let bytes = std::mem::take(&mut self.spare);
            let (segment, offset, first) = (self.segment, self.end, self.last);
            self.batches.push(Batch { segment, offset, first, last: first, bytes });
        }
        let length = record::framed_bytes(key, change);
        if let Some(batch) = self.batches.last_mut() {
            let (place, synced) = ((self.segment, self.end), self.segment_synced);
            record::encode(&mut batch.bytes, (self.last, key, change), place, synced);
            batch.last = self.last;
        }
        self.end += length as u64;
        self.bytes += length;
        self.last
    }

    /// Sets the flag; `true` if it was not set.
    fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }
}

/// A sync that failed: never "full", since what is stored is unknown.
fn unknown_state(path: &Path, what: &str, error: &io::Error) -> IoFailure {
    IoFailure { kind: io::ErrorKind::Other, ..IoFailure::new(path, what, error) }
}

#[cfg(test)]
mod tests;
