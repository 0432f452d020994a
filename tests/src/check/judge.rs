//! One judgement over everything that a run knows, for simulation, real processes and Kubernetes alike: which
//! rules hold depends on what was promised and on what was looked at, never on who runs the nodes.

use super::bounds::{self, Measured};
use super::history::History;
use super::replicas::{self, Held};
use super::rules::{Demand, Report, check};
use super::{calm, gone, last_write, regular};

/// What a run knows.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What clients asked and were told.
    pub history: &'a History,
    /// What it must hold to count at all.
    pub demand: Demand,
    /// Only owners counted, R + W > N, and what was acknowledged survives everything that was done to the
    /// nodes: then reads owe what [`regular`] says.
    pub strict: bool,
    /// Where the last write wins: a write may be overwritten by one that never saw it.
    pub last_write_wins: bool,
    /// Different nodes that each acknowledged write names at least.
    pub acks: usize,
    /// From when on no operation may fail, in milliseconds of the history; none where faults went on.
    pub calm_from_ms: Option<u64>,
    /// What replicas held alone, at whatever time.
    pub earlier: &'a [Held],
    /// What they held in the end, when the owners of a key must hold the same.
    pub last: &'a [Held],
    /// What nodes held of things that have a cap.
    pub measured: &'a [Measured],
}

impl<'a> Evidence<'a> {
    /// A history alone, of which nothing more is promised.
    pub fn of(history: &'a History, demand: Demand) -> Self {
        Self {
            history,
            demand,
            strict: false,
            last_write_wins: false,
            acks: 0,
            calm_from_ms: None,
            earlier: &[],
            last: &[],
            measured: &[],
        }
    }
}

/// Judges by every rule that the evidence is good for.
pub fn judge(evidence: &Evidence<'_>) -> Report {
    let history = evidence.history;
    let mut report = check(history, evidence.demand);
    let found = &mut report.violations;
    match (evidence.last_write_wins, evidence.strict) {
        (false, true) => found.extend(regular::violations(history)),
        (false, false) => {
            let from = evidence.calm_from_ms;
            found.extend(from.into_iter().flat_map(|from| gone::calm(history, from)));
        }
        (true, strict) => {
            found.retain(|v| !matches!(v.rule(), "lost" | "returned" | "false conflict"));
            let owed = last_write::violations(history);
            found.extend(owed.into_iter().filter(|v| strict || v.rule() == "several"));
        }
    }
    if evidence.acks > 0 {
        found.extend(replicas::honest(history, evidence.acks));
    }
    if let Some(from) = evidence.calm_from_ms {
        found.extend(calm::violations(history, from));
    }
    found.extend(bounds::oversized(history));
    found.extend(bounds::exceeded(evidence.measured));
    let all: Vec<&Held> = evidence.earlier.iter().chain(evidence.last).collect();
    found.extend(replicas::unique_dots(&all));
    if !evidence.last_write_wins {
        found.extend(replicas::doubled(&all));
    }
    found.extend(replicas::converged(evidence.last));
    report
}
