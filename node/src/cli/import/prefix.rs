//! How far an import has come: the lines that were acknowledged without a gap before them.
//!
//! Lines are sent out of order and acknowledged in any order, but an import can only resume at one
//! place. That place is the end of the longest run of acknowledged lines from the start. Whatever
//! was acknowledged after a gap is sent again, which is harmless: it is the same value.
//!
//! Invariant: every line before [`Prefix::place`] was acknowledged or was blank.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A place in a file, between two lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Lines before it.
    pub lines: u64,
    /// Bytes before it.
    pub bytes: u64,
    /// Pairs acknowledged before it: lines without the blank ones.
    pub pairs: u64,
}

/// The acknowledged prefix, and what was acknowledged beyond it.
#[derive(Debug, Clone, Default)]
pub struct Prefix {
    place: Place,
    /// By line number (the first is 0): bytes up to the end of the line, and whether it held a pair.
    beyond: BTreeMap<u64, (u64, bool)>,
}

impl Prefix {
    /// A prefix that begins at this place.
    pub fn at(place: Place) -> Self {
        Self { place, beyond: BTreeMap::new() }
    }

    /// Where to resume.
    pub fn place(&self) -> Place {
        self.place
    }

    /// How many lines were acknowledged after a gap.
    pub fn beyond(&self) -> usize {
        self.beyond.len()
    }

    /// Notes that a line is dealt with: `line` counts from 0, `end` is the number of bytes up to
    /// the end of it, `pair` says whether it held something to store. Noting it twice is harmless.
    pub fn done(&mut self, line: u64, end: u64, pair: bool) {
        if line < self.place.lines {
            return;
        }
        self.beyond.insert(line, (end, pair));
        while let Some((bytes, pair)) = self.beyond.remove(&self.place.lines) {
            self.place.lines += 1;
            self.place.bytes = bytes;
            self.place.pairs += u64::from(pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_place_waits_for_the_gap() {
        let mut prefix = Prefix::default();
        prefix.done(1, 20, true);
        prefix.done(2, 21, false);
        assert_eq!((prefix.place(), prefix.beyond()), (Place::default(), 2));
        prefix.done(0, 10, true);
        assert_eq!((prefix.place(), prefix.beyond()), (Place { lines: 3, bytes: 21, pairs: 2 }, 0));
        prefix.done(1, 20, true);
        assert_eq!(prefix.place().lines, 3);
    }

    proptest! {
        /// Against the simplest oracle: a flag per line.
        #[test]
        fn the_place_is_the_first_gap(order in Just((0..40u64).collect::<Vec<_>>()).prop_shuffle(),
                                      acknowledged in 0..40usize) {
            let mut prefix = Prefix::default();
            let mut flags = [false; 40];
            for line in order.into_iter().take(acknowledged) {
                prefix.done(line, (line + 1) * 7, line % 3 != 0);
                flags[line as usize] = true;
                let gap = flags.iter().position(|done| !done).unwrap_or(40) as u64;
                let pairs = (0..gap).filter(|line| line % 3 != 0).count() as u64;
                prop_assert_eq!(prefix.place(), Place { lines: gap, bytes: gap * 7, pairs });
                let beyond = flags.iter().filter(|done| **done).count() - gap as usize;
                prop_assert_eq!(prefix.beyond(), beyond);
            }
        }
    }
}
