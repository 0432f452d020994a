//! What is left of unsynced data after a crash.

use super::tree::{File, Tree};

/// What a crash does to data and names that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process dies, the machine goes on: everything is still readable, and still unsynced.
    Process,
    /// All of it is lost.
    DropAll,
    /// All of it is kept.
    KeepAll,
    /// Each sector of this many bytes (512, 4096) and each name change is kept or lost on its own;
    /// lost sectors within the file read as zeros or as garbage.
    Subset(usize),
    /// Name changes are kept up to a random one; each file keeps its unsynced data up to a sector
    /// boundary of this many bytes within its last append.
    Torn(usize),
}

/// A small seeded generator (SplitMix64): a disk needs no better one, and no ambient one.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl Tree {
    pub(super) fn after(&self, crash: Crash, seed: u64) -> Tree {
        let (mut tree, mut dice) = (self.clone(), Dice::new(seed));
        if crash == Crash::Process {
            tree.forget_handles();
            return tree;
        }
        for (_, changes) in std::mem::take(&mut tree.unsynced) {
            let until = dice.below(changes.len() + 1);
            for (number, change) in changes.into_iter().enumerate() {
                let kept = match crash {
                    Crash::KeepAll | Crash::Process => true,
                    Crash::DropAll => false,
                    Crash::Subset(_) => dice.coin(),
                    Crash::Torn(_) => number < until,
                };
                if kept {
                    tree.make_durable(change);
                }
            }
        }
        for file in tree.files.values_mut() {
            match crash {
                Crash::KeepAll | Crash::Process => {}
                Crash::DropAll => {
                    restore(file, 0);
                    file.bytes.truncate(file.durable);
                }
                Crash::Subset(sector) => subset(file, sector, &mut dice),
                Crash::Torn(sector) => torn(file, sector, &mut dice),
            }
        }
        tree.settled()
    }
}

/// Takes back what was written over from a place on.
fn restore(file: &mut File, from: usize) {
    for (at, old) in std::mem::take(&mut file.before).into_iter().rev() {
        let skipped = from.saturating_sub(at).min(old.len());
        let at = at + skipped;
        file.bytes[at..at + old.len() - skipped].copy_from_slice(&old[skipped..]);
    }
}

/// Each sector that was written over is new, old, or neither; what stood beside stays.
fn subset_before(file: &mut File, sector: usize, dice: &mut Dice) {
    for (at, old) in std::mem::take(&mut file.before).into_iter().rev() {
        let mut start = at;
        while start < at + old.len() {
            let end = (start / sector * sector + sector).min(at + old.len());
            if dice.coin() {
                let garbage = dice.coin();
                for place in start..end {
                    file.bytes[place] = if garbage { dice.next() as u8 } else { old[place - at] };
                }
            }
            start = end;
        }
    }
}

fn subset(file: &mut File, sector: usize, dice: &mut Dice) {
    subset_before(file, sector, dice);
    if file.bytes.len() == file.durable {
        return;
    }
    // The length may have reached the medium or not, apart from the data.
    if dice.coin() {
        let kept = file.durable + dice.below(file.bytes.len() - file.durable + 1);
        file.bytes.truncate(kept);
    }
    let mut start = file.durable;
    while start < file.bytes.len() {
        let end = (start / sector * sector + sector).min(file.bytes.len());
        if dice.coin() {
            let garbage = dice.coin();
            for byte in &mut file.bytes[start..end] {
                *byte = if garbage { dice.next() as u8 } else { 0 };
            }
        }
        start = end;
    }
}

fn torn(file: &mut File, sector: usize, dice: &mut Dice) {
    let from = match file.before.is_empty() {
        true => file.last_append.max(file.durable),
        false => file.last_append,
    };
    let sectors = (file.bytes.len() - from).div_ceil(sector) + 1;
    let cut = (from / sector + dice.below(sectors)) * sector;
    restore(file, cut);
    file.bytes.truncate(cut.max(file.durable));
}
