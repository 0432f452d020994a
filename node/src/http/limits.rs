//! Bounds of the client port, all from the configuration. Plain data.

use std::time::Duration;

use kvasir_core::limits::VALUE_DEFAULT_MAX_BYTES;

/// What one listener allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest request body in bytes: the largest value.
    pub value_max_bytes: usize,
    /// Deadline of a request without `timeout`.
    pub timeout_default: Duration,
    /// Largest `timeout`.
    pub timeout_max: Duration,
    /// From the first byte of a head, or from accepting the connection, to the end of the head.
    pub head_timeout: Duration,
    /// Between two requests on one connection.
    pub idle_timeout: Duration,
    /// A body may take this long, and longer by one second for each `body_bytes_per_second`.
    pub body_timeout: Duration,
    /// Slowest body that is waited for once `body_timeout` is over.
    pub body_bytes_per_second: usize,
    /// How long a client may leave an answer unread before it is cut off.
    pub write_timeout: Duration,
    /// Connections of this listener.
    pub connections_max: usize,
    /// Bytes of request bodies held at once by this listener; more is refused with 503.
    pub bodies_max_bytes: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            value_max_bytes: VALUE_DEFAULT_MAX_BYTES,
            timeout_default: Duration::from_secs(5),
            timeout_max: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(10),
            body_bytes_per_second: 64 * 1024,
            write_timeout: Duration::from_secs(30),
            connections_max: 4_096,
            bodies_max_bytes: 256 << 20,
        }
    }
}
