//! The pure cores of Kvasir: whatever decides, and nothing that does.
//!
//! Every module is a function of its inputs and of the time it is given: no sockets, no files, no
//! clock, no ambient randomness, no async runtime (this crate's `Cargo.toml` proves it). The same
//! code therefore runs in a node, in the simulation and in a unit test of three lines.
//!
//! Reading order: names ([`id`]) and bounds ([`limits`]) first, then what is stored under a key
//! ([`version`]). [`explore`] searches small models of the protocols for broken promises.

pub mod admin_api;
pub mod consensus;
pub mod gossip;
pub mod id;
pub mod limits;
pub mod quorum;
pub mod ring;
pub mod version;

pub mod explore;
