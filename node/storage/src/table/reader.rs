//! An open table: point lookups.
//!
//! A lookup goes key range -> Bloom filter -> index -> one data block, and stops at the first that says
//! "absent". In [`ReadMode::CachedOnly`] it never waits for the device: it answers from resident parts,
//! the block cache or the page cache, or says [`Lookup::NeedsDisk`].
//!
//! Opening needs the header, trailer, properties and top index to be sound. A damaged index partition
//! or data block fails only the lookups that need it (rule R7); a damaged filter page fails none: it is
//! recorded as a fault and treated as "maybe".

use super::block::{BadBlock, Block, BlockCursor, Hit};
use super::filter::{self, PAGE_BLOCKS, PAGE_BYTES};
use super::footer::{self, BadEnd, HEADER_BYTES, Properties, TRAILER_BYTES};
use super::frame::{Handle, Kind, SEAL_BYTES, Unsealed, unseal};
use super::index::{ResidentBudget, ResidentFilter, ResidentIndex};
use super::{TableError, TableId, TableMeta};
use crate::cache::BlockCache;
use crate::disk::RandomRead;
use crate::error::{Damage, IoFailure};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks larger than this are left to the reader pool: checking them takes too long for a worker.
const CACHED_READ_MAX_BYTES: u32 = 256 << 10;

/// Whether a lookup may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Answer from memory or the page cache, or say that the disk is needed.
    CachedOnly,
    /// Read what is needed.
    Blocking,
}

/// Which part of the table said that a key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The key lies outside the table's key range.
    Range,
    /// The Bloom filter excludes it.
    Filter,
    /// The index names no block that could hold it.
    Index,
    /// The block that would hold it does not: a false positive of the filter.
    Block,
}

/// Answer of a lookup in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The table holds no entry under this key.
    Absent(Absence),
    /// The newest entry under this key.
    Found {
        /// Its sequence number.
        seq: u64,
        /// Its value; `None` is an erase mark. Shares memory with the block that it lies in.
        value: Option<Bytes>,
    },
    /// Only the disk knows; ask again with [`ReadMode::Blocking`] where waiting is allowed.
    NeedsDisk,
}

/// A key prepared for lookups in several tables: its filter hash is computed once.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    key: &'a [u8],
    hash: u64,
}

impl<'a> Probe<'a> {
    /// Prepares an encoded key.
    pub fn new(key: &'a [u8]) -> Self {
        Probe { key, hash: filter::filter_hash(key) }
    }
}

/// Counters of all tables of a store.
#[derive(Debug, Default)]
pub struct TableCounters {
    lookups: AtomicU64,
    found: AtomicU64,
    filter_negatives: AtomicU64,
    filter_false_positives: AtomicU64,
    needs_disk: AtomicU64,
    blocks_read: AtomicU64,
    bytes_read: AtomicU64,
    filter_faults: AtomicU64,
    damaged_blocks: AtomicU64,
}

/// A copy of [`TableCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Lookups in a table whose key range holds the key, those that needed the disk not counted.
    pub lookups: u64,
    /// Lookups that found an entry.
    pub found: u64,
    /// Lookups that the Bloom filter ended.
    pub filter_negatives: u64,
    /// Lookups that passed the filter and found nothing.
    pub filter_false_positives: u64,
    /// Lookups that were not allowed to read what they needed.
    pub needs_disk: u64,
    /// Blocks of any kind read from a file by lookups and at open (page cache or device).
    pub blocks_read: u64,
    /// Bytes of those blocks.
    pub bytes_read: u64,
    /// Filter pages that could not be used.
    pub filter_faults: u64,
    /// Data or index blocks that were refused.
    pub damaged_blocks: u64,
}

impl TableCounters {
    /// The numbers now.
    pub fn stats(&self) -> TableStats {
        TableStats {
            lookups: self.lookups.load(Relaxed),
            found: self.found.load(Relaxed),
            filter_negatives: self.filter_negatives.load(Relaxed),
            filter_false_positives: self.filter_false_positives.load(Relaxed),
            needs_disk: self.needs_disk.load(Relaxed),
            blocks_read: self.blocks_read.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            filter_faults: self.filter_faults.load(Relaxed),
            damaged_blocks: self.damaged_blocks.load(Relaxed),
        }
    }

    fn judge(&self, answer: &Lookup) {
        let counter = match answer {
            Lookup::Absent(Absence::Range) => return,
            Lookup::Absent(Absence::Filter) => &self.filter_negatives,
            Lookup::Absent(_) => &self.filter_false_positives,
            Lookup::Found { .. } => &self.found,
            Lookup::NeedsDisk => {
                self.needs_disk.fetch_add(1, Relaxed);
                return;
            }
        };
        counter.fetch_add(1, Relaxed);
        self.lookups.fetch_add(1, Relaxed);
    }
}

/// What all tables of a store share.
#[derive(Clone)]
pub struct TableContext {
    /// Blocks in memory.
    pub cache: Arc<BlockCache>,
    /// Memory for resident indexes and filters.
    pub resident: Arc<ResidentBudget>,
    /// Counters.
    pub counters: Arc<TableCounters>,
}

impl TableContext {
    /// A cache of `cache_bytes` and `resident_bytes` for indexes and filters.
    pub fn new(cache_bytes: u64, resident_bytes: u64) -> Self {
        TableContext {
            cache: BlockCache::new(cache_bytes),
            resident: ResidentBudget::new(resident_bytes),
            counters: Arc::default(),
        }
    }
}

/// An open table. Shared by readers; the file stays readable after its name was removed.
pub struct Table {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn RandomRead>,
    pub(super) context: TableContext,
    pub(super) properties: Properties,
    pub(super) properties_at: Handle,
    pub(super) top: Block,
    index: Option<ResidentIndex>,
    filter: Option<ResidentFilter>,
    faults: Mutex<BTreeMap<u64, String>>,
}

enum Filtered {
    No,
    Maybe,
    NeedsDisk,
}

impl Table {
    /// Opens table `id`. `path` is for messages only. Reads header, trailer, properties and top index,
    /// and index partitions and filter as far as the budget reaches.
    pub fn open(
        id: TableId,
        path: &Path,
        file: Arc<dyn RandomRead>,
        context: &TableContext,
    ) -> Result<Table, TableError> {
        let damage = |offset: u64, detail: String| Damage { path: path.into(), offset, detail };
        let io = |error| IoFailure::new(path, "read", &error);
        let ends = (HEADER_BYTES + TRAILER_BYTES) as u64;
        if file.len() < ends {
            return Err(damage(0, format!("{} bytes are too few for a table", file.len())).into());
        }
        let end = |bad: BadEnd, offset: u64| match bad {
            BadEnd::Damaged(why) => TableError::Damaged(damage(offset, why.into())),
            BadEnd::Newer(found) => {
                TableError::NewerVersion { path: path.into(), found, known: footer::VERSION }
            }
        };
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header).map_err(io)?;
        footer::check_header(&header, id).map_err(|bad| end(bad, 0))?;
        let trailer_at = file.len() - TRAILER_BYTES as u64;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_at(trailer_at, &mut trailer).map_err(io)?;
        let properties_at =
            footer::check_trailer(&trailer, id, trailer_at).map_err(|bad| end(bad, trailer_at))?;
        let read = |handle: Handle, kind: Kind| -> Result<Bytes, TableError> {
            let mut stored = vec![0; handle.len as usize];
            file.read_at(handle.offset, &mut stored).map_err(io)?;
            context.counters.blocks_read.fetch_add(1, Relaxed);
            context.counters.bytes_read.fetch_add(stored.len() as u64, Relaxed);
            unseal(&stored.into(), kind, id, handle.offset).map_err(|why| {
                damage(handle.offset, format!("{}: {}", kind.name(), why.reason())).into()
            })
        };
        let content = read(properties_at, Kind::Properties)?;
        let properties = Properties::decode(&content, id, file.len())
            .map_err(|why| damage(properties_at.offset, why))?;
        let top = properties.top;
        if top.end().is_none_or(|end| end > properties_at.offset) {
            return Err(damage(properties_at.offset, "top index outside the file".into()).into());
        }
        let content = read(top, Kind::Top)?;
        let top = Block::parse(content)
            .map_err(|BadBlock| damage(top.offset, "top index is malformed".into()))?;
        let mut table = Table {
            path: path.into(),
            file,
            context: context.clone(),
            properties,
            properties_at,
            top,
            index: None,
            filter: None,
            faults: Mutex::default(),
        };
        table.make_resident()?;
        Ok(table)
    }

    /// Number of the table.
    pub fn id(&self) -> TableId {
        self.properties.meta.id
    }

    /// Where the file lies, as given at open.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the table holds.
    pub fn meta(&self) -> &TableMeta {
        &self.properties.meta
    }

    /// Bytes of keys and values in the table, before encoding.
    pub fn raw_bytes(&self) -> u64 {
        self.properties.raw_bytes
    }

    /// Parts of the filter that could not be used so far. They cost reads, never answers.
    pub fn faults(&self) -> Vec<Damage> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().map(|(offset, why)| self.damage(*offset, why.clone())).collect()
    }

    /// The newest entry under an encoded key.
    pub fn get(&self, key: &[u8], mode: ReadMode) -> Result<Lookup, TableError> {
        self.find(&Probe::new(key), u64::MAX, mode)
    }

    /// The newest entry under a key with a sequence number of at most `seq_limit`.
    pub fn find(
        &self,
        probe: &Probe<'_>,
        seq_limit: u64,
        mode: ReadMode,
    ) -> Result<Lookup, TableError> {
        let answer = self.search(probe, seq_limit, mode)?;
        self.context.counters.judge(&answer);
        Ok(answer)
    }

    fn search(&self, probe: &Probe<'_>, limit: u64, mode: ReadMode) -> Result<Lookup, TableError> {
        let meta = &self.properties.meta;
        if !meta.overlaps(probe.key, probe.key) {
            return Ok(Lookup::Absent(Absence::Range));
        }
        match self.filter_says(probe.hash, mode) {
            Filtered::No => return Ok(Lookup::Absent(Absence::Filter)),
            Filtered::NeedsDisk => return Ok(Lookup::NeedsDisk),
            Filtered::Maybe => {}
        }
        // The usual case: the first block that may hold the key decides.
        let top_at = self.properties.top;
        let Some(upper) = self.bound(&self.top, top_at, probe.key, u64::MAX)? else {
            return Ok(Lookup::Absent(Absence::Index));
        };
        let partition_at = self.handle_of(&upper, top_at)?;
        let Some(partition) = self.block(partition_at, Kind::Index, mode)? else {
            return Ok(Lookup::NeedsDisk);
        };
        let Some(lower) = self.bound(&partition, partition_at, probe.key, u64::MAX)? else {
            return Ok(Lookup::Absent(Absence::Index));
        };
        let data_at = self.handle_of(&lower, partition_at)?;
        let Some(data) = self.block(data_at, Kind::Data, mode)? else {
            return Ok(Lookup::NeedsDisk);
        };
        match self.bound(&data, data_at, probe.key, limit)? {
            Some(hit) if hit.exact => Ok(Lookup::Found { seq: hit.seq, value: hit.value }),
            None if lower.exact => self.search_on(probe.key, limit, mode),
            _ => Ok(Lookup::Absent(Absence::Block)),
        }
    }

    /// The rare case: the versions of a key span blocks, and those in the first are too new.
    fn search_on(&self, key: &[u8], limit: u64, mode: ReadMode) -> Result<Lookup, TableError> {
        let malformed = |at: Handle| move |BadBlock| self.malformed(at);
        let top_at = self.properties.top;
        let mut upper =
            BlockCursor::seek(self.top.clone(), key, u64::MAX).map_err(malformed(top_at))?;
        while upper.valid() {
            let partition_at = self.handle_in(upper.value_slice(), top_at)?;
            let Some(partition) = self.block(partition_at, Kind::Index, mode)? else {
                return Ok(Lookup::NeedsDisk);
            };
            let mut lower =
                BlockCursor::seek(partition, key, u64::MAX).map_err(malformed(partition_at))?;
            while lower.valid() {
                let data_at = self.handle_in(lower.value_slice(), partition_at)?;
                let Some(data) = self.block(data_at, Kind::Data, mode)? else {
                    return Ok(Lookup::NeedsDisk);
                };
                match self.bound(&data, data_at, key, limit)? {
                    Some(hit) if hit.exact => {
                        return Ok(Lookup::Found { seq: hit.seq, value: hit.value });
                    }
                    None if lower.key() == key => {}
                    _ => return Ok(Lookup::Absent(Absence::Block)),
                }
                lower.advance().map_err(malformed(partition_at))?;
            }
            upper.advance().map_err(malformed(top_at))?;
        }
        Ok(Lookup::Absent(Absence::Block))
    }

    fn filter_says(&self, hash: u64, mode: ReadMode) -> Filtered {
        let block = filter::block_of(hash, self.properties.filter_blocks);
        let (page, within) = (block / PAGE_BLOCKS, (block % PAGE_BLOCKS) as usize);
        let judge = |content: &Bytes| {
            let start = (within * filter::BLOCK_BYTES).min(content.len());
            if filter::may_hold(&content[start..], hash) { Filtered::Maybe } else { Filtered::No }
        };
        if let Some(resident) = &self.filter {
            let content = resident.pages.get(page as usize).and_then(Option::as_ref);
            return content.map_or(Filtered::Maybe, judge);
        }
        let handle = self.page_handle(page);
        if let Some(content) = self.context.cache.page(self.id(), handle.offset) {
            return judge(&content);
        }
        let known_bad = |faults: &Mutex<BTreeMap<u64, String>>| {
            faults.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&handle.offset)
        };
        if known_bad(&self.faults) {
            return Filtered::Maybe;
        }
        match self.fetch(handle, Kind::Filter, mode) {
            Ok(Some(content)) => {
                self.context.cache.keep_page(self.id(), handle.offset, content.clone());
                judge(&content)
            }
            Ok(None) => Filtered::NeedsDisk,
            Err(error) => {
                self.record_fault(handle.offset, error.to_string());
                Filtered::Maybe
            }
        }
    }

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

    fn record_fault(&self, offset: u64, why: String) {
        self.context.counters.filter_faults.fetch_add(1, Relaxed);
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(offset, why);
    }

    fn make_resident(&mut self) -> Result<(), TableError> {
        let budget = self.context.resident.clone();
        let filter_bytes = self.properties.filter_blocks.saturating_mul(filter::BLOCK_BYTES as u64);
        if filter_bytes < self.file.len()
            && let Some(held) = budget.reserve(filter_bytes)
        {
            let mut pages = Vec::new();
            for page in 0..self.page_count() {
                let handle = self.page_handle(page);
                match self.fetch(handle, Kind::Filter, ReadMode::Blocking) {
                    Ok(content) => pages.push(content),
                    Err(error) => {
                        self.record_fault(handle.offset, error.to_string());
                        pages.push(None);
                    }
                }
            }
            self.filter = Some(ResidentFilter { pages, _held: held });
        }
        if let Some(held) = budget.reserve(self.properties.index_bytes) {
            let mut partitions = Vec::new();
            let top_at = self.properties.top;
            let mut cursor =
                BlockCursor::first(self.top.clone()).map_err(|BadBlock| self.malformed(top_at))?;
            while cursor.valid() {
                let handle = self.handle_in(cursor.value_slice(), top_at)?;
                // A damaged partition fails the lookups that need it, not the table.
                let content = self.fetch(handle, Kind::Index, ReadMode::Blocking).ok().flatten();
                if let Some(Ok(block)) = content.map(Block::parse) {
                    partitions.push((handle.offset, block));
                }
                cursor.advance().map_err(|BadBlock| self.malformed(top_at))?;
            }
            partitions.sort_by_key(|(offset, _)| *offset);
            self.index = Some(ResidentIndex { partitions, _held: held });
        }
        Ok(())
    }

    /// A data block or index partition: resident, cached, or read and offered to the cache. `None`
    /// when only the device has it and the mode forbids waiting.
    pub(super) fn block(
        &self,
        handle: Handle,
        kind: Kind,
        mode: ReadMode,
    ) -> Result<Option<Block>, TableError> {
        if kind == Kind::Index
            && let Some(block) = self.index.as_ref().and_then(|index| index.get(handle.offset))
        {
            return Ok(Some(block.clone()));
        }
        if let Some(block) = self.context.cache.block(self.id(), handle.offset) {
            return Ok(Some(block));
        }
        let Some(content) = self.fetch(handle, kind, mode)? else { return Ok(None) };
        let block = Block::parse(content).map_err(|BadBlock| self.malformed(handle))?;
        self.context.cache.keep_block(self.id(), handle.offset, block.clone());
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
        self.context.counters.blocks_read.fetch_add(1, Relaxed);
        self.context.counters.bytes_read.fetch_add(stored.len() as u64, Relaxed);
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
            self.context.counters.damaged_blocks.fetch_add(1, Relaxed);
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

    fn bound(
        &self,
        block: &Block,
        at: Handle,
        key: &[u8],
        limit: u64,
    ) -> Result<Option<Hit>, TableError> {
        block.lower_bound(key, limit).map_err(|BadBlock| self.malformed(at))
    }

    fn handle_of(&self, hit: &Hit, at: Handle) -> Result<Handle, TableError> {
        self.handle_in(hit.value.as_deref(), at)
    }

    /// The place that an index entry of the block at `at` names.
    pub(super) fn handle_in(&self, value: Option<&[u8]>, at: Handle) -> Result<Handle, TableError> {
        value.and_then(Handle::decode).ok_or_else(|| self.malformed(at))
    }

    pub(super) fn malformed(&self, at: Handle) -> TableError {
        self.context.counters.damaged_blocks.fetch_add(1, Relaxed);
        self.damage(at.offset, "block does not follow the format".into()).into()
    }

    pub(super) fn damage(&self, offset: u64, detail: String) -> Damage {
        Damage { path: self.path.clone(), offset, detail }
    }

    /// The data block that holds the first entry at or behind a key; `None` behind the last.
    pub(super) fn place_of(&self, key: &[u8]) -> Result<Option<Handle>, TableError> {
        let top_at = self.properties.top;
        let Some(upper) = self.bound(&self.top, top_at, key, u64::MAX)? else { return Ok(None) };
        let at = self.handle_of(&upper, top_at)?;
        let Some(partition) = self.block(at, Kind::Index, ReadMode::Blocking)? else {
            return Err(self.malformed(at));
        };
        let Some(lower) = self.bound(&partition, at, key, u64::MAX)? else { return Ok(None) };
        self.handle_of(&lower, at).map(Some)
    }

    /// Bytes of data blocks that a scan of `first..last` would read, to one block. May read the index.
    pub fn bytes_between(&self, first: &[u8], last: &[u8]) -> Result<u64, TableError> {
        let end = self.properties.data_end;
        let from = self.place_of(first)?.map_or(end, |handle| handle.offset);
        let to = self.place_of(last)?.and_then(Handle::end).unwrap_or(end);
        Ok(to.saturating_sub(from))
    }
}
