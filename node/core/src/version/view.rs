//! How a set is shown to a client.
//!
//! Tombstones and expired siblings are not shown. Live siblings equal in value, content type and
//! expiry are shown as one, so a blind retry of a write shows no conflict; all their dots stay in
//! the token, so the next write supersedes them all.
//!
//! Each group has a short id, its [`Vtag`], by which a client asks for one sibling of several, and
//! the whole view has an [`Etag`] for conditional requests. Both are derived from dots, which name
//! writes for good: the same group has the same id on every replica.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::dot::Dot;
use super::set::SiblingSet;
use super::sibling::{Payload, Sibling};
use super::stamp::Stamp;

/// Short id of one shown sibling: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vtag(u64);

/// Changes whenever what is shown of a set changes: 16 hexadecimal digits, without the quotes that
/// HTTP puts around them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag(u64);

/// The text is not 16 lower-case hexadecimal digits. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 16 lower-case hexadecimal digits")]
pub struct InvalidTag;

/// One value as shown: all live siblings with equal value, content type and expiry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group<'a> {
    /// The dots of its siblings, in order; never empty.
    pub dots: Vec<Dot>,
    /// The newest stamp among its siblings.
    pub stamp: Stamp,
    /// One of its siblings; they differ only in their stamps.
    pub sibling: &'a Sibling,
}

/// What a read shows at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View<'a> {
    /// The shown values, newest first. None: the key is absent. More than one: a conflict.
    pub groups: Vec<Group<'a>>,
}

impl SiblingSet {
    /// What a read at `now_ms` (Unix milliseconds) shows of this set.
    pub fn view(&self, now_ms: u64) -> View<'_> {
        let mut groups: BTreeMap<(&Payload, Option<u64>), Group<'_>> = BTreeMap::new();
        for (dot, sibling) in self.live(now_ms) {
            let group = groups.entry((&sibling.payload, sibling.expires_ms));
            let group = group.or_insert(Group { dots: vec![], stamp: sibling.stamp, sibling });
            group.dots.push(dot);
            group.stamp = group.stamp.max(sibling.stamp);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by(|a, b| b.stamp.cmp(&a.stamp).then_with(|| a.dots.cmp(&b.dots)));
        View { groups }
    }
}

impl View<'_> {
    /// The id of this view, or `None` if nothing is shown.
    pub fn etag(&self) -> Option<Etag> {
        let mut dots: Vec<Dot> = self.groups.iter().flat_map(|g| g.dots.iter().copied()).collect();
        dots.sort_unstable();
        (!dots.is_empty()).then(|| Etag::of(&dots))
    }

    /// The group that `vtag` names. An id that was shown for a group goes on naming it while any
    /// sibling that it was derived from is live, whatever joined the group since.
    pub fn find(&self, vtag: Vtag) -> Option<&Group<'_>> {
        self.groups.iter().find(|group| group.dots.iter().any(|dot| Vtag::of(dot) == vtag))
    }
}

impl Group<'_> {
    /// The id of this group.
    pub fn vtag(&self) -> Vtag {
        Vtag::of(&self.dots[0])
    }
}

impl Vtag {
    fn of(dot: &Dot) -> Self {
        Self(xxh3_64(&bytes_of(dot)))
    }
}

impl Etag {
    /// The id of a view that shows exactly the siblings with these dots, given in order.
    pub fn of(dots: &[Dot]) -> Self {
        let mut hash = Xxh3::new();
        for dot in dots {
            hash.update(&bytes_of(dot));
        }
        Self(hash.digest())
    }
}

fn bytes_of(dot: &Dot) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&dot.actor.tag.to_be_bytes());
    bytes[8..16].copy_from_slice(&dot.actor.serial.to_be_bytes());
    bytes[16..].copy_from_slice(&dot.count.to_be_bytes());
    bytes
}

macro_rules! sixteen_hex_digits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = InvalidTag;

            fn from_str(text: &str) -> Result<Self, InvalidTag> {
                let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() != 16 || !text.bytes().all(digit) {
                    return Err(InvalidTag);
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| InvalidTag)
            }
        }
    };
}

sixteen_hex_digits!(Vtag);
sixteen_hex_digits!(Etag);
