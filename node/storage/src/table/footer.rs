//! The fixed ends of a table file and the properties that describe it.
//!
//! The header says "table, version, id" so that a foreign file is refused at once; the trailer, at the
//! very end, leads to the properties block, which leads to everything else. Versions are judged before
//! checksums, from places that no later version may move: a newer file is named as newer, not as
//! damaged. Properties are tagged; a reader must refuse an unknown tag below 128 and may skip one from
//! 128 on, so later versions can add facts. Layout: `FORMAT.md`, "Table file".

use super::frame::{Handle, placed_crc};
use super::{TableId, TableMeta, varint};
use bytes::Bytes;

/// First and last bytes of a table file.
pub(crate) const MAGIC: [u8; 8] = *b"KVSRtbl\n";
/// The version that this program writes and the newest it reads.
pub(crate) const VERSION: u32 = 1;
/// Length of the header: magic, version, id, checksum.
pub(crate) const HEADER_BYTES: usize = 24;
/// Length of the trailer: offset and length of the properties, checksum, version, magic.
pub(crate) const TRAILER_BYTES: usize = 28;

/// Why an end of the file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadEnd {
    /// Not what a table has here.
    Damaged(&'static str),
    /// A version that this program does not know.
    Newer(u32),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The header of table `id`.
pub(crate) fn header(id: TableId) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&id.0.to_le_bytes());
    let crc = placed_crc(&[&out[..20]], id, 0);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks a header against the id that the file should have.
pub(crate) fn check_header(bytes: &[u8; HEADER_BYTES], id: TableId) -> Result<(), BadEnd> {
    if bytes[..8] != MAGIC {
        return Err(BadEnd::Damaged("does not begin like a table"));
    }
    let sound = placed_crc(&[&bytes[..20]], TableId(u64_at(bytes, 12)), 0) == u32_at(bytes, 20);
    if u32_at(bytes, 8) > VERSION && sound {
        return Err(BadEnd::Newer(u32_at(bytes, 8)));
    }
    if !sound || u32_at(bytes, 8) == 0 || u32_at(bytes, 8) > VERSION {
        return Err(BadEnd::Damaged("header checksum does not match"));
    }
    if u64_at(bytes, 12) != id.0 {
        return Err(BadEnd::Damaged("is another table than its name says"));
    }
    Ok(())
}

/// The trailer that lies at `offset`.
pub(crate) fn trailer(id: TableId, properties: Handle, offset: u64) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(&properties.offset.to_le_bytes());
    out[8..12].copy_from_slice(&properties.len.to_le_bytes());
    out[16..20].copy_from_slice(&VERSION.to_le_bytes());
    out[20..].copy_from_slice(&MAGIC);
    let crc = placed_crc(&[&out[..12], &out[16..]], id, offset);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks a trailer read at `offset`; gives the place of the properties.
pub(crate) fn check_trailer(
    bytes: &[u8; TRAILER_BYTES],
    id: TableId,
    offset: u64,
) -> Result<Handle, BadEnd> {
    if bytes[20..] != MAGIC {
        return Err(BadEnd::Damaged("does not end like a table; it was cut"));
    }
    if placed_crc(&[&bytes[..12], &bytes[16..]], id, offset) != u32_at(bytes, 12) {
        return Err(BadEnd::Damaged("trailer checksum does not match"));
    }
    let handle = Handle { offset: u64_at(bytes, 0), len: u32_at(bytes, 8) };
    // The properties are the last block: nothing may lie between them and the trailer.
    if handle.offset < HEADER_BYTES as u64 || handle.end() != Some(offset) {
        return Err(BadEnd::Damaged("trailer names a place outside the file"));
    }
    Ok(handle)
}

/// Everything that a table says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Identity, counts and ranges. `bytes` is not stored: it is the length of the file.
    pub meta: TableMeta,
    /// Bytes of keys and values before blocks were built.
    pub raw_bytes: u64,
    /// Data blocks.
    pub blocks: u64,
    /// First byte behind the last data block.
    pub data_end: u64,
    /// Offset of the first filter page.
    pub filter_offset: u64,
    /// Filter blocks over all pages.
    pub filter_blocks: u64,
    /// Offset of the first index partition; partitions follow one another.
    pub index_offset: u64,
    /// Sealed bytes of all index partitions.
    pub index_bytes: u64,
    /// The top index.
    pub top: Handle,
    /// CRC-32C of the file from its first byte to the properties block.
    pub file_crc: u32,
}

mod tag {
    pub const ENTRIES: u8 = 1;
    pub const ERASURES: u8 = 2;
    pub const FIRST: u8 = 3;
    pub const LAST: u8 = 4;
    pub const MIN_SEQ: u8 = 5;
    pub const MAX_SEQ: u8 = 6;
    pub const RAW_BYTES: u8 = 7;
    pub const BLOCKS: u8 = 8;
    pub const DATA_END: u8 = 9;
    pub const FILTER: u8 = 10;
    pub const INDEX: u8 = 11;
    pub const TOP: u8 = 12;
    pub const FILE_CRC: u8 = 13;
    /// First tag that a reader may skip.
    pub const OPTIONAL: u8 = 128;
}

fn numbers(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| varint::put(&mut out, *value));
    out
}

impl Properties {
    /// The content of the properties block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let meta = &self.meta;
        let filter =
            [u64::from(super::filter::KIND_SPLIT_BLOCK), self.filter_offset, self.filter_blocks];
        let fields: [(u8, Vec<u8>); 13] = [
            (tag::ENTRIES, numbers(&[meta.entries])),
            (tag::ERASURES, numbers(&[meta.erasures])),
            (tag::FIRST, meta.first.to_vec()),
            (tag::LAST, meta.last.to_vec()),
            (tag::MIN_SEQ, numbers(&[meta.min_seq])),
            (tag::MAX_SEQ, numbers(&[meta.max_seq])),
            (tag::RAW_BYTES, numbers(&[self.raw_bytes])),
            (tag::BLOCKS, numbers(&[self.blocks])),
            (tag::DATA_END, numbers(&[self.data_end])),
            (tag::FILTER, numbers(&filter)),
            (tag::INDEX, numbers(&[self.index_offset, self.index_bytes])),
            (tag::TOP, numbers(&[self.top.offset, u64::from(self.top.len)])),
            (tag::FILE_CRC, self.file_crc.to_le_bytes().to_vec()),
        ];
        let mut out = Vec::new();
        for (tag, body) in fields {
            out.push(tag);
            varint::put(&mut out, body.len() as u64);
            out.extend_from_slice(&body);
        }
        out
    }

    /// Reads the content of a properties block. Error: the reason, in words.
    pub(crate) fn decode(content: &[u8], id: TableId, bytes: u64) -> Result<Properties, String> {
        let mut fields = [None; tag::OPTIONAL as usize];
        let mut at = 0;
        while at < content.len() {
            let tag = content[at];
            at += 1;
            let body = varint::get_len(content, &mut at)
                .and_then(|len| content.get(at..at.checked_add(len)?))
                .ok_or("properties end early")?;
            at += body.len();
            match fields.get_mut(usize::from(tag)) {
                Some(field) if (tag::ENTRIES..=tag::FILE_CRC).contains(&tag) => *field = Some(body),
                Some(_) => return Err(format!("property {tag} is unknown and must be understood")),
                None => {}
            }
        }
        let field = |tag: u8| fields[usize::from(tag)].ok_or(format!("property {tag} is missing"));
        let all = |tag: u8, count: usize| -> Result<[u64; 3], String> {
            let (body, mut at, mut out) = (field(tag)?, 0, [0; 3]);
            for slot in out.iter_mut().take(count) {
                *slot = varint::get(body, &mut at).ok_or(format!("property {tag} ends early"))?;
            }
            if at == body.len() { Ok(out) } else { Err(format!("property {tag} is too long")) }
        };
        let one = |tag: u8| all(tag, 1).map(|values| values[0]);
        let ([kind, filter_offset, filter_blocks], index) =
            (all(tag::FILTER, 3)?, all(tag::INDEX, 2)?);
        if kind != u64::from(super::filter::KIND_SPLIT_BLOCK) || filter_blocks == 0 {
            return Err(format!("filter kind {kind} is unknown"));
        }
        let top = all(tag::TOP, 2)?;
        let crc =
            <[u8; 4]>::try_from(field(tag::FILE_CRC)?).map_err(|_| "bad file checksum field")?;
        Ok(Properties {
            meta: TableMeta {
                id,
                bytes,
                entries: one(tag::ENTRIES)?,
                erasures: one(tag::ERASURES)?,
                first: Bytes::copy_from_slice(field(tag::FIRST)?),
                last: Bytes::copy_from_slice(field(tag::LAST)?),
                min_seq: one(tag::MIN_SEQ)?,
                max_seq: one(tag::MAX_SEQ)?,
            },
            raw_bytes: one(tag::RAW_BYTES)?,
            blocks: one(tag::BLOCKS)?,
            data_end: one(tag::DATA_END)?,
            filter_offset,
            filter_blocks,
            index_offset: index[0],
            index_bytes: index[1],
            top: Handle {
                offset: top[0],
                len: u32::try_from(top[1]).map_err(|_| "top index too long")?,
            },
            file_crc: u32::from_le_bytes(crc),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_named_as_newer() {
        let mut bytes = header(TableId(3));
        assert_eq!(check_header(&bytes, TableId(3)), Ok(()));
        assert!(matches!(check_header(&bytes, TableId(4)), Err(BadEnd::Damaged(_))));
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        assert!(matches!(check_header(&bytes, TableId(3)), Err(BadEnd::Damaged(_))));
        let crc = placed_crc(&[&bytes[..20]], TableId(3), 0);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_header(&bytes, TableId(3)), Err(BadEnd::Newer(2)));
    }
}
