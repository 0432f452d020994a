//! A point in the order of a bucket's keys: by hash, then by key.
//!
//! A hash fixes the partition whatever the ring is cut into, so a place means the same after a doubling.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Stands for the first key at or behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The hash of a key.
    pub hash: u64,
    /// Among keys of one hash, the key; empty before all of them. At most one byte longer than a key.
    pub key: Bytes,
}

impl Place {
    /// Before every key.
    pub const START: Self = Self { hash: 0, key: Bytes::new() };

    /// Right before a key, or where it would be.
    pub fn of(hash: u64, key: &[u8]) -> Self {
        Self { hash, key: Bytes::copy_from_slice(key) }
    }

    /// Before every key of a hash.
    pub const fn at_hash(hash: u64) -> Self {
        Self { hash, key: Bytes::new() }
    }

    /// Right behind this place, so that the key of it is left out.
    #[must_use]
    pub fn after(&self) -> Self {
        Self { hash: self.hash, key: [&self.key[..], &[0]].concat().into() }
    }

    /// Behind every key of a hash; `None` behind the last of all.
    pub fn behind_hash(hash: u64) -> Option<Self> {
        hash.checked_add(1).map(Self::at_hash)
    }

    /// How much of the ring lies before it: 0 to 1.
    pub fn share(&self) -> f64 {
        self.hash as f64 / (u64::MAX as f64 + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_between_a_key_and_the_place_behind_it() {
        let key = Place::of(7, b"a");
        let after = key.after();
        assert!(key < after);
        assert!(after <= Place::of(7, b"a\0") && after < Place::of(7, b"aa"));
        assert!(after < Place::behind_hash(7).unwrap());
        assert_eq!(Place::behind_hash(u64::MAX), None);
        assert!(Place::START < Place::of(0, b"a"));
        assert_eq!(Place::at_hash(1 << 63).share(), 0.5);
    }
}
