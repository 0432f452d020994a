//! Data of this volume that must not be used any more: found to be of an older state, lost, or left behind
//! by the others. It is neither served nor merged nor given away, and takes nothing in; partition by
//! partition it is dropped and made anew (`kvasir_core::ring::moves`, a rebuild).
//!
//! What may be used follows from one number, the **floor**: the highest epoch, chosen or accepted, of which
//! this node heard when it came to know its votes again. Every tenure up to it may be one of the past that
//! the volume forgot; every later one begins under the eyes of this very volume. Until the floor is known
//! nothing of the node is used. A floor stays for good: it only says what later tenures are above of.
//!
//! Stored before it counts, in a small file: after a crash between the finding and the recovery of the votes
//! a start must still know.

use std::cell::{Cell, RefCell};

use kvasir_core::consensus::Readiness;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Document;
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::{ballots, gossip};
use crate::planted::Bug;

/// Name of the file.
pub const FILE: &str = "put-back";

/// A finding about this volume, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finding {
    /// What happened, for people.
    pub reason: String,
    /// The floor; none until it is known.
    pub floor: Option<u64>,
    /// What the node keeps for others is of no use either and still to be dropped.
    pub with_standins: bool,
}

impl Finding {
    /// One of this instant. What is kept for others is sound only where the store of owned data alone is
    /// gone.
    pub fn new(reason: &str, with_standins: bool) -> Self {
        Self { reason: reason.to_owned(), floor: None, with_standins }
    }

    /// The content of the file.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data always has a JSON form")
    }

    /// Reads the file. Earlier versions stored the bare reason.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Self::new(&String::from_utf8_lossy(bytes), true))
    }
}

/// What this node knows of its volume.
#[derive(Debug, Default)]
pub struct SetAside {
    finding: RefCell<Option<Finding>>,
    /// For an epoch and a floor: whether the document of that epoch names this node for a copy of before.
    counts: Cell<Option<(u64, u64, bool)>>,
}

impl SetAside {
    /// Starts with what an earlier start found.
    pub fn new(finding: Option<Finding>) -> Self {
        Self { finding: RefCell::new(finding), counts: Cell::new(None) }
    }

    /// Tenures above this epoch are used: 0 for a sound volume, none while it is not known.
    pub fn floor(&self) -> Option<u64> {
        self.finding.borrow().as_ref().map_or(Some(0), |finding| finding.floor)
    }

    /// Whether anything was ever found.
    pub fn is_found(&self) -> bool {
        self.finding.borrow().is_some()
    }

    /// Why data of this node must not be used, as long as some of it counts: the document names the node
    /// for a copy that was not made anew.
    pub fn reason(&self, document: Option<&Document>, me: NodeId) -> Option<String> {
        let finding = self.finding.borrow();
        let finding = finding.as_ref()?;
        let counts = match (finding.floor, document) {
            (Some(floor), Some(document)) => self.counts(document, me, floor),
            _ => true,
        };
        counts.then(|| finding.reason.clone())
    }

    /// The table is long, and this is asked for with every message of gossip.
    fn counts(&self, document: &Document, me: NodeId, floor: u64) -> bool {
        let known = self.counts.get().filter(|known| (known.0, known.1) == (document.epoch, floor));
        known.map_or_else(
            || {
                let old = |since: u64| since <= floor;
                let counts = document.table.iter().any(|entry| entry.tenure(me).is_some_and(old));
                self.counts.set(Some((document.epoch, floor, counts)));
                counts
            },
            |known| known.2,
        )
    }
}

/// Sets the data of this node aside, durably. False: that could not be stored, so the node must stop before
/// it goes on, or a later start would not know.
pub(super) async fn set_aside(control: &Control, reason: &'static str) -> bool {
    let found = |finding: &Finding| finding.floor.is_none();
    if control.set_aside.finding.borrow().as_ref().is_some_and(found) {
        return true;
    }
    tracing::error!(reason, "the data of this node is not used any more");
    let finding = Finding::new(reason, true);
    let content = finding.encode();
    control.set_aside.finding.replace(Some(finding));
    gossip::publish(control);
    ballots::replace(control, FILE, content).await
}

/// Once this node may vote: the floor is what it heard of until now, and what it kept for others goes.
/// False: the node must stop.
pub(super) async fn settle(control: &Control) -> bool {
    let open = control.set_aside.finding.borrow().clone().filter(|found| found.floor.is_none());
    let Some(finding) = open else { return true };
    if finding.with_standins && !drop_standins(control).await {
        return true;
    }
    // No document comes into force while this is held.
    let acceptor = control.acceptor.lock().await;
    let Some(newest) = acceptor.newest().filter(|_| acceptor.readiness() == Readiness::Ready)
    else {
        return true;
    };
    let mut floor = newest.epoch + u64::from(acceptor.state().accepted.is_some());
    if control.replica.planted().is(Bug::FloorUnseen) {
        floor = 0;
    }
    let finding = Finding { floor: Some(floor), with_standins: false, ..finding };
    if !ballots::replace(control, FILE, finding.encode()).await {
        return false;
    }
    tracing::warn!(floor, "copies of this node that are not newer are to be made anew");
    control.set_aside.finding.replace(Some(finding));
    gossip::publish(control);
    true
}

/// False: not yet, it is tried again.
async fn drop_standins(control: &Control) -> bool {
    let counted = control.standins.shelves();
    if !counted.is_counted() && counted.uncountable().is_none() {
        return false;
    }
    let dropped = control.standins.drop_all().await;
    if let Err(error) = &dropped {
        tracing::warn!(%error, "what was kept for others could not be dropped yet");
    }
    dropped.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::view::tests::{first, me};
    use kvasir_core::ring::Slot;

    #[test]
    fn a_finding_is_read_back_and_so_is_the_reason_of_an_earlier_version() {
        let finding = Finding { floor: Some(7), ..Finding::new("put back", false) };
        assert_eq!(Finding::decode(&finding.encode()), finding);
        assert_eq!(Finding::decode(b"put back"), Finding::new("put back", true));
    }

    #[test]
    fn what_counts_goes_copy_by_copy() {
        let mut document = first();
        let of = |floor| SetAside::new(Some(Finding { floor, ..Finding::new("old", true) }));
        assert_eq!(SetAside::default().floor(), Some(0));
        assert_eq!(SetAside::default().reason(Some(&document), me()), None);
        let unknown = of(None);
        assert_eq!(unknown.floor(), None);
        assert_eq!(unknown.reason(None, me()), Some("old".into()));
        assert!(unknown.reason(Some(&document), me()).is_some());
        let known = of(Some(3));
        for (epoch, index) in [(5, 0), (6, 1)] {
            assert!(known.reason(Some(&document), me()).is_some(), "a copy of epoch 1 is left");
            document.epoch = epoch;
            let slots = document.table[index].slots.get_mut("dc1").expect("a data center");
            slots[0] = Slot::stable(me(), epoch);
        }
        assert_eq!(known.reason(Some(&document), me()), None);
        let stranger = NodeId::from_bytes([2; 16]);
        assert_eq!(known.reason(Some(&document), stranger), None, "it holds nothing that counts");
    }
}
