//! How fast replicas answer: whom a read asks first, and when it asks one more than it needs.
//!
//! A read that waits for a replica which is slower than usual asks the next one as well (a hedged
//! request: Dean and Barroso, "The Tail at Scale", CACM 2013). "Usual" is the 95th percentile of what
//! was seen lately; a [`Budget`] bounds how much load that adds, so that replicas which are slow because
//! they are overloaded are not asked still more. Replicas whose usual answer takes longer by a power of
//! two come later in the order; what is not known counts as fast. So does what was learned too long ago,
//! for one request a second: a replica which recovered is found out by that one, and one which did not costs
//! no other.
//!
//! Pure: times and latencies are given. Bounded: a fixed number of counters for each member.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;

/// Buckets of a histogram: powers of the square root of two from [`FLOOR_US`] on, up to about 6 s.
const BUCKETS: usize = 32;
/// Latencies up to this are all the same: nothing is won by choosing among them. Microseconds.
const FLOOR_US: u64 = 128;
/// When so many answers were counted, all counts are halved: old ones fade.
const FADE_AT: u32 = 256;
/// Answers before a percentile means anything.
const ENOUGH: u32 = 16;
/// What was learned longer ago than this is forgotten. Milliseconds.
const STALE_MS: u64 = 10_000;
/// Between two requests that try a replica of which nothing was learned lately. Milliseconds.
const TRY_MS: u64 = 1_000;
/// Answers up to 1 ms are of class 0. Microseconds.
const CLASS_US: u64 = 1_000;

/// A fading histogram of latencies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Histogram {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Histogram {
    fn bucket(took_us: u64) -> usize {
        // Twice the binary logarithm, rounded down, of the ratio to the floor.
        let took_us = took_us.min(FLOOR_US << (BUCKETS / 2));
        let ratio = took_us / FLOOR_US;
        let whole = ratio.max(1).ilog2();
        let half = u32::from(took_us >= (FLOOR_US << whole) * 181 / 128 && ratio > 0);
        ((2 * whole + half) as usize).min(BUCKETS - 1)
    }

    /// The upper end of a bucket.
    fn upper_us(bucket: usize) -> u64 {
        let next = bucket + 1;
        let whole = FLOOR_US << (next / 2);
        if next.is_multiple_of(2) { whole } else { whole * 181 / 128 }
    }

    fn note(&mut self, took_us: u64) {
        self.counts[Self::bucket(took_us)] += 1;
        self.total += 1;
        if self.total >= FADE_AT {
            for count in &mut self.counts {
                *count /= 2;
            }
            self.total = self.counts.iter().sum();
        }
    }

    /// The latency that `permille` of the answers kept below; none before there are enough.
    fn percentile_us(&self, permille: u32) -> Option<u64> {
        if self.total < ENOUGH {
            return None;
        }
        let wanted = (u64::from(self.total) * u64::from(permille)).div_ceil(1_000);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        found.map(Self::upper_us)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Speed {
    latencies: Histogram,
    /// Smoothed latency, an eighth of each new one.
    usual_us: u64,
    last_ms: u64,
    tried_ms: Option<u64>,
}

fn class(usual_us: u64) -> u32 {
    (usual_us / CLASS_US).checked_ilog2().map_or(0, |power| power + 1)
}

/// What was seen of each replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Speeds {
    nodes: BTreeMap<NodeId, Speed>,
}

impl Speeds {
    /// Notes an answer, or a silence that has lasted so long: that is no less slow.
    pub fn note(&mut self, node: NodeId, took_us: u64, now_ms: u64) {
        let speed = self.nodes.entry(node).or_default();
        let known = speed.latencies.total > 0 && now_ms.saturating_sub(speed.last_ms) <= STALE_MS;
        if !known {
            *speed = Speed::default();
        }
        speed.latencies.note(took_us);
        speed.usual_us = match known {
            true => speed.usual_us - speed.usual_us / 8 + took_us / 8,
            false => took_us,
        };
        speed.last_ms = now_ms;
    }

    /// How slow a replica is, in powers of two: 0 up to a millisecond, and for what is not known. Whoever
    /// asks by it tries what was learned too long ago, once a second.
    pub fn class(&mut self, node: NodeId, now_ms: u64) -> u32 {
        let Some(speed) = self.nodes.get_mut(&node) else { return 0 };
        let since = |then: u64| now_ms.saturating_sub(then);
        let tried = speed.tried_ms.is_some_and(|then| since(then) < TRY_MS);
        if since(speed.last_ms) > STALE_MS && !tried {
            speed.tried_ms = Some(now_ms);
            return 0;
        }
        class(speed.usual_us)
    }

    /// As [`Self::class`], by what was seen last, however long ago: for whoever cannot ask another one as well
    /// to find out.
    pub fn last_class(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |speed| class(speed.usual_us))
    }

    /// How long these replicas are waited for before one more is asked: the slowest 95th percentile
    /// among them, in microseconds. None while too little is known of one.
    pub fn patience_us(&self, asked: impl IntoIterator<Item = NodeId>) -> Option<u64> {
        let usual = |node| self.nodes.get(&node)?.latencies.percentile_us(950);
        let all: Option<Vec<u64>> = asked.into_iter().map(usual).collect();
        all?.into_iter().max()
    }

    /// Forgets who is no member any more.
    pub fn retain(&mut self, members: &BTreeSet<NodeId>) {
        self.nodes.retain(|node, _| members.contains(node));
    }
}

/// How many requests may be asked twice: a share of all requests, with a small reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Thousandths of a request.
    held: u32,
}

impl Budget {
    /// Each request adds so many thousandths: one in ten may be asked twice.
    const EARNED: u32 = 100;
    /// What is held at most: a burst.
    const MOST: u32 = 32_000;

    /// Notes a request.
    pub fn earn(&mut self) {
        self.held = (self.held + Self::EARNED).min(Self::MOST);
    }

    /// Takes what one more request costs, if it is there.
    pub fn spend(&mut self) -> bool {
        let left = self.held.checked_sub(1_000);
        self.held = left.unwrap_or(self.held);
        left.is_some()
    }
}

impl Default for Budget {
    /// A full reserve.
    fn default() -> Self {
        Self { held: Self::MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn buckets_cover_everything_in_order() {
        let mut last = 0;
        for power in 0..=1_000u32 {
            let took = (1.02_f64).powi(power as i32) as u64;
            let bucket = Histogram::bucket(took);
            assert!(bucket >= last, "{took}");
            assert!(took < Histogram::upper_us(bucket) || bucket == BUCKETS - 1, "{took}");
            last = bucket;
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(Histogram::bucket(0), 0);
        assert_eq!(Histogram::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn patience_follows_the_slowest_of_those_that_were_asked() {
        let mut speeds = Speeds::default();
        for round in 0..100 {
            speeds.note(node(1), 500, round);
            speeds.note(node(2), if round % 10 == 0 { 90_000 } else { 700 }, round);
        }
        let one = speeds.patience_us([node(1)]).unwrap();
        assert!((500..1_000).contains(&one), "{one}");
        let both = speeds.patience_us([node(1), node(2)]).unwrap();
        assert!((90_000..180_000).contains(&both), "one in ten of node 2 is slow: {both}");
        assert_eq!(speeds.patience_us([node(1), node(3)]), None, "nothing is known of node 3");
    }

    #[test]
    fn a_slow_replica_is_last_until_it_was_not_asked_for_a_while() {
        let mut speeds = Speeds::default();
        for round in 0..50 {
            speeds.note(node(1), 800, round);
            speeds.note(node(2), 100_000, round);
        }
        assert_eq!(speeds.class(node(1), 60), 0);
        assert_eq!(speeds.class(node(2), 60), 7);
        assert_eq!(speeds.class(node(2), 60 + STALE_MS), 0, "worth another try");
        assert_eq!(speeds.last_class(node(2)), 7, "but not where only one may be asked");
        assert_eq!(speeds.class(node(2), 61 + STALE_MS), 7, "by one request alone");
        assert_eq!(speeds.class(node(2), 60 + STALE_MS + TRY_MS), 0, "and another one later");
        speeds.note(node(2), 300, 60 + STALE_MS);
        assert_eq!(speeds.class(node(2), 61 + STALE_MS), 0, "and the try decides");
        speeds.note(node(2), 300_000, 62 + STALE_MS);
        assert!(speeds.class(node(2), 63 + STALE_MS) > 4, "one long silence is enough");
        speeds.retain(&BTreeSet::from([node(1)]));
        assert_eq!(speeds.nodes.len(), 1);
    }

    proptest! {
        #[test]
        fn no_more_than_the_share_and_the_reserve_is_asked_twice(
            steps in prop::collection::vec(any::<bool>(), 0..2_000),
        ) {
            let (mut budget, mut requests, mut twice) = (Budget::default(), 0, 0);
            for wants in steps {
                budget.earn();
                requests += 1;
                twice += u32::from(wants && budget.spend());
                prop_assert!(twice <= 32 + requests / 10);
            }
        }

        #[test]
        fn a_percentile_is_about_the_truth(mut seen in prop::collection::vec(128_u64..4_000_000, 16..200)) {
            let mut histogram = Histogram::default();
            seen.iter().for_each(|took| histogram.note(*took));
            seen.sort_unstable();
            let exact = seen[(seen.len() * 950).div_ceil(1_000) - 1];
            let told = histogram.percentile_us(950).unwrap();
            prop_assert!(told > exact && told <= exact * 3 / 2 + 1, "{told} for {exact}");
        }
    }
}
