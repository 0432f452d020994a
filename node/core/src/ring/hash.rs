//! The hash that places a key on the ring.
//!
//! xxh3-64, seeded with the cluster's seed, over (bucket length as one byte, bucket, key). The
//! length byte keeps ("ab", "c") and ("a", "bc") apart. The algorithm is frozen: a different answer
//! for the same bytes would lose every stored key.

use xxhash_rust::xxh3::Xxh3;

/// Point of the ring for a key: the partition is its top bits, tables are sorted by it.
///
/// `bucket` is 1 to 255 bytes; a longer one is cut off by the single length byte, so callers check
/// the limit first (every request path does).
pub fn key_hash(seed: u64, bucket: &[u8], key: &[u8]) -> u64 {
    debug_assert!(bucket.len() <= 255, "bucket names have at most 255 bytes");
    let mut state = Xxh3::with_seed(seed);
    state.update(&[bucket.len() as u8]);
    state.update(bucket);
    state.update(key);
    state.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Frozen answers: these may never change, or stored keys move.
    #[test]
    fn the_hash_is_frozen() {
        let answers = [
            key_hash(0, b"default", b"a"),
            key_hash(1, b"default", b"a"),
            key_hash(0xfeed_beef, b"b", b""),
        ];
        assert_eq!(answers, FROZEN);
    }
    const FROZEN: [u64; 3] =
        [10_042_724_260_111_569_522, 6_234_300_905_905_226_421, 13_019_485_057_101_102_559];

    proptest! {
        #[test]
        fn one_shot_and_streaming_agree(
            seed: u64,
            bucket in prop::collection::vec(any::<u8>(), 1..40),
            key in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut whole = vec![bucket.len() as u8];
            whole.extend_from_slice(&bucket);
            whole.extend_from_slice(&key);
            prop_assert_eq!(
                key_hash(seed, &bucket, &key),
                xxhash_rust::xxh3::xxh3_64_with_seed(&whole, seed)
            );
        }

        #[test]
        fn the_border_between_bucket_and_key_counts(text in prop::collection::vec(any::<u8>(), 3..20)) {
            let a = key_hash(7, &text[..1], &text[1..]);
            let b = key_hash(7, &text[..2], &text[2..]);
            prop_assert_ne!(a, b);
        }
    }
}
