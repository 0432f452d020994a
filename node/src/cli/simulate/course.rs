//! The course of a simulated cluster: its sizes, and one plan from each to the next.

use std::collections::BTreeMap;

use kvasir_core::id::NodeId;
use kvasir_core::ring::layout::plan_first;
use kvasir_core::ring::planner::{Cluster, Count, Goal, Measures, Seat, measure, plan};
use kvasir_core::ring::{Member, MemberState, partition};

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Nodes of each data center at first.
    pub first: usize,
    /// Nodes of each data center at most.
    pub most: usize,
    /// Data centers.
    pub datacenters: usize,
    /// Partition replicas near which each node starts.
    pub per_node: u32,
    /// Racks of each data center.
    pub racks: usize,
    /// Copies in each data center (N).
    pub replication: u32,
}

/// Which way a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The cluster as it was formed.
    Formed,
    /// Nodes joined.
    Grown,
    /// Nodes left.
    Shrunk,
}

/// The cluster after one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which way it went.
    pub way: Way,
    /// Partitions of the ring.
    pub partitions: usize,
    /// Partition replicas that moved.
    pub moved: u64,
    /// Partition replicas that had to, whatever the table.
    pub least: u64,
    /// Figures of the table: of the worst data center where they are about one, else of all.
    pub measures: Measures,
}

impl Step {
    /// Load of the fullest node, the mean being 1.
    pub fn fullest(&self) -> f64 {
        self.measures.most as f64 / self.measures.mean.max(f64::MIN_POSITIVE)
    }

    /// What moved, what had to being 1; none where nothing had to.
    pub fn excess(&self) -> Option<f64> {
        (self.least > 0).then(|| self.moved as f64 / self.least as f64)
    }
}

/// Forms the cluster, lets it grow and lets it shrink.
///
/// # Errors
/// Why the cluster cannot be formed.
pub fn run(shape: &Shape) -> Result<Vec<Step>, String> {
    let sizes = sizes(shape.first, shape.most);
    let mut cluster = formed(shape)?;
    let mut steps = Vec::with_capacity(sizes.len() * 2);
    steps.extend(step(&cluster, Way::Formed, 0, 0));
    let back = sizes.iter().rev().skip(1).map(|&size| (size, Way::Shrunk));
    let course = sizes.iter().skip(1).map(|&size| (size, Way::Grown)).chain(back);
    for (size, way) in course {
        let (present, wanted) = (cluster.members.len(), size * shape.datacenters);
        let joins = (present..wanted).map(|node| (id(node), member(node, shape)));
        let goal = match way {
            Way::Shrunk => Goal::Leave((wanted..present).map(id).collect()),
            _ => Goal::Join(joins.collect()),
        };
        while has_too_few(&cluster, size, shape) {
            cluster.table = cluster.table.into_iter().flat_map(|row| [row.clone(), row]).collect();
        }
        let plan = plan(&cluster, &goal).map_err(|refused| refused.to_string())?;
        let seats = |row: &BTreeMap<String, Vec<NodeId>>| {
            let seat = |&owner: &NodeId| Seat { owner, moving_to: None };
            row.iter().map(|(dc, row)| (dc.clone(), row.iter().map(seat).collect())).collect()
        };
        cluster.table = plan.target.iter().map(seats).collect();
        cluster.members = plan.members;
        steps.extend(step(&cluster, way, plan.moves.len() as u64, plan.least));
    }
    Ok(steps)
}

/// The sizes of growth, about a quarter more each time.
fn sizes(first: usize, most: usize) -> Vec<usize> {
    let next = |size: &usize| (*size < most).then(|| (size + (size / 4).max(1)).min(most));
    std::iter::successors(Some(first), next).collect()
}

fn id(number: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// Nodes are dealt out to the data centers, and there to the racks.
fn member(number: usize, shape: &Shape) -> Member {
    Member {
        machine: format!("machine{number}"),
        rack: format!("rack{}", number / shape.datacenters % shape.racks),
        zone: String::new(),
        datacenter: format!("dc{}", number % shape.datacenters + 1),
        weight: 1,
        state: MemberState::Active,
    }
}

/// The cluster at first, cut so that each node has between 0.7 and 1.4 of what was asked for.
fn formed(shape: &Shape) -> Result<Cluster, String> {
    let copies = u64::from(shape.replication);
    let wanted = shape.first as f64 * f64::from(shape.per_node) * std::f64::consts::FRAC_1_SQRT_2;
    let bits = (0..partition::MAX_PARTITION_BITS)
        .find(|&bits| (u64::from(partition::count(bits)) * copies) as f64 >= wanted)
        .unwrap_or(partition::MAX_PARTITION_BITS);
    let members: BTreeMap<_, _> =
        (0..shape.first * shape.datacenters).map(|node| (id(node), member(node, shape))).collect();
    let replication: BTreeMap<String, u32> =
        (1..=shape.datacenters).map(|number| (format!("dc{number}"), shape.replication)).collect();
    let first = plan_first(&members, &replication, bits).map_err(|error| error.to_string())?;
    let seat = |slot: &kvasir_core::ring::Slot| Seat { owner: slot.owner, moving_to: None };
    let row = |entry: &kvasir_core::ring::PartitionEntry| {
        let seats = |slots: &Vec<_>| slots.iter().map(seat).collect();
        entry.slots.iter().map(|(dc, slots)| (dc.clone(), seats(slots))).collect()
    };
    let table = first.table.iter().map(row).collect();
    Ok(Cluster { members, replication, table })
}

/// Would `size` nodes have less than a quarter of what was asked for, and can the ring be cut in two?
fn has_too_few(cluster: &Cluster, size: usize, shape: &Shape) -> bool {
    let replicas = cluster.table.len() * shape.replication as usize;
    let finest = partition::count(partition::MAX_PARTITION_BITS) as usize;
    replicas * 4 < size * shape.per_node as usize && cluster.table.len() < finest
}

fn step(cluster: &Cluster, way: Way, moved: u64, least: u64) -> Option<Step> {
    let measures = cluster.replication.keys().map(|datacenter| measure(cluster, datacenter));
    let measures = measures.reduce(|all, one| Some(together(all?, one?)))??;
    Some(Step { way, partitions: cluster.table.len(), moved, least, measures })
}

/// The figures of several data centers: the fullest node of all, means over all nodes, and the pairs and
/// triples of machines within one data center.
fn together(all: Measures, one: Measures) -> Measures {
    let (a, b) = (all.nodes as f64, one.nodes as f64);
    let mean = |all: f64, one: f64| (all * a + one * b) / (a + b);
    let both =
        |all: Count, one: Count| Count { fatal: all.fatal + one.fatal, all: all.all + one.all };
    Measures {
        nodes: all.nodes + one.nodes,
        machines: all.machines + one.machines,
        most: all.most.max(one.most),
        mean: mean(all.mean, one.mean),
        partners_most: all.partners_most.max(one.partners_most),
        partners_mean: mean(all.partners_mean, one.partners_mean),
        pairs: both(all.pairs, one.pairs),
        triples: both(all.triples, one.triples),
    }
}
