//! Operations on the topology: posted, planned, watched.
//!
//! An operation is idempotent by its id: posting the same again answers with its state, posting
//! something else under the same id is 409 `operation_conflict`. With `?dryRun=true` nothing is
//! posted and the answer is the [`OperationPlan`].

use serde::{Deserialize, Serialize};

use serde_json::json;

use crate::admin_api::problem::{Problem, code};
use crate::admin_api::{MachineRisk, SharedMachine};
use crate::gossip::{Labels, MemberView};
use crate::id::NodeId;
use crate::ring::IllegalChange;
use crate::ring::ending;
use crate::ring::layout::PlanError;
use crate::ring::operation::{self, Operation, OperationRecord, OperationRefused};
use crate::ring::waiting::{self, Shows};
use crate::ring::{Document, Member, Partition};

pub use crate::ring::operation::OperationKind;

/// `POST /v1/operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRequest {
    /// Chosen by the caller: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`.
    pub id: String,
    /// What to do.
    pub kind: OperationKind,
    /// The node it is about; not for `rebalance` and `double`. A `repair` without one is about all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// `replace` only: the dead node whose place `node` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<NodeId>,
    /// `relocate` only: the machine that the node runs on now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// `join` and `leave` only: whether data moves; `true` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<bool>,
}

impl OperationRequest {
    /// Whether data moves with it.
    pub fn moves_data(&self) -> bool {
        let membership = matches!(self.kind, OperationKind::Join | OperationKind::Leave);
        let still = matches!(self.kind, OperationKind::Relocate | OperationKind::Repair);
        !(still || membership && self.rebalance == Some(false))
    }

    /// Whether the fields fit the kind; the problem is a 400 `bad_request` that names the field.
    pub fn validate(&self) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(code::BAD_REQUEST, detail));
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(plain) {
            return refuse("`id` has 1 to 64 of a-z, 0-9, `.`, `_` and `-`".to_owned());
        }
        let kind = self.kind;
        let about_all = matches!(kind, OperationKind::Rebalance | OperationKind::Double);
        for (field, given, wanted, required) in [
            ("node", self.node.is_some(), !about_all, !about_all && kind != OperationKind::Repair),
            ("replaces", self.replaces.is_some(), kind == OperationKind::Replace, true),
            ("machine", self.machine.is_some(), kind == OperationKind::Relocate, true),
            (
                "rebalance",
                self.rebalance.is_some(),
                matches!(kind, OperationKind::Join | OperationKind::Leave),
                false,
            ),
        ] {
            if given && !wanted {
                return refuse(format!("`{field}` does not go with this kind"));
            }
            if !given && wanted && required {
                return refuse(format!("`{field}` is missing"));
            }
        }
        Ok(())
    }
}

impl OperationRequest {
    /// Whether a request that was posted before under the same id is this one.
    pub fn is_same(&self, posted: &Self) -> bool {
        (posted.kind, posted.node, &posted.machine, posted.replaces)
            == (self.kind, self.node, &self.machine, self.replaces)
    }

    /// The entry of a member after this relocate. What the node says of itself by gossip decides: a
    /// caller that saw it on another machine than it is on now, or in another rack, zone or data
    /// center, is refused with 409 `place_differs`. Its weight is not a place.
    pub fn relocated(&self, present: &Member, says: &Labels) -> Result<Member, Problem> {
        let machine = self.machine.clone().unwrap_or_default();
        let there = (&says.machine, &says.rack, &says.zone, &says.datacenter);
        if there == (&machine, &present.rack, &present.zone, &present.datacenter) {
            return Ok(Member { machine, ..present.clone() });
        }
        let detail = "a relocate changes the machine of a member and nothing else, and the node \
                      says that it is elsewhere";
        let problem = Problem::new(code::PLACE_DIFFERS, detail)
            .hint("if the node just came up there, try again in some seconds; see GET /v1/status")
            .fact(
                "says",
                json!({
                    "machine": says.machine, "rack": says.rack, "zone": says.zone,
                    "datacenter": says.datacenter
                }),
            );
        Err(problem)
    }

    /// The operation as the document records it; `member` is the place of a joining or relocated
    /// node afterwards.
    pub fn operation(&self, member: Option<Member>) -> Operation {
        let rebalance = self.moves_data();
        Operation { kind: self.kind, node: self.node, member, rebalance }
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OperationState {
    /// In the document, nothing done yet.
    Planned,
    /// Being carried out.
    Running,
    /// Finished; final.
    Done,
    /// It ended, and what was asked for is not so: `message` says why; final.
    Failed,
    /// Taken back before data depended on it; final.
    Cancelled,
}

/// Answer of `POST /v1/operations` and `GET /v1/operations/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    /// As it was posted.
    pub request: OperationRequest,
    /// How far it is.
    pub state: OperationState,
    /// Epoch of the document that took it in.
    pub posted_epoch: u64,
    /// Epoch of the document that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_epoch: Option<u64>,
    /// Moves of partition replicas that it consists of.
    pub moves_total: u32,
    /// Moves that are over.
    pub moves_done: u32,
    /// Bytes moved so far.
    pub moved_bytes: u64,
    /// Whether it runs and is being taken back; left out where it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
    /// Why it waits or failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl OperationStatus {
    /// The status of an operation that the document records under this id.
    pub fn of(id: &str, record: &OperationRecord) -> Self {
        let operation = &record.operation;
        let membership = matches!(operation.kind, OperationKind::Join | OperationKind::Leave);
        let cancelling = matches!(
            &record.state,
            operation::OperationState::Running(progress) if progress.cancelling
        );
        let (state, summary) = match &record.state {
            operation::OperationState::Done => (OperationState::Done, None),
            operation::OperationState::Running(progress) => {
                (OperationState::Running, Some(progress.summary()))
            }
            operation::OperationState::Finished(summary) => {
                (OperationState::Done, Some(summary.clone()))
            }
            operation::OperationState::Cancelled(summary) => {
                (OperationState::Cancelled, Some(summary.clone()))
            }
            operation::OperationState::Failed(summary) => {
                (OperationState::Failed, Some(summary.clone()))
            }
        };
        Self {
            request: OperationRequest {
                id: id.to_owned(),
                kind: operation.kind,
                node: operation.node,
                replaces: summary.as_ref().and_then(|summary| summary.replaces),
                machine: (operation.kind == OperationKind::Relocate)
                    .then(|| operation.member.as_ref().map(|m| m.machine.clone()))
                    .flatten(),
                rebalance: membership.then_some(operation.rebalance),
            },
            state,
            posted_epoch: record.started,
            ended_epoch: (state != OperationState::Running).then_some(record.finished),
            moves_total: summary.as_ref().map_or(0, |summary| summary.moves),
            moves_done: summary.as_ref().map_or(0, |summary| summary.moved),
            moved_bytes: summary.as_ref().map_or(0, |summary| summary.bytes),
            cancelling,
            message: ending::why_failed(record),
        }
    }
}

impl OperationStatus {
    /// With the reason why it waits, if there is one: `members` is what gossip knows of everybody.
    #[must_use]
    pub fn told(self, document: &Document, members: &[MemberView]) -> Self {
        let shows = |node: NodeId| match members.iter().find(|member| member.id == node) {
            Some(member) if member.serves() => {
                Shows::Up(member.document.map_or(0, |document| document.epoch))
            }
            Some(member) if member.status.is_up() => Shows::Unfit,
            _ => Shows::Away,
        };
        let record = document.operations.get(&self.request.id);
        let waits = record.and_then(|record| waiting::why(document, record, shows));
        Self { message: waits.or(self.message), ..self }
    }
}

/// What callers are told who asked for something else.
pub const BUILT: &str =
    "this version plans `join`, `leave`, `replace`, `rebuild`, `rebalance` and `drain`";

impl From<OperationRefused> for Problem {
    fn from(refused: OperationRefused) -> Self {
        let detail = refused.to_string();
        match refused {
            OperationRefused::Unsupported { .. } => {
                Problem::new(code::UNSUPPORTED_OPERATION, detail).hint(BUILT)
            }
            OperationRefused::IdReused(_) => Problem::new(code::OPERATION_CONFLICT, detail)
                .hint("post it under an id that was not used before"),
            OperationRefused::Busy(_) => Problem::new(code::OPERATION_CONFLICT, detail)
                .hint("wait until it has ended, or take it back"),
            OperationRefused::NothingToRebuild(_) => Problem::new(code::NOTHING_TO_REBUILD, detail)
                .hint("its own `GET /v1/status` says what it lost, if anything"),
            OperationRefused::NoSurvivor(_) => {
                Problem::new(code::BAD_REQUEST, detail).fact("rule", "no_survivor")
            }
            OperationRefused::TooFewCopies(_) => Problem::new(code::BAD_REQUEST, detail)
                .fact("rule", "too_few_copies")
                .hint("start one of the nodes that are lost, if its disk is not"),
            OperationRefused::NotRunning(_) => Problem::new(code::NOT_CANCELLABLE, detail),
            OperationRefused::NoPlan(refused) => {
                Problem::new(code::BAD_REQUEST, detail).fact("rule", refused.code())
            }
            OperationRefused::MemberExists(_) => Problem::new(code::OPERATION_CONFLICT, detail),
            OperationRefused::NotAMember(_) => Problem::new(code::UNKNOWN_NODE, detail),
            OperationRefused::PlaceDiffers(_) => Problem::new(code::PLACE_DIFFERS, detail),
            OperationRefused::Malformed(_) => Problem::new(code::BAD_REQUEST, detail),
            OperationRefused::Illegal(change) => change.into(),
        }
    }
}

impl From<IllegalChange> for Problem {
    fn from(change: IllegalChange) -> Self {
        Problem::new(code::ILLEGAL_CHANGE, change.to_string()).fact("rule", change.code())
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Problem::new(code::BAD_REQUEST, error.to_string())
    }
}

/// A partition by name: never by index alone, since doubling renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartitionName {
    /// log2 of the number of partitions.
    pub bits: u8,
    /// Which of them, from 0.
    pub index: u32,
}

impl From<Partition> for PartitionName {
    fn from(partition: Partition) -> Self {
        Self { bits: partition.k, index: partition.index }
    }
}

/// Answer of `POST /v1/operations?dryRun=true`: who would give what to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationPlan {
    /// As it was asked.
    pub request: OperationRequest,
    /// Epoch of the document that was planned on.
    pub base_epoch: u64,
    /// Every move, in the order of their partitions.
    pub moves: Vec<PlannedMove>,
    /// Bytes that would go over the network in all.
    pub total_bytes: u64,
    /// The same per node, only nodes that give or get something.
    pub nodes: Vec<NodePlan>,
    /// What is at stake while it runs.
    pub risk: Risk,
}

impl OperationPlan {
    /// The plan of an operation that moves nothing, on the document of this epoch; `child` is the
    /// document that it would lead to, none where the operation is over.
    pub fn without_moves(
        request: OperationRequest,
        base_epoch: u64,
        child: Option<&Document>,
    ) -> Self {
        let (node, groups) = (request.node, child.map(SharedMachine::all).unwrap_or_default());
        let told = groups.iter().filter(|group| node.is_none_or(|n| group.nodes.contains(&n)));
        let reasons: Vec<String> = told
            .map(|group| {
                let (count, machine) = (group.partitions.len(), &group.machine);
                format!("{count} partitions have two copies on machine {machine}")
            })
            .collect();
        let level = if reasons.is_empty() { RiskLevel::None } else { RiskLevel::Reduced };
        Self {
            request,
            base_epoch,
            moves: Vec::new(),
            total_bytes: 0,
            nodes: Vec::new(),
            risk: Risk { level, reasons, machines: None },
        }
    }
}

/// One replica of one partition changing hands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedMove {
    /// The partition.
    pub partition: PartitionName,
    /// The data center whose slot moves.
    pub datacenter: String,
    /// Who gives; none when a copy is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeId>,
    /// Who gets.
    pub to: NodeId,
    /// Estimated size.
    pub bytes: u64,
}

/// What a plan means for one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// The node.
    pub node: NodeId,
    /// Partition replicas it owns now.
    pub partitions_before: u32,
    /// Partition replicas it owns afterwards.
    pub partitions_after: u32,
    /// Bytes it receives.
    pub in_bytes: u64,
    /// Bytes it sends.
    pub out_bytes: u64,
}

/// What is at stake while a plan runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Risk {
    /// How bad at worst.
    pub level: RiskLevel,
    /// Why, for people; empty when there is none.
    pub reasons: Vec<String>,
    /// How few machines cost a quorum; for operations that move data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<MachineRisk>,
}

/// How bad a plan can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RiskLevel {
    /// Nothing moves.
    None,
    /// Copies and failure domains stay as they are throughout.
    Low,
    /// Some partition runs with fewer copies or failure domains than wished.
    Reduced,
    /// Some partition would lose its quorum if one more node failed.
    High,
}
