//! The driver, who takes an arrow when its proofs are there, and how D comes to hold what it must.

use super::model::{Moves, Out, Step};
use super::rules::Weakness;
use super::story::Next;
use super::world::*;
use kvasir_core::ring::moves::{Holder, LocalCopy, Place, Proof, Slots, judge, proof};

/// The driver.
impl Moves {
    pub fn document(&self, world: &World, out: &mut Out) {
        let current = usize::from(world.current);
        let next = &self.story.versions[current].next;
        if next.is_empty() {
            return;
        }
        let fences: Vec<Proof<u8>> = (0..self.story.nodes)
            .map(|node| {
                let version = world.nodes[node].told.into();
                Proof::Fenced { node: node as u8, version }
            })
            .collect();
        for next in next {
            let slots = self.story.slots(current, next.slot);
            let after = &self.story.versions[next.to].slots[next.slot].1;
            if next.legal {
                let mut proofs = fences.clone();
                self.copies_shown(world, &slots, &mut proofs);
                self.forge(world, &slots, &mut proofs);
                if judge(&slots, after, next.to as u64, &proofs).is_err() {
                    continue;
                }
            }
            self.push(out, Step::Document { version: next.to }, self.chosen(world, *next, after));
        }
    }

    fn chosen(&self, world: &World, next: Next, after: &Place<u8>) -> World {
        let mut chosen = *world;
        chosen.current = next.to as u8;
        chosen.chosen |= 1 << next.to;
        chosen.snapshot = 0;
        let before = self.story.versions[usize::from(world.current)].slots[next.slot].1.coming();
        if before != after.coming() {
            chosen.nodes.iter_mut().for_each(|node| node.clear(MERGED));
        }
        chosen
    }

    /// What the holder that comes in vouched for.
    fn copies_shown(&self, world: &World, slots: &Slots<'_, u8, u8>, proofs: &mut Vec<Proof<u8>>) {
        match *slots.place() {
            Place::Copying { from, to } if world.streamed >> to.since & 1 == 1 => {
                proofs.push(Proof::Streamed { to, source: from, fenced: to.since });
            }
            Place::Fencing { to, .. } | Place::Merging { to } => {
                let merged = slots.others().map(|(_, source)| source);
                let merged = merged.filter(|h| world.nodes[usize::from(h.node)].is(MERGED));
                proofs.extend(merged.map(|source| Proof::Merged { to, source, fenced: to.since }));
            }
            _ => {}
        }
    }

    /// Adds what a weakened driver takes for shown.
    fn forge(&self, world: &World, slots: &Slots<'_, u8, u8>, proofs: &mut Vec<Proof<u8>>) {
        let at = slots.version;
        match *slots.place() {
            Place::Copying { from, to } => {
                let any = self.weak(Weakness::EvidenceOfAnyTenure) && world.streamed != 0;
                if any || self.weak(Weakness::NoSnapshot) {
                    proofs.push(Proof::Streamed { to, source: from, fenced: to.since });
                }
            }
            Place::Switched { from, .. } if self.weak(Weakness::FinishUnfenced) => {
                proofs.push(Proof::Fenced { node: from.node, version: at });
            }
            _ => {}
        }
        let least = match *slots.place() {
            Place::Fencing { to, .. } => to.since,
            _ => at,
        };
        let fenced = |h: Holder<u8>| u64::from(world.nodes[usize::from(h.node)].told) >= least;
        let merged = |h: Holder<u8>| world.nodes[usize::from(h.node)].is(MERGED);
        let fences_pass = match self.bounds.weakness {
            Weakness::OneFenceLess => enough(slots, fenced, None, 1),
            Weakness::BarrierNearOnly => enough(slots, fenced, Some(true), 0),
            Weakness::BarrierAllOnly => enough(slots, fenced, Some(false), 0),
            _ => false,
        };
        let merges_pass = match self.bounds.weakness {
            Weakness::OneMergeLess => enough(slots, merged, None, 1),
            Weakness::BarrierNearOnly => enough(slots, merged, Some(true), 0),
            Weakness::BarrierAllOnly => enough(slots, merged, Some(false), 0),
            _ => false,
        };
        for (_, source) in slots.others() {
            if fences_pass {
                proofs.push(Proof::Fenced { node: source.node, version: at });
            }
            if let (true, Some(to)) = (merges_pass, slots.place().coming()) {
                proofs.push(Proof::Merged { to, source, fenced: to.since });
            }
        }
    }

    /// A node learns a version on its own, if that version or its own names it.
    pub fn adoptions(&self, world: &World, out: &mut Out) {
        for node in 0..self.story.nodes {
            let own = world.nodes[node].version;
            let named =
                |version: u8| self.story.versions[usize::from(version)].place(node).is_some();
            for version in world.known(Some(own)).filter(|v| named(*v) || named(own)) {
                let mut next = *world;
                self.adopt(&mut next, node, version);
                self.push(out, Step::Persists { node, version }, next);
            }
        }
    }
}

/// Whether as many of the others are counted as the barrier says, less `less`: in the slot's data
/// center alone, over all alone, or (none given) in both.
fn enough(
    slots: &Slots<'_, u8, u8>,
    counted: impl Fn(Holder<u8>) -> bool,
    near: Option<bool>,
    less: u32,
) -> bool {
    let here = slots.slots[slots.moving].0;
    let tally = |near: bool| {
        let size = slots.slots.iter().filter(|(dc, _)| !near || *dc == here).count() as u32;
        let others =
            slots.others().filter(|(dc, holder)| (!near || **dc == here) && counted(*holder));
        others.count() as u32 + less >= proof::barrier(size)
    };
    match near {
        Some(near) => tally(near),
        None => tally(true) && tally(false),
    }
}

/// How D comes to hold what it must.
impl Moves {
    pub fn stream(&self, world: &World, out: &mut Out) {
        let place = self.story.versions[usize::from(world.current)].moving();
        let Some(place @ &Place::Copying { from, to }) = place else { return };
        let (c, d) = (&world.nodes[usize::from(from.node)], &world.nodes[usize::from(to.node)]);
        if world.snapshot == 0 {
            let may = |copy: LocalCopy<u8>| {
                let version = if self.weak(Weakness::SnapshotBeforeFence) {
                    to.since
                } else {
                    c.version.into()
                };
                copy.may_be_streamed(place, version)
            };
            if self.copy(world, from.node.into()).is_some_and(may) {
                let mut next = *world;
                next.snapshot = TAKEN
                    | if c.is(HOLDS) { WITH_WRITE } else { 0 }
                    | if c.is(ERASED) { WITH_ERASED } else { 0 };
                self.push(out, Step::Snapshot { of: from.node }, next);
            }
            return;
        }
        let vouches = self.copy(world, to.node.into()).is_some_and(|copy| copy.vouches(place));
        if !vouches || world.streamed >> to.since & 1 == 1 {
            return;
        }
        let mut next = *world;
        let node = &mut next.nodes[usize::from(to.node)];
        if world.snapshot & INSTALLED == 0 {
            if world.snapshot & WITH_WRITE != 0 {
                self.store(node, false);
            }
            if world.snapshot & WITH_ERASED != 0 {
                node.set(ERASED);
            }
            next.snapshot |= INSTALLED;
            if self.weak(Weakness::EvidenceNotSynced) {
                next.streamed |= 1 << to.since;
            }
            self.push(out, Step::Installs { node: to.node }, next);
        } else {
            if d.is(HOLDS) {
                self.store(node, true);
            }
            next.streamed |= 1 << to.since;
            self.push(out, Step::VouchesForStream { node: to.node }, next);
        }
    }

    pub fn merges(&self, world: &World, out: &mut Out) {
        let place = self.story.versions[usize::from(world.current)].moving();
        let Some(place @ (&Place::Fencing { to, .. } | &Place::Merging { to })) = place else {
            return;
        };
        if !self.copy(world, to.node.into()).is_some_and(|copy| copy.vouches(place)) {
            return;
        }
        for source in 0..self.story.nodes {
            let from = &world.nodes[source];
            let other = self.story.versions[usize::from(world.current)].place(source);
            if from.is(MERGED) || other.is_none() || other == Some(place) {
                continue;
            }
            let version =
                if self.weak(Weakness::MergesUnfenced) { to.since } else { from.version.into() };
            if !self.copy(world, source).is_some_and(|copy| copy.may_be_merged(place, version)) {
                continue;
            }
            let mut next = *world;
            next.nodes[source].set(MERGED);
            let into = &mut next.nodes[usize::from(to.node)];
            if from.is(HOLDS) {
                into.set(HOLDS);
            }
            if into.is(HOLDS) && !self.weak(Weakness::EvidenceNotSynced) {
                self.store(into, true);
            }
            into.set(from.flags & ERASED);
            self.push(out, Step::MergesAndVouches { node: to.node, from: source as u8 }, next);
        }
    }
}
