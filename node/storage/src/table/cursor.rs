//! Walking a table in order, for scans, streams of a partition and compaction.
//!
//! A cursor reads the file in windows that grow from 8 KiB to the read-ahead that it was given and
//! never reach behind the end of its range; it holds one window at a time. It goes past the block cache
//! in both directions, so a scan can neither push out hot blocks nor skew the cache's counters.

use super::block::{BadBlock, Block, BlockCursor};
use super::frame::{Handle, Kind};
use super::lookup::ReadMode;
use super::places::Places;
use super::{Table, TableError};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// First window of a cursor in bytes.
const FIRST_WINDOW_BYTES: usize = 8 << 10;

/// A walk over entries in table order: key ascending, newest version first.
///
/// After an error the cursor is spent; what it stood on before was right.
pub trait Cursor {
    /// Whether the cursor stands on an entry.
    fn valid(&self) -> bool;
    /// Encoded key of the entry. Meaningful only while [`valid`](Cursor::valid).
    fn key(&self) -> &[u8];
    /// The key, sharing a larger piece of memory.
    fn shared_key(&self) -> Bytes;
    /// Sequence number of the entry.
    fn seq(&self) -> u64;
    /// Value of the entry, `None` for an erase mark. May share a larger piece of memory.
    fn value(&self) -> Option<Bytes>;
    /// Goes to the next entry.
    fn advance(&mut self) -> Result<(), TableError>;
}

impl<C: Cursor + ?Sized> Cursor for Box<C> {
    fn valid(&self) -> bool {
        (**self).valid()
    }

    fn key(&self) -> &[u8] {
        (**self).key()
    }

    fn shared_key(&self) -> Bytes {
        (**self).shared_key()
    }

    fn seq(&self) -> u64 {
        (**self).seq()
    }

    fn value(&self) -> Option<Bytes> {
        (**self).value()
    }

    fn advance(&mut self) -> Result<(), TableError> {
        (**self).advance()
    }
}

struct Window {
    offset: u64,
    bytes: Bytes,
}

/// A [`Cursor`] over a range of one table. Waits for the disk unless it was told not to; then it ends with
/// [`TableError::NeedsDisk`] where it would have to.
pub struct TableCursor {
    table: Arc<Table>,
    mode: ReadMode,
    end: Bound<Bytes>,
    read_ahead: usize,
    next_window: usize,
    /// No window reaches behind this offset.
    limit: u64,
    window: Window,
    places: Places,
    entries: Option<BlockCursor>,
    data_at: Handle,
}

impl Table {
    /// A cursor on the first entry of a range of encoded keys. Windows hold at most
    /// `read_ahead_bytes`, or one block if it is larger.
    pub fn scan(
        self: &Arc<Self>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        read_ahead_bytes: usize,
    ) -> Result<TableCursor, TableError> {
        self.scan_as(start, end, read_ahead_bytes, ReadMode::Blocking)
    }

    /// As [`scan`](Self::scan), in a mode.
    pub fn scan_as(
        self: &Arc<Self>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        read_ahead_bytes: usize,
        mode: ReadMode,
    ) -> Result<TableCursor, TableError> {
        let mut limit = self.properties.data_end;
        if let Bound::Included(key) | Bound::Excluded(key) = end {
            // Versions of the last key may span blocks: stop behind the first greater key's block.
            let mut beyond = key.to_vec();
            beyond.push(0);
            limit = self.place_of(&beyond, mode)?.and_then(Handle::end).unwrap_or(limit);
        }
        let from: &[u8] = match start {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let places = Places::seek(self, from, mode)?;
        let mut cursor = TableCursor {
            table: self.clone(),
            mode,
            end: end.map(Bytes::copy_from_slice),
            read_ahead: read_ahead_bytes,
            next_window: FIRST_WINDOW_BYTES.min(read_ahead_bytes),
            limit,
            window: Window { offset: 0, bytes: Bytes::new() },
            places,
            entries: None,
            data_at: self.properties.top,
        };
        cursor.settle(Some(from))?;
        while matches!(start, Bound::Excluded(key) if cursor.valid() && cursor.key() == key) {
            cursor.advance()?;
        }
        cursor.stop_behind_end();
        Ok(cursor)
    }
}

impl TableCursor {
    fn malformed(&self, at: Handle) -> TableError {
        self.table.malformed(at)
    }

    /// Opens the data block that the index stands on, and the next ones until there is an entry.
    fn settle(&mut self, from: Option<&[u8]>) -> Result<(), TableError> {
        self.entries = None;
        while let Some(at) = self.places.current()? {
            self.data_at = at;
            let block = self.data_block(at)?;
            let entries = match from {
                Some(key) => BlockCursor::seek(block, key, u64::MAX),
                None => BlockCursor::first(block),
            };
            let entries = entries.map_err(|BadBlock| self.malformed(at))?;
            if entries.valid() {
                self.entries = Some(entries);
                return Ok(());
            }
            self.places.advance()?;
        }
        Ok(())
    }

    fn data_block(&mut self, at: Handle) -> Result<Block, TableError> {
        self.table.check_place(at)?;
        let inside = |window: &Window| {
            let start = usize::try_from(at.offset.checked_sub(window.offset)?).ok()?;
            let end = start.checked_add(at.len as usize)?;
            (end <= window.bytes.len()).then(|| window.bytes.slice(start..end))
        };
        let stored = match inside(&self.window) {
            Some(stored) => stored,
            None => {
                let room = self.limit.saturating_sub(at.offset);
                let bytes = self.next_window.min(usize::try_from(room).unwrap_or(usize::MAX));
                self.next_window = (self.next_window.saturating_mul(2)).min(self.read_ahead);
                let mut buffer = vec![0; bytes.max(at.len as usize)];
                match self.mode {
                    ReadMode::Blocking => self.table.read(at.offset, &mut buffer)?,
                    ReadMode::CachedOnly => {
                        let there = self.table.file.try_read_cached(at.offset, &mut buffer);
                        if !there.unwrap_or(false) {
                            return Err(TableError::NeedsDisk);
                        }
                    }
                }
                self.window = Window { offset: at.offset, bytes: buffer.into() };
                self.window.bytes.slice(..at.len as usize)
            }
        };
        let content = self.table.open_block(&stored, at, Kind::Data)?;
        Block::parse(content).map_err(|BadBlock| self.malformed(at))
    }

    fn stop_behind_end(&mut self) {
        let inside = match (&self.end, &self.entries) {
            (_, None) | (Bound::Unbounded, _) => true,
            (Bound::Included(end), Some(entries)) => entries.key() <= end.as_ref(),
            (Bound::Excluded(end), Some(entries)) => entries.key() < end.as_ref(),
        };
        if !inside {
            self.entries = None;
        }
    }

    fn step(&mut self) -> Result<(), TableError> {
        let Some(entries) = &mut self.entries else { return Ok(()) };
        entries.advance().map_err(|BadBlock| self.table.malformed(self.data_at))?;
        if !entries.valid() {
            self.places.advance()?;
            self.settle(None)?;
        }
        Ok(())
    }
}

impl Cursor for TableCursor {
    fn valid(&self) -> bool {
        self.entries.is_some()
    }

    fn key(&self) -> &[u8] {
        self.entries.as_ref().map_or(&[], BlockCursor::key)
    }

    fn shared_key(&self) -> Bytes {
        self.entries.as_ref().map_or_else(Bytes::new, BlockCursor::shared_key)
    }

    fn seq(&self) -> u64 {
        self.entries.as_ref().map_or(0, BlockCursor::seq)
    }

    fn value(&self) -> Option<Bytes> {
        self.entries.as_ref().and_then(BlockCursor::value)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        let done = self.step();
        if done.is_err() {
            self.entries = None;
        }
        self.stop_behind_end();
        done
    }
}
