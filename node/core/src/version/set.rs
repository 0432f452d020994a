//! The set under a key, and its merge.
//!
//! Merge keeps a sibling if both sides hold it, or if one side holds it and the other's context
//! does not cover its dot: covered but not held means that the other side saw it superseded. The
//! context of the result is the union. Merge is commutative, associative, idempotent and only ever
//! grows the context, so replicas may exchange sets and deltas in any order, late and repeatedly.
//!
//! Invariant: the context covers the dot of every sibling. It holds by construction; the decoder
//! refuses bytes that break it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::context::Context;
use super::dot::{Actor, Dot};
use super::sibling::Sibling;

/// A causal context and the siblings among its dots that nothing superseded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SiblingSet {
    context: Context,
    siblings: BTreeMap<Dot, Sibling>,
}

impl SiblingSet {
    /// The set of a key that was never written.
    pub const fn new() -> Self {
        Self { context: Context::new(), siblings: BTreeMap::new() }
    }

    /// What one write adds: the context its client had seen plus the new dot, and one sibling. This
    /// is what travels to the replicas; each merges it.
    pub fn delta(mut seen: Context, dot: Dot, sibling: Sibling) -> Self {
        seen.insert(dot);
        Self { context: seen, siblings: BTreeMap::from([(dot, sibling)]) }
    }

    /// The set with these parts, or `None` if a sibling's dot is not covered by the context.
    pub fn from_parts(context: Context, siblings: BTreeMap<Dot, Sibling>) -> Option<Self> {
        let sound = siblings.keys().all(|dot| dot.count > 0 && context.covers(dot));
        sound.then_some(Self { context, siblings })
    }

    /// Every dot this set has heard of.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The siblings by dot: tombstones and expired ones included.
    pub fn siblings(&self) -> &BTreeMap<Dot, Sibling> {
        &self.siblings
    }

    /// Whether nothing was ever written here. A set of tombstones is not empty.
    pub fn is_empty(&self) -> bool {
        self.context.is_empty()
    }

    /// The siblings that a read at `now_ms` (Unix milliseconds) shows.
    pub fn live(&self, now_ms: u64) -> impl Iterator<Item = (Dot, &Sibling)> + '_ {
        let all = self.siblings.iter().map(|(&dot, sibling)| (dot, sibling));
        all.filter(move |(_, sibling)| sibling.is_live(now_ms))
    }

    /// This set without the rows of these actors, none of which has a sibling.
    pub(super) fn without(mut self, actors: impl Iterator<Item = Actor>) -> Self {
        actors.for_each(|actor| self.context.forget(&actor));
        self
    }

    /// The merge of two sets.
    #[must_use]
    pub fn merge(&self, other: &SiblingSet) -> SiblingSet {
        let mut merged = self.clone();
        merged.merge_in(other);
        merged
    }

    /// Merges `other` into this set; says whether anything changed.
    pub fn merge_in(&mut self, other: &SiblingSet) -> bool {
        let mut changed = false;
        self.siblings.retain(|dot, _| {
            let keep = !other.context.covers(dot) || other.siblings.contains_key(dot);
            changed |= !keep;
            keep
        });
        for (&dot, sibling) in &other.siblings {
            match self.siblings.entry(dot) {
                Entry::Vacant(place) if !self.context.covers(&dot) => {
                    place.insert(sibling.clone());
                    changed = true;
                }
                Entry::Vacant(_) => {}
                // One dot names one write, so both sides hold the same sibling. Should corruption
                // make them differ, the greater one is kept everywhere and replicas still agree.
                Entry::Occupied(mut mine) if mine.get() < sibling => {
                    mine.insert(sibling.clone());
                    changed = true;
                }
                Entry::Occupied(_) => {}
            }
        }
        if !self.context.includes(&other.context) {
            self.context.join(&other.context);
            changed = true;
        }
        changed
    }
}
