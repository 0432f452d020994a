//! What happens to frames between nodes, drawn from one seed, and the trace of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use kvasir::seam::Fate;
use kvasir_core::id::NodeId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// Shares and bounds of faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Frames lost, in a thousand.
    pub loss_permille: u32,
    /// Frames that arrive twice, in a thousand.
    pub twice_permille: u32,
    /// Longest delay of a frame in milliseconds; each draws its own.
    pub delay_ms: u64,
    /// Frames that arrive very late, in a thousand.
    pub late_permille: u32,
    /// Longest delay of those, in milliseconds.
    pub late_ms: u64,
}

impl Conditions {
    /// The worse of both in each respect.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        Self {
            loss_permille: self.loss_permille.max(other.loss_permille),
            twice_permille: self.twice_permille.max(other.twice_permille),
            delay_ms: self.delay_ms.max(other.delay_ms),
            late_permille: self.late_permille.max(other.late_permille),
            late_ms: self.late_ms.max(other.late_ms),
        }
    }
}

struct State {
    conditions: Conditions,
    hosts: BTreeMap<NodeId, usize>,
    cut: BTreeSet<(usize, usize)>,
    /// The largest frame that still gets from one host to another.
    narrow: BTreeMap<(usize, usize), usize>,
    rng: SmallRng,
    trace: u64,
    frames: u64,
    start: Instant,
}

/// The weather of one simulation. Clones are the same.
#[derive(Clone)]
pub struct Weather(Rc<RefCell<State>>);

impl Weather {
    /// Calm, from a seed.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            conditions: Conditions::default(),
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
            narrow: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            trace: 0xcbf2_9ce4_8422_2325,
            frames: 0,
            start: Instant::now(),
        })))
    }

    /// Changes what happens to frames from now on.
    pub fn set(&self, conditions: Conditions) {
        self.0.borrow_mut().conditions = conditions;
    }

    /// Says which host a node id is on.
    pub fn place(&self, node: NodeId, host: usize) {
        self.0.borrow_mut().hosts.insert(node, host);
    }

    /// The host that a node is on, once it has started.
    pub fn host_of(&self, node: NodeId) -> Option<usize> {
        self.0.borrow().hosts.get(&node).copied()
    }

    /// Loses every frame from one host to another.
    pub fn cut(&self, from: usize, to: usize) {
        self.0.borrow_mut().cut.insert((from, to));
    }

    /// Loses every frame of more than `bytes` bytes from one host to another: what carries a large value
    /// is lost, what asks for it gets through.
    pub fn narrow(&self, from: usize, to: usize, bytes: usize) {
        self.0.borrow_mut().narrow.insert((from, to), bytes);
    }

    /// Loses every frame on these links, each from one host to another, and on no others.
    pub fn cut_only(&self, links: BTreeSet<(usize, usize)>) {
        self.0.borrow_mut().cut = links;
    }

    /// Mends every link.
    pub fn heal(&self) {
        let mut state = self.0.borrow_mut();
        state.cut.clear();
        state.narrow.clear();
    }

    /// A hash over every fate so far and when it was drawn.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.0.borrow().frames
    }

    /// Decides the fate of a frame.
    pub fn fate(&self, from: NodeId, to: NodeId, bytes: usize) -> Fate {
        let mut state = self.0.borrow_mut();
        let ends = (state.hosts.get(&from).copied(), state.hosts.get(&to).copied());
        let cut = matches!(ends, (Some(a), Some(b)) if state.cut.contains(&(a, b))
            || state.narrow.get(&(a, b)).is_some_and(|widest| bytes > *widest));
        let conditions = state.conditions;
        let dice = state.rng.random_range(0..1000);
        let delay = Duration::from_millis(state.rng.random_range(0..=conditions.delay_ms));
        let (lost, late) = (conditions.loss_permille, 1000 - conditions.late_permille);
        let fate = if cut || dice < lost {
            Fate::Drop
        } else if dice >= late {
            Fate::Delay(Duration::from_millis(state.rng.random_range(0..=conditions.late_ms)))
        } else if dice < lost + conditions.twice_permille {
            Fate::Twice(delay)
        } else if delay.is_zero() {
            Fate::Deliver
        } else {
            Fate::Delay(delay)
        };
        let word = match fate {
            Fate::Drop => 1,
            Fate::Deliver => 2,
            Fate::Delay(by) => 3 | (by.as_millis() as u64) << 8,
            Fate::Twice(by) => 4 | (by.as_millis() as u64) << 8,
        };
        let at = state.start.elapsed().as_millis() as u64;
        let host = |end: Option<usize>| end.map_or(99, |h| h as u64);
        for part in [at, word, bytes as u64, host(ends.0), host(ends.1)] {
            state.trace = (state.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        state.frames += 1;
        fate
    }
}
