//! The operator of Kvasir: turns a `KVCluster` resource into a running ring.
//!
//! Data flows one way: observe (reads only) -> plan (pure) -> apply (the only writer) -> status.

pub mod apply;
pub mod controller;
pub mod crd;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod node_admin;
pub mod observe;
pub mod pass;
pub mod plan;
pub mod render;
pub mod server;
pub mod snapshot;
