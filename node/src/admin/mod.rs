//! The admin port: probes, metrics, status, the cluster document, operations, the replica read.
//!
//! It has a listener, connections and bounds of its own, so that a client port under load cannot
//! take the probes with it. The connection loop and its framing rules are those of
//! [`crate::http::server`].

pub mod access;
pub mod backend;
pub mod metrics;
mod operation_figures;
pub mod routes;

pub use access::Access;
pub use backend::{
    AdminBackend, Answered, Bounds, Figures, GossipFigures, MemberFigures, RingFigures,
};
pub use operation_figures::OperationFigures;
pub use routes::Admin;

#[cfg(test)]
mod tests;
