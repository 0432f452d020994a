//! Where runs begin: with nothing written, or in the middle, where a value was deleted and the holders
//! differ. Every mixture in which somebody holds the tombstone is a start, so that the search need not
//! spend its depth on getting there.

use crate::rules::{Bounds, Start};
use crate::world::{Carrier, HOLDERS, NEWER, OTHER, Set, TOMBSTONE, VALUE, World};

const V: Set = Set { context: VALUE, held: VALUE };
const T: Set = Set { context: VALUE | TOMBSTONE, held: TOMBSTONE };

/// The states to begin with.
pub fn starts(bounds: &Bounds) -> Vec<World> {
    let mut blank = World::begin();
    if bounds.joins {
        blank.set_generation(OTHER, 0);
    }
    if bounds.start == Start::Blank {
        return vec![blank];
    }
    let rewrite = if bounds.rewrite { 0 } else { NEWER };
    blank.wrote(VALUE | TOMBSTONE | rewrite);
    let mut starts = Vec::new();
    let mixtures = mixtures(bounds.holders).into_iter();
    for sets in
        mixtures.filter(|sets| !bounds.joins || sets[..bounds.holders] == [T; 3][..bounds.holders])
    {
        for ahead in if bounds.joins { 0..1 } else { 1..3_u8 } {
            let mut world = blank;
            world.set_generation(OTHER, ahead);
            for (holder, set) in world.holders.iter_mut().zip(sets) {
                (holder.memory, holder.disk) = (set, set);
            }
            starts.push(world);
            for stamp in (1..=ahead).filter(|_| bounds.stand_in && !bounds.joins) {
                let mut kept = world;
                kept.keep_copy(stamp, V);
                kept.begin_noting();
                starts.push(kept);
            }
        }
    }
    if bounds.start == Start::DeletedAndLate {
        let calm = starts.clone();
        for world in calm {
            let late = if bounds.joins { 1 } else { world.generation[OTHER] };
            // A member that joins is the only one that a late carrier takes by surprise.
            let holders = (0..bounds.holders).filter(|_| !bounds.joins);
            let all = holders.chain(bounds.stand_in.then_some(OTHER));
            for (to, stamp) in all.flat_map(|to| (1..=late).map(move |stamp| (to, stamp))) {
                let mut sent = world;
                let carrier = Carrier { to: to as u8, stamp, set: V, from_other: false };
                if sent.send(carrier, bounds.carriers) {
                    starts.push(sent);
                }
            }
        }
    }
    starts
}

/// Who holds what; at least one holds the tombstone. Holders are alike, so that order is left out.
fn mixtures(holders: usize) -> Vec<[Set; HOLDERS]> {
    let kinds = [T, V, Set::default()];
    let mut mixtures = Vec::new();
    for second in 0..3 {
        for third in second..3 {
            let third = if holders > 2 { kinds[third] } else { Set::default() };
            let sets = [T, kinds[second], third];
            if !mixtures.contains(&sets) {
                mixtures.push(sets);
            }
        }
    }
    mixtures
}
