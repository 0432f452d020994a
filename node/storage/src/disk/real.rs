//! The operating system's files. Linux: `fdatasync` for appended data, `fsync` for directories,
//! `flock` for the data directory, `preadv2(RWF_NOWAIT)` for reads that must not wait.

use super::{AppendFile, DirLock, Disk, RandomRead};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What is filled in ahead, a piece at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Files of the machine. Has no state of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

struct RealReader {
    file: File,
    length: u64,
}

struct RealAppender {
    file: File,
    /// Where the next append goes.
    end: u64,
    /// The file's length: beyond the end if zeros were filled in.
    length: u64,
}

struct RealLock {
    _file: File,
}

impl DirLock for RealLock {}

impl Disk for RealDisk {
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn RandomRead>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Arc::new(RealReader { file, length }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealAppender { file, end: 0, length: 0 }))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        file.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl RandomRead for RealReader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn try_read_cached(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < buf.len() {
            let mut part = [IoSliceMut::new(&mut buf[done..])];
            let at = offset + done as u64;
            match rustix::io::preadv2(&self.file, &mut part, at, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(rustix::io::Errno::INTR) => {}
                // Not in memory, or a file system that cannot tell: let the reader pool do it.
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::OPNOTSUPP
                    | rustix::io::Errno::NOSYS,
                ) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn len(&self) -> u64 {
        self.length
    }
}

impl AppendFile for RealAppender {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.length = self.length.max(self.end);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        (self.end, self.length) = (length, length);
        Ok(())
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let (mut at, to) = (self.length, self.end + bytes);
        while at < to {
            let part = ZEROS.len().min((to - at) as usize);
            self.file.write_all_at(&ZEROS[..part], at)?;
            at += part as u64;
        }
        self.length = at;
        Ok(())
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_machine_does_what_the_seam_says() {
        let home = tempfile::tempdir().unwrap();
        let (disk, dir) = (RealDisk, home.path().join("a/b"));
        disk.create_dir(&dir).unwrap();
        let path = dir.join("f");
        let mut file = disk.create(&path).unwrap();
        file.reserve(1 << 16).unwrap();
        file.append(b"hello world").unwrap();
        file.cut(5).unwrap();
        file.append(b"!").unwrap();
        file.fill(100).unwrap();
        file.fill(50).unwrap();
        assert_eq!(disk.open_read(&path).unwrap().len(), 106);
        file.append(b"?").unwrap();
        file.cut(6).unwrap();
        file.sync().unwrap();
        disk.rename(&path, &dir.join("g")).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), ["g"]);
        let reader = disk.open_read(&dir.join("g")).unwrap();
        let mut buf = [0; 6];
        reader.read_at(0, &mut buf).unwrap();
        assert_eq!((&buf, reader.len(), reader.is_empty()), (b"hello!", 6, false));
        assert!(reader.read_at(3, &mut buf).is_err(), "past the end");
        if reader.try_read_cached(0, &mut buf).unwrap() {
            assert_eq!(&buf, b"hello!");
        }
        let other = home.path().join("c");
        disk.create_dir(&other).unwrap();
        disk.link(&dir.join("g"), &other.join("h")).unwrap();
        let again = disk.link(&dir.join("g"), &other.join("h")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        disk.open_read(&other.join("h")).unwrap().read_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"hello!");
        disk.truncate(&dir.join("g"), 2).unwrap();
        assert_eq!(disk.open_read(&dir.join("g")).unwrap().len(), 2);
        assert!(disk.free_bytes(&dir).unwrap() > 0);
        disk.remove(&dir.join("g")).unwrap();
        assert!(
            matches!(disk.open_read(&dir.join("g")), Err(e) if e.kind() == io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn a_lock_has_one_holder() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("LOCK");
        let held = RealDisk.lock(&path).unwrap();
        let second = RealDisk.lock(&path);
        assert!(matches!(second, Err(e) if e.kind() == io::ErrorKind::WouldBlock));
        drop(held);
        assert!(RealDisk.lock(&path).is_ok());
    }
}
