//! Nodes, one write, one read, one stand-in: everything at one moment.
//!
//! Kept small: tens of millions of these are looked at.

use std::hash::{Hash, Hasher};

use super::story::NODES;
use kvasir_core::ring::moves::{Condition, Holder, LocalCopy};

/// No tenure.
pub const NONE: u8 = u8::MAX;

/// The copy holds the write.
pub const HOLDS: u16 = 1;
/// It does so beyond a restart.
pub const SYNCED: u16 = 1 << 1;
/// The reader has this node's reply, which lacks the write.
pub const ANSWERED: u16 = 1 << 2;
/// The holder that comes in vouched for having merged from this node.
pub const MERGED: u16 = 1 << 3;
/// The stand-in knows that this node took its copy over.
pub const TOOK: u16 = 1 << 4;
/// Some data may be gone, or be what others erased.
pub const INCOMPLETE: u16 = 1 << 5;
/// The volume was rolled back.
pub const FORGOTTEN: u16 = 1 << 6;
/// The copy holds what the others have erased.
pub const ERASED: u16 = 1 << 7;

/// One node and what others know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The version of the entry that it has persisted.
    pub version: u8,
    /// The highest version of which it ever said so.
    pub told: u8,
    /// The tenure of its copy.
    pub since: u8,
    /// The tenure in which it acknowledged the write, as the writer knows.
    pub acked: u8,
    /// See [`super::rules::Bounds::rolled_back`]: tenures up to here may be of the forgotten past.
    pub floor: u8,
    pub flags: u16,
}

impl Node {
    /// At version 0, with an empty copy if it has one.
    pub fn new(has_copy: bool) -> Self {
        let since = if has_copy { 0 } else { NONE };
        Self { version: 0, told: 0, since, acked: NONE, floor: 0, flags: 0 }
    }

    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    pub fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// The copy as the rules see it, if there is one.
    pub fn copy(&self, node: usize) -> Option<LocalCopy<u8>> {
        let condition = match () {
            () if self.is(FORGOTTEN) => Condition::Forgotten,
            () if self.is(INCOMPLETE) => Condition::Incomplete,
            () => Condition::Whole,
        };
        (self.since != NONE).then_some(LocalCopy { holder: self.holder(node), condition })
    }

    /// The node in the tenure of its copy.
    pub fn holder(&self, node: usize) -> Holder<u8> {
        Holder { node: node as u8, since: u64::from(self.since) }
    }

    fn packed(&self) -> u64 {
        let bytes = [self.version, self.told, self.since, self.acked, self.floor, 0];
        let [low, high] = self.flags.to_le_bytes();
        let [a, b, c, d, e, f] = bytes;
        u64::from_le_bytes([a, b, c, d, e, f, low, high])
    }
}

/// How far the write, the read or the stand-in copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Errand {
    pub phase: u8,
    /// The version that whoever runs it knows.
    pub version: u8,
}

/// Errand not begun.
pub const IDLE: u8 = 0;
/// Under way; for the stand-in: holding a copy that was counted.
pub const RUNS: u8 = 1;
/// The write is acknowledged; the stand-in copy is deleted.
pub const DONE: u8 = 2;

/// A snapshot of C was taken.
pub const TAKEN: u8 = 1;
/// It holds the write.
pub const WITH_WRITE: u8 = 1 << 1;
/// It holds what others erased.
pub const WITH_ERASED: u8 = 1 << 2;
/// D has installed it and not vouched for it yet.
pub const INSTALLED: u8 = 1 << 3;

/// Everything at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    pub nodes: [Node; NODES],
    /// Which versions were ever chosen, and the newest.
    pub chosen: u16,
    pub current: u8,
    /// The snapshot of the current version.
    pub snapshot: u8,
    /// Tenures for which D vouched that it has a snapshot.
    pub streamed: u16,
    pub write: Errand,
    pub read: Errand,
    pub stand_in: Errand,
    pub restarts: u8,
    /// Faults that happened: rolled back, quarantined, erased behind a node's back.
    pub happened: u8,
}

pub const ROLLED_BACK: u8 = 1;
pub const QUARANTINED: u8 = 1 << 1;
pub const ERASED_BEHIND: u8 = 1 << 2;

impl World {
    /// The chosen versions above `above` (from 0 where none is given), oldest first.
    pub fn known(&self, above: Option<u8>) -> impl Iterator<Item = u8> + use<> {
        let (chosen, current) = (self.chosen, self.current);
        let first = above.map_or(0, |version| version + 1);
        (first..=current).filter(move |version| chosen >> version & 1 == 1)
    }

    /// Nodes that play the same part are kept in order: who is who among them makes no difference.
    pub fn sort(&mut self, alike: &[std::ops::Range<usize>]) {
        for range in alike {
            self.nodes[range.clone()].sort_unstable_by_key(Node::packed);
        }
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for node in &self.nodes {
            state.write_u64(node.packed());
        }
        let Self { current, snapshot, restarts, happened, write, read, stand_in, .. } = *self;
        state.write_u64(u64::from(self.chosen) << 32 | u64::from(self.streamed) << 16);
        state.write_u64(u64::from_le_bytes([
            write.phase | read.phase << 2 | stand_in.phase << 4,
            write.version,
            read.version,
            stand_in.version,
            current,
            snapshot,
            restarts,
            happened,
        ]));
    }
}
