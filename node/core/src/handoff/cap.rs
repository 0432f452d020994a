//! What a stand-in still takes. A cap refuses growth, never what is already held.

/// A bound in bytes on something that is held entry by entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Most bytes held.
    pub max_bytes: u64,
}

impl Cap {
    /// Whether an entry may become `after` bytes long that was `before` (0: it was not there), while
    /// `held` bytes are held in all, `before` among them. What does not grow is always taken: a
    /// tombstone over a value, or the same delta once more.
    pub const fn takes(self, held: u64, before: u64, after: u64) -> bool {
        after <= before || held.saturating_sub(before).saturating_add(after) <= self.max_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Any history of writes and deletions stays below the cap.
        #[test]
        fn the_cap_is_never_passed(
            max_bytes in 0_u64..100,
            steps in prop::collection::vec((0_u8..6, 0_u64..40), 0..60),
        ) {
            let cap = Cap { max_bytes };
            let mut held: BTreeMap<u8, u64> = BTreeMap::new();
            for (key, after) in steps {
                let (all, before) = (held.values().sum(), held.get(&key).copied().unwrap_or(0));
                if cap.takes(all, before, after) {
                    held.insert(key, after);
                } else {
                    prop_assert!(all - before + after > max_bytes && after > before);
                }
                prop_assert!(held.values().sum::<u64>() <= max_bytes);
            }
        }
    }
}
