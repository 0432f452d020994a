//! One run: a cluster is formed, clients write and read while a script of faults goes on, everything is
//! mended, and the history is judged.
//!
//! Two phases, as in other simulators of this kind: safety under chaos, then liveness. After the faults
//! end, the cluster has a while to be whole; from then on every operation must succeed. Then late frames
//! and anti-entropy have their time, and each replica is looked at alone.
//!
//! A wiped disk is a new node, which nobody asks in: it is left out. One that was emptied or put back is
//! rebuilt by itself, and must serve and agree with the others in the end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvasir::planted::Planted;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::moving::Operator;
use super::script::{Fault, Script, Timed, Unsynced};
use super::stage::Stage;
use super::weather::Conditions;
use crate::check::{Demand, Evidence, History, Violation, Work, judge};
use crate::load::run::Aim;
use crate::load::{Clock, Plan, Recorder, drive_while, fill};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Story {
    /// Seed of every choice outside the script.
    pub seed: u64,
    /// The word by which `kvasir-soak` tells such a story; empty for those of [`Story::random`].
    pub word: &'static str,
    /// Nodes.
    pub hosts: usize,
    /// So many of them, the first, form the cluster; the others may join.
    pub members: usize,
    /// Whether nodes come and go.
    pub moves: bool,
    /// Data centers, to which the nodes are dealt out in turn.
    pub centers: usize,
    /// Copies of each key in each data center.
    pub copies: usize,
    /// The level of all requests.
    pub level: &'static str,
    /// How long faults and load go on, in milliseconds.
    pub chaos_ms: u64,
    /// What goes wrong.
    pub script: Script,
    /// Frames on a good day.
    pub conditions: Conditions,
    /// Whether only owners count, so that the rules of a regular register hold.
    pub strict: bool,
    /// Whether the last write wins in all buckets.
    pub last_write_wins: bool,
    /// Further `section.key=value` of all nodes.
    pub sets: &'static [&'static str],
    /// More query parameters of all requests.
    pub query: &'static str,
    /// Client sessions.
    pub clients: u32,
    /// Longest pause of a client between two operations, in milliseconds.
    pub think_ms: u64,
    /// Distinct keys.
    pub keys: u32,
    /// A mistake that all nodes make.
    pub planted: Planted,
    /// Share of deletes in percent.
    pub delete_percent: u32,
    /// A mistake of all disks: syncs of paths that end so do nothing.
    pub skip_sync: Option<&'static str>,
}

impl Story {
    /// Ten simulated minutes on five nodes, three copies, a random script.
    pub fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let conditions = Conditions {
            loss_permille: rng.random_range(0..20),
            twice_permille: rng.random_range(0..50),
            delay_ms: rng.random_range(0..10),
            ..Conditions::default()
        };
        let chaos_ms = 460_000;
        let script = Script::draw(&mut rng, 5, chaos_ms - 20_000);
        Self {
            seed,
            word: "",
            hosts: 5,
            centers: 1,
            members: usize::MAX,
            moves: false,
            copies: 3,
            level: "quorum",
            chaos_ms,
            script,
            conditions,
            strict: seed.is_multiple_of(2),
            last_write_wins: false,
            sets: &[],
            query: if seed.is_multiple_of(2) { "timeout=2s&sloppy=false" } else { "timeout=2s" },
            clients: 5,
            think_ms: 2_000,
            keys: 16,
            planted: Planted::default(),
            delete_percent: 4,
            skip_sync: None,
        }
    }

    /// A short run on three nodes with a random script, for finding planted bugs.
    pub fn short(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let chaos_ms = 50_000;
        let mut script = Script::draw(&mut rng, 3, chaos_ms - 10_000);
        script.0.retain(|t| !t.fault.spoils());
        let host = rng.random_range(0..3);
        script.0.push(Timed {
            at: rng.random_range(10_000..30_000),
            lasts: rng.random_range(500..5_000),
            fault: Fault::Crash(host, Unsynced::Dropped),
        });
        let (word, think_ms) = ("--short ", 500);
        Self { word, hosts: 3, chaos_ms, script, think_ms, keys: 8, ..Self::random(seed) }
    }

    /// Operations that must succeed, in percent. Of three hosts, one that is rebuilt leaves two, and whatever
    /// else goes wrong meanwhile leaves no quorum.
    fn least_ok(&self) -> usize {
        let spoilt = self.script.0.iter().any(|timed| timed.fault.spoils());
        if spoilt && self.hosts == self.copies { 30 } else { 50 }
    }
}

/// What came out of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Broken rules; empty is good.
    pub violations: Vec<Violation>,
    /// How often each kind of fault happened.
    pub fired: BTreeMap<&'static str, u32>,
    /// Hash over all frames and all outcomes: equal for equal runs.
    pub trace: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Operations by outcome: ok, fail, unknown.
    pub outcomes: [usize; 3],
    /// Operations that overlapped a fault, in percent.
    pub overlapped: usize,
    /// Reads that showed several values.
    pub conflicts: usize,
    /// What the nodes did.
    pub work: Work,
    /// Sets that reclaim erased, on all hosts together, since their last start.
    pub erased: u64,
    /// Rows that reclaim dropped from contexts, in the same way.
    pub folded: u64,
    /// Pieces of copies that nodes took over, on all hosts together, since their last start.
    pub moved: u64,
    /// The history, for a closer look.
    pub history: History,
}

/// Runs a story to its end. Must be called inside [`super::run`].
pub async fn tell(story: &Story) -> Told {
    let begun = Instant::now();
    let mut stage = Stage::set(story).await;
    let plan = plan(story);
    let aim = Aim {
        servers: stage.sim.servers()[..story.members.min(story.hosts)].to_vec(),
        level: story.level.to_string(),
        query: story.query.to_string(),
        think_ms: story.think_ms,
    };
    let recorder = Recorder::new(Clock::start());
    fill(&plan, 0, &aim, &stage.client(), &recorder).await;
    let chaos_from = recorder.now_ms();
    let going = Rc::new(Cell::new(true));
    let mut sessions = Vec::new();
    for client in 0..plan.clients {
        let (plan, aim, to, going) = (plan.clone(), aim.clone(), recorder.clone(), going.clone());
        let http = stage.client();
        sessions.push(tokio::task::spawn_local(async move {
            drive_while(&plan, client, &aim, &http, &to, &|| going.get()).await;
        }));
    }
    let operator = story.moves.then(|| Operator::start(&stage.sim, story.seed));
    stage.play().await;
    going.set(false);
    for session in sessions {
        session.await.expect("a session ends");
    }
    stage.mend().await;
    if let Some(operator) = operator {
        stage.until_moved(&operator).await;
    }
    let held = stage.quiet(&plan, aim, &recorder).await;
    for host in 0..story.hosts {
        stage.look_inside(host);
    }
    let history = recorder.history();
    let report = judge(&Evidence {
        history: &history,
        demand: Demand {
            operations: (story.chaos_ms / 1_000) as usize,
            ok_percent: story.least_ok(),
            settled_keys: story.keys as usize,
        },
        strict: story.strict,
        last_write_wins: story.last_write_wins,
        acks: story.majority(),
        calm_from_ms: Some(stage.calm_from_ms),
        earlier: &held.before,
        last: &held.after,
        measured: &stage.measured,
    });
    let mut told = Told {
        violations: report.violations,
        outcomes: report.outcomes,
        conflicts: report.conflicts,
        work: stage.work,
        ..Told::default()
    };
    told.violations.extend(stage.violations);
    told.overlapped = overlapped(story, &history, chaos_from);
    (told.erased, told.folded) = (stage.sim.erased(), stage.sim.folded());
    let moves = (0..story.hosts).filter_map(|host| stage.sim.moves(host));
    told.moved = moves.map(|moves| moves.taken.1).sum();
    told.fired = stage.fired;
    told.trace = trace(stage.sim.weather.trace(), &history);
    told.simulated = begun.elapsed();
    told.history = history;
    told
}

fn plan(story: &Story) -> Plan {
    Plan {
        seed: story.seed,
        clients: story.clients,
        operations: u32::MAX,
        keys: story.keys,
        read_percent: 40,
        delete_percent: story.delete_percent,
        token_percent: 60,
        padding: 100,
    }
}

fn overlapped(story: &Story, history: &History, chaos_from: u64) -> usize {
    let faults = &story.script.0;
    let hit = history.operations.iter().filter(|o| {
        let meets = |at: u64, lasts: u64| {
            o.start_ms <= chaos_from + at + lasts && o.end_ms >= chaos_from + at
        };
        faults.iter().any(|t| meets(t.at, t.lasts))
    });
    hit.count() * 100 / history.operations.len().max(1)
}

fn trace(frames: u64, history: &History) -> u64 {
    history.operations.iter().fold(frames, |trace, operation| {
        [operation.id, operation.start_ms, operation.end_ms, operation.outcome as u64]
            .iter()
            .fold(trace, |trace, part| (trace ^ part).wrapping_mul(0x0100_0000_01b3))
    })
}
