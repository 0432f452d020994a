//! Small-state model explorer for the protocol models.
//!
//! A protocol is written as a [`Model`]: its initial states, the steps possible from a state, and
//! the promise that every reachable state must keep. [`search`] visits *every* reachable state,
//! breadth first, so the first break it reports has a shortest possible trace; [`walk`] takes long
//! random paths through spaces that are too large for that.
//!
//! The visited set keeps a 128-bit fingerprint per state and one parent link, so a trace is rebuilt
//! by replaying steps: `Model::steps` must list the same steps in the same order each time it is
//! asked about the same state. Two states with equal fingerprints would be taken for one; at the
//! tens of millions of states seen here the chance is below 2^-70.
//!
//! After explicit-state model checking as in Holzmann, "The Model Checker SPIN" (1997).

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A protocol small enough to be searched.
pub trait Model {
    /// Everything that matters about the system at one moment. Keep it small and canonical: two
    /// situations that cannot be told apart should be equal values.
    type State: Clone + Hash;
    /// One atomic step, printed in traces.
    type Step: fmt::Debug;

    /// Where a run may begin.
    fn initial(&self) -> Vec<Self::State>;

    /// Adds every step possible from `state` with the state it leads to. Steps that change nothing
    /// may be left out. The order must depend on `state` alone.
    fn steps(&self, state: &Self::State, out: &mut Vec<(Self::Step, Self::State)>);

    /// Says which promise `state` breaks, or `None`.
    fn broken(&self, state: &Self::State) -> Option<String>;

    /// A one-line picture of `state` for traces.
    fn show(&self, _state: &Self::State) -> String {
        String::new()
    }
}

/// What a search or a walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A reachable state breaks a promise.
    Broken {
        /// The promise, in the model's words.
        why: String,
        /// Steps from an initial state to the break: minimal if found by [`search`].
        steps: usize,
        /// Distinct states seen so far (for walks: steps taken).
        states: usize,
        /// The run, one line per step.
        trace: String,
    },
    /// Every reachable state was seen and keeps every promise.
    Complete {
        /// Distinct states.
        states: usize,
        /// Length of the longest shortest path.
        depth: usize,
    },
    /// No break found before the bound was reached; says nothing about the rest.
    Bounded {
        /// Distinct states seen (for walks: steps taken).
        states: usize,
        /// Deepest level that was fully seen (for walks: length of a walk).
        depth: usize,
    },
}

impl Verdict {
    /// True unless a promise was broken.
    pub fn holds(&self) -> bool {
        !matches!(self, Verdict::Broken { .. })
    }

    /// True if every reachable state was seen and keeps every promise.
    pub fn is_complete(&self) -> bool {
        matches!(self, Verdict::Complete { .. })
    }

    /// Steps to the break, if there is one.
    pub fn broken_in(&self) -> Option<usize> {
        match self {
            Verdict::Broken { steps, .. } => Some(*steps),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Broken { why, steps, states, trace } => {
                write!(f, "BROKEN in {steps} steps ({states} states): {why}\n{trace}")
            }
            Verdict::Complete { states, depth } => {
                write!(f, "complete: {states} states, depth {depth}, no break")
            }
            Verdict::Bounded { states, depth } => {
                write!(f, "bounded: {states} states, depth {depth}, no break")
            }
        }
    }
}

/// A 128-bit fingerprint of what `Hash` feeds: two lanes of multiply-and-fold with different
/// constants. Written out here because it is the inner loop of every search.
struct Fingerprint(u64, u64);

impl Fingerprint {
    fn of<S: Hash>(state: &S) -> u128 {
        let mut lanes = Fingerprint(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
        state.hash(&mut lanes);
        lanes.write_u64(0);
        u128::from(lanes.0) << 64 | u128::from(lanes.1)
    }
}

fn fold(value: u64, factor: u64) -> u64 {
    let product = u128::from(value) * u128::from(factor);
    (product >> 64) as u64 ^ product as u64
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0 ^ value, 0x9e37_79b9_7f4a_7c15);
        self.1 = fold(self.1.rotate_left(23) ^ value, 0xd6e8_feb8_6659_fd93);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Fingerprints are already well mixed: their low half serves as the hash.
#[derive(Default)]
struct AlreadyMixed(u64);

impl Hasher for AlreadyMixed {
    fn write(&mut self, bytes: &[u8]) {
        for (place, byte) in self.0.to_le_bytes().iter_mut().zip(bytes) {
            *place ^= byte;
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Seen = HashSet<u128, BuildHasherDefault<AlreadyMixed>>;

/// How a state was first reached: from which state, by which of its steps.
#[derive(Clone, Copy)]
struct Link {
    parent: u32,
    choice: u16,
}

/// Parent of an initial state.
const ROOT: u32 = u32::MAX;

/// Visits every reachable state, breadth first, until one breaks a promise, none is left, or more
/// than `max_states` were seen.
///
/// # Panics
/// If a state has more than 65,535 steps or more than 2^32 - 2 states are asked for: the model is
/// not small.
pub fn search<M: Model>(model: &M, max_states: usize) -> Verdict {
    assert!(max_states < ROOT as usize, "max_states must fit in 32 bits");
    let mut seen = Seen::default();
    let mut links: Vec<Link> = Vec::new();
    let mut level: Vec<(u32, M::State)> = Vec::new();
    for (index, state) in model.initial().into_iter().enumerate() {
        if seen.insert(Fingerprint::of(&state)) {
            let link = Link { parent: ROOT, choice: narrow(index) };
            if let Some(why) = model.broken(&state) {
                links.push(link);
                return broken(model, &links, why);
            }
            level.push((links.len() as u32, state));
            links.push(link);
        }
    }

    let mut depth = 0;
    let mut steps = Vec::new();
    loop {
        let mut next_level = Vec::new();
        for (id, state) in &level {
            model.steps(state, &mut steps);
            for (choice, (_, successor)) in steps.drain(..).enumerate() {
                if !seen.insert(Fingerprint::of(&successor)) {
                    continue;
                }
                links.push(Link { parent: *id, choice: narrow(choice) });
                if let Some(why) = model.broken(&successor) {
                    return broken(model, &links, why);
                }
                next_level.push(((links.len() - 1) as u32, successor));
            }
            if links.len() > max_states {
                return Verdict::Bounded { states: links.len(), depth };
            }
        }
        if next_level.is_empty() {
            return Verdict::Complete { states: links.len(), depth };
        }
        level = next_level;
        depth += 1;
    }
}

fn narrow(choice: usize) -> u16 {
    u16::try_from(choice).expect("a small model has fewer than 65,536 steps from any state")
}

/// The verdict for the state that `links` ends with, with its trace replayed from the start.
fn broken<M: Model>(model: &M, links: &[Link], why: String) -> Verdict {
    let mut choices = Vec::new();
    let mut at = links.len() - 1;
    let first = loop {
        let link = links[at];
        if link.parent == ROOT {
            break link.choice;
        }
        choices.push(link.choice);
        at = link.parent as usize;
    };
    choices.reverse();

    let mut state = model.initial().swap_remove(first as usize);
    let mut trace = Trace::from(model, &state);
    for choice in &choices {
        let mut steps = Vec::new();
        model.steps(&state, &mut steps);
        let (step, successor) = steps.swap_remove(*choice as usize);
        trace.push(model, &step, &successor);
        state = successor;
    }
    Verdict::Broken { why, steps: choices.len(), states: links.len(), trace: trace.0 }
}

/// The printed run of a model.
struct Trace(String);

impl Trace {
    fn from<M: Model>(model: &M, state: &M::State) -> Self {
        Self(format!("      start  {}\n", model.show(state)))
    }

    fn push<M: Model>(&mut self, model: &M, step: &M::Step, state: &M::State) {
        let number = self.0.lines().count().div_ceil(2);
        self.0 += &format!("  {number:>3}. {step:?}\n             {}\n", model.show(state));
    }
}

/// How far [`walk`] goes.
#[derive(Debug, Clone, Copy)]
pub struct Walks {
    /// How many walks, each from an initial state.
    pub count: usize,
    /// Steps per walk at most (a walk also ends where no step is possible).
    pub length: usize,
    /// Same seed, same walks.
    pub seed: u64,
}

/// Takes random walks through the model; the first break found ends it. Traces are not minimal.
pub fn walk<M: Model>(model: &M, walks: Walks) -> Verdict {
    let mut draw = Draw(walks.seed);
    let starts = model.initial();
    let mut taken = 0;
    let mut steps = Vec::new();
    for number in 0..walks.count {
        let seed = draw.0;
        let mut state = starts[draw.below(starts.len())].clone();
        for length in 0..walks.length {
            steps.clear();
            model.steps(&state, &mut steps);
            if steps.is_empty() {
                break;
            }
            taken += 1;
            state = steps.swap_remove(draw.below(steps.len())).1;
            if let Some(why) = model.broken(&state) {
                let why = format!("{why} (walk {number} of seed {})", walks.seed);
                let trace = replay(model, seed, length + 1);
                return Verdict::Broken { why, steps: length + 1, states: taken, trace };
            }
        }
    }
    Verdict::Bounded { states: taken, depth: walks.length }
}

/// Prints the walk of `length` steps that begins with this state of the generator.
fn replay<M: Model>(model: &M, seed: u64, length: usize) -> String {
    let mut draw = Draw(seed);
    let starts = model.initial();
    let mut state = starts[draw.below(starts.len())].clone();
    let mut trace = Trace::from(model, &state);
    for _ in 0..length {
        let mut steps = Vec::new();
        model.steps(&state, &mut steps);
        let (step, successor) = steps.swap_remove(draw.below(steps.len()));
        trace.push(model, &step, &successor);
        state = successor;
    }
    trace.0
}

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, seeded, good enough to pick steps.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two jugs of 3 and 5 litres (Die Hard 3): the promise "never exactly 4 litres" is broken in
    /// 6 steps and no fewer.
    struct Jugs {
        forbidden: u8,
    }

    #[derive(Debug)]
    enum Pour {
        FillSmall,
        FillBig,
        EmptySmall,
        EmptyBig,
        SmallToBig,
        BigToSmall,
    }

    impl Model for Jugs {
        type State = (u8, u8);
        type Step = Pour;

        fn initial(&self) -> Vec<(u8, u8)> {
            vec![(0, 0)]
        }

        fn steps(&self, &(small, big): &(u8, u8), out: &mut Vec<(Pour, (u8, u8))>) {
            out.push((Pour::FillSmall, (3, big)));
            out.push((Pour::FillBig, (small, 5)));
            out.push((Pour::EmptySmall, (0, big)));
            out.push((Pour::EmptyBig, (small, 0)));
            let amount = small.min(5 - big);
            out.push((Pour::SmallToBig, (small - amount, big + amount)));
            let amount = big.min(3 - small);
            out.push((Pour::BigToSmall, (small + amount, big - amount)));
        }

        fn broken(&self, &(_, big): &(u8, u8)) -> Option<String> {
            (big == self.forbidden).then(|| format!("{big} litres"))
        }

        fn show(&self, state: &(u8, u8)) -> String {
            format!("{state:?}")
        }
    }

    #[test]
    fn search_finds_a_shortest_break_and_prints_it() {
        let verdict = search(&Jugs { forbidden: 4 }, 1_000);
        let Verdict::Broken { steps, trace, .. } = &verdict else { panic!("{verdict}") };
        assert_eq!(*steps, 6);
        assert!(trace.contains("FillBig") && trace.contains("(3, 4)"), "{trace}");
    }

    #[test]
    fn search_sees_every_state_or_says_that_it_did_not() {
        assert_eq!(
            search(&Jugs { forbidden: 9 }, 1_000),
            Verdict::Complete { states: 16, depth: 7 }
        );
        assert!(matches!(search(&Jugs { forbidden: 9 }, 5), Verdict::Bounded { .. }));
    }

    #[test]
    fn an_initial_state_may_be_the_break() {
        assert_eq!(search(&Jugs { forbidden: 0 }, 10).broken_in(), Some(0));
    }

    #[test]
    fn walks_find_the_break_too_and_repeat_by_seed() {
        let walks = Walks { count: 200, length: 60, seed: 7 };
        let first = walk(&Jugs { forbidden: 4 }, walks);
        assert!(!first.holds());
        assert_eq!(first, walk(&Jugs { forbidden: 4 }, walks));
        let Verdict::Broken { trace, .. } = first else { unreachable!() };
        assert!(trace.trim_end().ends_with(", 4)"), "{trace}");
        assert!(walk(&Jugs { forbidden: 9 }, walks).holds());
    }
}
