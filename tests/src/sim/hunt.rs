//! Many stories: seeds spread over threads, failures made smaller and printed as one line that repeats them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::script::Script;
use super::story::{Story, Told, tell};
use crate::check::{Violation, Work};

/// Trials that shrinking may take.
const SHRINK_TRIALS: u32 = 40;

/// What many stories came to.
#[derive(Debug, Default)]
pub struct Hunt {
    /// Stories told.
    pub stories: u64,
    /// Simulated time of all of them.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Operations by outcome: ok, fail, unknown.
    pub outcomes: [usize; 3],
    /// Reads that showed several values.
    pub conflicts: usize,
    /// Sets that reclaim erased.
    pub erased: u64,
    /// Rows that reclaim dropped from contexts.
    pub folded: u64,
    /// Pieces of copies that moved.
    pub moved: u64,
    /// How often each kind of fault happened.
    pub fired: BTreeMap<&'static str, u32>,
    /// What the nodes did.
    pub work: Work,
    /// The least share of operations that overlapped a fault, in percent.
    pub least_overlap: usize,
    /// Seeds that broke a rule, with the first violation and the line that repeats it.
    pub failures: Vec<(u64, String)>,
}

impl fmt::Display for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, took) = (self.simulated.as_secs_f64(), self.took.as_secs_f64());
        writeln!(
            f,
            "{} stories, {:.2} simulated hours in {took:.0} s: {:.0} simulated seconds per second",
            self.stories,
            simulated / 3_600.0,
            simulated / took.max(0.001)
        )?;
        writeln!(
            f,
            "operations ok/fail/unknown {:?}, conflicts shown {}, sets erased {}, rows folded {}",
            self.outcomes, self.conflicts, self.erased, self.folded
        )?;
        writeln!(f, "work: {}", self.work)?;
        write!(f, "faults {:?}, least overlap {} %", self.fired, self.least_overlap)?;
        for (_, line) in &self.failures {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

impl Hunt {
    fn add(&mut self, seed: u64, told: &Told) {
        self.least_overlap = match self.stories {
            0 => told.overlapped,
            _ => self.least_overlap.min(told.overlapped),
        };
        self.stories += 1;
        self.simulated += told.simulated;
        self.conflicts += told.conflicts;
        self.work.add(&told.work);
        self.erased += told.erased;
        self.folded += told.folded;
        self.moved += told.moved;
        for (sum, more) in self.outcomes.iter_mut().zip(told.outcomes) {
            *sum += more;
        }
        for (kind, count) in &told.fired {
            *self.fired.entry(kind).or_default() += count;
        }
        if let Some(first) = told.violations.first() {
            let more = told.violations.len() - 1;
            self.failures.push((seed, format!("seed {seed}: {first} (and {more} more)")));
        }
    }

    /// Fails with everything there is to know when a rule was broken.
    pub fn assert_good(&self) {
        println!("{self}");
        assert!(
            self.failures.is_empty(),
            "{} of {} stories broke a rule",
            self.failures.len(),
            self.stories
        );
    }
}

/// Tells one story; a panic anywhere in it counts as a violation.
pub fn told(story: &Story) -> Told {
    catch_unwind(AssertUnwindSafe(|| super::run(tell(story)))).unwrap_or_else(|panic| {
        let what = said(&*panic);
        Told { violations: vec![Violation::Panicked { host: usize::MAX, what }], ..Told::default() }
    })
}

/// What a panic said.
pub fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_string()
}

/// The story with the smallest script found that still breaks the same rule.
pub fn shrunk(story: &Story, first: &Violation) -> Script {
    story.script.shrunk(SHRINK_TRIALS, |script| {
        let smaller = Story { script: script.clone(), ..story.clone() };
        told(&smaller).violations.iter().any(|v| v.rule() == first.rule())
    })
}

/// The one line that repeats a failure.
pub fn line(story: &Story) -> String {
    let Story { word, seed, script, .. } = story;
    format!(
        "cargo run -p kvasir-tests --bin kvasir-soak -- {word}--seed {seed} --script '{script}'"
    )
}

/// Tells the stories of these seeds on all cores and shrinks those that fail. Ends early after three failures.
pub fn hunt(seeds: impl Iterator<Item = u64>, story: impl Fn(u64) -> Story + Sync) -> Hunt {
    let seeds: Vec<u64> = seeds.collect();
    let (next, hunt, begun) = (AtomicU64::new(0), Mutex::new(Hunt::default()), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
            let story = story(*seed);
            let told = told(&story);
            let smaller = told.violations.first().map(|first| shrunk(&story, first));
            let mut hunt = hunt.lock().expect("no thread panics with the lock");
            hunt.add(*seed, &told);
            if let (Some(script), Some((_, text))) = (smaller, hunt.failures.last_mut()) {
                *text = format!("{text}\n  {}", line(&Story { script, ..story }));
                if hunt.failures.len() >= 3 {
                    next.store(u64::MAX / 2, Ordering::SeqCst);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut hunt = hunt.into_inner().expect("no thread panicked");
    hunt.took = begun.elapsed();
    hunt
}
