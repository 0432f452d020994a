//! Which nodes share partitions with which: the scatter of a table.
//!
//! Few partners make it unlikely that nodes that fail together hold a quorum of something: with N = 3
//! the chance for two is the part of all pairs that are partners (Cidon et al., "Copysets", 2013).
//! Too few would make rebuilding a node slow, since its partners are who streams. Aimed at are 16.

use std::collections::BTreeMap;

/// Partners of a node that planners aim not to exceed, with `copies` copies of each partition.
pub(super) fn aim(copies: u32) -> usize {
    16.max(2 * (copies as usize).saturating_sub(1))
}

/// For each node, with whom it shares how many partitions.
pub(super) struct Partners(Vec<BTreeMap<usize, u32>>);

impl Partners {
    /// Of these rows of owners, numbered below `nodes`.
    pub fn of<'a>(nodes: usize, rows: impl Iterator<Item = &'a [usize]>) -> Self {
        let mut partners = Self(vec![BTreeMap::new(); nodes]);
        for row in rows {
            for (i, &a) in row.iter().enumerate() {
                row[i + 1..].iter().for_each(|&b| partners.add(a, b));
            }
        }
        partners
    }

    /// With how many others the node shares a partition.
    pub fn count(&self, node: usize) -> usize {
        self.0[node].len()
    }

    /// Who shares a partition with the node, in order.
    pub fn with(&self, node: usize) -> impl ExactSizeIterator<Item = usize> {
        self.0[node].keys().copied()
    }

    fn add(&mut self, a: usize, b: usize) {
        *self.0[a].entry(b).or_default() += 1;
        *self.0[b].entry(a).or_default() += 1;
    }

    fn remove(&mut self, a: usize, b: usize) {
        for (a, b) in [(a, b), (b, a)] {
            let count = self.0[a].entry(b).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0[a].remove(&b);
            }
        }
    }

    /// Puts `node` at position `at` of a row.
    pub fn replace(&mut self, row: &mut [usize], at: usize, node: usize) {
        let before = std::mem::replace(&mut row[at], node);
        for (_, &other) in row.iter().enumerate().filter(|(position, _)| *position != at) {
            self.remove(before, other);
            self.add(node, other);
        }
    }
}
