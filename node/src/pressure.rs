//! What one worker has in work, and whether it keeps up.
//!
//! [`kvasir_core::flow`] decides; here is its state for one thread, shared by the client port and the peer
//! port of that thread, and what all workers together show. The worker feels how late it is with a timer: one
//! that was due a while ago waited behind everything that was ready before it, as every request does. It
//! looks only while there is something in work.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvasir_core::flow::{Admission, Backlog};
pub use kvasir_core::flow::{Full, Share, Shares, Work};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Between two looks at how late the worker is.
const PULSE: Duration = Duration::from_millis(50);

/// What all workers have in work and refused. Gauges but for what is refused and too late.
#[derive(Debug, Default)]
pub struct PressureStats {
    kinds: [KindStats; Work::ALL.len()],
    /// Requests of other nodes that were dropped because their deadline had passed before their turn.
    pub too_late: AtomicU64,
    /// Workers that are behind.
    pub behind: AtomicU64,
    workers: Mutex<Vec<Arc<AtomicU64>>>,
}

#[derive(Debug, Default)]
struct KindStats {
    count: AtomicU64,
    bytes: AtomicU64,
    refused: [AtomicU64; Full::ALL.len()],
}

impl PressureStats {
    /// Pieces of one kind in work, and their bytes.
    pub fn held(&self, work: Work) -> (u64, u64) {
        let kind = &self.kinds[work as usize];
        (kind.count.load(Relaxed), kind.bytes.load(Relaxed))
    }

    /// Pieces of one kind that were refused for one reason.
    pub fn refused(&self, work: Work, full: Full) -> u64 {
        self.kinds[work as usize].refused[full as usize].load(Relaxed)
    }

    /// Workers that there are or were.
    pub fn workers(&self) -> u64 {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// How late the latest of the workers is, in microseconds.
    pub fn late_us(&self) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|late| late.load(Relaxed)).max().unwrap_or(0)
    }
}

/// The state of one worker.
#[derive(Debug)]
pub struct Pressure {
    admission: RefCell<Admission>,
    backlog: RefCell<Backlog>,
    begun: Notify,
    started: Instant,
    late_us: Arc<AtomicU64>,
    stats: Arc<PressureStats>,
}

impl Pressure {
    /// A worker with nothing in work, which counts as behind once it is later than `late_max`.
    pub fn new(shares: Shares, late_max: Duration, stats: Arc<PressureStats>) -> Rc<Self> {
        let late_us = Arc::new(AtomicU64::new(0));
        stats.workers.lock().unwrap_or_else(PoisonError::into_inner).push(late_us.clone());
        Rc::new(Self {
            admission: RefCell::new(Admission::new(shares)),
            backlog: RefCell::new(Backlog::new(micros(late_max))),
            begun: Notify::new(),
            started: Instant::now(),
            late_us,
            stats,
        })
    }

    /// Feels how late the worker is for as long as the worker lives.
    pub async fn run(&self) {
        loop {
            while self.admission.borrow().is_idle() {
                // With nothing to do the worker is in time, whatever it refuses.
                self.feel(Duration::ZERO);
                self.begun.notified().await;
            }
            let due = Instant::now() + PULSE;
            sleep_until(due).await;
            self.feel(due.elapsed());
        }
    }

    fn feel(&self, late: Duration) {
        let mut backlog = self.backlog.borrow_mut();
        let before = backlog.is_behind();
        backlog.feel(micros(self.started.elapsed()), micros(late));
        self.late_us.store(backlog.late_us(), Relaxed);
        match (before, backlog.is_behind()) {
            (false, true) => self.stats.behind.fetch_add(1, Relaxed),
            (true, false) => self.stats.behind.fetch_sub(1, Relaxed),
            _ => 0,
        };
    }

    /// Whether the worker is behind.
    pub fn is_behind(&self) -> bool {
        self.backlog.borrow().is_behind()
    }

    /// Whether a piece of work would be taken on now.
    ///
    /// # Errors
    /// Why not; it is counted as refused.
    pub fn judge(&self, work: Work, piece: Share) -> Result<(), Full> {
        let verdict = self.admission.borrow_mut().judge(work, piece, self.is_behind());
        verdict.inspect_err(|full| self.count_refused(work, *full))
    }

    /// Takes a piece of work on until the permit is dropped.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn enter(self: &Rc<Self>, work: Work, piece: Share) -> Result<Permit, Full> {
        let entered = self.admission.borrow_mut().enter(work, piece, self.is_behind());
        entered.inspect_err(|full| self.count_refused(work, *full))?;
        let kind = &self.stats.kinds[work as usize];
        kind.count.fetch_add(piece.count as u64, Relaxed);
        kind.bytes.fetch_add(piece.bytes as u64, Relaxed);
        self.begun.notify_one();
        Ok(Permit { pressure: self.clone(), work, piece })
    }

    fn count_refused(&self, work: Work, full: Full) {
        self.stats.kinds[work as usize].refused[full as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request whose deadline had passed before its turn.
    pub fn too_late(&self) {
        self.stats.too_late.fetch_add(1, Relaxed);
    }

    /// When those refused should come back, in milliseconds.
    pub fn pause_ms(&self) -> u64 {
        self.admission.borrow().pause_ms()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        if self.is_behind() {
            self.stats.behind.fetch_sub(1, Relaxed);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A piece of work that is under way; its place is free again when this is dropped.
#[derive(Debug)]
pub struct Permit {
    pressure: Rc<Pressure>,
    work: Work,
    piece: Share,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pressure.admission.borrow_mut().leave(self.work, self.piece);
        let kind = &self.pressure.stats.kinds[self.work as usize];
        kind.count.fetch_sub(self.piece.count as u64, Relaxed);
        kind.bytes.fetch_sub(self.piece.bytes as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;
    use tokio::time::{advance, sleep};

    const ONE: Share = Share { count: 1, bytes: 0 };

    fn worker() -> (Rc<Pressure>, Arc<PressureStats>) {
        let stats = Arc::new(PressureStats::default());
        let share = Share { count: 8, bytes: 1_000 };
        let shares = Shares::new(share, share);
        (Pressure::new(shares, Duration::from_millis(200), stats.clone()), stats)
    }

    /// A worker that does something for so long at each of its turns, `times` times.
    async fn busy(each: Duration, times: u32) {
        for _ in 0..times {
            advance(each).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_late_again_and_again_refuses_until_it_caught_up() {
        LocalSet::new()
            .run_until(async {
                let (pressure, stats) = worker();
                let feeling = pressure.clone();
                tokio::task::spawn_local(async move { feeling.run().await });
                let first = pressure.enter(Work::Client, ONE).unwrap();
                sleep(Duration::from_millis(120)).await;
                assert!(!pressure.is_behind() && stats.late_us() < 10_000);
                busy(Duration::from_millis(400), 8).await;
                assert!(pressure.is_behind(), "{} us late", stats.late_us());
                assert_eq!(stats.behind.load(Relaxed), 1);
                assert_eq!(pressure.judge(Work::Client, ONE), Err(Full::Behind));
                assert_eq!(stats.refused(Work::Client, Full::Behind), 1);
                sleep(Duration::from_millis(120)).await;
                assert!(!pressure.is_behind());
                assert_eq!(stats.behind.load(Relaxed), 0);
                drop(first);
                assert_eq!(stats.held(Work::Client), (0, 0));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_with_nothing_to_do_is_in_time_whatever_it_refuses() {
        LocalSet::new()
            .run_until(async {
                let (pressure, _) = worker();
                let feeling = pressure.clone();
                tokio::task::spawn_local(async move { feeling.run().await });
                let first = pressure.enter(Work::Client, ONE).unwrap();
                sleep(Duration::from_millis(60)).await;
                busy(Duration::from_millis(400), 8).await;
                assert!(pressure.is_behind());
                drop(first);
                busy(Duration::from_millis(400), 2).await;
                assert!(!pressure.is_behind());
                pressure.enter(Work::Client, ONE).unwrap();
            })
            .await;
    }
}
