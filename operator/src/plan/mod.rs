//! From what was seen to what to do next: pure, with a reason for everything that is not done.

pub mod step;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

pub use step::{Plan, PodTarget, Step};

use crate::crd::{KVClusterStatus, condition};
use crate::snapshot::Snapshot;

/// Why nothing is done. The condition that says so carries [`Refusal::reason`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This build only observes.
    #[error("this build of the operator observes and plans nothing")]
    ObservesOnly,
}

impl Refusal {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ObservesOnly => "ObservesOnly",
        }
    }
}

/// The next steps, and the status as it should stand.
pub fn plan(seen: &Snapshot) -> Plan {
    let refusal = Refusal::ObservesOnly;
    let old = seen.cluster.status.clone().unwrap_or_default();
    let progressing = Condition {
        type_: condition::PROGRESSING.to_owned(),
        status: "False".to_owned(),
        reason: refusal.reason().to_owned(),
        message: refusal.to_string(),
        observed_generation: seen.cluster.metadata.generation,
        last_transition_time: old
            .conditions
            .iter()
            .find(|old| old.type_ == condition::PROGRESSING && old.status == "False")
            .map_or(Time(seen.now), |old| old.last_transition_time.clone()),
    };
    let status = KVClusterStatus {
        observed_generation: seen.cluster.metadata.generation,
        nodes: i32::try_from(seen.pods.len()).unwrap_or(i32::MAX),
        conditions: vec![progressing],
        ..old
    };
    Plan { steps: Vec::new(), status, requeue: Duration::from_secs(60) }
}
