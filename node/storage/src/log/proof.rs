//! Whether sound records stand behind a bad place, in time that grows with the segment and not with its
//! square.
//!
//! Any offset may begin a record, and whoever writes values can fill them with what looks like heads of
//! long records that overlap. Checking each by reading it whole would take days for one segment. So the
//! checksum of a long candidate is put together from sums over the beginnings of the segment, kept every
//! few bytes: a CRC is linear, and the sum of a part follows from the sums up to its two ends. Only what
//! passes is read as a record.

use super::record::{self, decode};
use super::segment::START as HEAD_END;
use crate::sealed::u32_at;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use std::cell::OnceCell;

/// Up to this length a candidate is read at once.
const SHORT_BYTES: usize = 256;
/// A sum is kept for each so many bytes.
const STEP_BYTES: usize = 64;
/// The polynomial of CRC-32C, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The register before the first byte; the checksum is the register with all bits turned.
const START: u32 = u32::MAX;

/// A look for records at any offset of a segment.
pub(super) struct Search<'a> {
    segment: &'a Bytes,
    id: u64,
    sums: OnceCell<Sums>,
}

impl<'a> Search<'a> {
    pub(super) fn new(segment: &'a Bytes, id: u64) -> Self {
        Self { segment, id, sums: OnceCell::new() }
    }

    /// Whether a sound record begins at an offset.
    pub(super) fn is_sound(&self, at: usize) -> bool {
        let Some(length) = record::framed_length(self.segment, at) else { return false };
        let possible = length <= SHORT_BYTES || {
            let sums = self.sums.get_or_init(|| Sums::over(self.segment));
            let body = sums.part(self.segment, at + 4, at + length);
            let place = [self.id.to_le_bytes(), (at as u64).to_le_bytes()].concat();
            !sums.behind(body, &place) == u32_at(self.segment, at)
        };
        possible && decode(self.segment, self.id, at).is_some()
    }

    /// Whether a sound record behind `bad` proves that the bytes at `bad` were durable once.
    pub(super) fn proves_damage(&self, bad: usize) -> bool {
        let last = self.segment.len().saturating_sub(record::HEAD_BYTES);
        (bad + 1..last.max(bad + 1)).any(|at| {
            // The cheap test first: most positions hold no plausible head.
            let synced = u32_at(self.segment, at + 9) as usize;
            synced > bad && synced <= at && self.is_sound(at)
        })
    }

    /// Whether the head of the segment was durable once: it is before the first record is written, so
    /// any sound record proves it.
    pub(super) fn proves_head(&self) -> bool {
        self.next_sound(HEAD_END).is_some()
    }

    /// The first sound record at or behind an offset.
    pub(super) fn next_sound(&self, from: usize) -> Option<usize> {
        (from..self.segment.len()).find(|at| self.is_sound(*at))
    }
}

/// What reading zeros does to the register: for each power of two of them a table by bit.
struct Zeros([[u32; 32]; 32]);

impl Zeros {
    fn new() -> Self {
        let times = |table: &[u32; 32], register: u32| {
            (0..32).filter(|bit| register >> bit & 1 == 1).fold(0, |sum, bit| sum ^ table[bit])
        };
        let one_bit =
            |register: u32| (register >> 1) ^ if register & 1 == 1 { POLYNOMIAL } else { 0 };
        let mut powers = [[0; 32]; 32];
        powers[0] =
            std::array::from_fn(|bit| (0..8).fold(1 << bit, |register, _| one_bit(register)));
        for power in 1..32 {
            let half = powers[power - 1];
            powers[power] = std::array::from_fn(|bit| times(&half, half[bit]));
        }
        Self(powers)
    }

    fn read(&self, register: u32, zeros: usize) -> u32 {
        let powers = self.0.iter().enumerate().filter(|(power, _)| zeros >> power & 1 == 1);
        powers.fold(register, |register, (_, table)| {
            (0..32).filter(|bit| register >> bit & 1 == 1).fold(0, |sum, bit| sum ^ table[bit])
        })
    }
}

/// The register at every step of a segment.
struct Sums {
    zeros: Zeros,
    at_steps: Vec<u32>,
}

impl Sums {
    fn over(segment: &[u8]) -> Self {
        let mut sums = Self { zeros: Zeros::new(), at_steps: vec![START] };
        let mut register = START;
        for step in segment.chunks(STEP_BYTES) {
            register = sums.behind(register, step);
            sums.at_steps.push(register);
        }
        sums
    }

    /// The register after more bytes.
    fn behind(&self, register: u32, bytes: &[u8]) -> u32 {
        let from_start = !(checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32);
        from_start ^ self.zeros.read(register ^ START, bytes.len())
    }

    /// The register after everything before an offset.
    fn up_to(&self, segment: &[u8], offset: usize) -> u32 {
        let step = offset / STEP_BYTES;
        self.behind(self.at_steps[step], &segment[step * STEP_BYTES..offset])
    }

    /// The register after a part, read from the start.
    fn part(&self, segment: &[u8], from: usize, to: usize) -> u32 {
        let before = self.up_to(segment, from) ^ START;
        self.up_to(segment, to) ^ self.zeros.read(before, to - from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::TableKey;
    use crate::log::record::{Framing, encode};
    use proptest::prelude::*;

    fn segment(values: &[usize], garbage: usize) -> (Bytes, Vec<usize>) {
        let (mut bytes, mut starts) = (vec![7; garbage], Vec::new());
        for (sequence, length) in values.iter().enumerate() {
            starts.push(bytes.len());
            let value: Vec<u8> = (0..*length).map(|at| (at * 31 + sequence) as u8).collect();
            let key = TableKey::new(sequence as u64, b"bucket", b"key");
            let place = (9, bytes.len() as u64);
            let record = (sequence as u64 + 1, &key, Framing::Put(&value));
            encode(&mut bytes, record, place, place.1 as u32);
        }
        (bytes.into(), starts)
    }

    proptest! {
        #[test]
        fn it_finds_what_reading_each_offset_finds(
            values in prop::collection::vec(0..1_500usize, 1..6), garbage in 0..200usize,
            flips in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let (sound, _) = segment(&values, garbage);
            let mut bytes = sound.to_vec();
            for flip in flips {
                let at = flip.index(bytes.len());
                bytes[at] ^= 4;
            }
            let bytes = Bytes::from(bytes);
            let search = Search::new(&bytes, 9);
            for at in 0..bytes.len() {
                prop_assert_eq!(search.is_sound(at), decode(&bytes, 9, at).is_some(), "{}", at);
            }
        }
    }

    #[test]
    fn long_records_are_found_at_their_place_only() {
        let (bytes, starts) = segment(&[100_000, 3, 70_000], 50);
        let search = Search::new(&bytes, 9);
        assert_eq!(search.next_sound(0), Some(50));
        assert_eq!(search.next_sound(51), Some(starts[1]));
        assert!(starts.iter().all(|at| search.is_sound(*at)));
        assert!(search.proves_damage(0) && !search.proves_damage(starts[2]));
        let other = Search::new(&bytes, 8);
        assert_eq!(other.next_sound(0), None);
    }

    #[test]
    fn heads_of_long_records_that_overlap_prove_nothing_until_one_is_sound() {
        // A head every 64 bytes, each of which claims everything behind it.
        let mut bytes = vec![0; 1 << 20];
        let heads = || (0..(1 << 20) / 64 - 1).map(|head| head * 64);
        for at in heads() {
            let length = (bytes.len() - at - record::HEAD_BYTES) as u32;
            bytes[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
            bytes[at + 8] = 1;
            bytes[at + 9..at + 13].copy_from_slice(&1u32.to_le_bytes());
        }
        let segment = Bytes::from(bytes.clone());
        assert!(heads().all(|at| record::framed_length(&segment, at).is_some()));
        assert!(!Search::new(&segment, 1).proves_damage(0));
        let at = 64 * 5_000;
        let crc = crate::sealed::placed_crc(&[&bytes[at + 4..]], 1, at as u64);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        // Its key is empty, which none of ours is: the checksum alone makes no record.
        let segment = Bytes::from(bytes.clone());
        assert!(!Search::new(&segment, 1).proves_damage(0));
        bytes[at + 21] = 9;
        let crc = crate::sealed::placed_crc(&[&bytes[at + 4..]], 1, at as u64);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        let segment = Bytes::from(bytes);
        let search = Search::new(&segment, 1);
        assert!(search.proves_damage(0) && search.next_sound(0) == Some(at));
    }
}
