//! The life of one client request.

pub mod request;
