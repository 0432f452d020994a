//! The client API over HTTP/1.1.
