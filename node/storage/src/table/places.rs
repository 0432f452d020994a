//! Walking the index of a table: the places of its data blocks, in order.
//!
//! From the resident index where there is one, else from the stored partitions, one at a time.

use super::block::{BadBlock, BlockCursor, head_of};
use super::frame::{Handle, Kind};
use super::index::Spot;
use super::lookup::ReadMode;
use super::{Table, TableError};
use std::sync::Arc;

/// Stands on the place of a data block, or behind the last.
pub(super) struct Places {
    table: Arc<Table>,
    mode: ReadMode,
    way: Way,
}

enum Way {
    /// The number of a block in the resident index.
    Resident(usize),
    Stored(Box<Stored>),
}

/// A walk over the stored index; `lower` stands on an entry, or there is none left.
struct Stored {
    upper: BlockCursor,
    partition_at: Handle,
    lower: Option<BlockCursor>,
}

impl Places {
    /// On the first block that may hold `from` or a greater key.
    pub(super) fn seek(
        table: &Arc<Table>,
        from: &[u8],
        mode: ReadMode,
    ) -> Result<Places, TableError> {
        let resident = table.index.as_ref().map(|index| index.find(from, head_of(from)));
        let way = match resident {
            Some(Spot::Block(at)) => Way::Resident(at),
            Some(Spot::Behind) => Way::Resident(usize::MAX),
            Some(Spot::Unsure) | None => Way::Stored(Box::new(Stored::seek(table, from, mode)?)),
        };
        Ok(Places { table: table.clone(), mode, way })
    }

    /// The place it stands on; `None` behind the last.
    pub(super) fn current(&self) -> Result<Option<Handle>, TableError> {
        match &self.way {
            Way::Resident(at) => Ok(self.table.index.as_ref().and_then(|index| index.handle(*at))),
            Way::Stored(walk) => match &walk.lower {
                Some(lower) => {
                    self.table.handle_in(lower.value_slice(), walk.partition_at).map(Some)
                }
                None => Ok(None),
            },
        }
    }

    /// Goes to the next block.
    pub(super) fn advance(&mut self) -> Result<(), TableError> {
        match &mut self.way {
            Way::Resident(at) => {
                *at = at.saturating_add(1);
                Ok(())
            }
            Way::Stored(walk) => walk.advance(&self.table, self.mode),
        }
    }
}

impl Stored {
    fn seek(table: &Table, from: &[u8], mode: ReadMode) -> Result<Stored, TableError> {
        let top_at = table.properties.top;
        let upper = BlockCursor::seek(table.top.clone(), from, u64::MAX)
            .map_err(|BadBlock| table.malformed(top_at))?;
        let mut walk = Stored { upper, partition_at: top_at, lower: None };
        walk.open_partition(table, Some(from), mode)?;
        Ok(walk)
    }

    fn advance(&mut self, table: &Table, mode: ReadMode) -> Result<(), TableError> {
        let Some(lower) = &mut self.lower else { return Ok(()) };
        lower.advance().map_err(|BadBlock| table.malformed(self.partition_at))?;
        if lower.valid() {
            return Ok(());
        }
        self.lower = None;
        self.upper.advance().map_err(|BadBlock| table.malformed(table.properties.top))?;
        self.open_partition(table, None, mode)
    }

    /// Opens the partition that `upper` stands on, or the next ones until one has an entry.
    fn open_partition(
        &mut self,
        table: &Table,
        from: Option<&[u8]>,
        mode: ReadMode,
    ) -> Result<(), TableError> {
        let top_at = table.properties.top;
        while self.upper.valid() {
            let at = table.handle_in(self.upper.value_slice(), top_at)?;
            let Some(block) = table.block(at, Kind::Index, mode)? else {
                return Err(TableError::NeedsDisk);
            };
            let lower = match from {
                Some(key) => BlockCursor::seek(block, key, u64::MAX),
                None => BlockCursor::first(block),
            };
            let lower = lower.map_err(|BadBlock| table.malformed(at))?;
            if lower.valid() {
                (self.lower, self.partition_at) = (Some(lower), at);
                return Ok(());
            }
            self.upper.advance().map_err(|BadBlock| table.malformed(top_at))?;
        }
        Ok(())
    }
}
