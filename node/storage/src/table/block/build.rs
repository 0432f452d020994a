//! Writing the content of a block: entries as they come, then hints and places.

use super::{Scale, TAIL_BYTES, head_of};
use crate::table::varint;

/// Collects entries in order and writes the content of one block.
#[derive(Default)]
pub(crate) struct BlockBuilder {
    content: Vec<u8>,
    places: Vec<u32>,
    heads: Vec<u64>,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    /// Appends an entry. The caller keeps the order and the bound on the size of a block.
    pub(crate) fn add(&mut self, key: &[u8], seq: u64, value: Option<&[u8]>) {
        self.places.push(self.content.len() as u32);
        self.heads.push(head_of(key));
        varint::put(&mut self.content, key.len() as u64);
        varint::put(&mut self.content, seq);
        varint::put(&mut self.content, value.map_or(0, |v| v.len() as u64 + 1));
        self.content.extend_from_slice(key);
        self.content.extend_from_slice(value.unwrap_or_default());
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
    }

    /// Bytes of a place: two where that is enough.
    fn width(&self) -> usize {
        if self.places.last().is_none_or(|place| *place <= u32::from(u16::MAX)) { 2 } else { 4 }
    }

    /// Bytes that the content will have.
    pub(crate) fn len(&self) -> usize {
        self.content.len() + self.places.len() * (2 + self.width()) + TAIL_BYTES
    }

    /// Whether no entry was added since the last [`finish`](Self::finish).
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Key of the last entry; empty before the first.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The content; the builder is empty again afterwards.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let (width, bytes) = (self.width(), self.len());
        let mut out = std::mem::take(&mut self.content);
        self.content.reserve(out.capacity());
        out.reserve_exact(bytes - out.len());
        let scale = Scale::between(
            self.heads.first().copied().unwrap_or_default(),
            self.heads.last().copied().unwrap_or_default(),
        );
        for head in self.heads.drain(..) {
            out.extend_from_slice(&scale.hint(head).unwrap_or(u16::MAX).to_le_bytes());
        }
        let count = self.places.len() as u32;
        for place in self.places.drain(..) {
            out.extend_from_slice(&place.to_le_bytes()[..width]);
        }
        out.extend_from_slice(&scale.base.to_le_bytes());
        out.extend_from_slice(&[scale.shift, width as u8]);
        out.extend_from_slice(&count.to_le_bytes());
        self.last_key.clear();
        out
    }
}
