//! Who this node is: an id written on the volume at first start, and a boot number raised and fsynced
//! at every start (DESIGN section 3). Both stand in the one file that also keeps the ballot state, so
//! that they cannot part. A volume that lost this file is a new node.

use kvasir_core::consensus::{Acceptor, AcceptorState, StateError};
use kvasir_core::id::NodeId;
use kvasir_core::ring::Handovers;
use kvasir_storage::{Disk, IoFailure, OpenError};
use rand::Rng;
use std::path::Path;

use super::handovers;
use super::set_aside::{self, Finding};
use super::small_files::SmallFiles;
use super::tenures::{self, Tenures};

/// Name of the file with identity, votes and document.
pub const FILE: &str = "member";
/// Name of the small file with the marks alone, written every second.
pub const MARKS_FILE: &str = "marks";

/// The identity of one run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The node id.
    pub node: NodeId,
    /// 1 at the first start, one more at each.
    pub boot: u64,
}

/// Why the identity could not be established. The volume is as it was.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is damaged or unreadable. A retry may help if the disk recovers.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The new boot number could not be made durable.
    #[error("{0}")]
    Write(#[from] IoFailure),
    /// The file is not what this program writes.
    #[error("{0}. try: restore the volume, or start with an empty data directory as a new node")]
    State(#[from] StateError),
    /// The file of tenures is not what this program writes.
    #[error(
        "the file of tenures cannot be read. try: start with an empty data directory as a new node"
    )]
    Tenures,
    /// The file of handovers is not what this program writes.
    #[error(
        "the file of handovers cannot be read. try: start with an empty data directory as a new node"
    )]
    Handovers,
}

/// Reads the member file, makes one at the first start, and raises the boot number durably. Blocks:
/// for the start of a node only.
///
/// # Errors
/// See [`IdentityError`].
pub fn establish(
    files: &SmallFiles,
    rng: &mut impl Rng,
) -> Result<(Identity, Acceptor), IdentityError> {
    let mut state = match files.load(FILE)? {
        Some(bytes) => AcceptorState::decode(&bytes)?,
        None => AcceptorState::blank(NodeId::from_random(rng)),
    };
    if let Some(bytes) = files.load(MARKS_FILE)? {
        state.add_marks(&bytes)?;
    }
    let acceptor = Acceptor::start(state);
    files.replace_now(FILE, &acceptor.state().encode())?;
    let identity = Identity { node: acceptor.state().node, boot: acceptor.state().boot };
    Ok((identity, acceptor))
}

/// The secret of the cluster that this volume belongs to, if it does. Blocks: for the start of a node only.
///
/// # Errors
/// The member file is damaged or unreadable.
pub fn cluster_secret(files: &SmallFiles) -> Result<Option<[u8; 32]>, IdentityError> {
    let Some(bytes) = files.load(FILE)? else { return Ok(None) };
    let chosen = AcceptorState::decode(&bytes)?.chosen;
    Ok(chosen.map(|document| document.token_secret.0))
}

/// What an earlier start, or this one, found that sets data of this volume aside. Blocks: for the start of a
/// node only.
///
/// # Errors
/// The file is damaged or unreadable.
pub fn found(files: &SmallFiles) -> Result<Option<Finding>, IdentityError> {
    Ok(files.load(set_aside::FILE)?.map(|bytes| Finding::decode(&bytes)))
}

/// Which tenures the local data is noted to be of. Blocks: for the start of a node only.
///
/// # Errors
/// The file is damaged or unreadable.
pub fn tenures(files: &SmallFiles) -> Result<Tenures, IdentityError> {
    let noted = files.load(tenures::FILE)?;
    let decoded = noted.map(|bytes| Tenures::decode(&bytes)).transpose();
    Ok(decoded.map_err(|_| IdentityError::Tenures)?.unwrap_or_default())
}

/// Which copies this node gives or gave to others and has not removed. Blocks: for the start of a node
/// only.
///
/// # Errors
/// The file is damaged or unreadable.
pub fn handovers(files: &SmallFiles) -> Result<Handovers, IdentityError> {
    let noted = files.load(handovers::FILE)?;
    let decoded = noted.map(|bytes| postcard::from_bytes(&bytes)).transpose();
    Ok(decoded.map_err(|_| IdentityError::Handovers)?.unwrap_or_default())
}

/// Sets a volume aside, durably, that names a member of a cluster and holds no data: the store was removed
/// under the identity, and what this node acknowledged is gone. Must be asked before the store is opened,
/// since opening makes a new one. Blocks: for the start of a node only.
///
/// # Errors
/// The member file is damaged, or the finding could not be stored.
pub fn look_for_loss(
    files: &SmallFiles,
    disk: &dyn Disk,
    store: &Path,
) -> Result<(), IdentityError> {
    let Some(bytes) = files.load(FILE)? else { return Ok(()) };
    let member = AcceptorState::decode(&bytes)?.chosen.is_some();
    let holds = |dir: &Path, file: &dyn Fn(&str) -> bool| match disk.list(dir) {
        Ok(names) => names.iter().any(|name| file(name)),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    // What the engine takes for a new store: see its page about files.
    let kept = holds(store, &|name| name == "MANIFEST")
        || holds(&store.join("log"), &|name| name.ends_with(".log"))
        || holds(&store.join("tables"), &|_| true);
    if member && !kept {
        tracing::error!(reason = EMPTIED, "this node serves no data any more");
        files.replace_now(set_aside::FILE, &Finding::new(EMPTIED, false).encode())?;
    }
    Ok(())
}

/// Why a volume without data is not used.
const EMPTIED: &str = "the volume names a member of the cluster but its data is gone, so acknowledged writes \
    are missing from it. Its copies are made anew from those of others: see `kvasir status`";

#[cfg(test)]
mod tests {
    use super::*;
    use kvasir_storage::{Manual, MemoryDisk};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use std::sync::Arc;

    fn files(disk: &MemoryDisk) -> SmallFiles {
        SmallFiles::new(Arc::new(disk.clone()), Manual::new(), Path::new("d"))
    }

    #[test]
    fn the_id_stays_and_the_boot_rises() {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new("d")).unwrap();
        let mut rng = SmallRng::seed_from_u64(1);
        let (first, _) = establish(&files(&disk), &mut rng).unwrap();
        let (second, _) = establish(&files(&disk), &mut rng).unwrap();
        assert_eq!((first.node, first.boot, second.boot), (second.node, 1, 2));
    }

    #[test]
    fn a_damaged_identity_is_refused_and_kept() {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new("d")).unwrap();
        let mut rng = SmallRng::seed_from_u64(1);
        establish(&files(&disk), &mut rng).unwrap();
        let path = Path::new("d/member");
        assert!(disk.flip_bit(path, 40, 0));
        let before = disk.content(path);
        assert!(establish(&files(&disk), &mut rng).is_err());
        assert_eq!(disk.content(path), before);
    }
}
