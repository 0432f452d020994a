//! Frames between nodes: one connection per peer and class, many requests on it at once.
//!
//! [`frame`] lays out bytes, [`hello`] decides who may talk to whom, [`message`] says what is asked
//! and answered, [`pool`] dials and calls, [`listener`] accepts and dispatches. Both sides take any
//! byte stream from the seam, and every frame that is sent passes [`crate::seam::Net::fate`], where
//! the simulation loses, delays and doubles it.
//!
//! Invariants: nothing is allocated by a length that a peer merely claims; every wait has a
//! deadline; every queue is bounded in bytes and in count; bytes that are no frame close the
//! connection; a request whose bytes may have left is never sent again by this room, and one that arrives
//! twice is worked on once.

pub mod frame;
pub mod hello;
mod link;
pub mod listener;
pub mod memory_net;
pub mod message;
mod outbox;
pub mod pool;
mod reader;
mod repeats;
pub mod stats;

pub use frame::{Class, HEADER_BYTES, Route};
pub use hello::{Goodbye, Hello, Me};
pub use link::Answer;
pub use listener::{Incoming, ListenerLimits, PeerHandler, PeerListener};
pub use message::{Refusal, Relay, Reply, Request, Scan, Scanned, Told};
pub use pool::{CallError, Peers, PoolLimits};
pub use stats::PeerStats;

#[cfg(test)]
mod tests;
