//! A soak of real processes under real faults: rounds of a fresh cluster each, with faults, nodes and times by
//! chance, until the time is over.
//!
//! `tests/run soak --faults` is the usual way in. The ledger has one JSON line per run; the report beside it has
//! every line of every round. A round that goes wrong ends at once; its history and the logs of its nodes are kept
//! in a directory beside the report.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use kvasir_tests::ledger::{append, cache, commit};
use kvasir_tests::power::Missing;
use kvasir_tests::process::ground::{Ground, NODES};
use kvasir_tests::process::netns::{self, Network, World};
use kvasir_tests::process::trial::{self, Line};
use kvasir_tests::process::{Load, run};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// Faults of one round: then a new cluster, so that histories stay short.
const FAULTS: usize = 10;
/// Time beyond the minutes asked for, for the round that is under way.
const LAST_ROUND: Duration = Duration::from_secs(20 * 60);

#[derive(Parser)]
#[command(name = "kvasir-faults", about = "Five real nodes under real faults.")]
struct Arguments {
    /// How long; the round that is under way then goes on to its end
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// Seed of faults, nodes, times and load; else from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// The ledger; else kvasir/soak-faults.jsonl in the cache directory of the user
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// The report; else kvasir/faults-SEED.json in the cache directory of the user
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What a run did so far, as the report has it.
#[derive(Default)]
struct Done {
    rounds: Vec<Value>,
    lines: Vec<Line>,
    wrong: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or_else(|| clock().as_secs());
    let report = arguments.report.clone().unwrap_or_else(|| cache(&format!("faults-{seed}.json")));
    let ledger = arguments.ledger.clone().unwrap_or_else(|| cache("soak-faults.jsonl"));
    let minutes = Duration::from_secs(arguments.minutes * 60);
    if let Some(dir) = report.parent()
        && let Err(error) = fs::create_dir_all(dir)
    {
        eprintln!("{}: {error}. try: --report FILE", dir.display());
        return ExitCode::FAILURE;
    }
    let mut words: Vec<OsString> = vec!["--seed".into(), seed.to_string().into()];
    words.extend(["--minutes".into(), arguments.minutes.to_string().into()]);
    words.extend(["--report".into(), report.clone().into()]);
    match netns::enter(&words, minutes + LAST_ROUND) {
        Ok(World::Inside) => run(inside(seed, minutes, &report)),
        Ok(World::Outside(status)) => {
            let line = summary(&report, seed, &status.to_string());
            println!("report {}, ledger {}", report.display(), ledger.display());
            if let Err(error) = append(&ledger, &line) {
                eprintln!("{}: {error}. try: --ledger FILE", ledger.display());
                return ExitCode::FAILURE;
            }
            ExitCode::from(u8::from(!status.success()))
        }
        Err(Missing(why)) => {
            eprintln!("NOT RUN: faults of networks, disks and clocks: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn inside(seed: u64, minutes: Duration, report: &Path) -> ExitCode {
    let (start, mut done) = (Instant::now(), Done::default());
    let network = match Network::make(NODES) {
        Ok(network) => Rc::new(network),
        Err(Missing(why)) => {
            eprintln!("NOT RUN: {why}");
            return ExitCode::FAILURE;
        }
    };
    for round in 0.. {
        if start.elapsed() >= minutes || !done.wrong.is_empty() {
            break;
        }
        let seed = seed.wrapping_add(round * 1_000_000_007);
        // Owners alone must answer in every second round; in the others somebody may stand in.
        let query = if round % 2 == 0 { "timeout=3s&sloppy=false" } else { "timeout=3s" };
        println!(
            "round {round}: seed {seed}, {query}, {:?} gone\n{}",
            start.elapsed(),
            trial::head()
        );
        if let Err(Missing(why)) = self::round(seed, query, &network, report, &mut done).await {
            eprintln!("round {round} is broken off: {why}");
            done.wrong.push(why);
        }
        done.rounds.push(json!({ "seed": seed, "query": query }));
        write(report, &done);
    }
    println!("{}", table(&done.lines));
    done.wrong.iter().for_each(|wrong| println!("{wrong}"));
    let (rounds, faults) = (done.rounds.len(), done.lines.len());
    println!(
        "{} violations, {rounds} rounds, {faults} faults, {:?}",
        done.wrong.len(),
        start.elapsed()
    );
    ExitCode::from(u8::from(!done.wrong.is_empty()))
}

async fn round(
    seed: u64,
    query: &str,
    network: &Rc<Network>,
    report: &Path,
    done: &mut Done,
) -> Result<(), Missing> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut ground = Ground::make(network.clone()).await?;
    let mut load = trial::load(&ground, seed, query).await;
    for _ in 0..FAULTS {
        let (fault, hold) = trial::random(&mut rng);
        let line = trial::of(&fault, hold, &mut ground, &mut load).await?;
        println!("{line}");
        done.wrong.extend(line.violations.iter().cloned());
        done.lines.push(line);
        write(report, done);
        if !done.wrong.is_empty() {
            keep(report, &ground, &load);
            return Ok(());
        }
    }
    let wrong = trial::settled(&ground, &load).await;
    if !wrong.is_empty() {
        done.wrong.extend(wrong);
        keep(report, &ground, &load);
    }
    Ok(())
}

/// Keeps the history and the logs of a round that went wrong.
fn keep(report: &Path, ground: &Ground, load: &Load) {
    let dir = report.with_extension("kept");
    let kept = fs::create_dir_all(&dir).and_then(|()| {
        for node in 0..NODES {
            fs::write(dir.join(format!("node-{node}.log")), ground.cluster.log(node))?;
        }
        load.recorder.history().write(&mut fs::File::create(dir.join("history.jsonl"))?)
    });
    match kept {
        Ok(()) => println!("history and logs are kept in {}", dir.display()),
        Err(error) => eprintln!("{}: {error}", dir.display()),
    }
}

fn write(report: &Path, done: &Done) {
    let all = json!({ "rounds": done.rounds, "faults": done.lines, "violations": done.wrong });
    if let Err(error) = fs::write(report, format!("{all:#}\n")) {
        eprintln!("{}: {error}. try: --report FILE", report.display());
    }
}

/// One row for each kind of fault.
fn table(lines: &[Line]) -> String {
    let mut rows: BTreeMap<&str, (usize, usize, Line)> = BTreeMap::new();
    for line in lines {
        let row = rows.entry(&line.fault).or_default();
        (row.0, row.1) = (row.0 + 1, row.1 + usize::from(line.not_run.is_some()));
        let sum = &mut row.2;
        (sum.ok, sum.refused) = (sum.ok + line.ok, sum.refused + line.refused);
        sum.unknown += line.unknown;
        sum.served_again_ms = sum.served_again_ms.max(line.served_again_ms);
        sum.violations.extend(line.violations.iter().cloned());
    }
    let head = ("fault", "times", "not run", "ok", "refused", "unknown", "again s", "violations");
    let mut table = format!(
        "\n{:<24} {:>6} {:>7} {:>8} {:>8} {:>8} {:>8} {:>10}",
        head.0, head.1, head.2, head.3, head.4, head.5, head.6, head.7
    );
    for (fault, (times, not_run, sum)) in rows {
        let again = sum.served_again_ms as f64 / 1e3;
        table += &format!(
            "\n{fault:<24} {times:>6} {not_run:>7} {:>8} {:>8} {:>8} {again:>8.1} {:>10}",
            sum.ok,
            sum.refused,
            sum.unknown,
            sum.violations.len()
        );
    }
    table + "\n(the longest time until served again)"
}

/// The line of the ledger, from what the run wrote before it ended, however that was.
fn summary(report: &Path, seed: u64, ended: &str) -> Value {
    let text = fs::read_to_string(report).unwrap_or_default();
    let done: Value = serde_json::from_str(&text).unwrap_or_default();
    let count = |what: &str| done[what].as_array().map_or(0, Vec::len);
    json!({
        "seed": seed, "commit": commit(), "rounds": count("rounds"), "faults": count("faults"),
        "violations": count("violations"), "ended": ended, "report": report,
    })
}
