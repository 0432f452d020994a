//! Every reader of bytes that come from outside, fed what nobody meant: frames of peers, tokens, requests
//! over HTTP, cursors and batches, configuration, the cluster document, and the commit log that a crash left.

mod config;
mod document;
mod frames;
mod http;
mod list;
mod log_recovery;
mod token;
