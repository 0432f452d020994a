//! Small durable files of the control tasks (ballot state, marks), replaced whole on the engine's
//! `Meta` lane so that no worker ever waits for the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvasir_storage::{Disk, IoFailure, Lane, Maintenance, OpenError, meta};
use tokio::sync::oneshot;

/// Reads and replaces files of one directory.
#[derive(Clone)]
pub struct SmallFiles {
    disk: Arc<dyn Disk>,
    maintenance: Arc<dyn Maintenance>,
    dir: PathBuf,
}

/// A replace that did not become durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SmallFileError {
    /// The disk said so. The old content or the new one is there.
    #[error("{0}")]
    Io(#[from] IoFailure),
    /// The job was dropped: the node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl SmallFiles {
    /// Files below `dir`, which must exist.
    pub fn new(disk: Arc<dyn Disk>, maintenance: Arc<dyn Maintenance>, dir: &Path) -> Self {
        Self { disk, maintenance, dir: dir.to_path_buf() }
    }

    /// The content last stored, nothing if there never was any. Blocks: for the start of a node only.
    ///
    /// # Errors
    /// The file is damaged or unreadable.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
        meta::load(self.disk.as_ref(), &self.dir.join(name))
    }

    /// Replaces a file on this thread. Blocks: for the start of a node only.
    ///
    /// # Errors
    /// The old content or the new one is there.
    pub fn replace_now(&self, name: &str, content: &[u8]) -> Result<(), IoFailure> {
        meta::replace(self.disk.as_ref(), &self.dir.join(name), content)
    }

    /// Free bytes of the volume, if the disk tells.
    pub async fn free_bytes(&self) -> Option<u64> {
        let (sender, receiver) = oneshot::channel();
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        let job = move || {
            // Nobody waits any more when the node is stopping.
            let _ = sender.send(disk.free_bytes(&dir).ok());
        };
        self.maintenance.submit(Lane::Meta, Box::new(job));
        receiver.await.ok().flatten()
    }

    /// Replaces a file. When this returns `Ok` the new content is durable.
    ///
    /// # Errors
    /// See [`SmallFileError`].
    pub async fn replace(&self, name: &str, content: Vec<u8>) -> Result<(), SmallFileError> {
        let (sender, receiver) = oneshot::channel();
        let (disk, path) = (self.disk.clone(), self.dir.join(name));
        let job = move || {
            // Nobody waits any more when the node is stopping.
            drop(sender.send(meta::replace(disk.as_ref(), &path, &content)));
        };
        self.maintenance.submit(Lane::Meta, Box::new(job));
        Ok(receiver.await.map_err(|_| SmallFileError::Stopping)??)
    }
}
