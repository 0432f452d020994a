//! Blocks of sorted entries: building one, searching one without decoding it, walking one.
//!
//! An entry is (key, sequence number, value or erase mark), ordered by key ascending and, under one
//! key, by sequence number descending, so that the newest comes first. A key is stored as the length it
//! shares with the key before it plus the rest; every few entries a *restart* stores its key whole, and
//! the list of restarts at the end of the block lets a search jump close to its key. Index partitions
//! use the same form with a restart at every entry.
//!
//! Invariants: a [`Block`] exists only if its restart list lies inside its content; decoding a block
//! with any content at all returns an error, never panics. Idea: prefix compression with restarts as in
//! Bigtable-style sorted tables. Layout: `FORMAT.md`, "Entries".

use super::varint;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Range;

/// The content of a block does not follow the format although its checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// Collects entries in order and writes the content of one block.
pub(crate) struct BlockBuilder {
    content: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    entries: usize,
    interval: usize,
}

impl BlockBuilder {
    /// An empty block with a restart every `interval` entries.
    pub(crate) fn new(interval: usize) -> Self {
        let interval = interval.max(1);
        let (content, restarts, last_key) = (Vec::new(), Vec::new(), Vec::new());
        BlockBuilder { content, restarts, last_key, entries: 0, interval }
    }

    /// Appends an entry. The caller keeps the order and the bound on the size of a block.
    pub(crate) fn add(&mut self, key: &[u8], seq: u64, value: Option<&[u8]>) {
        let shared = if self.entries.is_multiple_of(self.interval) {
            self.restarts.push(self.content.len() as u32);
            0
        } else {
            shared_len(&self.last_key, key)
        };
        varint::put(&mut self.content, shared as u64);
        varint::put(&mut self.content, (key.len() - shared) as u64);
        varint::put(&mut self.content, seq);
        varint::put(&mut self.content, value.map_or(0, |v| v.len() as u64 + 1));
        self.content.extend_from_slice(&key[shared..]);
        self.content.extend_from_slice(value.unwrap_or_default());
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.entries += 1;
    }

    /// Bytes that the content will have.
    pub(crate) fn len(&self) -> usize {
        self.content.len() + 4 * self.restarts.len() + 4
    }

    /// Whether no entry was added since the last [`finish`](Self::finish).
    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Key of the last entry; empty before the first.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The content; the builder is empty again afterwards.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        for restart in &self.restarts {
            self.content.extend_from_slice(&restart.to_le_bytes());
        }
        self.content.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        self.restarts.clear();
        self.last_key.clear();
        self.entries = 0;
        std::mem::take(&mut self.content)
    }
}

/// Length of the common prefix.
pub(crate) fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// One entry as it lies in the content: places, not copies.
#[derive(Clone, Debug)]
struct Raw {
    shared: usize,
    rest: Range<usize>,
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
    /// Value, `None` for an erase mark. Shares the block's memory.
    pub value: Option<Bytes>,
}

/// A verified block, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    content: Bytes,
    entries_end: usize,
}

impl Block {
    /// Takes a verified content and checks its restart list.
    pub(crate) fn parse(content: Bytes) -> Result<Block, BadBlock> {
        let tail = content.len().checked_sub(4).ok_or(BadBlock)?;
        let count = read_u32(&content, tail).ok_or(BadBlock)? as usize;
        let list = count.checked_mul(4).ok_or(BadBlock)?;
        let entries_end = tail.checked_sub(list).ok_or(BadBlock)?;
        if count == 0 || entries_end == 0 {
            return Err(BadBlock);
        }
        Ok(Block { content, entries_end })
    }

    fn restarts(&self) -> usize {
        (self.content.len() - 4 - self.entries_end) / 4
    }

    fn restart(&self, i: usize) -> Result<usize, BadBlock> {
        let at = read_u32(&self.content, self.entries_end + 4 * i).ok_or(BadBlock)? as usize;
        if at < self.entries_end { Ok(at) } else { Err(BadBlock) }
    }

    #[inline]
    fn raw(&self, start: usize) -> Result<Raw, BadBlock> {
        let data = &self.content[..self.entries_end];
        Self::decode(data, start).ok_or(BadBlock)
    }

    #[inline]
    fn decode(data: &[u8], mut at: usize) -> Option<Raw> {
        let shared = varint::get_len(data, &mut at)?;
        let rest_len = varint::get_len(data, &mut at)?;
        let seq = varint::get(data, &mut at)?;
        let tag = varint::get_len(data, &mut at)?;
        let key_end = at.checked_add(rest_len)?;
        let value_len = tag.saturating_sub(1);
        let end = key_end.checked_add(value_len)?;
        if end > data.len() {
            return None;
        }
        let value = (tag > 0).then_some(key_end..end);
        Some(Raw { shared, rest: at..key_end, seq, value, end })
    }

    fn restart_entry(&self, i: usize) -> Result<Raw, BadBlock> {
        let raw = self.raw(self.restart(i)?)?;
        if raw.shared == 0 { Ok(raw) } else { Err(BadBlock) }
    }

    /// Start of the last restart whose key is below `key`, or of the first restart.
    fn restart_below(&self, key: &[u8]) -> Result<usize, BadBlock> {
        let (mut low, mut high) = (0, self.restarts());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if &self.content[self.restart_entry(middle)?.rest] < key {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.restart_entry(low)?;
        self.restart(low)
    }

    /// The first entry at or behind (`key`, `seq_limit`), that is with a greater key, or with this key
    /// and a sequence number of at most `seq_limit`. `None`: every entry lies before it.
    ///
    /// No key is put together for it: with `matched` as the length that the entry before has in common
    /// with `key` (that entry being smaller), the stored shared length alone decides most comparisons.
    pub(crate) fn lower_bound(&self, key: &[u8], seq_limit: u64) -> Result<Option<Hit>, BadBlock> {
        let mut at = self.restart_below(key)?;
        let mut matched = 0;
        while at < self.entries_end {
            let raw = self.raw(at)?;
            at = raw.end;
            let order = match raw.shared.cmp(&matched) {
                Ordering::Greater => continue,
                // A restart shares nothing although its key may.
                Ordering::Less if raw.shared > 0 => Ordering::Greater,
                _ => {
                    let rest = &self.content[raw.rest.clone()];
                    let wanted = &key[raw.shared..];
                    matched = raw.shared + shared_len(rest, wanted);
                    rest.cmp(wanted)
                }
            };
            if order == Ordering::Less || (order == Ordering::Equal && raw.seq > seq_limit) {
                continue;
            }
            let value = raw.value.map(|range| self.content.slice(range));
            return Ok(Some(Hit { exact: order == Ordering::Equal, seq: raw.seq, value }));
        }
        Ok(None)
    }
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// Walks the entries of a block in order.
#[derive(Clone, Debug)]
pub(crate) struct BlockCursor {
    block: Block,
    key: Vec<u8>,
    seq: u64,
    value: Option<Range<usize>>,
    next: usize,
    valid: bool,
}

impl BlockCursor {
    /// On the first entry.
    pub(crate) fn first(block: Block) -> Result<Self, BadBlock> {
        let mut cursor =
            BlockCursor { block, key: Vec::new(), seq: 0, value: None, next: 0, valid: false };
        cursor.advance()?;
        Ok(cursor)
    }

    /// On the first entry at or behind (`key`, `seq_limit`), in the order of
    /// [`Block::lower_bound`]; invalid when there is none.
    pub(crate) fn seek(block: Block, key: &[u8], seq_limit: u64) -> Result<Self, BadBlock> {
        let next = block.restart_below(key)?;
        let mut cursor =
            BlockCursor { block, key: Vec::new(), seq: 0, value: None, next, valid: false };
        cursor.advance()?;
        while cursor.valid
            && match cursor.key.as_slice().cmp(key) {
                Ordering::Less => true,
                Ordering::Equal => cursor.seq > seq_limit,
                Ordering::Greater => false,
            }
        {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    /// Goes to the next entry; behind the last the cursor becomes invalid.
    pub(crate) fn advance(&mut self) -> Result<(), BadBlock> {
        if self.next >= self.block.entries_end {
            self.valid = false;
            return Ok(());
        }
        let raw = self.block.raw(self.next)?;
        if raw.shared > self.key.len() {
            self.valid = false;
            return Err(BadBlock);
        }
        self.key.truncate(raw.shared);
        self.key.extend_from_slice(&self.block.content[raw.rest]);
        self.seq = raw.seq;
        self.value = raw.value;
        self.next = raw.end;
        self.valid = true;
        Ok(())
    }

    /// Whether the cursor stands on an entry.
    pub(crate) fn valid(&self) -> bool {
        self.valid
    }

    /// Key of the entry.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    type Oracle = BTreeMap<(Vec<u8>, Reverse<u64>), Option<Vec<u8>>>;

    fn oracle() -> impl Strategy<Value = Oracle> {
        let key = prop::collection::vec(0u8..3, 0..6);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
        prop::collection::btree_map((key, (0u64..6).prop_map(Reverse)), value, 1..80)
    }

    fn build(entries: &Oracle, interval: usize) -> Block {
        let mut builder = BlockBuilder::new(interval);
        for ((key, seq), value) in entries {
            builder.add(key, seq.0, value.as_deref());
        }
        let expected = builder.len();
        let content = builder.finish();
        assert_eq!(content.len(), expected);
        Block::parse(content.into()).unwrap()
    }

    proptest! {
        #[test]
        fn search_and_walk_agree_with_a_sorted_map(
            entries in oracle(),
            interval in 1usize..20,
            probes in prop::collection::vec((prop::collection::vec(0u8..3, 0..7), 0u64..7), 1..30),
        ) {
            let block = build(&entries, interval);
            let mut cursor = BlockCursor::first(block.clone()).unwrap();
            for ((key, seq), value) in &entries {
                prop_assert!(cursor.valid());
                prop_assert_eq!(cursor.key(), key.as_slice());
                prop_assert_eq!(cursor.seq(), seq.0);
                prop_assert_eq!(cursor.value_slice(), value.as_deref());
                cursor.advance().unwrap();
            }
            prop_assert!(!cursor.valid());
            for (key, seq) in probes {
                let wanted = entries.range((key.clone(), Reverse(seq))..).next();
                let hit = block.lower_bound(&key, seq).unwrap();
                let cursor = BlockCursor::seek(block.clone(), &key, seq).unwrap();
                prop_assert_eq!(hit.is_some(), wanted.is_some());
                prop_assert_eq!(cursor.valid(), wanted.is_some());
                if let (Some(hit), Some(((k, s), value))) = (hit, wanted) {
                    prop_assert_eq!(hit.exact, k == &key);
                    prop_assert_eq!(hit.seq, s.0);
                    prop_assert_eq!(hit.value.as_deref(), value.as_deref());
                    prop_assert_eq!(cursor.key(), k.as_slice());
                    prop_assert_eq!(cursor.seq(), s.0);
                    prop_assert_eq!(&cursor.value().map(|v| v.to_vec()), value);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
            walk(content);
        }

        #[test]
        fn a_damaged_block_is_read_without_panic(
            entries in oracle(), at: prop::sample::Index, byte: u8,
        ) {
            let mut content = build(&entries, 4).content.to_vec();
            let at = at.index(content.len());
            content[at] = byte;
            walk(content);
        }
    }

    fn walk(content: Vec<u8>) {
        let Ok(block) = Block::parse(content.into()) else { return };
        let _ = block.lower_bound(&[1, 1], 3);
        let _ = BlockCursor::seek(block.clone(), &[1, 1], 3);
        if let Ok(mut cursor) = BlockCursor::first(block) {
            while cursor.valid() && cursor.advance().is_ok() {
                let _ = (cursor.key(), cursor.value());
            }
        }
    }
}
