//! What the model keeps beside the protocol so that a rule can be left out: who voted under a wrong
//! rule, and what peers would remember under the right one.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::consensus::{Mark, Message};
use kvasir_core::id::NodeId;
use kvasir_core::ring::{DocumentHash, Sealed};

use super::world::id;

/// Empty while no rule is left out.
#[derive(Clone, Default, Hash)]
pub struct Weak {
    /// Who accepted what.
    votes: BTreeSet<(DocumentHash, u8)>,
    /// The mark of the restored member that a peer would remember, had nothing been left out.
    would_remember: BTreeMap<u8, Mark>,
    /// The restored member asked a peer that would have told it: what it does now is not the case
    /// that the guarantees leave out.
    pub should_know: bool,
}

impl Weak {
    /// Takes the marks out of a message, and notes what `to` would have remembered.
    pub fn strip(&mut self, to: u8, message: &mut Message, restored: NodeId) {
        if let Message::Accept { marks, .. } | Message::Chosen { marks, .. } = message
            && let Some(mark) = std::mem::take(marks).remove(&restored)
        {
            self.would_remember.entry(to).or_default().raise_to(mark);
        }
    }

    /// A member at this mark asks a peer which one it remembers.
    pub fn asked(&mut self, peer: u8, mark: u64) {
        let remembers = self.would_remember.get(&peer);
        self.should_know |= remembers.is_some_and(|remembered| remembered.count > mark);
    }

    /// A vote under the wrong rule: the newcomer accepts the first document that it hears of, and a
    /// majority of those whom a document names chooses it. Whether it is chosen now.
    pub fn accepted(&mut self, by: u8, newcomer: u8, document: &Sealed) -> bool {
        self.votes.insert((document.hash(), by));
        if self.votes.iter().all(|(_, voter)| *voter != newcomer) {
            self.votes.insert((document.hash(), newcomer));
        }
        let named = |voter: u8| document.members.contains_key(&id(voter));
        let votes = self.votes.iter();
        let votes = votes.filter(|(hash, voter)| *hash == document.hash() && named(*voter));
        votes.count() > document.members.len() / 2
    }
}
