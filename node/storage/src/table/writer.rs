//! Writes one table file, front to back, from entries that arrive in order.
//!
//! Order in the file: header, data blocks, filter pages, index partitions, top index, properties,
//! trailer. The index is written behind the data, so memory holds only one block, the separators of the
//! blocks written so far and eight bytes for each key (for the filter, whose size is known at the end).
//! A value that does not fit beside others gets a block of its own. The versions of one key may span
//! blocks but their order is kept, so a search that starts at the first block that may hold a key meets
//! the newest version first.
//!
//! Invariant (rule R2): [`TableWriter::finish`] returns only after the file was synced; the caller syncs
//! the directory before anything refers to the table.

use super::block::BlockBuilder;
use super::codec::{Compression, Compressor};
use super::filter::{DEFAULT_BITS_PER_KEY, FilterBuilder, PAGE_BYTES};
use super::footer::{self, Properties};
use super::frame::{Codec, Handle, Kind, SEAL_BYTES, seal};
use super::{TableError, TableId, TableMeta};
use crate::disk::AppendFile;
use crate::error::IoFailure;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use std::path::{Path, PathBuf};

/// Hard bound on the content of a block: a single entry may be this large.
pub(crate) const BLOCK_MAX_BYTES: u64 = 1 << 30;
/// Bytes of an entry besides key and value, at most.
const ENTRY_HEAD_BYTES: u64 = 40;
/// Appends are gathered up to this size.
const BUFFER_BYTES: usize = 256 << 10;

/// How tables are built. None of it has to be known to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Target content of a data block in bytes, before sealing.
    pub block_bytes: usize,
    /// Target content of an index partition in bytes.
    pub index_bytes: usize,
    /// Bloom filter bits for each key; false positives are about 0.6 % at 12, 0.13 % at 16, 0.05 % at
    /// 20, 0.02 % at 24.
    pub filter_bits_per_key: u32,
    /// How data blocks are stored.
    pub compression: Compression,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions {
            block_bytes: 4 << 10,
            index_bytes: 8 << 10,
            filter_bits_per_key: DEFAULT_BITS_PER_KEY,
            compression: Compression::default(),
        }
    }
}

/// A table being written. Dropped before [`finish`](Self::finish) it leaves a file that nobody refers to.
pub struct TableWriter {
    id: TableId,
    path: PathBuf,
    file: Box<dyn AppendFile>,
    options: TableOptions,
    buffer: Vec<u8>,
    digest: Digest,
    offset: u64,
    data: BlockBuilder,
    index: BlockBuilder,
    top: BlockBuilder,
    partitions: Vec<Vec<u8>>,
    partition_ends: Vec<Vec<u8>>,
    /// The last data block, waiting for the key behind it to choose a separator.
    pending: Option<(Handle, Vec<u8>)>,
    filter: FilterBuilder,
    compressor: Compressor,
    first: Vec<u8>,
    last: Vec<u8>,
    last_seq: u64,
    entries: u64,
    erasures: u64,
    blocks: u64,
    min_seq: u64,
    max_seq: u64,
    raw_bytes: u64,
}

impl TableWriter {
    /// Begins table `id` in an empty file. `path` is for messages only.
    pub fn new(
        id: TableId,
        path: &Path,
        file: Box<dyn AppendFile>,
        options: TableOptions,
    ) -> Result<Self, TableError> {
        let mut writer = TableWriter {
            id,
            path: path.into(),
            file,
            options,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            offset: 0,
            data: BlockBuilder::default(),
            index: BlockBuilder::default(),
            top: BlockBuilder::default(),
            partitions: Vec::new(),
            partition_ends: Vec::new(),
            pending: None,
            filter: FilterBuilder::new(options.filter_bits_per_key),
            compressor: Compressor::new(options.compression),
            first: Vec::new(),
            last: Vec::new(),
            last_seq: 0,
            entries: 0,
            erasures: 0,
            blocks: 0,
            min_seq: u64::MAX,
            max_seq: 0,
            raw_bytes: 0,
        };
        writer.append(&footer::header(id))?;
        Ok(writer)
    }

    /// Appends an entry; `None` is an erase mark. Errors: out of order, too large, or the disk.
    pub fn add(&mut self, key: &[u8], seq: u64, value: Option<&[u8]>) -> Result<(), TableError> {
        let fresh = self.entries == 0 || key > self.last.as_slice();
        if !fresh && (key < self.last.as_slice() || seq >= self.last_seq) {
            return Err(TableError::Unsorted);
        }
        let bytes = key.len() as u64 + value.map_or(0, |v| v.len() as u64) + ENTRY_HEAD_BYTES;
        if bytes > BLOCK_MAX_BYTES {
            return Err(TableError::TooLarge { bytes, limit: BLOCK_MAX_BYTES });
        }
        if !self.data.is_empty() && self.data.len() as u64 + bytes > self.options.block_bytes as u64
        {
            self.finish_block()?;
        }
        if let Some((handle, last)) = self.pending.take() {
            self.index_block(handle, separator(&last, key))?;
        }
        if fresh {
            self.filter.add(key);
            if self.entries == 0 {
                self.first = key.to_vec();
            }
            self.last.clear();
            self.last.extend_from_slice(key);
        }
        self.data.add(key, seq, value);
        self.last_seq = seq;
        self.entries += 1;
        self.erasures += u64::from(value.is_none());
        self.min_seq = self.min_seq.min(seq);
        self.max_seq = self.max_seq.max(seq);
        self.raw_bytes += key.len() as u64 + value.map_or(0, |v| v.len() as u64);
        Ok(())
    }

    /// Bytes that the file would have if it were finished now, nearly.
    pub fn estimated_bytes(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Entries added so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Key of the last entry; empty before the first.
    pub fn last_key(&self) -> &[u8] {
        &self.last
    }

    /// Writes the rest, syncs the file and says what it holds. Error `Unsorted` if there is no entry.
    pub fn finish(mut self) -> Result<TableMeta, TableError> {
        if self.entries == 0 {
            return Err(TableError::Unsorted);
        }
        self.finish_block()?;
        if let Some((handle, last)) = self.pending.take() {
            self.index_block(handle, last)?;
        }
        self.finish_partition();
        let data_end = self.offset;
        let (filter_offset, filter_blocks) = self.write_filter()?;
        let index_offset = self.offset;
        for (mut content, end) in std::mem::take(&mut self.partitions)
            .into_iter()
            .zip(std::mem::take(&mut self.partition_ends))
        {
            let handle = self.append_block(&mut content, Kind::Index)?;
            self.top.add(&end, 0, Some(&encoded(handle)));
        }
        let index_bytes = self.offset - index_offset;
        let mut content = self.top.finish();
        let top = self.append_block(&mut content, Kind::Top)?;
        let file_crc = self.digest.finalize() as u32;
        let mut properties = Properties {
            meta: TableMeta {
                id: self.id,
                bytes: 0,
                entries: self.entries,
                erasures: self.erasures,
                first: Bytes::from(std::mem::take(&mut self.first)),
                last: Bytes::from(std::mem::take(&mut self.last)),
                min_seq: self.min_seq,
                max_seq: self.max_seq,
            },
            raw_bytes: self.raw_bytes,
            blocks: self.blocks,
            data_end,
            filter_offset,
            filter_blocks,
            index_offset,
            index_bytes,
            top,
            file_crc,
        };
        let handle = self.append_block(&mut properties.encode(), Kind::Properties)?;
        self.append(&footer::trailer(self.id, handle, self.offset))?;
        self.spill()?;
        self.file.sync().map_err(|error| IoFailure::new(&self.path, "sync", &error))?;
        properties.meta.bytes = self.offset;
        Ok(properties.meta)
    }

    fn write_filter(&mut self) -> Result<(u64, u64), TableError> {
        let row = self.filter.finish();
        let offset = self.offset;
        for page in row.chunks(PAGE_BYTES) {
            self.append_block(&mut page.to_vec(), Kind::Filter)?;
        }
        Ok((offset, (row.len() / super::filter::BLOCK_BYTES) as u64))
    }

    fn finish_block(&mut self) -> Result<(), TableError> {
        if self.data.is_empty() {
            return Ok(());
        }
        let last = self.data.last_key().to_vec();
        let mut content = self.data.finish();
        let handle = self.append_block(&mut content, Kind::Data)?;
        self.blocks += 1;
        self.pending = Some((handle, last));
        Ok(())
    }

    fn index_block(&mut self, handle: Handle, separator: Vec<u8>) -> Result<(), TableError> {
        self.index.add(&separator, 0, Some(&encoded(handle)));
        if self.index.len() >= self.options.index_bytes {
            self.finish_partition();
        }
        Ok(())
    }

    fn finish_partition(&mut self) {
        if !self.index.is_empty() {
            self.partition_ends.push(self.index.last_key().to_vec());
            self.partitions.push(self.index.finish());
        }
    }

    fn append_block(&mut self, content: &mut Vec<u8>, kind: Kind) -> Result<Handle, TableError> {
        let packed = match kind {
            Kind::Data => self.compressor.compress(content),
            _ => None,
        };
        let codec = if packed.is_some() { Codec::Lz4 } else { Codec::Plain };
        if let Some(packed) = packed {
            *content = packed;
        }
        let bytes = content.len() as u64;
        let len = u32::try_from(content.len() + SEAL_BYTES)
            .map_err(|_| TableError::TooLarge { bytes, limit: BLOCK_MAX_BYTES })?;
        let handle = Handle { offset: self.offset, len };
        seal(content, kind, codec, self.id, self.offset);
        self.append(content)?;
        Ok(handle)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.digest.update(bytes);
        self.offset += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.spill()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return self.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), TableError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        done
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let done = self.file.append(bytes);
        done.map_err(|error| IoFailure::new(&self.path, "append", &error).into())
    }
}

fn encoded(handle: Handle) -> Vec<u8> {
    let mut out = Vec::new();
    handle.encode(&mut out);
    out
}

/// Length of the common prefix.
fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// A short key that is at least `last` and below `next`, or `last` itself if both are the same key.
fn separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    let shared = shared_len(last, next);
    // `next` cut one byte behind the first difference is above `last`; it must stay below `next`.
    if shared + 1 < next.len() && shared + 1 < last.len() {
        return next[..=shared].to_vec();
    }
    last.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_separator_lies_between(
            a in prop::collection::vec(0u8..3, 0..6), b in prop::collection::vec(0u8..3, 0..6),
        ) {
            let (last, next) = if a <= b { (a, b) } else { (b, a) };
            let middle = separator(&last, &next);
            prop_assert!(last <= middle);
            prop_assert!(middle < next || (last == next && middle == last));
            prop_assert!(middle.len() <= last.len());
        }
    }
}
