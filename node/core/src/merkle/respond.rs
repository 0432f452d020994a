//! The side that is asked: what it says of sums, and how it finds what the asker lacks.

use super::digest::KeyDigest;
use super::message::{Answer, Ask, Malformed, Verdict, pack};
use super::place::Node;
use super::tree::Tree;
use std::collections::BTreeMap;

/// Compares sums with the own tree. `serves` says whether this node may speak for a node of the tree: it owns
/// the partition, or for nodes above partitions, all of them.
///
/// # Errors
/// [`Malformed`] for anything but sums within their bounds.
pub fn sums(tree: &Tree, ask: &Ask, serves: impl Fn(Node) -> bool) -> Result<Answer, Malformed> {
    ask.check()?;
    let Ask::Sums { bits: _, depth, step, parents, sums } = ask else {
        return Err(Malformed("not a question about sums"));
    };
    let mut sums = sums.iter().map(|sum| u64::from_le_bytes(*sum));
    let mut verdicts = Vec::with_capacity(parents.len() << step);
    for index in parents {
        let parent = Node { depth: *depth, index: *index };
        let vouches = serves(parent) && tree.vouches(parent);
        for (node, theirs) in parent.below(*step).zip(&mut sums) {
            // A node below the own leaves has no sum here; the asker learns how deep this tree is.
            verdicts.push(match tree.sum(node) {
                _ if !vouches || node.depth > tree.bits() => Verdict::Unknown,
                mine if mine == theirs => Verdict::Equal,
                0 => Verdict::Empty,
                _ => Verdict::Differs,
            });
        }
    }
    Ok(Answer::Sums { bits: tree.bits(), verdicts: pack(verdicts.into_iter()) })
}

/// The digests of a piece that were not met here yet.
#[derive(Debug)]
pub struct Matching(BTreeMap<KeyDigest, u32>);

impl Matching {
    /// Nothing was met yet.
    pub fn new(digests: &[KeyDigest]) -> Self {
        Self(digests.iter().copied().zip(0..).collect())
    }

    /// A key that is held here. True if the asker lacks it or holds it otherwise: send it.
    pub fn lacks(&mut self, held: KeyDigest) -> bool {
        self.0.remove(&held).is_none()
    }

    /// Positions of what the asker holds and this side does not.
    pub fn wanted(self) -> Vec<u32> {
        let mut wanted: Vec<u32> = self.0.into_values().collect();
        wanted.sort_unstable();
        wanted
    }
}
