//! The client API over HTTP/1.1.
//!
//! Bytes come in through [`screen`], which lets only well-framed requests through; [`server`] runs
//! the connections of a listener over any byte stream ([`connection`] is one of them); [`api`] is
//! the life of one request: the parsers ([`path`], [`query`], [`headers`], [`body`]) turn it into
//! the plain structs of [`crate::coordinator::request`], and the writers ([`get`], [`mod@write`]) turn
//! outcomes into answers. Every error is a [`problem::Problem`].
//!
//! Nothing here decides about replicas, and nothing here is allocated by a length that a client
//! merely claims.

pub mod api;
pub mod body;
pub mod connection;
pub mod date;
pub mod get;
pub mod headers;
pub mod limits;
pub mod path;
pub mod problem;
pub mod query;
pub mod screen;
pub mod server;
pub mod stats;
pub mod write;

use bytes::Bytes;
use http_body_util::Full;

/// An answer: its body is whole before the first byte is sent.
pub type Answer = hyper::Response<Full<Bytes>>;

#[cfg(test)]
mod tests;
