//! How many updates are let in while flushes or merges fall behind: a pure function.
//!
//! Without it writers run at full speed until memory or level 0 is full, then stand still for as long as
//! a whole flush or merge takes. So before that point updates are let in by the work done in the
//! background: for each piece of it (see `compaction::pace`) so many bytes, fewer the closer the end is.
//! A delay is thus never a time that somebody has to measure; in simulation it takes the virtual time
//! that background work takes. Where no background work is under way there is nothing to wait for.

use crate::compaction::pace::PIECE_BYTES;

/// Let in at the beginning, for each byte of background work.
const MOST: u64 = 4;
/// Let in at the end, as a part of each byte of background work.
const LEAST_PART: u64 = 4;

/// How far behind the background is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Memtables that wait for their flush, and how many there may be.
    pub(crate) frozen: usize,
    pub(crate) frozen_max: usize,
    /// Bytes in the active memtable, and its size.
    pub(crate) active: usize,
    pub(crate) active_max: usize,
    /// Tables in level 0, at how many they are merged, and at how many updates stop.
    pub(crate) level0: usize,
    pub(crate) level0_tables: usize,
    pub(crate) level0_stop: usize,
}

/// What may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Everything.
    Free,
    /// So many bytes for each piece of background work.
    PerPiece(u64),
    /// Nothing.
    Stop,
}

/// Judges a load.
pub(crate) fn admission(load: &Load) -> Admission {
    // Memory: the last memtable there may be is filling; from its half on.
    let memory = match load.frozen >= load.frozen_max {
        true => percent(load.active, load.active_max / 2, load.active_max),
        false => 0,
    };
    let slow = (load.level0_tables + load.level0_stop).div_ceil(2);
    match memory.max(percent(load.level0, slow, load.level0_stop)) {
        0 => Admission::Free,
        100.. => Admission::Stop,
        behind => {
            let most = PIECE_BYTES * MOST * (100 - behind) / 100;
            Admission::PerPiece(most.max(PIECE_BYTES / LEAST_PART))
        }
    }
}

/// How much of the way from `start` (exclusive) to `end` is gone.
fn percent(now: usize, start: usize, end: usize) -> u64 {
    if now >= end {
        return 100;
    }
    (now.saturating_sub(start) as u64 * 100).div_ceil((end - start).max(1) as u64).min(99)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Load = Load {
        frozen: 1,
        frozen_max: 2,
        active: 99,
        active_max: 100,
        level0: 4,
        level0_tables: 4,
        level0_stop: 16,
    };

    fn all(loads: impl Iterator<Item = Load>) -> Vec<u64> {
        loads
            .map(|load| match admission(&load) {
                Admission::Free => u64::MAX,
                Admission::PerPiece(bytes) => bytes,
                Admission::Stop => 0,
            })
            .collect()
    }

    #[test]
    fn it_slows_down_step_by_step_and_stops_at_the_end() {
        let memory = all((0..=100).map(|active| Load { frozen: 2, active, ..CALM }));
        let level0 = all((0..=16).map(|level0| Load { level0, ..CALM }));
        for (steps, free, longest) in [(memory, 51, 100), (level0, 11, 16)] {
            assert!(steps.is_sorted_by(|a, b| a >= b), "{steps:?}");
            assert!(steps[..free].iter().all(|step| *step == u64::MAX), "{steps:?}");
            assert!(steps[free] < u64::MAX && steps[free] > 2 * PIECE_BYTES, "{steps:?}");
            assert!(steps[longest - 1] > 0 && steps[longest] == 0, "{steps:?}");
        }
    }

    #[test]
    fn the_worst_of_both_counts() {
        let load = Load { frozen: 2, active: 60, level0: 15, ..CALM };
        assert_eq!(admission(&load), admission(&Load { level0: 15, ..CALM }));
        assert_eq!(admission(&Load { level0: 16, ..load }), Admission::Stop);
        assert_eq!(admission(&Load { active: 100, ..load }), Admission::Stop);
        assert_eq!(admission(&CALM), Admission::Free);
    }

    #[test]
    fn bounds_as_small_as_they_may_be_are_no_trouble() {
        let tight = Load { frozen_max: 1, active_max: 1, level0_tables: 1, level0_stop: 2, ..CALM };
        assert_eq!(admission(&Load { level0: 2, frozen: 0, ..tight }), Admission::Stop);
        assert_eq!(admission(&Load { level0: 1, active: 1, ..tight }), Admission::Stop);
        assert_eq!(admission(&Load { level0: 1, active: 0, ..tight }), Admission::Free);
    }
}
