//! How a block lies in a table file: content, kind, codec, checksum.
//!
//! Every byte of a table belongs to a sealed block or to the fixed header and trailer. The checksum
//! (CRC-32C) covers the content, kind and codec and also the table's id and the block's offset, so that
//! a valid block at the wrong place or of another file is refused (rule R3). Invariant: nothing behind
//! this file ever sees content whose checksum was not verified. Layout: `FORMAT.md`, "Blocks".

use super::{TableId, varint};
use crate::sealed;
use bytes::Bytes;

/// Bytes that sealing adds to a content: kind, codec, checksum.
pub(crate) const SEAL_BYTES: usize = 6;

/// The only codec of version 1: content stored as it is.
const CODEC_PLAIN: u8 = 0;

/// What a block holds. The number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Entries of the table.
    Data = 1,
    /// A page of the Bloom filter.
    Filter = 2,
    /// An index partition: separators to data blocks.
    Index = 3,
    /// The top index: separators to index partitions.
    Top = 4,
    /// The properties of the table.
    Properties = 5,
}

impl Kind {
    /// Name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Data => "data block",
            Kind::Filter => "filter page",
            Kind::Index => "index partition",
            Kind::Top => "top index",
            Kind::Properties => "properties block",
        }
    }
}

/// Where a sealed block lies: offset in the file and stored length, seal included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    /// First byte of the block.
    pub offset: u64,
    /// Stored bytes, [`SEAL_BYTES`] included.
    pub len: u32,
}

impl Handle {
    /// Appends the stored form.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        varint::put(out, self.offset);
        varint::put(out, u64::from(self.len));
    }

    /// Reads the stored form; it must fill `data`.
    pub(crate) fn decode(data: &[u8]) -> Option<Handle> {
        let mut at = 0;
        let offset = varint::get(data, &mut at)?;
        let len = u32::try_from(varint::get(data, &mut at)?).ok()?;
        (at == data.len()).then_some(Handle { offset, len })
    }

    /// First byte behind the block; `None` on overflow.
    pub(crate) fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }
}

/// Why a stored block was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsealed {
    /// Shorter than a seal.
    Short,
    /// The checksum does not match content and place.
    Checksum,
    /// A block of another kind lies here.
    Kind,
    /// A codec that this version does not know.
    Codec(u8),
}

impl Unsealed {
    /// The reason in words.
    pub(crate) fn reason(self) -> String {
        match self {
            Unsealed::Short => "too short".into(),
            Unsealed::Checksum => "checksum does not match".into(),
            Unsealed::Kind => "a block of another kind lies here".into(),
            Unsealed::Codec(codec) => format!("unknown codec {codec}"),
        }
    }
}

/// CRC-32C over `parts`, the table's id and the offset of the first part.
pub(crate) fn placed_crc(parts: &[&[u8]], table: TableId, offset: u64) -> u32 {
    sealed::placed_crc(parts, table.0, offset)
}

/// Turns a content into a stored block that will lie at `offset`.
pub(crate) fn seal(content: &mut Vec<u8>, kind: Kind, table: TableId, offset: u64) {
    content.extend_from_slice(&[kind as u8, CODEC_PLAIN]);
    let crc = placed_crc(&[content], table, offset);
    content.extend_from_slice(&crc.to_le_bytes());
}

/// Verifies a stored block and gives its content back.
pub(crate) fn unseal(
    stored: &Bytes,
    kind: Kind,
    table: TableId,
    offset: u64,
) -> Result<Bytes, Unsealed> {
    let body = stored.len().checked_sub(SEAL_BYTES).ok_or(Unsealed::Short)?;
    let (covered, sum) = stored.split_at(body + 2);
    if placed_crc(&[covered], table, offset).to_le_bytes() != *sum {
        return Err(Unsealed::Checksum);
    }
    if covered[body] != kind as u8 {
        return Err(Unsealed::Kind);
    }
    if covered[body + 1] != CODEC_PLAIN {
        return Err(Unsealed::Codec(covered[body + 1]));
    }
    Ok(stored.slice(..body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_bound_to_its_file_place_and_kind() {
        let mut block = b"content".to_vec();
        seal(&mut block, Kind::Data, TableId(7), 4096);
        let stored = Bytes::from(block);
        let open = |kind, table, offset| unseal(&stored, kind, TableId(table), offset);
        assert_eq!(open(Kind::Data, 7, 4096).unwrap(), "content");
        assert_eq!(open(Kind::Data, 8, 4096), Err(Unsealed::Checksum));
        assert_eq!(open(Kind::Data, 7, 4097), Err(Unsealed::Checksum));
        assert_eq!(open(Kind::Index, 7, 4096), Err(Unsealed::Kind));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let mut block = (0..100u8).collect();
        seal(&mut block, Kind::Index, TableId(1), 0);
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&bad.into(), Kind::Index, TableId(1), 0).is_err());
        }
        for cut in 0..block.len() {
            assert!(unseal(&block[..cut].to_vec().into(), Kind::Index, TableId(1), 0).is_err());
        }
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // The well-known check value of CRC-32C, so that another implementation can read our files.
        assert_eq!(
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, b"123456789"),
            0xe306_9283
        );
    }
}
