//! One written value, or the mark that something was deleted.

use bytes::Bytes;

use super::stamp::Stamp;

/// What one write left under a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sibling {
    /// When it was written, by the hybrid clock of its coordinator.
    pub stamp: Stamp,
    /// Unix milliseconds from which on it counts as deleted; never rewritten when that happens.
    pub expires_ms: Option<u64>,
    /// The value or the tombstone.
    pub payload: Payload,
}

/// How long a value lives, as its writer says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Life {
    /// So many milliseconds from its stamp on.
    Lasts(u64),
    /// Until this moment, in Unix milliseconds: the same one however often it is written.
    Ends(u64),
}

impl Life {
    /// The moment of the end of a value with this stamp, in Unix milliseconds.
    pub fn end_ms(self, stamp: Stamp) -> u64 {
        match self {
            Self::Lasts(ms) => stamp.millis().saturating_add(ms),
            Self::Ends(at_ms) => at_ms,
        }
    }
}

/// A value with its content type, or a tombstone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Payload {
    /// The key was deleted.
    Tombstone,
    /// The key was given a value.
    Value {
        /// The value as the client sent it.
        bytes: Bytes,
        /// The client's `Content-Type`, if it sent one.
        content_type: Option<String>,
    },
}

impl Sibling {
    /// A value that does not expire and has no content type.
    pub fn value(stamp: Stamp, bytes: impl Into<Bytes>) -> Self {
        let payload = Payload::Value { bytes: bytes.into(), content_type: None };
        Self { stamp, expires_ms: None, payload }
    }

    /// A tombstone.
    pub fn tombstone(stamp: Stamp) -> Self {
        Self { stamp, expires_ms: None, payload: Payload::Tombstone }
    }

    /// Whether it counts as deleted at `now_ms` (Unix milliseconds): a tombstone, or a value whose time
    /// is over. Once dead it stays dead, for a clock that does not go back.
    pub fn is_dead(&self, now_ms: u64) -> bool {
        let expired = self.expires_ms.is_some_and(|at| at <= now_ms);
        expired || self.payload == Payload::Tombstone
    }

    /// Whether a read at `now_ms` (Unix milliseconds) shows it: neither a tombstone nor expired.
    pub fn is_live(&self, now_ms: u64) -> bool {
        !self.is_dead(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_dies_at_its_time_and_a_tombstone_was_never_alive() {
        let value = Sibling::value(Stamp(1), "v");
        let short = Sibling { expires_ms: Some(10), ..value.clone() };
        assert!(!value.is_dead(u64::MAX));
        assert_eq!([9, 10, 11].map(|now| short.is_dead(now)), [false, true, true]);
        assert!(Sibling::tombstone(Stamp(1)).is_dead(0));
        assert!([9, 10].iter().all(|now| short.is_dead(*now) != short.is_live(*now)));
    }
}
