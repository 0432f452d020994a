//! How a block lies in a table file: content, kind, codec, checksum.
//!
//! Every byte of a table belongs to a sealed block or to the fixed header and trailer. The checksum
//! (CRC-32C) covers the content, kind and codec and also the table's id and the block's offset, so that
//! a valid block at the wrong place or of another file is refused (rule R3). Invariant: nothing behind
//! this file ever sees content whose checksum was not verified. Layout: `FORMAT.md`, "Blocks".

use super::{TableId, codec, varint};
use crate::sealed;
use bytes::Bytes;

/// Bytes that sealing adds to a content: kind, codec, checksum.
pub(crate) const SEAL_BYTES: usize = 6;

/// How a content is stored. The number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is.
    Plain = 0,
    /// Length, then an LZ4 block; only data blocks.
    Lz4 = 1,
}

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
    /// The checksum matches but the content cannot be decompressed.
    Packed,
}

impl Unsealed {
    /// The reason in words.
    pub(crate) fn reason(self) -> String {
        match self {
            Unsealed::Short => "too short".into(),
            Unsealed::Checksum => "checksum does not match".into(),
            Unsealed::Kind => "a block of another kind lies here".into(),
            Unsealed::Codec(codec) => format!("unknown codec {codec}"),
            Unsealed::Packed => "cannot be decompressed".into(),
        }
    }
}

/// CRC-32C over `parts`, the table's id and the offset of the first part.
pub(crate) fn placed_crc(parts: &[&[u8]], table: TableId, offset: u64) -> u32 {
    sealed::placed_crc(parts, table.0, offset)
}

/// Turns a content, in the form that `codec` says, into a stored block that will lie at `offset`.
pub(crate) fn seal(content: &mut Vec<u8>, kind: Kind, codec: Codec, table: TableId, offset: u64) {
    content.extend_from_slice(&[kind as u8, codec as u8]);
    let crc = placed_crc(&[content], table, offset);
    content.extend_from_slice(&crc.to_le_bytes());
}

/// Bytes that the content of a stored block will take, not verified: to judge what opening it costs.
pub(crate) fn content_bytes(stored: &[u8]) -> usize {
    let Some(body) = stored.len().checked_sub(SEAL_BYTES) else { return 0 };
    if stored[body + 1] == Codec::Lz4 as u8 {
        return codec::length_of(&stored[..body]).unwrap_or(0);
    }
    body
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
    match covered[body + 1] {
        plain if plain == Codec::Plain as u8 => Ok(stored.slice(..body)),
        packed if packed == Codec::Lz4 as u8 && kind == Kind::Data => {
            codec::decompress(&stored[..body]).map(Bytes::from).ok_or(Unsealed::Packed)
        }
        other => Err(Unsealed::Codec(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_bound_to_its_file_place_and_kind() {
        let mut block = b"content".to_vec();
        seal(&mut block, Kind::Data, Codec::Plain, TableId(7), 4096);
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
        seal(&mut block, Kind::Index, Codec::Plain, TableId(1), 0);
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
    fn a_codec_that_does_not_belong_is_refused() {
        let sealed = |kind, codec| {
            let mut block = codec::Compressor::new(codec::Compression::Lz4).compress(&[5; 900]);
            seal(block.as_mut().unwrap(), kind, codec, TableId(1), 0);
            Bytes::from(block.unwrap())
        };
        let open = |kind, codec| unseal(&sealed(kind, codec), kind, TableId(1), 0);
        assert_eq!(open(Kind::Data, Codec::Lz4).unwrap(), vec![5; 900]);
        assert_eq!(content_bytes(&sealed(Kind::Data, Codec::Lz4)), 900);
        assert_eq!(open(Kind::Index, Codec::Lz4), Err(Unsealed::Codec(1)));
        let mut other = sealed(Kind::Data, Codec::Plain)[..].to_vec();
        let body = other.len() - SEAL_BYTES;
        other.truncate(body);
        other.extend_from_slice(&[Kind::Data as u8, 2]);
        let crc = placed_crc(&[&other], TableId(1), 0);
        other.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(unseal(&other.into(), Kind::Data, TableId(1), 0), Err(Unsealed::Codec(2)));
        let mut torn = codec::Compressor::new(codec::Compression::Lz4).compress(&[5; 900]).unwrap();
        torn.pop();
        seal(&mut torn, Kind::Data, Codec::Lz4, TableId(1), 0);
        assert_eq!(unseal(&torn.into(), Kind::Data, TableId(1), 0), Err(Unsealed::Packed));
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
