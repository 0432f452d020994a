//! The operator against a Kubernetes in memory: a fake API server, simulated controllers, and nodes
//! that decide by the real rules of the ring.
//!
//! `api/` is the server, `world/` what the rest of Kubernetes and the nodes do, `laws.rs` holds the
//! fake to what a real API server does. No sockets, no wall clock, no randomness.

mod api;
mod laws;
mod world;
