//! Walking a block, entry by entry. Keys and values are parts of the block, never copies.

use super::{BadBlock, Block};
use bytes::Bytes;
use std::ops::Range;

/// Walks the entries of a block in order.
#[derive(Clone, Debug)]
pub(crate) struct BlockCursor {
    block: Block,
    key: Range<usize>,
    seq: u64,
    value: Option<Range<usize>>,
    next: usize,
    valid: bool,
}

impl BlockCursor {
    /// On the first entry.
    pub(crate) fn first(block: Block) -> Result<Self, BadBlock> {
        Self::starting(block, 0)
    }

    /// On the first entry at or behind (`key`, `seq_limit`), in the order of
    /// [`Block::lower_bound`]; invalid when there is none.
    pub(crate) fn seek(block: Block, key: &[u8], seq_limit: u64) -> Result<Self, BadBlock> {
        let next = match block.search(key, seq_limit)? {
            (_, Some(raw)) => raw.start,
            (at, None) if at < block.count => block.place(at)?,
            _ => block.hints,
        };
        Self::starting(block, next)
    }

    fn starting(block: Block, next: usize) -> Result<Self, BadBlock> {
        let mut cursor = BlockCursor { block, key: 0..0, seq: 0, value: None, next, valid: false };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Goes to the next entry; behind the last the cursor becomes invalid.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<(), BadBlock> {
        self.valid = false;
        if self.next >= self.block.hints {
            return Ok(());
        }
        let raw = self.block.raw(self.next)?;
        (self.key, self.seq, self.value, self.next) = (raw.key, raw.seq, raw.value, raw.end);
        self.valid = true;
        Ok(())
    }

    /// Whether the cursor stands on an entry.
    pub(crate) fn valid(&self) -> bool {
        self.valid
    }

    /// Key of the entry.
    pub(crate) fn key(&self) -> &[u8] {
        &self.block.content[self.key.clone()]
    }

    /// Key of the entry. Shares the block's memory.
    pub(crate) fn shared_key(&self) -> Bytes {
        self.block.content.slice(self.key.clone())
    }

    /// Sequence number of the entry.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Value of the entry, `None` for an erase mark. Shares the block's memory.
    pub(crate) fn value(&self) -> Option<Bytes> {
        self.value.clone().map(|range| self.block.content.slice(range))
    }

    /// Value of the entry without taking a share of the block.
    pub(crate) fn value_slice(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.block.content[range])
    }
}
