//! `kvasir ring simulate`: how a cluster of this shape would balance and move as it grows and
//! shrinks, computed by the planner of the nodes. No network, no cluster.

mod course;
mod draw;
mod plot;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;

use super::failure::{Exit, Failure};
use super::output::{self, Format};
use course::Shape;

/// Arguments of `kvasir ring simulate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ring simulate --nodes 3..100
  kvasir ring simulate --nodes 6..1000 --racks 5 --svg ring.svg
  kvasir ring simulate --nodes 5..30 --replication 5 -o json
  kvasir ring simulate --nodes 3..30 --datacenters 2

The cluster grows from the first number of nodes to the second by about a quarter at a time, and
shrinks back the same way. Each step is one plan of the planner that the nodes use; the ring is cut
in two where nodes would have less than a quarter of --partitions-per-node.

MOVED: partition replicas that the plan moves. LEAST: what the shares alone force, whatever the
table. PARTNERS: with how many others a node shares partitions, in the mean and at most. 2 DIE,
3 DIE: part of all pairs and triples of machines whose death costs a quorum of some partition,
counted exactly. Of several data centers each has so many nodes, racks and copies; a quorum is then one
of a data center, and pairs and triples are those within one.")]
pub struct Simulate {
    /// Nodes at first and at most, in each data center: 3..1000
    #[arg(long, value_name = "A..B", value_parser = nodes)]
    pub nodes: RangeInclusive<usize>,
    /// Partition replicas near which each node starts
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=4096))]
    pub partitions_per_node: u32,
    /// Data centers, of as many nodes, racks and copies each
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub datacenters: u32,
    /// Racks over which the nodes of a data center are spread
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub racks: u32,
    /// Copies of every partition in each data center (N)
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub replication: u32,
    /// Draw the figures into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Most nodes that a simulated cluster may have.
const NODES_MAX: usize = 2_000;

/// Reads `A..B`.
fn nodes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (first, most) = text.split_once("..").ok_or("expected two numbers: 3..1000")?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is no number"));
    let (first, most) = (number(first)?, number(most)?);
    if first == 0 || first > most || most > NODES_MAX {
        return Err(format!("expected 1 to {NODES_MAX} nodes, the smaller number first"));
    }
    Ok(first..=most)
}

/// Lets a cluster grow and shrink, and shows what came of it.
pub fn simulate(arguments: &Simulate) -> Result<Exit, Failure> {
    let shape = Shape {
        first: *arguments.nodes.start(),
        most: *arguments.nodes.end(),
        datacenters: arguments.datacenters as usize,
        per_node: arguments.partitions_per_node,
        racks: arguments.racks as usize,
        replication: arguments.replication,
    };
    if shape.most * shape.datacenters > NODES_MAX {
        let what =
            format!("{} data centers of {} nodes are too many", shape.datacenters, shape.most);
        return Err(Failure::usage(what, format!("ask for at most {NODES_MAX} nodes in all")));
    }
    let steps = course::run(&shape).map_err(|reason| {
        Failure::usage(reason, "start with at least as many nodes as there are copies")
    })?;
    if let Some(file) = &arguments.svg {
        std::fs::write(file, plot::svg(&shape, &steps)).map_err(|error| {
            Failure::error(
                format!("{} cannot be written: {error}", file.display()),
                "name another file with --svg",
            )
        })?;
    }
    match arguments.output {
        Format::Json => output::say_json(&draw::json(&shape, &steps))?,
        Format::Table => output::say(&draw::table(&shape, &steps))?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
