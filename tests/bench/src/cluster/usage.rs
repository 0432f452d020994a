//! What processes used, as the kernel counts it: figures that hold on a busy machine too.

use std::time::Duration;

/// Sums over some processes since their start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Bytes that they caused to be written to storage.
    pub written: u64,
    /// Times that a thread waited for something.
    pub waits: u64,
    /// Resident memory in bytes, now.
    pub resident: u64,
}

fn figure(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Ticks of a hundredth of a second used by a process.
fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    tick(11) + tick(12)
}

/// Of living threads: those that ended are not in it.
fn waits(pid: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let status = |thread: std::fs::DirEntry| {
        let file = thread.path().join("status");
        figure(&file.to_string_lossy(), "voluntary_ctxt_switches:")
    };
    threads.flatten().map(status).sum()
}

/// What these processes used so far; one that is dead adds nothing.
pub fn of(pids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        let io = format!("/proc/{pid}/io");
        sum.cpu += Duration::from_millis(ticks(*pid) * 10);
        sum.written += figure(&io, "write_bytes:");
        sum.waits += waits(*pid);
        sum.resident += figure(&format!("/proc/{pid}/status"), "VmRSS:") * 1_024;
    }
    sum
}

impl Usage {
    /// What was used between `before` and this; memory as it is now.
    pub fn since(&self, before: &Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: self.written.saturating_sub(before.written),
            waits: self.waits.saturating_sub(before.waits),
            resident: self.resident,
        }
    }
}

/// Waits until the processes used less than a twentieth of a core for a second: what they do after a load is
/// done. `false`: they were still at work after `longest`.
pub fn settle(pids: &[u32], longest: Duration) -> bool {
    let (end, mut before) = (std::time::Instant::now() + longest, of(pids).cpu);
    while std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
        let now = of(pids).cpu;
        if now.saturating_sub(before) <= Duration::from_millis(50) {
            return true;
        }
        before = now;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process_and_not_of_none() {
        let mine = of(&[std::process::id()]);
        assert!(mine.resident > 1 << 20, "{mine:?}");
        let twice = of(&[std::process::id(); 2]);
        assert!(twice.resident > mine.resident && twice.waits >= 2 * mine.waits);
        assert!(twice.since(&mine).waits >= mine.waits);
        assert_eq!(of(&[u32::MAX]), Usage::default());
    }
}
