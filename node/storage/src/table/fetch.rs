//! Getting one block of a table: from memory, the cache, the page cache or the device.
//!
//! Everything that leaves this file was verified against its checksum and place.

use super::block::{BadBlock, Block};
use super::filter::{self, PAGE_BLOCKS, PAGE_BYTES};
use super::frame::{Handle, Kind, SEAL_BYTES, Unsealed, content_bytes, unseal};
use super::lookup::ReadMode;
use super::{Table, TableError};
use crate::error::{Damage, IoFailure};
use bytes::Bytes;
use std::sync::PoisonError;

/// Blocks larger than this are left to the reader pool: checking them takes too long for a worker.
const CACHED_READ_MAX_BYTES: u32 = 256 << 10;

/// What the filter says of a hash.
pub(super) enum Filtered {
    /// Surely absent.
    No,
    /// Ask the index.
    Maybe,
    /// The page is not in memory.
    NeedsDisk,
}

impl Table {
    /// Asks the filter page of a hash. A page that cannot be had, now or ever, never says "no".
    pub(super) fn filter_says(&self, hash: u64, mode: ReadMode) -> Filtered {
        if let Some(resident) = &self.filter {
            return if resident.may_hold(hash) { Filtered::Maybe } else { Filtered::No };
        }
        let block = filter::block_of(hash, self.properties.filter_blocks);
        let (page, within) = (block / PAGE_BLOCKS, (block % PAGE_BLOCKS) as usize);
        let judge = |content: &Bytes| {
            let start = (within * filter::BLOCK_BYTES).min(content.len());
            if filter::may_hold(&content[start..], hash) { Filtered::Maybe } else { Filtered::No }
        };
        let handle = self.page_handle(page);
        if let Some(content) = self.context.cache.get(self.id().0, handle.offset) {
            return judge(&content);
        }
        let known_bad = || {
            self.faults.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&handle.offset)
        };
        if known_bad() {
            return Filtered::Maybe;
        }
        match self.fetch(handle, Kind::Filter, mode) {
            Ok(Some(content)) => {
                self.context.cache.keep(self.id().0, handle.offset, content.clone());
                judge(&content)
            }
            Ok(None) => Filtered::NeedsDisk,
            Err(error) => {
                self.record_fault(handle.offset, error.to_string());
                Filtered::Maybe
            }
        }
    }

    /// Pages of the filter.
    pub(super) fn page_count(&self) -> u64 {
        self.properties.filter_blocks.div_ceil(PAGE_BLOCKS)
    }

    /// Place of a filter page: pages are full but the last.
    pub(super) fn page_handle(&self, page: u64) -> Handle {
        let blocks = self.properties.filter_blocks.saturating_sub(page.saturating_mul(PAGE_BLOCKS));
        let content = blocks.min(PAGE_BLOCKS) as usize * filter::BLOCK_BYTES;
        let stride = (PAGE_BYTES + SEAL_BYTES) as u64;
        let offset = self.properties.filter_offset.saturating_add(page.saturating_mul(stride));
        Handle { offset, len: (content + SEAL_BYTES) as u32 }
    }

    pub(super) fn record_fault(&self, offset: u64, why: String) {
        self.context.counters.count_filter_fault();
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(offset, why);
    }

    /// A data block or index partition: cached, or read and offered to the cache. `None` when only the
    /// device has it and the mode forbids waiting.
    pub(super) fn block(
        &self,
        handle: Handle,
        kind: Kind,
        mode: ReadMode,
    ) -> Result<Option<Block>, TableError> {
        let parse = |content| Block::parse(content).map_err(|BadBlock| self.malformed(handle));
        if let Some(content) = self.context.cache.get(self.id().0, handle.offset) {
            return parse(content).map(Some);
        }
        let Some(content) = self.fetch(handle, kind, mode)? else { return Ok(None) };
        let block = parse(content.clone())?;
        self.context.cache.keep(self.id().0, handle.offset, content);
        Ok(Some(block))
    }

    /// Reads and verifies a block from the file.
    pub(super) fn fetch(
        &self,
        handle: Handle,
        kind: Kind,
        mode: ReadMode,
    ) -> Result<Option<Bytes>, TableError> {
        self.check_place(handle)?;
        if mode == ReadMode::CachedOnly && handle.len > CACHED_READ_MAX_BYTES {
            return Ok(None);
        }
        let mut stored = vec![0; handle.len as usize];
        match mode {
            ReadMode::Blocking => self.read(handle.offset, &mut stored)?,
            // An error here is left to the blocking read, which reports it.
            ReadMode::CachedOnly => match self.file.try_read_cached(handle.offset, &mut stored) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Ok(None),
            },
        }
        self.context.counters.count_read(stored.len());
        if mode == ReadMode::CachedOnly && content_bytes(&stored) > CACHED_READ_MAX_BYTES as usize {
            return Ok(None);
        }
        self.open_block(&stored.into(), handle, kind).map(Some)
    }

    /// Verifies stored bytes that were read at `handle`.
    pub(super) fn open_block(
        &self,
        stored: &Bytes,
        handle: Handle,
        kind: Kind,
    ) -> Result<Bytes, TableError> {
        unseal(stored, kind, self.id(), handle.offset).map_err(|why: Unsealed| {
            self.context.counters.count_damage();
            self.damage(handle.offset, format!("{}: {}", kind.name(), why.reason())).into()
        })
    }

    /// Refuses places outside the file before memory is allocated for them.
    pub(super) fn check_place(&self, handle: Handle) -> Result<(), TableError> {
        if handle.end().is_some_and(|end| end <= self.properties_at.offset) {
            return Ok(());
        }
        Err(self.damage(handle.offset, "the index names a place outside the file".into()).into())
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), TableError> {
        let done = self.file.read_at(offset, buffer);
        done.map_err(|error| IoFailure::new(&self.path, "read", &error).into())
    }

    pub(super) fn malformed(&self, at: Handle) -> TableError {
        self.context.counters.count_damage();
        self.damage(at.offset, "block does not follow the format".into()).into()
    }

    pub(super) fn damage(&self, offset: u64, detail: String) -> Damage {
        Damage { path: self.path.clone(), offset, detail }
    }
}
