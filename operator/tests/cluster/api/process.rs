//! One life of an operator: counts what it writes and kills it before or after the n-th write, or
//! while that write is still on its way.
//!
//! Death is a future that never completes: whoever runs the operator races it against
//! [`Process::died`] and drops it, as a kill would. From then on nothing that this life sends
//! arrives. Writes to Kubernetes and to nodes count alike; events and leases do not, as nothing is
//! decided by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// On which side of a write the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The write is not sent.
    Before,
    /// The write is done, its answer is not seen.
    After,
    /// The write is on its way until the test lets it arrive; its answer is not seen. What a
    /// leader sent that lost its lease meanwhile.
    Late,
}

/// When a process dies: at its n-th write, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Which write.
    pub write: usize,
    /// On which side of it.
    pub side: Side,
}

/// One life.
#[derive(Debug)]
pub struct Process {
    /// What the audit calls it.
    pub name: String,
    death: Option<Death>,
    writes: AtomicUsize,
    dead: AtomicBool,
    died: Notify,
    sent: Notify,
    arrival: Notify,
}

impl Process {
    /// A life that ends at `death`, or when it is dropped.
    pub fn new(name: impl Into<String>, death: Option<Death>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            death,
            writes: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            sent: Notify::new(),
            arrival: Notify::new(),
        })
    }

    /// Writes sent so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Is it over?
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Ends now.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_waiters();
        self.died.notify_one();
    }

    /// Waits for its end.
    pub async fn died(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Waits until its late write is on its way.
    pub async fn on_its_way(&self) {
        self.sent.notified().await;
    }

    /// Lets the late write arrive.
    pub fn arrive(&self) {
        self.arrival.notify_one();
    }

    /// Sends one request; `counts` for a write that something is decided by.
    pub async fn send<R>(&self, counts: bool, request: impl FnOnce() -> R) -> R {
        if self.is_dead() {
            return std::future::pending().await;
        }
        let number = if counts { self.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        let dies = |side| counts && self.death == Some(Death { write: number, side });
        if dies(Side::Before) {
            self.kill();
            return std::future::pending().await;
        }
        if dies(Side::Late) {
            self.sent.notify_one();
            self.arrival.notified().await;
        }
        let answer = request();
        if dies(Side::After) || dies(Side::Late) {
            self.kill();
            return std::future::pending().await;
        }
        answer
    }
}
