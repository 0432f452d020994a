//! System calls of a running process that fail or take long, by `strace -e inject`: the program under test is the
//! one that runs in production, and what it is told is what a kernel says.
//!
//! While it is attached every system call of the process stops twice, so the process is slower by some factor.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::power::Missing;
use crate::power::volume::run;

/// Longest wait for every thread to be attached.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait until it lets go of all of them.
const LETS_GO: Duration = Duration::from_secs(2);

/// One tracer; the process goes on undisturbed when it is dropped.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    said: PathBuf,
}

impl Strace {
    /// Injects into all threads of a process. `calls` and `what` as `strace -e inject=CALLS:WHAT` takes them;
    /// what was done is written to a file in `dir`.
    ///
    /// # Errors
    /// `strace` is missing, or may not trace.
    pub async fn attach(pid: u32, calls: &str, what: &str, dir: &Path) -> Result<Self, Missing> {
        let said = dir.join(format!("strace-{pid}"));
        let errors = dir.join(format!("strace-{pid}-errors"));
        let missing = |error: std::io::Error| Missing(format!("strace: {error}"));
        let child = Command::new("strace")
            .args(["-f", "-q", "-e", "signal=none", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{what}"), "-p", &pid.to_string(), "-o"])
            .arg(&said)
            .stdin(Stdio::null())
            .stderr(File::create(&errors).map_err(missing)?)
            .spawn()
            .map_err(missing)?;
        let mut strace = Self { child, said };
        let until = Instant::now() + PATIENCE;
        while !is_traced(pid) {
            let over = strace.child.try_wait().map_err(missing)?.is_some();
            if over || Instant::now() > until {
                let why = fs::read_to_string(&errors).unwrap_or_default();
                return Err(Missing(format!("strace does not attach: {}", why.trim())));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(strace)
    }

    /// How many calls failed or waited.
    pub fn injected(&self) -> usize {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        said.lines()
            .filter(|line| line.ends_with("INJECTED)") || line.ends_with("DELAYED)"))
            .count()
    }
}

/// Whether somebody traces every thread.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let traced =
        |status: String| status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"));
    threads
        .flatten()
        .all(|thread| fs::read_to_string(thread.path().join("status")).is_ok_and(traced))
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Interrupted, it lets go of every thread where it is. Now and then it does not end: killed, it leaves that
        // to the kernel. An error means that it is gone.
        let _ = run("kill", &["-INT", &self.child.id().to_string()]);
        let until = Instant::now() + LETS_GO;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
