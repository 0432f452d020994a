//! Forming a cluster: the first document, accepted by all nodes that it names.
//!
//! There are no members before epoch 1 to form a majority of, so everybody named must accept, each
//! blank; two clusters that share a node are then impossible, whatever else goes wrong. A node that
//! accepted one first document answers every other with it. If whoever formed the cluster dies,
//! any node that accepted can finish with the same document. Two first documents that were each
//! accepted somewhere block each other for ever: then a person wipes the nodes of one of them,
//! which hold no data yet.

use std::collections::BTreeSet;

use super::acceptor::Acceptor;
use super::message::{Marks, Message};
use crate::id::NodeId;
use crate::ring::Sealed;

/// One attempt to form a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forming {
    document: Sealed,
    accepted: BTreeSet<NodeId>,
    over: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormingOutcome {
    /// All named accepted: the document is in force.
    Formed(Sealed),
    /// The cluster was formed before, this is its newest document (the same cluster id).
    AlreadyFormed(Sealed),
    /// This node holds another first document, or belongs to another cluster. Nothing is in force
    /// by this attempt; it will fail again until that node is wiped, or that document wins.
    Conflict {
        /// Who.
        node: NodeId,
        /// What it holds.
        holds: Sealed,
    },
    /// This node cannot use the document.
    Refused {
        /// Who.
        node: NodeId,
        /// Stable word.
        code: String,
        /// For people.
        detail: String,
    },
}

impl Forming {
    /// Asks every node that the document names, the own one included.
    pub fn start(document: Sealed) -> (Self, Vec<(NodeId, Message)>) {
        let init = Message::Init { document: document.clone() };
        let send = document.members.keys().map(|node| (*node, init.clone())).collect();
        (Self { document, accepted: BTreeSet::new(), over: false }, send)
    }

    /// Takes up an attempt that somebody left unfinished and this node accepted.
    pub fn resume(acceptor: &Acceptor) -> Option<(Self, Vec<(NodeId, Message)>)> {
        acceptor.state().init.clone().map(Self::start)
    }

    /// The document to be put in force.
    pub fn document(&self) -> &Sealed {
        &self.document
    }

    /// Who has not accepted yet.
    pub fn silent(&self) -> Vec<NodeId> {
        let named = self.document.members.keys();
        named.filter(|node| !self.accepted.contains(*node)).copied().collect()
    }

    /// Feeds an answer: what to send, and how the attempt ended once it did. Nodes that did not
    /// answer are asked again by starting again.
    pub fn receive(
        &mut self,
        from: NodeId,
        message: Message,
    ) -> (Vec<(NodeId, Message)>, Option<FormingOutcome>) {
        if self.over || !self.document.members.contains_key(&from) {
            return (Vec::new(), None);
        }
        match message {
            Message::InitAccepted { hash } if hash == self.document.hash() => {
                self.accepted.insert(from);
            }
            Message::InitHeld { document, chosen: true } if document == self.document => {
                self.accepted.insert(from);
            }
            Message::InitHeld { document, chosen } => {
                self.over = true;
                let same = document.cluster_id == self.document.cluster_id;
                let outcome = if chosen && same {
                    FormingOutcome::AlreadyFormed(document)
                } else {
                    FormingOutcome::Conflict { node: from, holds: document }
                };
                return (Vec::new(), Some(outcome));
            }
            Message::InitRefused { code, detail } => {
                self.over = true;
                return (Vec::new(), Some(FormingOutcome::Refused { node: from, code, detail }));
            }
            _ => {}
        }
        if self.accepted.len() < self.document.members.len() {
            return (Vec::new(), None);
        }
        self.over = true;
        let chosen = Message::Chosen { document: self.document.clone(), marks: Marks::new() };
        let send = self.document.members.keys().map(|node| (*node, chosen.clone())).collect();
        (send, Some(FormingOutcome::Formed(self.document.clone())))
    }
}

#[cfg(test)]
mod tests;
