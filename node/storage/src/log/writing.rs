//! Writing what is buffered: one thread at a time, in order.

use super::segment::Segment;
use super::waiting::Woken;
use super::{Buffer, ClosedSegment, Log, WRITE_AT_BYTES};
use crate::error::IoFailure;
use crate::guard::lock;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Framed records that lie one behind the other in a segment.
pub(super) struct Batch {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: Vec<u8>,
}

/// The segment that is written to, and how far.
pub(super) struct Writer {
    segment: Option<Segment>,
    /// The last record that is in a file, and the last that is in it for good.
    written: u64,
    synced: u64,
    /// The store is closed and its directory may belong to another by now.
    finished: bool,
}

impl Writer {
    pub(super) fn starting_at(last: u64) -> Self {
        Self { segment: None, written: last, synced: last, finished: false }
    }

    /// Nothing is written from now on. Gives the segment that was written to.
    pub(super) fn finish(&mut self) -> Option<ClosedSegment> {
        self.finished = true;
        self.segment.take().map(|segment| segment.closed())
    }
}

impl Log {
    /// The job of the sync lane. `true`: submit it again, more is wanted.
    pub(crate) fn run(&self) -> bool {
        {
            let mut buffer = lock(&self.buffer);
            buffer.scheduled = false;
            if buffer.writing {
                // That thread looks again when it is done.
                return false;
            }
            buffer.writing = true;
        }
        self.write_batches()
    }

    /// Writes and syncs everything appended so far, on this thread.
    pub(crate) fn write_out(&self) {
        let mut buffer = lock(&self.buffer);
        while buffer.writing && !buffer.waiting.has_ended() {
            buffer = self.progress.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        (buffer.writing, buffer.sync_due) = (true, true);
        drop(buffer);
        self.write_batches();
    }

    /// As [`Log::run`], on a thread that waits: what is left over is given to the sync lane.
    pub(super) fn write_and_settle(&self) {
        let again = self.write_batches();
        if again {
            self.submit();
        }
        if let Some(owner) = self.owner.get() {
            owner.ran();
        }
    }

    pub(super) fn submit(&self) {
        self.job_starts();
        if let Some(owner) = self.owner.get() {
            owner.submit();
        }
    }

    /// Writes until what was asked for at the start is done. The caller has set `writing`; it is
    /// unset at the end.
    fn write_batches(&self) -> bool {
        let mut panicked = PanicGuard { log: self, armed: true };
        let again = self.write_once();
        panicked.armed = false;
        if let Some(reason) = self.health.failed() {
            self.abandon(Some(reason));
            return false;
        }
        again
    }

    fn write_once(&self) -> bool {
        let mut writer = lock(&self.writer);
        let (mut batches, sync) = {
            let mut buffer = lock(&self.buffer);
            let ended = self.health.failed().is_some() || buffer.waiting.has_ended();
            if ended || writer.finished {
                buffer.writing = false;
                drop(buffer);
                self.progress.notify_all();
                return false;
            }
            let sync = std::mem::take(&mut buffer.sync_due);
            buffer.bytes = 0;
            self.buffered.store(0, Ordering::Relaxed);
            let asked = buffer.waiting.wants_sync(self.synced.load(Ordering::Acquire));
            (std::mem::take(&mut buffer.batches), sync || asked)
        };
        let outcome = self.write(&mut writer, &mut batches, sync);
        let mut buffer = lock(&self.buffer);
        buffer.writing = false;
        let (woken, again) = match outcome {
            Ok(()) => self.settle(&mut buffer, &writer),
            Err(failure) if failure.is_full() => (self.keep(&mut buffer, batches, failure), false),
            Err(failure) => {
                // Whoever waits is told when the caller sees it.
                self.health.fail(format!("the commit log failed: {failure}"));
                return false;
            }
        };
        drop(buffer);
        drop(writer);
        self.job_since_ms.store(u64::MAX, Ordering::Relaxed);
        self.progress.notify_all();
        woken.wake();
        again
    }

    /// Writes batches, taking away each that is complete, and syncs. Error: what is left in `batches`
    /// is not, or not completely, in a file.
    fn write(
        &self,
        writer: &mut Writer,
        batches: &mut Vec<Batch>,
        sync: bool,
    ) -> Result<(), IoFailure> {
        let mut spare = Vec::new();
        while let Some(batch) = batches.first() {
            if let Some(old) = writer.segment.as_mut().filter(|old| old.id() != batch.segment) {
                old.close()?;
                self.figures.syncs.add(1);
                writer.synced = writer.written;
                let closed = writer.segment.take().map(|old| old.closed());
                lock(&self.closed).extend(closed);
                // It may have been flushed before it was complete.
                self.release(0);
            }
            if writer.segment.is_none() {
                let (id, first) = (batch.segment, batch.first);
                let created =
                    Segment::create(&*self.disk, &self.dir, id, first, self.segment_bytes)?;
                self.figures.syncs.add(1);
                self.figures.bytes_on_disk.add(created.length());
                writer.segment = Some(created);
            }
            if let Some(segment) = &mut writer.segment {
                segment.append(batch, sync)?;
                self.figures.batches.add(1);
                self.figures.bytes_written.add(batch.bytes.len() as u64);
                self.figures.bytes_on_disk.add(batch.bytes.len() as u64);
                writer.written = batch.last;
            }
            spare = batches.remove(0).bytes;
        }
        if let Some(segment) = writer.segment.as_mut().filter(|_| sync) {
            segment.sync()?;
            self.figures.syncs.add(1);
            writer.synced = writer.written;
        }
        if spare.capacity() <= 4 * WRITE_AT_BYTES {
            spare.clear();
            lock(&self.buffer).spare = spare;
        }
        Ok(())
    }

    /// Notes progress and takes those who waited for it.
    pub(super) fn reached(&self, buffer: &mut Buffer, written: u64, synced: u64) -> Woken {
        let written = self.written.fetch_max(written, Ordering::AcqRel).max(written);
        let synced = self.synced.fetch_max(synced, Ordering::AcqRel).max(synced);
        buffer.waiting.due(written, synced)
    }

    fn settle(&self, buffer: &mut Buffer, writer: &Writer) -> (Woken, bool) {
        self.health.accepts_again();
        buffer.waiting.accepts();
        if let Some(segment) = writer.segment.as_ref().filter(|s| s.id() == buffer.segment) {
            buffer.segment_synced = u32::try_from(segment.synced()).unwrap_or(u32::MAX);
        }
        if writer.synced > self.synced.load(Ordering::Acquire) {
            buffer.waiting.group_ends();
        }
        let woken = self.reached(buffer, writer.written, writer.synced);
        let wanted =
            buffer.sync_due || buffer.waiting.needs_job() || buffer.bytes >= WRITE_AT_BYTES;
        (woken, wanted && buffer.schedule())
    }

    /// A full disk: the batches go back to the front; their writers learn that they are not stored.
    fn keep(&self, buffer: &mut Buffer, mut batches: Vec<Batch>, failure: IoFailure) -> Woken {
        // Records that arrived meanwhile follow the last batch that was taken.
        batches.append(&mut buffer.batches);
        buffer.batches = batches;
        buffer.bytes = buffer.batches.iter().map(|batch| batch.bytes.len()).sum();
        self.buffered.store(buffer.bytes, Ordering::Relaxed);
        self.health.refuse(failure.clone());
        buffer.waiting.refuse(buffer.last, failure)
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
            let reason = "the thread that writes the commit log panicked";
            self.log.health.fail(reason.to_string());
            self.log.abandon(Some(reason.to_string()));
        }
    }
}
