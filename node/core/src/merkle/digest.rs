//! What a key with everything stored under it adds to its leaf.
//!
//! XXH3-128 under a secret that all members of a cluster share and nobody else knows. Without the secret
//! nobody can choose keys or values whose digests cancel each other in the XOR of a leaf. The fast hash is
//! enough for that, since no digest ever leaves the cluster; a cryptographic one would cost each write
//! more than all else that trees do. A small set is hashed in one piece: a stream costs as much again for
//! its state, and each write makes up to two digests.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_secret};

/// Bytes of an XXH3 secret.
const SECRET_BYTES: usize = 192;
/// What is hashed in one piece: up to here XXH3 keeps no state.
const SMALL_BYTES: usize = 240;

/// The digest of one key and the set stored under it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KeyDigest(pub [u8; 16]);

impl KeyDigest {
    /// What it adds to its leaf.
    pub fn leaf(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// The key of the digests of one cluster.
#[derive(Clone)]
pub struct TreeKey {
    secret: Box<[u8; SECRET_BYTES]>,
    fingerprint: u64,
}

impl fmt::Debug for TreeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeKey({:016x})", self.fingerprint)
    }
}

impl TreeKey {
    /// The key that belongs to a secret of the cluster.
    pub fn new(cluster_secret: &[u8]) -> Self {
        let block = |number: u8| {
            let hash = Sha256::new().chain_update(b"kvasir tree").chain_update([number]);
            hash.chain_update(cluster_secret).finalize()
        };
        let mut secret = Box::new([0; SECRET_BYTES]);
        for (number, part) in (0..).zip(secret.chunks_mut(32)) {
            part.copy_from_slice(&block(number));
        }
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&block(u8::MAX)[..8]);
        Self { secret, fingerprint: u64::from_le_bytes(fingerprint) }
    }

    /// Tells keys apart, and tells nothing of them.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The digest of a key, named by its place (see [`super::place`]), with its canonical set.
    pub fn digest(&self, place: &[u8], set: &[u8]) -> KeyDigest {
        let length = (place.len() as u32).to_le_bytes();
        let (key_at, set_at) = (length.len(), length.len() + place.len());
        let end = set_at + set.len();
        if end > SMALL_BYTES {
            return self.digest_in_pieces([&length, place, set]);
        }
        let mut whole = [0; SMALL_BYTES];
        whole[..key_at].copy_from_slice(&length);
        whole[key_at..set_at].copy_from_slice(place);
        whole[set_at..end].copy_from_slice(set);
        KeyDigest(xxh3_128_with_secret(&whole[..end], &*self.secret).to_le_bytes())
    }

    fn digest_in_pieces(&self, pieces: [&[u8]; 3]) -> KeyDigest {
        let mut hash = Xxh3::with_secret(*self.secret);
        pieces.into_iter().for_each(|piece| hash.update(piece));
        KeyDigest(hash.digest128().to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_so_does_the_key() {
        let (key, other) = (TreeKey::new(b"one"), TreeKey::new(b"two"));
        let digests = [
            key.digest(b"place", b"set"),
            key.digest(b"places", b"et"),
            key.digest(b"place", b"sets"),
            key.digest(b"Place", b"set"),
            other.digest(b"place", b"set"),
        ];
        let leaves: std::collections::BTreeSet<u64> = digests.iter().map(|d| d.leaf()).collect();
        assert_eq!(leaves.len(), digests.len());
        assert_eq!(key.digest(b"place", b"set"), TreeKey::new(b"one").digest(b"place", b"set"));
        assert_ne!(key.fingerprint(), other.fingerprint());
    }

    /// What lies on disks was hashed in pieces.
    #[test]
    fn one_piece_or_several_make_the_same_digest() {
        let (key, bytes) = (TreeKey::new(b"one"), [7; 600]);
        for place in [1, 30, 235, 236, 300] {
            for set in (0..8).chain(190..260).chain([600]) {
                let (place, set) = (&bytes[..place], &bytes[..set]);
                let length = (place.len() as u32).to_le_bytes();
                let pieces = key.digest_in_pieces([&length, place, set]);
                assert_eq!(key.digest(place, set), pieces, "{} and {}", place.len(), set.len());
            }
        }
    }
}
