//! Faults as data: drawn from a seed, printed on one line, read back, made smaller.
//!
//! Each fault begins at a time and lasts for a time, on its own: any subset of a script is a script, which
//! is what makes shrinking possible. What is wrong at an instant is a function of the faults active then
//! (`story`), so overlapping faults need no order of repair.
//!
//! What may be drawn together is bounded by what copies can bear: at most one volume is lost, emptied or put back
//! in a script. Everything else may hit everybody at once.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use super::faults::Link;
use super::weather::Conditions;

/// What a crash leaves of the bytes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsynced {
    /// The process died: all of it.
    Kept,
    /// The power was cut: none of it.
    Dropped,
    /// Any sectors and names of it.
    Sectors,
    /// All up to a sector in the middle of the last append.
    Torn,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// A host is down.
    Crash(usize, Unsynced),
    /// A host stands still; afterwards it goes on with what arrived meanwhile.
    Pause(usize),
    /// A host rests so many milliseconds after each thing that it does.
    Slow(usize, u64),
    /// Each job of a host's disk takes so many milliseconds.
    Disk(usize, u64),
    /// A host's disk takes no more bytes.
    Full(usize),
    /// The hosts named and the others do not hear each other.
    Split(BTreeSet<usize>),
    /// Frames of the first never reach the second.
    Oneway(usize, usize),
    /// As a split, but the host that is named second hears both sides.
    Bridge(BTreeSet<usize>, usize),
    /// Links go one by one and come back in another order.
    Swizzle(usize),
    /// Frames are lost, doubled, late.
    Weather {
        /// Lost, in a thousand.
        loss: u32,
        /// Twice, in a thousand.
        twice: u32,
        /// Longest delay in milliseconds.
        delay: u64,
        /// Very late, in a thousand.
        late: u32,
    },
    /// A host's clock is wrong by so many milliseconds.
    Clock(usize, i64),
    /// A host comes back with an empty disk.
    Wipe(usize),
    /// A host comes back with its identity and without its data.
    Empty(usize),
    /// A host comes back with the disk that it had when the fault began.
    Rewind(usize),
    /// Two hosts come back with each other's disk.
    Swap(usize, usize),
}

/// How late a very late frame may be.
pub const LATE_MS: u64 = 150_000;

impl Fault {
    /// The kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash(..) => "crash",
            Self::Pause(_) => "pause",
            Self::Slow(..) => "slow",
            Self::Disk(..) => "disk",
            Self::Full(_) => "full",
            Self::Split(_) => "split",
            Self::Oneway(..) => "oneway",
            Self::Bridge(..) => "bridge",
            Self::Swizzle(_) => "swizzle",
            Self::Weather { .. } => "weather",
            Self::Clock(..) => "clock",
            Self::Wipe(_) => "wipe",
            Self::Empty(_) => "empty",
            Self::Rewind(_) => "rewind",
            Self::Swap(..) => "swap",
        }
    }

    /// Whether a volume is lost or older for ever after it.
    pub fn spoils(&self) -> bool {
        matches!(self, Self::Wipe(_) | Self::Empty(_) | Self::Rewind(_))
    }

    /// Whether the host is kept down while the fault is active.
    pub fn keeps_down(&self, host: usize) -> bool {
        match self {
            Self::Crash(h, _) | Self::Wipe(h) | Self::Empty(h) => *h == host,
            Self::Swap(a, b) => *a == host || *b == host,
            _ => false,
        }
    }

    /// The links that it cuts among so many hosts; `share` is how much of its time has passed, in percent.
    pub fn cuts(&self, hosts: usize, share: u64) -> BTreeSet<Link> {
        let pairs =
            (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b))).filter(|(a, b)| a != b);
        match self {
            Self::Split(side) => {
                pairs.filter(|(a, b)| side.contains(a) != side.contains(b)).collect()
            }
            Self::Bridge(side, both) => pairs
                .filter(|(a, b)| a != both && b != both && side.contains(a) != side.contains(b))
                .collect(),
            Self::Oneway(from, to) => BTreeSet::from([(*from, *to)]),
            Self::Swizzle(host) => pairs
                .filter(|(a, b)| a == host || b == host)
                .enumerate()
                .filter(|(turn, _)| {
                    let (turn, links) = (*turn as u64, 2 * (hosts as u64 - 1));
                    let back = 50 + 50 * ((turn * 3 + 1) % links) / links;
                    (50 * turn / links..back).contains(&share)
                })
                .map(|(_, link)| link)
                .collect(),
            _ => BTreeSet::new(),
        }
    }

    /// What it does to frames.
    pub fn conditions(&self) -> Conditions {
        match self {
            Self::Weather { loss, twice, delay, late } => Conditions {
                loss_permille: *loss,
                twice_permille: *twice,
                delay_ms: *delay,
                late_permille: *late,
                late_ms: LATE_MS,
            },
            _ => Conditions::default(),
        }
    }
}

/// A fault and when it happens, in milliseconds since the faults began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// When it begins.
    pub at: u64,
    /// How long it lasts.
    pub lasts: u64,
    /// What it is.
    pub fault: Fault,
}

/// Everything that goes wrong in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script(pub Vec<Timed>);

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Script {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

impl Script {
    /// Random faults for so many hosts within so many milliseconds, about one in 25 s.
    pub fn draw(rng: &mut SmallRng, hosts: usize, within_ms: u64) -> Self {
        let count = within_ms / 25_000 + rng.random_range(1..4);
        let mut script: Vec<Timed> = (0..count).map(|_| timed(rng, within_ms, hosts)).collect();
        if rng.random_range(0..4) == 0 {
            let host = rng.random_range(0..hosts);
            let kinds = [Fault::Wipe(host), Fault::Empty(host), Fault::Rewind(host)];
            let fault = kinds[rng.random_range(0..kinds.len())].clone();
            let at = rng.random_range(0..within_ms / 2);
            script.push(Timed { at, lasts: rng.random_range(5_000..40_000), fault });
        }
        script.sort_by_key(|t| t.at);
        Self(script)
    }

    /// Whether a volume is lost or older for ever after it.
    pub fn spoils(&self) -> bool {
        self.0.iter().any(|t| t.fault.spoils())
    }

    /// A smaller script for which `fails` still holds, by leaving out ever smaller parts; at most `tries` trials.
    #[must_use]
    pub fn shrunk(&self, mut tries: u32, mut fails: impl FnMut(&Script) -> bool) -> Script {
        let mut best = self.clone();
        let mut part = best.0.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            let before = best.0.len();
            while from < best.0.len() && tries > 0 {
                let mut smaller = best.clone();
                smaller.0.drain(from..(from + part).min(smaller.0.len()));
                tries -= 1;
                if fails(&smaller) {
                    best = smaller;
                } else {
                    from += part;
                }
            }
            if tries == 0 || (part == 1 && best.0.len() == before) {
                return best;
            }
            part = part.div_ceil(2).max(1);
        }
    }
}

fn timed(rng: &mut SmallRng, within_ms: u64, hosts: usize) -> Timed {
    let at = rng.random_range(0..within_ms);
    let lasts = match rng.random_range(0..4) {
        0 => rng.random_range(200..3_000),
        1 | 2 => rng.random_range(2_000..20_000),
        _ => rng.random_range(10_000..60_000),
    };
    Timed { at, lasts, fault: drawn(rng, hosts) }
}

pub(super) fn drawn(rng: &mut SmallRng, hosts: usize) -> Fault {
    let host = rng.random_range(0..hosts);
    let other = (host + rng.random_range(1..hosts)) % hosts;
    let side = |rng: &mut SmallRng| {
        let mut side: BTreeSet<usize> = (0..hosts).filter(|_| rng.random()).collect();
        if side.is_empty() || side.len() == hosts {
            side = BTreeSet::from([host]);
        }
        side
    };
    match rng.random_range(0..24) {
        0..=4 => {
            let kinds = [Unsynced::Kept, Unsynced::Dropped, Unsynced::Sectors, Unsynced::Torn];
            Fault::Crash(host, kinds[rng.random_range(0..kinds.len())])
        }
        5 | 6 => Fault::Pause(host),
        7 => Fault::Slow(host, rng.random_range(5..100)),
        8 | 9 => Fault::Disk(host, rng.random_range(5..500)),
        10 => Fault::Full(host),
        11..=13 => Fault::Split(side(rng)),
        14 | 15 => Fault::Oneway(host, other),
        16 => Fault::Bridge(side(rng), other),
        17 => Fault::Swizzle(host),
        18..=20 => Fault::Weather {
            loss: rng.random_range(0..300),
            twice: rng.random_range(0..500),
            delay: rng.random_range(1..500),
            late: rng.random_range(0..20),
        },
        21 | 22 => {
            let wrong: i64 = rng.random_range(-3_600_000..3_600_000);
            Fault::Clock(host, if rng.random() { wrong } else { wrong / 100 })
        }
        _ => Fault::Swap(host, other),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn scripts_come_from_their_seed_and_survive_a_line_of_text() {
        let draw = |seed| Script::draw(&mut SmallRng::seed_from_u64(seed), 5, 480_000);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for seed in 0..200 {
            let script = draw(seed);
            let line = script.to_string();
            assert!(!line.contains('\n') && !line.contains('\''), "{line}");
            assert_eq!(line.parse::<Script>().unwrap(), script);
            assert!(script.0.iter().filter(|t| t.fault.spoils()).count() <= 1);
        }
    }

    #[test]
    fn shrinking_keeps_exactly_what_is_needed() {
        let script = Script::draw(&mut SmallRng::seed_from_u64(3), 5, 480_000);
        assert!(script.0.len() > 12);
        let needed = [script.0[4].clone(), script.0[11].clone()];
        let shrunk = script.shrunk(1_000, |s| needed.iter().all(|n| s.0.contains(n)));
        assert_eq!(shrunk.0, needed);
        let none = script.shrunk(3, |_| false);
        assert_eq!(none, script);
    }

    #[test]
    fn links_are_cut_as_the_words_say() {
        let split = Fault::Split(BTreeSet::from([0, 1])).cuts(5, 0);
        assert_eq!(split.len(), 12);
        let bridge = Fault::Bridge(BTreeSet::from([0, 1]), 4).cuts(5, 0);
        assert!(bridge.len() == 8 && bridge.iter().all(|(a, b)| *a != 4 && *b != 4));
        let swizzle = |share| Fault::Swizzle(2).cuts(5, share).len();
        assert!(swizzle(0) < swizzle(25) && swizzle(45) == 8 && swizzle(95) < 8, "{}", swizzle(45));
    }
}
