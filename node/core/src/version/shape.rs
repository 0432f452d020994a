//! A set without the bytes of its values, for whoever only asks which keys there are.
//!
//! Each value is replaced by its length and its hash. What decides whether a key is there, and how many
//! values it shows, is kept: dots, stamps, expiries, tombstones, content types, and which values are
//! equal. So shapes are merged and viewed by the rules of the sets that they are of.
//!
//! A shape is laid out as a set whose values have `MARK_BYTES` bytes. It is a type of its own, so that
//! none is ever stored or shown as the value.

use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::codec::CodecError;
use super::set::SiblingSet;
use super::sibling::{Payload, Sibling};
use super::view::{Group, View};

/// What stands for a value: its length (8) and its hash (16), big-endian.
const MARK_BYTES: usize = 24;

/// The shape of a set.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Shape(SiblingSet);

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({:?})", self.0)
    }
}

impl SiblingSet {
    /// This set without the bytes of its values.
    pub fn shape(&self) -> Shape {
        let marked = self.siblings().iter().map(|(dot, sibling)| (*dot, mark(sibling))).collect();
        let set = Self::from_parts(self.context().clone(), marked);
        Shape(set.expect("the dots are those of a set"))
    }
}

fn mark(sibling: &Sibling) -> Sibling {
    let payload = match &sibling.payload {
        Payload::Tombstone => Payload::Tombstone,
        Payload::Value { bytes, content_type } => {
            let mut mark = Vec::with_capacity(MARK_BYTES);
            mark.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            mark.extend_from_slice(&xxh3_128(bytes).to_be_bytes());
            Payload::Value { bytes: mark.into(), content_type: content_type.clone() }
        }
    };
    Sibling { payload, ..sibling.clone() }
}

impl Shape {
    /// Merges the shape of another replica's set: the shape of the merge of both sets.
    pub fn merge_in(&mut self, other: &Self) {
        self.0.merge_in(&other.0);
    }

    /// Which dots it holds, as a set whose values are marks.
    pub fn marks(&self) -> &SiblingSet {
        &self.0
    }

    /// What a read at `now_ms` (Unix milliseconds) would show; the values in it are marks.
    pub fn view(&self, now_ms: u64) -> View<'_> {
        self.0.view(now_ms)
    }

    /// As [`Self::view`], for a last-write-wins bucket.
    pub fn latest_view(&self, now_ms: u64) -> View<'_> {
        self.0.latest_view(now_ms)
    }

    /// The set of this shape, with the values that `sets` hold under its dots. `None` where one is missing.
    pub fn filled(&self, sets: &[SiblingSet]) -> Option<SiblingSet> {
        let dots = self.0.siblings().keys();
        let found = dots.map(|dot| {
            let sibling = sets.iter().find_map(|set| set.siblings().get(dot))?;
            Some((*dot, sibling.clone()))
        });
        SiblingSet::from_parts(self.0.context().clone(), found.collect::<Option<_>>()?)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not exactly what [`Self::encode`] writes for some shape.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let set = SiblingSet::decode(bytes)?;
        let is_mark = |sibling: &Sibling| match &sibling.payload {
            Payload::Tombstone => true,
            Payload::Value { bytes, .. } => bytes.len() == MARK_BYTES,
        };
        match set.siblings().values().all(is_mark) {
            true => Ok(Self(set)),
            false => Err(CodecError::NotCanonical("a shape holds something else than marks")),
        }
    }
}

/// Bytes of the value that a group of a shape's view stands for.
pub fn value_bytes(group: &Group<'_>) -> u64 {
    let mark = |bytes: &Bytes| bytes.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b));
    match &group.sibling.payload {
        Payload::Value { bytes, .. } => mark(bytes),
        Payload::Tombstone => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, Context, Stamp};
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = SiblingSet> {
        let write = (0u64..4, 1u64..4);
        prop::collection::vec(write, 0..6).prop_map(|writes| {
            let mut set = SiblingSet::new();
            for (tag, count) in writes {
                let dot = Actor { tag, serial: 0 }.dot(count);
                let stamp = Stamp::from_millis(tag * 7 + count);
                // One dot names one write: what it wrote follows from it alone. Some values are equal.
                let mut sibling = match tag {
                    0 => Sibling::tombstone(stamp),
                    _ => Sibling::value(stamp, vec![count as u8; count as usize]),
                };
                sibling.expires_ms = (tag == 1).then_some(9 + count);
                set.merge_in(&SiblingSet::delta(Context::new(), dot, sibling));
            }
            set
        })
    }

    fn shown(view: &View<'_>, bytes: impl Fn(&Group<'_>) -> u64) -> Vec<(String, u64)> {
        view.groups.iter().map(|group| (group.vtag().to_string(), bytes(group))).collect()
    }

    fn real(group: &Group<'_>) -> u64 {
        match &group.sibling.payload {
            Payload::Value { bytes, .. } => bytes.len() as u64,
            Payload::Tombstone => 0,
        }
    }

    proptest! {
        #[test]
        fn a_shape_shows_what_its_set_shows_and_merges_as_it_does(a in set(), b in set(), now in 0u64..20) {
            prop_assert_eq!(shown(&a.shape().view(now), value_bytes), shown(&a.view(now), real));
            let latest = a.shape();
            prop_assert_eq!(
                shown(&latest.latest_view(now), value_bytes),
                shown(&a.latest_view(now), real)
            );
            let mut merged = a.shape();
            merged.merge_in(&b.shape());
            let both = a.merge(&b);
            prop_assert_eq!(merged.marks().context(), both.context());
            prop_assert_eq!(&merged, &both.shape());
            prop_assert_eq!(merged.filled(&[a.clone(), b.clone()]).map(|set| set.shape()), Some(merged.clone()));
            prop_assert_eq!(Shape::decode(&merged.encode()), Ok(merged));
        }
    }

    #[test]
    fn a_set_is_no_shape_and_a_missing_value_is_not_made_up() {
        let dot = Actor { tag: 1, serial: 1 }.dot(1);
        let value = Sibling::value(Stamp::from_millis(1), "milk");
        let set = SiblingSet::delta(Context::new(), dot, value);
        assert!(Shape::decode(&set.encode()).is_err());
        assert_eq!(set.shape().filled(&[SiblingSet::new()]), None);
        assert_eq!(set.shape().filled(std::slice::from_ref(&set)), Some(set));
    }
}
