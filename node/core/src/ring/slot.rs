//! One copy of one partition in the document, and where it stands between two nodes.
//!
//! The rules of a slot that changes hands (who counts, which arrow leads where, what each needs) are
//! `super::moves`, over a [`Place`]; here is how the document writes a place down. The owner is the
//! node that holds the copy: the one that gives it (C), or the one whose copy is made anew.
//!
//! Old documents know only `stable`; a member that does not know a state refuses the document that
//! uses it, so every member runs a version that knows moves before the first one is planned.

use serde::{Deserialize, Serialize};

use super::moves::{Holder, Place};
use crate::id::NodeId;

/// One copy of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slot {
    /// The member that holds the copy; while it changes hands, the one that gives it or lost it.
    pub owner: NodeId,
    /// The owner's tenure: the epoch in which it gained the partition.
    pub since: u64,
    /// Where the slot stands between two owners.
    pub state: SlotState,
}

/// Where a slot stands between two owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SlotState {
    /// It has one owner and nothing moves.
    Stable,
    /// Move, step 1: both store writes, the owner answers reads and streams to the successor.
    Copying(Successor),
    /// Move, step 2: both store writes, the successor answers reads.
    Switched(Successor),
    /// Replace, step 1: the slot counts nothing while the survivors are fenced. A cancel returns it
    /// to its owner.
    Fencing(Successor),
    /// As `Fencing`, with no way back: a rebuild, or a step 2 had begun before.
    FencingOnly(Successor),
    /// Replace, step 2: the successor stores writes and merges from the survivors, who answer reads.
    Merging(Successor),
}

/// Who comes to hold a copy (D).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Successor {
    /// Who.
    pub node: NodeId,
    /// The epoch in which its tenure begins: the one whose document first named it here.
    pub since: u64,
}

impl Successor {
    fn of(holder: Holder<NodeId>) -> Self {
        Self { node: holder.node, since: holder.since }
    }

    fn holder(self) -> Holder<NodeId> {
        Holder { node: self.node, since: self.since }
    }
}

impl SlotState {
    /// Who comes next, unless nothing moves.
    pub fn successor(&self) -> Option<Successor> {
        match *self {
            Self::Stable => None,
            Self::Copying(next) | Self::Switched(next) | Self::Fencing(next) => Some(next),
            Self::FencingOnly(next) | Self::Merging(next) => Some(next),
        }
    }

    /// Whether the slot is on its way to a successor.
    pub fn moves(&self) -> bool {
        *self != Self::Stable
    }
}

impl Slot {
    /// A slot that one node holds since an epoch.
    pub fn stable(owner: NodeId, since: u64) -> Self {
        Self { owner, since, state: SlotState::Stable }
    }

    /// Where the slot stands, as the rules see it.
    pub fn place(&self) -> Place<NodeId> {
        let from = Holder { node: self.owner, since: self.since };
        match self.state {
            SlotState::Stable => Place::Stable(from),
            SlotState::Copying(to) => Place::Copying { from, to: to.holder() },
            SlotState::Switched(to) => Place::Switched { from, to: to.holder() },
            SlotState::Fencing(to) => Place::Fencing { back: Some(from), to: to.holder() },
            SlotState::FencingOnly(to) => Place::Fencing { back: None, to: to.holder() },
            SlotState::Merging(to) => Place::Merging { to: to.holder() },
        }
    }

    /// The slot after an arrow has led it to a place. Where that names no owner, it is the node that
    /// held the copy last.
    pub fn at(&self, place: Place<NodeId>) -> Self {
        let next = Successor::of;
        let (owner, state) = match place {
            Place::Stable(holder) => (holder, SlotState::Stable),
            Place::Copying { from, to } => (from, SlotState::Copying(next(to))),
            Place::Switched { from, to } => (from, SlotState::Switched(next(to))),
            Place::Fencing { back: Some(from), to } => (from, SlotState::Fencing(next(to))),
            Place::Fencing { back: None, to } => (self.last(), SlotState::FencingOnly(next(to))),
            Place::Merging { to } => {
                (Holder { node: self.owner, since: self.since }, SlotState::Merging(next(to)))
            }
        };
        Self { owner: owner.node, since: owner.since, state }
    }

    /// Who held the copy last: the one that is given up when it is replaced now.
    pub fn last(&self) -> Holder<NodeId> {
        match self.state {
            SlotState::Switched(to) | SlotState::Merging(to) => to.holder(),
            _ => Holder { node: self.owner, since: self.since },
        }
    }

    /// Who has to store a write so that the slot counts once: all of them, whoever answers reads
    /// first. Nobody: the slot cannot count.
    pub fn writers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let reader = self.reader();
        let rest = self.place().writers().map(|holder| holder.node);
        reader.into_iter().chain(rest.filter(move |node| Some(*node) != reader))
    }

    /// Who answers reads for the slot. Nobody: the slot cannot count.
    pub fn reader(&self) -> Option<NodeId> {
        self.place().reader().map(|holder| holder.node)
    }

    /// Whom the slot names, as owner or as successor; one of them twice in a rebuild.
    pub fn named(&self) -> impl Iterator<Item = NodeId> + use<> {
        std::iter::once(self.owner).chain(self.state.successor().map(|next| next.node))
    }

    /// The tenure under which this node holds data of the slot, or comes to hold it.
    pub fn tenure(&self, node: NodeId) -> Option<u64> {
        self.place().tenure(node)
    }
}
