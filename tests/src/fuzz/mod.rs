//! Fuzzing that runs on stable Rust, in bounded time, the same way each time: a target is fed what becomes
//! of a kept corpus by mutation.
//!
//! There is no instrumentation. Instead a target says in a word or two what it made of an input (its
//! *outcome*: the error's name, how many things were read); an input with an outcome that was not seen
//! before joins the pool that is mutated. Checksums are no wall: a target may mend an input, which
//! happens to half of them. A panic is shrunk and printed as a file to be kept in the corpus.
//!
//! By default a fixed number of inputs from a fixed seed: what `cargo test` runs. `KVASIR_FUZZ_SECONDS`
//! runs each target for so long, `KVASIR_FUZZ_SEED` begins elsewhere, `KVASIR_FUZZ_KEEP` adds to the
//! corpus what has a new outcome.

pub mod crc32c;
pub mod mutate;

use mutate::Dice;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest input.
pub const INPUT_MAX_BYTES: usize = 16 << 10;
/// Inputs that are mutated at most.
const POOL_MAX: usize = 400;
/// Attempts to make a failing input smaller.
const SHRINK_MAX: usize = 1_500;

/// What is fuzzed.
pub struct Target<'a> {
    /// Name of its folder in the corpus.
    pub name: &'a str,
    /// Inputs by hand, besides those of the corpus.
    pub seeds: Vec<Vec<u8>>,
    /// Pieces that are put in as they are.
    pub words: &'a [&'a [u8]],
    /// Inputs in a run by number.
    pub inputs: usize,
    /// Makes checksums and lengths of an input good again.
    pub mend: &'a dyn Fn(&mut [u8]),
    /// Reads an input, panics if that breaks a promise, and tells the outcome.
    pub run: &'a dyn Fn(&[u8]) -> String,
}

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Inputs fed.
    pub inputs: usize,
    /// Different outcomes.
    pub outcomes: BTreeSet<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn kept(name: &str) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(folder(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect()
}

/// Runs a target as the environment asks, and prints what it did.
pub fn run(target: &Target) -> Ran {
    let seed = number("KVASIR_FUZZ_SEED").unwrap_or(1);
    let time = number("KVASIR_FUZZ_SECONDS").map(Duration::from_secs);
    let corpus = kept(target.name);
    let keep = std::env::var_os("KVASIR_FUZZ_KEEP").is_some();
    assert!(keep || !corpus.is_empty(), "no corpus of {}", target.name);
    let ran = drive(target, corpus, seed, time, keep);
    println!(
        "fuzz {}: {} inputs from seed {seed}, {} outcomes",
        target.name,
        ran.inputs,
        ran.outcomes.len()
    );
    ran
}

/// Feeds the corpus and the seeds as they are, then what becomes of them.
pub fn drive(
    target: &Target,
    corpus: Vec<Vec<u8>>,
    seed: u64,
    time: Option<Duration>,
    keep: bool,
) -> Ran {
    let (mut dice, mut ran, begun) = (Dice::new(seed), Ran::default(), Instant::now());
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for input in corpus.into_iter().chain(target.seeds.clone()) {
        feed(target, &input, &mut ran);
        pool.push(input);
    }
    assert!(!pool.is_empty(), "nothing to begin with");
    while match time {
        Some(time) => begun.elapsed() < time,
        None => ran.inputs < target.inputs,
    } {
        let mut input = mutate::mutated(&pool, target.words, &mut dice);
        if dice.coin() {
            (target.mend)(&mut input);
        }
        input.truncate(INPUT_MAX_BYTES);
        if feed(target, &input, &mut ran) {
            if keep {
                keep_input(target.name, &input);
            }
            if pool.len() < POOL_MAX {
                pool.push(input);
            }
        }
    }
    ran
}

/// Feeds one input; whether its outcome is new.
fn feed(target: &Target, input: &[u8], ran: &mut Ran) -> bool {
    ran.inputs += 1;
    match catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        Ok(outcome) => ran.outcomes.insert(outcome),
        Err(_) => {
            let small = shrunk(target, input);
            let path = folder(target.name).join(format!("{:08x}", crc32c::of(&small)));
            panic!(
                "fuzz {}: this input fails; keep it as {}: {}",
                target.name,
                path.display(),
                small.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            );
        }
    }
}

fn shrunk(target: &Target, input: &[u8]) -> Vec<u8> {
    let fails = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    let (mut small, mut tries) = (input.to_vec(), 0);
    let mut piece = small.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < small.len() && tries < SHRINK_MAX {
            tries += 1;
            let mut less = small.clone();
            less.drain(at..(at + piece).min(small.len()));
            if fails(&less) {
                small = less;
            } else {
                at += piece;
            }
        }
        if piece == 1 || tries >= SHRINK_MAX {
            return small;
        }
        piece /= 2;
    }
}

fn keep_input(name: &str, input: &[u8]) {
    let path = folder(name).join(format!("{:08x}", crc32c::of(input)));
    std::fs::create_dir_all(folder(name)).expect("the folder of a corpus");
    std::fs::write(&path, input).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted<'a>(run: &'a dyn Fn(&[u8]) -> String) -> Target<'a> {
        Target {
            name: "planted",
            seeds: vec![b"length 5 then hello".to_vec()],
            words: &[b"magic"],
            inputs: 20_000,
            mend: &|_| (),
            run,
        }
    }

    #[test]
    fn it_finds_a_planted_bug_behind_two_conditions_and_makes_it_small() {
        let run = |input: &[u8]| {
            let magic = input.windows(5).any(|part| part == b"magic");
            let wide = input.windows(2).any(|pair| pair == [0xff, 0xff]);
            assert!(!(magic && wide), "planted");
            format!("{magic} {wide}")
        };
        let failed = catch_unwind(|| drive(&planted(&run), Vec::new(), 1, None, false));
        let failed = failed.unwrap_err();
        let told = failed.downcast_ref::<String>().expect("a message");
        let (_, hex) = told.rsplit_once(": ").expect("the input behind it");
        assert_eq!(hex.len(), 2 * 7, "{told}");
    }

    #[test]
    fn the_same_seed_feeds_the_same_inputs() {
        let sum = std::cell::Cell::new(0);
        let run = |input: &[u8]| {
            sum.set(crc32c::of(
                &[&crc32c::of(input).to_le_bytes()[..], &u32::to_le_bytes(sum.get())].concat(),
            ));
            input.len().to_string()
        };
        let once = |seed| {
            sum.set(0);
            let target = Target { inputs: 3_000, ..planted(&run) };
            (drive(&target, Vec::new(), seed, None, false), sum.get())
        };
        let first = once(1);
        assert_eq!(first, once(1));
        assert_ne!(first.1, once(2).1);
        assert!(first.0.inputs == 3_000 && first.0.outcomes.len() > 50);
    }
}
