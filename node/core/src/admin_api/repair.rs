//! Anti-entropy on request: `GET` and `POST /v1/repair`.

use serde::{Deserialize, Serialize};

use crate::admin_api::PartitionName;

/// `POST /v1/repair`: compare this node's replicas with their peers now. Answered by
/// [`RepairStatus`] with 202.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepairRequest {
    /// Only these partitions; all of this node's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionName>>,
}

/// How far anti-entropy is on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    /// Whether a requested round is running.
    pub running: bool,
    /// Pairs of replicas to compare in the current or last round.
    pub comparisons_total: u32,
    /// Pairs compared so far.
    pub comparisons_done: u32,
    /// Keys that differed and were exchanged.
    pub keys_repaired: u64,
    /// Bytes sent and received for it.
    pub exchanged_bytes: u64,
    /// Milliseconds since the last round that compared everything; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_complete_ago_ms: Option<u64>,
}
