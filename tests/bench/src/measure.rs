//! What is measured: latencies by operation, and what the system says of this process and its files.

use std::path::Path;
use std::time::{Duration, Instant};

/// Counts of latencies in nanoseconds, in buckets at most 1.6 % wide.
#[derive(Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

/// Buckets for each power of two.
const STEPS: u64 = 64;

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; (STEPS * 60) as usize], total: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let shift = u64::from(63 - nanos.leading_zeros()) - 6;
    (STEPS * (shift + 1) + (nanos >> shift) - STEPS) as usize
}

/// The largest latency of a bucket.
fn ceiling(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        self.counts[bucket(nanos).min(last)] += 1;
        self.total += 1;
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Latencies) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// How many were added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency in microseconds that a share `part` of all did not exceed.
    pub fn at(&self, part: f64) -> f64 {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return ceiling(number) as f64 / 1_000.0;
            }
        }
        0.0
    }
}

fn figure(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes that this process gave to write calls since its start: log, flushes and compactions alike.
pub fn written() -> u64 {
    figure("/proc/self/io", "wchar:")
}

/// Forgets the largest resident size so far.
pub fn forget_peak() {
    // Where the kernel refuses, peaks are those of the whole run.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident size since the start or [`forget_peak`], in bytes.
pub fn peak_resident() -> u64 {
    figure("/proc/self/status", "VmHWM:") * 1_024
}

/// Ticks of processor time used by all threads of this process.
fn ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    tick(11) + tick(12)
}

/// Processor time used by all threads of this process, to a hundredth of a second.
pub fn cpu() -> Duration {
    Duration::from_millis(ticks() * 10)
}

/// Waits until this process has been idle for six tenths of a second: background work is done.
/// `false`: it was still at work after two minutes.
pub fn settle() -> bool {
    let (end, mut calm, mut before) = (Instant::now() + Duration::from_secs(120), 0, ticks());
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        let now = ticks();
        calm = if now - before <= 1 { calm + 1 } else { 0 };
        before = now;
        if calm == 3 {
            return true;
        }
    }
    false
}

/// Bytes on disk of all files below a directory, as the file system counts blocks.
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_comes_back_within_two_percent() {
        for nanos in [1u64, 63, 64, 65, 1_000, 123_456, 7_000_000_000] {
            let top = ceiling(bucket(nanos));
            assert!(top >= nanos && top as f64 <= nanos as f64 * 1.016 + 1.0, "{nanos} {top}");
        }
        let mut all = Latencies::default();
        (1..=1_000).for_each(|micros| all.add(Duration::from_micros(micros)));
        for (part, micros) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            assert!((all.at(part) / micros - 1.0).abs() < 0.02, "{part}: {}", all.at(part));
        }
        let mut twice = all.clone();
        twice.merge(&all);
        assert_eq!((twice.total(), twice.at(0.5)), (2_000, all.at(0.5)));
    }

    #[test]
    fn the_system_tells_of_this_process() {
        let before = written();
        let dir = std::env::temp_dir().join(format!("kvasir-bench-test-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("in")).unwrap();
        std::fs::write(dir.join("in/file"), vec![1; 100_000]).unwrap();
        assert!(written() >= before + 100_000 && peak_resident() > 1 << 20);
        std::fs::File::open(dir.join("in/file")).unwrap().sync_all().unwrap();
        assert!(disk_bytes(&dir) >= 100_000);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
