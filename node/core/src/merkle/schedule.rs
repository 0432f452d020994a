//! With whom to compare next: those first whose hints may not tell them all that they missed, then what
//! somebody asked for, then everyone in turn, each once per interval.
//!
//! A comparison names one neighbour and all partitions that both own, so a pass over equal replicas costs
//! one question each. What each pair of replicas last came to is remembered: how old the oldest
//! comparison is, and how many partitions are known to differ.

use super::exchange::{Compared, Tally};
use crate::id::NodeId;
use crate::ring::Partition;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A comparison that failed is tried again after this time, if the interval is not shorter.
const RETRY_MS: u64 = 5_000;
/// Requested rounds that wait for another; more are refused.
const ROUNDS_MAX: usize = 16;
/// Comparisons that are remembered for the status.
const PAST_MAX: usize = 8;

/// With whom this node shares partitions, and who of them is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The ring has 2^k partitions.
    pub k: u8,
    /// For each other owner the partitions that this node owns too.
    pub shared: BTreeMap<NodeId, Vec<u32>>,
    /// Who is not held for down.
    pub up: BTreeSet<NodeId>,
    /// Hints that this node ever dropped or let expire.
    pub hints_lost: u64,
}

/// What a requested round covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only these partitions; all when there are none named.
    pub partitions: Option<BTreeSet<u32>>,
    /// Only keys of this bucket.
    pub bucket: Option<Bytes>,
    /// The operation that asked for it.
    pub operation: Option<String>,
}

/// A comparison to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// With whom.
    pub peer: NodeId,
    /// The ring has 2^k partitions.
    pub k: u8,
    /// Which of them.
    pub partitions: Vec<u32>,
    /// Only keys of this bucket.
    pub bucket: Option<Bytes>,
    /// Why it is made now.
    pub cause: Cause,
}

/// Why a comparison is made, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The neighbour was away for longer than hints last, or hints were lost meanwhile.
    Returned,
    /// It belongs to the requested round.
    Asked,
    /// It is the neighbour's turn.
    Turn,
}

/// A comparison that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// With whom.
    pub peer: NodeId,
    /// Why it was made.
    pub cause: Cause,
    /// Partitions that it was about.
    pub partitions: u32,
    /// Those that are known to be equal since.
    pub equal: u32,
    /// Keys that changed on either side.
    pub mended: u64,
}

/// A requested round, running or the last one that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What it covers.
    pub scope: Scope,
    /// Pairs of replicas to compare.
    pub total: u32,
    /// Pairs that were compared.
    pub done: u32,
    /// Pairs given up: the neighbour is down, did not answer, or a tree could not be relied upon.
    pub skipped: u32,
    /// Keys that changed on either side.
    pub mended: u64,
    /// Bytes sent and received.
    pub bytes: u64,
    /// It is over.
    pub finished: bool,
    waiting: BTreeSet<NodeId>,
}

/// Figures for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Partitions that some neighbour holds otherwise, as far as is known.
    pub differing: u64,
    /// Pairs of replicas that were never compared.
    pub never: u64,
    /// Age of the oldest comparison of a pair; of the pair itself, if it was never compared.
    pub oldest_ms: u64,
    /// Neighbours to be compared with before others.
    pub urgent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    since_ms: u64,
    at_ms: Option<u64>,
    differs: bool,
}

#[derive(Debug, Default)]
struct Peer {
    pairs: BTreeMap<u32, Pair>,
    up: bool,
    tried_ms: Option<u64>,
    failed: bool,
    /// When it went down, and the hints lost until then.
    down: Option<(u64, u64)>,
    urgent: bool,
}

/// Decides with whom to compare next.
#[derive(Debug)]
pub struct Schedule {
    interval_ms: u64,
    window_ms: u64,
    k: u8,
    peers: BTreeMap<NodeId, Peer>,
    round: Option<Round>,
    queue: VecDeque<Scope>,
    past: VecDeque<Past>,
    paused: bool,
}

impl Schedule {
    /// Everyone once per `interval_ms`; whoever was down for `window_ms` or more is compared with first.
    pub fn new(interval_ms: u64, window_ms: u64) -> Self {
        Self {
            interval_ms,
            window_ms,
            k: 0,
            peers: BTreeMap::new(),
            round: None,
            queue: VecDeque::new(),
            past: VecDeque::new(),
            paused: false,
        }
    }

    /// Takes in who is there.
    pub fn update(&mut self, now_ms: u64, now: &Neighbours) {
        if self.k != now.k {
            self.peers.values_mut().for_each(|peer| peer.pairs.clear());
            self.k = now.k;
        }
        self.peers.retain(|node, _| now.shared.contains_key(node));
        for (node, partitions) in &now.shared {
            let peer = self.peers.entry(*node).or_default();
            let shared: BTreeSet<u32> = partitions.iter().copied().collect();
            peer.pairs.retain(|index, _| shared.contains(index));
            for index in shared {
                let new = Pair { since_ms: now_ms, at_ms: None, differs: false };
                peer.pairs.entry(index).or_insert(new);
            }
            peer.up = now.up.contains(node);
            match peer.down {
                None if !peer.up => peer.down = Some((now_ms, now.hints_lost)),
                Some((since, lost)) if peer.up => {
                    let long = now_ms.saturating_sub(since) >= self.window_ms;
                    peer.urgent |= long || now.hints_lost > lost;
                    peer.down = None;
                }
                _ => {}
            }
        }
    }

    /// Stops everything until [`Self::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Asks for a round. False if too many wait already.
    pub fn request(&mut self, scope: Scope) -> bool {
        if self.round.as_ref().is_none_or(|round| round.finished) {
            self.round = Some(self.begin(scope));
            return true;
        }
        let room = self.queue.len() < ROUNDS_MAX;
        if room {
            self.queue.push_back(scope);
        }
        room
    }

    fn begin(&self, scope: Scope) -> Round {
        let pairs = |peer: &Peer| covered(peer, &scope).len() as u32;
        let waiting: BTreeSet<NodeId> =
            self.peers.iter().filter(|(_, p)| pairs(p) > 0).map(|(n, _)| *n).collect();
        let total = self.peers.values().map(pairs).sum();
        Round { total, finished: waiting.is_empty(), waiting, scope, ..Round::default() }
    }

    /// The requested round that runs, or the last one.
    pub fn round(&self) -> Option<&Round> {
        self.round.as_ref()
    }

    /// The next comparison, if one is due.
    pub fn next(&mut self, now_ms: u64) -> Option<Job> {
        if self.paused {
            return None;
        }
        let urgent = self.peers.iter().find(|(_, peer)| peer.urgent && peer.due(now_ms, 0));
        if let Some((node, peer)) = urgent {
            return Some(self.job(*node, covered(peer, &Scope::default()), None, Cause::Returned));
        }
        if let Some(job) = self.next_of_round() {
            return Some(job);
        }
        let due = self.peers.iter().filter(|(_, peer)| peer.due(now_ms, self.interval_ms));
        let (node, peer) = due.min_by_key(|(_, peer)| peer.tried_ms)?;
        Some(self.job(*node, covered(peer, &Scope::default()), None, Cause::Turn))
    }

    fn job(&self, peer: NodeId, partitions: Vec<u32>, bucket: Option<Bytes>, cause: Cause) -> Job {
        Job { peer, k: self.k, partitions, bucket, cause }
    }

    fn next_of_round(&mut self) -> Option<Job> {
        loop {
            let round = self.round.as_mut().filter(|round| !round.finished)?;
            let up = |node: &&NodeId| self.peers.get(*node).is_some_and(|peer| peer.up);
            if let Some(node) = round.waiting.iter().find(up).copied() {
                let (partitions, bucket) =
                    (covered(&self.peers[&node], &round.scope), round.scope.bucket.clone());
                return Some(self.job(node, partitions, bucket, Cause::Asked));
            }
            // Whoever is left is down or shares nothing any more.
            round.waiting.clear();
            round.skipped = round.total.saturating_sub(round.done);
            round.finished = true;
            let next = self.queue.pop_front()?;
            self.round = Some(self.begin(next));
        }
    }

    /// A comparison ended; `through` says whether it came to its end.
    pub fn done(
        &mut self,
        now_ms: u64,
        job: &Job,
        (compared, through): (&[(u32, Compared)], bool),
        (tally, bytes): (Tally, u64),
    ) {
        let equal = compared.iter().filter(|(_, compared)| *compared == Compared::Equal).count();
        self.past.truncate(PAST_MAX - 1);
        self.past.push_front(Past {
            peer: job.peer,
            cause: job.cause,
            partitions: job.partitions.len() as u32,
            equal: equal as u32,
            mended: tally.mended,
        });
        let asked = job.cause == Cause::Asked;
        if let Some(round) = self.round.as_mut().filter(|round| asked && !round.finished) {
            round.waiting.remove(&job.peer);
            round.done += equal as u32;
            round.skipped += (job.partitions.len() - equal.min(job.partitions.len())) as u32;
            round.mended += tally.mended;
            round.bytes += bytes;
        }
        let Some(peer) = self.peers.get_mut(&job.peer) else { return };
        peer.tried_ms = Some(now_ms);
        peer.failed = !through;
        peer.urgent &= !(through && job.bucket.is_none());
        // What was mended in one bucket says nothing of the others.
        for (index, compared) in compared.iter().filter(|_| job.bucket.is_none()) {
            let Some(pair) = peer.pairs.get_mut(index).filter(|_| job.k == self.k) else {
                continue;
            };
            match compared {
                Compared::Equal => (pair.at_ms, pair.differs) = (Some(now_ms), false),
                Compared::Differs => pair.differs = true,
                Compared::Unknown => {}
            }
        }
    }

    /// The last comparisons, the newest first; a few.
    pub fn past(&self) -> impl Iterator<Item = Past> + '_ {
        self.past.iter().copied()
    }

    /// Neighbours to be compared with before others, each with the number of partitions to compare.
    pub fn first(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        let first = self.peers.iter().filter(|(_, peer)| peer.urgent);
        first.map(|(node, peer)| (*node, peer.pairs.len() as u32))
    }

    /// For each partition that is compared with anybody, the age of its oldest comparison; of a pair of
    /// replicas itself, if it was never compared.
    pub fn ages(&self, now_ms: u64) -> BTreeMap<Partition, u64> {
        let mut ages = BTreeMap::new();
        for (index, pair) in self.peers.values().flat_map(|peer| &peer.pairs) {
            let age = now_ms.saturating_sub(pair.at_ms.unwrap_or(pair.since_ms));
            let oldest = ages.entry(Partition { k: self.k, index: *index }).or_insert(age);
            *oldest = age.max(*oldest);
        }
        ages
    }

    /// Figures for status and metrics.
    pub fn figures(&self, now_ms: u64) -> Figures {
        let pairs = || self.peers.values().flat_map(|peer| &peer.pairs);
        let differing: BTreeSet<u32> =
            pairs().filter(|(_, pair)| pair.differs).map(|(index, _)| *index).collect();
        let oldest = pairs().map(|(_, pair)| pair.at_ms.unwrap_or(pair.since_ms)).min();
        Figures {
            differing: differing.len() as u64,
            never: pairs().filter(|(_, pair)| pair.at_ms.is_none()).count() as u64,
            oldest_ms: oldest.map_or(0, |at| now_ms.saturating_sub(at)),
            urgent: self.peers.values().filter(|peer| peer.urgent).count() as u64,
        }
    }
}

impl Peer {
    fn due(&self, now_ms: u64, interval_ms: u64) -> bool {
        let pause = match self.failed {
            true if interval_ms == 0 => RETRY_MS,
            true => RETRY_MS.min(interval_ms),
            false => interval_ms,
        };
        let due = self.tried_ms.is_none_or(|tried| now_ms.saturating_sub(tried) >= pause);
        self.up && due && !self.pairs.is_empty()
    }
}

fn covered(peer: &Peer, scope: &Scope) -> Vec<u32> {
    let named = |index: &u32| scope.partitions.as_ref().is_none_or(|named| named.contains(index));
    peer.pairs.keys().copied().filter(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::node;

    fn with(up: &[u8], hints_lost: u64) -> Neighbours {
        let shared = BTreeMap::from([(node(1), vec![0, 1, 2]), (node(2), vec![2, 3])]);
        Neighbours { k: 2, shared, up: up.iter().map(|n| node(*n)).collect(), hints_lost }
    }

    fn end(schedule: &mut Schedule, now_ms: u64, job: &Job, as_what: Compared) {
        let compared: Vec<_> = job.partitions.iter().map(|index| (*index, as_what)).collect();
        let (through, tally) =
            (as_what != Compared::Differs, Tally { mended: 1, ..Tally::default() });
        schedule.done(now_ms, job, (&compared, through), (tally, 100));
    }

    #[test]
    fn everyone_has_a_turn_per_interval_and_failures_come_again_soon() {
        let mut schedule = Schedule::new(60_000, 1_000_000);
        schedule.update(0, &with(&[1, 2], 0));
        let first = schedule.next(0).unwrap();
        assert_eq!((first.peer, &first.partitions[..]), (node(1), &[0, 1, 2][..]));
        assert_eq!(schedule.figures(7).never, 5);
        end(&mut schedule, 0, &first, Compared::Equal);
        let second = schedule.next(1).unwrap();
        assert_eq!(second.peer, node(2));
        end(&mut schedule, 1, &second, Compared::Differs);
        assert_eq!(schedule.figures(1).differing, 2);
        assert_eq!(schedule.next(2), None);
        assert_eq!(schedule.next(5_001).map(|job| job.peer), Some(node(2)), "it failed");
        end(&mut schedule, 5_001, &second, Compared::Equal);
        assert_eq!(schedule.figures(8_000), Figures { oldest_ms: 8_000, ..Figures::default() });
        let ages: Vec<(u32, u64)> =
            schedule.ages(8_000).into_iter().map(|(p, age)| (p.index, age)).collect();
        assert_eq!(ages, [(0, 8_000), (1, 8_000), (2, 8_000), (3, 2_999)]);
        assert_eq!(schedule.next(60_000).map(|job| job.peer), Some(node(1)));
        schedule.update(60_000, &with(&[2], 0));
        assert_eq!(schedule.next(60_000), None, "down");
        schedule.update(60_000, &Neighbours { k: 3, ..with(&[1, 2], 0) });
        assert_eq!(schedule.figures(60_000).never, 5, "another ring has to be compared anew");
    }

    #[test]
    fn who_was_away_longer_than_hints_last_comes_first() {
        let mut schedule = Schedule::new(60_000, 10_000);
        schedule.update(0, &with(&[1, 2], 0));
        for at in [0, 1] {
            let job = schedule.next(at).unwrap();
            end(&mut schedule, at, &job, Compared::Equal);
        }
        for (away, lost, urgent) in [(9_999, 0, false), (10_000, 0, true), (5, 1, true)] {
            schedule.update(100, &with(&[1], 0));
            schedule.update(100 + away, &with(&[1, 2], lost));
            assert_eq!(schedule.figures(0).urgent, u64::from(urgent), "{away} {lost}");
            let first: Vec<_> = schedule.first().collect();
            assert_eq!(first, if urgent { vec![(node(2), 2)] } else { vec![] });
            let job = schedule.next(100 + away);
            assert_eq!(job.as_ref().map(|job| job.peer), urgent.then_some(node(2)));
            if let Some(job) = job {
                assert_eq!(job.partitions, [2, 3], "exactly what both own");
                end(&mut schedule, 100 + away, &job, Compared::Equal);
                let past = schedule.past().next().unwrap();
                assert_eq!((past.peer, past.cause), (node(2), Cause::Returned));
                assert_eq!((past.partitions, past.equal, past.mended), (2, 2, 1));
            }
        }
        for at in 0..20 {
            let job = schedule.job(node(1), vec![at], None, Cause::Turn);
            end(&mut schedule, 0, &job, Compared::Equal);
        }
        assert_eq!(schedule.past().count(), PAST_MAX);
    }

    #[test]
    fn who_was_away_goes_before_what_was_asked_for() {
        let mut schedule = Schedule::new(60_000, 10_000);
        schedule.update(0, &with(&[1], 0));
        assert!(schedule.request(Scope::default()));
        schedule.update(20_000, &with(&[1, 2], 0));
        let job = schedule.next(20_000).unwrap();
        assert_eq!((job.peer, job.cause), (node(2), Cause::Returned));
        end(&mut schedule, 20_000, &job, Compared::Equal);
        assert_eq!(schedule.round().unwrap().done, 0, "it is no part of the round");
        let job = schedule.next(20_000).unwrap();
        assert_eq!((job.peer, job.cause), (node(1), Cause::Asked));
    }

    #[test]
    fn a_requested_round_covers_what_was_asked_for_and_ends() {
        let mut schedule = Schedule::new(60_000, 10_000);
        schedule.update(0, &with(&[1, 2], 0));
        let scope = Scope { partitions: Some([2].into()), ..Scope::default() };
        assert!(schedule.request(scope.clone()));
        assert!(schedule.request(Scope::default()), "waits");
        let round = schedule.round().unwrap();
        assert_eq!((round.total, round.finished), (2, false));
        let first = schedule.next(0).unwrap();
        assert_eq!((first.peer, &first.partitions[..]), (node(1), &[2][..]));
        end(&mut schedule, 0, &first, Compared::Equal);
        schedule.update(1, &with(&[1], 0));
        assert_eq!(schedule.next(1).unwrap().partitions, [0, 1, 2], "the next round");
        assert_eq!(schedule.round().unwrap().total, 5);
        schedule.pause();
        assert_eq!(schedule.next(1), None);
        schedule.resume();
        let job = schedule.next(1).unwrap();
        end(&mut schedule, 1, &job, Compared::Unknown);
        assert_eq!(schedule.next(1), None);
        let round = schedule.round().unwrap();
        assert_eq!((round.finished, round.done, round.skipped, round.mended), (true, 0, 5, 1));
        for _ in 0..=ROUNDS_MAX {
            assert!(schedule.request(scope.clone()));
        }
        assert!(!schedule.request(scope), "too many wait");
    }
}
