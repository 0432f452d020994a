//! A set of dots, kept small: a version vector plus a cloud of single dots.
//!
//! The vector says "everything this actor minted up to count n"; the cloud holds dots beyond a
//! hole. Holes are legal (a delta may overtake an earlier one) and are kept until filled.
//!
//! Invariant (canonical form): no vector entry is 0, and no cloud dot is covered by the vector or
//! next in line for it. Hence two contexts are equal as values exactly if they cover the same dots,
//! and every set of dots has one encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::dot::{Actor, Dot};

/// A set of dots in canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Context {
    vector: BTreeMap<Actor, u64>,
    cloud: BTreeSet<Dot>,
}

impl Context {
    /// The context that covers nothing.
    pub const fn new() -> Self {
        Self { vector: BTreeMap::new(), cloud: BTreeSet::new() }
    }

    /// Whether no dot is covered.
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty() && self.cloud.is_empty()
    }

    /// Whether `dot` is in the set.
    pub fn covers(&self, dot: &Dot) -> bool {
        dot.count <= self.contiguous(&dot.actor) || self.cloud.contains(dot)
    }

    /// Whether every dot of `other` is in this set too.
    pub fn includes(&self, other: &Context) -> bool {
        other.vector.iter().all(|(actor, &count)| self.contiguous(actor) >= count)
            && other.cloud.iter().all(|dot| self.covers(dot))
    }

    /// The count up to which everything of `actor` is covered; 0 if not even its first dot is.
    pub fn contiguous(&self, actor: &Actor) -> u64 {
        self.vector.get(actor).copied().unwrap_or(0)
    }

    /// The highest count covered of `actor`, holes or not; 0 if none.
    pub fn highest(&self, actor: &Actor) -> u64 {
        let above = self.cloud.range(actor.dot(0)..=actor.dot(u64::MAX)).next_back();
        above.map_or_else(|| self.contiguous(actor), |dot| dot.count)
    }

    /// Adds one dot. A count of 0 names no write and is ignored.
    pub fn insert(&mut self, dot: Dot) {
        if dot.count == 0 || self.covers(&dot) {
            return;
        }
        if dot.count == self.contiguous(&dot.actor) + 1 {
            self.vector.insert(dot.actor, dot.count);
            self.absorb(dot.actor);
        } else {
            self.cloud.insert(dot);
        }
    }

    /// Adds every dot of `other`.
    pub fn join(&mut self, other: &Context) {
        for (&actor, &count) in &other.vector {
            if count > self.contiguous(&actor) {
                self.vector.insert(actor, count);
                self.absorb(actor);
            }
        }
        for &dot in &other.cloud {
            self.insert(dot);
        }
    }

    /// The vector part: each actor with the count up to which it is covered without a hole.
    pub fn vector(&self) -> impl ExactSizeIterator<Item = (Actor, u64)> + '_ {
        self.vector.iter().map(|(&actor, &count)| (actor, count))
    }

    /// The cloud part: single dots beyond a hole, in order.
    pub fn cloud(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.cloud.iter().copied()
    }

    /// Each actor that occurs, with the highest count covered of it, in order.
    pub fn rows(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
        let mut actors: BTreeSet<Actor> = self.vector.keys().copied().collect();
        actors.extend(self.cloud.iter().map(|dot| dot.actor));
        actors.into_iter().map(|actor| (actor, self.highest(&actor)))
    }

    /// The row of one actor as dots: the one up to which it is covered without a hole, with count 0 where not
    /// even the first is, and each one beyond a hole, in order.
    pub fn row(&self, actor: Actor) -> impl Iterator<Item = Dot> + '_ {
        let beyond = self.cloud.range(actor.dot(0)..=actor.dot(u64::MAX)).copied();
        std::iter::once(actor.dot(self.contiguous(&actor))).chain(beyond)
    }

    /// The rows of the actors with this tag.
    pub(crate) fn rows_of_tag(&self, tag: u64) -> impl Iterator<Item = (Actor, u64)> + '_ {
        let first = Actor { tag, serial: 0 };
        let last = Actor { tag, serial: u64::MAX };
        let vector = self.vector.range(first..=last).map(|(&actor, &count)| (actor, count));
        let cloud = self.cloud.range(first.dot(0)..=last.dot(u64::MAX));
        vector.chain(cloud.map(|dot| (dot.actor, dot.count)))
    }

    /// Forgets every dot of an actor.
    pub(super) fn forget(&mut self, actor: &Actor) {
        self.vector.remove(actor);
        self.cloud.retain(|dot| dot.actor != *actor);
    }

    /// The context with these parts, or `None` if they are not in canonical form.
    pub(super) fn from_canonical(
        vector: BTreeMap<Actor, u64>,
        cloud: BTreeSet<Dot>,
    ) -> Option<Self> {
        let context = Self { vector, cloud };
        let counted = context.vector.values().all(|&count| count > 0);
        let beyond_a_hole =
            |dot: &Dot| dot.count.saturating_sub(1) > context.contiguous(&dot.actor);
        let canonical = counted && context.cloud.iter().all(beyond_a_hole);
        canonical.then_some(context)
    }

    /// Moves into the vector what is next in line for it.
    fn absorb(&mut self, actor: Actor) {
        let mut count = self.contiguous(&actor);
        loop {
            let next = self.cloud.range(actor.dot(0)..=actor.dot(u64::MAX)).next().copied();
            match next {
                Some(dot) if dot.count <= count.saturating_add(1) => {
                    self.cloud.remove(&dot);
                    count = count.max(dot.count);
                }
                _ => break,
            }
        }
        self.vector.insert(actor, count);
    }
}

impl FromIterator<Dot> for Context {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut context = Context::new();
        for dot in dots {
            context.insert(dot);
        }
        context
    }
}

/// `{a:1..=3 b:5}`: ranges from the vector, single dots from the cloud.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (actor, count) in &self.vector {
            write!(f, " {actor}:1..={count}")?;
        }
        for dot in &self.cloud {
            write!(f, " {dot}")?;
        }
        f.write_str(" }")
    }
}
