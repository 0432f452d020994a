//! What a member must not forget about ballots.
//!
//! Votes and documents are one value, fsynced as a whole before an answer leaves. Marks change every
//! second and a document may be large, so marks have a small file of their own beside it. Marks only
//! grow: whichever file is newer, the larger mark is the right one, and the two need no common
//! transaction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Mark, Marks, Term, Vote};
use crate::id::NodeId;
use crate::ring::Sealed;

/// Version of the stored form.
const VERSION: u32 = 1;

/// The stable storage of an acceptor. Written as one file by atomic replacement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptorState {
    /// Version of this form.
    pub version: u32,
    /// Whose.
    pub node: NodeId,
    /// Raised at every start.
    pub boot: u64,
    /// Own mark's count. Its epoch is that of `chosen`.
    pub mark: u64,
    /// Highest counter ever used in a term of this node's own.
    pub minted: u64,
    /// What a peer remembered of this node beyond its own mark: votes are forgotten.
    pub behind: Option<Mark>,
    /// The newest document known to be chosen.
    pub chosen: Option<Sealed>,
    /// A first document accepted and not known to be chosen; a node accepts one at most.
    pub init: Option<Sealed>,
    /// Highest term promised for the child of `chosen`.
    pub promised: Option<Term>,
    /// Accepted under the highest term for the child of `chosen`.
    pub accepted: Option<Vote>,
    /// Marks remembered of the other members.
    pub peers: Marks,
}

/// The marks alone: what is stored after a beat.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarksFile {
    version: u32,
    node: NodeId,
    mark: u64,
    peers: Marks,
}

/// The stored bytes cannot be used. The node must not start on them: a guess could fork the ring.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a version of the program that this one does not know.
    #[error("the stored ballot state has version {0}, this program knows {VERSION}")]
    UnknownVersion(u64),
    /// Written by another node: volumes were mixed up.
    #[error("the stored marks belong to node {0}")]
    OtherNode(NodeId),
    /// Not what was written.
    #[error("the stored ballot state is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl AcceptorState {
    /// The state of a node that knows no cluster.
    pub fn blank(node: NodeId) -> Self {
        Self {
            version: VERSION,
            node,
            boot: 0,
            mark: 0,
            minted: 0,
            behind: None,
            chosen: None,
            init: None,
            promised: None,
            accepted: None,
            peers: BTreeMap::new(),
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs with string keys always have a JSON form")
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        check_version(bytes)?;
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The marks alone, a few hundred bytes: enough to store after [`super::Acceptor::beat`] and
    /// after marks came by gossip. Votes and documents need [`Self::encode`].
    pub fn encode_marks(&self) -> Vec<u8> {
        let (version, node, mark, peers) = (VERSION, self.node, self.mark, self.peers.clone());
        serde_json::to_vec(&MarksFile { version, node, mark, peers })
            .expect("plain structs with string keys always have a JSON form")
    }

    /// Adds what [`Self::encode_marks`] wrote, before the start: the larger of each mark holds.
    pub fn add_marks(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        check_version(bytes)?;
        let file: MarksFile = serde_json::from_slice(bytes)?;
        if file.node != self.node {
            return Err(StateError::OtherNode(file.node));
        }
        self.mark = self.mark.max(file.mark);
        let members = self.chosen.as_ref().map(|document| &document.members);
        for (peer, mark) in file.peers {
            if members.is_some_and(|members| members.contains_key(&peer)) {
                self.peers.entry(peer).or_default().raise_to(mark);
            }
        }
        Ok(())
    }

    /// Own mark as peers are told it.
    pub fn own_mark(&self) -> Mark {
        Mark { count: self.mark, epoch: self.epoch() }
    }

    /// Epoch of the newest chosen document; 0 without one.
    pub fn epoch(&self) -> u64 {
        self.chosen.as_ref().map_or(0, |document| document.epoch)
    }
}

fn check_version(bytes: &[u8]) -> Result<(), StateError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } = serde_json::from_slice(bytes)?;
    if version == u64::from(VERSION) { Ok(()) } else { Err(StateError::UnknownVersion(version)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, node};

    #[test]
    fn the_stored_form_comes_back() {
        let mut state = AcceptorState::blank(node(0));
        let document = Sealed::new(cluster(3, 3));
        let term = Term { counter: 4, node: node(1) };
        state.accepted = Some(Vote { term, document: Sealed::new(document.child()) });
        state.chosen = Some(document);
        state.promised = Some(term);
        state.peers.insert(node(2), Mark { count: 9, epoch: 1 });
        assert_eq!(AcceptorState::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn unknown_versions_and_damage_are_refused() {
        let state = AcceptorState { version: 2, ..AcceptorState::blank(node(0)) };
        let unknown = AcceptorState::decode(&state.encode());
        assert!(matches!(unknown, Err(StateError::UnknownVersion(2))));
        let bytes = AcceptorState::blank(node(0)).encode();
        let cut = AcceptorState::decode(&bytes[..bytes.len() - 1]);
        assert!(matches!(cut, Err(StateError::Damaged(_))));
    }

    #[test]
    fn the_larger_mark_of_the_two_files_holds() {
        let mark = |count| Mark { count, epoch: 1 };
        let mut state = AcceptorState::blank(node(0));
        state.chosen = Some(Sealed::new(cluster(3, 3)));
        state.mark = 5;
        state.peers = Marks::from([(node(1), mark(7)), (node(2), mark(1))]);
        let mut later = state.clone();
        later.mark = 6;
        later.peers = Marks::from([(node(1), mark(6)), (node(2), mark(2)), (node(9), mark(1))]);
        state.add_marks(&later.encode_marks()).unwrap();
        assert_eq!(state.mark, 6);
        assert_eq!(state.peers, Marks::from([(node(1), mark(7)), (node(2), mark(2))]));
        state.add_marks(&AcceptorState { mark: 1, ..state.clone() }.encode_marks()).unwrap();
        assert_eq!(state.mark, 6);
        let other = AcceptorState::blank(node(1)).encode_marks();
        assert!(matches!(state.add_marks(&other), Err(StateError::OtherNode(_))));
    }
}
