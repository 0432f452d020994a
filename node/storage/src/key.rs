//! The key under which a value is stored: `hash u64 BE | bucket length u8 | bucket | key`.
//!
//! Byte order is (hash, bucket, key), so that a partition of the ring (an arc of hashes) is one
//! contiguous range of every table and of the memtable. The engine never interprets the parts; it
//! only compares bytes. Accessors exist for the caller, who does.

use bytes::Bytes;
use std::fmt;

/// Bytes before the bucket: the hash and the bucket's length.
const HEAD_BYTES: usize = 9;

/// An encoded key. Invariant: at least 9 bytes, and the bucket length byte lies within the rest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableKey(Bytes);

/// The bytes given are not an encoded key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a table key: {length} bytes, shorter than its head says")]
pub struct MalformedKey {
    /// Length of the bytes refused.
    pub length: usize,
}

impl TableKey {
    /// Encodes a key. `bucket` longer than 255 bytes is cut to 255: callers check limits first.
    pub fn new(hash: u64, bucket: &[u8], key: &[u8]) -> Self {
        debug_assert!(bucket.len() <= 255, "bucket names are at most 255 bytes");
        let bucket = &bucket[..bucket.len().min(255)];
        let mut bytes = Vec::with_capacity(HEAD_BYTES + bucket.len() + key.len());
        bytes.extend_from_slice(&hash.to_be_bytes());
        bytes.push(bucket.len() as u8);
        bytes.extend_from_slice(bucket);
        bytes.extend_from_slice(key);
        Self(Bytes::from(bytes))
    }

    /// Takes encoded bytes, as read back from a file. Error: too short for what its head says.
    pub fn from_encoded(bytes: Bytes) -> Result<Self, MalformedKey> {
        let malformed = MalformedKey { length: bytes.len() };
        match bytes.get(HEAD_BYTES - 1) {
            Some(bucket) if bytes.len() >= HEAD_BYTES + usize::from(*bucket) => Ok(Self(bytes)),
            _ => Err(malformed),
        }
    }

    /// The smallest key at or behind any bytes that keys are compared with (a bound between two keys may
    /// be shorter than a key): no key lies between.
    pub(crate) fn first_from(bound: &[u8]) -> Self {
        let mut bytes = bound.to_vec();
        bytes.resize(bytes.len().max(HEAD_BYTES), 0);
        bytes.resize(bytes.len().max(HEAD_BYTES + usize::from(bytes[HEAD_BYTES - 1])), 0);
        Self(bytes.into())
    }

    /// The smallest key of a hash: a bound for ranges, not a key that can be stored by a client.
    pub fn first_of(hash: u64) -> Self {
        Self::new(hash, b"", b"")
    }

    /// The encoded bytes, in storage order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The encoded bytes, shared.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// The ring hash.
    pub fn hash(&self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(head)
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &[u8] {
        &self.0[HEAD_BYTES..HEAD_BYTES + usize::from(self.0[HEAD_BYTES - 1])]
    }

    /// The client's key within the bucket.
    pub fn key(&self) -> &[u8] {
        &self.0[HEAD_BYTES + usize::from(self.0[HEAD_BYTES - 1])..]
    }
}

impl fmt::Debug for TableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bucket, key) = (self.bucket().escape_ascii(), self.key().escape_ascii());
        write!(f, "{:016x}/{bucket}/{key}", self.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_come_back_and_order_is_hash_bucket_key(
            a in (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)),
            b in (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)),
        ) {
            let (x, y) = (TableKey::new(a.0, &a.1, &a.2), TableKey::new(b.0, &b.1, &b.2));
            prop_assert_eq!((x.hash(), x.bucket(), x.key()), (a.0, &a.1[..], &a.2[..]));
            prop_assert_eq!(TableKey::from_encoded(x.encoded().clone()), Ok(x.clone()));
            let model = (a.0, a.1.len(), &a.1, &a.2).cmp(&(b.0, b.1.len(), &b.1, &b.2));
            prop_assert_eq!(x.cmp(&y), model);
        }
    }

    #[test]
    fn no_key_lies_between_a_bound_and_the_first_key_from_it() {
        for bound in [&b""[..], b"\x01\x02", b"12345678", b"12345678\x03b", b"12345678\x01bk"] {
            let first = TableKey::first_from(bound);
            assert_eq!(TableKey::from_encoded(first.encoded().clone()), Ok(first.clone()));
            assert!(first.as_bytes() >= bound && first.as_bytes().starts_with(bound));
            assert!(first.as_bytes()[bound.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn short_bytes_are_refused() {
        assert!(TableKey::from_encoded(Bytes::from_static(b"12345678")).is_err());
        assert!(TableKey::from_encoded(Bytes::from_static(b"12345678\x02b")).is_err());
    }
}
