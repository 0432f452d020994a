//! An ext4 file system in a file, mounted through a loop device, whose power can be cut.
//!
//! The cut is the shutdown ioctl without a flush of the journal: from that moment nothing more reaches
//! the medium, so that everything a sync did not cover is gone after the next mount. What it cannot
//! show is a medium that loses what it said was flushed; the simulated disk of the engine's tests does.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `FS_IOC_SHUTDOWN` of Linux.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Drop everything: do not even write the journal out.
const NO_LOG_FLUSH: u32 = 2;
/// Longest wait for the file system to be free for unmounting.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no volume on this machine.
#[derive(Debug)]
pub struct Missing(pub String);

/// A file system of its own. Unmounted and removed when dropped.
pub struct Volume {
    home: tempfile::TempDir,
    mounted: bool,
}

/// Runs a tool of the machine to its end. Error: it is missing, or what it said.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), Missing> {
    let said = Command::new(program).args(args).output();
    let said = said.map_err(|e| Missing(format!("{program} cannot be run: {e}")))?;
    if said.status.success() {
        return Ok(());
    }
    let (words, error) = (args.join(" "), String::from_utf8_lossy(&said.stderr));
    Err(Missing(format!("{program} {words}: {}", error.trim())))
}

impl Volume {
    /// Makes and mounts an empty file system of some megabytes. Error: not root, no loop device, or no
    /// tools; nothing is left behind.
    pub fn new(megabytes: u64) -> Result<Self, Missing> {
        let home = tempfile::tempdir().map_err(|e| Missing(e.to_string()))?;
        let made = File::create(home.path().join("image"))
            .and_then(|image| image.set_len(megabytes << 20))
            .and_then(|()| std::fs::create_dir(home.path().join("mounted")));
        made.map_err(|e| Missing(format!("the image cannot be made: {e}")))?;
        let mut volume = Self { home, mounted: false };
        let image = volume.image();
        let image = image.to_string_lossy();
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image])?;
        volume.mount()?;
        Ok(volume)
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    /// Mounts it; the file system replays its journal. A mount that lives on elsewhere (in another
    /// mount namespace) keeps the dead file system alive, and the kernel hands it out again: then this
    /// waits until it is gone.
    pub fn mount(&mut self) -> Result<(), Missing> {
        let (image, path, end) = (self.image(), self.path(), Instant::now() + PATIENCE);
        loop {
            run("mount", &["-o", "loop", &image.to_string_lossy(), &path.to_string_lossy()])?;
            self.mounted = true;
            let probe = File::create(self.dir("probe")).and_then(|probe| probe.sync_all());
            match probe {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(Missing(format!("a fresh mount takes no writes: {error}")));
                }
                Err(_) => self.unmount()?,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts the power: every later call on its files fails, and what was not synced is lost.
    #[allow(unsafe_code)]
    pub fn cut(&self) -> io::Result<()> {
        let root = File::open(self.path())?;
        // SAFETY: the kernel reads one u32 for this request, which is what the setter points at, and
        // the file is open for as long as the call takes.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
        Ok(())
    }

    /// Unmounts it, waiting until nobody has a file open there.
    pub fn unmount(&mut self) -> Result<(), Missing> {
        let (path, end) = (self.path(), Instant::now() + PATIENCE);
        loop {
            match run("umount", &[&path.to_string_lossy()]) {
                Ok(()) => {
                    self.mounted = false;
                    return Ok(());
                }
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// A directory on the volume.
    pub fn dir(&self, name: &str) -> PathBuf {
        Path::join(&self.path(), name)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // Files may still be open if a test failed: let the kernel finish when they close.
            let _ = run("umount", &["-l", &self.path().to_string_lossy()]);
        }
    }
}
