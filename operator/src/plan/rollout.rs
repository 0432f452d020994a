//! Replacing pods by pods of the newest template: one at a time, and only while every partition has
//! all its copies up, so that a bad template or a failure costs one pod.
//!
//! A pod whose container does not run costs nothing: it is replaced whatever the ring is like, so
//! that a mended spec gets through without anyone deleting a pod by hand.

use std::time::Duration;

use super::form::target;
use super::journal::Doing;
use super::refusal::Refusal;
use super::step::Step;
use super::view::View;
use super::wanted::updated;
use crate::crd::{Operation, OperationType, UpdateType};
use crate::snapshot::{PodSeen, Snapshot};

/// Does its container not run, so that deleting it takes nothing away?
fn broken(pod: &PodSeen) -> bool {
    pod.ready_for.is_none() && (!pod.running || pod.trouble.is_some())
}

/// The pod that is replaced next; what stands against it.
pub fn due(seen: &Snapshot, view: &View) -> Result<Option<Operation>, Refusal> {
    if seen.cluster.spec.update_strategy.kind == UpdateType::OnDelete {
        return Ok(None);
    }
    let old = || seen.pods.values().filter(|pod| !updated(seen, pod) && !pod.deleting);
    if let Some(pod) = old().find(|pod| broken(pod)) {
        return Ok(Some(restart(seen, view, pod)));
    }
    let order = |pod: &&PodSeen| (pod.ready_for.is_some(), pod.rack.clone(), -pod.ordinal);
    let Some(next) = old().min_by_key(order) else { return Ok(None) };
    quiet(seen, view, next).map_err(Refusal::RingNotHealthy)?;
    Ok(Some(restart(seen, view, next)))
}

fn restart(seen: &Snapshot, view: &View, pod: &PodSeen) -> Operation {
    let volume = seen.volumes.get(&pod.volume);
    let id: String = pod.uid.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    Operation {
        id: format!("restart-{}", id.to_ascii_lowercase()),
        node_id: view.id_in(pod).map(|id| id.to_string()).unwrap_or_default(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        volume: pod.volume.clone(),
        volume_uid: volume.map(|volume| volume.uid.clone()).unwrap_or_default(),
        base_epoch: view.epoch(),
        ..super::journal::blank(seen, OperationType::Restart)
    }
}

/// May `pod` go down now? The ring is healthy, and every other pod has been ready long enough.
/// Before there is a ring nothing is lost by it.
fn quiet(seen: &Snapshot, view: &View, pod: &PodSeen) -> Result<(), String> {
    if view.cluster_id.is_none() {
        let blank = view.id_in(pod).is_some_and(|id| view.blank.contains_key(&id));
        return blank.then_some(()).ok_or_else(|| format!("the node of {} is silent", pod.name));
    }
    view.healthy()?;
    if view.newest().is_some_and(|status| status.partitions.moving > 0) {
        return Err("data moves between the nodes".to_owned());
    }
    if let Some(other) = seen.pods.values().find(|other| other.deleting) {
        return Err(format!("pod {} is going", other.name));
    }
    let enough = Duration::from_secs(
        u64::try_from(seen.cluster.spec.update_strategy.min_ready_seconds).unwrap_or(0),
    );
    let unready = seen.pods.values().find(|other| {
        let long = other.ready_for.is_some_and(|since| since >= enough);
        other.uid != pod.uid && !long && (view.has_member(other) || other.ready_for.is_some())
    });
    if let Some(other) = unready {
        return Err(format!("pod {} is not ready for {} s yet", other.name, enough.as_secs()));
    }
    match view.members().find(|row| view.pod_of(row.id).is_none()) {
        Some(row) => Err(format!("no pod shows node {}", row.id)),
        None => Ok(()),
    }
}

/// Goes on with a restart.
pub fn go_on(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    let Some(pod) = seen.pods.get(&operation.pod) else { return absent(seen, operation) };
    if pod.deleting {
        return Doing::Waits;
    }
    if pod.uid == operation.pod_uid {
        return if updated(seen, pod) {
            Doing::Over
        } else if broken(pod) {
            Doing::Step(Step::DeletePod(target(pod)))
        } else if quiet(seen, view, pod).is_ok() {
            Doing::Step(Step::Evict(target(pod)))
        } else {
            Doing::Over
        };
    }
    if !updated(seen, pod) {
        return if broken(pod) { Doing::Next(restart(seen, view, pod)) } else { Doing::Over };
    }
    if back(seen, view, pod) { Doing::Over } else { Doing::Waits }
}

/// The pod is gone: its StatefulSet makes it anew, unless it keeps fewer now.
fn absent(seen: &Snapshot, operation: &Operation) -> Doing {
    let rack = super::racks::rack_of(seen, &operation.pod);
    let set = rack.and_then(|rack| seen.sets.get(&rack));
    match (set, super::racks::ordinal(&operation.pod)) {
        (Some(set), Some(ordinal)) if set.replicas <= ordinal => Doing::Over,
        _ => Doing::Waits,
    }
}

/// Does the new pod do what the old one did? A member is ready long enough and up; what is no
/// member only has to answer.
fn back(seen: &Snapshot, view: &View, pod: &PodSeen) -> bool {
    let Some(id) = view.id_in(pod) else { return false };
    let Some(row) = view.member(id) else { return true };
    let enough = u64::try_from(seen.cluster.spec.update_strategy.min_ready_seconds).unwrap_or(0);
    let long = pod.ready_for.is_some_and(|since| since.as_secs() >= enough);
    long && row.liveness.is_up()
}
