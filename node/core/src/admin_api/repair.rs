//! Anti-entropy on request: `GET` and `POST /v1/repair`.

use serde::{Deserialize, Serialize};

use crate::admin_api::PartitionName;
use crate::admin_api::problem::{Problem, code};
use crate::id::NodeId;
use crate::limits::BUCKET_MAX_BYTES;

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairAction {
    /// Compare now; also ends a pause.
    #[default]
    Start,
    /// Compare nothing, not in the background either, until `start` or `resume` or the next start of the node.
    Pause,
    /// Go on.
    Resume,
}

/// `POST /v1/repair`: compare this node's replicas with their peers now. Answered by
/// [`RepairStatus`] with 202.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepairRequest {
    /// What to do; `start` when left out.
    #[serde(default)]
    pub action: RepairAction,
    /// `start` only: only these partitions; all of this node's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionName>>,
    /// `start` only: only keys of this bucket; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

impl RepairRequest {
    /// Whether the fields fit together and the ring, which has 2^`bits` partitions; the problem is a 400
    /// `bad_request` that names the field.
    pub fn validate(&self, bits: u8) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(code::BAD_REQUEST, detail));
        if self.action != RepairAction::Start
            && (self.partitions.is_some() || self.bucket.is_some())
        {
            return refuse("`partitions` and `bucket` go with `start` only".to_owned());
        }
        if self.bucket.as_ref().is_some_and(|b| !(1..=BUCKET_MAX_BYTES).contains(&b.len())) {
            return refuse("`bucket` has 1 to 255 bytes".to_owned());
        }
        let Some(partitions) = &self.partitions else { return Ok(()) };
        if partitions.is_empty() || partitions.len() > 1 << bits {
            return refuse(format!("`partitions` names 1 to {} of them", 1_u32 << bits));
        }
        match partitions.iter().find(|name| name.bits != bits || name.index >= 1 << bits) {
            Some(PartitionName { bits: given, index }) => refuse(format!(
                "`partitions` names {given}/{index}; this ring has {bits}/0 to {bits}/{}",
                (1_u32 << bits) - 1
            )),
            None => Ok(()),
        }
    }
}

/// How far anti-entropy is on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    /// Whether a requested round is running.
    pub running: bool,
    /// Pairs of replicas to compare in the current or last requested round.
    pub comparisons_total: u32,
    /// Pairs compared so far, and equal since.
    pub comparisons_done: u32,
    /// Pairs given up: the other node is down, did not answer, or a tree could not be relied upon.
    #[serde(default)]
    pub comparisons_skipped: u32,
    /// Keys of that round that differed and were exchanged.
    pub keys_repaired: u64,
    /// Bytes sent and received for it.
    pub exchanged_bytes: u64,
    /// The bucket that the round is limited to, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The operation that asked for the round, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Milliseconds since every pair of replicas was compared at least once; none while one never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_complete_ago_ms: Option<u64>,
    /// Nothing is compared until somebody resumes it.
    #[serde(default)]
    pub paused: bool,
    /// Partitions that are known to differ from another node's.
    #[serde(default)]
    pub differing_partitions: u64,
    /// Pairs of replicas never compared since the start of this node.
    #[serde(default)]
    pub never_compared: u64,
    /// Age of the oldest comparison of a pair; of the pair itself where it was never compared.
    #[serde(default)]
    pub oldest_comparison_ms: u64,
    /// Comparisons with another node since the start, in the background too.
    #[serde(default)]
    pub comparisons_ever: u64,
    /// Keys that changed on either side since the start.
    #[serde(default)]
    pub keys_repaired_ever: u64,
    /// Bytes sent and received since the start.
    #[serde(default)]
    pub bytes_ever: u64,
    /// Nodes that are compared with before others, since hints may not tell all that they missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compared_first: Vec<ComparedFirst>,
    /// The last comparisons, the newest first; at most eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_comparisons: Vec<Comparison>,
    /// The hash tree; none where it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeStatus>,
}

/// A node that is to be compared with before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparedFirst {
    /// Which.
    pub node: NodeId,
    /// Partitions that both nodes own: what is compared.
    pub partitions: u32,
}

/// One comparison with another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Which.
    pub node: NodeId,
    /// Why it was made.
    pub cause: ComparisonCause,
    /// Partitions that it was about.
    pub partitions: u32,
    /// Those that are known to be equal since.
    pub equal: u32,
    /// Keys that changed on either side.
    pub keys_repaired: u64,
}

/// Why a comparison was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ComparisonCause {
    /// The node was away for longer than hints last, or hints were lost meanwhile.
    Returned,
    /// A requested round.
    Asked,
    /// Once per interval.
    Turn,
}

/// The hash tree of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeStatus {
    /// It has 2^bits leaves.
    pub bits: u8,
    /// Bytes that it takes in memory.
    pub memory_bytes: u64,
    /// Bytes that it never exceeds.
    pub memory_max_bytes: u64,
    /// Parts of it that have to be read from the data before they are compared.
    pub doubtful_chunks: u64,
    /// Changes brought to it since the start, the replay of the log included.
    pub changes: u64,
    /// Parts that were read from the data because nothing was known of them.
    pub rebuilt_chunks: u64,
    /// Parts that were compared with the data.
    pub checked_chunks: u64,
    /// Leaves that were wrong, and mended.
    pub wrong_leaves: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_by_field() {
        let name = |bits, index| PartitionName { bits, index };
        let start = |partitions: Vec<PartitionName>| RepairRequest {
            partitions: Some(partitions),
            ..RepairRequest::default()
        };
        assert_eq!(RepairRequest::default().validate(6), Ok(()));
        assert_eq!(start(vec![name(6, 0), name(6, 63)]).validate(6), Ok(()));
        let bucket = |bucket: &str| RepairRequest {
            bucket: Some(bucket.to_owned()),
            ..RepairRequest::default()
        };
        assert_eq!(bucket("b").validate(6), Ok(()));
        let pause = RepairRequest { action: RepairAction::Pause, ..bucket("b") };
        for (bad, names) in [
            (start(vec![]), "partitions"),
            (start(vec![name(6, 64)]), "6/64"),
            (start(vec![name(7, 1)]), "7/1"),
            (bucket(""), "bucket"),
            (bucket(&"b".repeat(256)), "bucket"),
            (pause, "start"),
        ] {
            let problem = bad.validate(6).unwrap_err();
            assert_eq!(problem.code, code::BAD_REQUEST);
            assert!(problem.detail.contains(names), "{}", problem.detail);
        }
    }
}
