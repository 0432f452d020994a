//! The Kvasir node.

pub mod admin;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod dev;
pub mod faults;
pub mod http;
pub mod peer;
pub mod planted;
pub mod pressure;
pub mod replica;
pub mod seam;
pub mod serve;
pub mod tasks;
