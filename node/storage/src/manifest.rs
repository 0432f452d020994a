//! What the store consists of: one small file, replaced atomically.
//!
//! It names the tables of every level, the observer's sidecar, and the log floor: every change up
//! to it is in these tables. Whatever it does not name is an orphan of an unfinished run. Invariant:
//! everything it names was synced, and its name was synced, before the manifest was replaced
//! (rules R2 and R12).
//!
//! Body (little endian): `floor u64 | next file u64 | sidecar u64 (0 none) | levels u32`, then for
//! each level `tables u32` and for each table `id u64 | bytes u64`, level 0 newest first.

use crate::disk::Disk;
use crate::error::{Damage, IoFailure, OpenError};
use crate::meta;
use crate::sealed::{self, Kind, u32_at, u64_at};
use std::path::{Path, PathBuf};

const MANIFEST: Kind = Kind { magic: *b"KVMANI\0\n", version: 1 };
const SIDECAR: Kind = Kind { magic: *b"KVSIDE\0\n", version: 1 };

/// Name of the manifest in the data directory.
pub(crate) const FILE: &str = "MANIFEST";

/// A table as the manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: u64,
    /// Length of the file: a shorter or longer one is damaged.
    pub(crate) bytes: u64,
}

/// The content of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Every change up to this one is in tables.
    pub(crate) floor: u64,
    /// Above every number of a table or sidecar that was ever named.
    pub(crate) next_file: u64,
    /// The number of the observer's state at the floor.
    pub(crate) sidecar: Option<u64>,
    /// Tables by level.
    pub(crate) levels: Vec<Vec<Named>>,
}

/// The file of a table.
pub(crate) fn table_path(tables: &Path, id: u64) -> PathBuf {
    tables.join(format!("{id:016x}.table"))
}

/// The file of an observer's state.
pub(crate) fn sidecar_path(tables: &Path, id: u64) -> PathBuf {
    tables.join(format!("{id:016x}.observer"))
}

/// The number in the name of a table or sidecar.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let (number, ending) = name.split_once('.')?;
    matches!(ending, "table" | "observer").then(|| u64::from_str_radix(number, 16).ok()).flatten()
}

/// Writes an observer's state, synced; its name is not yet.
pub(crate) fn write_sidecar(
    disk: &dyn Disk,
    tables: &Path,
    id: u64,
    state: &[u8],
) -> Result<(), IoFailure> {
    meta::write_new(disk, &sidecar_path(tables, id), &sealed::seal(&SIDECAR, id, state))
}

/// Reads an observer's state.
pub(crate) fn read_sidecar(disk: &dyn Disk, tables: &Path, id: u64) -> Result<Vec<u8>, OpenError> {
    let path = sidecar_path(tables, id);
    let missing = || Damage {
        path: path.clone(),
        offset: 0,
        detail: "missing, though the manifest names it".into(),
    };
    let bytes = meta::read_whole(disk, &path)?.ok_or_else(missing)?;
    Ok(sealed::open(&path, &SIDECAR, id, &bytes)?.to_vec())
}

impl Manifest {
    /// Loads the manifest of a directory, `None` if there is none.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(FILE);
        let Some(bytes) = meta::read_whole(disk, &path)? else { return Ok(None) };
        let body = sealed::open(&path, &MANIFEST, 0, &bytes)?;
        let damaged = || Damage {
            path: path.clone(),
            offset: 0,
            detail: "its body has an unknown shape".into(),
        };
        Ok(Some(Self::decode(body).ok_or_else(damaged)?))
    }

    /// Makes this the manifest of a directory. Errors as [`meta::replace`].
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), IoFailure> {
        let sealed = sealed::seal(&MANIFEST, 0, &self.encode());
        meta::replace_file(disk, &dir.join(FILE), &sealed)
    }

    /// Every number in use.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.levels.iter().flatten().map(|named| named.id).chain(self.sidecar)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.floor, self.next_file, self.sidecar.unwrap_or(0)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.levels.len() as u32).to_le_bytes());
        for level in &self.levels {
            out.extend_from_slice(&(level.len() as u32).to_le_bytes());
            for named in level {
                out.extend_from_slice(&named.id.to_le_bytes());
                out.extend_from_slice(&named.bytes.to_le_bytes());
            }
        }
        out
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        let floor = take_u64(&mut body)?;
        let next_file = take_u64(&mut body)?;
        let sidecar = Some(take_u64(&mut body)?).filter(|id| *id > 0);
        let mut levels = Vec::new();
        for _ in 0..take_u32(&mut body)? {
            let mut level = Vec::new();
            for _ in 0..take_u32(&mut body)? {
                level.push(Named { id: take_u64(&mut body)?, bytes: take_u64(&mut body)? });
            }
            levels.push(level);
        }
        body.is_empty().then_some(Self { floor, next_file, sidecar, levels })
    }
}

fn take_u32(body: &mut &[u8]) -> Option<u32> {
    let (head, rest) = body.split_at_checked(4)?;
    *body = rest;
    Some(u32_at(head, 0))
}

fn take_u64(body: &mut &[u8]) -> Option<u64> {
    let (head, rest) = body.split_at_checked(8)?;
    *body = rest;
    Some(u64_at(head, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use proptest::prelude::*;

    fn manifest() -> impl Strategy<Value = Manifest> {
        let named = (1..99u64, any::<u64>()).prop_map(|(id, bytes)| Named { id, bytes });
        let levels = prop::collection::vec(prop::collection::vec(named, 0..4), 0..4);
        (any::<u64>(), any::<u64>(), prop::option::of(1..99u64), levels).prop_map(
            |(floor, next_file, sidecar, levels)| Manifest { floor, next_file, sidecar, levels },
        )
    }

    proptest! {
        #[test]
        fn it_comes_back(manifest in manifest()) {
            let body = manifest.encode();
            prop_assert_eq!(Manifest::decode(&body), Some(manifest));
            for cut in 0..body.len() {
                prop_assert_eq!(Manifest::decode(&body[..cut]), None);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/d"));
        disk.create_dir(dir).unwrap();
        assert_eq!(Manifest::load(&disk, dir), Ok(None));
        let stored = Manifest {
            floor: 5,
            levels: vec![vec![Named { id: 1, bytes: 2 }]],
            ..Default::default()
        };
        stored.store(&disk, dir).unwrap();
        assert_eq!(Manifest::load(&disk, dir), Ok(Some(stored)));
        let path = dir.join(FILE);
        for offset in 0..disk.content(&path).unwrap().len() as u64 {
            for bit in 0..8 {
                disk.flip_bit(&path, offset, bit);
                assert!(Manifest::load(&disk, dir).is_err(), "byte {offset} bit {bit}");
                disk.flip_bit(&path, offset, bit);
            }
        }
        write_sidecar(&disk, dir, 7, b"state").unwrap();
        assert_eq!(read_sidecar(&disk, dir, 7), Ok(b"state".to_vec()));
        assert!(matches!(read_sidecar(&disk, dir, 8), Err(OpenError::Damaged(_))));
        assert_eq!((number_of("00000000000000ff.table"), number_of("x.tmp")), (Some(255), None));
    }
}
