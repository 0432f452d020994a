//! What the store consists of: one small file, replaced atomically.
//!
//! It names the tables of every level, the observer's sidecar, and the log floor: every change up
//! to it is in these tables. Whatever it does not name is an orphan of an unfinished run. Invariant:
//! everything it names was synced, and its name was synced, before the manifest was replaced
//! (rules R2 and R12).
//!
//! It also keeps what no table says: the range drops that tables may still have to be rid of, and the
//! ranges of which changes were lost with a damaged file. These ranges are the store's persistent mark
//! that its replica needs repair. Body: FORMAT.md.

use crate::disk::Disk;
use crate::error::{Damage, IoFailure, OpenError};
use crate::meta;
use crate::options::LEVELS;
use crate::sealed::{self, Kind, u32_at, u64_at};
use crate::spans::{Span, Spans};
use bytes::Bytes;
use std::path::{Path, PathBuf};

const MANIFEST: Kind = Kind { magic: *b"KVMANI\0\n", version: 1 };
const SIDECAR: Kind = Kind { magic: *b"KVSIDE\0\n", version: 1 };

/// Name of the manifest in the data directory.
pub(crate) const FILE: &str = "MANIFEST";

/// A table as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: u64,
    /// Length of the file: a shorter or longer one is damaged.
    pub(crate) bytes: u64,
    /// Range drops up to this number have been carried out in it.
    pub(crate) swept: u64,
    /// The highest sequence number in it.
    pub(crate) max_seq: u64,
    /// Its smallest and its largest key: what is lost if the file cannot be read at all.
    pub(crate) first: Bytes,
    pub(crate) last: Bytes,
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
    /// Range drops up to the floor that some table is not rid of yet.
    pub(crate) drops: Spans,
    /// Ranges of which every change up to the number may be missing.
    pub(crate) lost: Spans,
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
        let manifest = Self::decode(body).ok_or_else(damaged)?;
        match manifest.levels.len() {
            0..=LEVELS => Ok(Some(manifest)),
            levels => Err(OpenError::TooManyLevels { path, levels, known: LEVELS }),
        }
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
                for number in [named.id, named.bytes, named.swept, named.max_seq] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_key(&mut out, &named.first);
                put_key(&mut out, &named.last);
            }
        }
        for spans in [&self.drops, &self.lost] {
            out.extend_from_slice(&(spans.len() as u32).to_le_bytes());
            for span in spans.iter() {
                out.extend_from_slice(&span.sequence.to_le_bytes());
                put_key(&mut out, &span.from);
                // No key is empty, so an empty one can say "to the end".
                put_key(&mut out, span.to.as_deref().unwrap_or_default());
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
                level.push(Named {
                    id: take_u64(&mut body)?,
                    bytes: take_u64(&mut body)?,
                    swept: take_u64(&mut body)?,
                    max_seq: take_u64(&mut body)?,
                    first: take_key(&mut body)?,
                    last: take_key(&mut body)?,
                });
            }
            levels.push(level);
        }
        let (drops, lost) = (take_spans(&mut body)?, take_spans(&mut body)?);
        body.is_empty().then_some(Self { floor, next_file, sidecar, levels, drops, lost })
    }
}

fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    // Longer keys are refused before they are logged.
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
}

fn take_key(body: &mut &[u8]) -> Option<Bytes> {
    let length = take_u32(body)? as usize;
    let (head, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(Bytes::copy_from_slice(head))
}

fn take_spans(body: &mut &[u8]) -> Option<Spans> {
    let mut spans = Vec::new();
    for _ in 0..take_u32(body)? {
        let sequence = take_u64(body)?;
        let (from, to) = (take_key(body)?, take_key(body)?);
        spans.push(Span { from, to: Some(to).filter(|to| !to.is_empty()), sequence });
    }
    Spans::from_sorted(spans)
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
        let key = || prop::collection::vec(any::<u8>(), 1..5).prop_map(Bytes::from);
        let named = (1..99u64, any::<u64>(), any::<u64>(), any::<u64>(), key(), key()).prop_map(
            |(id, bytes, swept, max_seq, first, last)| Named {
                id,
                bytes,
                swept,
                max_seq,
                first,
                last,
            },
        );
        let levels = prop::collection::vec(prop::collection::vec(named, 0..4), 0..4);
        let spans = || {
            prop::collection::vec((key(), prop::option::of(key()), any::<u64>()), 0..4).prop_map(
                |raises| {
                    raises.iter().fold(Spans::default(), |spans, (from, to, sequence)| {
                        spans.raised(from, to.as_ref(), *sequence)
                    })
                },
            )
        };
        (any::<u64>(), any::<u64>(), prop::option::of(1..99u64), levels, spans(), spans()).prop_map(
            |(floor, next_file, sidecar, levels, drops, lost)| Manifest {
                floor,
                next_file,
                sidecar,
                levels,
                drops,
                lost,
            },
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
            levels: vec![vec![Named {
                id: 1,
                bytes: 2,
                swept: 3,
                max_seq: 4,
                first: Bytes::from_static(b"a"),
                last: Bytes::from_static(b"b"),
            }]],
            drops: Spans::default().raised(&Bytes::from_static(b"a"), None, 9),
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
        let deep = Manifest { levels: vec![Vec::new(); LEVELS + 1], ..Default::default() };
        deep.store(&disk, dir).unwrap();
        let refused = Manifest::load(&disk, dir).unwrap_err();
        assert!(matches!(refused, OpenError::TooManyLevels { levels: 8, known: 7, .. }));
        assert!(refused.to_string().contains("8 levels"), "{refused}");
        write_sidecar(&disk, dir, 7, b"state").unwrap();
        assert_eq!(read_sidecar(&disk, dir, 7), Ok(b"state".to_vec()));
        assert!(matches!(read_sidecar(&disk, dir, 8), Err(OpenError::Damaged(_))));
        assert_eq!((number_of("00000000000000ff.table"), number_of("x.tmp")), (Some(255), None));
    }
}
