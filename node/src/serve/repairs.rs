//! Anti-entropy as the admin port sees it: how far it is, and starting or pausing it.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{
    ComparedFirst, Comparison, ComparisonCause, Problem, RepairAction, RepairRequest, RepairStatus,
    TreeStatus,
};
use kvasir_core::merkle::{Cause, Past, Scope};

use super::backend::{Backend, problem};
use crate::admin::Answered;
use crate::tasks::{RepairFigures, TreeFigures};

impl Backend {
    /// How far anti-entropy is.
    pub(super) fn repair_status(&self) -> RepairStatus {
        let figures = self.shared.repairs.figures();
        let RepairFigures { on, paused, round, known, first, past, tree, .. } = figures;
        let round = round.unwrap_or_default();
        RepairStatus {
            running: !round.finished && round.total > 0,
            comparisons_total: round.total,
            comparisons_done: round.done,
            comparisons_skipped: round.skipped,
            keys_repaired: round.mended,
            exchanged_bytes: round.bytes,
            bucket: round.scope.bucket.map(|b| String::from_utf8_lossy(&b).into_owned()),
            operation: round.scope.operation,
            last_complete_ago_ms: (known.never == 0).then_some(known.oldest_ms),
            paused,
            differing_partitions: known.differing,
            never_compared: known.never,
            oldest_comparison_ms: known.oldest_ms,
            comparisons_ever: figures.through + figures.failed,
            keys_repaired_ever: figures.mended,
            bytes_ever: figures.sent_bytes + figures.received_bytes,
            compared_first: first
                .into_iter()
                .map(|(node, partitions)| ComparedFirst { node, partitions })
                .collect(),
            last_comparisons: past.into_iter().map(comparison).collect(),
            tree: on.then(|| status_of(tree)),
        }
    }

    /// Starts, pauses or resumes it.
    pub(super) fn repair(&self, request: RepairRequest) -> Answered<RepairStatus> {
        let document = self.newest()?;
        request.validate(document.partition_bits).map_err(Box::new)?;
        let repairs = &self.shared.repairs;
        if !self.shared.replica.trees().is_on() {
            let hint = "set repair.enabled in its configuration and restart it";
            let problem = Problem::new(code::UNAVAILABLE, "this node keeps no hash tree");
            return Err(Box::new(problem.hint(hint)));
        }
        match request.action {
            RepairAction::Pause => repairs.schedule().pause(),
            RepairAction::Resume => {
                repairs.schedule().resume();
                repairs.asked.notify_one();
            }
            RepairAction::Start => {
                let indexes = |names: Vec<_>| -> BTreeSet<u32> {
                    names
                        .into_iter()
                        .map(|n: kvasir_core::admin_api::PartitionName| n.index)
                        .collect()
                };
                let scope = Scope {
                    partitions: request.partitions.map(indexes),
                    bucket: request.bucket.map(Bytes::from),
                    operation: None,
                };
                if !repairs.request(scope) {
                    return problem(code::UNAVAILABLE, "too many requested rounds wait already");
                }
            }
        }
        Ok(self.repair_status())
    }
}

fn comparison(past: Past) -> Comparison {
    Comparison {
        node: past.peer,
        cause: match past.cause {
            Cause::Returned => ComparisonCause::Returned,
            Cause::Asked => ComparisonCause::Asked,
            Cause::Turn => ComparisonCause::Turn,
        },
        partitions: past.partitions,
        equal: past.equal,
        keys_repaired: past.mended,
    }
}

fn status_of(tree: TreeFigures) -> TreeStatus {
    TreeStatus {
        bits: tree.bits,
        memory_bytes: tree.memory_bytes,
        memory_max_bytes: tree.memory_max_bytes,
        doubtful_chunks: tree.doubtful_chunks,
        changes: tree.changes,
        rebuilt_chunks: tree.rebuilt_chunks,
        checked_chunks: tree.checked_chunks,
        wrong_leaves: tree.wrong_leaves,
    }
}
