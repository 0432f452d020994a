//! The client API over HTTP/1.1.
//!
//! Bytes come in through [`screen`], which lets only well-framed requests through; [`server`] runs
//! one connection over any byte stream; the parsers ([`path`], [`query`], [`headers`], [`body`])
//! turn a request into the plain structs of [`crate::coordinator::request`], and the writers
//! (`get`, `put`, `delete`) turn outcomes into answers. Every error is a [`problem::Problem`].
//!
//! Nothing here decides about replicas, and nothing here is allocated by a length that a client
//! merely claims.

pub mod date;
pub mod headers;
pub mod path;
pub mod problem;
pub mod query;

use bytes::Bytes;
use http_body_util::Full;

/// An answer: its body is whole before the first byte is sent.
pub type Answer = hyper::Response<Full<Bytes>>;
