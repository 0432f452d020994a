//! How long flushes and compactions wait between two pieces of work: a pure function.
//!
//! Background work takes processor and disk from whoever waits for an answer. So after each piece of
//! [`PIECE_BYTES`] it looks whether somebody waits, and if so holds back for a moment. It never holds back
//! once it is itself what others will soon wait for: then finishing is the kindest it can do. So a piece
//! is delayed by at most [`PAUSE_MS`], and background work by a bounded factor.

/// Bytes written between two looks.
pub const PIECE_BYTES: u64 = 1 << 20;
/// The longest wait after a piece, in milliseconds: about what writing one takes.
pub const PAUSE_MS: u64 = 4;

/// What is going on in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Lookups that wait for the disk.
    pub waiting_reads: u64,
    /// A write or sync of the log is under way.
    pub log_busy: bool,
    /// Updates that wait for room.
    pub stalled: u64,
    /// Tables in level 0, and how many make updates wait.
    pub level0: usize,
    /// See above.
    pub level0_stop: usize,
    /// Memtables that wait for their flush, and how many make updates wait.
    pub frozen: usize,
    /// See above.
    pub frozen_max: usize,
}

/// Milliseconds to wait before the next piece.
pub fn pause_ms(scene: &Scene) -> u64 {
    let in_demand = scene.stalled > 0
        || scene.level0 * 2 > scene.level0_stop
        || (scene.frozen_max > 1 && scene.frozen >= scene.frozen_max);
    let disturbs = scene.waiting_reads > 0 || scene.log_busy;
    match (in_demand, disturbs) {
        (false, true) if scene.waiting_reads > 1 => PAUSE_MS,
        (false, true) => PAUSE_MS / 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Scene = Scene {
        waiting_reads: 0,
        log_busy: false,
        stalled: 0,
        level0: 2,
        level0_stop: 16,
        frozen: 0,
        frozen_max: 2,
    };

    #[test]
    fn it_runs_on_while_nobody_waits() {
        assert_eq!(pause_ms(&QUIET), 0);
    }

    #[test]
    fn it_holds_back_for_who_waits_and_more_for_many() {
        let one = pause_ms(&Scene { waiting_reads: 1, ..QUIET });
        let many = pause_ms(&Scene { waiting_reads: 9, ..QUIET });
        assert!(0 < one && one < many && many <= PAUSE_MS);
        assert_eq!(pause_ms(&Scene { log_busy: true, ..QUIET }), one);
    }

    #[test]
    fn it_runs_on_once_writes_will_wait_for_it() {
        let busy = Scene { waiting_reads: 9, log_busy: true, ..QUIET };
        assert_eq!(pause_ms(&Scene { stalled: 1, ..busy }), 0);
        assert_eq!(pause_ms(&Scene { level0: 9, ..busy }), 0);
        assert_eq!(pause_ms(&Scene { frozen: 2, ..busy }), 0);
        assert!(pause_ms(&Scene { level0: 8, frozen: 1, ..busy }) > 0);
    }
}
