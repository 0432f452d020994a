//! A copy of the store at one moment, made of hard links: for backups.
//!
//! Everything applied before the call is flushed first, so the copy needs no log. Tables never change,
//! so a second name of each is a copy of it. Order: the directory, tables and observer state by link,
//! their names synced, then the manifest; a copy that a crash cut short has no manifest and does not
//! open. The manifest in use is held fast over the links: none of its files goes meanwhile.

use super::engine::Engine;
use super::flush::Waiter;
use crate::error::{IoFailure, WriteError};
use crate::guard::lock;
use crate::maintenance::Lane;
use crate::manifest::{Manifest, sidecar_path, table_path};
use crate::ticket::Ticket;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every change up to this one, and none after it.
    pub sequence: u64,
    /// Tables in it.
    pub tables: u64,
    /// Bytes of these tables; they are shared with the store until it merges them away.
    pub bytes: u64,
}

impl Engine {
    pub(crate) fn checkpoint(
        self: &Arc<Self>,
        dir: &Path,
    ) -> Ticket<Result<Checkpoint, WriteError>> {
        let (ticket, owed) = Ticket::pair();
        if let Err(error) = self.health.check() {
            owed.complete(Err(error));
            return ticket;
        }
        let dir: PathBuf = dir.into();
        let then: Waiter = Box::new(move |engine, flushed| match flushed {
            Err(error) => owed.complete(Err(error)),
            Ok(()) => engine.submit(Lane::Idle, move |engine| {
                owed.complete(engine.link_into(&dir).map_err(WriteError::Checkpoint));
            }),
        });
        self.flush_then(then);
        ticket
    }

    fn link_into(&self, dir: &Path) -> Result<Checkpoint, IoFailure> {
        let disk = &*self.disk;
        let failed = |path: &Path, what: &'static str| {
            let path = path.to_path_buf();
            move |error: io::Error| IoFailure::new(&path, what, &error)
        };
        let (tables_dir, log_dir) = (dir.join("tables"), dir.join("log"));
        for made in [dir, &tables_dir, &log_dir] {
            disk.create_dir(made).map_err(failed(made, "create the directory"))?;
        }
        for made in [dir, &tables_dir, &log_dir] {
            let there = disk.list(made).map_err(failed(made, "list"))?;
            if !there.is_empty() {
                let error = io::Error::new(io::ErrorKind::AlreadyExists, "it holds files already");
                return Err(IoFailure::new(made, "make a checkpoint", &error));
            }
        }
        let manifest = lock(&self.edit);
        let named = || manifest.levels.iter().flatten();
        let link = |from: PathBuf, to: PathBuf| disk.link(&from, &to).map_err(failed(&to, "link"));
        for id in named().map(|named| named.id) {
            link(table_path(&self.tables_dir, id), table_path(&tables_dir, id))?;
        }
        if let Some(id) = manifest.sidecar {
            link(sidecar_path(&self.tables_dir, id), sidecar_path(&tables_dir, id))?;
        }
        let copy = Manifest::clone(&manifest);
        drop(manifest);
        for made in [&tables_dir, &log_dir, dir] {
            disk.sync_dir(made).map_err(failed(made, "sync the directory"))?;
        }
        for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            // Ours only if they were made just now, and then they can be synced.
            let _ = disk.sync_dir(above);
        }
        copy.store(disk, dir)?;
        let named = || copy.levels.iter().flatten();
        Ok(Checkpoint {
            sequence: copy.floor,
            tables: named().count() as u64,
            bytes: named().map(|named| named.bytes).sum(),
        })
    }
}
