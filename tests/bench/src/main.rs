//! Kvasir's storage engine, RocksDB and fjall, side by side: same machine, same data, same settings,
//! same durability in each row, one process for each engine and run, the order rotated. With `cluster` as
//! its first word: three nodes of Kvasir beside three of etcd.
//!
//! `--quick` is one run over little data, for those who work on the engine; without it the table of
//! RESULTS.md is made. `--help` names the rest.

mod cluster;
mod data;
mod engine;
mod journal;
mod machine;
mod measure;
mod report;
mod rows;

use engine::Settings;
use journal::{Journal, Line};
use report::{Entry, Report};
use rows::{Outcome, Rows, Scale};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const HELP: &str = "\
kvasir-bench: storage engines side by side
  --quick          one run over little data
  --set NAME       only this data set (may be given again)
  --runs N         runs, 5 if not said (1 with --quick)
  --engines A,B    only these engines
  --rows TEXT      only rows whose name contains TEXT
  --dir DIR        where a directory for the stores is made and removed (the temporary one if not said)
  --out FILE       write the table there too
  --journal FILE   keep what was measured there, and go on with what is there already
  --title TEXT     what was measured, for the head of the table";

const SETTINGS: Settings =
    Settings { cache_bytes: 64 << 20, memtable_bytes: 32 << 20, lz4: false, buffered: false };

/// Every data set; the first is that of `--quick`.
const SETS: &[Scale] = &[
    Scale {
        name: "300 k x 200 B",
        keys: 300_000,
        value_bytes: 200,
        operations: 300_000,
        unflushed: 50_000,
        seconds: 3,
        rows: Rows::All,
        settings: Settings { cache_bytes: 20 << 20, memtable_bytes: 16 << 20, ..SETTINGS },
    },
    Scale {
        name: "1 M x 200 B",
        keys: 1_000_000,
        value_bytes: 200,
        operations: 1_000_000,
        unflushed: 100_000,
        seconds: 5,
        rows: Rows::All,
        settings: SETTINGS,
    },
    Scale {
        name: "1 M x 200 B, LZ4",
        keys: 1_000_000,
        value_bytes: 200,
        operations: 1_000_000,
        unflushed: 0,
        seconds: 5,
        rows: Rows::Few,
        settings: Settings { lz4: true, ..SETTINGS },
    },
    Scale {
        name: "10 M x 100 B",
        keys: 10_000_000,
        value_bytes: 100,
        operations: 1_000_000,
        unflushed: 0,
        seconds: 8,
        rows: Rows::Larger,
        settings: SETTINGS,
    },
];

/// What the command line says.
struct Wish {
    sets: Vec<Scale>,
    runs: u32,
    engines: Vec<String>,
    rows: String,
    dir: PathBuf,
    out: Option<PathBuf>,
    journal: Option<PathBuf>,
    title: String,
    seed: u64,
    /// This process measures one engine and prints lines.
    child: Option<String>,
    /// This process fills a log and waits to be killed.
    fill: Option<String>,
}

impl Wish {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wish = Wish {
            sets: Vec::new(),
            runs: 0,
            engines: engine::NAMES.iter().map(|name| name.to_string()).collect(),
            rows: String::new(),
            dir: std::env::temp_dir(),
            out: None,
            journal: None,
            title: String::new(),
            seed: 1,
            child: None,
            fill: None,
        };
        let mut quick = false;
        while let Some(word) = args.next() {
            if word == "--quick" {
                quick = true;
                continue;
            }
            let value =
                args.next().ok_or_else(|| format!("{word} needs a value, or is unknown"))?;
            match word.as_str() {
                "--set" => wish.sets.push(set(&value)?),
                "--runs" => wish.runs = value.parse().map_err(|_| format!("--runs {value}"))?,
                "--seed" => wish.seed = value.parse().map_err(|_| format!("--seed {value}"))?,
                "--engines" => wish.engines = known(&value)?,
                "--rows" => wish.rows = value,
                "--dir" => wish.dir = value.into(),
                "--out" => wish.out = Some(value.into()),
                "--journal" => wish.journal = Some(value.into()),
                "--title" => wish.title = value,
                "--child" => wish.child = Some(value),
                "--fill" => wish.fill = Some(value),
                other => return Err(format!("{other} is unknown")),
            }
        }
        if wish.sets.is_empty() {
            wish.sets = if quick { SETS[..1].to_vec() } else { SETS[1..].to_vec() };
        }
        if wish.runs == 0 {
            wish.runs = if quick { 1 } else { 5 };
        }
        Ok(wish)
    }
}

fn set(name: &str) -> Result<Scale, String> {
    let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
    let found = SETS.iter().find(|set| set.name == name);
    found.copied().ok_or_else(|| format!("no data set is called {name}; there are {names:?}"))
}

fn known(list: &str) -> Result<Vec<String>, String> {
    let known = |name: &str| match engine::NAMES.contains(&name) {
        true => Ok(name.to_string()),
        false => Err(format!("no engine is called {name}; there are {:?}", engine::NAMES)),
    };
    list.split(',').map(known).collect()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("cluster", args)) = args.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return clusters(args);
    }
    if args.iter().any(|word| word == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let wish = match Wish::parse(args.into_iter()) {
        Ok(wish) => wish,
        Err(wrong) => {
            eprintln!("{wrong}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    if let Some(engine) = &wish.fill {
        rows::fill(engine, wish.sets[0], &wish.dir);
    }
    if let Some(engine) = &wish.child {
        let mut print = |outcome: Outcome| println!("{}", outcome.line());
        rows::run(engine, wish.sets[0], &wish.dir, &wish.rows, wish.seed, &mut print);
        return ExitCode::SUCCESS;
    }
    match side_by_side(&wish) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::FAILURE
        }
    }
}

/// Three nodes of each store.
fn clusters(args: &[String]) -> ExitCode {
    if args.iter().any(|word| word == "--help") {
        println!("{}", cluster::HELP);
        return ExitCode::SUCCESS;
    }
    let Err((usage, wrong)) = cluster::main(args) else { return ExitCode::SUCCESS };
    eprintln!("{wrong}");
    if usage {
        eprintln!("{}", cluster::HELP);
    }
    ExitCode::from(if usage { 2 } else { 1 })
}

/// What went wrong with what.
fn said(what: &str, error: std::io::Error) -> String {
    format!("{what}: {error}")
}

/// Runs every engine of every run in a process of its own and prints the table.
fn side_by_side(wish: &Wish) -> Result<(), String> {
    // A directory of its own: it is removed at the end, and DIR may hold other things.
    let dir = wish.dir.join(format!("kvasir-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| said("the directory of the run", e))?;
    let (machine, before) = (machine::describe(&dir), machine::load());
    let (mut report, mut resumed) = (Report::default(), 0);
    let journal = wish.journal.as_deref().map(Journal::open).transpose()?;
    for run in 0..wish.runs {
        for set in &wish.sets {
            let mut engines = wish.engines.clone();
            engines.rotate_left(run as usize % wish.engines.len());
            for engine in engines {
                if let Some(earlier) =
                    journal.as_ref().and_then(|journal| journal.measured(run, &engine, set.name))
                {
                    resumed += 1;
                    earlier.into_iter().for_each(|entry| report.add(entry));
                    continue;
                }
                let seed = wish.seed + u64::from(run);
                let outcomes = measured(wish, set, &engine, &dir.join(&engine), seed)?;
                if let Some(journal) = &journal {
                    journal.add(run, &engine, set.name, &outcomes)?;
                }
                for outcome in outcomes {
                    eprintln!(
                        "run {run} {engine:8} {:>12.0} op/s {:>9.2} µs cpu/op  {}",
                        outcome.rate, outcome.cpu, outcome.row
                    );
                    report.add(Entry { run, engine: engine.clone(), outcome });
                }
            }
        }
    }
    std::fs::remove_dir_all(&dir).map_err(|e| said("removing the directory", e))?;
    let mut runs = if wish.runs == 1 { "1 run".into() } else { format!("{} runs", wish.runs) };
    if resumed > 0 {
        runs += &format!(", {resumed} of their parts measured earlier");
    }
    let text = format!(
        "{}\n\n{machine}. {runs}. Load average before {before}, after {}.\n\n{}",
        wish.title,
        machine::load(),
        report.markdown(&wish.engines)
    );
    println!("{text}");
    match &wish.out {
        Some(file) => std::fs::write(file, text).map_err(|e| said("the table", e)),
        None => Ok(()),
    }
}

fn measured(
    wish: &Wish,
    set: &Scale,
    engine: &str,
    dir: &Path,
    seed: u64,
) -> Result<Vec<Outcome>, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["--child", engine, "--set", set.name, "--rows", &wish.rows])
        .args(["--seed", &seed.to_string(), "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{engine} cannot be started: {e}"))?;
    let out = child.stdout.take().ok_or("the child has no output")?;
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    let outcomes: Vec<Outcome> = lines.filter_map(|line| Outcome::parse(&line)).collect();
    let status = child.wait().map_err(|e| e.to_string())?;
    // Left over only if the child failed.
    let _ = std::fs::remove_dir_all(dir);
    if !status.success() {
        return Err(format!("{engine} failed on {} ({status}); see above", set.name));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish, String> {
        Wish::parse(words.iter().map(|word| word.to_string()))
    }

    #[test]
    fn the_command_line_is_read() {
        let wish = parse(&["--quick", "--engines", "kvasir", "--rows", "load"]).unwrap();
        assert_eq!((wish.runs, wish.sets.len(), wish.sets[0].keys), (1, 1, 300_000));
        assert_eq!((wish.engines.len(), wish.rows.as_str()), (1, "load"));
        let wish = parse(&[]).unwrap();
        assert_eq!((wish.runs, wish.sets.len()), (5, 3));
        for wrong in
            [&["--engines", "postgres"][..], &["--set", "x"], &["--rows"], &["--what", "1"]]
        {
            assert!(parse(wrong).is_err());
        }
    }
}
