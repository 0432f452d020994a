//! What a node reports of itself and of the cluster: status and figures, made from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use kvasir_core::admin_api::assemble::Answering;
use kvasir_core::admin_api::{
    DiskDamage, HandoffLoad, HeldUp, NodeLoad, PartitionHealth, PressureLoad, ReclaimLoad, Status,
};
use kvasir_core::gossip::{self, MemberView};
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::Hold;
use kvasir_core::ring::Ring;
use kvasir_storage::StoreStats;

use super::bounds;
use super::node::Shared;
use crate::admin::{Figures, GossipFigures, MemberFigures, OperationFigures, RingFigures};
use crate::pressure::{Full, Work};
use crate::replica::MoveFigures;
use crate::tasks::{Control, Unfit};

fn health(control: &Control, members: &[MemberView]) -> PartitionHealth {
    let up: BTreeSet<NodeId> = members.iter().filter(|m| m.serves()).map(|m| m.id).collect();
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
    let now_ms = control.now_ms();
    let members = control.gossip.borrow().members(now_ms);
    let formed = control.formed.borrow();
    Answering {
        node: shared.identity.node,
        server_version: env!("CARGO_PKG_VERSION"),
        ring: formed.as_ref().map(|f| &f.ring),
        members: &members,
        now_ms,
        load: Some(load(shared, control)),
    }
    .status()
}

fn load(shared: &Shared, control: &Control) -> NodeLoad {
    let store = shared.replica.store();
    let (stats, kept) = (store.stats(), shared.standins.store().stats());
    NodeLoad {
        disk_bytes: stats.table_bytes + stats.log_bytes + kept.table_bytes + kept.log_bytes,
        memory_bytes: stats.memtable_bytes + stats.cache_bytes + kept.memtable_bytes,
        free_bytes: control.disk_free.get(),
        failure: shared.disk_failed(),
        damage: damage(&[&stats, &kept]),
        handoff: handoff(shared),
        reclaim: Some(reclaim(shared, control)).filter(|reclaim| reclaim.generation > 0),
        pressure: Some(pressure(shared)),
    }
}

/// What the node has taken on, and how much of it there may be.
fn pressure(shared: &Shared) -> PressureLoad {
    let bounds = bounds::all(&shared.config, shared.pressure.workers());
    let stats = &shared.pressure;
    let refused = Full::ALL.map(|full| stats.refused(Work::Client, full));
    PressureLoad {
        connections: shared.http_stats.connections.load(Relaxed),
        connections_max: bounds.connections,
        requests: stats.held(Work::Client).0,
        requests_max: bounds.work[Work::Client as usize],
        requests_refused: refused.iter().sum(),
        body_bytes: shared.http_stats.body_bytes.load(Relaxed),
        body_max_bytes: bounds.body_bytes,
        workers_behind: stats.behind.load(Relaxed),
        late_ms: stats.late_us() / 1_000,
        descriptors_max: bounds.descriptors,
        memory_max_bytes: bounds.memory_bytes(),
    }
}

/// How far reclaim is, and who holds it up.
fn reclaim(shared: &Shared, control: &Control) -> ReclaimLoad {
    let mut held = shared.reclaim.held_up_by();
    for node in control.held_up_by.borrow().iter() {
        held.entry(*node).or_insert(Hold::Generation);
    }
    let held_up = |(node, why): (NodeId, Hold)| HeldUp { node, why: why.word().to_owned() };
    ReclaimLoad {
        generation: shared.replica.generation().now(),
        tombstones: shared.reclaim.seen.load(Relaxed),
        waiting: shared.reclaim.waiting.load(Relaxed),
        erased: shared.holder.erased.load(Relaxed),
        folded_rows: shared.holder.folded.load(Relaxed),
        held_up_by: held.into_iter().map(held_up).collect(),
    }
}

/// What the disk lost; none while it is sound, and once all that was lost was made anew.
pub(super) fn damage(stores: &[&StoreStats]) -> Option<DiskDamage> {
    let sum = |of: fn(&StoreStats) -> u64| stores.iter().map(|stats| of(stats)).sum();
    let damage = DiskDamage {
        quarantined_tables: sum(|stats| stats.quarantined_tables),
        damaged_tables: sum(|stats| stats.damaged_tables),
        lost_ranges: sum(|stats| stats.lost_ranges),
    };
    (damage.damaged_tables > 0 || damage.lost_ranges > 0).then_some(damage)
}

/// Says in the log what the disk lost, once for each change of it.
pub(super) fn tell_damage(shared: &Shared, told: &mut Option<DiskDamage>) {
    let (owned, kept) = (shared.replica.store().stats(), shared.standins.store().stats());
    let now = damage(&[&owned, &kept]);
    if now == *told {
        return;
    }
    *told = now;
    match now {
        Some(DiskDamage { quarantined_tables, damaged_tables, lost_ranges }) => tracing::warn!(
            quarantined_tables,
            damaged_tables,
            lost_ranges,
            "damaged tables: what was sound is kept, the files are in store/quarantine with a report, and \
             other copies answer for lost ranges; check this disk"
        ),
        None => tracing::info!("no key range counts as lost any more"),
    }
}

fn handoff(shared: &Shared) -> Option<HandoffLoad> {
    let (copies, hints) = shared.standins.shelves().held();
    let failure = shared.standins.shelves().uncountable();
    (copies.entries + hints.entries > 0 || failure.is_some()).then_some(HandoffLoad {
        stand_in_copies: copies.entries,
        stand_in_bytes: copies.bytes,
        hints: hints.entries,
        hint_bytes: hints.bytes,
        failure,
    })
}

/// Everything that is counted.
pub fn figures(shared: &Shared, control: &Control) -> Figures {
    let now = control.now_ms();
    let members = control.gossip.borrow().members(now);
    let count = |status| members.iter().filter(|m| m.status == status).count() as u64;
    let store = shared.replica.store();
    let node = &shared.config.node;
    let (stamps_ahead, stamps_lead_ms) = shared.replica.stamps();
    Figures {
        node: shared.identity.node,
        version: env!("CARGO_PKG_VERSION").to_string(),
        rack: node.rack.clone(),
        zone: node.zone.clone(),
        datacenter: node.datacenter.clone(),
        http: shared.http_stats.clone(),
        pressure: shared.pressure.clone(),
        bounds: bounds::all(&shared.config, shared.pressure.workers()),
        peers: shared.peer_stats.clone(),
        store: store.stats(),
        store_failed: shared.disk_failed().is_some(),
        shelves: shared.standins.shelves().clone(),
        repair: shared.repairs.figures(),
        moves: moves(shared, control),
        operations: operations(shared, control, &members),
        reclaim: reclaim(shared, control),
        reclaim_void: shared.reclaim.void.load(Relaxed),
        coordination: shared.coordination.clone(),
        stamps_ahead,
        stamps_lead_ms,
        unfit: control.unfit.borrow().as_ref().map(Unfit::code),
        disk_free_bytes: control.disk_free.get(),
        members: MemberFigures {
            alive: count(gossip::Status::Alive),
            suspect: count(gossip::Status::Suspect),
            down: count(gossip::Status::Down),
        },
        gossip: GossipFigures {
            counters: control.gossip.borrow().counters().clone(),
            doubt: control.gossip.borrow().doubt(),
        },
        ring: ring_figures(shared, control, &members),
    }
}

fn moves(shared: &Shared, control: &Control) -> MoveFigures {
    let formed = control.formed.borrow();
    let document = formed.as_ref().map(|formed| formed.ring.document());
    shared.moving.tally.figures(document, shared.identity.node)
}

fn operations(shared: &Shared, control: &Control, members: &[MemberView]) -> OperationFigures {
    let formed = control.formed.borrow();
    let document = formed.as_ref().map(|formed| formed.ring.document());
    let figures = |document| OperationFigures::of(document, members, shared.identity.node);
    document.map(figures).unwrap_or_default()
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
