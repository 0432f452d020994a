//! Where a slot stands, who counts there, and which arrows lead on.

use serde::{Deserialize, Serialize};

/// A node in one tenure of a partition. Two tenures of one node are two holders: what one of them
/// stored or said is worth nothing for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Holder<N> {
    /// The member.
    pub node: N,
    /// Its tenure: the epoch in which it gained the partition.
    pub since: u64,
}

/// Where a slot stands between two holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Place<N> {
    /// One holder, nothing moves.
    Stable(Holder<N>),
    /// Step 1 of a move: both store writes, the old one is read, its snapshot goes to the new one.
    Copying {
        /// C, the holder before.
        from: Holder<N>,
        /// D, the holder after.
        to: Holder<N>,
    },
    /// Step 2 of a move: both store writes, the new one is read.
    Switched {
        /// C, the holder before.
        from: Holder<N>,
        /// D, the holder after.
        to: Holder<N>,
    },
    /// Step 1 of a replace or rebuild: the slot counts for nothing while the others are fenced.
    /// The new holder already merges from those that are.
    Fencing {
        /// To whom a cancel returns; none when there is no way back: a rebuild, or a step 2 before.
        back: Option<Holder<N>>,
        /// D, the holder after. In a rebuild the same node in a new tenure.
        to: Holder<N>,
    },
    /// Step 2 of a replace or rebuild: the new holder stores writes and merges, and is not read.
    Merging {
        /// D, the holder after.
        to: Holder<N>,
    },
}

/// One step of a slot to its next place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arrow {
    /// A stable slot begins to move.
    Begin,
    /// From step 1 to step 2 of a move.
    Switch,
    /// From step 2 of a move or a replace to the new holder alone.
    Finish,
    /// From step 1 back to the holder before.
    Cancel,
    /// A holder is given up (dead, or its copy is no good) and another tenure takes its place.
    Replace,
    /// From step 1 to step 2 of a replace.
    Admit,
}

impl<N: Copy + Eq> Place<N> {
    /// Who must store a write so that the slot counts as one acknowledgement: all of these, and
    /// nobody means that the slot cannot count.
    pub fn writers(&self) -> impl Iterator<Item = Holder<N>> + use<N> {
        let both = match *self {
            Self::Stable(holder) => [Some(holder), None],
            Self::Copying { from, to } | Self::Switched { from, to } => [Some(from), Some(to)],
            Self::Fencing { .. } => [None, None],
            Self::Merging { to } => [Some(to), None],
        };
        both.into_iter().flatten()
    }

    /// Who answers a read for the slot, if anybody does.
    pub fn reader(&self) -> Option<Holder<N>> {
        match *self {
            Self::Stable(holder) => Some(holder),
            Self::Copying { from, .. } => Some(from),
            Self::Switched { to, .. } => Some(to),
            Self::Fencing { .. } | Self::Merging { .. } => None,
        }
    }

    /// Whether the slot counts as one acknowledgement, given which holders stored the write.
    ///
    /// An acknowledgement is kept as the [`Holder`] that gave it. It goes on counting under a newer
    /// version of the entry exactly where that version names the same node in the same tenure.
    pub fn acknowledged(&self, stored: impl Fn(Holder<N>) -> bool) -> bool {
        let mut asked = self.writers().peekable();
        asked.peek().is_some() && asked.all(stored)
    }

    /// Whether the slot has taken a stand-in copy over, so that (all slots of one version having
    /// done so) the copy may be deleted. In `Fencing` nobody can take it over: the copy waits.
    pub fn handed_back(&self, stored: impl Fn(Holder<N>) -> bool) -> bool {
        self.acknowledged(stored)
    }

    /// The tenure in which this slot names the node, if it does: data of another tenure is set
    /// aside. A holder to whom a cancel may return is still named, and keeps what it has.
    pub fn tenure(&self, node: N) -> Option<u64> {
        self.holders().find(|holder| holder.node == node).map(|holder| holder.since)
    }

    /// Every holder that the slot names: none of these nodes may leave the members.
    pub fn holders(&self) -> impl Iterator<Item = Holder<N>> + use<N> {
        let (back, coming) = match *self {
            Self::Fencing { back, to } => (back, Some(to)),
            _ => (None, None),
        };
        self.writers().chain(back).chain(coming)
    }

    /// Whether the slot is between two holders.
    pub fn is_moving(&self) -> bool {
        !matches!(self, Self::Stable(_))
    }

    /// The holder that comes in, while the slot moves.
    pub fn coming(&self) -> Option<Holder<N>> {
        match *self {
            Self::Stable(_) => None,
            Self::Copying { to, .. }
            | Self::Switched { to, .. }
            | Self::Fencing { to, .. }
            | Self::Merging { to } => Some(to),
        }
    }

    /// Begin: the place after, if the slot is stable and `to` is another node. `epoch` is that of
    /// the document that says so, and becomes the tenure of `to`.
    pub fn begin(&self, to: N, epoch: u64) -> Option<Self> {
        match *self {
            Self::Stable(from) if from.node != to => {
                Some(Self::Copying { from, to: Holder { node: to, since: epoch } })
            }
            _ => None,
        }
    }

    /// The arrow that leads forward from here, and the place after it.
    pub fn forward(&self) -> Option<(Arrow, Self)> {
        match *self {
            Self::Stable(_) => None,
            Self::Copying { from, to } => Some((Arrow::Switch, Self::Switched { from, to })),
            Self::Fencing { to, .. } => Some((Arrow::Admit, Self::Merging { to })),
            Self::Switched { to, .. } | Self::Merging { to } => {
                Some((Arrow::Finish, Self::Stable(to)))
            }
        }
    }

    /// Cancel: the place after, if step 2 has not begun and there is a holder to return to.
    pub fn cancel(&self) -> Option<Self> {
        match *self {
            Self::Copying { from, .. } | Self::Fencing { back: Some(from), .. } => {
                Some(Self::Stable(from))
            }
            _ => None,
        }
    }

    /// Replace: the slot is given to `to` in the tenure `epoch`, whoever held it and whatever step
    /// it was in. With `to` the node that holds it now this is a rebuild.
    ///
    /// There is a way back only to a holder that counted until now and that is not the one rebuilt.
    /// After a step 2 there is none: returning to D would jump over the fence of C.
    pub fn replace(&self, to: N, epoch: u64) -> Self {
        let back = match *self {
            Self::Stable(from) | Self::Copying { from, .. } => Some(from),
            Self::Fencing { back, .. } => back,
            Self::Switched { .. } | Self::Merging { .. } => None,
        };
        Self::Fencing {
            back: back.filter(|holder| holder.node != to),
            to: Holder { node: to, since: epoch },
        }
    }

    /// Which arrow leads from here to `after` in the document of `epoch`; none if no arrow does.
    pub fn arrow_to(&self, after: &Self, epoch: u64) -> Option<Arrow> {
        if let Some((arrow, _)) = self.forward().filter(|(_, place)| place == after) {
            return Some(arrow);
        }
        if self.cancel().is_some_and(|place| place == *after) {
            return Some(Arrow::Cancel);
        }
        match *after {
            Self::Copying { to, .. } if self.begin(to.node, epoch) == Some(*after) => {
                Some(Arrow::Begin)
            }
            Self::Fencing { to, .. } if self.replace(to.node, epoch) == *after => {
                Some(Arrow::Replace)
            }
            _ => None,
        }
    }
}
