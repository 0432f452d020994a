//! The Bloom filter of a table: says "surely absent" without reading a block.
//!
//! A split-block Bloom filter (Putze, Sanders, Singler 2007; the shape Apache Parquet fixed in its
//! format description): the filter is a row of 32-byte blocks; a key's 64-bit hash picks one block with
//! its upper half and one bit in each of the block's eight words with its lower half. We use it because
//! its bit layout is a few lines that stand in `FORMAT.md` for ever, and because a lookup touches one
//! cache line. The hash is xxh3-64 with seed 0 over the encoded table key.
//!
//! On disk the row is cut into pages, each sealed with its own checksum. Invariant: a page is asked only
//! after its checksum was verified, and a page that cannot be read answers "maybe": a wrong bit can cost
//! a block read, never hide a key.

use super::frame::Handle;
use super::index::Reservation;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of one filter block.
pub(crate) const BLOCK_BYTES: usize = 32;
/// Filter blocks of a full page.
pub(crate) const PAGE_BLOCKS: u64 = 128;
/// Content bytes of a full page.
pub(crate) const PAGE_BYTES: usize = BLOCK_BYTES * PAGE_BLOCKS as usize;
/// Number of this filter form in the properties.
pub(crate) const KIND_SPLIT_BLOCK: u8 = 1;
/// Bits per key unless the options say otherwise: about 0.13 % false positives, so that a lookup which
/// passes six tables still reads none of them in 99 % of cases.
pub const DEFAULT_BITS_PER_KEY: u32 = 16;

/// Odd multipliers, one for each word of a block; part of the format.
const SALTS: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The hash that filters use for an encoded key.
#[inline]
pub(crate) fn filter_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The filter block of a hash among `blocks`.
#[inline]
pub(crate) fn block_of(hash: u64, blocks: u64) -> u64 {
    ((hash >> 32) * blocks) >> 32
}

/// Whether the filter block at the start of `block` may hold the hash. A short slice answers `true`.
#[inline]
pub(crate) fn may_hold(block: &[u8], hash: u64) -> bool {
    block.first_chunk().is_none_or(|line| holds(line, hash))
}

/// All eight words are always looked at: stopping at the first missing bit would be a branch that the
/// processor guesses wrong half the time, and costs more than the words.
#[inline]
fn holds(line: &[u8; BLOCK_BYTES], hash: u64) -> bool {
    let (words, _) = line.as_chunks::<4>();
    let missing = SALTS.iter().zip(words).fold(0, |missing, (salt, word)| {
        let bit = (hash as u32).wrapping_mul(*salt) >> 27;
        missing | (!u32::from_le_bytes(*word) & (1 << bit))
    });
    missing == 0
}

/// A filter block in memory, so placed that it lies in one cache line.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Line([u8; BLOCK_BYTES]);

/// The whole filter of a table in memory. Where a stored page was damaged every bit is set.
pub(crate) struct ResidentFilter {
    row: Vec<Line>,
    _held: Reservation,
}

impl ResidentFilter {
    /// An empty row for so many blocks.
    pub(crate) fn new(blocks: usize, held: Reservation) -> Self {
        ResidentFilter { row: Vec::with_capacity(blocks), _held: held }
    }

    /// Appends the page that lies at `handle`; `None` if it was damaged.
    pub(crate) fn push(&mut self, page: Option<&[u8]>, handle: Handle) {
        let blocks = (handle.len as usize).saturating_sub(super::frame::SEAL_BYTES) / BLOCK_BYTES;
        let (stored, _) = page.unwrap_or_default().as_chunks::<BLOCK_BYTES>();
        let line = |block| Line(stored.get(block).copied().unwrap_or([0xff; BLOCK_BYTES]));
        self.row.extend((0..blocks).map(line));
    }

    /// A byte of the line that [`may_hold`](Self::may_hold) will look at: reading it makes the
    /// processor fetch the line.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u8 {
        self.row.get(block_of(hash, self.row.len() as u64) as usize).map_or(0, |line| line.0[0])
    }

    /// Whether the filter may hold the hash.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        let line = self.row.get(block_of(hash, self.row.len() as u64) as usize);
        line.is_none_or(|line| holds(&line.0, hash))
    }
}

/// Collects hashes while a table is written; the size is known only at the end.
pub(crate) struct FilterBuilder {
    hashes: Vec<u64>,
    bits_per_key: u32,
}

impl FilterBuilder {
    /// A filter with about `bits_per_key` bits for each key (at least 1).
    pub(crate) fn new(bits_per_key: u32) -> Self {
        FilterBuilder { hashes: Vec::new(), bits_per_key: bits_per_key.max(1) }
    }

    /// Adds a key. Adding one twice does no harm.
    pub(crate) fn add(&mut self, key: &[u8]) {
        self.hashes.push(filter_hash(key));
    }

    /// The whole row of filter blocks, at least one block long.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let bits = self.hashes.len() as u64 * u64::from(self.bits_per_key);
        // The upper half of the hash must be able to name every block.
        let blocks = bits.div_ceil(8 * BLOCK_BYTES as u64).clamp(1, u64::from(u32::MAX));
        let mut row = vec![0; blocks as usize * BLOCK_BYTES];
        for hash in &self.hashes {
            let start = block_of(*hash, blocks) as usize * BLOCK_BYTES;
            for (salt, word) in
                SALTS.iter().zip(row[start..start + BLOCK_BYTES].chunks_exact_mut(4))
            {
                let bit = (*hash as u32).wrapping_mul(*salt) >> 27;
                word[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(row: &[u8], key: &[u8]) -> bool {
        let hash = filter_hash(key);
        let start = block_of(hash, (row.len() / BLOCK_BYTES) as u64) as usize * BLOCK_BYTES;
        may_hold(&row[start..], hash)
    }

    #[test]
    fn the_layout_is_fixed() {
        // These values may never change: stored filters depend on them.
        let mut builder = FilterBuilder::new(12);
        for key in [&b"alpha"[..], b"beta", b"gamma"] {
            builder.add(key);
        }
        assert_eq!(filter_hash(b"alpha"), 0xbe69_03b5_f625_ab5a);
        let row = builder.finish();
        assert_eq!(row.len(), BLOCK_BYTES);
        assert_eq!(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &row), 0xa1c0_0a8c);
    }

    #[test]
    fn no_key_is_missed_and_few_strangers_pass() {
        for (bits, most) in [(10, 0.016), (12, 0.0075), (16, 0.0022), (20, 0.0008)] {
            let mut worst = 0.0f64;
            for keys in [1u64, 10, 1000, 50_000] {
                let mut builder = FilterBuilder::new(bits);
                for key in 0..keys {
                    builder.add(&key.to_be_bytes());
                }
                let row = builder.finish();
                assert!((0..keys).all(|key| holds(&row, &key.to_be_bytes())));
                let strangers = 200_000u64;
                let passed =
                    (keys..keys + strangers).filter(|key| holds(&row, &key.to_be_bytes())).count();
                worst = worst.max(passed as f64 / strangers as f64);
            }
            println!("false positives at {bits} bits a key: {:.3} %", worst * 100.0);
            assert!(worst <= most, "{bits} bits: {worst}");
        }
    }
}
