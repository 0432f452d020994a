//! Tables: immutable sorted files of entries, the resting place of data.
//!
//! An entry is (encoded [`TableKey`](crate::TableKey), sequence number, value or erase mark); a table
//! holds them by key ascending and, under one key, newest first. Because keys begin with the ring hash,
//! a partition is one contiguous byte range of a table. A table is written once by [`TableWriter`],
//! opened as [`Table`], asked by [`Table::get`] or walked by [`TableCursor`].
//!
//! Invariants: nothing is returned whose checksum was not verified against content, table id and
//! offset; a table that is open never changes; a table id is never used twice in a store. Format:
//! `FORMAT.md`; why blocks, filter and index look so: the files of this folder.

mod block;
mod codec;
mod cursor;
mod error;
mod fetch;
mod filter;
mod footer;
mod frame;
mod index;
mod level;
mod lookup;
mod open;
mod places;
mod reader;
mod scrub;
#[cfg(test)]
mod tests;
mod varint;
mod writer;

pub(crate) use block::head_of;
pub use codec::Compression;
pub use cursor::{Cursor, TableCursor};
pub use error::TableError;
pub use filter::DEFAULT_BITS_PER_KEY;
pub use index::ResidentBudget;
pub use level::LevelCursor;
pub use lookup::{Absence, Lookup, Probe, ReadMode, TableContext, TableCounters, TableStats};
pub use reader::Table;
pub use scrub::ScrubReport;
pub use writer::{TableOptions, TableWriter};

use bytes::Bytes;
use std::fmt;

/// Number of a table file; unique in a store for ever, part of every checksum of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is known of a table without opening it: what the manifest keeps and what compaction chooses by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// Number of the file.
    pub id: TableId,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Entries, all versions and erase marks included.
    pub entries: u64,
    /// Erase marks among them.
    pub erasures: u64,
    /// Smallest key.
    pub first: Bytes,
    /// Largest key.
    pub last: Bytes,
    /// Smallest sequence number.
    pub min_seq: u64,
    /// Largest sequence number.
    pub max_seq: u64,
}

impl TableMeta {
    /// Whether the table's key range (both ends included) meets `first..=last`.
    pub fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        self.first.as_ref() <= last && first <= self.last.as_ref()
    }
}
