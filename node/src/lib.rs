//! The Kvasir node.

pub mod coordinator;
pub mod http;
