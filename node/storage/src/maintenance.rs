//! Who runs the engine's background work. The engine decides what to do and submits jobs; this
//! seam decides on which thread, or at which virtual time, they run.
//!
//! Rules for an implementation: a job runs exactly once or is dropped; jobs of [`Lane::Sync`],
//! [`Lane::Flush`], [`Lane::Compact`], [`Lane::Meta`] and [`Lane::Idle`] run one at a time per lane, in the order
//! submitted; jobs of [`Lane::Read`] may run in parallel. `submit` never runs the job itself.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A piece of background work.
pub type Job = Box<dyn FnOnce() + Send>;

/// The kinds of background work. A slow lane never delays another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Writing and syncing the commit log.
    Sync,
    /// Writing memtables out as tables.
    Flush,
    /// Merging tables and removing files.
    Compact,
    /// Lookups and scans that need the disk.
    Read,
    /// Small files of the node (identity, marks, ballots).
    Meta,
    /// Scrubs and checkpoints: work for which nobody waits.
    Idle,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Lane; 6] =
        [Lane::Sync, Lane::Flush, Lane::Compact, Lane::Read, Lane::Meta, Lane::Idle];
}

/// Runs jobs. See the rules at the top.
pub trait Maintenance: Send + Sync + 'static {
    /// Queues a job on a lane and returns at once.
    fn submit(&self, lane: Lane, job: Job);

    /// Called by a job of a lane between two pieces of work: others should go first for so long. May
    /// hold the thread; where nothing waits for real time there is nothing to do.
    fn hold_back(&self, _lane: Lane, _time: Duration) {}
}

/// Threads of the machine: one for each lane, and a bounded pool for reads. They end when this is
/// dropped and their queues are empty.
pub struct Threads {
    queues: BTreeMap<Lane, Sender<Job>>,
}

impl Threads {
    /// Starts the threads; `readers` (at least 1) serve [`Lane::Read`]. Error: the machine refused
    /// a thread.
    pub fn start(readers: usize) -> std::io::Result<Self> {
        let mut queues = BTreeMap::new();
        for lane in Lane::ALL {
            let (sender, receiver) = channel::<Job>();
            let receiver = Arc::new(Mutex::new(receiver));
            let count = if lane == Lane::Read { readers.max(1) } else { 1 };
            for number in 0..count {
                let name = format!("store-{lane:?}-{number}").to_lowercase();
                let queue = receiver.clone();
                std::thread::Builder::new().name(name).spawn(move || work(&queue))?;
            }
            queues.insert(lane, sender);
        }
        Ok(Self { queues })
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A job that panics has poisoned its store (see `engine`); the lane goes on so that
        // tickets of other jobs are answered.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl Maintenance for Threads {
    fn submit(&self, lane: Lane, job: Job) {
        if let Some(queue) = self.queues.get(&lane) {
            // Fails only if the lane's thread is gone; the job is dropped and its tickets say so.
            let _ = queue.send(job);
        }
    }

    fn hold_back(&self, _: Lane, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Queues run by hand, for tests: nothing happens until it is told to.
#[derive(Default)]
pub struct Manual {
    queues: Mutex<BTreeMap<Lane, VecDeque<Job>>>,
}

impl Manual {
    /// Empty queues.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<Lane, VecDeque<Job>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the oldest job of a lane on this thread. `false`: there was none.
    pub fn run_one(&self, lane: Lane) -> bool {
        let job = self.queues().get_mut(&lane).and_then(VecDeque::pop_front);
        match job {
            Some(job) => {
                job();
                true
            }
            None => false,
        }
    }

    /// Runs jobs, lane by lane, until no lane has any. Returns how many ran.
    pub fn run_all(&self) -> usize {
        let mut count = 0;
        loop {
            let before = count;
            for lane in Lane::ALL {
                count += usize::from(self.run_one(lane));
            }
            if count == before {
                return count;
            }
        }
    }

    /// Jobs waiting on a lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.queues().get(&lane).map_or(0, VecDeque::len)
    }

    /// Drops every waiting job, as a crash of the process would.
    pub fn drop_all(&self) {
        let dropped = std::mem::take(&mut *self.queues());
        drop(dropped);
    }
}

impl Maintenance for Manual {
    fn submit(&self, lane: Lane, job: Job) {
        self.queues().entry(lane).or_default().push_back(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn lanes_keep_order_and_survive_a_panic() {
        let threads = Threads::start(2).unwrap();
        let (sender, receiver) = channel();
        threads.submit(Lane::Flush, Box::new(|| panic!("a planted panic")));
        for number in 0..100 {
            let sender = sender.clone();
            threads.submit(Lane::Flush, Box::new(move || sender.send(number).unwrap()));
        }
        let got: Vec<i32> = receiver.iter().take(100).collect();
        assert_eq!(got, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn manual_runs_only_when_told() {
        let (manual, count) = (Manual::new(), Arc::new(AtomicUsize::new(0)));
        for lane in Lane::ALL {
            let count = count.clone();
            manual.submit(lane, Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst)));
        }
        assert_eq!((count.load(Ordering::SeqCst), manual.waiting(Lane::Read)), (0, 1));
        assert!(manual.run_one(Lane::Read) && !manual.run_one(Lane::Read));
        assert_eq!((manual.run_all(), count.load(Ordering::SeqCst)), (5, 6));
    }
}
