//! Last write wins, every small case: skewed clocks, quorums, and the order of the reading rule.
//!
//! Runs the product's own minter, sets and clocks. Two weakened rules are refuted by counting the
//! cases in which they lose the later of two writes; the product's rule loses none.

use kvasir_core::version::{
    Context, Dot, HybridClock, Minter, Record, SerialFloor, Sibling, SiblingSet, Stamp,
};

const NODES: usize = 3;
const NO_FLOOR: SerialFloor = SerialFloor(0);

/// A node with a clock that is wrong by a constant.
struct Node {
    wall_ms: u64,
    clock: HybridClock,
    minter: Minter,
    record: Option<Record>,
}

impl Node {
    fn set(&self) -> SiblingSet {
        self.record.clone().unwrap_or_default().set
    }

    fn accept(&mut self, incoming: &SiblingSet) {
        for sibling in incoming.siblings().values() {
            self.clock.observe(sibling.stamp, self.wall_ms);
        }
        let accepted = self.minter.accept(self.record.take(), NO_FLOOR, incoming);
        self.record = Some(accepted.expect("replica traffic is taken").0);
    }
}

struct Cluster {
    nodes: Vec<Node>,
    /// Whether a replica tells of a higher stamp, and the coordinator covers it and writes again.
    covering_round: bool,
}

impl Cluster {
    fn new(walls: [u64; NODES], covering_round: bool) -> Self {
        let node = |(tag, &wall_ms): (usize, &u64)| Node {
            wall_ms,
            clock: HybridClock::new(),
            minter: Minter::new(tag as u64),
            record: None,
        };
        Self { nodes: walls.iter().enumerate().map(node).collect(), covering_round }
    }

    /// One write at quorum, answered when this returns.
    fn write(&mut self, coordinator: usize, quorum: [usize; 2], value: &'static str) {
        let mut floor = Stamp::default();
        let mut covers = self.nodes[coordinator].set().context().clone();
        loop {
            let node = &mut self.nodes[coordinator];
            let held = node.record.as_ref().map(|record| &record.set);
            let stamp = node.clock.now(node.wall_ms).max(floor.next());
            let stamp = held.map_or(stamp, |set| set.stamp_over(stamp));
            let sibling = Sibling::value(stamp, value);
            let minted = node.minter.mint(node.record.take(), NO_FLOOR, &covers, sibling);
            let minted = minted.expect("the coordinator's own dots, and those of replicas");
            node.record = Some(minted.record);
            let mut higher = None;
            for replica in quorum.into_iter().filter(|&replica| replica != coordinator) {
                self.nodes[replica].accept(&minted.delta);
                higher = self.nodes[replica].set().outranks(&minted.delta);
            }
            let Some(above) = higher.filter(|_| self.covering_round) else { return };
            covers.join(minted.delta.context());
            above.dots.iter().for_each(|dot| covers.insert(*dot));
            let node = &mut self.nodes[coordinator];
            node.clock.observe(above.stamp, node.wall_ms);
            floor = above.stamp;
        }
    }

    /// One read at quorum.
    fn read(&self, quorum: [usize; 2]) -> Vec<u8> {
        let merged = self.nodes[quorum[0]].set().merge(&self.nodes[quorum[1]].set());
        let (_, sibling) = merged.latest(0).expect("something was written");
        match &sibling.payload {
            kvasir_core::version::Payload::Value { bytes, .. } => bytes.to_vec(),
            kvasir_core::version::Payload::Tombstone => Vec::new(),
        }
    }
}

const QUORUMS: [[usize; 2]; 3] = [[0, 1], [0, 2], [1, 2]];
const SKEWS: [[u64; 3]; 6] =
    [[0, 10, 20], [0, 20, 10], [10, 0, 20], [10, 20, 0], [20, 0, 10], [20, 10, 0]];

/// (reads that do not show the later of two sequential writes, all reads).
fn lost_updates(covering_round: bool) -> (usize, usize) {
    let (mut lost, mut all) = (0, 0);
    for walls in SKEWS {
        for (first, second) in (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))) {
            for first_quorum in QUORUMS.into_iter().filter(|quorum| quorum.contains(&first)) {
                for second_quorum in QUORUMS.into_iter().filter(|quorum| quorum.contains(&second)) {
                    for read_quorum in QUORUMS {
                        let mut cluster = Cluster::new(walls, covering_round);
                        cluster.write(first, first_quorum, "first");
                        cluster.write(second, second_quorum, "second");
                        all += 1;
                        lost += usize::from(cluster.read(read_quorum) != b"second");
                    }
                }
            }
        }
    }
    (lost, all)
}

#[test]
fn with_skewed_clocks_and_no_covering_round_later_writes_are_lost() {
    assert_eq!(lost_updates(false), (108, 648));
}

#[test]
fn with_the_covering_round_no_later_write_is_lost() {
    assert_eq!(lost_updates(true), (0, 648));
}

/// The general reading rule (set aside what is dead, then show the highest) against the rule of
/// these buckets (take the highest, then judge it), for every pair of an older and a newer sibling.
#[test]
fn setting_dead_siblings_aside_first_shows_values_that_were_deleted() {
    let kinds = |stamp: u64| {
        let value = Sibling::value(Stamp(stamp), stamp.to_string());
        let expired = Sibling { expires_ms: Some(1), ..value.clone() };
        [("live", value), ("tombstone", Sibling::tombstone(Stamp(stamp))), ("expired", expired)]
    };
    let now_ms = 2;
    let mut differ = Vec::new();
    for (old_kind, old) in kinds(1) {
        for (new_kind, new) in kinds(2) {
            let minter = Minter::new(1);
            let mint = |record, sibling| {
                minter.mint(record, NO_FLOOR, &Context::new(), sibling).expect("nothing to refuse")
            };
            let record = mint(None, old.clone()).record;
            let set = mint(Some(record), new).record.set;
            let general: Option<Dot> = set
                .live(now_ms)
                .max_by_key(|(dot, sibling)| (sibling.stamp, *dot))
                .map(|(dot, _)| dot);
            if general != set.latest(now_ms).map(|(dot, _)| dot) {
                differ.push((old_kind, new_kind));
            }
        }
    }
    assert_eq!(differ, [("live", "tombstone"), ("live", "expired")]);
}
