//! What an operation that moves data would do: the planner's answer, with what this node knows of
//! sizes and of who is down.
//!
//! The size of a partition replica is an estimate: tables and log of this node's store divided by
//! the partition replicas that it owns. Keys are hashed, so replicas are about equal; log that was
//! flushed already and data that compaction has not dropped yet count too.

use std::collections::BTreeSet;

use kvasir_core::admin_api::planned::Known;
use kvasir_core::admin_api::{OperationPlan, OperationRequest};
use kvasir_core::id::NodeId;
use kvasir_core::ring::{Document, Member};

use super::backend::Backend;
use crate::admin::Answered;

impl Backend {
    /// Plans an operation that moves data; `member` is the place of a joining or replacing node.
    pub(super) fn plan_moves(
        &self,
        request: OperationRequest,
        newest: &Document,
        member: Option<Member>,
    ) -> Answered<OperationPlan> {
        let heard = self.control.gossip.borrow().members(self.control.now_ms());
        let down = heard.iter().filter(|member| !member.status.is_up()).map(|member| member.id);
        let down: BTreeSet<NodeId> = down.collect();
        let replica_bytes = self.replica_bytes(newest);
        let known = Known { member, down, replica_bytes };
        OperationPlan::moving(request, newest, known).map_err(Box::new)
    }

    /// Bytes of one partition replica, in the mean of those that this node owns; 0 if none.
    pub(super) fn replica_bytes(&self, newest: &Document) -> u64 {
        let me = self.shared.views.load().me;
        let owned = newest.table.iter().filter(|entry| entry.names(me)).count() as u64;
        let stats = self.shared.replica.store().stats();
        (stats.table_bytes + stats.log_bytes).checked_div(owned).unwrap_or(0)
    }
}
