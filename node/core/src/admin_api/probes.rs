//! Health probes: `/livez`, `/readyz`, `/startupz`.
//!
//! Without `?verbose` a probe answers `ok` as plain text with 200, or the first failing check with
//! 503; with it, this JSON and the same status. Liveness never depends on peers, and a node whose
//! partitions lost their quorum stays live and ready: it still serves `r=1` and takes copies in,
//! and restarting it would make the outage worse.

use serde::{Deserialize, Serialize};

/// Check names of `/livez`: the process runs its loops.
pub const CHECK_LOOPS: &str = "loops";
/// Check name: the store is open and its disk has not failed.
pub const CHECK_STORAGE: &str = "storage";
/// Check name: a cluster document is loaded and names this node.
pub const CHECK_RING: &str = "ring";
/// Check name: the node is not shutting down.
pub const CHECK_NOT_DRAINING: &str = "not_draining";
/// Check name: recovery of the store is over.
pub const CHECK_RECOVERY: &str = "recovery";

/// Answer of a probe with `?verbose`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Whether every check passed.
    pub status: ProbeStatus,
    /// Each check by name.
    pub checks: Vec<Check>,
}

/// Outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeStatus {
    /// Every check passed: 200.
    Ok,
    /// At least one failed: 503.
    Failing,
}

/// One named condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Stable name.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What is the matter, or how far a start is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How far a start is, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

impl Check {
    /// A check with this name and outcome, without detail.
    pub fn new(name: &str, ok: bool) -> Self {
        Self { name: name.to_owned(), ok, detail: None, percent: None }
    }

    /// The same with a detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl Probe {
    /// The probe over these checks.
    pub fn of(checks: Vec<Check>) -> Self {
        let ok = checks.iter().all(|check| check.ok);
        Self { status: if ok { ProbeStatus::Ok } else { ProbeStatus::Failing }, checks }
    }

    /// The HTTP status: 200 or 503.
    pub fn http_status(&self) -> u16 {
        if self.status == ProbeStatus::Ok { 200 } else { 503 }
    }

    /// The plain-text body of the probe without `?verbose`: `ok`, or the first failing check.
    pub fn plain(&self) -> String {
        match self.checks.iter().find(|check| !check.ok) {
            None => "ok\n".to_owned(),
            Some(check) => match &check.detail {
                Some(detail) => format!("{}: {detail}\n", check.name),
                None => format!("{}: failing\n", check.name),
            },
        }
    }
}
