//! What a node reports of itself and of the cluster: status and figures, made from memory.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::{
    ClusterStatus, DefaultsStatus, Liveness, NodeLoad, NodeStatus, OperationStatus,
    PartitionHealth, Status,
};
use kvasir_core::gossip::{self, MemberView};
use kvasir_core::id::NodeId;
use kvasir_core::ring::Ring;

use super::node::Shared;
use crate::admin::{Figures, MemberFigures, RingFigures};
use crate::tasks::Control;

fn health(control: &Control, members: &[MemberView]) -> PartitionHealth {
    let up: BTreeSet<NodeId> = members.iter().filter(|m| m.status.is_up()).map(|m| m.id).collect();
    match control.formed.borrow().as_ref() {
        Some(formed) => {
            PartitionHealth::of(&formed.ring, |node| up.contains(&node), &control.datacenter)
        }
        None => PartitionHealth::default(),
    }
}

/// Partition replicas by owner, and how many there are in all.
fn owned(ring: &Ring) -> (BTreeMap<NodeId, u32>, u32) {
    let mut counts = BTreeMap::new();
    let mut all = 0;
    for owner in ring.document().table.iter().flat_map(|entry| entry.owners()) {
        *counts.entry(owner.node).or_default() += 1;
        all += 1;
    }
    (counts, all)
}

fn share(part: u32, all: u32) -> f64 {
    if all == 0 { 0.0 } else { f64::from(part) / f64::from(all) }
}

/// The cluster as this node sees it.
pub fn status(shared: &Shared, control: &Control) -> Status {
    let now = control.now_ms();
    let members = control.gossip.borrow().members(now);
    let partitions = health(control, &members);
    let formed = control.formed.borrow();
    let ring = formed.as_ref().map(|f| &f.ring);
    let levels = ring.map_or_else(Default::default, |r| r.document().defaults.clone());
    Status {
        safety: partitions.safety((levels.r, levels.w)),
        answered_by: shared.identity.node,
        server_version: env!("CARGO_PKG_VERSION").to_string(),
        cluster: ring.map(|ring| cluster(ring, &members)),
        nodes: nodes(shared, ring, &members, now),
        operations: ring.map_or_else(Vec::new, |ring| {
            let records = &ring.document().operations;
            records.iter().map(|(id, record)| OperationStatus::of(id, record)).collect()
        }),
        partitions,
    }
}

fn cluster(ring: &Ring, members: &[MemberView]) -> ClusterStatus {
    let document = ring.document();
    let listed: Vec<&MemberView> =
        members.iter().filter(|m| document.members.contains_key(&m.id)).collect();
    let up = listed.iter().filter(|m| m.status.is_up());
    // Settled: everybody who is up uses this very document.
    let settled = up.clone().all(|m| m.document.is_some_and(|d| d.hash == ring.hash().0));
    ClusterStatus {
        cluster_id: document.cluster_id,
        cluster_name: document.cluster_name.clone(),
        epoch: document.epoch,
        document_hash: ring.hash().to_string(),
        settled,
        members: document.members.len() as u32,
        members_up: up.count() as u32,
        replication: document.replication.clone(),
        partition_bits: document.partition_bits,
        defaults: DefaultsStatus::from(&document.defaults),
    }
}

fn nodes(
    shared: &Shared,
    ring: Option<&Ring>,
    members: &[MemberView],
    now_ms: u64,
) -> Vec<NodeStatus> {
    let (counts, all) = ring.map(owned).unwrap_or_default();
    let mut rows: Vec<NodeStatus> = members
        .iter()
        .map(|m| {
            let partitions = counts.get(&m.id).copied().unwrap_or(0);
            NodeStatus {
                id: m.id,
                liveness: Liveness::from(m.status),
                for_ms: Some(now_ms.saturating_sub(m.since_ms)),
                member: ring.and_then(|r| r.document().members.get(&m.id)).map(|e| e.state),
                http: m.addresses.http.clone(),
                peer: m.addresses.peer.clone(),
                admin: m.addresses.admin.clone(),
                machine: m.labels.machine.clone(),
                rack: m.labels.rack.clone(),
                zone: m.labels.zone.clone(),
                datacenter: m.labels.datacenter.clone(),
                weight: m.labels.weight,
                partitions,
                owned: share(partitions, all),
                epoch: m.document.map(|d| d.epoch),
                boot: Some(m.heartbeat.boot),
                mark: Some(m.mark),
                phi: Some(m.phi),
                version: m.version.clone(),
                load: (m.id == shared.identity.node).then(|| load(shared)),
            }
        })
        .collect();
    let heard: BTreeSet<NodeId> = members.iter().map(|m| m.id).collect();
    for (id, entry) in ring.iter().flat_map(|r| &r.document().members) {
        if heard.contains(id) {
            continue;
        }
        let partitions = counts.get(id).copied().unwrap_or(0);
        rows.push(NodeStatus {
            id: *id,
            liveness: Liveness::Unheard,
            for_ms: None,
            member: Some(entry.state),
            http: String::new(),
            peer: String::new(),
            admin: String::new(),
            machine: entry.machine.clone(),
            rack: entry.rack.clone(),
            zone: entry.zone.clone(),
            datacenter: entry.datacenter.clone(),
            weight: entry.weight,
            partitions,
            owned: share(partitions, all),
            epoch: None,
            boot: None,
            mark: None,
            phi: None,
            version: String::new(),
            load: None,
        });
    }
    rows.sort_by_key(|row| row.id);
    rows
}

fn load(shared: &Shared) -> NodeLoad {
    let store = shared.replica.store();
    let stats = store.stats();
    NodeLoad {
        disk_bytes: stats.table_bytes + stats.log_bytes,
        memory_bytes: stats.memtable_bytes + stats.cache_bytes,
        free_bytes: 0,
        records: 0,
        failure: store.failed(),
    }
}

/// Everything that is counted.
pub fn figures(shared: &Shared, control: &Control) -> Figures {
    let now = control.now_ms();
    let members = control.gossip.borrow().members(now);
    let count = |status| members.iter().filter(|m| m.status == status).count() as u64;
    let store = shared.replica.store();
    let node = &shared.config.node;
    Figures {
        node: shared.identity.node,
        version: env!("CARGO_PKG_VERSION").to_string(),
        rack: node.rack.clone(),
        zone: node.zone.clone(),
        datacenter: node.datacenter.clone(),
        http: shared.http_stats.clone(),
        peers: shared.peer_stats.clone(),
        store: store.stats(),
        store_failed: store.failed().is_some(),
        disk_free_bytes: None,
        members: MemberFigures {
            alive: count(gossip::Status::Alive),
            suspect: count(gossip::Status::Suspect),
            down: count(gossip::Status::Down),
        },
        ring: ring_figures(shared, control, &members),
    }
}

fn ring_figures(shared: &Shared, control: &Control, members: &[MemberView]) -> RingFigures {
    let formed = control.formed.borrow();
    let Some(formed) = formed.as_ref() else { return RingFigures::default() };
    let (counts, all) = owned(&formed.ring);
    let mine = counts.get(&shared.identity.node).copied().unwrap_or(0);
    RingFigures {
        epoch: formed.ring.epoch(),
        members: formed.ring.document().members.len() as u64,
        owned_partitions: u64::from(mine),
        owned_ratio: share(mine, all),
        partitions: health(control, members),
    }
}
