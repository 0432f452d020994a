//! Compression of single blocks.
//!
//! Each block says by itself how it is stored, so that a table may mix forms and a store may change its
//! mind. LZ4 (block format) because it decodes a 4 KiB block in about a microsecond. A block that shrinks
//! by less than an eighth stays plain: it would cost time at each read for nothing. Layout: `FORMAT.md`,
//! "Blocks".

use super::writer::BLOCK_MAX_BYTES;
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

/// LZ4 cannot expand a byte into more than this.
const LZ4_MAX_GROWTH: usize = 255;
/// Bytes before the LZ4 block: the length of the content.
const LENGTH_BYTES: usize = 4;

/// Most blocks that are stored plain untried.
const SKIP_MAX: u32 = 15;

/// How data blocks are written. Any of them is read, whatever is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4 where it saves at least an eighth.
    #[default]
    Lz4,
}

/// Compresses the blocks of one table.
pub(crate) struct Compressor {
    /// `None`: nothing is compressed.
    table: Option<CompressTable>,
    /// Blocks in a row that did not shrink.
    in_vain: u32,
    /// Blocks that are not tried.
    skip: u32,
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Self {
        let table = match compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressTable::small()),
        };
        Compressor { table, in_vain: 0, skip: 0 }
    }

    /// The compressed form of a content, if it is worth it. After blocks that were not, up to
    /// [`SKIP_MAX`] are not tried: values that do not shrink come in company.
    pub(crate) fn compress(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let packed = self.pack(content);
        self.in_vain = if packed.is_some() { 0 } else { (self.in_vain + 1).min(SKIP_MAX) };
        self.skip = self.in_vain.saturating_sub(1);
        packed
    }

    fn pack(&mut self, content: &[u8]) -> Option<Vec<u8>> {
        let table = self.table.as_mut()?;
        let length = u32::try_from(content.len()).ok()?;
        let mut out = vec![0; LENGTH_BYTES + get_maximum_output_size(content.len())];
        out[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        let written = compress_into_with_table(content, &mut out[LENGTH_BYTES..], table).ok()?;
        out.truncate(LENGTH_BYTES + written);
        (out.len() <= content.len() - content.len() / 8).then_some(out)
    }
}

/// Bytes that a compressed form says it will have; `None` if it cannot be so.
pub(crate) fn length_of(stored: &[u8]) -> Option<usize> {
    let (length, packed) = stored.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let possible = packed.len().saturating_mul(LZ4_MAX_GROWTH).min(BLOCK_MAX_BYTES as usize * 2);
    (length <= possible).then_some(length)
}

/// The content of a compressed form. `None`: it is none.
pub(crate) fn decompress(stored: &[u8]) -> Option<Vec<u8>> {
    let mut content = vec![0; length_of(stored)?];
    let written = decompress_into(&stored[LENGTH_BYTES..], &mut content).ok()?;
    (written == content.len()).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            piece in prop::collection::vec(any::<u8>(), 1..40), times in 1usize..4000,
        ) {
            let content = piece.repeat(times);
            let mut compressor = Compressor::new(Compression::Lz4);
            for _ in 0..2 {
                if let Some(packed) = compressor.compress(&content) {
                    prop_assert!(packed.len() <= content.len() - content.len() / 8);
                    prop_assert_eq!(length_of(&packed), Some(content.len()));
                    prop_assert_eq!(decompress(&packed), Some(content.clone()));
                } else {
                    prop_assert!(times * piece.len() < 100 || times < 3);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(stored in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decompress(&stored);
        }
    }

    #[test]
    fn noise_stays_plain_and_a_false_length_is_refused() {
        let mut word = 1u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (word >> 56) as u8
            })
            .collect();
        let mut compressor = Compressor::new(Compression::Lz4);
        assert_eq!(compressor.compress(&noise), None);
        assert!(compressor.compress(&[0; 4096]).is_some(), "one block proves nothing");
        for _ in 0..200 {
            assert_eq!(compressor.compress(&noise), None);
        }
        let untried = (0..200).position(|_| compressor.compress(&[0; 4096]).is_some());
        assert!(untried.is_some_and(|blocks| blocks <= SKIP_MAX as usize), "{untried:?}");
        assert!(compressor.compress(&[0; 4096]).is_some(), "it starts anew");
        assert_eq!(Compressor::new(Compression::None).compress(&[0; 4096]), None);
        let packed = compressor.compress(&[0; 4096]).unwrap();
        for wrong in [0u32, 4095, 4097, u32::MAX] {
            let mut changed = packed.clone();
            changed[..4].copy_from_slice(&wrong.to_le_bytes());
            assert_eq!(decompress(&changed), None, "{wrong}");
        }
    }
}
