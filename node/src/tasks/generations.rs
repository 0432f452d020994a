//! The generation of this node: begins where the others are, rises with them, is stored durably before
//! anything is stamped with it (DESIGN section 7, Reclaim). What decides is `kvasir_core::reclaim::next`.
//!
//! Rising does not depend on whether there is anything to reclaim, so that a carrier of any age is known
//! to be old. A node that the others left behind by two sets its data aside: they went on without what
//! it holds. It then begins as a new member does, and what it holds is made anew.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::reclaim::{Next, Seen, next, rejoin};
use tokio::time::Instant;

use super::control::Control;
use super::identity::IdentityError;
use super::small_files::SmallFiles;
use super::{ballots, gossip, set_aside};

/// Name of the small file: the generation as eight bytes.
pub const FILE: &str = "generation";

/// How often a node looks at what the others reached.
const BEAT: Duration = Duration::from_secs(1);
/// The same while it has no generation yet, and so takes no data.
const EAGER: Duration = Duration::from_millis(200);

const LEFT_BEHIND: &str = "the other members are two generations ahead of this volume: it was put back, or \
    was no member for a while, and deleted values may live on in it. Its copies are made anew from those of \
    others: see `kvasir status`";

/// The generation that an earlier start stored; 0 if none did. Blocks: for the start of a node only.
///
/// # Errors
/// The file is damaged or unreadable.
pub fn load(files: &SmallFiles) -> Result<u64, IdentityError> {
    let stored = files.load(FILE)?;
    let number = stored.and_then(|bytes| bytes.try_into().ok());
    Ok(number.map_or(0, u64::from_be_bytes))
}

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    let mut rose = Instant::now();
    loop {
        if control.failed.borrow().is_some() {
            return;
        }
        let held = control.standins.shelves().told();
        control.gossip.borrow_mut().set_held(held);
        if !step(&control, &mut rose).await {
            return;
        }
        let none = control.replica.generation().now() == 0;
        tokio::select! {
            () = control.enforced.notified() => {}
            () = tokio::time::sleep(if none { EAGER } else { BEAT }) => {}
        }
    }
}

/// Looks once. False: the generation could not be stored, so the node must stop.
async fn step(control: &Control, rose: &mut Instant) -> bool {
    control.held_up_by.borrow_mut().clear();
    let serves = control.set_aside.floor().is_some() && control.gossip.borrow().twin().is_none();
    let Some((document, others)) = seen(control).filter(|_| serves && !control.starting.get())
    else {
        return true;
    };
    let own = control.replica.generation().now();
    // Only a volume that was never used began with the first document.
    let anew = own == 0 && control.set_aside.is_found();
    let go = if anew { rejoin(document, &others) } else { next(own, document, &others) };
    match go {
        Next::Wait(nodes) => {
            // A member is told of when all should have gone on since.
            if own == 0 || rose.elapsed() > 3 * control.generation_interval {
                *control.held_up_by.borrow_mut() = nodes;
            }
            true
        }
        Next::Behind(highest) => {
            tracing::error!(own, highest, "the others are two generations ahead");
            set_aside::set_aside(control, LEFT_BEHIND).await && forget(control).await
        }
        Next::Reach(_) if own > 0 && rose.elapsed() < control.generation_interval => true,
        Next::Reach(generation) => {
            *rose = Instant::now();
            if !ballots::replace(control, FILE, generation.to_be_bytes().to_vec()).await {
                return false;
            }
            tracing::debug!(generation, "reached");
            control.replica.generation().reached(generation);
            // Told together: what is held is asked after the generation rose, since until then copies
            // may have come in that are too old for it.
            let held = control.standins.shelves().told();
            let mut gossip = control.gossip.borrow_mut();
            gossip.set_generation(generation);
            gossip.set_held(held);
            drop(gossip);
            gossip::publish(control);
            true
        }
    }
}

/// Has no generation any more, and so takes nothing, until it begins where the others are, as a new member
/// does. False: that could not be stored, so the node must stop.
async fn forget(control: &Control) -> bool {
    control.replica.generation().forget();
    control.gossip.borrow_mut().set_generation(0);
    gossip::publish(control);
    ballots::replace(control, FILE, 0_u64.to_be_bytes().to_vec()).await
}

/// The epoch of the document here, if it names this node, and what its other members told of themselves.
fn seen(control: &Control) -> Option<(u64, BTreeMap<NodeId, Option<Seen>>)> {
    let formed = control.formed.borrow().clone()?;
    let (document, me) = (formed.ring.document(), control.identity.node);
    if !document.members.contains_key(&me) {
        return None;
    }
    let heard: BTreeMap<NodeId, Seen> = control
        .gossip
        .borrow()
        .members(control.now_ms())
        .into_iter()
        .filter(|m| m.cluster == document.cluster_id)
        .map(|m| {
            let epoch = m.document.map_or(0, |d| d.epoch);
            (m.id, Seen { generation: m.generation, document: epoch })
        })
        .collect();
    let others = document.members.keys().filter(|id| **id != me);
    Some((document.epoch, others.map(|id| (*id, heard.get(id).copied())).collect()))
}
