//! One fault after another on one cluster under a checking load, and a line of the report for each.
//!
//! A line counts only if the fault was seen to happen. After each one every harmed node must serve again, nothing
//! acknowledged may be lost, no node may have been a zombie (`watch.rs`), and each process must have done what the
//! fault leaves it ([`Fault`]). What clients were refused meanwhile is told and is no violation: a quorum that
//! cannot be reached is refused.

use std::fmt;
use std::time::{Duration, Instant};

use hyper::Method;
use rand::RngExt;
use rand::rngs::SmallRng;
use serde::Serialize;

use super::faults::Fault;
use super::ground::{Ground, NODES};
use super::watch::Watch;
use super::{Load, PATIENCE};
use crate::check::{Demand, Outcome};
use crate::load::Plan;
use crate::load::http::Ask;
use crate::load::run::Aim;
use crate::power::Missing;

/// Keys of the load.
pub const KEYS: u32 = 80;
/// Operations of the load before a fault, and after it was undone.
const ENOUGH: usize = 40;
/// Longest wait until a fault shows.
const SHOWS_WITHIN: Duration = Duration::from_secs(15);
/// Violations told of one kind.
const TOLD: usize = 5;

/// What became of one fault.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Which.
    pub fault: String,
    /// Whom it hit.
    pub nodes: Vec<usize>,
    /// How long it lasted, in milliseconds.
    pub lasted_ms: u64,
    /// What showed that it happened.
    pub shown: String,
    /// Operations that began while it lasted or until all served again: acknowledged.
    pub ok: usize,
    /// Refused, so that nothing was applied.
    pub refused: usize,
    /// Neither.
    pub unknown: usize,
    /// From the undoing until every harmed node took a write at a strict quorum, in milliseconds.
    pub served_again_ms: u64,
    /// Broken rules; empty is good.
    pub violations: Vec<String>,
    /// Why it could not be tried on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_run: Option<String>,
}

/// The head of the table whose rows are lines.
pub fn head() -> String {
    let all =
        ("fault", "lasted s", "ok", "refused", "unknown", "again s", "violations", "shown by");
    format!(
        "{:<24} {:>8} {:>7} {:>8} {:>8} {:>8} {:>10}  {}",
        all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7
    )
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.not_run {
            return write!(f, "{:<24} NOT RUN: {why}", self.fault);
        }
        write!(
            f,
            "{:<24} {:>8.1} {:>7} {:>8} {:>8} {:>8.1} {:>10}  {}",
            self.fault,
            self.lasted_ms as f64 / 1e3,
            self.ok,
            self.refused,
            self.unknown,
            self.served_again_ms as f64 / 1e3,
            self.violations.len(),
            self.shown
        )?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n    {violation}"))
    }
}

/// The load at all nodes of a ground. It stands still between faults.
pub async fn load(ground: &Ground, seed: u64, query: &str) -> Load {
    let plan = Plan {
        seed,
        clients: 2 * NODES as u32,
        operations: u32::MAX,
        keys: KEYS,
        read_percent: 40,
        delete_percent: 4,
        token_percent: 60,
        padding: 200,
    };
    let (servers, level) = (ground.cluster.servers(), "quorum".to_string());
    let aim = Aim { servers, level, query: query.to_string(), think_ms: 120 };
    let mut load = Load::start(plan, aim).await;
    load.goes_on(ENOUGH).await;
    load.stop().await;
    load
}

/// Does a fault for so long at least, undoes it, and judges.
///
/// # Errors
/// What was done could not be undone: the ground is of no more use.
pub async fn of(
    fault: &Fault,
    hold: Duration,
    ground: &mut Ground,
    load: &mut Load,
) -> Result<Line, Missing> {
    let mut line = Line { fault: fault.to_string(), nodes: fault.nodes(), ..Line::default() };
    load.resume();
    load.goes_on(ENOUGH).await;
    let (from_ms, since) = (load.recorder.now_ms(), Instant::now());
    let watch = Watch::start(line.nodes.iter().map(|node| ground.watched(*node)).collect());
    let begun = match fault.begin(ground).await {
        Ok(begun) => begun,
        Err(Missing(why)) => {
            line.not_run = Some(why);
            fault.end(ground, super::faults::Begun::default()).await?;
            load.stop().await;
            watch.stop().await;
            return Ok(line);
        }
    };
    loop {
        let shown = fault.shown(ground, &begun).await;
        if since.elapsed() >= hold && (shown.is_some() || since.elapsed() > SHOWS_WITHIN) {
            line.shown = shown.unwrap_or_default();
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if line.shown.is_empty() {
        line.violations.push(format!("vacuous: {fault} does not show"));
    }
    line.violations.extend(fault.broken(ground, &begun).await);
    line.lasted_ms = millis(since.elapsed());
    let undone = Instant::now();
    fault.end(ground, begun).await?;
    let again = served_again(ground, &line.nodes).await;
    line.served_again_ms = millis(undone.elapsed());
    line.violations.extend(again);
    load.goes_on(ENOUGH).await;
    load.stop().await;
    line.violations.extend(watch.stop().await);
    count(load, from_ms, &mut line);
    let report = load.judged_so_far().await;
    line.violations.extend(report.violations.iter().take(TOLD).map(ToString::to_string));
    Ok(line)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn count(load: &Load, from_ms: u64, line: &mut Line) {
    let history = load.recorder.history();
    for operation in history.operations.iter().filter(|o| o.start_ms >= from_ms) {
        match operation.outcome {
            Outcome::Ok => line.ok += 1,
            Outcome::Fail => line.refused += 1,
            Outcome::Unknown => line.unknown += 1,
        }
    }
}

/// Waits until each of these nodes takes a write at a strict quorum; says which do not.
async fn served_again(ground: &Ground, nodes: &[usize]) -> Vec<String> {
    let until = Instant::now() + PATIENCE;
    let mut missing = Vec::new();
    for node in nodes {
        loop {
            let path =
                format!("/v1/kv/probe/{}?w=quorum&sloppy=false&timeout=1s", ground.probe(*node));
            let mut put = Ask::new(Method::PUT, path);
            put.body = "again".into();
            let answer = ground.cluster.ask(*node, put).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 204) {
                break;
            }
            if Instant::now() > until {
                let said = answer.map(|answer| answer.text());
                missing.push(format!("not serving: node {node} does not serve again: {said:?}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    missing
}

/// Waits until nothing is kept for others, reads and writes everything in the calm, compares what the replicas
/// hold, and says what is wrong.
pub async fn settled(ground: &Ground, load: &Load) -> Vec<String> {
    ground.cluster.until_handed_back().await;
    let demand = Demand { operations: 4 * ENOUGH, ok_percent: 50, settled_keys: KEYS as usize };
    let report = load.judged(&ground.cluster, demand).await;
    report.violations.iter().take(TOLD).map(ToString::to_string).collect()
}

/// Every fault once, with the time that it lasts: as short as shows what it is about.
pub fn each_once() -> Vec<(Fault, Duration)> {
    let s = Duration::from_secs;
    vec![
        (Fault::Kills { node: 4, times: 3 }, s(1)),
        (Fault::Pause { node: 3 }, s(4)),
        (Fault::split(1), s(3)),
        (Fault::alone(2), s(3)),
        (Fault::unheard(0), s(3)),
        (Fault::bridge(4), s(3)),
        (Fault::Loss { percent: 20 }, s(2)),
        (Fault::Narrow { node: 1, kbit: 256 }, s(2)),
        (Fault::FullDisk { node: 2 }, s(2)),
        (Fault::FullStart { node: 3 }, s(1)),
        (Fault::SlowDisk { node: 0 }, s(2)),
        (Fault::sync_fails(1), s(1)),
        (Fault::writes_fail(4), s(1)),
        (Fault::reads_fail(3), s(2)),
        (Fault::slow_sync(2), s(2)),
        (Fault::no_descriptors(3), s(1)),
        (Fault::Memory { node: 0, mib: 48 }, s(1)),
        (Fault::Clock { node: 1 }, s(1)),
    ]
}

/// One of them by chance, at nodes by chance, and how long it lasts.
pub fn random(rng: &mut SmallRng) -> (Fault, Duration) {
    let node = rng.random_range(0..NODES);
    let fault = match rng.random_range(0..18) {
        0 => Fault::Kills { node, times: rng.random_range(1..8) },
        1 => Fault::Pause { node },
        2 => Fault::split(node),
        3 => Fault::alone(node),
        4 => Fault::unheard(node),
        5 => Fault::bridge(node),
        6 => Fault::Loss { percent: rng.random_range(1..31) },
        7 => Fault::Narrow { node, kbit: rng.random_range(64..1_024) },
        8 => Fault::FullDisk { node },
        9 => Fault::FullStart { node },
        10 => Fault::SlowDisk { node },
        11 => Fault::sync_fails(node),
        12 => Fault::writes_fail(node),
        13 => Fault::slow_sync(node),
        14 => Fault::no_descriptors(node),
        15 => Fault::Memory { node, mib: rng.random_range(32..128) },
        16 => Fault::reads_fail(node),
        _ => Fault::Clock { node },
    };
    // Mostly short, now and then a minute.
    let seconds = if rng.random_range(0..8) == 0 { 60 } else { rng.random_range(2..20) };
    (fault, Duration::from_secs(seconds))
}
