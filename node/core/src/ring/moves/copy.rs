//! What a node may do with its own copy of a partition: keep it, answer from it, give it to others.
//!
//! Everything is judged under the version of the entry that the node has persisted, which is the
//! version of the request it answers: an older request is refused, a newer one first makes the node
//! fetch and persist the newer document ([`admit`]). The check and what follows from it hold the
//! partition's gate shared; persisting a newer version takes it exclusively.

use super::place::{Holder, Place};

/// What to do with a request, by its version of the partition's entry and the node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Both know the same version.
    Serve,
    /// The request knows a newer one: fetch and persist that document, then judge again.
    AdoptFirst,
    /// The request knows an older one: refuse, not applied, and return the newer entry.
    Refuse,
}

/// Judges a request made under `asked` by a node that has persisted `own`.
pub fn admit(own: u64, asked: u64) -> Admission {
    match asked.cmp(&own) {
        std::cmp::Ordering::Less => Admission::Refuse,
        std::cmp::Ordering::Equal => Admission::Serve,
        std::cmp::Ordering::Greater => Admission::AdoptFirst,
    }
}

/// How much of what the node once stored and said is still known to its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// All of it.
    Whole,
    /// Some data may be gone, or may be what the others have erased; what the node said stands. A
    /// quarantined table, or two generations missed. It takes writes: what it is given from now on
    /// it keeps.
    Incomplete,
    /// What the node said may be forgotten too, its fences among it: a volume that was rolled back.
    /// It takes nothing and answers nothing here.
    Forgotten,
}

/// A node's copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalCopy<N> {
    /// The node, and the tenure in which it collected this data.
    pub holder: Holder<N>,
    /// What may have been lost in this tenure. Only a new tenure makes it better.
    pub condition: Condition,
}

/// What a node does with its copy once it persists an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<N> {
    /// The slot names the node in the tenure of the copy: go on.
    Keep,
    /// A new tenure begins: set the data aside, never serve, merge or stream it, and begin empty.
    Begin(Holder<N>),
    /// The slot names the node in a tenure that began before and of which the volume knows nothing:
    /// it was rolled back. Set the data aside, be `Forgotten` in this tenure, ask for a rebuild.
    Lost(Holder<N>),
    /// The slot does not name the node: nothing is served or removed on that account.
    Retired,
}

/// What becomes of the copy (none: the node has none of this partition) when the node persists
/// `version` of an entry in which its slot stands at `place`.
///
/// A tenure begins in a step 1, or in the step 2 of a replace if the node was slow, or in the first
/// document. Anywhere else the node once began it, or the slot could not have come so far.
///
/// `floor` is 0 until the node learns that its volume was rolled back, and from then on the highest
/// epoch, accepted or chosen, of which it heard when it recovered its votes: a tenure not above it
/// may be one of the forgotten past, in which the node already said that it holds everything.
pub fn fate<N: Copy + Eq>(
    copy: Option<LocalCopy<N>>,
    node: N,
    place: &Place<N>,
    version: u64,
    floor: u64,
) -> Fate<N> {
    let Some(since) = place.tenure(node) else { return Fate::Retired };
    let holder = Holder { node, since };
    if copy.is_some_and(|copy| copy.holder == holder) {
        return Fate::Keep;
    }
    let may_begin = match *place {
        Place::Stable(_) => version == since,
        Place::Switched { .. } => false,
        Place::Copying { to, .. } | Place::Fencing { to, .. } | Place::Merging { to } => {
            to == holder
        }
    };
    if may_begin && since > floor { Fate::Begin(holder) } else { Fate::Lost(holder) }
}

impl<N: Copy + Eq> LocalCopy<N> {
    /// As whom the node acknowledges a write to the slot at `place`; none if it takes none.
    pub fn acknowledges(&self, place: &Place<N>) -> Option<Holder<N>> {
        let named = place.writers().find(|holder| *holder == self.holder);
        named.filter(|_| self.condition != Condition::Forgotten)
    }

    /// Whether the node may answer reads for the slot.
    pub fn answers_reads(&self, place: &Place<N>) -> bool {
        self.is_whole() && place.reader() == Some(self.holder)
    }

    /// Whether a snapshot for the new holder may be taken of this copy, the node having persisted
    /// `version` of the entry in which the slot stands at `place`: only after the fence of step 1.
    pub fn may_be_streamed(&self, place: &Place<N>, version: u64) -> bool {
        match *place {
            Place::Copying { from, to } => {
                self.is_whole() && from == self.holder && version >= to.since
            }
            _ => false,
        }
    }

    /// Whether the new holder of the slot at `place` may merge from this copy of *another* slot's
    /// holder, which has persisted `version` of the entry: only after its fence at the tenure.
    pub fn may_be_merged(&self, place: &Place<N>, version: u64) -> bool {
        match *place {
            Place::Fencing { to, .. } | Place::Merging { to } => {
                self.is_whole() && to.node != self.holder.node && version >= to.since
            }
            _ => false,
        }
    }

    /// Whether the node, coming in at `place`, may vouch for what it has streamed or merged.
    pub fn vouches(&self, place: &Place<N>) -> bool {
        self.is_whole() && place.coming() == Some(self.holder)
    }

    fn is_whole(&self) -> bool {
        self.condition == Condition::Whole
    }
}
