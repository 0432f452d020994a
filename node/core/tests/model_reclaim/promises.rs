//! What every reachable state must keep.

use crate::rules::Bounds;
use crate::world::{NEWER, Reclaim, Set, TOMBSTONE, VALUE, World};

/// The promise that is broken, if one is.
pub fn broken(model: &Reclaim, world: &World) -> Option<String> {
    let Bounds { folds, holders, crashes, restores, quarantines, .. } = model.bounds;
    let all = || world.holders[..holders].iter().enumerate();
    let merged = all().fold(Set::default(), |all, (_, h)| all.merge(h.memory));
    let faulty = crashes + restores + quarantines > 0;
    if world.newer_stored && !faulty && merged.held & NEWER == 0 {
        return Some("the value written after the delete is lost".into());
    }
    // Nothing covers what was written over the value, and one holder had it from the start.
    if folds && !faulty && merged.held & TOMBSTONE == 0 {
        return Some("the value written over the first is lost".into());
    }
    if all().all(|(_, h)| !h.erased) || all().any(|(_, h)| h.rebuilding) {
        return None;
    }
    // A member that was put back and has not noticed yet serves nothing that counts.
    let highest = world.generation.into_iter().max().unwrap_or(0);
    let noticed = |node: usize| {
        let (own, highest) = (world.generation[node].into(), highest.into());
        !(model.rules.sets_aside && model.rules.margins.is_behind(own, highest))
    };
    let shown = all()
        .filter(|(node, _)| noticed(*node))
        .fold(Set::default(), |all, (_, h)| all.merge(h.memory));
    (shown.held & VALUE != 0).then(|| "the deleted value is back".into())
}
