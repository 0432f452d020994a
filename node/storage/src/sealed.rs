//! Small files and file heads with a frame: what it is, which version, whose bytes, checksum.
//!
//! Layout (little endian): `magic 8 | version u32 | id u64 | body length u32 | crc32c u32 | body`.
//! The checksum covers the frame, the body, the file's id and the offset (0), so that a sound frame
//! of another file is refused (rules R3, R15).

use crate::error::{Damage, OpenError};
use crc_fast::{CrcAlgorithm, Digest};
use std::path::Path;

/// Bytes before the body.
pub(crate) const FRAME_BYTES: usize = 28;

const CRC_AT: usize = 24;

/// What a kind of file is called on disk.
pub(crate) struct Kind {
    /// The first bytes of the file.
    pub(crate) magic: [u8; 8],
    /// The newest version that this program writes and reads.
    pub(crate) version: u32,
}

/// CRC-32C of some bytes at their place: a record moved to another file or offset does not match.
pub(crate) fn placed_crc(parts: &[&[u8]], file_id: u64, offset: u64) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.update(&file_id.to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.finalize() as u32
}

/// Frames a body.
pub(crate) fn seal(kind: &Kind, id: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_BYTES + body.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = placed_crc(&[&bytes, body], id, 0);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Verifies a frame at the start of `bytes` and gives its body; bytes behind the body are not
/// looked at. Error: damaged, not this file, or of a newer version.
pub(crate) fn open<'a>(
    path: &Path,
    kind: &Kind,
    id: u64,
    bytes: &'a [u8],
) -> Result<&'a [u8], OpenError> {
    let damaged = |detail: &str| Damage { path: path.into(), offset: 0, detail: detail.into() };
    let head = bytes.get(..FRAME_BYTES).ok_or_else(|| damaged("shorter than its frame"))?;
    if head[..8] != kind.magic {
        return Err(damaged("not a file of this kind").into());
    }
    let length = u32_at(head, 20) as usize;
    let body = bytes.get(FRAME_BYTES..FRAME_BYTES + length);
    let body = body.ok_or_else(|| damaged("shorter than its frame says"))?;
    if placed_crc(&[&head[..CRC_AT], body], id, 0) != u32_at(head, CRC_AT) {
        return Err(damaged("checksum does not match").into());
    }
    let found = u32_at(head, 8);
    if found > kind.version {
        return Err(OpenError::NewerVersion { path: path.into(), found, known: kind.version });
    }
    Ok(body)
}

/// Reads a little-endian number; the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Reads a little-endian number; the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"KVTEST\0\0", version: 3 };

    #[test]
    fn every_flipped_bit_is_found() {
        let (path, sealed) = (Path::new("f"), seal(&KIND, 9, b"body"));
        assert_eq!(open(path, &KIND, 9, &sealed).unwrap(), b"body");
        assert!(open(path, &KIND, 8, &sealed).is_err(), "another file's frame");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(path, &KIND, 9, &flipped).is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(open(path, &KIND, 9, &sealed[..cut]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let sealed = seal(&Kind { version: 4, ..KIND }, 9, b"");
        let error = open(Path::new("f"), &KIND, 9, &sealed).unwrap_err();
        assert!(matches!(error, OpenError::NewerVersion { found: 4, known: 3, .. }));
    }
}
