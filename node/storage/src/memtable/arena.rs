//! Memory for keys and values: large pieces, given back at once.
//!
//! One allocation for each key and value would be freed one by one on the thread that flushes, in the
//! way of the threads that allocate new ones. So small ones are copied side by side into pieces that live
//! as long as anything in them is referred to. Large values keep the memory they came in.

use crate::guard::lock;
use bytes::{Bytes, BytesMut};
use std::sync::Mutex;

/// Threads that insert at the same time rarely meet in one of so many.
const PARTS: usize = 8;
/// The largest piece.
const PIECE_MAX_BYTES: usize = 64 << 10;
/// A piece is this part of the memtable at most, so that unused ends do not count.
const PIECES_MIN: usize = 256;

/// See the top of the file.
pub(super) struct Arena {
    parts: [Mutex<BytesMut>; PARTS],
    piece_bytes: usize,
}

impl Arena {
    /// For a memtable of about so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let piece_bytes = (bytes_max / PIECES_MIN).min(PIECE_MAX_BYTES);
        Self { parts: Default::default(), piece_bytes }
    }

    /// Copies of a key and a value, or the value itself if it is large. Calls with the same `spread` may
    /// wait for each other for a moment.
    pub(super) fn keep(
        &self,
        spread: usize,
        key: &[u8],
        value: Option<&Bytes>,
    ) -> (Bytes, Option<Bytes>) {
        let small = value.filter(|value| value.len() * 8 <= self.piece_bytes);
        let bytes = key.len() + small.map_or(0, |value| value.len());
        if bytes * 4 > self.piece_bytes {
            return (Bytes::copy_from_slice(key), value.cloned());
        }
        let mut part = lock(&self.parts[spread % PARTS]);
        if part.capacity() - part.len() < bytes {
            *part = BytesMut::with_capacity(self.piece_bytes);
        }
        part.extend_from_slice(key);
        let Some(small) = small else { return (part.split().freeze(), value.cloned()) };
        part.extend_from_slice(small);
        let mut kept = part.split().freeze();
        drop(part);
        (kept.split_to(key.len()), Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_equal_and_small_values_leave_their_memory() {
        let arena = Arena::new(1 << 20);
        for length in [0, 1, 100, 300, 511, 512, 513, 4_000, 5_000, 100_000] {
            let value = Bytes::from(vec![length as u8; length]);
            for round in 0..40 {
                let key = vec![round; 20];
                let (kept_key, kept) = arena.keep(usize::from(round), &key, Some(&value));
                assert_eq!((&kept_key[..], kept.as_ref()), (&key[..], Some(&value)));
                let same = kept.unwrap().as_ptr() == value.as_ptr();
                assert_eq!(same, length > 512, "{length}");
            }
        }
        assert_eq!(arena.keep(1, b"key", None), (Bytes::from_static(b"key"), None));
        assert_eq!(arena.keep(1, &[7; 70_000], None).0.len(), 70_000);
    }
}
