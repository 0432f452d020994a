//! What one worker has learned of how fast the owners answer, and what it does with it: whom it asks
//! first, when it asks one more, and how often it may (`kvasir_core::quorum::speed`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::quorum::{Budget, Speeds};
use tokio::time::Instant;

use super::plan::Plan;

/// The longest that the first owners of a read may be silent before others are asked too.
pub(super) const PATIENCE: Duration = Duration::from_millis(150);
/// The shortest: waking up earlier costs more than the wait.
const PATIENCE_MIN: Duration = Duration::from_millis(2);

/// In powers of two: eight times slower is much slower.
const MUCH_SLOWER: u32 = 3;

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Counters of all coordinators of a node.
#[derive(Debug, Default)]
pub struct Figures {
    /// Reads for which one owner more than needed was asked, because the others were slow.
    pub hedged: AtomicU64,
    /// Reads that would have been, had the budget allowed it.
    pub hedges_withheld: AtomicU64,
    /// Reads whose owners did not hold the same.
    pub differing: AtomicU64,
    /// Sets sent to owners that lacked something of what a read found.
    pub repairs: AtomicU64,
    /// Requests handed to another node.
    pub forwarded: AtomicU64,
    /// Writes made again because a replica held something above them, where the last write wins.
    pub covering_rounds: AtomicU64,
    /// Frames that took a write to another data center.
    pub crossings: AtomicU64,
    /// Times that owners in another data center were sent a write from here, or through another of them,
    /// because the first failed, was slow or did not speak for them.
    pub relays_given_up: AtomicU64,
}

impl Figures {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// What one worker has learned; shared by its requests.
pub struct Learned {
    /// How long owners take to answer a read.
    speeds: RefCell<Speeds>,
    /// How long they take to store a write, or to coordinate a request that was handed to them.
    tasks: RefCell<Speeds>,
    budget: RefCell<Budget>,
    begun: Instant,
    epoch: Cell<u64>,
    /// Counters, shared by all workers.
    pub figures: Arc<Figures>,
}

impl Learned {
    /// Nothing yet.
    pub fn new(figures: Arc<Figures>) -> Rc<Self> {
        Rc::new(Self {
            speeds: RefCell::default(),
            tasks: RefCell::default(),
            budget: RefCell::default(),
            begun: Instant::now(),
            epoch: Cell::new(0),
            figures,
        })
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Notes how long an owner took to answer a read, or has been silent.
    pub(super) fn note(&self, node: NodeId, took: Duration) {
        self.speeds.borrow_mut().note(node, micros(took), self.now_ms());
    }

    /// Notes how long an owner took to store a write or to coordinate a request, or has been silent.
    pub(super) fn note_task(&self, node: NodeId, took: Duration) {
        self.tasks.borrow_mut().note(node, micros(took), self.now_ms());
    }

    /// As [`Self::order`], for a whole request to be handed over: one that was found much slower than others comes
    /// later. A write cannot be handed to a second node while the first is silent, so it keeps away until
    /// something shows that the node recovered: what it stores for others, or a read.
    pub(super) fn order_of_coordinators(&self, plan: &Plan, write: bool) -> Vec<NodeId> {
        let mut owners = self.order(plan);
        let (now_ms, of_reads) = (self.now_ms(), self.speeds.borrow());
        let mut of_tasks = self.tasks.borrow_mut();
        let mut class = |node: &NodeId| match write {
            true => of_tasks.last_class(*node).max(of_reads.last_class(*node)),
            false => of_tasks.class(*node, now_ms),
        };
        let classes: BTreeMap<NodeId, u32> =
            owners.iter().map(|node| (*node, class(node))).collect();
        let fastest = classes.values().min().copied().unwrap_or(0);
        owners.sort_by_cached_key(|node| {
            (plan.shares_slot(*node), classes[node] >= fastest + MUCH_SLOWER)
        });
        owners
    }

    /// The readers in the order in which they are asked: as the plan has them, but slow ones later, and
    /// last a copy that changes hands, since what it tells has to be stored at its successor too.
    pub(super) fn order(&self, plan: &Plan) -> Vec<NodeId> {
        self.forget_strangers(plan);
        let (now_ms, mut speeds, view) = (self.now_ms(), self.speeds.borrow_mut(), &plan.view);
        let mut owners: Vec<_> = plan.readers.iter().collect();
        owners.sort_by_cached_key(|owner| {
            let node = owner.node;
            let away = owner.datacenter != view.datacenter;
            let (rank, class) = (view.rank(node), speeds.class(node, now_ms));
            (plan.shares_slot(node), node != view.me, away, rank, class)
        });
        owners.into_iter().map(|owner| owner.node).collect()
    }

    /// How slow an owner is, as [`Speeds::class`] has it.
    pub(super) fn class(&self, node: NodeId) -> u32 {
        self.speeds.borrow_mut().class(node, self.now_ms())
    }

    /// How long to wait for these before one more is asked.
    pub(super) fn patience(&self, asked: impl IntoIterator<Item = NodeId>) -> Duration {
        let usual = self.speeds.borrow().patience_us(asked);
        usual.map_or(PATIENCE, |us| Duration::from_micros(us).clamp(PATIENCE_MIN, PATIENCE))
    }

    /// Notes that a read begins.
    pub(super) fn begin(&self) {
        self.budget.borrow_mut().earn();
    }

    /// Whether a read may ask one more owner than it needs; counted either way.
    pub(super) fn may_hedge(&self) -> bool {
        let may = self.budget.borrow_mut().spend();
        let figures = &self.figures;
        Figures::count(if may { &figures.hedged } else { &figures.hedges_withheld });
        may
    }

    fn forget_strangers(&self, plan: &Plan) {
        if let Some(formed) = &plan.view.formed
            && self.epoch.replace(formed.ring.epoch()) != formed.ring.epoch()
        {
            let members = formed.ring.document().members.keys().copied().collect();
            self.speeds.borrow_mut().retain(&members);
            self.tasks.borrow_mut().retain(&members);
        }
    }
}
