//! The node as its admin port sees it: reads the control thread's state, and runs changes by ballot.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use kvasir_core::admin_api::probes::{
    CHECK_LOOPS, CHECK_NOT_DRAINING, CHECK_RECOVERY, CHECK_RING, CHECK_STORAGE,
};
use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{
    Check, DocumentAnswer, DocumentPut, InitRequest, OperationPlan, OperationRequest,
    OperationStatus, Probe, Problem, RepairRequest, RepairStatus, ReplicaRead, Status,
};
use kvasir_core::gossip::MemberView;
use kvasir_core::ring::{Document, Member, MemberState, Sealed, TokenSecret};

use super::node::Shared;
use super::report;
use crate::admin::{AdminBackend, Answered, Figures};
use crate::tasks::Control;
use crate::tasks::ballots::{self, ProposeError};

/// The admin side of one node; lives on the control thread.
pub struct Backend {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The control thread's own.
    pub control: Rc<Control>,
}

/// Longest wait for the outcome of a change; it may still come afterwards.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn problem<T>(code: &str, detail: impl Into<String>) -> Answered<T> {
    Err(Box::new(Problem::new(code, detail)))
}

impl AdminBackend for Backend {
    fn livez(&self) -> Probe {
        // Answering at all is the check: this runs on the loop that it judges.
        Probe::of(vec![Check::new(CHECK_LOOPS, true)])
    }

    fn readyz(&self) -> Probe {
        let failed = self.shared.disk_failed().or_else(|| self.control.failed.borrow().clone());
        let failed = failed.or_else(|| {
            let seconds = self.shared.disk_silent()?.as_secs();
            Some(format!("the disk has not answered a write for {seconds} s. look at its volume"))
        });
        let storage = Check::new(CHECK_STORAGE, failed.is_none());
        let storage = match failed {
            Some(reason) => storage.detail(reason),
            None => storage,
        };
        let view = self.shared.views.load();
        let ring = match (&view.formed, &view.retired) {
            (None, _) => Check::new(CHECK_RING, false).detail(self.outside()),
            (Some(_), Some(reason)) => Check::new(CHECK_RING, false).detail(reason.clone()),
            (Some(_), None) => Check::new(CHECK_RING, true),
        };
        let stops = self.shared.leaving.load(Relaxed) || *self.shared.drain.borrow();
        Probe::of(vec![storage, ring, Check::new(CHECK_NOT_DRAINING, !stops)])
    }

    fn startupz(&self) -> Probe {
        // The port opens when the store has been recovered.
        Probe::of(vec![Check::new(CHECK_RECOVERY, true)])
    }

    fn figures(&self) -> Figures {
        report::figures(&self.shared, &self.control)
    }

    fn status(&self) -> LocalBoxFuture<'_, Answered<Status>> {
        Box::pin(async { Ok(report::status(&self.shared, &self.control)) })
    }

    fn document(&self) -> Answered<DocumentAnswer> {
        Ok(DocumentAnswer::of(&self.newest()?, true))
    }

    fn put_document(&self, put: DocumentPut) -> LocalBoxFuture<'_, Answered<DocumentAnswer>> {
        Box::pin(self.change(put))
    }

    fn init(&self, request: InitRequest) -> LocalBoxFuture<'_, Answered<DocumentAnswer>> {
        Box::pin(self.form(request))
    }

    fn post_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationStatus>> {
        Box::pin(self.operate(request))
    }

    fn plan_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationPlan>> {
        Box::pin(self.dry_run(request))
    }

    fn operation(&self, id: &str) -> Answered<OperationStatus> {
        let newest = self.newest()?;
        match newest.operations.get(id) {
            Some(record) => {
                let members = self.control.gossip.borrow().members(self.control.now_ms());
                Ok(OperationStatus::of(id, record).told(&newest, &members))
            }
            None => problem(code::UNKNOWN_OPERATION, format!("no operation has the id `{id}`")),
        }
    }

    fn repair_status(&self) -> RepairStatus {
        Backend::repair_status(self)
    }

    fn post_repair(&self, request: RepairRequest) -> Answered<RepairStatus> {
        self.repair(request)
    }

    fn cancel_operation(&self, id: String) -> LocalBoxFuture<'_, Answered<OperationStatus>> {
        Box::pin(async move { self.take_back(&id).await })
    }

    fn replica_read(&self, bucket: Bytes, key: Bytes) -> LocalBoxFuture<'_, Answered<ReplicaRead>> {
        Box::pin(async move {
            let view = self.shared.views.load();
            let Some(formed) = view.formed.clone() else { return not_formed() };
            let (hash, partition) = formed.ring.locate(&bucket, &key);
            let table_key = kvasir_storage::TableKey::new(hash, &bucket, &key);
            let owner = formed.ring.is_owner(partition, view.me);
            match self.shared.replica.record(&table_key).await {
                Ok(record) => {
                    Ok(ReplicaRead::of(view.me, (hash, partition), owner, record.as_ref()))
                }
                Err(error) => problem(code::STORAGE_FAILED, error.to_string()),
            }
        })
    }
}

fn not_formed<T>() -> Answered<T> {
    let problem = Problem::new(code::NOT_FORMED, "this node belongs to no cluster yet");
    Err(Box::new(problem.hint("POST /v1/cluster/init on one of the nodes")))
}

impl Backend {
    /// What a node that belongs to no cluster waits for.
    fn outside(&self) -> String {
        match self.control.gossip.borrow().newest_document() {
            None => "no cluster yet. try: POST /v1/cluster/init on one node".to_string(),
            Some((heard, _)) => format!(
                "not a member: the document of epoch {} does not name node {}. try: post a `join` \
                 of it",
                heard.epoch, self.control.identity.node
            ),
        }
    }

    pub(super) fn newest(&self) -> Answered<Sealed> {
        self.control.newest().map_or_else(not_formed, Ok)
    }

    async fn change(&self, put: DocumentPut) -> Answered<DocumentAnswer> {
        let (parent, mut document) = put.parse().map_err(Box::new)?;
        let newest = self.newest()?;
        // Readers without the bearer token are shown the document without its secret.
        if document.token_secret == TokenSecret([0; 32]) {
            document.token_secret = newest.token_secret;
        }
        if parent != newest.hash() {
            return Err(stale(&newest));
        }
        if document.parent_hash != Some(parent) {
            let detail = "`document.parentHash` must be `parentHash`";
            return problem(code::BAD_REQUEST, detail);
        }
        self.propose(document).await
    }

    async fn propose(&self, document: Document) -> Answered<DocumentAnswer> {
        match self.proposed(Sealed::new(document)).await {
            Ok(chosen) => Ok(DocumentAnswer::of(&chosen, true)),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Runs a proposal in a task of its own: a client that goes away must not stop it half-way.
    pub(super) async fn proposed(&self, document: Sealed) -> Result<Sealed, ProposeError> {
        let control = self.control.clone();
        let round =
            tokio::task::spawn_local(async move { ballots::propose(&control, document).await });
        let unknown = ProposeError::NoMajority { may_be_chosen: true };
        match tokio::time::timeout(ANSWER_WITHIN, round).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(unknown),
        }
    }

    pub(super) fn refused(&self, error: ProposeError) -> Box<Problem> {
        let detail = error.to_string();
        match error {
            ProposeError::Stale(newest) => stale(&newest),
            ProposeError::Illegal { code: rule, .. } => {
                Box::new(Problem::new(code::ILLEGAL_CHANGE, detail).fact("rule", rule))
            }
            ProposeError::NoMajority { may_be_chosen } => Box::new(
                Problem::new(code::NO_MAJORITY, detail)
                    .hint("read the document, then try again when more members are up")
                    .fact("mayBeChosen", may_be_chosen),
            ),
            ProposeError::NoCluster => Box::new(Problem::new(code::NOT_FORMED, detail)),
            ProposeError::Fork(node) => {
                tracing::error!(%node, "the ring is forked: a person must look");
                Box::new(Problem::new(code::INTERNAL, detail))
            }
        }
    }
}

pub(super) fn json(answer: &DocumentAnswer) -> serde_json::Value {
    serde_json::to_value(answer).unwrap_or_default()
}

fn stale(newest: &Sealed) -> Box<Problem> {
    let detail = format!("epoch {} is in force", newest.epoch);
    let newest = DocumentAnswer::of(newest, false);
    let problem = Problem::new(code::STALE_PARENT, detail).fact("newest", json(&newest));
    Box::new(problem.hint("make the change again from the newest document"))
}

pub(super) fn member(view: &MemberView) -> Member {
    Member {
        machine: view.labels.machine.clone(),
        rack: view.labels.rack.clone(),
        zone: view.labels.zone.clone(),
        datacenter: view.labels.datacenter.clone(),
        weight: view.labels.weight,
        state: MemberState::Active,
    }
}
