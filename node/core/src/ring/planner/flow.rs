//! The least movement: the table nearest to the present one that keeps every rule.
//!
//! A minimum-cost flow. Each partition sends one unit per copy down the tree of its places (a zone
//! and a rack take as many as their cap, a machine one) to a node; each node passes on the floor or
//! the ceiling of its share; a unit costs 1 where the node does not own the partition today. The
//! present table is such a flow except that some nodes have too much or too little, and it costs
//! nothing, so no residual cycle is negative. Successive shortest paths (Busacker, Gowen 1960;
//! potentials of Edmonds, Karp 1972) then repair the excess at least cost, which is exact.
//!
//! Only nodes are vertices here: a passage through a partition takes it from one node and gives it
//! to another, and is open exactly where the row keeps its rules. All paths of one length are found
//! in a round before the potentials rise, so there are as many searches over everything as there
//! are path lengths, two or three.

use std::collections::VecDeque;

use crate::ring::places::Places;

/// Owners of one partition by their number in [`Places`].
pub(super) type Row = Vec<usize>;

/// A table on its way to the nearest one that keeps the rules.
pub(super) struct Flow<'a> {
    places: &'a Places<'a>,
    original: &'a [Row],
    rows: Vec<Row>,
    /// Partitions of each node, in order; then those of nobody.
    owned: Vec<Vec<usize>>,
    low: Vec<usize>,
    high: Vec<usize>,
    /// What each node passes on, between its bounds; more or less than it has until the end.
    passed: Vec<usize>,
    potential: Vec<i64>,
    /// Those who may own something, rack by rack: a rack that is full is passed over as a whole.
    racks: Vec<Vec<usize>>,
}

/// How a path came to a vertex: from which, and through which partition (none by way of the sink).
type Step = Option<(usize, Option<usize>)>;

/// The rules leave no table. By the way in which shares and caps are chosen this cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoTable;

/// The floor and the ceiling of a share in units of 2^-32, where what rounding cut off counts as
/// whole.
pub(super) fn bounds(share: u64) -> (usize, usize) {
    const SLACK: u64 = 1 << 12;
    let (low, high) = ((share + SLACK) >> 32, (share.saturating_sub(SLACK)).div_ceil(1 << 32));
    (low.min(high) as usize, low.max(high) as usize)
}

impl<'a> Flow<'a> {
    /// Starts from `original`, whose owners are numbers of nodes in `places`. Copies that break a
    /// rule where they are start with nobody.
    pub fn new(places: &'a Places<'a>, original: &'a [Row], bounds: &[(usize, usize)]) -> Self {
        let nobody = places.nodes.len();
        let mut owned = vec![Vec::new(); nobody + 1];
        let mut rows: Vec<Row> = Vec::with_capacity(original.len());
        for (partition, owners) in original.iter().enumerate() {
            let mut row: Row = Vec::with_capacity(owners.len());
            for &owner in owners {
                let kept = places.fits(row.iter().copied(), owner);
                row.push(if kept { owner } else { nobody });
            }
            row.iter().for_each(|&owner| owned[owner].push(partition));
            rows.push(row);
        }
        let bound = |vertex: usize| bounds.get(vertex).copied().unwrap_or((0, 0));
        let (low, high): (Vec<_>, Vec<_>) = (0..=nobody).map(bound).unzip();
        let passed = (0..=nobody).map(|v| owned[v].len().clamp(low[v], high[v])).collect();
        let potential = vec![0; nobody + 2];
        let racks = places.racks().collect();
        Self { places, original, rows, owned, low, high, passed, potential, racks }
    }

    /// The nearest table. Owners of a row are in no order.
    pub fn solve(mut self) -> Result<Vec<Row>, NoTable> {
        while self.sources().next().is_some() {
            self.raise_potentials()?;
            while self.augment_round() {}
        }
        Ok(self.rows)
    }

    fn nobody(&self) -> usize {
        self.places.nodes.len()
    }

    fn sink(&self) -> usize {
        self.places.nodes.len() + 1
    }

    /// Units that a vertex has beyond what it passes on; negative where it lacks some.
    fn excess(&self, vertex: usize) -> i64 {
        if vertex == self.sink() {
            let wanted = self.places.partitions * self.places.copies as usize;
            return self.passed.iter().sum::<usize>() as i64 - wanted as i64;
        }
        self.owned[vertex].len() as i64 - self.passed[vertex] as i64
    }

    fn sources(&self) -> impl Iterator<Item = usize> {
        (0..=self.sink()).filter(|&vertex| self.excess(vertex) > 0)
    }

    /// 1 where the partition would be a node's anew.
    fn price(&self, partition: usize, node: usize) -> i64 {
        i64::from(node != self.nobody() && !self.original[partition].contains(&node))
    }

    /// The owners of the partition but for `from`: who may take its place goes by them.
    fn beside(&self, partition: usize, from: usize) -> impl Iterator<Item = usize> + Clone {
        let row = &self.rows[partition];
        let at = row.iter().position(|&owner| owner == from);
        row.iter().enumerate().filter(move |(position, _)| Some(*position) != at).map(|(_, &o)| o)
    }

    /// What a passage costs beyond the potentials; never negative where it is open.
    fn reduced(&self, partition: usize, from: usize, to: usize) -> i64 {
        self.price(partition, to) - self.price(partition, from) + self.potential[from]
            - self.potential[to]
    }

    fn may_pass_on(&self, node: usize) -> bool {
        node < self.nobody() && self.passed[node] < self.high[node]
    }

    fn leads_to_sink(&self, node: usize) -> bool {
        self.may_pass_on(node) && self.potential[node] == self.potential[self.sink()]
    }

    fn may_take_back(&self, node: usize) -> bool {
        node < self.nobody() && self.passed[node] > self.low[node]
    }

    /// Shortest distances from all sources (Dial 1969, since lengths are small); the potentials
    /// rise by them, up to the distance of the nearest vertex that lacks something.
    fn raise_potentials(&mut self) -> Result<(), NoTable> {
        let sink = self.sink();
        let mut distance = vec![i64::MAX; sink + 1];
        let mut buckets = vec![self.sources().collect::<Vec<_>>()];
        buckets[0].iter().for_each(|&source| distance[source] = 0);
        let (mut settled, mut reached) = (vec![false; sink + 1], None);
        let mut length = 0;
        'buckets: while length < buckets.len() {
            while let Some(from) = buckets[length].pop() {
                if std::mem::replace(&mut settled[from], true) {
                    continue;
                }
                // What is as far or further rises by this much anyway.
                if self.excess(from) < 0 {
                    reached = Some(length as i64);
                    break 'buckets;
                }
                self.relax(from, length as i64, &mut distance, &mut buckets);
            }
            length += 1;
        }
        let reached = reached.ok_or(NoTable)?;
        for (potential, distance) in self.potential.iter_mut().zip(distance) {
            *potential += distance.min(reached);
        }
        Ok(())
    }

    fn relax(&self, from: usize, length: i64, distance: &mut [i64], buckets: &mut Vec<Vec<usize>>) {
        let mut offer = |to: usize, cost: i64, open: &dyn Fn() -> bool| {
            let offered = length + cost;
            // The distance is looked at first: whether a passage is open costs more to say.
            if offered < distance[to] && open() {
                distance[to] = offered;
                if buckets.len() <= offered as usize {
                    buckets.resize(offered as usize + 1, Vec::new());
                }
                buckets[offered as usize].push(to);
            }
        };
        let sink = self.sink();
        if from == sink {
            for node in (0..self.nobody()).filter(|&node| self.may_take_back(node)) {
                offer(node, self.potential[sink] - self.potential[node], &|| true);
            }
            return;
        }
        if self.may_pass_on(from) {
            offer(sink, self.potential[from] - self.potential[sink], &|| true);
        }
        for &partition in &self.owned[from] {
            let beside = self.beside(partition, from);
            for rack in &self.racks {
                if !self.places.fits_rack(beside.clone(), rack[0]) {
                    continue;
                }
                for &to in rack {
                    let cost = self.reduced(partition, from, to);
                    offer(to, cost, &|| self.places.fits_machine(beside.clone(), to));
                }
            }
        }
    }

    /// Repairs along paths that cost nothing beyond the potentials, as many as are found when each
    /// source is tried until it fails. Whether anything was repaired.
    fn augment_round(&mut self) -> bool {
        let mut dead = vec![false; self.sink() + 1];
        let mut repaired = false;
        for source in 0..=self.sink() {
            while self.excess(source) > 0 && !dead[source] {
                let Some(path) = self.search(source, &mut dead) else { break };
                path.into_iter().for_each(|(from, through, to)| self.pass(from, through, to));
                repaired = true;
            }
        }
        repaired
    }

    /// A path of free passages from `source` to a vertex that lacks something, breadth first. Where
    /// there is none, all that was visited is dead for this round.
    fn search(
        &self,
        source: usize,
        dead: &mut [bool],
    ) -> Option<Vec<(usize, Option<usize>, usize)>> {
        let sink = self.sink();
        let mut steps: Vec<Step> = vec![None; sink + 1];
        let mut unmet = self.racks.clone();
        for rack in &mut unmet {
            rack.retain(|&node| node != source && !dead[node]);
        }
        let mut sink_met = source == sink || dead[sink];
        let sink_lacks = !sink_met && self.excess(sink) < 0;
        let mut queue = VecDeque::from([source]);
        let mut met = vec![source];
        while let Some(from) = queue.pop_front() {
            let mut found = Vec::new();
            if from == sink {
                for rack in &mut unmet {
                    rack.retain(|&to| {
                        let free = self.potential[sink] == self.potential[to];
                        let meets = free && self.may_take_back(to);
                        if meets {
                            found.push((to, None));
                        }
                        !meets
                    });
                }
            } else {
                if !sink_met && self.leads_to_sink(from) {
                    sink_met = true;
                    found.push((sink, None));
                }
                self.meet(from, sink_lacks, &mut unmet, &mut found);
            }
            for (to, through) in found {
                steps[to] = Some((from, through));
                if self.excess(to) < 0 {
                    return Some(trace(&steps, source, to));
                }
                if sink_lacks && self.leads_to_sink(to) {
                    steps[sink] = Some((to, None));
                    return Some(trace(&steps, source, sink));
                }
                met.push(to);
                queue.push_back(to);
            }
        }
        met.into_iter().for_each(|vertex| dead[vertex] = true);
        None
    }

    /// Takes the nodes out of `unmet` that a free passage leads to, up to the first at which the
    /// path may end.
    fn meet(
        &self,
        from: usize,
        sink_lacks: bool,
        unmet: &mut Vec<Vec<usize>>,
        found: &mut Vec<(usize, Option<usize>)>,
    ) {
        let ends = |to| self.excess(to) < 0 || sink_lacks && self.leads_to_sink(to);
        unmet.retain(|rack| !rack.is_empty());
        let mut over = false;
        for &partition in &self.owned[from] {
            let beside = self.beside(partition, from);
            for rack in unmet.iter_mut() {
                let full = |&to: &usize| !self.places.fits_rack(beside.clone(), to);
                if rack.first().is_none_or(full) {
                    continue;
                }
                rack.retain(|&to| {
                    let meets = !over
                        && self.reduced(partition, from, to) == 0
                        && self.places.fits_machine(beside.clone(), to);
                    if meets {
                        found.push((to, Some(partition)));
                        over = ends(to);
                    }
                    !meets
                });
                if over {
                    return;
                }
            }
        }
    }

    /// Moves one unit from a vertex to another.
    fn pass(&mut self, from: usize, through: Option<usize>, to: usize) {
        let Some(partition) = through else {
            if to == self.sink() {
                self.passed[from] += 1;
            } else {
                self.passed[to] -= 1;
            }
            return;
        };
        let row = &mut self.rows[partition];
        if let Some(owner) = row.iter_mut().find(|owner| **owner == from) {
            *owner = to;
        }
        if let Ok(at) = self.owned[from].binary_search(&partition) {
            self.owned[from].remove(at);
        }
        let at = self.owned[to].partition_point(|&other| other < partition);
        self.owned[to].insert(at, partition);
    }
}

/// The path that ends at `to`, from its source on.
fn trace(steps: &[Step], source: usize, to: usize) -> Vec<(usize, Option<usize>, usize)> {
    let (mut path, mut at) = (Vec::new(), to);
    while at != source {
        let Some((from, through)) = steps[at] else { break };
        path.push((from, through, at));
        at = from;
    }
    path.reverse();
    path
}
