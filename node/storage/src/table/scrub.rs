//! Reading a whole table again to find bit rot before the last replica rots (rule R13).
//!
//! One pass over every byte: each block's checksum and form, the order of all entries, that blocks lie
//! one behind the other, that counts and ranges are those of the properties, that the filter passes
//! every key, and the checksum of the whole file. Damage does not end the pass; the report names every
//! damaged place and the key ranges that it may have held.

use super::block::{BadBlock, Block, BlockCursor};
use super::filter::{self, PAGE_BLOCKS};
use super::footer::HEADER_BYTES;
use super::frame::{Handle, Kind};
use super::lookup::ReadMode;
use super::{Table, TableError};
use crate::error::Damage;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Bytes read.
    pub bytes: u64,
    /// Data blocks that are sound.
    pub blocks: u64,
    /// Entries in them.
    pub entries: u64,
    /// Every damaged place. Empty: the table is sound.
    pub damages: Vec<Damage>,
    /// Encoded key ranges, both ends included, whose entries may be lost.
    pub lost: Vec<(Bytes, Bytes)>,
}

impl ScrubReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }
}

/// A block whose hints and places are right too.
fn sound(content: Bytes) -> Result<Block, BadBlock> {
    Block::parse(content).and_then(|block| if block.is_sound() { Ok(block) } else { Err(BadBlock) })
}

/// A scrub under way.
struct Scrub<'a> {
    table: &'a Table,
    pace: &'a mut dyn FnMut(u64) -> bool,
    report: ScrubReport,
    digest: Digest,
    at: u64,
    pages: Vec<Option<Bytes>>,
    last: Option<(Vec<u8>, u64)>,
    erasures: u64,
    /// Separator before the block in hand.
    before: Bytes,
}

impl Table {
    /// Reads and checks everything. `pace` is told the bytes of each block read and may sleep or, by
    /// `false`, end the scrub with [`TableError::Stopped`]. Other errors: the disk.
    pub fn verify(&self, pace: &mut dyn FnMut(u64) -> bool) -> Result<ScrubReport, TableError> {
        let mut scrub = Scrub {
            table: self,
            pace,
            report: ScrubReport::default(),
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            at: 0,
            pages: Vec::new(),
            last: None,
            erasures: 0,
            before: self.properties.meta.first.clone(),
        };
        for page in 0..self.page_count() {
            // Faults are reported when the pass comes to the page.
            let content = self.fetch(self.page_handle(page), Kind::Filter, ReadMode::Blocking);
            scrub.pages.push(content.ok().flatten());
        }
        scrub.raw(Handle { offset: 0, len: HEADER_BYTES as u32 })?;
        let partitions = scrub.data()?;
        for page in 0..self.page_count() {
            scrub.sealed(self.page_handle(page), Kind::Filter)?;
        }
        for partition in partitions {
            scrub.sealed(partition, Kind::Index)?;
        }
        scrub.sealed(self.properties.top, Kind::Top)?;
        scrub.totals();
        Ok(scrub.report)
    }
}

impl Scrub<'_> {
    fn note(&mut self, offset: u64, detail: &str) {
        self.report.damages.push(self.table.damage(offset, detail.into()));
    }

    /// Reads the next piece of the file; notes a gap or overlap.
    fn raw(&mut self, handle: Handle) -> Result<Bytes, TableError> {
        if handle.offset != self.at {
            self.note(handle.offset, "block does not follow the one before");
        }
        let mut stored = vec![0; handle.len as usize];
        self.table.read(handle.offset, &mut stored)?;
        self.digest.update(&stored);
        self.at = handle.offset + u64::from(handle.len);
        self.report.bytes += u64::from(handle.len);
        if !(self.pace)(u64::from(handle.len)) {
            return Err(TableError::Stopped);
        }
        Ok(stored.into())
    }

    /// Reads the next block and verifies it; damage is noted and gives `None`.
    fn sealed(&mut self, handle: Handle, kind: Kind) -> Result<Option<Bytes>, TableError> {
        let opened = match self.table.check_place(handle) {
            Ok(()) => {
                let stored = self.raw(handle)?;
                self.table.open_block(&stored, handle, kind)
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(content) => Ok(Some(content)),
            Err(TableError::Damaged(damage)) => {
                self.report.damages.push(damage);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Walks top index, partitions and data blocks; gives the places of the partitions.
    fn data(&mut self) -> Result<Vec<Handle>, TableError> {
        let table = self.table;
        let top_at = table.properties.top;
        let mut partitions = Vec::new();
        if !table.top.is_sound() {
            self.note(top_at.offset, "block does not follow the format");
        }
        let Ok(mut upper) = BlockCursor::first(table.top.clone()) else {
            self.lose(top_at, table.properties.meta.last.clone());
            return Ok(partitions);
        };
        while upper.valid() {
            let end = Bytes::copy_from_slice(upper.key());
            match table.handle_in(upper.value_slice(), top_at) {
                Ok(at) => {
                    partitions.push(at);
                    self.partition(at, end)?;
                }
                Err(_) => self.lose(top_at, end),
            }
            if upper.advance().is_err() {
                self.lose(top_at, table.properties.meta.last.clone());
                break;
            }
        }
        Ok(partitions)
    }

    fn partition(&mut self, at: Handle, end: Bytes) -> Result<(), TableError> {
        // Its own bytes are checked, and damage noted, when the pass comes to it.
        let content = match self.table.fetch(at, Kind::Index, ReadMode::Blocking) {
            Ok(Some(content)) => content,
            Err(error @ TableError::Io(_)) => return Err(error),
            Ok(None) | Err(_) => {
                self.lost_to(end);
                return Ok(());
            }
        };
        let Ok(mut lower) = sound(content).and_then(BlockCursor::first) else {
            self.lose(at, end);
            return Ok(());
        };
        while lower.valid() {
            let separator = Bytes::copy_from_slice(lower.key());
            match self.table.handle_in(lower.value_slice(), at) {
                Ok(handle) => self.block(handle, separator)?,
                Err(_) => self.lose(at, separator),
            }
            if lower.advance().is_err() {
                self.lose(at, end);
                return Ok(());
            }
        }
        Ok(())
    }

    fn block(&mut self, at: Handle, separator: Bytes) -> Result<(), TableError> {
        let Some(content) = self.sealed(at, Kind::Data)? else {
            self.lost_to(separator);
            return Ok(());
        };
        let cursor = sound(content).and_then(BlockCursor::first);
        let Ok(mut cursor) = cursor else {
            self.lose(at, separator);
            return Ok(());
        };
        while cursor.valid() {
            self.entry(&cursor, at, &separator);
            if cursor.advance().is_err() {
                self.lose(at, separator);
                return Ok(());
            }
        }
        self.report.blocks += 1;
        self.before = separator;
        Ok(())
    }

    fn entry(&mut self, cursor: &BlockCursor, at: Handle, separator: &[u8]) {
        let key = cursor.key();
        if let Some((last, seq)) = &self.last
            && (key < last.as_slice() || (key == last.as_slice() && cursor.seq() >= *seq))
        {
            self.note(at.offset, "entries are out of order");
        }
        let meta = &self.table.properties.meta;
        if key > separator || !meta.overlaps(key, key) {
            self.note(at.offset, "an entry lies outside the range of its block");
        }
        if !(meta.min_seq..=meta.max_seq).contains(&cursor.seq()) {
            self.note(at.offset, "a sequence number lies outside the range of the table");
        }
        let hash = filter::filter_hash(key);
        let block = filter::block_of(hash, self.table.properties.filter_blocks);
        if let Some(Some(page)) = self.pages.get((block / PAGE_BLOCKS) as usize) {
            let start = (block % PAGE_BLOCKS) as usize * filter::BLOCK_BYTES;
            if !page.get(start..).is_some_and(|rest| filter::may_hold(rest, hash)) {
                self.note(at.offset, "the filter excludes a key that is there");
            }
        }
        self.report.entries += 1;
        self.erasures += u64::from(cursor.value_slice().is_none());
        self.last = Some((key.to_vec(), cursor.seq()));
    }

    fn lose(&mut self, at: Handle, end: Bytes) {
        self.note(at.offset, "block does not follow the format");
        self.lost_to(end);
    }

    fn lost_to(&mut self, end: Bytes) {
        self.report.lost.push((std::mem::replace(&mut self.before, end.clone()), end));
    }

    /// Compares the sums with the properties; meaningful only if nothing else is wrong.
    fn totals(&mut self) {
        if !self.report.is_sound() {
            return;
        }
        let properties = &self.table.properties;
        let counted = (self.report.entries, self.erasures, self.report.blocks);
        let end = self.table.properties_at.offset;
        if counted != (properties.meta.entries, properties.meta.erasures, properties.blocks) {
            self.note(end, "counts differ from the properties");
        }
        if self.at != end || self.digest.finalize() as u32 != properties.file_crc {
            self.note(0, "checksum of the whole file does not match");
        }
    }
}
