//! The packed rows of a member list: about 11 bytes a member instead of about 30.
//!
//! Layout of a row: a flag byte (bits 0-1 what the sender believes of the member, bit 2 leaving,
//! bit 3 a refutation follows, bits 4-7 the index of the standing, 15 = it follows), the 6-byte tag
//! of the profile, the counter, the mark, then the refutation and the standing where the flags say
//! so. Numbers are little-endian base-128 varints. The mark is sent as its distance from
//! (mark at boot + counter), zigzag-coded: both rise once a second, so the distance stays small.

use crate::gossip::message::Pulse;
use crate::gossip::profile::{Profile, Tag};
use crate::gossip::view::Status;

/// Most bytes that one row can have.
pub(super) const ROW_MAX_BYTES: usize = 1 + 6 + 10 + 10 + 5 + 3;

const LEAVING: u8 = 1 << 2;
const REFUTED: u8 = 1 << 3;
const STANDING_FOLLOWS: u8 = 15;

/// The rows cannot be read; the message is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// One row as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub tag: Tag,
    pub opinion: Status,
    pub counter: u64,
    pub refutation: u32,
    pub leaving: bool,
    pub standing: u16,
    mark_distance: u64,
}

impl Row {
    /// The row of a member whose standing has this index.
    pub fn new(tag: Tag, profile: &Profile, pulse: &Pulse, opinion: Status, standing: u16) -> Self {
        let expected = profile.mark_at_boot.wrapping_add(pulse.counter);
        Self {
            tag,
            opinion,
            counter: pulse.counter,
            refutation: pulse.refutation,
            leaving: pulse.leaving,
            standing,
            mark_distance: zigzag(pulse.mark.wrapping_sub(expected) as i64),
        }
    }

    /// The mark, given the profile that the tag names.
    pub fn mark(&self, profile: &Profile) -> u64 {
        let expected = profile.mark_at_boot.wrapping_add(self.counter);
        expected.wrapping_add(unzigzag(self.mark_distance) as u64)
    }

    /// Appends the packed form.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let index = self.standing.min(u16::from(STANDING_FOLLOWS)) as u8;
        let mut flags = index << 4;
        flags |= match self.opinion {
            Status::Alive => 0,
            Status::Suspect => 1,
            Status::Down => 2,
        };
        flags |= if self.leaving { LEAVING } else { 0 };
        flags |= if self.refutation > 0 { REFUTED } else { 0 };
        out.push(flags);
        out.extend_from_slice(&self.tag.0);
        push_varint(out, self.counter);
        push_varint(out, self.mark_distance);
        if self.refutation > 0 {
            push_varint(out, u64::from(self.refutation));
        }
        if index == STANDING_FOLLOWS {
            push_varint(out, u64::from(self.standing));
        }
    }

    /// Takes the first row off `bytes`.
    pub fn unpack(bytes: &mut &[u8]) -> Result<Self, Unreadable> {
        let (head, rest) = bytes.split_first_chunk::<7>().ok_or(Unreadable)?;
        *bytes = rest;
        let [flags, a, b, c, d, e, f] = *head;
        let counter = take_varint(bytes)?;
        let mark_distance = take_varint(bytes)?;
        let refutation = if flags & REFUTED > 0 { take_varint(bytes)? } else { 0 };
        let standing = match flags >> 4 {
            STANDING_FOLLOWS => take_varint(bytes)?,
            index => u64::from(index),
        };
        Ok(Self {
            tag: Tag([a, b, c, d, e, f]),
            opinion: match flags & 3 {
                0 => Status::Alive,
                1 => Status::Suspect,
                2 => Status::Down,
                _ => return Err(Unreadable),
            },
            counter,
            refutation: u32::try_from(refutation).map_err(|_| Unreadable)?,
            leaving: flags & LEAVING > 0,
            standing: u16::try_from(standing).map_err(|_| Unreadable)?,
            mark_distance,
        })
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Unreadable)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(Unreadable);
        }
        value |= part << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::message::Standing;
    use crate::gossip::profile::{Addresses, Labels};
    use crate::id::{ClusterId, NodeId};
    use proptest::prelude::*;

    fn profile(mark_at_boot: u64) -> Profile {
        Profile {
            id: NodeId::from_bytes([1; 16]),
            boot: 1,
            nonce: 1,
            revision: 0,
            cluster: ClusterId::nil(),
            mark_at_boot,
            addresses: Addresses::default(),
            labels: Labels::default(),
            version: String::new(),
        }
    }

    #[test]
    fn a_usual_row_is_small() {
        let profile = profile(500_000);
        let pulse = Pulse { counter: 86_400, mark: 586_420, ..Pulse::default() };
        let mut packed = Vec::new();
        Row::new(profile.tag(), &profile, &pulse, Status::Alive, 0).pack(&mut packed);
        assert_eq!(packed.len(), 11);
    }

    proptest! {
        #[test]
        fn rows_come_back(
            mark_at_boot: u64, mark: u64, counter: u64, refutation: u32, leaving: bool,
            opinion in prop_oneof![Just(Status::Alive), Just(Status::Suspect), Just(Status::Down)],
            standing: u16,
        ) {
            let profile = profile(mark_at_boot);
            let pulse =
                Pulse { refutation, counter, mark, standing: Standing::default(), leaving };
            let row = Row::new(profile.tag(), &profile, &pulse, opinion, standing);
            let mut packed = Vec::new();
            row.pack(&mut packed);
            prop_assert!(packed.len() <= ROW_MAX_BYTES);
            for cut in 0..packed.len() {
                prop_assert_eq!(Row::unpack(&mut &packed[..cut]), Err(Unreadable));
            }
            packed.push(7);
            let mut bytes = packed.as_slice();
            let back = Row::unpack(&mut bytes).unwrap();
            prop_assert_eq!(back, row);
            prop_assert_eq!(back.mark(&profile), mark);
            prop_assert_eq!(bytes, &[7][..]);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && Row::unpack(&mut rest).is_ok() {}
        }
    }
}
