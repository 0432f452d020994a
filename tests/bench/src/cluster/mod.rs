//! Three nodes of Kvasir beside three of etcd on one machine, one cluster at a time, the order rotated from run to
//! run: puts, gets, and the loss of a node. Both sync before they acknowledge, and both answer reads that see
//! every write acknowledged before.

mod ask;
mod client;
mod grpc;
mod http1;
mod protocol;
mod rows;
mod servers;
mod table;
mod usage;

use crate::journal::{Journal, Line};
use crate::report::Entry;
use crate::{machine, said};
use rows::{Course, Outcome, Rates, SYSTEMS, Scale, System};
use servers::Programs;
use std::path::{Path, PathBuf};

/// What `--help` says.
pub const HELP: &str = "\
kvasir-bench cluster: three nodes of Kvasir and three of etcd
  --quick          one run over few keys
  --runs N         runs, 3 if not said (1 with --quick)
  --systems A,B    of kvasir, etcd, etcd-leader (all connections at the leader), etcd-streams (many
                   requests on few connections); the first three if not said
  --rows TEXT      only rows whose name contains TEXT
  --rates P,G,B    requests in a second of the open rows: puts, gets, both
  --keys N         so many keys
  --seconds N      length of a row
  --kvasir FILE    the program, target/release/kvasir if not said
  --etcd FILE      the program, etcd if not said
  --dir DIR        where a directory for the clusters is made and removed (the temporary one if not said)
  --out FILE       write the table there too
  --journal FILE   keep what was measured there, and go on with what is there already
  --title TEXT     what was measured, for the head of the table";

const QUICK: Scale = Scale {
    name: "20 k x 200 B",
    keys: 20_000,
    value_bytes: 200,
    seconds: 4,
    warm_up: 1,
    loss_seconds: 12,
};

const WHOLE: Scale = Scale {
    name: "1 M x 200 B",
    keys: 1_000_000,
    value_bytes: 200,
    seconds: 15,
    warm_up: 3,
    loss_seconds: 40,
};

/// Well within what the slower system does on two cores.
const RATES: Rates = Rates { puts: 1_000, gets: 2_000, both: 1_500 };

/// What the command line says.
struct Wish {
    scale: Scale,
    runs: u32,
    systems: Vec<System>,
    rows: String,
    rates: Rates,
    programs: Programs,
    dir: PathBuf,
    out: Option<PathBuf>,
    journal: Option<PathBuf>,
    title: String,
}

impl Wish {
    fn parse(args: &[String]) -> Result<Self, String> {
        let quick = args.iter().any(|word| word == "--quick");
        let mut wish = Wish {
            scale: if quick { QUICK } else { WHOLE },
            runs: if quick { 1 } else { 3 },
            systems: SYSTEMS[..3].to_vec(),
            rows: String::new(),
            rates: RATES,
            programs: Programs { kvasir: "target/release/kvasir".into(), etcd: "etcd".into() },
            dir: std::env::temp_dir(),
            out: None,
            journal: None,
            title: String::new(),
        };
        let mut args = args.iter().filter(|word| *word != "--quick");
        while let Some(word) = args.next() {
            let value =
                args.next().ok_or_else(|| format!("{word} needs a value, or is unknown"))?;
            let number =
                || value.parse::<u64>().ok().filter(|n| *n > 0).ok_or(format!("{word} {value}"));
            match word.as_str() {
                "--runs" => wish.runs = u32::try_from(number()?).map_err(|e| e.to_string())?,
                "--systems" => wish.systems = systems(value)?,
                "--rows" => wish.rows = value.into(),
                "--rates" => wish.rates = rates(value)?,
                "--keys" => wish.scale.keys = number()?,
                "--seconds" => wish.scale.seconds = number()?,
                "--kvasir" => wish.programs.kvasir = value.into(),
                "--etcd" => wish.programs.etcd = value.into(),
                "--dir" => wish.dir = value.into(),
                "--out" => wish.out = Some(value.into()),
                "--journal" => wish.journal = Some(value.into()),
                "--title" => wish.title = value.into(),
                other => return Err(format!("{other} is unknown")),
            }
        }
        Ok(wish)
    }
}

fn systems(list: &str) -> Result<Vec<System>, String> {
    let names: Vec<&str> = SYSTEMS.iter().map(|system| system.name).collect();
    let system = |name: &str| {
        let found = SYSTEMS.iter().find(|system| system.name == name);
        found.copied().ok_or_else(|| format!("no system is called {name}; there are {names:?}"))
    };
    list.split(',').map(system).collect()
}

fn rates(list: &str) -> Result<Rates, String> {
    let rates: Option<Vec<u32>> = list.split(',').map(|rate| rate.parse().ok()).collect();
    match rates.as_deref() {
        Some([puts, gets, both]) if [puts, gets, both].iter().all(|rate| **rate > 0) => {
            Ok(Rates { puts: *puts, gets: *gets, both: *both })
        }
        _ => Err(format!("--rates {list}: three numbers above 0, such as 1000,2000,1500")),
    }
}

/// Reads the command line and makes the table. `Err` with `true`: the command line was wrong.
pub fn main(args: &[String]) -> Result<(), (bool, String)> {
    let wish = Wish::parse(args).map_err(|wrong| (true, wrong))?;
    side_by_side(&wish).map_err(|wrong| (false, wrong))
}

/// The directory of all clusters of this call.
struct Ground(PathBuf);

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn side_by_side(wish: &Wish) -> Result<(), String> {
    // A directory of its own: it is removed at the end, and DIR may hold other things.
    let ground = Ground(wish.dir.join(format!("kvasir-bench-{}", std::process::id())));
    std::fs::create_dir_all(&ground.0).map_err(|e| said("the directory of the run", e))?;
    let (machine, before) = (machine::describe(&ground.0), machine::load());
    let journal = wish.journal.as_deref().map(Journal::<Outcome>::open).transpose()?;
    let (mut entries, mut resumed) = (Vec::new(), 0);
    for run in 0..wish.runs {
        let mut systems = wish.systems.clone();
        systems.rotate_left(run as usize % wish.systems.len());
        for system in systems {
            let earlier =
                journal.as_ref().and_then(|j| j.measured(run, system.name, wish.scale.name));
            if let Some(earlier) = earlier {
                resumed += 1;
                entries.extend(earlier);
                continue;
            }
            let outcomes = measured(wish, system, run, &ground.0)?;
            if let Some(journal) = &journal {
                journal.add(run, system.name, wish.scale.name, &outcomes)?;
            }
            let engine = system.name.to_string();
            entries.extend(outcomes.into_iter().map(|outcome| Entry {
                run,
                engine: engine.clone(),
                outcome,
            }));
        }
    }
    let mut runs = if wish.runs == 1 { "1 run".into() } else { format!("{} runs", wish.runs) };
    if resumed > 0 {
        runs += &format!(", {resumed} of their parts measured earlier");
    }
    let names: Vec<&str> = wish.systems.iter().map(|system| system.name).collect();
    let text = format!(
        "{}\n\n{machine}. {runs}. Load average before {before}, after {}.\n\n{}",
        wish.title,
        machine::load(),
        table::markdown(&entries, &names)
    );
    println!("{text}");
    match &wish.out {
        Some(file) => std::fs::write(file, text).map_err(|e| said("the table", e)),
        None => Ok(()),
    }
}

fn measured(wish: &Wish, system: System, run: u32, ground: &Path) -> Result<Vec<Outcome>, String> {
    let course = Course {
        system,
        scale: wish.scale,
        rates: wish.rates,
        wanted: &wish.rows,
        seed: u64::from(run) + 1,
    };
    let outcomes = course
        .run(&wish.programs, &ground.join(system.name))
        .map_err(|wrong| format!("{}: {wrong}", system.name))?;
    for outcome in &outcomes {
        eprintln!("run {run} {:12} {}", system.name, outcome.line().replace('\t', "  "));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish, String> {
        Wish::parse(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_read() {
        let wish = parse(&["--quick", "--systems", "kvasir,etcd-streams", "--keys", "9"]).unwrap();
        assert_eq!((wish.runs, wish.scale.keys, wish.systems.len()), (1, 9, 2));
        assert_eq!(wish.systems[1].name, "etcd-streams");
        let wish = parse(&["--rates", "1,2,3"]).unwrap();
        assert_eq!((wish.runs, wish.scale.keys, wish.systems.len()), (3, 1_000_000, 3));
        assert_eq!(wish.rates, Rates { puts: 1, gets: 2, both: 3 });
        for wrong in [
            &["--systems", "redis"][..],
            &["--rates", "1,2"],
            &["--rates", "1,0,2"],
            &["--keys", "0"],
            &["--runs"],
            &["--what", "1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
