//! The figures of a simulation as a table and as JSON.

use serde_json::{Value, json};

use super::course::{Shape, Step, Way};
use crate::cli::output::{self, grouped};

/// A line that says what was simulated, and one row per step.
pub fn table(shape: &Shape, steps: &[Step]) -> String {
    let titles = [
        "",
        "NODES",
        "PARTITIONS",
        "PER NODE",
        "MAX/MEAN",
        "MOVED",
        "LEAST",
        "RATIO",
        "PARTNERS",
        "MOST",
        "2 DIE",
        "3 DIE",
    ];
    let rows = steps.iter().map(|step| {
        let figures = &step.measures;
        vec![
            match step.way {
                Way::Formed => "formed",
                Way::Grown => "grown",
                Way::Shrunk => "shrunk",
            }
            .to_owned(),
            grouped(figures.nodes as u64),
            grouped(step.partitions as u64),
            format!("{:.1}", figures.mean),
            format!("{:.3}", step.fullest()),
            grouped(step.moved),
            grouped(step.least),
            step.excess().map_or("-".to_owned(), |excess| format!("{excess:.3}")),
            format!("{:.1}", figures.partners_mean),
            figures.partners_most.to_string(),
            percent(figures.pairs.chance()),
            percent(figures.triples.chance()),
        ]
    });
    let right: Vec<usize> = (1..titles.len()).collect();
    let table = output::table(&titles, &right, rows.collect());
    format!("{}\n\n{table}", sentence(shape))
}

/// What was simulated, in one sentence.
pub fn sentence(shape: &Shape) -> String {
    let Shape { first, most, datacenters, per_node, racks, replication } = shape;
    let each = match datacenters {
        1 => String::new(),
        count => format!("{count} data centers, each of "),
    };
    format!(
        "{each}{first} to {most} nodes and back, {replication} copies, {racks} racks, near {per_node} \
         partition replicas per node at first"
    )
}

/// A part of 1 as percent, with as many digits as say something.
pub fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 1.0 => format!("{percent:.2} %"),
        percent if percent < 99.95 => format!("{percent:.1} %"),
        _ => "100 %".to_owned(),
    }
}

/// The same for programs.
pub fn json(shape: &Shape, steps: &[Step]) -> Value {
    let step = |step: &Step| {
        let figures = &step.measures;
        json!({
            "way": match step.way {
                Way::Formed => "formed",
                Way::Grown => "grown",
                Way::Shrunk => "shrunk",
            },
            "nodes": figures.nodes,
            "machines": figures.machines,
            "partitions": step.partitions,
            "replicasMost": figures.most,
            "replicasMean": figures.mean,
            "maxOverMean": step.fullest(),
            "moved": step.moved,
            "leastMoved": step.least,
            "partnersMean": figures.partners_mean,
            "partnersMost": figures.partners_most,
            "fatalPairs": figures.pairs.fatal,
            "pairs": figures.pairs.all,
            "fatalTriples": figures.triples.fatal,
            "triples": figures.triples.all,
        })
    };
    json!({
        "nodes": {"first": shape.first, "most": shape.most},
        "partitionsPerNode": shape.per_node,
        "datacenters": shape.datacenters,
        "racks": shape.racks,
        "replication": shape.replication,
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
    })
}
