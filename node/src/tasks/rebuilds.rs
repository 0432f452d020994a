//! Has what this node lost made anew: posts a rebuild of the copies that are not whole, as anybody could by
//! `POST /v1/operations`. The node itself does it, since nobody else knows which copies those are, and
//! nobody knows better when its votes are recovered, before which no tenure may begin.
//!
//! Bounded: one rebuild of a node at a time, at most one post in [`PAUSE`]. What the node lost of partitions
//! that it does not hold is dropped, so that it counts as damage no more.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kvasir_core::consensus::Readiness;
use kvasir_core::ring::operation::{OperationRefused, Planned, plan_rebuild};
use kvasir_core::ring::{Partition, Sealed};
use kvasir_storage::Durability;
use tokio::time::Instant;

use super::ballots;
use super::control::Control;
use crate::replica::moving::{keys, lost, overlaps};

/// Between two looks.
const BEAT: Duration = Duration::from_secs(1);
/// Between two posts.
const PAUSE: Duration = Duration::from_secs(10);

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    let mut posted: Option<Instant> = None;
    loop {
        tokio::time::sleep(BEAT).await;
        drop_unheld(&control);
        if !control.rebuilds || posted.is_some_and(|at| at.elapsed() < PAUSE) {
            continue;
        }
        let view = control.views.load();
        let lost = lost(&view, control.replica.store());
        let lost: BTreeSet<Partition> = lost.into_iter().map(|lost| lost.partition).collect();
        let Some(document) = control.newest().filter(|_| !lost.is_empty()) else { continue };
        let ready = control.acceptor.lock().await.readiness() == Readiness::Ready;
        if ready && post(&control, &document, &lost).await {
            posted = Some(Instant::now());
        }
    }
}

/// True if it was tried.
async fn post(control: &Rc<Control>, document: &Sealed, lost: &BTreeSet<Partition>) -> bool {
    let node = control.identity.node;
    let name = node.to_string();
    let id = format!("rebuild-{}-{}", name.get(..8).unwrap_or(&name), document.epoch + 1);
    let child = match plan_rebuild(document, &id, node, lost) {
        Ok(Planned::Child(child)) => *child,
        // One runs; or what is lost is on its way to this node or from it, and the driver sees to it.
        Ok(Planned::AlreadyRecorded(_))
        | Err(OperationRefused::Busy(_) | OperationRefused::NothingToRebuild(_)) => return false,
        Err(refused) => {
            tracing::error!(%refused, "what this node lost cannot be made anew");
            return true;
        }
    };
    tracing::warn!(id, partitions = lost.len(), "having lost copies made anew");
    if let Err(error) = ballots::propose(control, Sealed::new(child)).await {
        tracing::debug!(%error, "the rebuild was not posted; it is tried again");
    }
    true
}

/// Drops what was lost of partitions that this node does not hold: nobody asks it for them, and if it comes
/// to hold one it begins with nothing anyway.
fn drop_unheld(control: &Control) {
    let (store, formed) = (control.replica.store(), control.formed.borrow().clone());
    let damaged = store.lost_ranges();
    let Some(formed) = formed.filter(|_| !damaged.is_empty()) else { return };
    let (document, me) = (formed.ring.document(), control.identity.node);
    if !document.members.contains_key(&me) {
        return;
    }
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        if entry.tenure(me).is_some() {
            continue;
        }
        let (first, end) = keys(partition);
        for range in damaged.iter().filter(|range| overlaps(range, partition)) {
            let from = first.clone().max(range.from.clone());
            let to = [&end, &range.to].into_iter().flatten().min();
            // Applied at once: no newer document can come between the look and the drop.
            drop(store.drop_range(&from, to, Durability::Group));
        }
    }
}
