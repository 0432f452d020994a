//! Liveness (I12): once everything is mended and the cluster had its time, every operation succeeds.

use super::history::{History, Outcome};
use super::rules::Violation;

/// Operations from `calm_from_ms` on that did not succeed.
pub fn violations(history: &History, calm_from_ms: u64) -> Vec<Violation> {
    let calm = history.operations.iter().filter(|o| o.start_ms >= calm_from_ms);
    calm.filter(|o| o.outcome != Outcome::Ok)
        .map(|o| Violation::Refused { id: o.id, server: o.server.clone() })
        .collect()
}
