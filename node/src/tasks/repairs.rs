//! What anti-entropy and the scrub of the tree share with admin and metrics: the schedule and the counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvasir_core::id::NodeId;
use kvasir_core::merkle::{Figures, Past, Round, Schedule, Scope, Tree};
use kvasir_core::ring::Partition;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::replica::Trees;

/// The schedule and what was counted since the start.
#[derive(Debug)]
pub struct Repairs {
    schedule: Mutex<Schedule>,
    trees: Arc<Trees>,
    begun: Instant,
    /// A round was asked for.
    pub asked: Notify,
    /// Bytes of questions, heads of frames included.
    pub sent_bytes: AtomicU64,
    /// Bytes of answers, heads of frames included.
    pub received_bytes: AtomicU64,
    /// Keys that changed on either side.
    pub mended: AtomicU64,
    /// Comparisons that came to their end.
    pub through: AtomicU64,
    /// Comparisons that ended early.
    pub failed: AtomicU64,
}

/// Everything at one instant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RepairFigures {
    /// There is a tree.
    pub on: bool,
    /// Nothing is compared until somebody resumes it.
    pub paused: bool,
    /// The requested round that runs, or the last one.
    pub round: Option<Round>,
    /// What the schedule knows.
    pub known: Figures,
    /// Milliseconds since each partition was compared with all who own it too.
    pub ages: BTreeMap<Partition, u64>,
    /// Neighbours to be compared with first, each with the number of partitions to compare.
    pub first: Vec<(NodeId, u32)>,
    /// The last comparisons, the newest first.
    pub past: Vec<Past>,
    /// Bytes of questions.
    pub sent_bytes: u64,
    /// Bytes of answers.
    pub received_bytes: u64,
    /// Keys that changed on either side.
    pub mended: u64,
    /// Comparisons that came to their end.
    pub through: u64,
    /// Comparisons that ended early.
    pub failed: u64,
    /// The tree.
    pub tree: TreeFigures,
}

/// The tree at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeFigures {
    /// Depth of its leaves.
    pub bits: u8,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes that it never exceeds.
    pub memory_max_bytes: u64,
    /// Chunks in doubt.
    pub doubtful_chunks: u64,
    /// Changes brought to it since the start, the replay included.
    pub changes: u64,
    /// Chunks read from the data because nothing was known of them.
    pub rebuilt_chunks: u64,
    /// Chunks compared with the data.
    pub checked_chunks: u64,
    /// Leaves that were wrong, and mended.
    pub wrong_leaves: u64,
}

impl Repairs {
    /// Nothing was done yet.
    pub fn new(schedule: Schedule, trees: Arc<Trees>) -> Self {
        Self {
            schedule: Mutex::new(schedule),
            trees,
            begun: Instant::now(),
            asked: Notify::new(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            mended: AtomicU64::new(0),
            through: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// The schedule; not to be held over an await.
    pub fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a round, which also ends a pause. False if too many wait.
    pub fn request(&self, scope: Scope) -> bool {
        let taken = {
            let mut schedule = self.schedule();
            schedule.resume();
            schedule.request(scope)
        };
        self.asked.notify_one();
        taken
    }

    /// Everything at this instant.
    pub fn figures(&self) -> RepairFigures {
        let (trees, tree) = (&self.trees, self.trees.tree());
        let schedule = self.schedule();
        let load = |count: &AtomicU64| count.load(Relaxed);
        let tree = match trees.is_on() {
            false => TreeFigures::default(),
            true => TreeFigures {
                bits: tree.bits(),
                memory_bytes: tree.memory_bytes(),
                memory_max_bytes: Tree::memory_limit(tree.bits()),
                doubtful_chunks: tree.doubtful(0).0 as u64,
                changes: load(&trees.changes),
                rebuilt_chunks: load(&trees.rebuilt),
                checked_chunks: load(&trees.checked),
                wrong_leaves: load(&trees.wrong),
            },
        };
        RepairFigures {
            on: trees.is_on(),
            paused: schedule.is_paused(),
            round: schedule.round().cloned(),
            known: schedule.figures(self.now_ms()),
            ages: schedule.ages(self.now_ms()),
            first: schedule.first().collect(),
            past: schedule.past().collect(),
            sent_bytes: load(&self.sent_bytes),
            received_bytes: load(&self.received_bytes),
            mended: load(&self.mended),
            through: load(&self.through),
            failed: load(&self.failed),
            tree,
        }
    }
}
