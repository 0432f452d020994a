//! Which nodes of a local cluster reach each other, and how fast. Pure: from what was typed to what
//! each node is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvasir_core::id::NodeId;

use crate::faults::Orders;

/// The links between all nodes; at first whole and fast.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Nodes of different sides do not reach each other; empty: no partition.
    sides: Vec<BTreeSet<usize>>,
    /// How late the frames of a node are.
    slow: BTreeMap<usize, Duration>,
}

impl Links {
    /// Cuts the links between these sides; an earlier partition is over.
    pub fn part(&mut self, sides: Vec<BTreeSet<usize>>) {
        self.sides = sides;
    }

    /// Makes everything a node sends so late; zero ends that.
    pub fn slow(&mut self, number: usize, late: Duration) {
        match late.is_zero() {
            true => _ = self.slow.remove(&number),
            false => _ = self.slow.insert(number, late),
        }
    }

    /// Whether frames of one node reach the other.
    pub fn connect(&self, one: usize, other: usize) -> bool {
        let side = |number| self.sides.iter().position(|side| side.contains(&number));
        side(one) == side(other)
    }

    /// Whether nothing is cut or slow.
    pub fn are_whole(&self) -> bool {
        self.sides.is_empty() && self.slow.is_empty()
    }

    /// What a node has to do; `ids` are those of all nodes, by number.
    pub fn orders(&self, number: usize, ids: &[NodeId]) -> Orders {
        let cut = ids.iter().enumerate().filter(|(other, _)| !self.connect(number, *other));
        let late = self.slow.get(&number).copied().unwrap_or_default();
        Orders {
            cut: cut.map(|(_, id)| *id).collect(),
            delay_ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What is wrong with the links, for people; empty when they are whole.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.sides.is_empty() {
            lines.push(format!("partition: {}", show(&self.sides)));
        }
        for (number, late) in &self.slow {
            lines.push(format!("slow: what node {number} sends is {} ms late", late.as_millis()));
        }
        lines
    }
}

/// `0,1 | 2`.
pub fn show(sides: &[BTreeSet<usize>]) -> String {
    let side =
        |side: &BTreeSet<usize>| side.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    sides.iter().map(side).collect::<Vec<_>>().join(" | ")
}

/// `they are 0 to 4`, `they are 0, 2, 3`.
pub fn numbers(nodes: &BTreeSet<usize>) -> String {
    match (nodes.first(), nodes.last()) {
        (Some(first), Some(last)) if last - first + 1 == nodes.len() && last > first => {
            format!("they are {first} to {last}")
        }
        _ => {
            let all: Vec<String> = nodes.iter().map(usize::to_string).collect();
            format!("they are {}", all.join(", "))
        }
    }
}

/// Reads `0,1 | 2,3,4`. Nodes that are not named are one more side, so that `0` alone cuts node 0 off.
pub fn sides(text: &str, nodes: &BTreeSet<usize>) -> Result<Vec<BTreeSet<usize>>, String> {
    let example = "write the sides as in `partition 0 | 1,2`";
    let mut left = nodes.clone();
    let mut sides = Vec::new();
    for part in text.split('|') {
        let words: Vec<&str> =
            part.split([',', ' ', '\t']).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Err(format!("a side without a node: {example}"));
        }
        let mut side = BTreeSet::new();
        for word in words {
            let number = word.parse::<usize>().ok().filter(|number| nodes.contains(number));
            let number =
                number.ok_or_else(|| format!("there is no node `{word}`: {}", numbers(nodes)))?;
            if !left.remove(&number) {
                return Err(format!("node {number} is named twice: {example}"));
            }
            side.insert(number);
        }
        sides.push(side);
    }
    if !left.is_empty() {
        sides.push(left);
    }
    if sides.len() < 2 {
        return Err(format!("all nodes are on one side: {example}"));
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_as_they_are_typed() {
        let nodes = |count| (0..count).collect::<BTreeSet<usize>>();
        let read = |text: &str| sides(text, &nodes(5)).map(|sides| show(&sides));
        assert_eq!(read("0,1 | 2,3,4").unwrap(), "0,1 | 2,3,4");
        assert_eq!(read("3").unwrap(), "3 | 0,1,2,4");
        assert_eq!(read(" 4 0|1 ,2").unwrap(), "0,4 | 1,2 | 3");
        for wrong in ["", "|", "0|", "0 | 5", "0,0 | 1", "0 | 0", "a | b", "0,1,2,3,4", "-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(sides("0", &nodes(1)).is_err());
        let holes = BTreeSet::from([0, 2, 3]);
        assert_eq!(sides("0", &holes).map(|sides| show(&sides)), Ok("0 | 2,3".to_owned()));
        assert!(sides("1", &holes).unwrap_err().contains("they are 0, 2, 3"));
        assert_eq!(numbers(&nodes(3)), "they are 0 to 2");
    }

    #[test]
    fn each_node_is_told_about_its_own_frames() {
        let ids: Vec<NodeId> = (1..=3).map(|byte| NodeId::from_bytes([byte; 16])).collect();
        let mut links = Links::default();
        assert!(links.are_whole() && links.orders(0, &ids) == Orders::default());
        links.part(sides("0 | 1,2", &(0..3).collect()).unwrap());
        links.slow(2, Duration::from_millis(200));
        assert!(links.connect(1, 2) && !links.connect(0, 1) && links.connect(0, 0));
        let cut = |orders: Orders| orders.cut.into_iter().collect::<Vec<_>>();
        assert_eq!(cut(links.orders(0, &ids)), ids[1..]);
        assert_eq!(cut(links.orders(2, &ids)), ids[..1]);
        assert_eq!((links.orders(1, &ids).delay_ms, links.orders(2, &ids).delay_ms), (0, 200));
        assert_eq!(links.describe().len(), 2);
        links.slow(2, Duration::ZERO);
        links.part(Vec::new());
        assert!(links.are_whole() && links.describe().is_empty());
    }
}
