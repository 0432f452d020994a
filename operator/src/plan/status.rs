//! The status: counts, one row for each node, and conditions made from what was seen and refused.
//!
//! Everything is computed from one snapshot, and every condition carries the generation that it was
//! computed from. Nothing in it changes by itself, so a cluster at rest is not written to.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::SignedDuration;
use kvasir_core::admin_api::{Liveness, NodeStatus as Row, Verdict};

use super::refusal::Refusal;
use super::view::{View, initialized};
use super::wanted::updated;
use super::{moves, rebalance, repair};
use crate::crd::{
    KVClusterStatus, NodeState, NodeStatus, Operation, OperationStep, OperationType, RingStatus,
    condition,
};
use crate::render::names;
use crate::snapshot::{PodSeen, Snapshot};

/// What the conditions are made from, besides the snapshot.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The ring.
    pub view: &'a View<'a>,
    /// The journal as it will stand.
    pub operation: Option<Operation>,
    /// Why things are not done.
    pub refusals: &'a [Refusal],
    /// Whether this pass writes anything else.
    pub changing: bool,
}

/// The whole status.
pub fn status(seen: &Snapshot, found: &Findings) -> KVClusterStatus {
    let view = found.view;
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let pods = || seen.pods.values();
    let mut status = KVClusterStatus {
        observed_generation: seen.cluster.metadata.generation,
        nodes: count(pods().count()),
        ready_nodes: count(pods().filter(|pod| serves(view, pod)).count()),
        updated_nodes: count(pods().filter(|pod| updated(seen, pod)).count()),
        selector: names::selector_text(&seen.cluster),
        version: version(view),
        cluster_id: view.cluster_id.clone(),
        ring: ring(seen, view, found.operation.as_ref()),
        node_statuses: rows(seen, view, found.operation.as_ref()),
        operation: found.operation.clone(),
        repair: repair::record(seen, view, found.operation.as_ref()),
        ..KVClusterStatus::default()
    };
    let verdicts = Verdicts::of(seen, found, &status);
    status.phase = verdicts.phase(seen, found).to_owned();
    status.conditions = verdicts.conditions(seen);
    status
}

/// Is the pod ready, and its node a member?
fn serves(view: &View, pod: &PodSeen) -> bool {
    pod.ready_for.is_some() && view.has_member(pod) && !pod.deleting
}

fn version(view: &View) -> String {
    let versions = view.ours.values().map(|answer| answer.status.server_version.clone());
    versions.min().unwrap_or_default()
}

/// The ring as it was seen, or as it was last seen; `next` is the journal as it will stand.
fn ring(seen: &Snapshot, view: &View, next: Option<&Operation>) -> Option<RingStatus> {
    let journal = seen.cluster.status.as_ref().and_then(|status| status.operation.as_ref());
    let over = journal.filter(|was| next.is_none_or(|next| next.id != was.id));
    let old = seen.cluster.status.as_ref().and_then(|status| status.ring.clone());
    let (Some(cluster), Some(newest)) = (view.cluster(), view.newest()) else { return old };
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let now = RingStatus {
        epoch: view.epoch(),
        hash: cluster.document_hash.clone(),
        members: count(cluster.members),
        partitions: count(newest.partitions.total),
        balanced: match over.is_some_and(moves::came_to_its_end) {
            true => rebalance::layout(view),
            false => old.as_ref().map(|old| old.balanced.clone()).unwrap_or_default(),
        },
    };
    match old {
        Some(old) if old.epoch > now.epoch => Some(old),
        _ => Some(now),
    }
}

/// One row for each member and for each node that runs, by node id. The pod of a member that does
/// not answer is the one that showed it last.
fn rows(seen: &Snapshot, view: &View, next: Option<&Operation>) -> Vec<NodeStatus> {
    let before = seen.cluster.status.as_ref().map_or(&[][..], |status| &status.node_statuses);
    let mut rows: BTreeMap<String, NodeStatus> = BTreeMap::new();
    if view.cluster().is_none() {
        // Nobody says who the members are: what is known stays.
        rows.extend(before.iter().map(|row| (row.node_id.clone(), row.clone())));
    }
    for row in view.members() {
        let id = row.id.to_string();
        let old = before.iter().find(|old| old.node_id == id);
        let made = member_row(seen, view, row, old);
        let away_since =
            away_since(seen, &made, old).filter(|_| !repair::mends(seen, view, next, &id));
        rows.insert(id, NodeStatus { away_since, ..made });
    }
    for (id, answer) in view.blank.iter().chain(&view.ours) {
        if view.member(*id).is_none() {
            rows.insert(id.to_string(), pod_row(seen, answer.pod, id.to_string(), answer.status));
        }
    }
    rows.into_values().collect()
}

/// Since when a member is away; still, if it was away for so long that what it missed must be found by
/// comparing.
fn away_since(seen: &Snapshot, now: &NodeStatus, old: Option<&NodeStatus>) -> Option<Time> {
    let known = old.and_then(|old| old.away_since.clone());
    if now.state == NodeState::Down {
        return known.or(Some(Time(seen.now)));
    }
    let comes_back = old.is_some_and(|old| old.state == NodeState::Down);
    let least = SignedDuration::from_secs(seen.cluster.spec.repair.after_away_seconds);
    known.filter(|since| !comes_back || seen.now.duration_since(since.0) >= least)
}

fn member_row(seen: &Snapshot, view: &View, row: &Row, old: Option<&NodeStatus>) -> NodeStatus {
    let id = row.id.to_string();
    let mut made = match view.ours.get(&row.id) {
        Some(answer) => pod_row(seen, answer.pod, id, answer.status),
        None => NodeStatus {
            node_id: id,
            pod: old.map(|old| old.pod.clone()).unwrap_or_default(),
            pod_uid: String::new(),
            volume_uid: old.map(|old| old.volume_uid.clone()).unwrap_or_default(),
            rack: row.rack.clone(),
            worker: String::new(),
            machine: String::new(),
            state: NodeState::Down,
            away_since: None,
            partitions: 0,
            version: row.version.clone(),
        },
    };
    made.machine = row.machine.clone();
    made.partitions = i32::try_from(row.partitions).unwrap_or(i32::MAX);
    made.state = match row.liveness {
        Liveness::Alive => NodeState::Up,
        Liveness::Suspect => NodeState::Suspect,
        Liveness::Down | Liveness::Unheard => NodeState::Down,
    };
    made
}

fn pod_row(
    seen: &Snapshot,
    pod: &PodSeen,
    node_id: String,
    status: &kvasir_core::admin_api::Status,
) -> NodeStatus {
    let volume = seen.volumes.get(&pod.volume);
    NodeStatus {
        node_id,
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        volume_uid: volume.map(|volume| volume.uid.clone()).unwrap_or_default(),
        rack: pod.rack.clone(),
        worker: pod.worker.clone(),
        machine: String::new(),
        state: NodeState::Outside,
        away_since: None,
        partitions: 0,
        version: status.server_version.clone(),
    }
}

/// True, False or Unknown with a reason and a message.
type Verdict3 = (&'static str, String, String);

fn yes(reason: &str, message: impl Into<String>) -> Verdict3 {
    ("True", reason.to_owned(), message.into())
}

fn no(reason: &str, message: impl Into<String>) -> Verdict3 {
    ("False", reason.to_owned(), message.into())
}

struct Verdicts {
    valid: Verdict3,
    available: Verdict3,
    degraded: Verdict3,
    progressing: Verdict3,
    initialized: Verdict3,
    paused: Verdict3,
    pending: Verdict3,
    overdue: Verdict3,
    ready: Verdict3,
}

impl Verdicts {
    fn of(seen: &Snapshot, found: &Findings, status: &KVClusterStatus) -> Self {
        let valid = match refusal(found, condition::VALID) {
            Some(refusal) => no(refusal.reason(), refusal.to_string()),
            None => yes("Accepted", "the spec can be carried out"),
        };
        let degraded = match refusal(found, condition::DEGRADED) {
            Some(refusal) => yes(refusal.reason(), refusal.to_string()),
            None => no("AsExpected", "nothing is wrong"),
        };
        let mut verdicts = Self {
            valid,
            degraded,
            available: available(found.view),
            progressing: progressing(seen, found, status),
            initialized: if initialized(seen) || found.view.cluster_id.is_some() {
                yes("Formed", "the cluster was formed; it is never formed again")
            } else {
                no("NotFormed", "the cluster is not formed yet")
            },
            paused: if seen.cluster.spec.paused {
                yes("Asked", "spec.paused is on: nothing is changed")
            } else {
                no("NotAsked", "spec.paused is off")
            },
            pending: pending(found.view),
            overdue: overdue(seen, status),
            ready: no("Unknown", ""),
        };
        verdicts.ready = verdicts.is_ready(seen, status);
        verdicts
    }

    fn is_ready(&self, seen: &Snapshot, status: &KVClusterStatus) -> Verdict3 {
        let parts = [
            (&self.valid, "True", "Invalid"),
            (&self.available, "True", "NotAvailable"),
            (&self.degraded, "False", "Degraded"),
            (&self.progressing, "False", "Progressing"),
        ];
        for (verdict, wanted, reason) in parts {
            if verdict.0 != wanted {
                return no(reason, verdict.2.clone());
            }
        }
        let wanted = seen.cluster.spec.nodes;
        let counts = [status.nodes, status.ready_nodes, status.updated_nodes];
        if counts.iter().any(|count| *count != wanted) {
            let [pods, ready, updated] = counts;
            let message =
                format!("{wanted} nodes wanted: {pods} pods, {ready} ready, {updated} up to date");
            return no("NodesMissing", message);
        }
        yes("AllNodesServe", format!("all {wanted} nodes serve"))
    }

    fn phase(&self, seen: &Snapshot, found: &Findings) -> &'static str {
        let running = found.operation.as_ref().map(|operation| operation.kind);
        match running {
            _ if self.valid.0 == "False" => "Invalid",
            _ if seen.cluster.spec.paused => "Paused",
            _ if self.degraded.0 == "True" => "Degraded",
            Some(OperationType::Form) => "Forming",
            Some(OperationType::Join) => "ScalingUp",
            Some(OperationType::Leave) => "ScalingDown",
            Some(OperationType::Restart) => "Updating",
            Some(OperationType::Relocate) => "Relocating",
            Some(OperationType::Replace) => "Replacing",
            Some(OperationType::Rebalance) => "Rebalancing",
            Some(OperationType::Repair) if self.ready.0 == "True" => "Repairing",
            None if self.initialized.0 == "False" => "Pending",
            None if self.ready.0 == "True" => "Running",
            _ => "Waiting",
        }
    }

    fn conditions(&self, seen: &Snapshot) -> Vec<Condition> {
        let old = seen.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let all = condition::ALL.iter().map(|kind| {
            let (status, reason, message) = self.verdict(kind);
            let mut same = old.iter().filter(|old| old.type_ == *kind && old.status == *status);
            Condition {
                type_: (*kind).to_owned(),
                status: (*status).to_owned(),
                reason: reason.clone(),
                message: message.chars().take(1_024).collect(),
                observed_generation: seen.cluster.metadata.generation,
                last_transition_time: same
                    .next()
                    .map_or(Time(seen.now), |old| old.last_transition_time.clone()),
            }
        });
        all.collect()
    }

    fn verdict(&self, kind: &str) -> &Verdict3 {
        match kind {
            condition::READY => &self.ready,
            condition::AVAILABLE => &self.available,
            condition::PROGRESSING => &self.progressing,
            condition::DEGRADED => &self.degraded,
            condition::INITIALIZED => &self.initialized,
            condition::VALID => &self.valid,
            condition::PAUSED => &self.paused,
            condition::REPAIR_OVERDUE => &self.overdue,
            _ => &self.pending,
        }
    }
}

fn refusal<'a>(found: &'a Findings, kind: &str) -> Option<&'a Refusal> {
    found.refusals.iter().find(|refusal| refusal.condition() == kind)
}

fn available(view: &View) -> Verdict3 {
    let Some(newest) = view.newest() else {
        return no("NoAnswer", "no node of the cluster answers");
    };
    let sentence = newest.safety.sentence.clone();
    match newest.safety.verdict {
        Verdict::Safe | Verdict::Degraded => yes("Serving", sentence),
        Verdict::Unavailable => no("QuorumMissing", sentence),
        Verdict::Missing => no("DataMissing", sentence),
        Verdict::Unformed => no("NotFormed", sentence),
    }
}

fn progressing(seen: &Snapshot, found: &Findings, status: &KVClusterStatus) -> Verdict3 {
    if let Some(failure) = &seen.failure {
        return yes(&failure.reason, format!("{}: {}", failure.step, failure.message));
    }
    // A repair changes nothing that anybody would wait for: the cluster is as it is wanted meanwhile.
    let under_way = found.operation.as_ref().filter(|o| o.kind != OperationType::Repair);
    if let Some(operation) = under_way {
        let (reason, what) = doing(operation);
        let moved = operation.moved();
        return yes(reason, if moved.is_empty() { what } else { format!("{what}: {moved}") });
    }
    let refused = refusal(found, condition::PROGRESSING);
    let (stuck, waiting) = match refused {
        Some(refusal) if refusal.needs_the_user() => (refused, None),
        _ => (None, refused),
    };
    if let Some(refusal) = waiting {
        return yes(refusal.reason(), refusal.to_string());
    }
    if found.changing {
        return yes("Applying", "objects are brought to what the spec says");
    }
    if let Some(refusal) = stuck {
        return no(refusal.reason(), refusal.to_string());
    }
    let wanted = seen.cluster.spec.nodes;
    if status.nodes == wanted && status.ready_nodes < wanted {
        return yes("WaitingForNodes", format!("{} of {wanted} serve", status.ready_nodes));
    }
    no("AsWanted", "nothing is under way")
}

/// What an operation does, in a word and in words.
fn doing(operation: &Operation) -> (&'static str, String) {
    let pod = &operation.pod;
    if operation.step == OperationStep::Cancelling {
        let kind = format!("{:?}", operation.kind).to_lowercase();
        return ("Cancelling", format!("the {kind} is taken back as far as it can be"));
    }
    match operation.kind {
        OperationType::Form => ("Forming", "the cluster is being formed".to_owned()),
        OperationType::Join => ("Joining", format!("{pod} joins")),
        OperationType::Leave => ("Leaving", format!("{pod} leaves")),
        OperationType::Replace => {
            let lost = &operation.replaces;
            ("Replacing", format!("the copies of node {lost} are made anew on {pod}"))
        }
        OperationType::Rebalance => {
            ("Rebalancing", "every member is given its share again".to_owned())
        }
        OperationType::Relocate => {
            ("Relocating", format!("{pod} runs on {} now", operation.machine))
        }
        OperationType::Restart => ("Restarting", format!("{pod} is replaced")),
        OperationType::Repair => ("Repairing", "all replicas are compared".to_owned()),
    }
}

/// Is data where it should be?
fn pending(view: &View) -> Verdict3 {
    let moving = view.newest().map_or(0, |status| status.partitions.moving);
    if moving > 0 {
        return yes("Moving", format!("{moving} partitions move"));
    }
    match rebalance::idle(view) {
        0 => no("Balanced", "every member owns data"),
        idle => yes("MembersIdle", format!("{idle} members own nothing yet")),
    }
}

/// Were all replicas compared within the time that the spec allows? Counted from the moment the cluster
/// was formed where they never were.
fn overdue(seen: &Snapshot, status: &KVClusterStatus) -> Verdict3 {
    let spec = &seen.cluster.spec.repair;
    if spec.interval_seconds == 0 {
        return no(
            "NotScheduled",
            "repair.intervalSeconds is 0: replicas are compared after changes",
        );
    }
    let completed = status.repair.as_ref().and_then(|record| record.completed_at.as_ref());
    let before = seen.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let formed = before
        .iter()
        .find(|held| held.type_ == condition::INITIALIZED && held.status == "True")
        .map(|held| &held.last_transition_time);
    let Some(since) = completed.or(formed) else {
        return no("NotFormed", "there is nothing to compare yet");
    };
    let what = match completed {
        Some(at) => format!("all replicas were last compared at {}", at.0),
        None => "all replicas were never compared".to_owned(),
    };
    let late = SignedDuration::from_secs(spec.overdue_after_seconds);
    if seen.now.duration_since(since.0) <= late {
        return no("InTime", what);
    }
    yes("Overdue", format!("{what}; it needs every member up and healthy: see Degraded"))
}
