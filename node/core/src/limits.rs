//! Bounds that every part of Kvasir agrees on.
//!
//! Client limits are checked at the edge, before a byte of the value is kept. Replication, repair
//! and hand-back never refuse what was once accepted, so nothing here is applied to stored sets.

/// Longest key, in bytes. Keys are any bytes; the shortest has one.
pub const KEY_MAX_BYTES: usize = 4 * 1024;

/// Longest bucket name, in bytes: its length is one byte in table keys. The shortest has one.
pub const BUCKET_MAX_BYTES: usize = 255;

/// Largest value taken from a client unless configured otherwise, in bytes.
pub const VALUE_DEFAULT_MAX_BYTES: usize = 1024 * 1024;

/// The value limit can never be configured above this, in bytes.
pub const VALUE_HARD_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Longest content type kept with a value, in bytes.
pub const CONTENT_TYPE_MAX_BYTES: usize = 255;

/// From this many siblings on, a write is answered with a warning and counted.
pub const SIBLINGS_WARN: usize = 10;

/// A client's write that would leave more siblings than this is refused. Never applied to
/// replication.
pub const SIBLINGS_REFUSE: usize = 100;

/// Longest causal token, in bytes of the header that carries it. A longer one is neither issued
/// nor accepted.
pub const TOKEN_HEADER_MAX_BYTES: usize = 64 * 1024;
