//! The load generator as a client pod: runs sessions against a Service until it is told to stop, then reads
//! every key back and lets the checker judge the whole history.
//!
//! `run` is the pod's process; `progress` and `judge` are started in the same pod by `kubectl exec` and speak
//! to it through files in a control directory, since an image that holds one binary has no shell and no port.
//! Invariant: a history is judged by the process that recorded it, so nothing is lost on the way. `judge` may
//! be asked again later: the keys are read again and everything is judged anew.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use kvasir_tests::check::{Demand, Evidence, judge as judge_all};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, HttpClient, Plan, Recorder, TcpDial};
use kvasir_tests::load::{drive_while, fill, settle_patiently};
use kvasir_tests::process;
use serde_json::{Value, json};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Parser)]
#[command(name = "kvasir-load", about = "Load with a recorded and judged history.")]
struct Arguments {
    /// Where `run` and the other words meet.
    #[arg(long, default_value = "/tmp", global = true)]
    control: PathBuf,
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand)]
enum Word {
    /// Writes every key once, then runs sessions until `judge` comes or the operations are used up
    Run(Run),
    /// Prints how far the run is, as JSON
    Progress,
    /// Ends the sessions, reads every key and judges; prints a report and fails when a rule is broken
    Judge {
        /// Seconds until the judgement must be there
        #[arg(long, default_value_t = 300)]
        patience: u64,
    },
}

#[derive(Args)]
struct Run {
    /// Client ports, `host:port`
    #[arg(long, required = true, value_delimiter = ',')]
    server: Vec<String>,
    /// Distinct keys, each written at least once
    #[arg(long, default_value_t = 10_000)]
    keys: u32,
    /// Sessions at a time
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Operations of each session after the first writes
    #[arg(long, default_value_t = 100_000)]
    operations: u32,
    /// Longest pause between two operations of a session
    #[arg(long, default_value_t = 20)]
    think_ms: u64,
    /// Bytes added to each value
    #[arg(long, default_value_t = 100)]
    padding: usize,
    /// Fewest operations that must have been acknowledged, in percent
    #[arg(long, default_value_t = 80)]
    ok_percent: usize,
    /// Seed of all choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `r` and `w` of all operations. A local one is judged by what the nodes of one data center owe: name
    /// servers of one
    #[arg(long, default_value = "quorum")]
    level: String,
    /// Only owners count, and what a read owes to what was acknowledged and shown before it is judged
    #[arg(long)]
    strict: bool,
    /// Different nodes that each acknowledged write must name
    #[arg(long, default_value_t = 2)]
    acks: usize,
}

/// The files of the control directory.
struct Control(PathBuf);

impl Control {
    fn progress(&self) -> PathBuf {
        self.0.join("progress.json")
    }

    /// Holds the number of the judgement that is wanted.
    fn wanted(&self) -> PathBuf {
        self.0.join("wanted")
    }

    fn report(&self, number: u64) -> PathBuf {
        self.0.join(format!("report-{number}.json"))
    }

    fn wanted_number(&self) -> u64 {
        fs::read_to_string(self.wanted()).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }
}

/// A file that readers see whole or not at all.
fn publish(path: &Path, text: &str) {
    let new = path.with_extension("new");
    let done = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    done.unwrap_or_else(|e| {
        panic!("{}: {e}: the control directory must be writable", path.display())
    });
}

fn main() -> ExitCode {
    let Arguments { control, word } = Arguments::parse();
    let control = Control(control);
    match word {
        Word::Run(run) => process::run(load(run, control)),
        Word::Progress => match fs::read_to_string(control.progress()) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("nothing runs here yet: {}: {e}", control.progress().display());
                ExitCode::FAILURE
            }
        },
        Word::Judge { patience } => judge(&control, Duration::from_secs(patience)),
    }
}

fn judge(control: &Control, patience: Duration) -> ExitCode {
    let number = control.wanted_number() + 1;
    publish(&control.wanted(), &number.to_string());
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Ok(text) = fs::read_to_string(control.report(number)) {
            println!("{text}");
            let report: Value = serde_json::from_str(&text).expect("the report is JSON");
            return ExitCode::from(u8::from(report["violations"] != json!([])));
        }
        std::thread::sleep(LOOK);
    }
    eprintln!("no judgement within {patience:?}: see the log of this pod");
    ExitCode::FAILURE
}

async fn load(run: Run, control: Control) -> ExitCode {
    let plan = Plan {
        seed: run.seed,
        clients: run.clients,
        operations: run.operations,
        keys: run.keys,
        read_percent: 40,
        delete_percent: 2,
        token_percent: 70,
        padding: run.padding,
    };
    let aim = Aim {
        servers: run.server,
        level: run.level,
        query: if run.strict { "timeout=3s&sloppy=false" } else { "timeout=3s" }.to_string(),
        think_ms: run.think_ms,
    };
    let demand = Demand {
        operations: run.keys as usize,
        ok_percent: run.ok_percent,
        settled_keys: run.keys as usize,
    };
    let control = Rc::new(control);
    let recorder = Recorder::new(Clock::start());
    let state = Rc::new(Cell::new("filling"));
    tokio::task::spawn_local(tell(control.clone(), recorder.clone(), state.clone()));

    sessions(&plan, &aim, &recorder, &control, false).await;
    state.set("running");
    sessions(&plan, &aim, &recorder, &control, true).await;
    for number in 1.. {
        state.set("waiting");
        while control.wanted_number() < number {
            tokio::time::sleep(LOOK).await;
        }
        state.set("judging");
        settle_patiently(&plan, &aim, &client(), &recorder, 40).await;
        let history = recorder.history();
        let (strict, acks) = (run.strict, run.acks);
        let report = judge_all(&Evidence { strict, acks, ..Evidence::of(&history, demand) });
        let violations: Vec<String> =
            report.violations.iter().take(20).map(ToString::to_string).collect();
        let [ok, refused, unknown] = report.outcomes;
        let text = json!({
            "violations": violations, "violationsInAll": report.violations.len(),
            "ok": ok, "refused": refused, "unknown": unknown, "conflicts": report.conflicts,
            "failed": report.failed,
        })
        .to_string();
        println!("{text}");
        publish(&control.report(number), &text);
    }
    ExitCode::SUCCESS
}

/// All sessions to their end: the first writes, or the mixed load until a judgement is wanted.
async fn sessions(plan: &Plan, aim: &Aim, to: &Recorder, control: &Rc<Control>, mixed: bool) {
    let mut tasks = Vec::new();
    for session in 0..plan.clients {
        let (plan, aim, to, control) = (plan.clone(), aim.clone(), to.clone(), control.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let http = client();
            if mixed {
                let go_on = || control.wanted_number() == 0;
                drive_while(&plan, session, &aim, &http, &to, &go_on).await;
            } else {
                fill(&plan, session, &aim, &http, &to).await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("a session ends");
    }
}

fn client() -> HttpClient {
    HttpClient::new(Rc::new(TcpDial), Duration::from_secs(5))
}

/// Says how far the run is, in a file and on standard output.
async fn tell(control: Rc<Control>, recorder: Recorder, state: Rc<Cell<&'static str>>) {
    let mut said = String::new();
    loop {
        let (ended, failed) = (recorder.ended(), recorder.failed());
        let told = json!({"state": state.get(), "operations": ended, "failed": failed});
        let text = told.to_string();
        publish(&control.progress(), &text);
        if text != said {
            println!("{text}");
            said = text;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
