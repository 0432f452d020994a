//! Gives back the space of copies that this node handed over for good.
//!
//! What it gives to whom is noted in a small durable file before the document that says so is in force.
//! A loop looks which of the noted copies the newest document shows to be handed over
//! ([`kvasir_core::ring::handover`]), drops each by one logged record of the engine, which takes the hash
//! tree along, and then forgets the note. A crash anywhere between leaves the note, and dropping again
//! changes nothing. Copies that are kept in the place of owners lie in another store and stay.
//!
//! A drop is applied in the same turn of the control thread in which the document in force was looked at,
//! and whatever the node comes to hold there by a later one is stored after that one came into force.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kvasir_core::ring::{Document, Handovers};
use kvasir_storage::Durability;

use super::ballots;
use super::control::Control;
use super::unfit::Unfit;
use crate::replica::moving;

/// Name of the file.
pub const FILE: &str = "handovers";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Notes what a document that is to be put in force gives away. False: the node must stop.
pub(super) async fn note(control: &Control, document: &Document) -> bool {
    let before = control.handovers.borrow().clone();
    let noted = before.under(document, control.identity.node);
    control.moving.tally.keep_count(&noted);
    if noted == before {
        return true;
    }
    let stored = store(control, &noted).await;
    if stored {
        control.handovers.replace(noted);
    }
    stored
}

async fn store(control: &Control, noted: &Handovers) -> bool {
    let content = postcard::to_allocvec(noted).expect("maps of numbers always encode");
    ballots::replace(control, FILE, content).await
}

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    loop {
        tokio::time::sleep(LOOK).await;
        // What is wrong with this volume may be wrong with its notes. One that left gave everything away.
        let sound = matches!(Unfit::of(&control), None | Some(Unfit::NotMember { .. }));
        if sound && !remove(&control).await {
            return;
        }
    }
}

/// Drops what is handed over. False: the node must stop.
async fn remove(control: &Control) -> bool {
    let Some(document) = control.newest() else { return true };
    let over = control.handovers.borrow().over(&document, control.identity.node);
    // Nobody may still be at work who entered when this node was named.
    if over.is_empty() || control.views.fenced() < document.epoch {
        return true;
    }
    let replica = control.replica.store();
    let drops = over.iter().map(|(partition, _)| {
        let (first, end) = moving::keys(*partition);
        replica.drop_range(&first, end.as_ref(), Durability::Group)
    });
    let drops: Vec<_> = drops.collect();
    let mut removed = Vec::new();
    for (copy, drop) in over.into_iter().zip(drops) {
        match drop.await {
            Ok(()) => removed.push(copy),
            // The note stays, and the drop is made again.
            Err(error) => tracing::warn!(%error, partition = %copy.0, "a copy was not removed yet"),
        }
    }
    if removed.is_empty() {
        return true;
    }
    // Documents come into force under this lock, and note what they give away.
    let _lock = control.acceptor.lock().await;
    let mut noted = control.handovers.borrow().clone();
    removed.iter().for_each(|(partition, handover)| noted.removed(*partition, *handover));
    let stored = store(control, &noted).await;
    if stored {
        let count = removed.len() as u64;
        tracing::info!(copies = count, "what was handed over was removed");
        control.moving.tally.removed.fetch_add(count, Relaxed);
        control.moving.tally.keep_count(&noted);
        control.handovers.replace(noted);
    }
    stored
}
