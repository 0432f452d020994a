//! A power cut on a real file system: a volume that can lose its power, and a script of writes whose
//! outcome can be judged afterwards.
//!
//! The writer is a process of its own (`power_cut_writer`) that says on its pipe what it is about to
//! write and what was acknowledged. The test cuts the power of the volume, ends the writer, mounts
//! the volume again and holds what is stored against what the pipe said.

pub mod script;
pub mod volume;

pub use script::{Ledger, Operation};
pub use volume::{Missing, Volume};

use kvasir_storage::{NoObserver, OpenError, RealDisk, Store, StoreOptions, Threads};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a store that was dropped to release its directory.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of the store in a cycle: so small that flushes, merges and new segments fall into every
/// cycle, and other sizes in the next.
fn options(dir: &Path, cycle: u64) -> StoreOptions {
    let step = cycle % 5 + 1;
    StoreOptions {
        memtable_bytes: 5_000 * step as usize,
        log_segment_bytes: 7_000 * (cycle % 3 + 1),
        block_bytes: 1 << 10,
        table_bytes: 16 << 10,
        level0_tables: 2,
        level0_stop: 6,
        level1_bytes: 32 << 10,
        level_ratio: 4,
        cache_bytes: 256 << 10,
        resident_bytes: 64 << 10,
        // Only what asks for a sync gets one.
        periodic_sync_ms: 3_600_000,
        ..StoreOptions::new(dir)
    }
}

/// Opens the store of a cycle; whoever had it before may still hold it for a moment.
///
/// # Panics
/// It does not open: a cut must never lead to that.
pub fn open(dir: &Path, cycle: u64, readers: usize) -> Arc<Store> {
    let threads = Arc::new(Threads::start(readers).expect("threads start"));
    let end = Instant::now() + PATIENCE;
    loop {
        let (disk, observer) = (Arc::new(RealDisk), Arc::new(NoObserver));
        match Store::open(options(dir, cycle), disk, threads.clone(), observer) {
            Err(OpenError::Locked(_)) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap_or_else(|error| panic!("cycle {cycle}: {error}")),
        }
    }
}
