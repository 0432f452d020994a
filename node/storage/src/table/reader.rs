//! An open table: point lookups.
//!
//! A lookup goes key range -> Bloom filter -> index -> one data block, and stops at the first that says
//! "absent". In [`ReadMode::CachedOnly`] it never waits for the device: it answers from resident parts,
//! the block cache or the page cache, or says [`Lookup::NeedsDisk`]. A damaged index partition or data
//! block fails only the lookups that need it; a damaged filter page is recorded as a fault and treated
//! as "maybe".

use super::block::{BadBlock, Block, BlockCursor, Hit, head_of};
use super::fetch::Filtered;
use super::filter::ResidentFilter;
use super::footer::Properties;
use super::frame::{Handle, Kind};
use super::index::{ResidentIndex, Spot};
use super::lookup::{Absence, Lookup, Probe, ReadMode, TableContext};
use super::{TableError, TableId, TableMeta};
use crate::disk::RandomRead;
use crate::error::Damage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// An open table. Shared by readers; the file stays readable after its name was removed.
pub struct Table {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn RandomRead>,
    pub(super) context: TableContext,
    /// Heads of the smallest and the largest key.
    pub(super) heads: (u64, u64),
    pub(super) properties: Properties,
    pub(super) properties_at: Handle,
    pub(super) top: Block,
    pub(super) index: Option<ResidentIndex>,
    pub(super) filter: Option<ResidentFilter>,
    pub(super) faults: Mutex<BTreeMap<u64, String>>,
}

/// Where the index says that a key would lie.
enum Located {
    /// Above every separator.
    Absent,
    /// Only the disk knows.
    NeedsDisk,
    /// Here or nowhere; `exact`: the separator is the key itself, so its versions may go on behind.
    Block { at: Handle, exact: bool },
}

impl Table {
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

    /// Reads a byte of the filter line that a lookup will need. Several tables touched one after the
    /// other are fetched from memory at the same time, where looking them up one by one would wait for
    /// each.
    #[inline]
    pub(crate) fn touch(&self, probe: &Probe<'_>) -> u8 {
        let (first, last) = self.heads;
        match &self.filter {
            Some(filter) if first <= probe.head && probe.head <= last => filter.touch(probe.hash),
            _ => 0,
        }
    }

    /// What memory alone says without a doubt: why the key is absent, or `None` if more must be asked. The
    /// answer is not counted; whoever asks counts what [`Absence::Filter`] it got.
    #[inline]
    pub(crate) fn excludes(&self, probe: &Probe<'_>) -> Option<Absence> {
        let (first, last) = self.heads;
        if probe.head < first || last < probe.head {
            return Some(Absence::Range);
        }
        let excluded = self.filter.as_ref().is_some_and(|filter| !filter.may_hold(probe.hash));
        // At an end of the range the whole key decides, and with it what the absence counts as.
        let inside = first < probe.head && probe.head < last;
        (excluded && inside).then_some(Absence::Filter)
    }

    /// Counts lookups that filters in memory ended; those of other tables of the store too.
    pub(crate) fn count_filtered(&self, lookups: u64) {
        self.context.counters.count_filtered(lookups);
    }

    fn search(&self, probe: &Probe<'_>, limit: u64, mode: ReadMode) -> Result<Lookup, TableError> {
        if !self.covers(probe) {
            return Ok(Lookup::Absent(Absence::Range));
        }
        match self.filter_says(probe.hash, mode) {
            Filtered::No => return Ok(Lookup::Absent(Absence::Filter)),
            Filtered::NeedsDisk => return Ok(Lookup::NeedsDisk),
            Filtered::Maybe => {}
        }
        // The usual case: the first block that may hold the key decides.
        let (data_at, exact) = match self.locate(probe.key, probe.head, mode)? {
            Located::Absent => return Ok(Lookup::Absent(Absence::Index)),
            Located::NeedsDisk => return Ok(Lookup::NeedsDisk),
            Located::Block { at, exact } => (at, exact),
        };
        let Some(data) = self.block(data_at, Kind::Data, mode)? else {
            return Ok(Lookup::NeedsDisk);
        };
        match self.bound(&data, data_at, probe.key, limit)? {
            Some(hit) if hit.exact => {
                Ok(Lookup::Found { seq: hit.seq, value: data.into_value(&hit) })
            }
            None if exact => self.search_on(probe.key, limit, mode),
            _ => Ok(Lookup::Absent(Absence::Block)),
        }
    }

    /// Whether a key lies in the table's range. Its head decides unless it is that of an end.
    #[inline]
    fn covers(&self, probe: &Probe<'_>) -> bool {
        let (first, last) = self.heads;
        (first < probe.head && probe.head < last)
            || (first <= probe.head
                && probe.head <= last
                && self.properties.meta.overlaps(probe.key, probe.key))
    }

    /// The first data block that may hold a key.
    fn locate(&self, key: &[u8], head: u64, mode: ReadMode) -> Result<Located, TableError> {
        if let Some(index) = &self.index {
            match index.find(key, head) {
                Spot::Behind => return Ok(Located::Absent),
                Spot::Block(block) => {
                    if let Some(at) = index.handle(block) {
                        return Ok(Located::Block { at, exact: index.names(block, key, head) });
                    }
                }
                Spot::Unsure => {}
            }
        }
        let top_at = self.properties.top;
        let Some(upper) = self.bound(&self.top, top_at, key, u64::MAX)? else {
            return Ok(Located::Absent);
        };
        let partition_at = self.handle_in(self.top.value_of(&upper), top_at)?;
        let Some(partition) = self.block(partition_at, Kind::Index, mode)? else {
            return Ok(Located::NeedsDisk);
        };
        let Some(lower) = self.bound(&partition, partition_at, key, u64::MAX)? else {
            return Ok(Located::Absent);
        };
        let at = self.handle_in(partition.value_of(&lower), partition_at)?;
        Ok(Located::Block { at, exact: lower.exact })
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
                        return Ok(Lookup::Found { seq: hit.seq, value: data.into_value(&hit) });
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

    fn bound(
        &self,
        block: &Block,
        at: Handle,
        key: &[u8],
        limit: u64,
    ) -> Result<Option<Hit>, TableError> {
        block.lower_bound(key, limit).map_err(|BadBlock| self.malformed(at))
    }

    /// The place that an index entry of the block at `at` names.
    pub(super) fn handle_in(&self, value: Option<&[u8]>, at: Handle) -> Result<Handle, TableError> {
        value.and_then(Handle::decode).ok_or_else(|| self.malformed(at))
    }

    /// The data block that holds the first entry at or behind a key; `None` behind the last.
    pub(super) fn place_of(
        &self,
        key: &[u8],
        mode: ReadMode,
    ) -> Result<Option<Handle>, TableError> {
        match self.locate(key, head_of(key), mode)? {
            Located::Block { at, .. } => Ok(Some(at)),
            Located::Absent => Ok(None),
            Located::NeedsDisk => Err(TableError::NeedsDisk),
        }
    }

    /// Bytes of data blocks that a scan of `first..last` would read, to one block. May read the index.
    pub fn bytes_between(&self, first: &[u8], last: &[u8]) -> Result<u64, TableError> {
        let end = self.properties.data_end;
        let from = self.place_of(first, ReadMode::Blocking)?.map_or(end, |handle| handle.offset);
        let to = self.place_of(last, ReadMode::Blocking)?.and_then(Handle::end).unwrap_or(end);
        Ok(to.saturating_sub(from))
    }
}
