//! The journal: at most one operation, written before anything is done, and gone on with until it is
//! over. Each step may be repeated, so a crash at any line resumes here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kvasir_core::admin_api::problem::code;

use super::racks::{self, RackPlan};
use super::refusal::Refusal;
use super::step::Step;
use super::view::View;
use super::{form, leave, membership, rebalance, repair, replace, rollout, shrink};
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::Snapshot;

/// Answers of nodes after which the same request is refused again, until something changes.
const FOR_GOOD: [&str; 7] = [
    code::BAD_REQUEST,
    code::TOKEN_REQUIRED,
    code::TOKEN_REFUSED,
    code::OPERATION_CONFLICT,
    code::PLACE_DIFFERS,
    code::ILLEGAL_CHANGE,
    code::UNSUPPORTED_OPERATION,
];
/// When an operation that was refused for good is asked for again all the same.
const ASKED_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// What comes next in an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Doing {
    /// It is over: done, or nothing is left to be done.
    Over,
    /// Something must happen first.
    Waits,
    /// This, and then it is looked at again.
    Step(Step),
    /// It is somewhere else now, and goes on from there at once.
    Next(Operation),
    /// So far it is now; it is looked at again in the next pass.
    Holds(Operation),
}

/// What the plan does about operations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    /// The journal as it should stand.
    pub operation: Option<Operation>,
    /// The step of the operation.
    pub steps: Vec<Step>,
    /// Why what is due is not begun.
    pub refusals: Vec<Refusal>,
}

/// A new operation about nothing yet.
pub fn blank(seen: &Snapshot, kind: OperationType) -> Operation {
    Operation::new(kind, Time(seen.now))
}

/// Goes on with the operation in the journal, or begins the one that is due.
pub fn turn(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Turn {
    let journal = seen.cluster.status.as_ref().and_then(|status| status.operation.clone());
    let mut turn = Turn::default();
    if let (Some(journal), Some(replace)) = (&journal, replace::due(seen, view))
        && replace::may_interrupt(view, journal, &replace)
    {
        go_on(seen, view, racks, replace, &mut turn);
        return turn;
    }
    let refused = |operation: &&Operation| stays_refused(seen, view, racks, operation);
    if let Some(refused) = journal.as_ref().filter(refused) {
        let (id, why) = (refused.id.clone(), refused.refusal.clone());
        turn.refusals.push(Refusal::OperationRefused { id, why });
        // What mends it may be a change of the spec that is waiting to be rolled out.
        match rollout::due(seen, view) {
            Ok(Some(restart)) => drop(go_on(seen, view, racks, restart, &mut turn)),
            Ok(None) => turn.operation = journal,
            Err(refusal) => {
                turn.refusals.push(refusal);
                turn.operation = journal;
            }
        }
        return turn;
    }
    match journal {
        // Whatever else is due goes before a repair, which the nodes go on with by themselves.
        Some(repair) if repair.kind == OperationType::Repair => {
            let urgent = begin(seen, view, racks, &mut turn.refusals);
            go_on(seen, view, racks, urgent.unwrap_or(repair), &mut turn);
        }
        Some(operation) => {
            go_on(seen, view, racks, operation, &mut turn);
        }
        None => {
            let due = begin(seen, view, racks, &mut turn.refusals);
            if let Some(operation) = due.or_else(|| repair::due(seen, view)) {
                go_on(seen, view, racks, operation, &mut turn);
            }
        }
    }
    turn
}

/// Was it refused for good, and is nothing different since? Its pod, the document, what the spec
/// wants, or much time.
fn stays_refused(seen: &Snapshot, view: &View, racks: &[RackPlan], operation: &Operation) -> bool {
    let pod_wanted = racks::wants(seen, racks, &operation.pod);
    let wanted = match operation.kind {
        OperationType::Join => pod_wanted,
        OperationType::Leave => !pod_wanted,
        _ => true,
    };
    let same_pod = seen.pods.get(&operation.pod).is_some_and(|pod| pod.uid == operation.pod_uid);
    let since = seen.now.duration_since(operation.started_at.0);
    !operation.refusal.is_empty()
        && wanted
        && same_pod
        && operation.base_epoch == view.epoch()
        && since < ASKED_AGAIN
}

/// What the nodes said to this very step in the last pass, if asking again is no use.
fn refusal_of(seen: &Snapshot, step: &Step) -> Option<String> {
    let failure = seen.failure.as_ref().filter(|failure| failure.step == step.words())?;
    let problem = failure.problem.as_ref()?;
    FOR_GOOD.contains(&problem.code.as_str()).then(|| failure.message.chars().take(1_000).collect())
}

/// Goes on until a step, a wait or the end; says whether the journal is still in use. An operation
/// that is over leaves the journal in this pass; the next begins with a look at the cluster.
fn go_on(
    seen: &Snapshot,
    view: &View,
    racks: &[RackPlan],
    mut operation: Operation,
    turn: &mut Turn,
) -> bool {
    for _ in 0..8 {
        match one(seen, view, racks, &operation) {
            Doing::Over => return false,
            Doing::Next(next) => operation = next,
            Doing::Holds(next) => {
                operation = next;
                break;
            }
            Doing::Waits => break,
            Doing::Step(step) => {
                match refusal_of(seen, &step) {
                    // A repair is asked for again later; `RepairOverdue` says when that takes too
                    // long. A rebalance is, once the members or what they own are different.
                    Some(_) if leaves_the_journal(operation.kind) => return false,
                    Some(why) => {
                        let id = operation.id.clone();
                        turn.refusals.push(Refusal::OperationRefused { id, why: why.clone() });
                        (operation.refusal, operation.started_at) = (why, Time(seen.now));
                        operation.base_epoch = view.epoch();
                    }
                    None => {
                        operation.refusal = String::new();
                        turn.steps.push(step);
                    }
                }
                break;
            }
        }
    }
    turn.operation = Some(operation);
    true
}

/// Whether a refusal for good is the end of it.
fn leaves_the_journal(kind: OperationType) -> bool {
    matches!(kind, OperationType::Repair | OperationType::Rebalance)
}

fn one(seen: &Snapshot, view: &View, racks: &[RackPlan], operation: &Operation) -> Doing {
    match operation.kind {
        OperationType::Form if view.cluster_id.is_some() => Doing::Over,
        // Whatever an earlier request led to is found in the next answers: the nodes themselves
        // never form twice.
        OperationType::Form => form::form(seen, view, racks).map_or(Doing::Over, Doing::Step),
        OperationType::Join => membership::join(seen, view, racks, operation),
        OperationType::Replace => replace::go_on(view, operation),
        OperationType::Rebalance => rebalance::go_on(seen, view, operation),
        OperationType::Relocate => membership::relocate(seen, view, operation),
        OperationType::Restart => rollout::go_on(seen, view, operation),
        OperationType::Repair => repair::go_on(seen, view, operation),
        OperationType::Leave => match operation.step {
            OperationStep::Requested | OperationStep::Posted | OperationStep::Cancelling => {
                if operation.node_id.is_empty() {
                    shrink::unformed(view, operation)
                } else {
                    leave::go_on(seen, view, racks, operation)
                }
            }
            OperationStep::Verified | OperationStep::Shrinking => {
                shrink::shrink(seen, view, racks, operation)
            }
            OperationStep::Volume => shrink::volume(seen, view, operation),
        },
    }
}

/// The operation that is due, the most urgent first.
fn begin(
    seen: &Snapshot,
    view: &View,
    racks: &[RackPlan],
    refusals: &mut Vec<Refusal>,
) -> Option<Operation> {
    let mut pick = |due: Result<Option<Operation>, Refusal>| match due {
        Ok(operation) => operation,
        Err(refusal) => {
            refusals.push(refusal);
            None
        }
    };
    let restart = pick(rollout::due(seen, view));
    let is_broken = restart.as_ref().is_some_and(|operation| {
        seen.pods.get(&operation.pod).is_some_and(|pod| pod.ready_for.is_none())
    });
    if is_broken {
        return restart;
    }
    if view.cluster_id.is_none() {
        let shrink = pick(shrink::due_unformed(seen, view, racks));
        if shrink.is_some() {
            return shrink;
        }
        let formable = form::form(seen, view, racks);
        let form = Operation { id: "form".to_owned(), ..blank(seen, OperationType::Form) };
        return pick(formable.map(|_| Some(form))).or(restart);
    }
    if view.cluster().is_none() {
        let recorded = view.cluster_id.clone().unwrap_or_default();
        let all_blank = !view.blank.is_empty() && view.blank.len() == seen.pods.len();
        refusals.push(if all_blank {
            Refusal::VolumesLost(recorded)
        } else {
            Refusal::NoMajority("no node of the cluster answers".to_owned())
        });
        return None;
    }
    pick(membership::due(seen, view, racks)).or(restart)
}
