//! Repair after every change of the topology and by schedule: all replicas are compared, by one operation
//! that the nodes carry out among themselves while they serve.
//!
//! Nodes compare their replicas in the background all the time; what is asked for here is one round of
//! everything with a known end. What was compared is remembered in the status as a hash of the members and
//! what they own, so that a change by anybody, this operator or not, is seen. A repair is the least urgent
//! operation: whatever else becomes due takes its place, and it is asked for again afterwards. Nothing is
//! lost by that, since nodes go on with what they were asked for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kvasir_core::admin_api::{OperationKind, OperationRequest, RepairStatus};
use kvasir_core::id::NodeId;

use super::form::target;
use super::journal::{Doing, blank};
use super::membership::about;
use super::step::Step;
use super::view::View;
use crate::crd::{NodeState, NodeStatus, Operation, OperationStep, OperationType, RepairRecord};
use crate::snapshot::{NodeSeen, OperationSeen, Snapshot};

/// When a repair that did not get through is asked for again.
const AGAIN: SignedDuration = SignedDuration::from_mins(5);
/// How long a member may take to hear of the operation: one that shows another round after that was
/// started again meanwhile and has forgotten it.
const HEARD: SignedDuration = SignedDuration::from_mins(2);

/// How far the nodes are with a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Some have still to compare; so many hundredths are done.
    Runs {
        /// 0 to 100.
        percent: i32,
    },
    /// Every member compared all its replicas with all others.
    Complete,
    /// It will not come to its end: a member is down, was started again, or skipped a comparison.
    Broken,
}

/// A repair of everything, if one is due. None while something is wrong: it could not be complete.
pub fn due(seen: &Snapshot, view: &View) -> Option<Operation> {
    view.healthy().ok()?;
    let layout = layout(view);
    let record = seen.cluster.status.as_ref().and_then(|status| status.repair.clone());
    let record = record.unwrap_or_default();
    let since = |then: &Time| seen.now.duration_since(then.0);
    if record.attempted_at.as_ref().is_some_and(|then| since(then) < AGAIN) {
        return None;
    }
    if let Some(back) = came_back(seen, view) {
        return Some(back);
    }
    let interval = SignedDuration::from_secs(seen.cluster.spec.repair.interval_seconds);
    let long_ago = |then: &Time| !interval.is_zero() && since(then) >= interval;
    let in_time = record.completed_at.as_ref().is_some_and(|then| !long_ago(then));
    if in_time && record.layout == layout {
        return None;
    }
    Some(Operation { layout, ..repair(seen, view) })
}

fn repair(seen: &Snapshot, view: &View) -> Operation {
    Operation {
        id: format!("repair-{}-{}", view.epoch(), seen.now.as_second()),
        base_epoch: view.epoch(),
        ..blank(seen, OperationType::Repair)
    }
}

/// A repair of all that one member has which came back after a long absence.
fn came_back(seen: &Snapshot, view: &View) -> Option<Operation> {
    let rows = &seen.cluster.status.as_ref()?.node_statuses;
    let back = |row: &&NodeStatus| row.state == NodeState::Up && row.away_since.is_some();
    let id = rows.iter().find(back)?.node_id.parse().ok()?;
    view.member(id)?;
    Some(about(seen, view.pod_of(id)?, Operation { node_id: id.to_string(), ..repair(seen, view) }))
}

/// Did a repair of all that this member has come to its end just now? `next` is the journal as it will
/// stand.
pub fn mends(seen: &Snapshot, view: &View, next: Option<&Operation>, id: &str) -> bool {
    ended(seen, next).is_some_and(|was| {
        (was.node_id.is_empty() || was.node_id == id)
            && standing(seen, view, was) == Standing::Complete
    })
}

/// The repair that leaves the journal in this pass.
fn ended<'a>(seen: &'a Snapshot, next: Option<&Operation>) -> Option<&'a Operation> {
    let was = seen.cluster.status.as_ref()?.operation.as_ref()?;
    let over = was.kind == OperationType::Repair && next.is_none_or(|next| next.id != was.id);
    over.then_some(was)
}

/// Goes on with a repair.
pub fn go_on(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    if operation.step == OperationStep::Requested {
        if recorded(view) {
            let step = OperationStep::Posted;
            return Doing::Next(Operation { step, ..operation.clone() });
        }
        let Some(speaker) = view.speaker() else { return Doing::Over };
        let request = OperationRequest {
            id: operation.id.clone(),
            kind: OperationKind::Repair,
            node: operation.node_id.parse().ok(),
            replaces: None,
            machine: None,
            rebalance: None,
        };
        return Doing::Step(Step::Post { pod: target(speaker), request });
    }
    match standing(seen, view, operation) {
        Standing::Complete | Standing::Broken => Doing::Over,
        Standing::Runs { percent } if operation.progress_percent == Some(percent) => Doing::Waits,
        Standing::Runs { percent } => {
            Doing::Next(Operation { progress_percent: Some(percent), ..operation.clone() })
        }
    }
}

/// Does a member say that the document holds the operation in the journal?
fn recorded(view: &View) -> bool {
    view.ours.values().any(|answer| match &answer.pod.node {
        NodeSeen::Answered(node) => matches!(node.operation, OperationSeen::Known(_)),
        NodeSeen::Unasked | NodeSeen::Silent(_) => false,
    })
}

/// How far the members are, each by its own word.
pub fn standing(seen: &Snapshot, view: &View, operation: &Operation) -> Standing {
    let mut all = 0_u64;
    let mut done = 0_u64;
    let mut runs = false;
    let heard_by = seen.now.duration_since(operation.started_at.0) >= HEARD;
    let named = |id: NodeId| operation.node_id.is_empty() || id.to_string() == operation.node_id;
    for row in view.members().filter(|row| named(row.id)) {
        if !row.liveness.is_up() {
            return Standing::Broken;
        }
        let own = view.ours.get(&row.id).and_then(|answer| round(answer.pod.node_answer()?));
        match own.filter(|own| own.operation.as_deref() == Some(operation.id.as_str())) {
            Some(own) if !own.running && own.comparisons_skipped > 0 => return Standing::Broken,
            Some(own) => {
                runs |= own.running;
                all += u64::from(own.comparisons_total);
                done += u64::from(own.comparisons_done + own.comparisons_skipped);
            }
            None if heard_by && own.is_some_and(|own| !own.running) => return Standing::Broken,
            None => runs = true,
        }
    }
    match runs {
        true => {
            let percent = (done * 100).checked_div(all).unwrap_or(0).min(100);
            Standing::Runs { percent: percent as i32 }
        }
        false => Standing::Complete,
    }
}

fn round(answer: &crate::snapshot::NodeAnswer) -> Option<&RepairStatus> {
    answer.repair.as_deref()
}

/// What the status remembers once an operation is no longer in the journal.
pub fn record(seen: &Snapshot, view: &View, now: Option<&Operation>) -> Option<RepairRecord> {
    let status = seen.cluster.status.as_ref();
    let before = status.and_then(|status| status.repair.clone());
    let Some(was) = ended(seen, now) else { return before };
    let before = before.unwrap_or_default();
    Some(match standing(seen, view, was) {
        Standing::Complete if !was.node_id.is_empty() => {
            RepairRecord { attempted_at: None, ..before }
        }
        Standing::Complete => RepairRecord {
            layout: was.layout.clone(),
            completed_at: Some(Time(seen.now)),
            attempted_at: None,
        },
        Standing::Runs { .. } | Standing::Broken => {
            RepairRecord { attempted_at: Some(Time(seen.now)), ..before }
        }
    })
}

/// Hash of the members and of how much each owns (FNV-1a, 64 bits): another one means that the topology
/// changed. A member that gets as many partitions as it loses changes nothing in it: the schedule and the
/// nodes' own comparisons are left for that.
pub fn layout(view: &View) -> String {
    let mut rows: Vec<String> =
        view.members().map(|row| format!("{}={};", row.id, row.partitions)).collect();
    rows.sort();
    fnv(&rows.concat())
}

/// FNV-1a, 64 bits, as hexadecimal digits.
pub fn fnv(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
