//! Control groups for one node: a limit of memory, a slow disk. Version 2 where the controller is there, else 1.
//!
//! A group is named after the process that made the world (`netns.rs`), so that what a run left behind can be told
//! from what a run still uses. It is removed when dropped; who is in it goes to the parent first.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::netns;
use crate::power::Missing;

const ROOT: &str = "/sys/fs/cgroup";
/// What the names of groups begin with; the process and a word follow.
const PREFIX: &str = "kvasir-faults-";

/// One group with one limit.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
    unified: bool,
}

fn put(path: &Path, what: &str) -> Result<(), Missing> {
    fs::write(path, what).map_err(|e| Missing(format!("{} <- {what}: {e}", path.display())))
}

impl Group {
    fn make(controller: &str, version1: &str, word: &str) -> Result<Self, Missing> {
        let root = Path::new(ROOT);
        let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let unified = all.split_whitespace().any(|one| one == controller);
        let parent = if unified { root.to_path_buf() } else { root.join(version1) };
        if !parent.join("cgroup.procs").exists() {
            return Err(Missing(format!("this kernel has no controller `{controller}`")));
        }
        if unified {
            put(&root.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        let dir = parent.join(format!("{PREFIX}{}-{word}", netns::maker()));
        fs::create_dir(&dir).map_err(|e| Missing(format!("{}: {e}", dir.display())))?;
        Ok(Self { dir, unified })
    }

    fn limit(&self, version2: (&str, &str), version1: (&str, &str)) -> Result<(), Missing> {
        let (file, what) = if self.unified { version2 } else { version1 };
        put(&self.dir.join(file), what)
    }

    /// A group that may use so much memory, page cache included.
    ///
    /// # Errors
    /// The kernel has no such controller, or refused.
    pub fn memory(word: &str, bytes: u64) -> Result<Self, Missing> {
        let group = Self::make("memory", "memory", word)?;
        let bytes = bytes.to_string();
        group.limit(("memory.max", &bytes), ("memory.limit_in_bytes", &bytes))?;
        Ok(group)
    }

    /// A group whose writes to the device that holds `path` are slow.
    ///
    /// # Errors
    /// As [`Group::memory`].
    pub fn slow_disk(
        word: &str,
        path: &Path,
        bytes_per_s: u64,
        per_s: u64,
    ) -> Result<Self, Missing> {
        let group = Self::make("io", "blkio", word)?;
        let device = fs::metadata(path).map_err(|e| Missing(format!("{}: {e}", path.display())))?;
        let (major, minor) = numbers(device.dev());
        let both = format!("{major}:{minor} wbps={bytes_per_s} wiops={per_s}");
        let bytes = format!("{major}:{minor} {bytes_per_s}");
        group.limit(("io.max", &both), ("blkio.throttle.write_bps_device", &bytes))?;
        if !group.unified {
            let times = format!("{major}:{minor} {per_s}");
            put(&group.dir.join("blkio.throttle.write_iops_device"), &times)?;
        }
        Ok(group)
    }

    /// Takes a process in, with all its threads.
    ///
    /// # Errors
    /// It is gone, or the kernel refused.
    pub fn add(&self, pid: u32) -> Result<(), Missing> {
        put(&self.procs(), &pid.to_string())
    }

    /// The file to which a process writes its number to enter.
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Bytes that went through the limit of writes.
    pub fn written(&self) -> u64 {
        let (file, word) = match self.unified {
            true => ("io.stat", "wbytes="),
            false => ("blkio.throttle.io_service_bytes", "Write "),
        };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let count = |line: &str| line.split_once(word)?.1.split(' ').next()?.parse::<u64>().ok();
        text.lines().filter_map(count).sum()
    }

    /// How often the limit of memory was reached.
    pub fn reached(&self) -> u64 {
        if !self.unified {
            let text = fs::read_to_string(self.dir.join("memory.failcnt")).unwrap_or_default();
            return text.trim().parse().unwrap_or(0);
        }
        let text = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let max = text.lines().find_map(|line| line.strip_prefix("max "));
        max.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes a group; who is in it goes to its parent. What cannot be removed is found by the next sweep.
fn remove(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in inside.lines() {
        // It may be gone meanwhile.
        let _ = fs::write(parent.join("cgroup.procs"), pid);
    }
    let _ = fs::remove_dir(dir);
}

/// Removes the groups of this process and of those that are gone.
pub(super) fn sweep() {
    for parent in ["", "memory", "blkio"] {
        let Ok(all) = fs::read_dir(Path::new(ROOT).join(parent)) else { continue };
        for entry in all.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(maker) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next())
            else {
                continue;
            };
            let own = maker == std::process::id().to_string();
            if own || !Path::new("/proc").join(maker).exists() {
                remove(&entry.path());
            }
        }
    }
}

/// Major and minor number of a device, as the C library packs them.
fn numbers(device: u64) -> (u64, u64) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_two_numbers() {
        assert_eq!(numbers(0x0703), (7, 3));
        assert_eq!(numbers(0x11_032c), (259, 300));
    }
}
