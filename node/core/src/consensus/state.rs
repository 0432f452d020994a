//! What a member must not forget about ballots: one value, fsynced as a whole.

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

/// The stored bytes cannot be used. The node must not start on them: a guess could fork the ring.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a version of the program that this one does not know.
    #[error("the stored ballot state has version {0}, this program knows {VERSION}")]
    UnknownVersion(u64),
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
        let any: serde_json::Value = serde_json::from_slice(bytes)?;
        let version = any.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version != u64::from(VERSION) {
            return Err(StateError::UnknownVersion(version));
        }
        Ok(serde_json::from_slice(bytes)?)
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
}
