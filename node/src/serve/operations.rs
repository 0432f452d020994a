//! Operations as a node carries them out: what the document records already is answered from it, what
//! is new becomes the next document by ballot. Idempotent by id, whichever node is asked.

use std::collections::BTreeSet;

use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{
    OperationKind, OperationPlan, OperationRequest, OperationStatus, Problem,
};
use kvasir_core::gossip::MemberView;
use kvasir_core::ring::operation::{Planned, cancel, plan_for, plan_rebuild};
use kvasir_core::ring::{Document, Member, Partition, Sealed};

use super::backend::{Backend, member, problem};
use crate::admin::Answered;
use crate::tasks::ballots::ProposeError;
use crate::tasks::driver;

/// How often an operation is planned anew after another change was faster.
const RACES_MAX: u32 = 5;

impl Backend {
    /// Posts an operation.
    pub(super) async fn operate(&self, request: OperationRequest) -> Answered<OperationStatus> {
        request.validate().map_err(Box::new)?;
        // A lost race for the epoch is tried again on the newest document: operations are idempotent.
        for _ in 0..RACES_MAX {
            let newest = self.newest()?;
            let child = match recorded(&newest, &request)? {
                Some(status) => return Ok(status),
                None => self.planned(&newest, &request).await?,
            };
            let Some(child) = child else { continue };
            match self.proposed(Sealed::new(child)).await {
                Ok(chosen) => {
                    let record = chosen.operations.get(&request.id);
                    return match record {
                        Some(record) => Ok(OperationStatus::of(&request.id, record)),
                        None => problem(code::INTERNAL, "the chosen document lost the operation"),
                    };
                }
                Err(ProposeError::Stale(_)) => {}
                Err(error) => return Err(self.refused(error)),
            }
        }
        problem(code::NO_MAJORITY, "other changes were faster five times in a row; try again")
    }

    /// Takes an operation back.
    pub(super) async fn take_back(&self, id: &str) -> Answered<OperationStatus> {
        for _ in 0..RACES_MAX {
            let newest = self.newest()?;
            let Some(record) = newest.operations.get(id) else {
                let detail = format!("no operation has the id `{id}`");
                return problem(code::UNKNOWN_OPERATION, detail);
            };
            let child = match cancel(&newest, id).map_err(|e| Box::new(Problem::from(e)))? {
                Some(child) => child,
                None => return Ok(OperationStatus::of(id, record)),
            };
            match self.proposed(Sealed::new(child)).await {
                Ok(_) | Err(ProposeError::Stale(_)) => {}
                Err(error) => return Err(self.refused(error)),
            }
        }
        problem(code::NO_MAJORITY, "other changes were faster five times in a row; try again")
    }

    /// What posting the operation would do.
    pub(super) async fn dry_run(&self, request: OperationRequest) -> Answered<OperationPlan> {
        request.validate().map_err(Box::new)?;
        let newest = self.newest()?;
        let known = recorded(&newest, &request)?.is_some();
        if request.kind == OperationKind::Rebuild && !known {
            let lost = self.lost(&newest, &request).await?;
            let bytes = self.replica_bytes(&newest);
            return OperationPlan::rebuilding(request, &newest, &lost, bytes).map_err(Box::new);
        }
        if request.moves_data() && !known {
            let place = self.place(&newest, &request)?;
            return self.plan_moves(request, &newest, place);
        }
        let child = if known { None } else { self.planned(&newest, &request).await? };
        Ok(OperationPlan::without_moves(request, newest.epoch, child.as_ref()))
    }

    /// The document that the operation leads to; none where its record is there already.
    async fn planned(
        &self,
        newest: &Sealed,
        request: &OperationRequest,
    ) -> Answered<Option<Document>> {
        self.may_go(request)?;
        let planned = match (request.kind, request.node) {
            (OperationKind::Rebuild, Some(node)) => {
                let lost = self.lost(newest, request).await?;
                plan_rebuild(newest, &request.id, node, &lost)
            }
            _ => {
                let operation = request.operation(self.place(newest, request)?);
                plan_for(newest, &request.id, &operation, request.replaces)
            }
        };
        match planned.map_err(|e| Box::new(Problem::from(e)))? {
            Planned::Child(child) => Ok(Some(*child)),
            Planned::AlreadyRecorded(_) => Ok(None),
        }
    }

    /// The partitions of which the node to rebuild says that its copy is lost. Only it knows.
    async fn lost(
        &self,
        newest: &Document,
        request: &OperationRequest,
    ) -> Answered<BTreeSet<Partition>> {
        let member = request.node.filter(|node| newest.members.contains_key(node));
        let Some(node) = member else {
            return problem(code::UNKNOWN_NODE, "the node is no member of this cluster");
        };
        match driver::report_of(&self.control, node).await {
            Some(report) => Ok(report.lost.into_iter().map(|lost| lost.partition).collect()),
            None => {
                let what = "the node to rebuild does not say what it lost: it did not answer";
                let hint = "start it, or post a `replace` if it is gone for good";
                Err(Box::new(Problem::new(code::UNAVAILABLE, what).hint(hint)))
            }
        }
    }

    /// The member entry that the operation leads to, from what the node says of itself.
    fn place(&self, newest: &Document, request: &OperationRequest) -> Answered<Option<Member>> {
        match request.kind {
            OperationKind::Join => Ok(Some(member(&self.heard_of(request)?))),
            OperationKind::Replace => {
                let listed = request.node.and_then(|node| newest.members.get(&node));
                Ok(Some(match listed {
                    Some(present) => present.clone(),
                    None => member(&self.heard_of(request)?),
                }))
            }
            OperationKind::Relocate => {
                let listed = request.node.and_then(|node| newest.members.get(&node));
                let Some(present) = listed else {
                    return problem(code::UNKNOWN_NODE, "the node is no member of this cluster");
                };
                let says = self.heard_of(request)?.labels;
                request.relocated(present, &says).map(Some).map_err(Box::new)
            }
            _ => Ok(None),
        }
    }

    /// Refuses that a node leaves while it is up and keeps what was counted in the place of owners that do
    /// not all have it yet. One that is down for good cannot be asked: what it alone keeps is lost with it.
    fn may_go(&self, request: &OperationRequest) -> Answered<()> {
        if request.kind != OperationKind::Leave {
            return Ok(());
        }
        let members = self.control.gossip.borrow().members(self.control.now_ms());
        let keeps = |m: &MemberView| m.status.is_up() && m.keeps_copies;
        if !members.iter().any(|m| Some(m.id) == request.node && keeps(m)) {
            return Ok(());
        }
        let what =
            "the node keeps stand-in copies: writes that were counted there in the place of owners";
        let hint =
            "start the owners that are down; the copies go back by themselves within seconds";
        Err(Box::new(Problem::new(code::KEEPS_COPIES, what).hint(hint)))
    }

    /// The node that an operation is about, as gossip knows it.
    fn heard_of(&self, request: &OperationRequest) -> Answered<MemberView> {
        let members = self.control.gossip.borrow().members(self.control.now_ms());
        members.into_iter().find(|m| Some(m.id) == request.node).ok_or_else(|| {
            let problem = Problem::new(code::UNKNOWN_NODE, "gossip has not heard of this node");
            Box::new(problem.hint("start the node with a seed of this cluster first"))
        })
    }
}

/// The state of an operation that the document records under this id.
///
/// # Errors
/// Another operation has the id.
fn recorded(newest: &Document, request: &OperationRequest) -> Answered<Option<OperationStatus>> {
    let Some(record) = newest.operations.get(&request.id) else { return Ok(None) };
    let posted = OperationStatus::of(&request.id, record);
    if request.is_same(&posted.request) {
        Ok(Some(posted))
    } else {
        problem(code::OPERATION_CONFLICT, "the id is taken by another operation")
    }
}
