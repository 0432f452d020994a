//! The objects as they should be, and which of them are not.
//!
//! What is rendered is written where it is missing or was changed; what others added is left alone.
//! What is not wanted any more goes, if it is ours and nothing uses it.

use serde_json::Value;

use super::racks::RackPlan;
use super::refusal::Refusal;
use super::step::Step;
use crate::crd::Rack;
use crate::render::{self, compare, names};
use crate::snapshot::{ObjectName, PodSeen, Snapshot};

/// Kinds that are taken away when they are not wanted any more.
const PASSING: [&str; 4] = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"];

/// All objects but the token, with these pods in each rack.
fn rendered(seen: &Snapshot, racks: &[RackPlan]) -> Vec<Value> {
    let racks: Vec<(Rack, i32)> =
        racks.iter().map(|plan| (plan.rack.clone(), plan.nodes)).collect();
    render::objects(render::Wanted {
        cluster: &seen.cluster,
        racks: &racks,
        live: &seen.objects,
        surroundings: &seen.surroundings,
    })
}

/// The StatefulSet of one rack with so many pods.
pub fn sized(seen: &Snapshot, plan: &RackPlan, nodes: i32) -> Option<Value> {
    let name = ObjectName::new("StatefulSet", names::set(&seen.cluster, &plan.rack.name));
    let plan = RackPlan { nodes, ..plan.clone() };
    rendered(seen, &[plan]).into_iter().find(|object| ObjectName::of(object) == name)
}

/// Is the pod made from what the spec says now?
pub fn updated(seen: &Snapshot, pod: &PodSeen) -> bool {
    let racks = render::racks::of(&seen.cluster.spec);
    let rack = racks.iter().find(|rack| rack.name == pod.rack);
    rack.is_none_or(|rack| render::inputs(&seen.cluster.spec, rack) == pod.inputs)
}

/// Steps that bring the objects to what they should be, and names that belong to others.
pub fn upkeep(seen: &Snapshot, racks: &[RackPlan]) -> (Vec<Step>, Vec<Refusal>) {
    let mut steps = Vec::new();
    let mut refusals = Vec::new();
    let token = render::token_secret(&seen.cluster);
    if !seen.objects.contains_key(&ObjectName::of(&token)) {
        steps.push(Step::CreateToken(Box::new(token)));
    }
    // The empty set of a rack that is no more stays as it is: the operator deletes none.
    let with_set = racks.iter().filter(|plan| !plan.retired || plan.nodes > 0);
    let all = rendered(seen, &with_set.cloned().collect::<Vec<_>>());
    for object in &all {
        let name = ObjectName::of(object);
        match seen.objects.get(&name) {
            Some(live) if deleting(live) => {}
            Some(live) if controller(live).is_some() && !ours(seen, live) => {
                refusals.push(Refusal::NameTaken(format!("{} {}", name.kind, name.name)));
            }
            Some(live) if !compare::differs(live, object) => {}
            _ => steps.push(Step::Apply(Box::new(object.clone()))),
        }
    }
    steps.extend(leftovers(seen, &all));
    (steps, refusals)
}

/// Objects of ours that are not wanted any more. A ConfigMap stays while a pod mounts it.
fn leftovers(seen: &Snapshot, wanted: &[Value]) -> Vec<Step> {
    let names: Vec<ObjectName> = wanted.iter().map(ObjectName::of).collect();
    let mounted = |name: &ObjectName| {
        name.kind == "ConfigMap" && seen.pods.values().any(|pod| pod.config_map == name.name)
    };
    seen.objects
        .iter()
        .filter(|(name, live)| {
            PASSING.contains(&name.kind.as_str())
                && !names.contains(name)
                && !mounted(name)
                && ours(seen, live)
                && !deleting(live)
        })
        .map(|(name, live)| Step::Delete {
            object: name.clone(),
            uid: live["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn controller(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// Is it controlled by this very resource?
fn ours(seen: &Snapshot, object: &Value) -> bool {
    controller(object).is_some_and(|uid| seen.cluster.metadata.uid.as_deref() == Some(uid))
}
