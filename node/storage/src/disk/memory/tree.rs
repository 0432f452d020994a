//! Files and names, now and on the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    /// The first `durable` bytes survive a crash.
    pub(super) durable: usize,
    /// Where the last append began: where a torn write may begin.
    pub(super) last_append: usize,
    /// Durable bytes written over since the last sync: their place and what they were, in order.
    pub(super) before: Vec<(usize, Vec<u8>)>,
    handles: u32,
}

impl File {
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.saturating_add(buf.len());
        let from = self.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

/// A change of a directory that its sync has not covered yet.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
    Directory(PathBuf),
}

#[derive(Clone, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<u64, File>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) durable_directories: BTreeSet<PathBuf>,
    /// By directory, in the order made.
    pub(super) unsynced: BTreeMap<PathBuf, Vec<NameChange>>,
    pub(super) next_id: u64,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Tree {
    pub(super) fn id(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| missing(path))
    }

    pub(super) fn file(&self, id: u64) -> &File {
        &self.files[&id]
    }

    fn file_mut(&mut self, id: u64) -> &mut File {
        self.files.entry(id).or_default()
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<u64> {
        let id = self.id(path)?;
        self.file_mut(id).handles += 1;
        Ok(id)
    }

    pub(super) fn close(&mut self, id: u64) {
        let file = self.file_mut(id);
        file.handles = file.handles.saturating_sub(1);
        self.drop_unnamed(id);
    }

    /// Frees a file that no name, no medium and no handle refers to.
    fn drop_unnamed(&mut self, id: u64) {
        let named = |names: &BTreeMap<PathBuf, u64>| names.values().any(|named| *named == id);
        let pending = self.unsynced.values().flatten().any(|change| match change {
            NameChange::Link(_, linked) | NameChange::Rename(_, _, linked) => *linked == id,
            NameChange::Unlink(_) | NameChange::Directory(_) => false,
        });
        let open = self.files.get(&id).is_some_and(|file| file.handles > 0);
        if !open && !pending && !named(&self.names) && !named(&self.durable_names) {
            self.files.remove(&id);
        }
    }

    fn note(&mut self, dir: PathBuf, change: NameChange) {
        self.unsynced.entry(dir).or_default().push(change);
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let dir = parent(path);
        if !self.directories.contains(&dir) {
            return Err(missing(&dir));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.file_mut(id).handles = 1;
        self.names.insert(path.into(), id);
        self.note(dir, NameChange::Link(path.into(), id));
        Ok(id)
    }

    pub(super) fn write(&mut self, id: u64, at: usize, bytes: &[u8]) {
        let file = self.file_mut(id);
        file.last_append = at;
        let end = at + bytes.len();
        if at < file.durable {
            let old = file.bytes[at..end.min(file.durable)].to_vec();
            file.before.push((at, old));
        }
        if end > file.bytes.len() {
            file.bytes.resize(end, 0);
        }
        file.bytes[at..end].copy_from_slice(bytes);
    }

    /// Zeros up to a length.
    pub(super) fn fill(&mut self, id: u64, length: usize) {
        let file = self.file_mut(id);
        file.bytes.resize(length.max(file.bytes.len()), 0);
    }

    pub(super) fn sync(&mut self, id: u64) {
        let file = self.file_mut(id);
        file.durable = file.bytes.len();
        file.before.clear();
    }

    pub(super) fn cut(&mut self, id: u64, length: u64, durably: bool) {
        let file = self.file_mut(id);
        file.bytes.truncate(length as usize);
        file.durable = file.durable.min(file.bytes.len());
        file.last_append = file.last_append.min(file.bytes.len());
        let length = file.bytes.len();
        for (at, old) in &mut file.before {
            old.truncate(length.saturating_sub(*at));
        }
        if durably {
            file.durable = file.bytes.len();
            file.before.clear();
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.directories.contains(dir) {
            return Err(missing(dir));
        }
        let within = self.names.keys().filter(|path| parent(path) == dir);
        Ok(within.filter_map(|p| p.file_name()?.to_str().map(str::to_string)).collect())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let id = self.names.remove(path).ok_or_else(|| missing(path))?;
        self.note(parent(path), NameChange::Unlink(path.into()));
        self.drop_unnamed(id);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if parent(from) != parent(to) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let id = self.names.remove(from).ok_or_else(|| missing(from))?;
        self.names.insert(to.into(), id);
        self.note(parent(to), NameChange::Rename(from.into(), to.into(), id));
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (id, dir) = (self.id(from)?, parent(to));
        if !self.directories.contains(&dir) {
            return Err(missing(&dir));
        }
        if self.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.names.insert(to.into(), id);
        self.note(dir, NameChange::Link(to.into(), id));
        Ok(())
    }

    pub(super) fn create_dir(&mut self, dir: &Path) {
        for above in dir.ancestors() {
            if self.directories.insert(above.into()) {
                match above.parent() {
                    Some(up) => self.note(up.into(), NameChange::Directory(above.into())),
                    None => _ = self.durable_directories.insert(above.into()),
                }
            }
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.directories.contains(dir) {
            return Err(missing(dir));
        }
        for change in self.unsynced.remove(dir).unwrap_or_default() {
            self.make_durable(change);
        }
        Ok(())
    }

    pub(super) fn make_durable(&mut self, change: NameChange) {
        let unnamed = match change {
            NameChange::Link(path, id) => self.durable_names.insert(path, id),
            NameChange::Unlink(path) => self.durable_names.remove(&path),
            NameChange::Rename(from, to, id) => {
                self.durable_names.remove(&from);
                self.durable_names.insert(to, id)
            }
            NameChange::Directory(path) => {
                self.durable_directories.insert(path);
                None
            }
        };
        if let Some(id) = unnamed {
            self.drop_unnamed(id);
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    pub(super) fn flip_bit(&mut self, path: &Path, offset: u64, bit: u8) -> bool {
        let Ok(id) = self.id(path) else { return false };
        match self.file_mut(id).bytes.get_mut(offset as usize) {
            Some(byte) => {
                *byte ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }

    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) {
        let id = self.next_id;
        self.next_id += 1;
        let (bytes, durable) = (bytes.to_vec(), bytes.len());
        let before = Vec::new();
        self.files.insert(id, File { bytes, durable, last_append: durable, before, handles: 0 });
        self.create_dir(&parent(path));
        self.names.insert(path.into(), id);
        self.durable_names.insert(path.into(), id);
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    /// The process that held the files open is gone.
    pub(super) fn forget_handles(&mut self) {
        self.files.values_mut().for_each(|file| file.handles = 0);
        let ids: Vec<u64> = self.files.keys().copied().collect();
        ids.into_iter().for_each(|id| self.drop_unnamed(id));
    }

    /// The tree a fresh start sees: only what is on the medium, all of it durable.
    pub(super) fn settled(mut self) -> Tree {
        self.unsynced.clear();
        let kept = &self.durable_directories;
        let reachable = |path: &Path| path.ancestors().skip(1).all(|above| kept.contains(above));
        self.durable_names.retain(|path, _| reachable(path));
        self.names = self.durable_names.clone();
        self.directories = kept.iter().filter(|dir| reachable(dir)).cloned().collect();
        self.durable_directories = self.directories.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| named.contains(id));
        for file in self.files.values_mut() {
            file.handles = 0;
            file.durable = file.bytes.len();
            file.last_append = file.durable;
            file.before.clear();
        }
        self
    }
}
