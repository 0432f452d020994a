//! When all replicas are compared with each other.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Nodes compare their replicas in the background all the time (`repair` in their settings). Besides, a
/// round of everything is asked for after every change of the topology and by schedule, and one of all
/// that a node has when it comes back after a long absence.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.overdueAfterSeconds > self.intervalSeconds")
    .message("repair.overdueAfterSeconds must be more than repair.intervalSeconds: a repair takes time"))]
pub struct RepairSpec {
    /// Seconds from the end of one round to the next; 0: only after changes of the topology.
    #[serde(default = "daily")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub interval_seconds: i64,
    /// Seconds after the last complete round from which the condition RepairOverdue is true.
    #[serde(default = "three_days")]
    #[schemars(range(min = 600, max = 63_072_000))]
    pub overdue_after_seconds: i64,
    /// Seconds that a node may be away until all that it has is compared once it is back. Others keep
    /// notes of what it missed for `handoff.hints_max_age`.
    #[serde(default = "three_hours")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub after_away_seconds: i64,
}

impl Default for RepairSpec {
    fn default() -> Self {
        Self {
            interval_seconds: daily(),
            overdue_after_seconds: three_days(),
            after_away_seconds: three_hours(),
        }
    }
}

fn daily() -> i64 {
    86_400
}

fn three_days() -> i64 {
    259_200
}

fn three_hours() -> i64 {
    10_800
}
