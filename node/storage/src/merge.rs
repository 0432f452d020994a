//! Several sorted runs read as one: keys ascending, for each key the newest version first.
//!
//! Used by scans (memtables and tables) and by compaction (tables). Invariant: the output is sorted
//! by (key, sequence descending) if every input is; two inputs never hold the same version.

use crate::error::ReadError;
use crate::memtable::Version;
use crate::table::head_of;
use bytes::Bytes;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A key and one version of it.
pub(crate) type Item = (Bytes, Version);

/// A sorted run.
pub(crate) type Run = Box<dyn Iterator<Item = Result<Item, ReadError>> + Send>;

struct Head {
    /// The first bytes of the key as a number: decides most comparisons without touching the key.
    head: u64,
    item: Item,
    run: usize,
}

impl Head {
    fn new(item: Item, run: usize) -> Self {
        Self { head: head_of(&item.0), item, run }
    }

    fn rank(&self) -> (&Bytes, Reverse<u64>, usize) {
        (&self.item.0, Reverse(self.item.1.sequence), self.run)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| self.rank().cmp(&other.rank()))
    }
}

/// The merged run. After an error it ends.
pub(crate) struct Merge {
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<Head>>,
    failed: Option<ReadError>,
}

impl Merge {
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        let mut merge = Self { heads: BinaryHeap::new(), failed: None, runs };
        for run in 0..merge.runs.len() {
            merge.pull(run);
        }
        merge
    }

    fn pull(&mut self, run: usize) {
        match self.runs[run].next() {
            Some(Ok(item)) => self.heads.push(Reverse(Head::new(item, run))),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }

    /// Only the newest version of each key, erasures included, seen from `sequence`: changes
    /// after it do not count.
    pub(crate) fn newest(self, sequence: u64) -> impl Iterator<Item = Result<Item, ReadError>> {
        let mut last: Option<Bytes> = None;
        self.filter(move |item| match item {
            Err(_) => true,
            Ok((key, version)) => {
                let fresh = version.sequence <= sequence && last.as_ref() != Some(key);
                if fresh {
                    last = Some(key.clone());
                }
                fresh
            }
        })
    }
}

impl Iterator for Merge {
    type Item = Result<Item, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            self.runs.clear();
            return Some(Err(error));
        }
        // The next of the same run takes the place of the first: one walk down the heap, and mostly a
        // short one, where taking out and putting in would be two.
        let mut first = self.heads.peek_mut()?;
        let run = first.0.run;
        let item = match self.runs[run].next() {
            Some(Ok(next)) => std::mem::replace(&mut first.0, Head::new(next, run)).item,
            ended => {
                self.failed = ended.and_then(Result::err);
                PeekMut::pop(first).0.item
            }
        };
        Some(Ok(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn run(items: BTreeMap<(u8, Reverse<u64>), Option<u8>>) -> Run {
        Box::new(items.into_iter().map(|((key, Reverse(sequence)), value)| {
            let value = value.map(|byte| Bytes::from(vec![byte]));
            Ok((Bytes::from(vec![key]), Version { sequence, value }))
        }))
    }

    proptest! {
        #[test]
        fn runs_merge_like_one_map(
            changes in prop::collection::vec((0..6u8, prop::option::of(any::<u8>()), 0..4usize), 0..60),
            cut in 0..60u64,
        ) {
            let (mut runs, mut model) = (vec![BTreeMap::new(); 4], BTreeMap::new());
            for (sequence, (key, value, into)) in changes.iter().enumerate() {
                let sequence = sequence as u64 + 1;
                runs[*into].insert((*key, Reverse(sequence)), *value);
                if sequence <= cut {
                    model.insert(*key, (sequence, *value));
                }
            }
            let merged = Merge::new(runs.into_iter().map(run).collect());
            let found: BTreeMap<u8, _> = merged
                .newest(cut)
                .map(|item| item.unwrap())
                .map(|(key, v)| (key[0], (v.sequence, v.value.map(|bytes| bytes[0]))))
                .collect();
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn an_error_ends_it() {
        let good: Run = run(BTreeMap::from([((1, Reverse(1)), None), ((3, Reverse(3)), None)]));
        let bad: Run = Box::new([Err(ReadError::Abandoned)].into_iter());
        let all: Vec<_> = Merge::new(vec![good, bad]).collect();
        assert_eq!(all, [Err(ReadError::Abandoned)]);
    }
}
