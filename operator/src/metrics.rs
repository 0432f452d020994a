//! What the operator counts about itself; `operator/METRICS.md` lists every name.
//!
//! No label names a cluster or a node: a person with a thousand clusters must not get a thousand
//! series from each. What a cluster is like stands in its conditions and in its nodes' metrics.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Upper bounds of the histogram of passes, in seconds.
const BOUNDS: [f64; 10] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

/// Counters and gauges.
pub struct Metrics {
    registry: Registry,
    passes: IntCounterVec,
    duration: Histogram,
    writes: IntCounterVec,
    failures: IntCounterVec,
    leader: IntGauge,
    clusters: IntGauge,
    last_pass: Mutex<Option<Instant>>,
}

impl Metrics {
    /// All of them at zero.
    ///
    /// # Errors
    /// A name that the format cannot carry: a defect, since all of them stand here.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let duration = HistogramOpts::new(
            "kvasir_operator_pass_duration_seconds",
            "Time of a pass over one cluster.",
        );
        let duration = Histogram::with_opts(duration.buckets(BOUNDS.to_vec()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            passes: counter(
                "kvasir_operator_passes_total",
                "Passes over a cluster, by how they ended.",
                &["result"],
            )?,
            duration,
            writes: counter(
                "kvasir_operator_writes_total",
                "Writes to the API server and to nodes, by what was written.",
                &["step"],
            )?,
            failures: counter(
                "kvasir_operator_write_failures_total",
                "Writes that failed, by what was written and why.",
                &["step", "reason"],
            )?,
            leader: gauge("kvasir_operator_leader", "1 while this process holds the lease.")?,
            clusters: gauge("kvasir_operator_clusters", "KVClusters that are looked after.")?,
            last_pass: Mutex::new(None),
            registry,
        })
    }

    /// A pass ended; `reason` says why it failed.
    pub fn passed(&self, took: Duration, reason: Option<&str>) {
        self.passes.with_label_values(&[reason.unwrap_or("ok")]).inc();
        self.duration.observe(took.as_secs_f64());
        if let Ok(mut last) = self.last_pass.lock() {
            *last = Some(Instant::now());
        }
    }

    /// Something is about to be written.
    pub fn wrote(&self, step: &str) {
        self.writes.with_label_values(&[step]).inc();
    }

    /// A step was taken; `reason` says why it failed.
    pub fn took(&self, step: &str, reason: Option<&str>) {
        self.wrote(step);
        if let Some(reason) = reason {
            self.failures.with_label_values(&[step, reason]).inc();
        }
    }

    /// Whether this process holds the lease.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many clusters there are.
    pub fn set_clusters(&self, count: usize) {
        self.clusters.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether passes stand still though there are clusters to look after.
    pub fn stands_still(&self, now: Instant, limit: Duration) -> bool {
        let busy = self.leader.get() == 1 && self.clusters.get() > 0;
        let last = self.last_pass.lock().map(|last| *last).unwrap_or_default();
        busy && last.is_some_and(|last| now.duration_since(last) > limit)
    }

    /// The page as Prometheus text.
    ///
    /// # Errors
    /// As for [`Metrics::new`].
    pub fn page(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_every_metric_and_no_other() {
        let metrics = Metrics::new().unwrap();
        metrics.passed(Duration::from_millis(5), None);
        metrics.took("Apply", Some("Changed"));
        let page = metrics.page().unwrap();
        let list = include_str!("../METRICS.md");
        let on_page = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut on_page: Vec<&str> = on_page.filter_map(|line| line.split(' ').next()).collect();
        on_page.retain(|name| name.starts_with("kvasir_"));
        let listed = list.lines().filter_map(|line| line.strip_prefix("| `kvasir_"));
        let mut listed: Vec<String> = listed
            .filter_map(|line| line.split(['`', '{']).next())
            .map(|rest| format!("kvasir_{rest}"))
            .collect();
        on_page.sort_unstable();
        listed.sort_unstable();
        assert_eq!(on_page, listed);
    }

    #[test]
    fn passes_that_stand_still_are_noticed_only_where_there_is_work() {
        let metrics = Metrics::new().unwrap();
        let limit = Duration::from_secs(60);
        metrics.passed(Duration::ZERO, None);
        let later = Instant::now() + Duration::from_secs(120);
        assert!(!metrics.stands_still(later, limit));
        metrics.set_leader(true);
        metrics.set_clusters(1);
        assert!(metrics.stands_still(later, limit));
        assert!(!metrics.stands_still(Instant::now(), limit));
    }
}
