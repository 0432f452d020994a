//! The commit log: every change, in order, before memory.
//!
//! [`Log::append`] puts a record into a buffer under a short lock; one job on the sync lane at a
//! time ([`Log::run`]) frames what is there, writes it, syncs if anyone needs it, and answers the
//! tickets. What arrives meanwhile shares the next sync: group commit without a timer.
//!
//! Invariants: sequence numbers are consecutive and in log order; a segment is synced before the
//! next one exists; after a failed sync nothing is acknowledged or written again, for good
//! (rule R6); a full disk keeps the batch and tries it again, cut back to where it began.

pub(crate) mod record;
pub(crate) mod replay;
mod segment;

use crate::disk::Disk;
use crate::durability::Durability;
use crate::error::{IoFailure, WriteError};
use crate::guard::lock;
use crate::health::Health;
use crate::key::TableKey;
use crate::stats::Count;
use crate::ticket::{Completer, Ticket};
use bytes::Bytes;
use record::Record;
use segment::Segment;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Buffered bytes at which a write is scheduled even if nobody waits for it.
const WRITE_AT_BYTES: usize = 256 << 10;

type Answer = Result<(), WriteError>;

/// The log of one store.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    health: Arc<Health>,
    buffer: Mutex<Buffer>,
    /// Bytes in the buffer, for those who only ask how many.
    buffered: AtomicUsize,
    writer: Mutex<Writer>,
    closed: Mutex<Vec<ClosedSegment>>,
    /// When the job that is queued or running was submitted, `u64::MAX` if there is none.
    job_since_ms: AtomicU64,
    pub(crate) figures: Figures,
}

/// Counters of the log.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) syncs: Count,
    pub(crate) batches: Count,
    pub(crate) bytes_written: Count,
    pub(crate) bytes_on_disk: Count,
}

#[derive(Default)]
struct Buffer {
    records: Vec<Record>,
    bytes: usize,
    last: u64,
    written: u64,
    synced: u64,
    waiting_written: Vec<(u64, Completer<Answer>)>,
    waiting_synced: Vec<(u64, Completer<Answer>)>,
    /// A job is queued or running.
    scheduled: bool,
    sync_due: bool,
    new_segment_due: bool,
}

struct Writer {
    segment: Option<Segment>,
    next_id: u64,
    /// The store is closed and its directory may belong to another by now.
    finished: bool,
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
    /// The caller must submit a job that calls [`Log::run`].
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
    ) -> Self {
        let figures = Figures::default();
        figures.bytes_on_disk.add(closed.iter().map(|segment| segment.bytes).sum());
        let buffer = Buffer { last, written: last, synced: last, ..Buffer::default() };
        Self {
            disk,
            dir,
            segment_bytes,
            health,
            buffer: Mutex::new(buffer),
            buffered: AtomicUsize::new(0),
            writer: Mutex::new(Writer { segment: None, next_id, finished: false }),
            closed: Mutex::new(closed),
            job_since_ms: AtomicU64::new(u64::MAX),
            figures,
        }
    }

    /// Appends a change to the buffer. The caller holds the gate of the store.
    pub(crate) fn append(
        &self,
        key: &TableKey,
        value: Option<&Bytes>,
        durability: Durability,
    ) -> Appended {
        let mut buffer = lock(&self.buffer);
        buffer.last += 1;
        let sequence = buffer.last;
        let record = Record { sequence, key: key.clone(), value: value.cloned() };
        buffer.bytes += record.stored_bytes();
        self.buffered.store(buffer.bytes, Ordering::Relaxed);
        buffer.records.push(record);
        let durable = buffer.wait_for(sequence, durability);
        let asked = durability != Durability::Memory || buffer.bytes >= WRITE_AT_BYTES;
        let schedule = asked && buffer.schedule();
        Appended { sequence, durable, schedule }
    }

    /// A ticket for a record appended earlier, and whether a job must be submitted.
    pub(crate) fn durable(&self, sequence: u64, durability: Durability) -> (Ticket<Answer>, bool) {
        let mut buffer = lock(&self.buffer);
        let ticket = buffer.wait_for(sequence, durability);
        let schedule = !ticket.is_ready() && buffer.schedule();
        (ticket, schedule)
    }

    /// The sequence number given last.
    pub(crate) fn last(&self) -> u64 {
        lock(&self.buffer).last
    }

    /// Bytes applied but not yet written.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    /// The next batch starts a new segment, so that the present one can be deleted after a flush.
    pub(crate) fn new_segment_soon(&self) {
        lock(&self.buffer).new_segment_due = true;
    }

    /// Asks for a write of what is buffered and, if `sync`, a sync. Whether to submit a job.
    pub(crate) fn nudge(&self, sync: bool) -> bool {
        let mut buffer = lock(&self.buffer);
        let unsynced = buffer.synced < buffer.last;
        if buffer.records.is_empty() && !(sync && unsynced) {
            return false;
        }
        buffer.sync_due |= sync;
        buffer.schedule()
    }

    /// Everything up to `sequence` is durable in tables: its tickets are answered.
    pub(crate) fn stored_elsewhere(&self, sequence: u64) {
        let due = lock(&self.buffer).reached(sequence, sequence);
        complete(due, &Ok(()));
    }

    /// A job was submitted at this time of the ticks.
    pub(crate) fn job_starts(&self, now_ms: u64) {
        self.job_since_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn job_ends(&self) {
        self.job_since_ms.store(u64::MAX, Ordering::Relaxed);
    }

    /// How long the present job has been under way.
    pub(crate) fn job_ms(&self, now_ms: u64) -> u64 {
        match self.job_since_ms.load(Ordering::Relaxed) {
            u64::MAX => 0,
            since => now_ms.saturating_sub(since),
        }
    }

    /// Whether a write or sync is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.job_since_ms.load(Ordering::Relaxed) != u64::MAX
    }

    /// The job of the sync lane. `true`: submit it again, more has arrived.
    pub(crate) fn run(&self) -> bool {
        let mut panicked = PanicGuard { log: self, armed: true };
        let again = self.run_batch();
        panicked.armed = false;
        if let Some(reason) = self.health.failed() {
            self.abandon(&reason);
            return false;
        }
        again
    }

    fn run_batch(&self) -> bool {
        if self.health.failed().is_some() {
            return false;
        }
        let (records, sync, new_segment) = {
            let mut buffer = lock(&self.buffer);
            let sync = std::mem::take(&mut buffer.sync_due) || !buffer.waiting_synced.is_empty();
            let new_segment = std::mem::take(&mut buffer.new_segment_due);
            buffer.bytes = 0;
            self.buffered.store(0, Ordering::Relaxed);
            (std::mem::take(&mut buffer.records), sync, new_segment)
        };
        match self.write(&records, sync, new_segment) {
            Ok((written, synced)) => self.settle(written, synced),
            Err(failure) if failure.is_full() => self.keep(records, new_segment, failure),
            Err(failure) => {
                self.health.fail(format!("the commit log failed: {failure}"));
                false
            }
        }
    }

    /// Writes a batch; gives the last records written and synced.
    fn write(
        &self,
        records: &[Record],
        sync: bool,
        new_segment: bool,
    ) -> Result<(u64, u64), IoFailure> {
        let mut writer = lock(&self.writer);
        let (mut written, mut synced) = {
            let buffer = lock(&self.buffer);
            (buffer.written, buffer.synced)
        };
        if writer.finished {
            return Ok((written, synced));
        }
        let over = |s: &Segment| s.length() >= self.segment_bytes || (new_segment && s.last() > 0);
        if let Some(segment) = writer.segment.take_if(|segment| over(segment)) {
            self.close_segment(segment)?;
        }
        if writer.segment.is_none() {
            // Closed segments are synced: whatever was written is durable.
            synced = written;
        }
        if let Some(first) = records.first() {
            let mut segment = match writer.segment.take() {
                Some(segment) => segment,
                None => self.create_segment(&mut writer.next_id, first.sequence)?,
            };
            let appended = segment.append(records);
            written = segment.last().max(written);
            writer.segment = Some(segment);
            let bytes = appended?;
            self.figures.batches.add(1);
            self.figures.bytes_written.add(bytes);
            self.figures.bytes_on_disk.add(bytes);
        }
        if let Some(segment) = writer.segment.as_mut().filter(|_| sync) {
            segment.sync()?;
            self.figures.syncs.add(1);
            synced = written;
        }
        Ok((written, synced))
    }

    fn create_segment(&self, next_id: &mut u64, first: u64) -> Result<Segment, IoFailure> {
        let created = Segment::create(&*self.disk, &self.dir, *next_id, first)?;
        *next_id += 1;
        self.figures.syncs.add(1);
        self.figures.bytes_on_disk.add(created.length());
        Ok(created)
    }

    fn close_segment(&self, mut segment: Segment) -> Result<(), IoFailure> {
        segment.sync()?;
        self.figures.syncs.add(1);
        let (id, last, bytes) = (segment.id(), segment.last(), segment.length());
        lock(&self.closed).push(ClosedSegment { id, last, bytes });
        Ok(())
    }

    fn settle(&self, written: u64, synced: u64) -> bool {
        let (due, again) = {
            let mut buffer = lock(&self.buffer);
            let due = buffer.reached(written, synced);
            buffer.scheduled = false;
            let waited = !buffer.waiting_synced.is_empty() || !buffer.waiting_written.is_empty();
            let wanted = buffer.sync_due || waited || buffer.bytes >= WRITE_AT_BYTES;
            (due, wanted && buffer.schedule())
        };
        self.health.accepts_again();
        complete(due, &Ok(()));
        again
    }

    /// A full disk: the batch goes back to the front; its writers learn that it is not stored yet.
    fn keep(&self, mut records: Vec<Record>, new_segment: bool, failure: IoFailure) -> bool {
        let due = {
            let mut buffer = lock(&self.buffer);
            records.append(&mut buffer.records);
            buffer.records = records;
            buffer.bytes = buffer.records.iter().map(Record::stored_bytes).sum();
            self.buffered.store(buffer.bytes, Ordering::Relaxed);
            buffer.new_segment_due |= new_segment;
            buffer.scheduled = false;
            buffer.reached(u64::MAX, u64::MAX)
        };
        self.health.refuse(failure.clone());
        complete(due, &Err(WriteError::Full(failure)));
        false
    }

    /// The store failed: nobody waits for it any longer.
    pub(crate) fn abandon(&self, reason: &str) {
        let due = {
            let mut buffer = lock(&self.buffer);
            buffer.scheduled = false;
            buffer.reached(u64::MAX, u64::MAX)
        };
        complete(due, &Err(WriteError::Failed(reason.to_string())));
    }

    /// Deletes segments whose every record is at or below `floor`, which is durable in tables.
    /// A file that cannot be deleted is left for the next start.
    pub(crate) fn release(&self, floor: u64) {
        let gone: Vec<ClosedSegment> =
            lock(&self.closed).extract_if(.., |segment| segment.last <= floor).collect();
        for segment in gone {
            if self.disk.remove(&segment_path(&self.dir, segment.id)).is_ok() {
                self.figures.bytes_on_disk.sub(segment.bytes);
            }
        }
    }

    /// Ends the log of a store whose every record is durable in tables (`floor`).
    pub(crate) fn finish(&self, floor: u64) {
        let segment = {
            let mut writer = lock(&self.writer);
            writer.finished = true;
            writer.segment.take()
        };
        if let Some(segment) = segment {
            let (id, last, bytes) = (segment.id(), segment.last(), segment.length());
            drop(segment);
            lock(&self.closed).push(ClosedSegment { id, last, bytes });
        }
        self.release(floor);
    }
}

impl Buffer {
    /// Sets the flag; `true` if it was not set.
    fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    fn wait_for(&mut self, sequence: u64, durability: Durability) -> Ticket<Answer> {
        let (reached, waiting) = match durability {
            Durability::Memory => return Ticket::ready(Ok(())),
            Durability::Periodic => (self.written, &mut self.waiting_written),
            Durability::Group | Durability::Each => (self.synced, &mut self.waiting_synced),
        };
        if sequence <= reached {
            return Ticket::ready(Ok(()));
        }
        let (ticket, completer) = Ticket::pair();
        waiting.push((sequence, completer));
        ticket
    }

    /// Notes progress (never beyond what was appended) and takes the tickets that are due.
    fn reached(&mut self, written: u64, synced: u64) -> Vec<Completer<Answer>> {
        if written != u64::MAX {
            self.written = self.written.max(written);
            self.synced = self.synced.max(synced);
        }
        let mut due = Vec::new();
        for (limit, waiting) in
            [(written, &mut self.waiting_written), (synced, &mut self.waiting_synced)]
        {
            due.extend(waiting.extract_if(.., |(at, _)| *at <= limit).map(|(_, owed)| owed));
        }
        due
    }
}

/// A panic inside a batch leaves an unknown state: the store must not go on.
struct PanicGuard<'a> {
    log: &'a Log,
    armed: bool,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            let reason = "the job that writes the commit log panicked";
            self.log.health.fail(reason.to_string());
            self.log.abandon(reason);
        }
    }
}

fn complete(due: Vec<Completer<Answer>>, answer: &Answer) {
    for owed in due {
        owed.complete(answer.clone());
    }
}

/// A sync that failed: never "full", since what is stored is unknown.
fn unknown_state(path: &Path, what: &str, error: &io::Error) -> IoFailure {
    IoFailure { kind: io::ErrorKind::Other, ..IoFailure::new(path, what, error) }
}

#[cfg(test)]
mod tests;
