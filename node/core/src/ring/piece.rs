//! The checksum of a piece of a copy that moves: from where its source read it to where it is merged.
//!
//! Frames have checksums of their own; this one also covers what happens to the entries between the store
//! and the frame on both sides. xxh3-64 over each part with its length: against accidents, not forgery.

use xxhash_rust::xxh3::Xxh3;

/// The checksum over entries in their order and where the next piece begins.
pub fn checksum<'a>(
    entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    next: Option<&[u8]>,
) -> u64 {
    let mut hasher = Xxh3::new();
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    };
    for (key, set) in entries {
        add(key);
        add(set);
    }
    match next {
        // A key is never empty, so that these two differ.
        Some(next) => add(next),
        None => add(&[]),
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(entries: &[(Vec<u8>, Vec<u8>)], next: Option<&[u8]>) -> u64 {
        checksum(entries.iter().map(|(key, set)| (&key[..], &set[..])), next)
    }

    #[test]
    fn where_a_part_ends_counts() {
        let split = |at: usize| vec![(b"abcd"[..at].to_vec(), b"abcd"[at..].to_vec())];
        let sums: std::collections::BTreeSet<u64> =
            (0..=4).map(|at| of(&split(at), None)).collect();
        assert_eq!(sums.len(), 5);
        assert_ne!(of(&split(2), None), of(&split(2), Some(b"x")));
        assert_ne!(of(&[], None), of(&split(2), None));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_shows(
            mut entries in prop::collection::vec((
                prop::collection::vec(any::<u8>(), 1..20),
                prop::collection::vec(any::<u8>(), 1..20),
            ), 1..5),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let before = of(&entries, None);
            let entry = at.index(entries.len());
            entries[entry].1[0] ^= 1 << bit;
            prop_assert_ne!(of(&entries, None), before);
        }
    }
}
