//! Anti-entropy: finds what differs between two replicas of a partition with few bytes, and mends it.
//!
//! A node keeps one [`Tree`] over all that it stores: 2^bits leaves, each the XOR of a keyed digest of
//! every key under it and of the whole set stored there. Because leaves stand at a fixed depth of the
//! hash, a partition of any k is a subtree, a dropped range is a range of leaves, and trees of different
//! depth compare at the smaller one. [`Exchange`] is the side that begins: it sends sums, goes down only
//! where they differ, compares the digests of single keys there, and moves only the sets that differ, in
//! both directions, by merge. [`respond`] is the other side. [`Schedule`] says whom to compare with next.
//!
//! Invariants: absence is never evidence of deletion, since nothing here erases; a message of any size
//! from a peer costs bounded memory; whoever cannot vouch for a part of its tree says so and is left alone
//! there. Source: Merkle 1987 as used in Dynamo (DeCandia et al. 2007, section 4.7); leaves that are sums
//! and can be changed in place: Bellare and Micciancio 1997.

mod checkpoint;
mod digest;
mod exchange;
mod message;
mod place;
pub mod respond;
mod rest;
mod schedule;
mod tree;

pub use checkpoint::Restored;
pub use digest::{KeyDigest, TreeKey};
pub use exchange::{Compared, Exchange, Limits, Listed, Merged, Span, Step, Tally};
pub use message::{Answer, Ask, Held, Malformed, PAGE_BYTES, Piece, Verdict};
pub use place::{BITS_MAX, BITS_MIN, Node, place};
pub use rest::rest_ms;
pub use schedule::{Cause, Figures, Job, Neighbours, Past, Round, Schedule, Scope};
pub use tree::{CHUNK_LEAVES, Cut, Edge, Stale, Tree};

#[cfg(test)]
mod tests;
