//! One record of the commit log, and how a torn tail is told from damage.
//!
//! Layout (little endian): `crc32c u32 | body length u32 | kind u8 | synced u32 | sequence u64 |
//! key length u16 | key | value`. The checksum covers all of it behind itself, the segment's id and
//! the record's offset. `synced` is how many bytes of the segment were durable when the record was
//! written: a sound record whose `synced` lies behind a bad one proves that the bad one was durable
//! once, so it is damage; without such a proof it is the torn tail of a write that nobody was
//! promised (rule R4).

use crate::key::TableKey;
use crate::sealed::{placed_crc, u32_at, u64_at};
use bytes::Bytes;

/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 21;

const PUT: u8 = 1;
const ERASE: u8 = 2;
const DROP: u8 = 3;

/// A change in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) key: TableKey,
    pub(crate) change: Logged,
}

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Logged {
    /// The key has these bytes.
    Put(Bytes),
    /// The key has nothing.
    Erase,
    /// Every key from this one up to and not including that one has nothing; `None`: to the end.
    Drop(Option<TableKey>),
}

/// A change as it is framed: borrowed, since it is copied once, into the frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Framing<'a> {
    /// See [`Logged::Put`].
    Put(&'a [u8]),
    /// See [`Logged::Erase`].
    Erase,
    /// See [`Logged::Drop`].
    Drop(Option<&'a TableKey>),
}

impl<'a> Framing<'a> {
    /// The change of one key.
    pub(crate) fn of(value: Option<&'a Bytes>) -> Self {
        value.map_or(Self::Erase, |value| Self::Put(value))
    }

    fn kind(self) -> u8 {
        match self {
            Self::Put(_) => PUT,
            Self::Erase => ERASE,
            Self::Drop(_) => DROP,
        }
    }

    /// What stands behind the key.
    fn body(self) -> &'a [u8] {
        match self {
            Self::Put(value) => value,
            Self::Erase => &[],
            // No key is empty, so an empty one can say "to the end".
            Self::Drop(to) => to.map_or(&[], TableKey::as_bytes),
        }
    }
}

/// Appends a record to `out`, which will be written so that it ends up at its place: segment, offset.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    (sequence, key, change): (u64, &TableKey, Framing<'_>),
    (segment, offset): (u64, u64),
    synced: u32,
) {
    let start = out.len();
    let (key, bytes) = (key.as_bytes(), change.body());
    let mut head = [0; HEAD_BYTES + 2];
    head[4..8].copy_from_slice(&((2 + key.len() + bytes.len()) as u32).to_le_bytes());
    head[8] = change.kind();
    head[9..13].copy_from_slice(&synced.to_le_bytes());
    head[13..21].copy_from_slice(&sequence.to_le_bytes());
    head[21..].copy_from_slice(&(key.len() as u16).to_le_bytes());
    out.reserve(head.len() + key.len() + bytes.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(key);
    out.extend_from_slice(bytes);
    let crc = placed_crc(&[&out[start + 4..]], segment, offset);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes that a change of this key to this value takes in a segment.
pub(crate) fn stored_bytes(key: &TableKey, value: Option<&Bytes>) -> usize {
    framed_bytes(key, Framing::of(value))
}

/// Bytes that a framed change takes in a segment.
pub(crate) fn framed_bytes(key: &TableKey, change: Framing<'_>) -> usize {
    HEAD_BYTES + 2 + key.as_bytes().len() + change.body().len()
}

/// A record found in a segment.
pub(crate) struct Found {
    pub(crate) record: Record,
    /// Bytes of it in the segment.
    pub(crate) length: usize,
    /// Bytes of the segment that were durable when it was written.
    pub(crate) synced: u64,
}

/// Bytes of the record at `offset` of a segment by its head, which nothing vouches for; `None` if it is
/// no head, or says more than there is.
pub(crate) fn framed_length(segment: &[u8], offset: usize) -> Option<usize> {
    let head = segment.get(offset..offset.checked_add(HEAD_BYTES)?)?;
    let (body_bytes, kind) = (u32_at(head, 4) as usize, head[8]);
    let length = HEAD_BYTES.checked_add(body_bytes)?;
    let fits = offset.checked_add(length)? <= segment.len();
    (matches!(kind, PUT | ERASE | DROP) && body_bytes >= 2 && fits).then_some(length)
}

/// Reads the record at `offset` of a segment's bytes; `None` if there is no sound one.
pub(crate) fn decode(segment: &Bytes, id: u64, offset: usize) -> Option<Found> {
    let length = framed_length(segment, offset)?;
    let whole = segment.get(offset..offset + length)?;
    let (head, kind, synced) = (&whole[..HEAD_BYTES], whole[8], u32_at(whole, 9));
    if placed_crc(&[&whole[4..]], id, offset as u64) != u32_at(head, 0) {
        return None;
    }
    let body = segment.slice(offset + HEAD_BYTES..offset + length);
    let key_bytes = usize::from(u16::from_le_bytes([body[0], body[1]]));
    if body.len() < 2 + key_bytes {
        return None;
    }
    let key = TableKey::from_encoded(body.slice(2..2 + key_bytes)).ok()?;
    let rest = body.slice(2 + key_bytes..);
    let change = match kind {
        PUT => Logged::Put(rest),
        ERASE => Logged::Erase,
        _ if rest.is_empty() => Logged::Drop(None),
        _ => Logged::Drop(Some(TableKey::from_encoded(rest).ok()?)),
    };
    let record = Record { sequence: u64_at(head, 13), key, change };
    Some(Found { record, length, synced: u64::from(synced) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::proof::Search;
    use proptest::prelude::*;

    impl Record {
        fn framing(&self) -> Framing<'_> {
            match &self.change {
                Logged::Put(value) => Framing::Put(value),
                Logged::Erase => Framing::Erase,
                Logged::Drop(to) => Framing::Drop(to.as_ref()),
            }
        }

        fn stored_bytes(&self) -> usize {
            framed_bytes(&self.key, self.framing())
        }

        fn encode(&self, out: &mut Vec<u8>, segment: u64, offset: u64, synced: u32) {
            let record = (self.sequence, &self.key, self.framing());
            encode(out, record, (segment, offset), synced);
        }
    }

    fn record(sequence: u64, value: Option<&[u8]>) -> Record {
        let key = TableKey::new(sequence, b"bucket", b"key");
        Record {
            sequence,
            key,
            change: value.map(Bytes::copy_from_slice).map_or(Logged::Erase, Logged::Put),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back_only_at_its_place(
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), synced in 0..100u32,
            drop in prop::option::of(prop::option::of(any::<u64>())),
        ) {
            let (mut record, mut out) = (record(7, value.as_deref()), vec![9; 100]);
            if let Some(to) = drop {
                record.change = Logged::Drop(to.map(TableKey::first_of));
            }
            record.encode(&mut out, 3, 100, synced);
            let segment = Bytes::from(out);
            let found = decode(&segment, 3, 100).unwrap();
            prop_assert_eq!(&found.record, &record);
            prop_assert_eq!((found.length, found.synced), (record.stored_bytes(), u64::from(synced)));
            prop_assert_eq!(segment.len(), 100 + record.stored_bytes());
            prop_assert!(decode(&segment, 4, 100).is_none(), "another segment");
            prop_assert!(decode(&segment.slice(1..), 3, 99).is_none(), "another offset");
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..220usize) {
            let segment = Bytes::from(bytes);
            decode(&segment, 1, at);
            Search::new(&segment, 1).proves_damage(at);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut out = Vec::new();
        record(1, Some(b"value")).encode(&mut out, 1, 0, 0);
        for bit in 0..out.len() * 8 {
            let mut flipped = out.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(flipped), 1, 0).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn only_a_record_written_after_a_sync_proves_damage() {
        let first = record(1, Some(b"one"));
        let end = first.stored_bytes();
        for (synced, proof) in [(0, false), (end as u32, true)] {
            let mut out = Vec::new();
            first.encode(&mut out, 1, 0, 0);
            record(2, Some(b"two")).encode(&mut out, 1, end as u64, synced);
            out[HEAD_BYTES] ^= 1;
            let segment = Bytes::from(out);
            assert!(decode(&segment, 1, 0).is_none());
            assert_eq!(Search::new(&segment, 1).proves_damage(0), proof);
        }
    }
}
