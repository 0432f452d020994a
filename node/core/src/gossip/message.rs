//! What nodes send each other: lists, questions for profiles, and answers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::gossip::profile::{Profile, Tag};
use crate::id::NodeId;
use crate::reclaim::Held;
use crate::ring::{DocumentHash, Sealed};

/// A version of the cluster document, by number and hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DocumentId {
    /// Its epoch.
    pub epoch: u64,
    /// SHA-256 of its canonical JSON.
    pub hash: [u8; 32],
}

impl DocumentId {
    /// The name of a document.
    pub fn of(document: &Sealed) -> Self {
        Self { epoch: document.epoch, hash: document.hash().0 }
    }

    /// Its hash as the ring knows it.
    pub fn document_hash(&self) -> DocumentHash {
        DocumentHash(self.hash)
    }
}

impl std::fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.hash;
        write!(f, "{}:{a:02x}{b:02x}{c:02x}{d:02x}", self.epoch)
    }
}

/// Why a member serves no data though it runs, as it says itself. What passes within seconds is not told,
/// nor what keeps a node from being heard at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NotServing {
    /// Its volume was put back to an older state or lost its data: what it holds counts as nothing until
    /// it was made anew.
    NeedsRebuild,
    /// The newest document that it knows does not name it.
    NotMember,
}

/// What many members have in common at a time: sent once per list, not once per row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// The document that the member uses, if it has one.
    pub document: Option<DocumentId>,
    /// The generation (G of reclaim) that it has reached.
    pub generation: u64,
    /// Until when it held stand-in copies, for reclaim.
    pub held: Held,
    /// Why it serves no data, if so.
    pub not_serving: Option<NotServing>,
    /// It keeps stand-in copies that were counted and that their owners do not all have yet.
    pub keeps_copies: bool,
}

/// What changes every interval about a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// How often it answered a suspicion in this start.
    pub refutation: u32,
    /// Raised every interval.
    pub counter: u64,
    /// The number that it fsyncs every second and with every vote.
    pub mark: u64,
    /// Which document and generation it is at.
    pub standing: Standing,
    /// It is stopping in good order.
    pub leaving: bool,
}

impl Pulse {
    /// What decides between two pulses of one process.
    pub fn age(&self) -> (u32, u64) {
        (self.refutation, self.counter)
    }
}

/// A member in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What changes rarely.
    pub profile: Arc<Profile>,
    /// What changes every interval.
    pub pulse: Pulse,
}

/// One message; carries its sender in full, so that one message is enough to become known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sends.
    pub sender: Entry,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The member list, or a part of it.
    List {
        /// What part of it.
        part: Part,
        /// The standings that the rows refer to by position.
        standings: Vec<Standing>,
        /// Packed rows in the order of their tags.
        rows: Bytes,
    },
    /// The receiver's list named profiles that the sender does not know.
    Want {
        /// Their tags.
        tags: Vec<Tag>,
    },
    /// The profiles that were asked for.
    Profiles {
        /// Each in full.
        entries: Vec<Entry>,
    },
}

/// What part of its sender's list a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// All of it: what the receiver knows besides, the sender does not know.
    All,
    /// As much as fits into a message.
    Some,
    /// What the sender of another list did not know, or knew less of. Not answered again.
    Answer,
    /// Members of whom the sender hears nothing: the receiver answers with what it knows besides,
    /// asks those of whom it knows no more, and tells what it hears.
    Probe,
    /// The receiver's own row: it answers at once with a larger counter.
    Ping,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A known member; its address is [`crate::gossip::Gossip::peer_address`].
    Node(NodeId),
    /// A peer address, whoever answers there: a seed, or a process that the list does not lead to.
    Address(String),
}

/// A message to be sent. It may be lost, doubled or late without harm.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// Where it goes.
    pub to: Target,
    /// What it says.
    pub message: Message,
}

impl Message {
    /// An upper bound of its encoded size in bytes.
    pub fn size_bound(&self) -> usize {
        // A pulse and a standing have at most 175 and 151 bytes: usually 9 of them are what is held.
        let entry = |entry: &Entry| entry.profile.size_bound() + 175;
        let body = match &self.body {
            Body::List { standings, rows, .. } => 16 + standings.len() * 151 + rows.len(),
            Body::Want { tags } => 8 + tags.len() * 6,
            Body::Profiles { entries } => 8 + entries.iter().map(entry).sum::<usize>(),
        };
        entry(&self.sender) + body
    }
}
