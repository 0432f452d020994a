//! The storage engine of Kvasir: a log-structured store of bytes under ordered keys.
//!
//! Threads, not async: a call answers from memory or returns a [`Ticket`]; whatever needs the disk
//! is a job handed to [`Maintenance`]. All files go through [`Disk`]. The engine knows neither
//! clock nor randomness nor what a value means: merging is a closure handed to `update`, and an
//! [`Observer`] is told of every change.

pub mod cache;
pub mod compaction;
pub mod disk;
pub mod durability;
pub mod error;
mod guard;
mod health;
pub mod key;
mod levels;
mod log;
pub mod maintenance;
mod manifest;
mod memtable;
mod merge;
pub mod meta;
pub mod observer;
pub mod options;
mod sealed;
mod spans;
pub mod stats;
pub mod store;
mod striped;
pub mod table;
pub mod ticket;

pub use disk::{AppendFile, DirLock, Disk, MemoryDisk, RandomRead, RealDisk};
pub use error::{Damage, IoFailure, OpenError, ReadError, SalvageError, WriteError};
pub use key::TableKey;
pub use maintenance::{Job, Lane, Maintenance, Manual, Threads};
pub use observer::{NoObserver, Observer};
pub use options::StoreOptions;
pub use stats::StoreStats;
pub use store::{
    Applied, Change, Checkpoint, Chunk, Durability, LostRange, Recovery, Salvaged, Snapshot, Store,
    salvage,
};
pub use table::Compression;
pub use ticket::{Abandon, Completer, Ticket};
