//! The pure cores of Kvasir: whatever decides, and nothing that does.
//!
//! Every module is a function of its inputs and of the time it is given: no sockets, no files, no
//! clock, no ambient randomness, no async runtime (this crate's `Cargo.toml` proves it). The same
//! code therefore runs in a node, in the simulation and in a unit test of three lines.
//!
//! Reading order: names ([`id`]) and bounds ([`limits`]) first, then what is stored under a key
//! ([`version`]), where it is stored ([`ring`]) and how all members agree on that ([`consensus`]),
//! who is alive ([`gossip`]), how many answers are enough ([`quorum`]), which keys a bucket has
//! ([`list`]), how replicas that differ find and mend it ([`merkle`]), when a tombstone may go
//! ([`reclaim`]), how much work a node takes on ([`flow`]), and what operators say to nodes
//! ([`admin_api`]). [`explore`] searches small models of the protocols for broken promises.

pub mod id;
pub mod limits;
pub mod version;

pub mod ring;

pub mod consensus;

pub mod gossip;

pub mod handoff;

pub mod quorum;

pub mod list;

pub mod merkle;

pub mod reclaim;

pub mod flow;

pub mod admin_api;

pub mod explore;
