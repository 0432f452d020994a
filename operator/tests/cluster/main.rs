//! The operator against a Kubernetes in memory: a fake API server, simulated controllers, and nodes
//! that decide by the real rules of the ring.
//!
//! `api/` is the server, `world/` what the rest of Kubernetes and the nodes do; `laws.rs` in both
//! hold them to what real ones do. `operator.rs` gives the operator lives and deaths, `guards.rs`
//! says what it must never do, `hands.rs` tries single steps, `scenarios.rs` tells stories, `moving.rs`
//! and `racks.rs` those in which data moves, `matrix.rs` kills it at every write. No sockets, no wall clock, no randomness.

mod api;
mod guards;
mod hands;
mod laws;
mod matrix;
mod moving;
mod operator;
mod racks;
mod scenarios;
mod world;
