//! Opening a table: from a file to what lookups need.
//!
//! Opening needs the header, trailer, properties and top index to be sound. A damaged index partition
//! or filter page does not keep a table from opening: the one fails only the lookups that need it (rule
//! R7), the other none.

use super::block::{BadBlock, Block, BlockCursor, head_of};
use super::filter::{self, ResidentFilter};
use super::footer::{self, BadEnd, HEADER_BYTES, Properties, TRAILER_BYTES};
use super::frame::{Handle, Kind, unseal};
use super::index::{BYTES_PER_BLOCK, ResidentIndex};
use super::lookup::{ReadMode, TableContext};
use super::{Table, TableError, TableId};
use crate::disk::RandomRead;
use crate::error::{Damage, IoFailure};
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Mutex};

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
            context.counters.count_read(stored.len());
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
        let range = (head_of(&properties.meta.first), head_of(&properties.meta.last));
        let mut table = Table {
            path: path.into(),
            file,
            context: context.clone(),
            heads: range,
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

    fn make_resident(&mut self) -> Result<(), TableError> {
        let budget = self.context.resident.clone();
        let filter_bytes = self.properties.filter_blocks.saturating_mul(filter::BLOCK_BYTES as u64);
        if filter_bytes < self.file.len()
            && let Some(held) = budget.reserve(filter_bytes)
        {
            let mut row = ResidentFilter::new(self.properties.filter_blocks as usize, held);
            for page in 0..self.page_count() {
                let handle = self.page_handle(page);
                match self.fetch(handle, Kind::Filter, ReadMode::Blocking) {
                    Ok(content) => row.push(content.as_deref(), handle),
                    Err(error) => {
                        self.record_fault(handle.offset, error.to_string());
                        row.push(None, handle);
                    }
                }
            }
            self.filter = Some(row);
        }
        let blocks = self.properties.blocks;
        if blocks < self.file.len()
            && let Some(held) = budget.reserve(blocks.saturating_mul(BYTES_PER_BLOCK))
        {
            self.index =
                self.whole_index(ResidentIndex::new(HEADER_BYTES as u64, blocks as usize, held))?;
        }
        Ok(())
    }

    /// Fills an index from the stored partitions. `None` where one of them is damaged: then the
    /// lookups that need that one fail, and not the table.
    fn whole_index(&self, mut index: ResidentIndex) -> Result<Option<ResidentIndex>, TableError> {
        let top_at = self.properties.top;
        let malformed = |BadBlock| self.malformed(top_at);
        let mut upper = BlockCursor::first(self.top.clone()).map_err(malformed)?;
        while upper.valid() {
            let at = self.handle_in(upper.value_slice(), top_at)?;
            let content = self.fetch(at, Kind::Index, ReadMode::Blocking).ok().flatten();
            let walk = content.map(|content| Block::parse(content).and_then(BlockCursor::first));
            let Some(Ok(mut lower)) = walk else { return Ok(None) };
            while lower.valid() {
                let handle = lower.value_slice().and_then(Handle::decode);
                let known = handle.is_some_and(|handle| index.push(lower.key(), handle));
                if !known || lower.advance().is_err() {
                    return Ok(None);
                }
            }
            upper.advance().map_err(malformed)?;
        }
        let whole =
            index.len() as u64 == self.properties.blocks && index.end() == self.properties.data_end;
        Ok(whole.then_some(index))
    }
}
