//! A tree as bytes, for the sidecar that the engine stores with each flush. Version 1, little-endian.
//!
//! ```text
//! tree  = version(1) bits(1) fingerprint of the tree key(8) doubts(4) chunk(4)* chunks(4) chunk*
//! chunk = number(4) filled(2) then, up to 226 filled: (leaf(1) sum(8))*, else sum(8) * 256
//! ```
//! The engine checks its integrity. What cannot be used restores as nothing known, which costs a
//! rebuild and never a wrong comparison.

use super::place::Node;
use super::tree::{CHUNK_LEAVES, Tree};

const VERSION: u8 = 1;
/// More filled leaves than this take more bytes one by one than all together.
const SPARSE_MAX: usize = 226;

/// What a stored tree was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// There was none, because nothing was ever stored: the empty tree is right.
    Blank,
    /// Taken over as it was.
    Whole,
    /// It cannot be used: everything is in doubt until it is read from the data.
    Unknown,
}

impl Tree {
    /// The state after every change so far. `fingerprint` is that of the tree key. Writers wait for it: it
    /// goes over the leaves twice, so that memory is asked for once.
    pub fn encode(&self, fingerprint: u64) -> Vec<u8> {
        // Whoever mends leaves beside writers waits for it too.
        let doubts = self.doubts();
        let chunks = self.chunks.iter().enumerate();
        let filled: Vec<_> = chunks
            .filter_map(|(number, chunk)| {
                let chunk = chunk.get()?;
                Some((number, chunk, chunk.leaves().filter(|sum| *sum != 0).count()))
            })
            .collect();
        let dense = |count: usize| count > SPARSE_MAX;
        let bytes = |count| if dense(count) { 8 * CHUNK_LEAVES } else { 9 * count };
        let bytes: usize = filled.iter().map(|(_, _, count)| 6 + bytes(*count)).sum();
        let mut out = Vec::with_capacity(18 + 4 * doubts.chunks.len() + bytes);
        out.extend_from_slice(&[VERSION, self.bits()]);
        out.extend_from_slice(&fingerprint.to_le_bytes());
        out.extend_from_slice(&(doubts.chunks.len() as u32).to_le_bytes());
        doubts.chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.to_le_bytes()));
        out.extend_from_slice(&(filled.len() as u32).to_le_bytes());
        for (number, chunk, count) in filled {
            out.extend_from_slice(&(number as u32).to_le_bytes());
            out.extend_from_slice(&(count as u16).to_le_bytes());
            if dense(count) {
                chunk.leaves().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
                continue;
            }
            for (leaf, sum) in chunk.leaves().enumerate().filter(|(_, sum)| *sum != 0) {
                let mut one = [leaf as u8; 9];
                one[1..].copy_from_slice(&sum.to_le_bytes());
                out.extend_from_slice(&one);
            }
        }
        out
    }

    /// Takes over a stored state; this tree must be new. A deeper state is folded, a shallower one cannot
    /// be used, nor one under another tree key.
    pub fn restore(&self, stored: Option<&[u8]>, fingerprint: u64) -> Restored {
        let Some(bytes) = stored else { return Restored::Blank };
        if self.read(&mut Rest(bytes), fingerprint).is_some() {
            return Restored::Whole;
        }
        // What was read before it broke off stands in leaves that are in doubt.
        self.doubt(Node { depth: 0, index: 0 });
        Restored::Unknown
    }

    fn read(&self, rest: &mut Rest<'_>, fingerprint: u64) -> Option<()> {
        let [version, bits] = rest.take()?;
        let fold = bits.checked_sub(self.bits())?;
        if version != VERSION || fold > 10 || u64::from_le_bytes(rest.take()?) != fingerprint {
            return None;
        }
        let chunks = u64::from(self.chunk_count()) << fold;
        for _ in 0..rest.number()? {
            let chunk = u64::from(rest.number()?);
            (chunk < chunks).then_some(())?;
            self.doubts().chunks.insert((chunk >> fold) as u32);
        }
        for _ in 0..rest.number()? {
            let chunk = u64::from(rest.number()?);
            let filled = usize::from(u16::from_le_bytes(rest.take()?));
            (chunk < chunks && filled <= CHUNK_LEAVES).then_some(())?;
            let (count, dense) = match filled > SPARSE_MAX {
                true => (CHUNK_LEAVES, true),
                false => (filled, false),
            };
            for at in 0..count {
                let leaf = if dense { at } else { usize::from(rest.take::<1>()?[0]) };
                let sum = u64::from_le_bytes(rest.take()?);
                let leaf = ((chunk as usize * CHUNK_LEAVES) + leaf) >> fold;
                self.toggle_leaf(leaf, sum);
            }
        }
        rest.0.is_empty().then_some(())
    }
}

/// Bytes not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}
