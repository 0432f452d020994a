//! What this node counts of moves, and how fast they may go in each direction.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvasir_core::handoff::Throttle;
use kvasir_core::id::NodeId;
use kvasir_core::ring::{Document, Handovers};
use tokio::time::Instant;

/// Counts of one direction since the start.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes of keys and sets.
    pub bytes: AtomicU64,
    /// Pieces.
    pub pieces: AtomicU64,
}

impl Traffic {
    /// Notes a piece.
    pub fn piece(&self, bytes: u64) {
        self.pieces.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// One direction: how fast, and what went.
#[derive(Debug)]
pub struct Direction {
    throttle: Mutex<Throttle>,
    /// What went.
    pub traffic: Traffic,
}

impl Direction {
    fn new(bytes_per_s: u64) -> Self {
        Self { throttle: Mutex::new(Throttle::new(bytes_per_s)), traffic: Traffic::default() }
    }

    /// The bytes a second that may go at the moment.
    pub fn rate(&self) -> u64 {
        self.throttle().rate()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts since the start, shared by all threads of a node.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    /// What comes here.
    pub taking: Direction,
    /// What goes to others.
    pub giving: Direction,
    /// Pieces that did not arrive as they were read.
    pub bad_pieces: AtomicU64,
    /// Copies taken over whole.
    pub copied: AtomicU64,
    /// Times that a copy stopped before its end; it goes on where it was.
    pub stopped: AtomicU64,
    /// Milliseconds that copies took, those that stopped too.
    pub copying_ms: AtomicU64,
    /// Copies that were handed over and removed.
    pub removed: AtomicU64,
    /// Copies on their way to others, or handed over and not removed yet.
    leaving: AtomicU64,
}

/// What metrics say of moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoveFigures {
    /// Bytes and pieces that came.
    pub taken: (u64, u64),
    /// Bytes and pieces that went to others.
    pub given: (u64, u64),
    /// Bytes a second that may come, and go, at the moment.
    pub rates: (u64, u64),
    /// Pieces that did not arrive as they were read.
    pub bad_pieces: u64,
    /// Copies taken over whole.
    pub copied: u64,
    /// Times that a copy stopped before its end.
    pub stopped: u64,
    /// Milliseconds that copies took.
    pub copying_ms: u64,
    /// Copies that were handed over and removed.
    pub removed: u64,
    /// Copies on their way to others, or handed over and not removed yet.
    pub leaving: u64,
    /// Slots that this node is to take over, and to give, by the newest document.
    pub slots: (u64, u64),
}

impl Tally {
    /// Nothing was done yet. At most `bytes_per_s` in each direction.
    pub fn new(bytes_per_s: u64) -> Self {
        Self {
            started: Instant::now(),
            taking: Direction::new(bytes_per_s),
            giving: Direction::new(bytes_per_s),
            bad_pieces: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            copying_ms: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            leaving: AtomicU64::new(0),
        }
    }

    /// The pause in milliseconds after so many bytes went in a direction. `felt` is how many requests of
    /// clients this node ever answered, and the microseconds that they waited together.
    pub fn pause(&self, direction: &Direction, bytes: u64, felt: (u64, u64)) -> u64 {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut throttle = direction.throttle();
        throttle.feel(now_ms, felt.0, felt.1);
        throttle.take(now_ms, bytes)
    }

    /// Says how many handovers are noted.
    pub fn keep_count(&self, noted: &Handovers) {
        self.leaving.store(noted.len() as u64, Relaxed);
    }

    /// What metrics say; `document` is the newest one.
    pub fn figures(&self, document: Option<&Document>, me: NodeId) -> MoveFigures {
        let moving = document.into_iter().flat_map(|document| &document.table);
        let slots = moving.filter_map(|entry| Some(entry.moving()?.1)).fold((0, 0), |sum, slot| {
            let comes = slot.place().coming().is_some_and(|to| to.node == me);
            (sum.0 + u64::from(comes), sum.1 + u64::from(!comes && slot.owner == me))
        });
        let read = |count: &AtomicU64| count.load(Relaxed);
        let traffic = |of: &Traffic| (read(&of.bytes), read(&of.pieces));
        MoveFigures {
            taken: traffic(&self.taking.traffic),
            given: traffic(&self.giving.traffic),
            rates: (self.taking.rate(), self.giving.rate()),
            bad_pieces: read(&self.bad_pieces),
            copied: read(&self.copied),
            stopped: read(&self.stopped),
            copying_ms: read(&self.copying_ms),
            removed: read(&self.removed),
            leaving: read(&self.leaving),
            slots,
        }
    }
}
