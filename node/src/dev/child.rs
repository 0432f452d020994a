//! One node of a local cluster: a real `kvasir serve` in a process of its own.
//!
//! Children never outlive `kvasir dev`: each holds the read end of a pipe on standard input and
//! stops when it closes (see `leash`). Each is a process group of its own, so that Ctrl-C reaches
//! `kvasir dev` alone, which then stops them in order.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::plan::NodePlan;
use crate::cli::failure::Failure;
use crate::faults::Orders;

/// Longest that an order to it may take.
const ORDER: Duration = Duration::from_secs(1);
/// Between two looks whether it has read what it was told.
const LOOK: Duration = Duration::from_millis(1);
/// How many lines of its log are shown when a node ends by itself.
const LOG_LINES: usize = 12;

/// What a node is doing, as far as its process goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Running,
    /// It is stopped by SIGSTOP.
    Paused,
    /// It does not run.
    Gone,
}

/// A node and its process, if there is one.
pub struct Node {
    /// Ports and folders.
    pub plan: NodePlan,
    process: Option<Child>,
    paused: bool,
}

impl Node {
    /// A node that does not run yet.
    pub fn new(plan: NodePlan) -> Self {
        Self { plan, process: None, paused: false }
    }

    /// What it is doing.
    pub fn life(&self) -> Life {
        match (&self.process, self.paused) {
            (None, _) => Life::Gone,
            (Some(_), true) => Life::Paused,
            (Some(_), false) => Life::Running,
        }
    }

    /// Its process id, while it has one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref()?.id()
    }

    /// Writes its configuration and starts it. `settings` are handed on as `--set`.
    pub fn start(&mut self, all: &[NodePlan], settings: &[String]) -> Result<(), Failure> {
        self.check_ports()?;
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::error(
                format!("node {}: {what}: {error}", self.plan.number),
                "choose a folder that can be written with --keep DIR",
            )
        };
        std::fs::create_dir_all(&self.plan.folder).map_err(|e| failed("its folder", &e))?;
        let text = self.plan.configuration(all)?;
        std::fs::write(self.plan.config(), text).map_err(|e| failed("its configuration", &e))?;
        let log = OpenOptions::new().create(true).append(true).open(self.plan.log());
        let log = log.map_err(|e| failed("its log", &e))?;
        let error_log = log.try_clone().map_err(|e| failed("its log", &e))?;
        let program = std::env::current_exe().map_err(|e| failed("this program", &e))?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(self.plan.config()).arg("--exit-with-stdin");
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        // What the caller set for its own commands is not meant for the nodes.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KVASIR_")) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped()).stdout(log).stderr(error_log);
        command.process_group(0).kill_on_drop(true);
        self.process = Some(command.spawn().map_err(|e| failed("it does not start", &e))?);
        self.paused = false;
        Ok(())
    }

    /// Another listener on one of the ports would take a part of the connections, or all.
    fn check_ports(&self) -> Result<(), Failure> {
        let NodePlan { http, peer, admin, number, .. } = self.plan;
        for port in [http, peer, admin] {
            TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
                Failure::error(
                    format!("node {number}: port {port} of 127.0.0.1 cannot be used: {error}"),
                    "stop what listens there (another `kvasir dev`?) or use --base-port 9100",
                )
            })?;
        }
        Ok(())
    }

    /// Tells it what to do to its frames, and waits until it does so. One that does not run is told when it starts
    /// again; one that is paused, when it goes on.
    pub async fn order(&mut self, orders: &Orders) {
        let paused = self.paused;
        let Some(stdin) = self.process.as_mut().and_then(|process| process.stdin.as_mut()) else {
            return;
        };
        let mut line = serde_json::to_vec(orders).unwrap_or_default();
        line.push(b'\n');
        // Whoever has read the second line has obeyed the first.
        let twice = async {
            for _ in 0..2 {
                // It may have ended a moment ago; `ended` tells that.
                if stdin.write_all(&line).await.is_err() {
                    return;
                }
                while !paused && rustix::io::ioctl_fionread(&*stdin).is_ok_and(|left| left > 0) {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        let _ = timeout(ORDER, twice).await;
    }

    /// If the process ended by itself, how. The node is gone then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok().flatten()?;
        self.process = None;
        self.paused = false;
        Some(status)
    }

    /// Sends a signal; nothing happens when it does not run.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended a moment ago; `ended` tells that.
            kill_process(pid, signal).ok();
            match signal {
                Signal::STOP => self.paused = true,
                Signal::CONT => self.paused = false,
                _ => {}
            }
        }
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.ok();
        }
        self.paused = false;
    }

    /// Asks it to stop and waits this long; then kills it. True when it stopped by itself.
    pub async fn stop(&mut self, patience: Duration) -> bool {
        if self.process.is_none() {
            return true;
        }
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let Some(mut process) = self.process.take() else { return true };
        let stopped = timeout(patience, process.wait()).await.is_ok();
        if !stopped {
            process.kill().await.ok();
        }
        stopped
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(self.plan.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        lines[from..].iter().map(|line| format!("  | {line}\n")).collect()
    }
}
