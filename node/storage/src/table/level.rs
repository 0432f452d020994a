//! Walking a whole sorted level as if it were one table.
//!
//! The tables of a level under level 0 are disjoint and sorted, so only one of them has to be open at a
//! time: a scan or merge costs one window of memory for each level, not for each table.

use super::cursor::{Cursor, TableCursor};
use super::lookup::ReadMode;
use super::{Table, TableError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// A [`Cursor`] over a range of several disjoint tables, sorted by key. Waits for the disk as a [`TableCursor`] does.
pub struct LevelCursor {
    /// Tables behind the current one.
    ahead: VecDeque<Arc<Table>>,
    current: Option<TableCursor>,
    end: Bound<Bytes>,
    read_ahead: usize,
    mode: ReadMode,
}

impl LevelCursor {
    /// A cursor on the first entry of a range of encoded keys; `read_ahead_bytes` as in
    /// [`Table::scan`]. Tables that lie wholly before the range are not opened.
    pub fn new(
        tables: impl IntoIterator<Item = Arc<Table>>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        read_ahead_bytes: usize,
    ) -> Result<LevelCursor, TableError> {
        Self::new_as(tables, start, end, read_ahead_bytes, ReadMode::Blocking)
    }

    /// As [`new`](Self::new), in a mode: see [`Table::scan_as`].
    pub fn new_as(
        tables: impl IntoIterator<Item = Arc<Table>>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        read_ahead_bytes: usize,
        mode: ReadMode,
    ) -> Result<LevelCursor, TableError> {
        let before = |table: &Arc<Table>| match start {
            Bound::Included(key) => table.meta().last.as_ref() < key,
            Bound::Excluded(key) => table.meta().last.as_ref() <= key,
            Bound::Unbounded => false,
        };
        let ahead: VecDeque<_> = tables.into_iter().skip_while(before).collect();
        debug_assert!(
            ahead.iter().zip(ahead.iter().skip(1)).all(|(a, b)| a.meta().last < b.meta().first),
            "the tables of a level are disjoint and sorted"
        );
        let end = end.map(Bytes::copy_from_slice);
        let mut cursor =
            LevelCursor { ahead, current: None, end, read_ahead: read_ahead_bytes, mode };
        cursor.open_next(start)?;
        Ok(cursor)
    }

    /// Opens tables until one has an entry in the range.
    fn open_next(&mut self, start: Bound<&[u8]>) -> Result<(), TableError> {
        self.current = None;
        while let Some(table) = self.ahead.pop_front() {
            let behind = match &self.end {
                Bound::Included(end) => table.meta().first > *end,
                Bound::Excluded(end) => table.meta().first >= *end,
                Bound::Unbounded => false,
            };
            if behind {
                self.ahead.clear();
                return Ok(());
            }
            let cursor = table.scan_as(
                start,
                self.end.as_ref().map(Bytes::as_ref),
                self.read_ahead,
                self.mode,
            )?;
            if cursor.valid() {
                self.current = Some(cursor);
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Cursor for LevelCursor {
    fn valid(&self) -> bool {
        self.current.is_some()
    }

    fn key(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], Cursor::key)
    }

    fn shared_key(&self) -> Bytes {
        self.current.as_ref().map_or_else(Bytes::new, Cursor::shared_key)
    }

    fn seq(&self) -> u64 {
        self.current.as_ref().map_or(0, Cursor::seq)
    }

    fn value(&self) -> Option<Bytes> {
        self.current.as_ref().and_then(Cursor::value)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let mut done = current.advance();
        if done.is_ok() && !current.valid() {
            done = self.open_next(Bound::Unbounded);
        }
        if done.is_err() {
            self.current = None;
            self.ahead.clear();
        }
        done
    }
}
