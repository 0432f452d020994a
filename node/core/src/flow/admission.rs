//! How much of each kind of work one worker has at a time.
//!
//! Each kind has a share of its own, in count and in bytes, which no other kind can take: a flood of clients
//! leaves room for what other nodes ask for, and repair never fills a worker. Kinds are ordered by what
//! yields to what. A worker that is behind takes on nothing new of its clients, and one piece at a time of
//! what can wait; what other coordinators ask for their clients it still takes, since they have admitted it
//! already and a refusal would waste what was done. Every kind gets on with at least one piece: nothing
//! starves under any load, and no piece is too large for an empty share.

/// Kinds of work, from the first to be served to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// What a client asked of this node.
    Client,
    /// What another node asks for its clients.
    Replica,
    /// Copies that come back to their owner.
    HandBack,
    /// Comparing and mending replicas, and reclaim.
    Repair,
    /// Copies of partitions that move.
    Stream,
}

impl Work {
    /// Every kind, in order.
    pub const ALL: [Self; 5] =
        [Self::Client, Self::Replica, Self::HandBack, Self::Repair, Self::Stream];

    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Replica => "replica",
            Self::HandBack => "hand_back",
            Self::Repair => "repair",
            Self::Stream => "stream",
        }
    }

    /// Whether it is done when there is nothing better to do.
    pub fn can_wait(self) -> bool {
        matches!(self, Self::HandBack | Self::Repair | Self::Stream)
    }
}

/// A bound on work, or how much of it there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Pieces; some weigh as much as several.
    pub count: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The bounds of all kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares([Share; Work::ALL.len()]);

/// The share of what can wait, beside that of what other nodes ask for their clients.
const PARTS: usize = 8;

impl Shares {
    /// Requests of this node's clients, and those of other nodes: for their clients as much as is said, and
    /// an eighth of it for each kind that can wait.
    pub fn new(clients: Share, others: Share) -> Self {
        let part = |whole: usize| (whole / PARTS).max(1);
        let background = Share { count: part(others.count), bytes: part(others.bytes) };
        Self(Work::ALL.map(|work| match work {
            Work::Client => clients,
            Work::Replica => others,
            Work::HandBack | Work::Repair | Work::Stream => background,
        }))
    }

    /// The bound of one kind.
    pub fn of(&self, work: Work) -> Share {
        self.0[work as usize]
    }
}

/// Why a piece of work is not taken on. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Full {
    /// Its kind has as many pieces in work as it may have.
    Count,
    /// They hold as many bytes as they may hold.
    Bytes,
    /// The worker is behind.
    Behind,
}

impl Full {
    /// Every reason, in order.
    pub const ALL: [Self; 3] = [Self::Count, Self::Bytes, Self::Behind];

    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Behind => "behind",
        }
    }
}

/// What one worker has in work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    shares: Shares,
    held: [Share; Work::ALL.len()],
    refused: u64,
}

impl Admission {
    /// Nothing in work.
    pub fn new(shares: Shares) -> Self {
        Self { shares, held: Default::default(), refused: 0 }
    }

    /// What is in work of one kind.
    pub fn held(&self, work: Work) -> Share {
        self.held[work as usize]
    }

    /// Whether anything is.
    pub fn is_idle(&self) -> bool {
        self.held.iter().all(|held| held.count == 0)
    }

    /// Whether a piece would be taken on now.
    ///
    /// # Errors
    /// Why not; it is counted.
    pub fn judge(&mut self, work: Work, piece: Share, behind: bool) -> Result<(), Full> {
        let verdict = self.verdict(work, piece, behind);
        self.refused += u64::from(verdict.is_err());
        verdict
    }

    fn verdict(&self, work: Work, piece: Share, behind: bool) -> Result<(), Full> {
        let (held, share) = (self.held(work), self.shares.of(work));
        if held.count == 0 {
            return Ok(());
        }
        if behind && work != Work::Replica {
            return Err(Full::Behind);
        }
        if held.count.saturating_add(piece.count) > share.count {
            return Err(Full::Count);
        }
        if held.bytes.saturating_add(piece.bytes) > share.bytes {
            return Err(Full::Bytes);
        }
        Ok(())
    }

    /// Takes a piece on, if it may be. [`Self::leave`] must follow with the same piece.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn enter(&mut self, work: Work, piece: Share, behind: bool) -> Result<(), Full> {
        self.judge(work, piece, behind)?;
        let held = &mut self.held[work as usize];
        held.count += piece.count;
        held.bytes += piece.bytes;
        Ok(())
    }

    /// A piece that was taken on is done, or was given up.
    pub fn leave(&mut self, work: Work, piece: Share) {
        let held = &mut self.held[work as usize];
        held.count = held.count.saturating_sub(piece.count);
        held.bytes = held.bytes.saturating_sub(piece.bytes);
    }

    /// When those refused should come back, in milliseconds: spread evenly, so that they do not come back
    /// together.
    pub fn pause_ms(&self) -> u64 {
        1_000 * (1 + self.refused % 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Share = Share { count: 1, bytes: 10 };

    fn small() -> Admission {
        let clients = Share { count: 4, bytes: usize::MAX };
        Admission::new(Shares::new(clients, Share { count: 16, bytes: 800 }))
    }

    #[test]
    fn each_kind_has_a_share_that_no_other_can_take() {
        let mut all = small();
        for work in Work::ALL {
            let mut taken = 0;
            let full = loop {
                match all.enter(work, ONE, false) {
                    Ok(()) => taken += 1,
                    Err(full) => break full,
                }
            };
            let expected = match work {
                Work::Client => 4,
                Work::Replica => 16,
                Work::HandBack | Work::Repair | Work::Stream => 2,
            };
            assert_eq!((taken, full), (expected, Full::Count), "{}", work.name());
        }
        all.leave(Work::Repair, ONE);
        assert_eq!(all.enter(Work::Stream, ONE, false), Err(Full::Count));
        assert_eq!(all.enter(Work::Repair, ONE, false), Ok(()));
    }

    #[test]
    fn bytes_are_bounded_and_one_piece_always_fits() {
        let mut all = small();
        let large = Share { count: 1, bytes: 10_000 };
        assert_eq!(all.enter(Work::Replica, large, false), Ok(()));
        assert_eq!(all.enter(Work::Replica, ONE, false), Err(Full::Bytes));
        all.leave(Work::Replica, large);
        assert_eq!(all.enter(Work::Replica, ONE, false), Ok(()));
        let heavy = Share { count: 16, bytes: 0 };
        assert_eq!(all.enter(Work::Client, heavy, false), Ok(()));
        assert_eq!(all.enter(Work::Client, ONE, false), Err(Full::Count));
    }

    #[test]
    fn a_worker_that_is_behind_refuses_new_clients_and_what_can_wait_but_for_one() {
        let mut all = small();
        for work in Work::ALL {
            assert_eq!(all.enter(work, ONE, true), Ok(()), "the first: {}", work.name());
            let second = all.enter(work, ONE, true);
            let expected = if work == Work::Replica { Ok(()) } else { Err(Full::Behind) };
            assert_eq!(second, expected, "{}", work.name());
        }
    }

    #[test]
    fn those_refused_are_sent_away_for_different_times() {
        let mut all = small();
        all.enter(Work::Client, ONE, true).unwrap();
        let mut pauses: Vec<u64> = (0..6)
            .map(|_| {
                all.enter(Work::Client, ONE, true).unwrap_err();
                all.pause_ms()
            })
            .collect();
        pauses.sort_unstable();
        assert_eq!(pauses, [1_000, 1_000, 2_000, 2_000, 3_000, 3_000]);
    }

    proptest! {
        /// However work comes and goes, no kind holds more than its share, or than its largest piece.
        #[test]
        fn shares_are_kept(
            steps in prop::collection::vec(
                (0_usize..5, 1_usize..6, 0_usize..300, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let mut all = small();
            let mut inside: Vec<(Work, Share)> = Vec::new();
            for (which, count, bytes, behind, leaves) in steps {
                if leaves && let Some((work, piece)) = inside.pop() {
                    all.leave(work, piece);
                    continue;
                }
                let (work, piece) = (Work::ALL[which], Share { count, bytes });
                if all.enter(work, piece, behind).is_ok() {
                    inside.push((work, piece));
                }
                let (held, share) = (all.held(work), all.shares.of(work));
                prop_assert!(held.count <= share.count.max(5) && held.bytes <= share.bytes.max(300));
            }
            for (work, piece) in inside.drain(..) {
                all.leave(work, piece);
            }
            prop_assert!(all.is_idle());
        }
    }
}
