//! Tells a request that arrives a second time on its connection from a new one.
//!
//! Working on a forwarded write twice would mint two dots for it, and a client's token covers only one:
//! the other would come back as a sibling after the value was overwritten. Request ids rise by one on a
//! connection, and frames may overtake each other, so a window of ids is kept as bits, as receivers that
//! guard against replay do (RFC 6479). What is older than the window counts as seen: it is not worked on,
//! and whoever asked does not learn its outcome.

/// Ids that are told apart; more than a connection may have in work.
const WINDOW: u64 = 8_192;

/// The ids that one connection has brought.
#[derive(Debug)]
pub struct Repeats {
    highest: Option<u64>,
    seen: Box<[u64]>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { highest: None, seen: vec![0; (WINDOW / 64) as usize].into() }
    }
}

impl Repeats {
    /// Whether a request of this id has not come before. It has from now on.
    pub fn is_new(&mut self, id: u64) -> bool {
        match self.highest {
            Some(highest) if id <= highest => {
                if highest - id >= WINDOW {
                    return false;
                }
            }
            highest => {
                let next = highest.map_or(0, |highest| highest + 1);
                for passed in next.max(id.saturating_sub(WINDOW - 1))..=id {
                    let (word, bit) = place(passed);
                    self.seen[word] &= !bit;
                }
                self.highest = Some(id);
            }
        }
        let (word, bit) = place(id);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }
}

fn place(id: u64) -> (usize, u64) {
    ((id % WINDOW / 64) as usize, 1 << (id % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_new_once_and_never_when_it_is_too_old() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_new(1) && repeats.is_new(3) && repeats.is_new(2));
        assert!(!repeats.is_new(1) && !repeats.is_new(2) && !repeats.is_new(3));
        assert!(repeats.is_new(WINDOW * 5), "a jump");
        assert!(!repeats.is_new(4), "too old to be told");
        assert!(repeats.is_new(WINDOW * 5 - WINDOW + 1));
        assert!(repeats.is_new(u64::MAX) && !repeats.is_new(u64::MAX));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_ids(steps in prop::collection::vec(0_u64..3_000, 1..300)) {
            let (mut repeats, mut all, mut front) = (Repeats::default(), BTreeSet::new(), 0_u64);
            for step in steps {
                // Mostly forward, now and then back within the window.
                let id = if step % 3 == 0 { front.saturating_sub(step) } else { front + step / 10 };
                front = front.max(id);
                prop_assert_eq!(repeats.is_new(id), all.insert(id), "{}", id);
            }
        }
    }
}
