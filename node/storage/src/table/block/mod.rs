//! Blocks of sorted entries: searching one without decoding it; `build` writes one, `walk` walks one.
//!
//! An entry is (key, sequence number, value or erase mark), ordered by key ascending and, under one
//! key, by sequence number descending, so that the newest comes first. Keys are stored whole: they begin
//! with a ring hash, so neighbours share next to nothing. Behind the entries stand for each of them a
//! *hint* and its place. A hint is what matters of the key's first eight bytes, read as a number and
//! scaled to 16 bits between the first and the last key of the block. Hints lie side by side, so that a
//! search compares a cache line or two of them and then touches the one entry that it wants; reading
//! entries along the way would cost a cache line for each.
//!
//! Invariants: a [`Block`] exists only if its lists lie inside its content; decoding a block with any
//! content at all returns an error, never panics; keys in order have hints in order, so a hint that
//! differs decides a comparison and an equal one leaves it to the keys. Layout: `FORMAT.md`, "Entries".

mod build;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use build::BlockBuilder;
pub(crate) use walk::BlockCursor;

use super::varint;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Range;

/// Bytes behind the lists: base of the hints, shift, width of a place, number of entries.
const TAIL_BYTES: usize = 14;
/// Up to so many entries the hints are compared one by one, which the processor does many at a time.
const FEW_ENTRIES: usize = 64;

/// The content of a block does not follow the format although its checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// The first eight bytes of a key as a number, zeros behind a shorter key. Keys in order have heads in
/// order; equal heads say nothing.
#[inline]
pub(crate) fn head_of(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    match key.first_chunk() {
        Some(first) => bytes = *first,
        None => bytes[..key.len()].copy_from_slice(key),
    }
    u64::from_be_bytes(bytes)
}

/// How the heads of a block become hints: hint = (head - base) >> shift.
#[derive(Clone, Copy, Debug)]
struct Scale {
    base: u64,
    shift: u8,
}

impl Scale {
    /// The finest scale on which all heads from `first` to `last` fit 16 bits.
    fn between(first: u64, last: u64) -> Self {
        let bits = 64 - last.saturating_sub(first).leading_zeros();
        Scale { base: first, shift: bits.saturating_sub(16) as u8 }
    }

    /// The hint of a head at or above the base; `None` if it is too large for one.
    #[inline]
    fn hint(self, head: u64) -> Option<u16> {
        u16::try_from(head.wrapping_sub(self.base).checked_shr(u32::from(self.shift))?).ok()
    }
}

/// One entry as it lies in the content: places, not copies.
#[derive(Clone, Debug)]
struct Raw {
    start: usize,
    key: Range<usize>,
    seq: u64,
    value: Option<Range<usize>>,
    end: usize,
}

/// What a search found: the first entry at or behind the key that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// Whether the entry's key is the key asked for.
    pub exact: bool,
    /// Sequence number of the entry.
    pub seq: u64,
    /// Where its value lies, `None` for an erase mark.
    value: Option<Range<usize>>,
}

/// A verified block, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    content: Bytes,
    /// Where the entries end and the hints begin.
    hints: usize,
    places: usize,
    count: usize,
    scale: Scale,
    wide: bool,
}

impl Block {
    /// Takes a verified content and checks that its lists lie inside it.
    #[inline]
    pub(crate) fn parse(content: Bytes) -> Result<Block, BadBlock> {
        let tail = content.len().checked_sub(TAIL_BYTES).ok_or(BadBlock)?;
        let (base, rest) = content[tail..].split_first_chunk().ok_or(BadBlock)?;
        let (form, count) = rest.split_first_chunk::<2>().ok_or(BadBlock)?;
        let count = u32::from_le_bytes(count.try_into().map_err(|_| BadBlock)?) as usize;
        let scale = Scale { base: u64::from_le_bytes(*base), shift: form[0] };
        let width = usize::from(form[1]);
        if count == 0 || scale.shift > 48 || !(width == 2 || width == 4) {
            return Err(BadBlock);
        }
        let places = count.checked_mul(width).and_then(|bytes| tail.checked_sub(bytes));
        let places = places.ok_or(BadBlock)?;
        let hints = places.checked_sub(2 * count).filter(|end| *end > 0).ok_or(BadBlock)?;
        Ok(Block { content, hints, places, count, scale, wide: width == 4 })
    }

    /// Where entry number `i`, which must be below the count, begins.
    #[inline]
    fn place(&self, i: usize) -> Result<usize, BadBlock> {
        let list = &self.content[self.places..];
        if self.wide {
            let at = list.get(4 * i..).and_then(|rest| rest.first_chunk()).ok_or(BadBlock)?;
            return Ok(u32::from_le_bytes(*at) as usize);
        }
        let at = list.get(2 * i..).and_then(|rest| rest.first_chunk()).ok_or(BadBlock)?;
        Ok(usize::from(u16::from_le_bytes(*at)))
    }

    #[inline]
    fn entry(&self, i: usize) -> Result<Raw, BadBlock> {
        self.raw(self.place(i)?)
    }

    #[inline]
    fn raw(&self, start: usize) -> Result<Raw, BadBlock> {
        Self::decode(&self.content[..self.hints], start).ok_or(BadBlock)
    }

    #[inline]
    fn decode(data: &[u8], start: usize) -> Option<Raw> {
        let mut at = start;
        let key_len = varint::get_len(data, &mut at)?;
        let seq = varint::get(data, &mut at)?;
        let tag = varint::get_len(data, &mut at)?;
        let key_end = at.checked_add(key_len)?;
        let end = key_end.checked_add(tag.saturating_sub(1))?;
        if end > data.len() {
            return None;
        }
        let value = (tag > 0).then_some(key_end..end);
        Some(Raw { start, key: at..key_end, seq, value, end })
    }

    /// The entries whose hint is that of `head`: all before them are smaller, all behind greater.
    #[inline]
    fn alike(&self, head: u64) -> Range<usize> {
        if head < self.scale.base {
            return 0..0;
        }
        let Some(wanted) = self.scale.hint(head) else { return self.count..self.count };
        let (hints, _) = self.content[self.hints..self.places].as_chunks::<2>();
        let hint = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes);
        if self.count <= FEW_ENTRIES {
            let below = hints.iter().map(|bytes| u16::from(hint(bytes) < wanted)).sum::<u16>();
            let equal = hints.iter().map(|bytes| u16::from(hint(bytes) == wanted)).sum::<u16>();
            return usize::from(below)..usize::from(below + equal);
        }
        let below = hints.partition_point(|bytes| hint(bytes) < wanted);
        let equal = hints[below..].partition_point(|bytes| hint(bytes) == wanted);
        below..below + equal
    }

    /// Number of the first entry at or behind (`key`, `seq_limit`), that is with a greater key, or with
    /// this key and a sequence number of at most `seq_limit`; and that entry, if it was looked at.
    fn search(&self, key: &[u8], seq_limit: u64) -> Result<(usize, Option<Raw>), BadBlock> {
        let Range { start: mut low, end: mut high } = self.alike(head_of(key));
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let raw = self.entry(middle)?;
            let order = self.content[raw.key.clone()].cmp(key);
            if order == Ordering::Less || (order == Ordering::Equal && raw.seq > seq_limit) {
                low = middle + 1;
            } else {
                high = middle;
                found = Some(raw);
            }
        }
        Ok((low, found))
    }

    /// The first entry at or behind (`key`, `seq_limit`). `None`: every entry lies before it.
    #[inline]
    pub(crate) fn lower_bound(&self, key: &[u8], seq_limit: u64) -> Result<Option<Hit>, BadBlock> {
        let raw = match self.search(key, seq_limit)? {
            (_, Some(raw)) => raw,
            (at, None) if at < self.count => self.entry(at)?,
            _ => return Ok(None),
        };
        let exact = self.content[raw.key.clone()] == *key;
        Ok(Some(Hit { exact, seq: raw.seq, value: raw.value }))
    }

    /// The value of a hit in this block, sharing the block's memory.
    #[inline]
    pub(crate) fn into_value(mut self, hit: &Hit) -> Option<Bytes> {
        let Range { start, end } = hit.value.clone()?;
        // Narrowed in place: one share of the memory less to count than slicing would cost.
        self.content.truncate(end);
        bytes::Buf::advance(&mut self.content, start);
        Some(self.content)
    }

    /// The value of a hit in this block.
    pub(crate) fn value_of(&self, hit: &Hit) -> Option<&[u8]> {
        hit.value.clone().map(|range| &self.content[range])
    }

    /// Whether places and hints are what the entries make them: a search relies on them, a walk never
    /// looks at them.
    pub(crate) fn is_sound(&self) -> bool {
        let mut at = 0;
        let all = (0..self.count).all(|i| {
            let (Ok(raw), Ok(listed)) = (self.raw(at), self.entry(i)) else { return false };
            let hint = &self.content[self.hints + 2 * i..][..2];
            let head = head_of(&self.content[raw.key.clone()]);
            at = raw.end;
            listed.key == raw.key
                && head >= self.scale.base
                && self.scale.hint(head).is_some_and(|wanted| wanted.to_le_bytes() == *hint)
        });
        all && at == self.hints
    }
}
