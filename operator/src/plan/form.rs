//! Forming the cluster: once, with all the pods there are, and never where one was formed before.
//!
//! The nodes hold the line as well: an acceptor that took one first document answers any other with
//! it, and epoch 1 needs all nodes that it names. So asking again after a crash is safe, whoever
//! asks.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::{BucketDefaults, InitRequest};
use kvasir_core::quorum::LevelError;

use super::racks::{RackPlan, total};
use super::refusal::Refusal;
use super::step::{PodTarget, Step};
use super::view::{View, initialized};
use crate::crd::KVClusterSpec;
use crate::snapshot::{PodSeen, Snapshot};

/// The step that forms the cluster, or what it waits for.
pub fn form(seen: &Snapshot, view: &View, racks: &[RackPlan]) -> Result<Step, Refusal> {
    if initialized(seen) {
        let status = seen.cluster.status.as_ref();
        let id = status.and_then(|status| status.cluster_id.clone()).unwrap_or_default();
        return Err(Refusal::VolumesLost(id));
    }
    let first = all_blank(seen, view, racks)?;
    enough_workers(seen, racks)?;
    let ids: BTreeSet<String> = view.blank.keys().map(ToString::to_string).collect();
    let heard: BTreeSet<String> = first
        .status()
        .into_iter()
        .flat_map(|status| &status.nodes)
        .map(|row| row.id.to_string())
        .collect();
    if let Some(unheard) = ids.iter().find(|id| !heard.contains(*id)) {
        return Err(Refusal::NotFormable(format!("{} to hear of node {unheard}", first.name)));
    }
    let request = request(&seen.cluster.spec, ids.into_iter().collect())
        .map_err(|error| Refusal::Unusable(error.to_string()))?;
    Ok(Step::Form { pod: target(first), request: Box::new(request) })
}

/// A pod as a step names it.
pub fn target(pod: &PodSeen) -> PodTarget {
    let ip = pod.ip.clone().unwrap_or_default();
    PodTarget { name: pod.name.clone(), uid: pod.uid.clone(), ip }
}

/// Are all pods there, and blank? The pod to ask: ordinal 0 of the first rack that has one.
fn all_blank<'a>(
    seen: &'a Snapshot,
    view: &View<'a>,
    racks: &[RackPlan],
) -> Result<&'a PodSeen, Refusal> {
    let wanted = seen.cluster.spec.nodes;
    if total(racks) != wanted {
        return Err(Refusal::NotFormable(format!("{wanted} pods; there are {}", total(racks))));
    }
    if let Some(plan) = racks.iter().find(|plan| plan.nodes != plan.wanted) {
        let (rack, wanted) = (&plan.rack.name, plan.wanted);
        let what = format!("{wanted} pods in rack {rack}; there are {}", plan.nodes);
        return Err(Refusal::NotFormable(what));
    }
    let mut first = None;
    for plan in racks {
        let rack = &plan.rack.name;
        for ordinal in 0..plan.nodes {
            let mut pods = seen.pods.values();
            let pod = pods.find(|pod| pod.rack == *rack && pod.ordinal == ordinal);
            let Some(pod) = pod.filter(|pod| !pod.deleting) else {
                let what = format!("pod {ordinal} of rack {rack}");
                return Err(Refusal::NotFormable(what));
            };
            let blank = view.id_in(pod).is_some_and(|id| view.blank.contains_key(&id));
            if !blank {
                let why = pod.trouble.as_deref().unwrap_or("its node does not answer yet");
                return Err(Refusal::NotFormable(format!("pod {}: {why}", pod.name)));
            }
            first = first.or(Some(pod));
        }
    }
    first.ok_or_else(|| Refusal::NotFormable("pods".to_owned()))
}

fn enough_workers(seen: &Snapshot, racks: &[RackPlan]) -> Result<(), Refusal> {
    for factor in &seen.cluster.spec.replication.factors {
        let here = |pod: &&PodSeen| {
            let mut racks = racks.iter();
            racks
                .any(|plan| plan.rack.name == pod.rack && plan.rack.datacenter == factor.datacenter)
        };
        let workers: BTreeSet<&str> =
            seen.pods.values().filter(here).map(|pod| pod.worker.as_str()).collect();
        if (workers.len() as i64) < i64::from(factor.factor) {
            return Err(Refusal::TooFewWorkers {
                datacenter: factor.datacenter.clone(),
                workers: workers.len(),
                copies: factor.factor,
            });
        }
    }
    Ok(())
}

fn request(spec: &KVClusterSpec, nodes: Vec<String>) -> Result<InitRequest, LevelError> {
    let replication = &spec.replication;
    let partitions = spec.ring.initial_partitions;
    let bits = partitions.and_then(|count| u32::try_from(count).ok()).map(u32::ilog2);
    Ok(InitRequest {
        cluster_name: spec.cluster_name.clone(),
        replication: factors(spec),
        partition_bits: bits.and_then(|bits| u8::try_from(bits).ok()),
        nodes,
        defaults: Some(BucketDefaults {
            r: Some(replication.read_level()?),
            w: Some(replication.write_level()?),
            sloppy: Some(replication.sloppy_quorum),
            ..BucketDefaults::default()
        }),
    })
}

/// Copies per data center, as the document has them.
pub fn factors(spec: &KVClusterSpec) -> BTreeMap<String, u32> {
    let factors = spec.replication.factors.iter();
    factors.map(|f| (f.datacenter.clone(), u32::try_from(f.factor).unwrap_or(0))).collect()
}
