//! One write, the stand-in that may have counted for it, and one read that begins afterwards.
//!
//! Whoever runs an errand knows some version, learns newer ones at any time, and asks any node named
//! there in any order; a request that never arrives is a step never taken.

use super::model::{Moves, Out, Step};
use super::rules::Weakness;
use super::world::*;
use kvasir_core::ring::moves::{Holder, Place};

impl Moves {
    pub fn write(&self, world: &World, out: &mut Out) {
        let version = world.write.version;
        match world.write.phase {
            IDLE => {
                for version in world.known(None) {
                    let write = Errand { phase: RUNS, version };
                    self.push(out, Step::WriteStarts { version }, World { write, ..*world });
                }
                return;
            }
            RUNS => {}
            _ => return,
        }
        for node in 0..self.story.nodes {
            self.write_reaches(world, node, out);
        }
        let stored = |holder: Holder<u8>| {
            let acked = world.nodes[usize::from(holder.node)].acked;
            u64::from(acked) == holder.since
                || self.weak(Weakness::AcksAcrossTenures) && acked != NONE
        };
        if self.majority(version, |place| self.slot_counts(place, stored)) {
            self.push(out, Step::WriteAcknowledged, acknowledged(world));
        }
        for version in world.known(Some(version)) {
            let write = Errand { phase: RUNS, version };
            self.push(out, Step::WriterLearns { version }, World { write, ..*world });
        }
    }

    fn write_reaches(&self, world: &World, node: usize, out: &mut Out) {
        let version = world.write.version;
        let Some(place) = self.story.versions[usize::from(version)].place(node) else { return };
        let Some(mut next) = self.admitted(world, node, version) else { return };
        let Some(holder) = self.acknowledges(&next, node, place) else { return };
        if u64::from(next.nodes[node].acked) == holder.since {
            return;
        }
        self.store(&mut next.nodes[node], false);
        if next != *world {
            self.push(out, Step::WriteReachesUnacknowledged { node }, next);
        }
        self.store(&mut next.nodes[node], !self.weak(Weakness::AckNotSynced));
        next.nodes[node].acked = holder.since as u8;
        self.push(out, Step::WriteStoredAndAcknowledged { node }, next);
    }

    pub fn stand_in(&self, world: &World, out: &mut Out) {
        if world.write.phase == RUNS && world.stand_in.phase == IDLE {
            let mut next = acknowledged(world);
            next.stand_in.phase = RUNS;
            self.push(out, Step::CountedOnStandIn, next);
        }
        if world.stand_in.phase != RUNS {
            return;
        }
        let version = world.stand_in.version;
        for version in world.known(Some(version)) {
            let mut next = *world;
            next.stand_in.version = version;
            if !self.weak(Weakness::BackAcrossVersions) {
                next.nodes.iter_mut().for_each(|node| node.clear(TOOK));
            }
            self.push(out, Step::StandInLearns { version }, next);
        }
        for node in (0..self.story.nodes).filter(|node| !world.nodes[*node].is(TOOK)) {
            let place = self.story.versions[usize::from(version)].place(node);
            let (Some(place), Some(mut next)) = (place, self.admitted(world, node, version)) else {
                continue;
            };
            if self.acknowledges(&next, node, place).is_some() {
                self.store(&mut next.nodes[node], !self.weak(Weakness::HandBackNotSynced));
                next.nodes[node].set(TOOK);
                self.push(out, Step::HandedBack { node }, next);
            }
        }
        if self.all_took(world) {
            let mut next = *world;
            next.nodes.iter_mut().for_each(|node| node.clear(TOOK));
            next.stand_in = Errand { phase: DONE, version: 0 };
            self.push(out, Step::StandInDeletes, next);
        }
    }

    fn all_took(&self, world: &World) -> bool {
        let took = |holder: Holder<u8>| world.nodes[usize::from(holder.node)].is(TOOK);
        let version = &self.story.versions[usize::from(world.stand_in.version)];
        let last = version.slots.last().map(|(_, place)| place);
        match self.bounds.weakness {
            Weakness::BackToNewHolderAlone => last.and_then(Place::coming).is_some_and(took),
            Weakness::BackToOldHolderAlone => last.is_some_and(|p| p.writers().take(1).any(took)),
            _ => version.slots.iter().all(|(_, place)| place.handed_back(took)),
        }
    }

    pub fn read(&self, world: &World, out: &mut Out) {
        if world.write.phase != DONE || world.stand_in.phase == RUNS {
            return;
        }
        if world.read.phase == IDLE {
            for version in world.known(None) {
                let read = Errand { phase: RUNS, version };
                self.push(out, Step::ReadStarts { version }, World { read, ..*world });
            }
            return;
        }
        let version = world.read.version;
        for node in (0..self.story.nodes).filter(|node| !world.nodes[*node].is(ANSWERED)) {
            let place = self.story.versions[usize::from(version)].place(node);
            let (Some(place), Some(mut next)) = (place, self.admitted(world, node, version)) else {
                continue;
            };
            if self.answers(&next, node, place) && !next.nodes[node].is(HOLDS) {
                next.nodes[node].set(ANSWERED);
                self.push(out, Step::ReadMissesAt { node }, next);
            }
        }
        for version in world.known(Some(version)) {
            let mut next = *world;
            next.read.version = version;
            if !self.weak(Weakness::KeepsReplies) {
                next.nodes.iter_mut().for_each(|node| node.clear(ANSWERED));
            }
            self.push(out, Step::ReaderLearns { version }, next);
        }
    }
}

/// What the writer knew of acknowledgements is of no more use.
fn acknowledged(world: &World) -> World {
    let mut next = *world;
    next.write = Errand { phase: DONE, version: 0 };
    next.nodes.iter_mut().for_each(|node| node.acked = NONE);
    next
}
