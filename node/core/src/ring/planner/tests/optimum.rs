//! The least number of replicas that must move, by a minimum-cost flow of another kind: an explicit
//! network that starts empty and sends every copy of every partition, one by one, along the path
//! that Bellman and Ford find. Slow, and blind to how the planner thinks.

use super::*;

struct Edge {
    to: usize,
    room: i64,
    cost: i64,
}

#[derive(Default)]
struct Network {
    edges: Vec<Edge>,
    out: Vec<Vec<usize>>,
}

impl Network {
    fn vertex(&mut self) -> usize {
        self.out.push(Vec::new());
        self.out.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, room: i64, cost: i64) {
        self.out[from].push(self.edges.len());
        self.edges.push(Edge { to, room, cost });
        self.out[to].push(self.edges.len());
        self.edges.push(Edge { to: from, room: 0, cost: -cost });
    }

    /// Sends as much as there is room for, cheapest first: how much, and its cost.
    fn send(&mut self, source: usize, sink: usize) -> (i64, i64) {
        let (mut sent, mut cost) = (0, 0);
        loop {
            let mut distance = vec![i64::MAX / 2; self.out.len()];
            let mut by = vec![None; self.out.len()];
            distance[source] = 0;
            let mut queue = std::collections::VecDeque::from([source]);
            while let Some(from) = queue.pop_front() {
                for &edge in &self.out[from] {
                    let Edge { to, room, cost } = self.edges[edge];
                    if room > 0 && distance[from] + cost < distance[to] {
                        distance[to] = distance[from] + cost;
                        by[to] = Some(edge);
                        queue.push_back(to);
                    }
                }
            }
            if by[sink].is_none() {
                return (sent, cost);
            }
            let mut at = sink;
            while let Some(edge) = by[at] {
                self.edges[edge].room -= 1;
                self.edges[edge ^ 1].room += 1;
                at = self.edges[edge ^ 1].to;
            }
            sent += 1;
            cost += distance[sink];
        }
    }
}

/// What the rules of one data center are, in the terms of this oracle.
pub(super) struct Rules {
    pub copies: u32,
    pub zone_cap: u32,
    pub rack_cap: u32,
    /// Floor and ceiling of the share of each node that may own something.
    pub bounds: BTreeMap<NodeId, (u64, u64)>,
}

/// The least number of replicas that change hands between `present` and any table that keeps the
/// rules; none where there is no such table.
pub(super) fn least(
    members: &BTreeMap<NodeId, Member>,
    present: &[Vec<NodeId>],
    rules: &Rules,
) -> Option<i64> {
    const MUST: i64 = 1_000_000;
    let mut network = Network::default();
    let (source, sink) = (network.vertex(), network.vertex());
    let nodes: BTreeMap<_, _> = rules.bounds.keys().map(|&id| (id, network.vertex())).collect();
    for (id, &(low, high)) in &rules.bounds {
        network.edge(nodes[id], sink, low as i64, -MUST);
        network.edge(nodes[id], sink, (high - low) as i64, 0);
    }
    for row in present {
        let partition = network.vertex();
        network.edge(source, partition, i64::from(rules.copies), 0);
        let mut places: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
        for (id, &node) in &nodes {
            let member = &members[id];
            let path = [&*member.zone, &*member.rack, &*member.machine];
            let rooms = [i64::from(rules.zone_cap), i64::from(rules.rack_cap), 1];
            let mut above = partition;
            for depth in 0..3 {
                let name = path[..=depth].to_vec();
                let fresh = !places.contains_key(&name);
                let place = *places.entry(name).or_insert_with(|| network.vertex());
                if fresh {
                    network.edge(above, place, rooms[depth], 0);
                }
                above = place;
            }
            network.edge(above, node, 1, i64::from(!row.contains(id)));
        }
    }
    let wanted = present.len() as i64 * i64::from(rules.copies);
    let must: i64 = rules.bounds.values().map(|(low, _)| *low as i64).sum();
    let (sent, cost) = network.send(source, sink);
    (sent == wanted && cost + must * MUST < MUST).then_some(cost + must * MUST)
}

#[test]
fn the_oracle_agrees_with_counting_by_hand() {
    let cluster = even(3, 3);
    let members: BTreeMap<_, _> = (0..4).map(|n| (id(n), member(n, n, n, 1))).collect();
    let present: Vec<Vec<NodeId>> =
        cluster.table.iter().map(|row| row["dc1"].iter().map(Seat::heir).collect()).collect();
    let bounds = members.keys().map(|&id| (id, (6, 6))).collect();
    let mut rules = Rules { copies: 3, zone_cap: 1, rack_cap: 1, bounds };
    assert_eq!(least(&members, &present, &rules), Some(6), "the fourth node gets 6 of 24");
    rules.bounds.insert(id(3), (0, 0));
    assert_eq!(least(&members, &present, &rules), None, "18 places for 24 copies");
}
