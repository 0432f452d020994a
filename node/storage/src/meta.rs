//! Small files that are replaced as a whole: after a crash there is the old content or the new one.
//!
//! Order (rule R2): write a temporary file, sync it, rename it over the old one, sync the
//! directory. The content is framed and checksummed, so that rot is found at load.

use crate::disk::Disk;
use crate::error::{IoFailure, OpenError};
use crate::sealed::{self, Kind};
use std::io;
use std::path::{Path, PathBuf};

const META: Kind = Kind { magic: *b"KVMETA\0\n", version: 1 };

/// What a temporary file's name ends with; such files are garbage after a crash.
pub const TEMPORARY_SUFFIX: &str = ".new";

/// Replaces a small file. When this returns `Ok` the new content is durable. Error: the old content
/// may still be there or the new one may be; [`IoFailure::is_full`] says that surely the old one is
/// and that a retry may help, any other failure should stop the node.
pub fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> Result<(), IoFailure> {
    replace_file(disk, path, &sealed::seal(&META, 0, content))
}

/// The content last stored, `None` if the file was never written. Error: unreadable or damaged.
pub fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match read_whole(disk, path)? {
        Some(bytes) => Ok(Some(sealed::open(path, &META, 0, &bytes)?.to_vec())),
        None => Ok(None),
    }
}

/// A file's bytes, `None` if there is no such file.
pub(crate) fn read_whole(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, IoFailure> {
    let reader = match disk.open_read(path) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(IoFailure::new(path, "open", &error)),
    };
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).map_err(|error| IoFailure::new(path, "read", &error))?;
    Ok(Some(bytes))
}

/// Replaces a file by these very bytes; see [`replace`].
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), IoFailure> {
    let temporary = temporary(path);
    if let Err(failure) = write_new(disk, &temporary, bytes) {
        // A leftover is harmless; the next start removes it.
        let _ = disk.remove(&temporary);
        return Err(failure);
    }
    // From here on the new content may be the one found, so no failure may be called harmless.
    let unknown = |what: &str, error: io::Error| IoFailure {
        kind: io::ErrorKind::Other,
        ..IoFailure::new(path, what, &error)
    };
    disk.rename(&temporary, path).map_err(|error| unknown("rename into place", error))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    disk.sync_dir(dir).map_err(|error| unknown("sync the directory", error))
}

/// Creates a file with these bytes and syncs it. The name is not yet durable. A failed sync is
/// never called "full": what it means for the bytes is unknown.
pub(crate) fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), IoFailure> {
    let mut file = disk.create(path).map_err(|error| IoFailure::new(path, "create", &error))?;
    file.append(bytes).map_err(|error| IoFailure::new(path, "append", &error))?;
    file.sync().map_err(|error| IoFailure {
        kind: io::ErrorKind::Other,
        ..IoFailure::new(path, "sync", &error)
    })
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::disk::memory::{Crash, Fault, Op};

    const FILE: &str = "/d/file";

    fn disk_with(content: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        replace(&disk, Path::new(FILE), content).unwrap();
        disk
    }

    fn load_str(disk: &MemoryDisk) -> String {
        String::from_utf8(load(disk, Path::new(FILE)).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn a_crash_at_any_call_leaves_old_or_new() {
        let path = Path::new(FILE);
        for calls in 0.. {
            let disk = disk_with(b"old");
            disk.stop_after(calls);
            let done = replace(&disk, path, b"new").is_ok();
            for seed in 0..32 {
                for crash in [Crash::DropAll, Crash::KeepAll, Crash::Subset(512), Crash::Torn(512)]
                {
                    let found = load_str(&disk.image(crash, seed));
                    assert!(found == "new" || (!done && found == "old"), "{calls} {crash:?}");
                }
            }
            if done {
                assert_eq!(calls, 5, "create, append, sync, rename, sync the directory");
                return;
            }
        }
    }

    #[test]
    fn a_failure_says_whether_the_old_content_is_surely_there() {
        let full = io::ErrorKind::StorageFull;
        for op in [Op::Create, Op::Append, Op::Sync, Op::Rename, Op::SyncDir] {
            let disk = disk_with(b"old");
            disk.fail(Fault::once(Some(op), "", 1, full));
            let failure = replace(&disk, Path::new(FILE), b"new").unwrap_err();
            assert_eq!(failure.is_full(), matches!(op, Op::Create | Op::Append), "{op:?}");
            if failure.is_full() {
                assert_eq!(load_str(&disk.image(Crash::KeepAll, 0)), "old");
            }
        }
    }

    #[test]
    fn a_leftover_and_rot_are_handled() {
        let disk = disk_with(b"one");
        disk.plant(Path::new("/d/file.new"), b"half");
        replace(&disk, Path::new(FILE), b"two").unwrap();
        assert_eq!(load_str(&disk), "two");
        assert!(load(&disk, Path::new("/d/none")).unwrap().is_none());
        assert!(disk.flip_bit(Path::new(FILE), 30, 1));
        assert!(matches!(load(&disk, Path::new(FILE)), Err(OpenError::Damaged(_))));
    }
}
