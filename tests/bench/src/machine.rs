//! What the figures were measured on, and what else the machine did meanwhile.

use std::path::Path;

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, rest)| rest.trim())
        .to_string()
}

/// Load averages over 1, 5 and 15 minutes.
pub fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Processor, memory, kernel, and the file system of the run.
pub fn describe(dir: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal");
    let kilobytes: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{} x {cores}, {} GB of memory, Linux {}, {}",
        field("/proc/cpuinfo", "model name"),
        kilobytes / 1_000_000,
        kernel.trim(),
        file_system(dir)
    )
}

/// The kind of file system that holds a directory.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let mounts = read("/proc/self/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounts.filter(|(point, _)| dir.starts_with(point));
    holding.max_by_key(|(point, _)| point.len()).map_or("unknown", |(_, kind)| kind).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        let text = describe(&std::env::temp_dir());
        assert!(text.contains("Linux") && !text.contains("unknown"), "{text}");
        assert_eq!(load().split(' ').count(), 3);
    }
}
