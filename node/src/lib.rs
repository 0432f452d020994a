//! The Kvasir node.

pub mod cli;
pub mod coordinator;
pub mod dev;
pub mod http;
pub mod seam;
