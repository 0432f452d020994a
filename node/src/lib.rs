//! The Kvasir node.

pub mod coordinator;
pub mod http;
pub mod seam;
