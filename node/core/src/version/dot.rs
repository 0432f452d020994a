//! Actors and dots: the name of every write.
//!
//! A dot must never be given out twice, or a merge would take one write for another and drop an
//! acknowledged value. Nothing on a volume can promise that, because volumes are restored from old
//! copies. So an actor is one *start* of a node: 64 random bits drawn at that start, and a serial
//! that rises in memory. Under one key an actor counts 1, 2, 3. Who may count on which actor is
//! decided in [`super::mint`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who mints dots under a key: one start of a node, and one of its serials.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// 64 random bits drawn when the node started.
    pub tag: u64,
    /// Position among the serials of that start, from 0. Each is taken for one key only. 64 bits,
    /// because every key without a record takes a new one.
    pub serial: u64,
}

/// One write: the `count`-th that `actor` minted under a key. Counts start at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// 1 for the actor's first write under the key, then 2, 3, ...
    pub count: u64,
}

impl Actor {
    /// The dot of this actor's `count`-th write.
    pub const fn dot(self, count: u64) -> Dot {
        Dot { actor: self, count }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.tag, self.serial)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `tag.serial:count`, the tag as 16 hexadecimal digits.
impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.count)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
