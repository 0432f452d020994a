//! Ranges of keys, each with a sequence number: which changes of a range no longer hold.
//!
//! Used for range drops (every change of the range up to the number is gone) and for what was lost
//! with a quarantined table (every change of the range up to the number may be missing). Invariant:
//! spans are ascending, disjoint, not empty, and carry a number above 0; neighbours that touch differ
//! in their number. So the size is bounded by the number of distinct borders, however often the same
//! ranges are named again.

use bytes::Bytes;

/// One range, `from` included, `to` excluded; `to` `None` is the end of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Bytes,
    pub(crate) to: Option<Bytes>,
    pub(crate) sequence: u64,
}

/// Ranges with their numbers. Cheap to ask, rebuilt to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    /// Takes spans as stored; `None` if they break the invariant.
    pub(crate) fn from_sorted(spans: Vec<Span>) -> Option<Self> {
        let sound = spans
            .iter()
            .all(|span| span.sequence > 0 && span.to.as_ref().is_none_or(|to| *to > span.from));
        let apart = spans.windows(2).all(|pair| {
            pair[0].to.as_ref().is_some_and(|to| {
                *to < pair[1].from || (*to == pair[1].from && pair[0].sequence != pair[1].sequence)
            })
        });
        (sound && apart).then_some(Self(spans))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }

    /// The number of the range that holds a key, 0 if none does.
    pub(crate) fn at(&self, key: &[u8]) -> u64 {
        let behind = self.0.partition_point(|span| span.from.as_ref() <= key);
        match behind.checked_sub(1).map(|at| &self.0[at]) {
            Some(span) if span.to.as_ref().is_none_or(|to| key < to.as_ref()) => span.sequence,
            _ => 0,
        }
    }

    /// The highest number of all.
    pub(crate) fn highest(&self) -> u64 {
        self.0.iter().map(|span| span.sequence).max().unwrap_or(0)
    }

    /// These, with the number of `[from, to)` at least `sequence`. An empty range changes nothing.
    #[must_use]
    pub(crate) fn raised(&self, from: &Bytes, to: Option<&Bytes>, sequence: u64) -> Self {
        if sequence == 0 || to.is_some_and(|to| to <= from) {
            return self.clone();
        }
        let span = Span { from: from.clone(), to: to.cloned(), sequence };
        self.combined(&Self(vec![span]), u64::max)
    }

    /// These without the parts for which `newer` has a number at least as high.
    #[must_use]
    pub(crate) fn without_older_than(&self, newer: &Self) -> Self {
        self.combined(newer, |mine, other| if other >= mine { 0 } else { mine })
    }

    /// Only the spans that are wanted.
    #[must_use]
    pub(crate) fn retained(&self, wanted: impl Fn(&Span) -> bool) -> Self {
        Self(self.0.iter().filter(|span| wanted(span)).cloned().collect())
    }

    /// Whether every key in `first..=last` lies in a range with a number above `sequence`.
    pub(crate) fn cover(&self, first: &[u8], last: &[u8], sequence: u64) -> bool {
        let behind = self.0.partition_point(|span| span.from.as_ref() <= first);
        let Some(start) = behind.checked_sub(1) else { return false };
        if self.at(first) <= sequence {
            return false;
        }
        let mut end: Option<&Bytes> = Some(&self.0[start].from);
        for span in &self.0[start..] {
            if end != Some(&span.from) || span.sequence <= sequence {
                return false;
            }
            end = span.to.as_ref();
            if end.is_none_or(|end| last < end.as_ref()) {
                return true;
            }
        }
        false
    }

    fn combined(&self, other: &Self, rule: impl Fn(u64, u64) -> u64) -> Self {
        let ends = |span: &'_ Span| std::iter::once(span.from.clone()).chain(span.to.clone());
        let mut borders: Vec<Bytes> = self.0.iter().chain(&other.0).flat_map(ends).collect();
        borders.sort();
        borders.dedup();
        let mut out: Vec<Span> = Vec::new();
        for (at, from) in borders.iter().enumerate() {
            let (to, sequence) =
                (borders.get(at + 1).cloned(), rule(self.at(from), other.at(from)));
            match out.last_mut() {
                _ if sequence == 0 => {}
                Some(last) if last.to.as_ref() == Some(from) && last.sequence == sequence => {
                    last.to = to;
                }
                _ => out.push(Span { from: from.clone(), to, sequence }),
            }
        }
        Self(out)
    }
}

impl Span {
    /// Whether the span meets the keys `first..=last`.
    pub(crate) fn meets(&self, first: &[u8], last: &[u8]) -> bool {
        self.from.as_ref() <= last && self.to.as_ref().is_none_or(|to| first < to.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8) -> Bytes {
        Bytes::from(vec![number])
    }

    proptest! {
        #[test]
        fn they_are_a_map_from_keys_to_numbers(
            raises in prop::collection::vec((0..12u8, prop::option::of(0..12u8), 0..9u64), 0..12),
            newer in prop::collection::vec((0..12u8, prop::option::of(0..12u8), 0..9u64), 0..6),
            hull in (0..12u8, 0..12u8, 0..9u64),
        ) {
            let build = |raises: &[(u8, Option<u8>, u64)]| {
                let (mut spans, mut model) = (Spans::default(), [0u64; 14]);
                for (from, to, sequence) in raises {
                    spans = spans.raised(&bytes(*from), to.map(bytes).as_ref(), *sequence);
                    for key in *from..to.unwrap_or(14) {
                        model[usize::from(key)] = model[usize::from(key)].max(*sequence);
                    }
                }
                (spans, model)
            };
            let ((spans, model), (newer, newer_model)) = (build(&raises), build(&newer));
            let cut = spans.without_older_than(&newer);
            for key in 0..14u8 {
                let (mine, other) = (model[usize::from(key)], newer_model[usize::from(key)]);
                prop_assert_eq!(spans.at(&[key]), mine);
                prop_assert_eq!(cut.at(&[key]), if other >= mine { 0 } else { mine });
            }
            prop_assert_eq!(Spans::from_sorted(spans.0.clone()), Some(spans.clone()));
            let (first, last, sequence) = hull;
            if first <= last {
                let all = (first..=last).all(|key| model[usize::from(key)] > sequence);
                prop_assert_eq!(spans.cover(&[first], &[last], sequence), all);
                let any = (first..=last).any(|key| model[usize::from(key)] > 0);
                prop_assert_eq!(spans.iter().any(|span| span.meets(&[first], &[last])), any);
            }
        }
    }

    #[test]
    fn what_breaks_the_invariant_is_refused() {
        let span = |from, to: Option<u8>, sequence| Span {
            from: bytes(from),
            to: to.map(bytes),
            sequence,
        };
        for bad in [
            vec![span(1, Some(2), 0)],
            vec![span(2, Some(2), 1)],
            vec![span(1, None, 1), span(3, None, 2)],
            vec![span(1, Some(3), 1), span(2, None, 2)],
            vec![span(1, Some(3), 1), span(3, None, 1)],
        ] {
            assert_eq!(Spans::from_sorted(bad.clone()), None, "{bad:?}");
        }
    }
}
