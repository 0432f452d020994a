//! Families of the client port, and of what workers take on and refuse.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::{Bucket, Histogram, Metric, MetricType};

use super::{Labels, Page, pairs};
use crate::admin::backend::Bounds;
use crate::http::problem::Code;
use crate::http::stats::{HttpStats, LATENCY_BOUNDS_US, Operation};
use crate::pressure::{Full, PressureStats, Work};

impl Page {
    pub(super) fn http(&mut self, stats: &HttpStats) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let labels: Vec<_> = Operation::ALL
            .into_iter()
            .flat_map(|op| (1..5).map(move |class| (op, class)))
            .map(|(op, class)| {
                let count = stats.of(op).by_class[class].load(Relaxed);
                ([("api", "http"), ("op", op.name()), ("class", CLASSES[class])], count)
            })
            .collect();
        let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|(l, n)| (&l[..], *n)).collect();
        self.counters(
            "requests_total",
            "Answered requests by the hundreds of their status.",
            &rows,
        );
        self.latencies(stats);
        let by_op = |count: fn(&crate::http::stats::OperationStats) -> &AtomicU64| {
            Operation::ALL
                .map(|op| ([("api", "http"), ("op", op.name())], count(stats.of(op)).load(Relaxed)))
        };
        for (name, help, rows) in [
            (
                "request_bytes_total",
                "Bytes of request bodies taken in.",
                by_op(|s| &s.request_bytes),
            ),
            ("response_bytes_total", "Bytes of answer bodies.", by_op(|s| &s.response_bytes)),
        ] {
            let rows: Vec<(Labels<'_>, u64)> = rows.iter().map(|(l, n)| (&l[..], *n)).collect();
            self.counters(name, help, &rows);
        }
        let labels: Vec<_> = Code::ALL
            .iter()
            .map(|code| ([("api", "http"), ("code", code.name())], stats.problems(*code)))
            .collect();
        let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|(l, n)| (&l[..], *n)).collect();
        self.counters("problems_total", "Error answers by their stable code.", &rows);
        self.http_connections(stats);
    }

    fn http_connections(&mut self, stats: &HttpStats) {
        let http: Labels<'_> = &[("api", "http")];
        let read = |count: &AtomicU64| count.load(Relaxed);
        let help = "Client connections open now.";
        self.gauges("connections", help, &[(http, read(&stats.connections) as f64)]);
        let help = "Requests being answered now.";
        self.gauges("inflight_requests", help, &[(http, read(&stats.in_flight) as f64)]);
        let help = "Bytes of request bodies held now.";
        self.gauges("body_bytes", help, &[(http, read(&stats.body_bytes) as f64)]);
        let help = "Client connections accepted.";
        self.counters("connections_accepted_total", help, &[(http, read(&stats.accepted))]);
        self.counters(
            "connections_ended_total",
            "Client connections that the node refused or ended, by cause.",
            &[
                (&[("api", "http"), ("reason", "limit")], read(&stats.refused_connections)),
                (&[("api", "http"), ("reason", "timeout")], read(&stats.timeouts)),
                (&[("api", "http"), ("reason", "malformed")], read(&stats.malformed)),
                (&[("api", "http"), ("reason", "idle")], read(&stats.idle)),
                (&[("api", "http"), ("reason", "made_room")], read(&stats.made_room)),
            ],
        );
        let help = "Reads that showed more than one sibling.";
        self.counter("conflicts_shown_total", help, read(&stats.conflicts_shown));
    }

    fn latencies(&mut self, stats: &HttpStats) {
        let metrics = Operation::ALL.into_iter().map(|op| {
            let stats = stats.of(op);
            let mut count = 0;
            let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
            let buckets = bounds.zip(&stats.latency).map(|(bound, cell)| {
                count += cell.load(Relaxed);
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut histogram = Histogram::default();
            histogram.set_bucket(buckets.collect());
            // The encoder writes the unbounded bucket itself, from the count of all samples.
            let beyond = stats.latency[LATENCY_BOUNDS_US.len()].load(Relaxed);
            histogram.set_sample_count(count + beyond);
            histogram.set_sample_sum(stats.latency_sum_us.load(Relaxed) as f64 / 1e6);
            let mut metric = Metric::from_label(pairs(&[("api", "http"), ("op", op.name())]));
            metric.set_histogram(histogram);
            metric
        });
        let help = "From the head of a request to its answer.";
        let metrics = metrics.collect();
        self.family("request_duration_seconds", MetricType::HISTOGRAM, help, metrics);
    }

    pub(super) fn pressure(&mut self, stats: &PressureStats, bounds: &Bounds) {
        let kinds = Work::ALL.map(|work| ([("kind", work.name())], work));
        let rows = |value: &dyn Fn(Work) -> u64| -> Vec<(Labels<'_>, f64)> {
            kinds.iter().map(|(label, work)| (&label[..], value(*work) as f64)).collect()
        };
        for (name, help, rows) in [
            ("work", "Work that workers have taken on.", rows(&|work| stats.held(work).0)),
            ("work_max", "Bound of that.", rows(&|work| bounds.work[work as usize])),
            ("work_bytes", "Bytes of it.", rows(&|work| stats.held(work).1)),
        ] {
            self.gauges(name, help, &rows);
        }
        let refused: Vec<_> = Work::ALL
            .into_iter()
            .flat_map(|work| Full::ALL.map(|full| (work, full)))
            .map(|(work, full)| {
                ([("kind", work.name()), ("reason", full.name())], stats.refused(work, full))
            })
            .collect();
        let rows: Vec<(Labels<'_>, u64)> = refused.iter().map(|(l, n)| (&l[..], *n)).collect();
        self.counters("work_refused_total", "Work that was refused before it began.", &rows);
        let help = "Requests of other nodes whose deadline had passed before their turn.";
        self.counter("work_too_late_total", help, stats.too_late.load(Relaxed));
        let help = "How late the latest worker is.";
        self.gauge("worker_late_seconds", help, stats.late_us() as f64 / 1e6);
        self.gauge("workers_behind", "Workers that are behind.", stats.behind.load(Relaxed) as f64);
        let http: Labels<'_> = &[("api", "http")];
        let help = "Client connections that there may be.";
        self.gauges("connections_max", help, &[(http, bounds.connections as f64)]);
        let help = "Bytes of request bodies that may be held.";
        self.gauges("body_max_bytes", help, &[(http, bounds.body_bytes as f64)]);
        let help = "Memory that the node may take, by what bounds it.";
        let parts = bounds.memory.map(|(part, bytes)| ([("part", part)], bytes as f64));
        let rows: Vec<(Labels<'_>, f64)> = parts.iter().map(|(l, n)| (&l[..], *n)).collect();
        self.gauges("memory_max_bytes", help, &rows);
    }
}
