//! What must be shown before an arrow: fences and copies, each naming node, version and tenure.
//!
//! A proof is a statement of the node that it is about, made only once what it says is fsynced. The
//! acceptors of a document judge that the child names enough of them ([`judge`]); whether they are
//! true only their makers know.

use serde::{Deserialize, Serialize};

use super::place::{Arrow, Holder, Place};
use crate::quorum::Level;

/// A statement that an arrow rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Proof<N> {
    /// `node` persisted this version of the entry and refuses requests under older ones.
    Fenced {
        /// Who says so.
        node: N,
        /// The version of the entry that it persisted.
        version: u64,
    },
    /// `to` holds a snapshot of all that `source` held when `source` was fenced at `fenced`, and
    /// all of the partition at `to` is flushed and fsynced.
    Streamed {
        /// Who says so, in which tenure.
        to: Holder<N>,
        /// Whose snapshot it was.
        source: Holder<N>,
        /// The version at which the source was fenced before the snapshot.
        fenced: u64,
    },
    /// `to` merged all that `source` held after `source` was fenced at `fenced`, and all of the
    /// partition at `to` is flushed and fsynced.
    Merged {
        /// Who says so, in which tenure.
        to: Holder<N>,
        /// From whom it merged.
        source: Holder<N>,
        /// The version at which the source was fenced before it was read.
        fenced: u64,
    },
}

/// The replicas that one tally counts over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<D> {
    /// The slots of the moving slot's data center.
    Datacenter(D),
    /// All slots.
    All,
}

/// Why an arrow may not be taken. Nothing was changed; it may be tried again with more proofs,
/// except after `NoArrow`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing<N: std::fmt::Debug, D: std::fmt::Debug> {
    /// No arrow leads from the place before to the place after.
    #[error("no arrow leads there")]
    NoArrow,
    /// Another slot of the partition moves: one at a time.
    #[error("another slot of the partition moves")]
    OtherSlotMoves,
    /// The new holder is named by another slot already.
    #[error("the new holder {0:?} holds another slot of the partition")]
    HoldsAnother(N),
    /// The new holder has not shown that it holds the snapshot.
    #[error("{to:?} has not installed a snapshot of {from:?} fenced at {at}")]
    Stream {
        /// C.
        from: Holder<N>,
        /// D.
        to: Holder<N>,
        /// The least version of the fence.
        at: u64,
    },
    /// Neither the old holder nor enough others are fenced.
    #[error("neither {node:?} nor enough others are fenced at {at}")]
    Fence {
        /// C.
        node: N,
        /// The least version of the fence.
        at: u64,
    },
    /// Too few of the others are fenced.
    #[error("{have} of {need} others are fenced at {at} ({scope:?})")]
    Fences {
        /// The tally that is short.
        scope: Scope<D>,
        /// The least version of the fence.
        at: u64,
        /// How many are.
        have: u32,
        /// How many must be.
        need: u32,
    },
    /// The new holder merged from too few of the others.
    #[error("{to:?} merged from {have} of {need} others fenced at its tenure ({scope:?})")]
    Merges {
        /// D.
        to: Holder<N>,
        /// The tally that is short.
        scope: Scope<D>,
        /// From how many it did.
        have: u32,
        /// From how many it must.
        need: u32,
    },
}

/// The other replicas that must be fenced, or merged from, so that a majority of `replicas` cannot
/// be reached past them: ⌈N/2⌉, which with a majority makes N + 1.
pub const fn barrier(replicas: u32) -> u32 {
    replicas + 1 - Level::majority(replicas)
}

/// The slots of one partition in one version of its entry, one of which moves or is to move.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a, N, D> {
    /// Version of the entry: the epoch that last changed it.
    pub version: u64,
    /// Each slot with its data center.
    pub slots: &'a [(D, Place<N>)],
    /// Index of the slot in question.
    pub moving: usize,
}

impl<N: Copy + Eq, D: Eq> Slots<'_, N, D> {
    /// The slot in question.
    pub fn place(&self) -> &Place<N> {
        &self.slots[self.moving].1
    }

    fn datacenter(&self) -> &D {
        &self.slots[self.moving].0
    }

    /// The holders of the other slots with their data centers: the survivors of a replace.
    pub fn others(&self) -> impl Iterator<Item = (&D, Holder<N>)> {
        let other = self.slots.iter().enumerate().filter(|(at, _)| *at != self.moving);
        other.filter_map(|(_, (dc, place))| place.reader().map(|holder| (dc, holder)))
    }

    /// The first tally in which fewer of the others are `counted` than its barrier, with how many
    /// there are and must be.
    ///
    /// A data center with one replica has no others: what only that replica acknowledged is gone
    /// with it whatever is done, so that its own tally bars nothing. A partition with one replica
    /// in all has nobody to be filled from and is never replaced or rebuilt.
    pub fn short(&self, counted: impl Fn(Holder<N>) -> bool) -> Option<(Scope<D>, u32, u32)>
    where
        D: Clone,
    {
        let here = self.datacenter();
        let near = self.slots.iter().filter(|(dc, _)| dc == here).count() as u32;
        let (mut have, mut have_near) = (0, 0);
        for (dc, _) in self.others().filter(|(_, holder)| counted(*holder)) {
            have += 1;
            have_near += u32::from(dc == here);
        }
        let need = barrier(self.slots.len() as u32);
        let need_near = if near > 1 { barrier(near) } else { 0 };
        if have_near < need_near {
            return Some((Scope::Datacenter(here.clone()), have_near, need_near));
        }
        (have < need).then_some((Scope::All, have, need))
    }
}

/// What still has to be shown before the arrow that leads forward from where the slot stands;
/// `Ok` with that arrow when nothing is missing.
pub fn missing<N, D>(slots: &Slots<'_, N, D>, proofs: &[Proof<N>]) -> Result<Arrow, Missing<N, D>>
where
    N: Copy + Eq + std::fmt::Debug,
    D: Clone + Eq + std::fmt::Debug,
{
    let (arrow, _) = slots.place().forward().ok_or(Missing::NoArrow)?;
    match *slots.place() {
        Place::Stable(_) => return Err(Missing::NoArrow),
        Place::Copying { from, to } => streamed(proofs, from, to)?,
        Place::Switched { from, .. } => {
            let at = slots.version;
            if !fenced(proofs, from.node, at)
                && slots.short(|holder| fenced(proofs, holder.node, at)).is_some()
            {
                return Err(Missing::Fence { node: from.node, at });
            }
        }
        Place::Fencing { to, .. } => all_fenced(slots, proofs, to.since)?,
        Place::Merging { to } => {
            all_fenced(slots, proofs, slots.version)?;
            if let Some((scope, have, need)) = slots.short(|holder| merged(proofs, holder, to)) {
                return Err(Missing::Merges { to, scope, have, need });
            }
        }
    }
    Ok(arrow)
}

fn fenced<N: Copy + Eq>(proofs: &[Proof<N>], who: N, at: u64) -> bool {
    proofs.iter().any(
        |proof| matches!(*proof, Proof::Fenced { node, version } if node == who && version >= at),
    )
}

fn merged<N: Copy + Eq>(proofs: &[Proof<N>], from: Holder<N>, into: Holder<N>) -> bool {
    proofs.iter().any(|proof| {
        matches!(*proof, Proof::Merged { to, source, fenced }
            if to == into && source == from && fenced >= into.since)
    })
}

fn streamed<N, D>(
    proofs: &[Proof<N>],
    from: Holder<N>,
    into: Holder<N>,
) -> Result<(), Missing<N, D>>
where
    N: Copy + Eq + std::fmt::Debug,
    D: std::fmt::Debug,
{
    let shown = proofs.iter().any(|proof| {
        matches!(*proof, Proof::Streamed { to, source, fenced }
            if to == into && source == from && fenced >= into.since)
    });
    if shown { Ok(()) } else { Err(Missing::Stream { from, to: into, at: into.since }) }
}

fn all_fenced<N, D>(
    slots: &Slots<'_, N, D>,
    proofs: &[Proof<N>],
    at: u64,
) -> Result<(), Missing<N, D>>
where
    N: Copy + Eq + std::fmt::Debug,
    D: Clone + Eq + std::fmt::Debug,
{
    match slots.short(|holder| fenced(proofs, holder.node, at)) {
        Some((scope, have, need)) => Err(Missing::Fences { scope, at, have, need }),
        None => Ok(()),
    }
}

/// May the slot in question stand at `after` in the document of `epoch`? The answer names the
/// arrow. `slots` is the entry before.
pub fn judge<N, D>(
    slots: &Slots<'_, N, D>,
    after: &Place<N>,
    epoch: u64,
    proofs: &[Proof<N>],
) -> Result<Arrow, Missing<N, D>>
where
    N: Copy + Eq + std::fmt::Debug,
    D: Clone + Eq + std::fmt::Debug,
{
    let arrow = slots.place().arrow_to(after, epoch).ok_or(Missing::NoArrow)?;
    let mut others = slots.slots.iter().enumerate().filter(|(at, _)| *at != slots.moving);
    if others.any(|(_, (_, place))| place.is_moving()) {
        return Err(Missing::OtherSlotMoves);
    }
    let comes = after.coming().filter(|_| matches!(arrow, Arrow::Begin | Arrow::Replace));
    if let Some(to) = comes.filter(|to| slots.others().any(|(_, other)| other.node == to.node)) {
        return Err(Missing::HoldsAnother(to.node));
    }
    match arrow {
        Arrow::Begin | Arrow::Cancel | Arrow::Replace => Ok(arrow),
        Arrow::Switch | Arrow::Finish | Arrow::Admit => missing(slots, proofs),
    }
}

/// Whether a move is given up because the holder of another slot is suspected: in step 1 the slot
/// needs both C and D, so that with another slot gone a write would wait for D. The driver asks
/// this; a replace goes on, since its slot has nobody to fall back on.
pub fn cancels_on_suspicion<N: Copy + Eq, D: Eq>(
    slots: &Slots<'_, N, D>,
    suspected: impl Fn(N) -> bool,
) -> bool {
    matches!(slots.place(), Place::Copying { .. })
        && slots.others().any(|(_, holder)| suspected(holder.node))
}
