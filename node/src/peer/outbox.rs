//! The sending side of one connection: a bounded queue and the writer that empties it.
//!
//! Everything that is queued when the writer wakes leaves in one write (up to a bound), so that a
//! burst of small requests costs one system call. A parcel becomes bytes, and its deadline becomes
//! time left, at the moment it is written; one whose deadline has passed by then is not written at
//! all. Until it is taken off the queue, nothing of it has left: its sender may be told "not sent"
//! for certain.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kvasir_core::id::NodeId;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::frame::{self, HEADER_BYTES, Header};
use super::stats::{PeerStats, add};
use crate::seam::{Fate, Net};

/// A write takes no further parcel once it has this many bytes.
const WRITE_BYTES: usize = 256 * 1024;

/// One message that waits to be written.
#[derive(Debug)]
pub(super) struct Parcel {
    /// Its header; the time left is filled in when it is written.
    pub header: Header,
    /// Its body.
    pub body: Bytes,
    /// When nobody wants it any more.
    pub deadline: Option<Instant>,
}

impl Parcel {
    fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

#[derive(Debug)]
enum Item {
    Parcel(Parcel),
    /// A finished frame that no fault touches (any more): goodbyes, delayed and doubled frames.
    Finished(Bytes),
}

/// A queue between many senders and one writer of the same thread.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<Item>>,
    bytes: Cell<usize>,
    closing: Cell<bool>,
    writer: RefCell<Option<Waker>>,
    room: tokio::sync::Notify,
}

impl Outbox {
    /// Parcels and bytes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.borrow().len(), self.bytes.get())
    }

    /// Queues a parcel unless that would break a bound. A parcel always fits an empty queue.
    /// `false`: nothing was queued.
    pub fn push(&self, parcel: Parcel, count_max: usize, bytes_max: usize) -> bool {
        let (count, bytes) = self.waiting();
        let full = count >= count_max || bytes.saturating_add(parcel.bytes()) > bytes_max;
        if count > 0 && full {
            return false;
        }
        self.push_any(Item::Parcel(parcel));
        true
    }

    /// Queues a parcel whatever the bounds: for replies, whose number is bounded by the requests
    /// in work and whose bytes hold back the reader (see [`Outbox::below`]).
    pub fn push_reply(&self, parcel: Parcel) {
        self.push_any(Item::Parcel(parcel));
    }

    /// Queues a finished frame.
    pub fn push_finished(&self, frame: Bytes) {
        self.push_any(Item::Finished(frame));
    }

    fn push_any(&self, item: Item) {
        if self.closing.get() {
            return;
        }
        self.bytes.set(self.bytes.get() + item_bytes(&item));
        self.queue.borrow_mut().push_back(item);
        self.wake();
    }

    /// Writes what is queued, then ends the writer. What is pushed from now on is dropped.
    pub fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.borrow_mut().take() {
            writer.wake();
        }
    }

    /// Waits until fewer than this many bytes are queued. The reader of a connection waits here, so
    /// a peer that asks and never reads its answers stops being read.
    pub async fn below(&self, bytes: usize) {
        while self.bytes.get() >= bytes {
            self.room.notified().await;
        }
    }

    /// Takes back a request that was not written yet. `false`: it was, at least in part.
    pub fn take_back(&self, request_id: u64) -> bool {
        let mut queue = self.queue.borrow_mut();
        let place = queue
            .iter()
            .position(|i| matches!(i, Item::Parcel(p) if p.header.request_id == request_id));
        let item = place.and_then(|place| queue.remove(place));
        if let Some(item) = &item {
            self.bytes.set(self.bytes.get() - item_bytes(item));
        }
        item.is_some()
    }

    /// Drops whatever waits and returns the ids of the requests among it.
    pub fn drain(&self) -> Vec<u64> {
        self.bytes.set(0);
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        self.room.notify_waiters();
        queue
            .into_iter()
            .filter_map(|item| match item {
                Item::Parcel(parcel) => Some(parcel.header.request_id),
                Item::Finished(_) => None,
            })
            .collect()
    }

    fn pop(&self) -> Option<Item> {
        let item = self.queue.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - item_bytes(&item));
        self.room.notify_waiters();
        Some(item)
    }

    /// Waits until something is queued (`true`) or the queue was closed and is empty (`false`).
    async fn ready(&self) -> bool {
        poll_fn(|cx| {
            if !self.queue.borrow().is_empty() {
                return Poll::Ready(true);
            }
            if self.closing.get() {
                return Poll::Ready(false);
            }
            *self.writer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

fn item_bytes(item: &Item) -> usize {
    match item {
        Item::Parcel(parcel) => parcel.bytes(),
        Item::Finished(frame) => frame.len(),
    }
}

/// Where the frames of one connection go: decides their fate and counts them.
pub(super) struct Wire {
    /// Asked for the fate of each frame.
    pub net: Rc<dyn Net>,
    /// This node.
    pub from: NodeId,
    /// The other node.
    pub to: NodeId,
    /// A write that makes no progress for this long ends the connection.
    pub stall: Duration,
    /// Counters.
    pub stats: std::sync::Arc<PeerStats>,
}

impl Wire {
    /// Empties the queue into the stream until the queue is closed. `taken` hears the id of every
    /// request at the moment from which its bytes may have left (or, with `false`, that its
    /// deadline passed before).
    ///
    /// # Errors
    /// The stream broke or stalled; what was taken may or may not have arrived.
    pub async fn pump<W: AsyncWrite + Unpin>(
        &self,
        outbox: &Rc<Outbox>,
        writer: &mut W,
        taken: &dyn Fn(u64, bool),
    ) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        while outbox.ready().await {
            let mut frames = 0;
            while buffer.len() < WRITE_BYTES {
                let Some(item) = outbox.pop() else { break };
                frames += usize::from(self.pack(outbox, item, &mut buffer, taken));
            }
            if buffer.is_empty() {
                continue;
            }
            add(&self.stats.writes, 1);
            add(&self.stats.frames_out, frames);
            add(&self.stats.bytes_out, buffer.len());
            self.write(writer, &buffer).await?;
            buffer.clear();
            if buffer.capacity() > 4 * WRITE_BYTES {
                buffer = BytesMut::new();
            }
        }
        let _ = timeout(self.stall, writer.shutdown()).await;
        Ok(())
    }

    /// Appends one item to the buffer, unless its fate or its deadline forbids it.
    fn pack(
        &self,
        outbox: &Rc<Outbox>,
        item: Item,
        buffer: &mut BytesMut,
        taken: &dyn Fn(u64, bool),
    ) -> bool {
        let mut parcel = match item {
            Item::Parcel(parcel) => parcel,
            Item::Finished(frame) => {
                buffer.extend_from_slice(&frame);
                return true;
            }
        };
        let now = Instant::now();
        let late = parcel.deadline.is_some_and(|deadline| deadline <= now);
        taken(parcel.header.request_id, !late);
        if late {
            return false;
        }
        if let Some(deadline) = parcel.deadline {
            // Rounded up, so that a live request never travels with 0 left.
            let left = (deadline - now).as_micros().div_ceil(1000);
            parcel.header.deadline_left_ms = u32::try_from(left).unwrap_or(u32::MAX);
        }
        match self.net.fate(self.from, self.to, parcel.bytes()) {
            Fate::Deliver => return frame::append(&parcel.header, &parcel.body, buffer),
            Fate::Drop => {}
            Fate::Delay(by) => self.later(outbox, &parcel, by),
            Fate::Twice(by) => {
                self.later(outbox, &parcel, by);
                return frame::append(&parcel.header, &parcel.body, buffer);
            }
        }
        false
    }

    fn later(&self, outbox: &Rc<Outbox>, parcel: &Parcel, by: Duration) {
        let Some(frame) = frame::encode(&parcel.header, &parcel.body) else { return };
        let outbox = Rc::downgrade(outbox);
        tokio::task::spawn_local(async move {
            sleep(by).await;
            if let Some(outbox) = outbox.upgrade() {
                outbox.push_finished(frame);
            }
        });
    }

    /// Writes everything; each piece must make progress within the stall time.
    pub async fn write<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match timeout(self.stall, writer.write(bytes)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        timeout(self.stall, writer.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}
