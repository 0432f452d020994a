//! Restarts that lose what was not fsynced, lost tables, rolled-back volumes, missed erasures.

use super::model::{Moves, Out, Step};
use super::rules::Weakness;
use super::world::*;
use kvasir_core::ring::moves::Place;

impl Moves {
    pub fn faults(&self, world: &World, out: &mut Out) {
        for node in 0..self.story.nodes {
            if world.restarts < self.bounds.restarts {
                self.restart(world, node, out);
            }
            let may = |mask: u8, fault: u8| mask >> node & 1 == 1 && world.happened & fault == 0;
            if may(self.bounds.quarantined, QUARANTINED) && world.nodes[node].since != NONE {
                let mut next = *world;
                next.happened |= QUARANTINED;
                next.nodes[node].clear(HOLDS | SYNCED);
                next.nodes[node].set(INCOMPLETE);
                self.push(out, Step::LosesTable { node }, next);
            }
            if may(self.bounds.rolled_back, ROLLED_BACK) {
                self.roll_back(world, node, out);
            }
            let behind = self.bounds.erased_behind.map_or(0, |node| 1 << node);
            if may(behind, ERASED_BEHIND) {
                self.erase_behind(world, node, out);
            }
        }
    }

    fn restart(&self, world: &World, node: usize, out: &mut Out) {
        let mut next = *world;
        let lost = &mut next.nodes[node];
        if !lost.is(SYNCED) {
            lost.clear(HOLDS);
        }
        if self.weak(Weakness::FenceNotSynced) {
            lost.version = 0;
        }
        let current = &self.story.versions[usize::from(world.current)];
        let coming = current.moving().and_then(Place::coming);
        if coming.is_some_and(|holder| usize::from(holder.node) == node) {
            next.snapshot &= !INSTALLED;
        }
        if next != *world {
            next.restarts += 1;
            self.push(out, Step::Restarts { node }, next);
        }
    }

    /// The volume is as it was in the beginning; the node hears so before it does anything.
    fn roll_back(&self, world: &World, number: usize, out: &mut Out) {
        let mut next = *world;
        next.happened |= ROLLED_BACK;
        let before = world.nodes[number];
        let new = Node::new(self.story.versions[0].place(number).is_some());
        let known = before.flags & (ANSWERED | MERGED | TOOK);
        let flags = known | FORGOTTEN;
        let (told, acked) = (before.told, before.acked);
        next.nodes[number] = Node { told, acked, floor: world.current, flags, ..new };
        let current = &self.story.versions[usize::from(world.current)];
        let coming = current.moving().and_then(Place::coming);
        if coming.is_some_and(|holder| usize::from(holder.node) == number) {
            next.snapshot &= !INSTALLED;
        }
        self.push(out, Step::RolledBack { node: number }, next);
    }

    /// The others erase what this node still has: while nobody names it, or (then it knows that
    /// it missed generations) while it is away.
    fn erase_behind(&self, world: &World, node: usize, out: &mut Out) {
        let mut next = *world;
        next.happened |= ERASED_BEHIND;
        if world.nodes[node].since == NONE {
            return;
        }
        next.nodes[node].set(ERASED);
        if self.story.versions[usize::from(world.current)].place(node).is_some() {
            next.nodes[node].set(INCOMPLETE);
        }
        self.push(out, Step::OthersEraseWhatItHas { node }, next);
    }
}
