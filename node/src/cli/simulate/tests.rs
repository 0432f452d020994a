//! A simulated course: what the figures say, and that the picture holds all of them.

use super::course::{Way, run};
use super::*;

fn shape(first: usize, most: usize) -> Shape {
    Shape { first, most, datacenters: 1, per_node: 64, racks: 3, replication: 3 }
}

#[test]
fn a_range_is_two_numbers_of_nodes() {
    assert_eq!(nodes("3..1000"), Ok(3..=1000));
    for bad in ["", "3", "9..3", "0..3", "3..", "3..2001", "a..b"] {
        assert!(nodes(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_cluster_grows_and_comes_back_even_and_with_little_movement() {
    let steps = run(&shape(3, 40)).unwrap();
    assert_eq!(steps[0].way, Way::Formed);
    let nodes: Vec<usize> = steps.iter().map(|step| step.measures.nodes).collect();
    assert_eq!((nodes[0], nodes.iter().max(), nodes.last()), (3, Some(&40), Some(&3)));
    let (up, down): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.way != Way::Shrunk);
    assert_eq!(up.len(), down.len() + 1);
    for step in &steps {
        let figures = &step.measures;
        let replicas = step.partitions as f64 * 3.0;
        assert!((figures.mean - replicas / figures.nodes as f64).abs() < 1e-9);
        assert!(figures.mean >= 16.0, "cut in two in time: {step:?}");
        assert!(step.excess().is_none_or(|excess| excess <= 1.05), "{step:?}");
        // Racks of unequal numbers of nodes bind the load to the smallest.
        let smallest = (figures.nodes / 3) as f64;
        let most = (replicas / 3.0 / smallest).ceil();
        assert!(figures.most as f64 <= most, "{step:?}");
    }
    assert_eq!(steps[0].measures.pairs.chance(), 1.0, "any two of three nodes are a quorum");
}

#[test]
fn too_few_nodes_to_begin_with_are_refused() {
    let error = run(&Shape { replication: 5, ..shape(3, 9) }).unwrap_err();
    assert!(error.contains("5 distinct machines"), "{error}");
}

#[test]
fn the_picture_and_the_table_hold_every_step() {
    let shape = shape(3, 20);
    let steps = run(&shape).unwrap();
    let table = draw::table(&shape, &steps);
    assert_eq!(table.lines().count(), steps.len() + 3);
    let svg = plot::svg(&shape, &steps);
    let count = |what| svg.matches(what).count();
    // Six figures, each up and down; both lines hold the step at the top.
    let moved = steps.iter().filter(|step| step.excess().is_some()).count();
    assert_eq!(count("<polyline"), 12);
    assert_eq!(count("<circle"), 5 * (steps.len() + 1) + moved + 1);
    assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.ends_with("</svg>\n"));
    assert_eq!(svg, plot::svg(&shape, &steps));
    let json = draw::json(&shape, &steps);
    assert_eq!(json["steps"].as_array().unwrap().len(), steps.len());
}

#[test]
fn data_centers_grow_side_by_side_and_each_is_as_one_alone() {
    let alone = run(&shape(3, 12)).unwrap();
    let three = Shape { datacenters: 3, ..shape(3, 12) };
    let together = run(&three).unwrap();
    assert_eq!(alone.len(), together.len());
    for (one, all) in alone.iter().zip(&together) {
        assert_eq!((one.partitions, one.way), (all.partitions, all.way));
        let (one, many) = (&one.measures, &all.measures);
        assert_eq!(
            (one.nodes * 3, one.machines * 3, one.most),
            (many.nodes, many.machines, many.most)
        );
        assert!((one.mean - many.mean).abs() < 1e-9 && one.pairs.all * 3 == many.pairs.all);
        assert!(all.excess().is_none_or(|excess| excess <= 1.05), "{all:?}");
    }
    assert!(draw::table(&three, &together).starts_with("3 data centers, each of 3 to 12 nodes"));
    assert_eq!(draw::json(&three, &together)["datacenters"], 3);
    assert_eq!(plot::svg(&three, &together).matches("<polyline").count(), 12);
}
