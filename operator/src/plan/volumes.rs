//! Volumes: they grow with the spec, and go with the resource only where the spec says so.

use super::step::Step;
use crate::crd::Keep;
use crate::render::compare::amount;
use crate::snapshot::Snapshot;

/// Steps that bring the claims to what the spec says.
pub fn upkeep(seen: &Snapshot) -> Vec<Step> {
    let storage = &seen.cluster.spec.storage;
    let goes_too = storage.retention.when_deleted == Keep::Delete;
    let size = &storage.size.0;
    let mut steps = Vec::new();
    for volume in seen.volumes.values().filter(|volume| !volume.deleting) {
        let (name, uid) = (volume.name.clone(), volume.uid.clone());
        let small = match (amount(&volume.requested.0), amount(size)) {
            (Some(has), Some(wanted)) => has < wanted,
            _ => false,
        };
        let mounted = seen.pods.values().any(|pod| pod.volume == volume.name);
        if small && mounted {
            let (name, uid, size) = (name.clone(), uid.clone(), size.clone());
            steps.push(Step::GrowVolume { name, uid, size });
        }
        if volume.owned != goes_too {
            steps.push(Step::OwnVolume { name, uid, owned: goes_too });
        }
    }
    steps
}
