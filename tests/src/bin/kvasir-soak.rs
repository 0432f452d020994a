//! Long searches: random stories over a range of seeds, with a ledger; or one story again, for a closer look.
//!
//! `tests/run soak --seeds N` is the usual way in. The ledger has one JSON line per run: first and last
//! seed, commit, simulated hours, failures. Without `--from` the range goes on where the ledger ends.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kvasir_tests::ledger::{append, cache, commit};
use kvasir_tests::sim::{Script, Story, hunt};
use serde_json::{Value, json};

/// So many stories together have done everything that nodes do.
const MANY: u64 = 50;

#[derive(Parser)]
#[command(name = "kvasir-soak", about = "Random simulations over many seeds.")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; else one behind the highest of the ledger
    #[arg(long)]
    from: Option<u64>,
    /// The ledger; else kvasir/soak.jsonl in the cache directory of the user
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// One seed alone, without ledger
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: this script instead of the seed's own
    #[arg(long, requires = "seed")]
    script: Option<Script>,
    /// Stories in which tombstones are erased as soon as they may, with a ledger of their own
    #[arg(long, conflicts_with = "short")]
    reclaim: bool,
    /// Stories of two data centers, with a ledger of their own
    #[arg(long, conflicts_with_all = ["short", "reclaim"])]
    centers: bool,
    /// Stories in which nodes come and go, with a ledger of their own
    #[arg(long, conflicts_with_all = ["short", "reclaim", "centers"])]
    moves: bool,
    /// Stories in which nothing but hash trees mends, with a ledger of their own
    #[arg(long, conflicts_with_all = ["short", "reclaim", "centers", "moves"])]
    trees: bool,
    /// With --seed: a short story on three nodes
    #[arg(long, requires = "seed")]
    short: bool,
    /// With --seed: where to write the history
    #[arg(long, requires = "seed")]
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.seed.is_some() { one(&arguments) } else { many(&arguments) }
}

fn story(arguments: &Arguments) -> fn(u64) -> Story {
    match kind(arguments) {
        Some("reclaim") => Story::reclaiming,
        Some("centers") => Story::centers,
        Some("moves") => Story::moving,
        Some(_) => Story::trees,
        None => Story::random,
    }
}

/// What the stories are about, where it is not everything.
fn kind(arguments: &Arguments) -> Option<&'static str> {
    let kinds = [
        (arguments.reclaim, "reclaim"),
        (arguments.centers, "centers"),
        (arguments.moves, "moves"),
        (arguments.trees, "trees"),
    ];
    kinds.into_iter().find_map(|(on, kind)| on.then_some(kind))
}

/// What stories of that kind should have done and never did: they show less than they seem to.
fn idle(arguments: &Arguments, found: &hunt::Hunt) -> Vec<String> {
    let mut idle: Vec<String> = match kind(arguments) {
        Some("trees" | "moves") => vec![],
        _ => found.work.missing().iter().map(ToString::to_string).collect(),
    };
    let mended = found.work.done("keys mended by trees");
    if arguments.trees && mended == 0 {
        idle.push("no key was mended by trees".to_string());
    }
    if arguments.reclaim && found.erased == 0 {
        idle.push("no set was erased".to_string());
    }
    idle
}

fn one(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_default();
    let mut story = if arguments.short { Story::short(seed) } else { story(arguments)(seed) };
    if let Some(script) = &arguments.script {
        story.script = script.clone();
    }
    println!("{}", hunt::line(&story));
    let told = hunt::told(&story);
    if let Some(path) = &arguments.history {
        let written = fs::File::create(path).and_then(|mut file| told.history.write(&mut file));
        if let Err(error) = written {
            eprintln!(
                "{}: {error}. try: --history in a directory that can be written",
                path.display()
            );
        }
    }
    println!(
        "ok/fail/unknown {:?}, faults {:?}, overlap {} %, conflicts {}, trace {:016x}, simulated {:?}",
        told.outcomes, told.fired, told.overlapped, told.conflicts, told.trace, told.simulated
    );
    told.violations.iter().take(20).for_each(|violation| println!("{violation}"));
    println!("{} violations", told.violations.len());
    ExitCode::from(u8::from(!told.violations.is_empty()))
}

fn many(arguments: &Arguments) -> ExitCode {
    let name = match kind(arguments) {
        Some(kind) => format!("soak-{kind}.jsonl"),
        None => "soak.jsonl".to_string(),
    };
    let ledger = arguments.ledger.clone().unwrap_or_else(|| cache(&name));
    let from = arguments.from.unwrap_or_else(|| highest(&ledger).map_or(0, |last| last + 1));
    let last = from + arguments.seeds.saturating_sub(1);
    println!("seeds {from} to {last}, ledger {}", ledger.display());
    let found = hunt::hunt(from..from + arguments.seeds, story(arguments));
    println!("{found}");
    let idle = if found.stories < MANY { vec![] } else { idle(arguments, &found) };
    idle.iter().for_each(|what| println!("{what} in {} stories", found.stories));
    let failed: Vec<u64> = found.failures.iter().map(|(seed, _)| *seed).collect();
    let line = json!({
        "first": from, "last": last, "stories": found.stories, "commit": commit(),
        "simulatedHours": found.simulated.as_secs_f64() / 3_600.0,
        "seconds": found.took.as_secs(), "failed": failed,
    });
    if let Err(error) = append(&ledger, &line) {
        eprintln!("{}: {error}. try: --ledger FILE", ledger.display());
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!failed.is_empty() || !idle.is_empty()))
}

fn highest(ledger: &PathBuf) -> Option<u64> {
    let text = fs::read_to_string(ledger).ok()?;
    let last = |line: &str| serde_json::from_str::<Value>(line).ok()?["last"].as_u64();
    text.lines().filter_map(last).max()
}
