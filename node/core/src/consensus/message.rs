//! What members say to each other about documents.
//!
//! Bounded: a message holds at most two documents (16 MiB each at the very most, usually some
//! 100 KB) and one mark per member. `epoch` is always that of the decree: the child's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::ring::{DocumentHash, Sealed};

/// Number of a ballot: higher counters win, node ids break ties and keep proposers apart. It
/// belongs to the ballot, never to the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term {
    /// Raised above everything heard of.
    pub counter: u64,
    /// The proposer.
    pub node: NodeId,
}

/// A document accepted under a term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The ballot.
    pub term: Term,
    /// What was accepted. Not known to be chosen: never to be used or spread.
    pub document: Sealed,
}

/// How far a member has come: fsynced before it is told to anybody, remembered by peers.
///
/// The epoch stands beside the count because a member that forgot votes has to know for which
/// epochs it may have voted: catching up for the decree of an older epoch says nothing about votes
/// cast in a later one, with other members.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Mark {
    /// Raised by every promise and acceptance, and every second.
    pub count: u64,
    /// The newest document that the member knew then.
    pub epoch: u64,
}

impl Mark {
    /// Takes the larger of each part.
    pub fn raise_to(&mut self, other: Self) -> bool {
        let raised =
            Self { count: self.count.max(other.count), epoch: self.epoch.max(other.epoch) };
        std::mem::replace(self, raised) != raised
    }
}

/// Marks of several members.
pub type Marks = BTreeMap<NodeId, Mark>;

/// One message about documents.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// First phase: promise to accept nothing below this term.
    Prepare {
        /// Of the decree.
        epoch: u64,
        /// Hash of the document of the epoch before.
        parent: DocumentHash,
        /// The ballot; its node is the sender.
        term: Term,
        /// What the sender will propose if nothing was accepted before; judged before promising.
        /// None while recovering.
        candidate: Option<Sealed>,
    },
    /// Promised, with what was accepted before.
    Promise {
        /// Of the decree.
        epoch: u64,
        /// The ballot.
        term: Term,
        /// Accepted under the highest term so far.
        accepted: Option<Vote>,
        /// The promising member's mark, this promise included.
        mark: Mark,
    },
    /// Second phase: accept this document.
    Accept {
        /// The ballot; its node is the sender.
        term: Term,
        /// The decree.
        document: Sealed,
        /// Marks of all who promised; acceptors keep them.
        marks: Marks,
    },
    /// Accepted.
    Accepted {
        /// Of the decree.
        epoch: u64,
        /// The ballot.
        term: Term,
        /// The accepting member's mark, this acceptance included.
        mark: Mark,
    },
    /// Neither promised nor accepted.
    Refuse {
        /// Of the decree.
        epoch: u64,
        /// The ballot.
        term: Term,
        /// Why.
        refusal: Refusal,
    },
    /// This document is chosen: use it, spread it.
    Chosen {
        /// The document.
        document: Sealed,
        /// Marks of those who voted for it, as far as the sender heard them.
        marks: Marks,
    },
    /// Form a cluster with this document of epoch 1.
    Init {
        /// Names the receiver.
        document: Sealed,
    },
    /// Accepted that very first document.
    InitAccepted {
        /// Which.
        hash: DocumentHash,
    },
    /// Another first document was accepted before, or the cluster is formed: this is what the
    /// sender holds.
    InitHeld {
        /// The document.
        document: Sealed,
        /// Is it in force (any epoch), or merely accepted?
        chosen: bool,
    },
    /// The first document is not usable here.
    InitRefused {
        /// Stable word.
        code: String,
        /// For people.
        detail: String,
    },
    /// What mark do you remember of me?
    MarkQuery {
        /// The sender's mark now.
        mark: Mark,
    },
    /// Answer to that; given at any time, voting or not.
    MarkAnswer {
        /// What the sender remembers of the receiver.
        remembered: Option<Mark>,
        /// The sender's own mark.
        mark: Mark,
        /// The sender's newest document, where it is newer than the asker's.
        newest: Option<Sealed>,
    },
}

/// Why a member neither promised nor accepted. It changed nothing, except where a term is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The decree was made: this is the newest document. The proposal is stale for good.
    Newer(Sealed),
    /// The refusing member knows only the document of this epoch (0: none). Send it the parent.
    Behind(u64),
    /// Promised to another, higher ballot. A higher term may get through.
    Promised(Term),
    /// It is starting or recovering and must not vote yet. Asking later helps.
    NotReady,
    /// It, or the proposer, is no member of the epoch before. The same member refuses again.
    NotMember,
    /// The child is not a legal step from its parent. It is refused for ever.
    Illegal {
        /// Stable word, of `IllegalChange::code`.
        code: String,
        /// For people.
        detail: String,
    },
    /// It holds another document under the parent's epoch: the ring is forked, or the sender is of
    /// another cluster. Nothing helps but a person.
    Fork(DocumentHash),
}
