//! What gossip tells its owner: the members, what happened, and counts for metrics.

use std::collections::BTreeMap;

use crate::gossip::message::{DocumentId, NotServing};
use crate::gossip::profile::{Addresses, Heartbeat, Labels};
use crate::id::{ClusterId, NodeId};
use crate::reclaim::Held;

/// What is believed of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Its heartbeats arrive.
    Alive,
    /// They are late.
    Suspect,
    /// They stopped, or it said that it leaves.
    Down,
}

impl Status {
    /// Whether requests are worth sending there: alive or suspect.
    pub fn is_up(self) -> bool {
        self != Self::Down
    }

    /// Every one.
    pub const ALL: [Self; 3] = [Self::Alive, Self::Suspect, Self::Down];

    /// The word for it in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    /// Its identity.
    pub id: NodeId,
    /// Whether it is this node itself.
    pub me: bool,
    /// Its cluster; nil when it belongs to none yet.
    pub cluster: ClusterId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What it runs on.
    pub labels: Labels,
    /// Version of its program.
    pub version: String,
    /// How far it has come.
    pub heartbeat: Heartbeat,
    /// Drawn at its present start.
    pub nonce: u64,
    /// What is believed of it.
    pub status: Status,
    /// Suspicion.
    pub phi: f64,
    /// When `status` became what it is, on the clock of the caller.
    pub since_ms: u64,
    /// It said that it stops.
    pub leaving: bool,
    /// The mark that its newest heartbeat carried.
    pub mark: u64,
    /// The highest mark that this node remembers of it; above `mark` after a rollback.
    pub remembered_mark: u64,
    /// The document that it uses, if it has one.
    pub document: Option<DocumentId>,
    /// The generation that it has reached.
    pub generation: u64,
    /// Until when it held stand-in copies.
    pub held: Held,
    /// Why it serves no data, if it said so.
    pub not_serving: Option<NotServing>,
    /// It said that it keeps stand-in copies for others.
    pub keeps_copies: bool,
}

impl MemberView {
    /// Whether what it owns counts as a copy: it is up, and did not say that it serves nothing.
    pub fn serves(&self) -> bool {
        self.status.is_up() && self.not_serving.is_none()
    }
}

/// Something that the owner may want to act on or log.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A member became known.
    Joined(NodeId),
    /// What is believed of a member changed.
    Changed {
        /// Who.
        id: NodeId,
        /// What was believed.
        from: Status,
        /// What is believed now.
        to: Status,
    },
    /// A member was started again.
    Restarted {
        /// Who.
        id: NodeId,
        /// Its present start.
        boot: u64,
    },
    /// A member was down for too long and no document names it.
    Forgotten(NodeId),
    /// Two processes claim one node id: a volume was copied. Told once per start of the node.
    Cloned {
        /// The identity that both claim.
        id: NodeId,
        /// Boot and peer address of the one that is listed.
        listed: (u64, String),
        /// Boot and peer address of the other.
        other: (u64, String),
    },
    /// Another process claims this very node's id at this boot or a higher one: either the volume
    /// was copied, or it was put back to an older state and the cluster remembers a later start.
    /// In the second case the owner raises its boot above `boot` and calls
    /// [`crate::gossip::Gossip::adopt_boot`].
    OwnIdInUse {
        /// The boot that it was heard with.
        boot: u64,
        /// The peer address that it was heard with.
        address: String,
    },
    /// The other process that claims this node's id goes on beating, so it is no memory of an
    /// earlier start: two processes run on copies of one volume, and the cluster listens to the
    /// other. Told once; this one must serve nothing.
    Twin {
        /// The boot of the other.
        boot: u64,
        /// The peer address of the other.
        address: String,
    },
    /// A member was heard with a mark below what is remembered of it: its volume was put back to an
    /// older state. Told once per start of the node.
    MarkBehind {
        /// Who.
        id: NodeId,
        /// The mark that it carries.
        heard: u64,
        /// The mark that is remembered.
        remembered: u64,
    },
    /// Somebody believed this node to be suspect or down; the refutation counter was raised.
    Refuted {
        /// Who believed it.
        accuser: NodeId,
        /// The counter now.
        refutation: u32,
    },
    /// A node of another cluster talks to this one. Told once per cluster.
    Foreign {
        /// Its cluster.
        cluster: ClusterId,
        /// The peer address that it gives.
        address: String,
    },
}

/// Why something that was heard was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It belongs to another cluster.
    Foreign,
    /// The message is not from who it says.
    NotItsSender,
    /// A text is too long, or the rows cannot be read.
    Malformed,
    /// The message holds more than its bounds allow.
    Oversize,
    /// The list is full.
    Full,
    /// It comes from a process that another one of the same node id superseded.
    Superseded,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Foreign,
        Self::NotItsSender,
        Self::Malformed,
        Self::Oversize,
        Self::Full,
        Self::Superseded,
    ];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::NotItsSender => "not_its_sender",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::Full => "full",
            Self::Superseded => "superseded",
        }
    }
}

/// An event that a person has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// A node of another cluster talks to this one.
    Foreign,
    /// Two processes claim one node id.
    Cloned,
    /// Another process claims this node's id.
    OwnIdInUse,
    /// It goes on doing so.
    Twin,
    /// The volume of a member was put back to an older state.
    MarkBehind,
}

impl Alarm {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Foreign, Self::Cloned, Self::OwnIdInUse, Self::Twin, Self::MarkBehind];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Cloned => "cloned",
            Self::OwnIdInUse => "own_id_in_use",
            Self::Twin => "twin",
            Self::MarkBehind => "mark_behind",
        }
    }

    /// The alarm that an event is, if it is one.
    pub(super) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Foreign { .. } => Some(Self::Foreign),
            Event::Cloned { .. } => Some(Self::Cloned),
            Event::OwnIdInUse { .. } => Some(Self::OwnIdInUse),
            Event::Twin { .. } => Some(Self::Twin),
            Event::MarkBehind { .. } => Some(Self::MarkBehind),
            Event::Joined(_)
            | Event::Changed { .. }
            | Event::Restarted { .. }
            | Event::Forgotten(_)
            | Event::Refuted { .. } => None,
        }
    }
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages handed out to be sent.
    pub sent: u64,
    /// Messages that came in.
    pub received: u64,
    /// What was not taken, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Questions to members that are silent, for this node or for others.
    pub pings: u64,
    /// Questions to other members about silent ones.
    pub probes: u64,
    /// Signs of life that were passed on to who had asked for them.
    pub relayed: u64,
    /// Answers to those who believed this node to be down.
    pub refutations: u64,
    /// What a person has to look at, by reason.
    pub alarms: BTreeMap<Alarm, u64>,
    /// Changes of belief, by from and to.
    pub changes: BTreeMap<(Status, Status), u64>,
    /// Events dropped because nobody took them away.
    pub events_dropped: u64,
}
