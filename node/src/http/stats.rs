//! What the client port counts: plain atomics, shared by all workers, read at scrape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::problem::Code;

/// Upper bounds of the latency histogram, in microseconds; one more bucket is unbounded.
pub const LATENCY_BOUNDS_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];

/// What a request wanted, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET` or `HEAD` of a key.
    Get,
    /// `PUT` of a key.
    Put,
    /// `DELETE` of a key.
    Delete,
    /// A page of a list.
    List,
    /// A list in lines, from its first page to its last line.
    ListStream,
    /// `POST /v1/batch`.
    Batch,
    /// Settings of buckets, read or changed.
    Bucket,
    /// Refused before it was clear what it wanted, or before the node began with it.
    Other,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Operation; 8] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::List,
        Self::ListStream,
        Self::Batch,
        Self::Bucket,
        Self::Other,
    ];

    /// Its label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::ListStream => "list_stream",
            Self::Batch => "batch",
            Self::Bucket => "bucket",
            Self::Other => "other",
        }
    }
}

/// Counts of one operation.
#[derive(Debug, Default)]
pub struct OperationStats {
    /// Answers by the hundreds of their status: index 0 is 1xx.
    pub by_class: [AtomicU64; 5],
    /// Requests by latency bucket, each counted once, the unbounded bucket last.
    pub latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of all latencies in microseconds.
    pub latency_sum_us: AtomicU64,
    /// Bytes of request bodies taken in.
    pub request_bytes: AtomicU64,
    /// Bytes of answer bodies.
    pub response_bytes: AtomicU64,
}

/// Counts of one port.
#[derive(Debug)]
pub struct HttpStats {
    operations: [OperationStats; Operation::ALL.len()],
    problems: [AtomicU64; Code::ALL.len()],
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections accepted since the start.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub refused_connections: AtomicU64,
    /// Connections ended because the client was too slow to send or to read.
    pub timeouts: AtomicU64,
    /// Connections ended because of malformed requests.
    pub malformed: AtomicU64,
    /// Connections ended because no further request came.
    pub idle: AtomicU64,
    /// Connections that asked for nothing and made room for others.
    pub made_room: AtomicU64,
    /// Bytes of request bodies held now.
    pub body_bytes: AtomicU64,
    /// Requests being answered now.
    pub in_flight: AtomicU64,
    /// Reads that showed more than one sibling.
    pub conflicts_shown: AtomicU64,
}

impl Default for HttpStats {
    fn default() -> Self {
        Self {
            operations: Default::default(),
            problems: [const { AtomicU64::new(0) }; Code::ALL.len()],
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            made_room: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            conflicts_shown: AtomicU64::new(0),
        }
    }
}

impl HttpStats {
    /// Notes an error answer.
    pub fn problem(&self, code: Code) {
        self.problems[code as usize].fetch_add(1, Relaxed);
    }

    /// Error answers with this code.
    pub fn problems(&self, code: Code) -> u64 {
        self.problems[code as usize].load(Relaxed)
    }

    /// The counts of one operation.
    pub fn of(&self, operation: Operation) -> &OperationStats {
        &self.operations[operation as usize]
    }

    /// Requests answered since the start.
    pub fn answered_ever(&self) -> u64 {
        let classes = self.operations.iter().flat_map(|operation| &operation.by_class);
        classes.map(|count| count.load(Relaxed)).sum()
    }

    /// Reads and writes of one key answered since the start, and the microseconds that they took together.
    pub fn waited(&self) -> (u64, u64) {
        let all = [Operation::Get, Operation::Put, Operation::Delete].map(|which| self.of(which));
        let count = |cells: &[AtomicU64]| cells.iter().map(|cell| cell.load(Relaxed)).sum::<u64>();
        let answered = all.iter().map(|of| count(&of.latency)).sum();
        (answered, all.iter().map(|of| of.latency_sum_us.load(Relaxed)).sum())
    }

    /// Notes an answered request.
    pub fn answered(&self, operation: Operation, status: u16, took: Duration, bytes: u64) {
        let stats = self.of(operation);
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        stats.by_class[class].fetch_add(1, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        stats.latency[bucket].fetch_add(1, Relaxed);
        stats.latency_sum_us.fetch_add(us, Relaxed);
        stats.response_bytes.fetch_add(bytes, Relaxed);
    }
}

/// Raises a gauge while it lives.
#[derive(Debug)]
pub struct Raised<'a>(&'a AtomicU64);

impl<'a> Raised<'a> {
    /// Raises `gauge` by one.
    pub fn by_one(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_land_in_their_class_and_bucket() {
        let stats = HttpStats::default();
        stats.answered(Operation::Get, 200, Duration::from_micros(250), 7);
        stats.answered(Operation::Get, 503, Duration::from_micros(251), 0);
        stats.answered(Operation::Get, 504, Duration::from_secs(9), 0);
        let get = stats.of(Operation::Get);
        let read = |cells: &[AtomicU64]| cells.iter().map(|c| c.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(read(&get.by_class), [0, 1, 0, 0, 2]);
        let latency = read(&get.latency);
        assert_eq!((latency[0], latency[1], latency[14]), (1, 1, 1));
        assert_eq!(get.response_bytes.load(Relaxed), 7);
        assert_eq!(stats.waited(), (3, 250 + 251 + 9_000_000));
        let raised = Raised::by_one(&stats.in_flight);
        assert_eq!(stats.in_flight.load(Relaxed), 1);
        drop(raised);
        assert_eq!(stats.in_flight.load(Relaxed), 0);
    }
}
