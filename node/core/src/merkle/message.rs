//! What two nodes say to each other about their trees. The shell encodes it.
//!
//! Each message is bounded: sums by [`SUMS_MAX`], digests by [`DIGESTS_MAX`], sets by [`PAGE_BYTES`] except
//! that a single larger set travels alone. What a peer sends is checked here before anything is done with
//! it.

use super::digest::KeyDigest;
use super::place::{BITS_MAX, BITS_MIN, Node};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Most sums in a message.
pub const SUMS_MAX: usize = 8_192;
/// Most pieces of the key space in a message.
pub const PIECES_MAX: usize = 256;
/// Most digests of keys in a message.
pub const DIGESTS_MAX: usize = 8_192;
/// Sets in a message end after so many bytes.
pub const PAGE_BYTES: usize = 256 << 10;
/// Most bits between a node and the sums sent for it.
pub const STEP_MAX: u8 = 4;

/// What one side says of the sums of a node that the other sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// They are equal.
    Equal,
    /// They differ.
    Differs,
    /// They differ, and there seems to be nothing here.
    Empty,
    /// This side cannot vouch for its sums, or does not own the node.
    Unknown,
}

impl Verdict {
    /// All of them, by the number that travels.
    pub const ALL: [Self; 4] = [Self::Equal, Self::Differs, Self::Empty, Self::Unknown];
}

/// One key with all that is stored under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The bucket.
    pub bucket: Bytes,
    /// The key.
    pub key: Bytes,
    /// The canonical set.
    pub set: Bytes,
}

impl Held {
    /// Bytes that it takes in a message.
    pub fn bytes(&self) -> usize {
        self.bucket.len() + self.key.len() + self.set.len() + 16
    }
}

/// A piece of the key space and the digests of every key that the asker holds in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The subtree that it is a part of.
    pub node: Node,
    /// The first place in it; empty: where the node begins.
    pub from: Bytes,
    /// The first place behind it; empty: where the node ends.
    pub to: Bytes,
    /// In the order of their places.
    pub digests: Vec<KeyDigest>,
}

/// A question of the side that compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Which of these sums are equal there?
    Sums {
        /// How deep the tree of the asker is.
        bits: u8,
        /// Depth of the parents.
        depth: u8,
        /// For each parent the sums of all nodes so many bits below it.
        step: u8,
        /// Indexes of the parents.
        parents: Vec<u32>,
        /// The sums, little-endian, parent by parent.
        sums: Vec<[u8; 8]>,
    },
    /// What is there that is not among these digests, and which of these are not there? All pieces lie in
    /// one partition, the one that the request names.
    Keys {
        /// Only keys of this bucket.
        bucket: Option<Bytes>,
        /// Where to look.
        pieces: Vec<Piece>,
    },
    /// Merge these. All of them lie in one partition, the one that the request names.
    Store {
        /// The sets.
        sets: Vec<Held>,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Sums`].
    Sums {
        /// How deep the tree of the answering side is.
        bits: u8,
        /// Two bits for each sum, the first in the lowest bits.
        verdicts: Bytes,
    },
    /// To [`Ask::Keys`].
    Keys {
        /// What the asker lacks or holds otherwise.
        sets: Vec<Held>,
        /// Digests that are not held here, by piece and position.
        wanted: Vec<(u32, u32)>,
        /// From this piece and place on nothing was looked at: ask again.
        cut: Option<(u32, Bytes)>,
    },
    /// To [`Ask::Store`]: all of it is stored and synced.
    Stored {
        /// Which of the sets changed something, by position.
        changed: Vec<u32>,
        /// How long to wait before sending more, in milliseconds.
        pause_ms: u64,
    },
}

/// A message breaks its bounds. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

fn refuse_unless(good: bool, what: &'static str) -> Result<(), Malformed> {
    if good { Ok(()) } else { Err(Malformed(what)) }
}

impl Ask {
    /// Checks all bounds of a question from outside.
    ///
    /// # Errors
    /// [`Malformed`]: refuse it.
    pub fn check(&self) -> Result<(), Malformed> {
        match self {
            Self::Sums { bits, depth, step, parents, sums } => {
                refuse_unless((BITS_MIN..=BITS_MAX).contains(bits), "bits of a tree")?;
                let deep = *step <= STEP_MAX && depth.saturating_add(*step) <= *bits;
                refuse_unless(deep, "sums below the leaves, or too many for a node")?;
                let whole = sums.len() == parents.len() << step;
                refuse_unless(whole && sums.len() <= SUMS_MAX, "number of sums")?;
                let valid = |index: &u32| Node { depth: *depth, index: *index }.is_valid();
                refuse_unless(parents.iter().all(valid), "a node that cannot be")
            }
            Self::Keys { bucket, pieces } => {
                let bucket = bucket.as_ref().is_none_or(|b| (1..=255).contains(&b.len()));
                refuse_unless(bucket, "a bucket name has 1 to 255 bytes")?;
                refuse_unless(pieces.len() <= PIECES_MAX, "number of pieces")?;
                let digests: usize = pieces.iter().map(|piece| piece.digests.len()).sum();
                refuse_unless(digests <= DIGESTS_MAX, "number of digests")?;
                refuse_unless(pieces.iter().all(Piece::is_sound), "a piece outside its node")
            }
            Self::Store { .. } => Ok(()),
        }
    }
}

impl Piece {
    fn is_sound(&self) -> bool {
        let inside = |place: &Bytes| place.is_empty() || self.node.holds(place);
        self.node.is_valid() && inside(&self.from) && inside(&self.to)
    }
}

/// Writes verdicts, two bits each.
pub(super) fn pack(verdicts: impl Iterator<Item = Verdict>) -> Bytes {
    let mut out = Vec::new();
    for (at, verdict) in verdicts.enumerate() {
        if at % 4 == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= (verdict as u8) << (2 * (at % 4));
        }
    }
    out.into()
}

/// Reads verdicts.
///
/// # Errors
/// There are not exactly `count` of them.
pub(super) fn unpack(bytes: &[u8], count: usize) -> Result<Vec<Verdict>, Malformed> {
    refuse_unless(bytes.len() == count.div_ceil(4), "number of verdicts")?;
    let verdict = |at: usize| Verdict::ALL[usize::from(bytes[at / 4] >> (2 * (at % 4)) & 3)];
    Ok((0..count).map(verdict).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_come_back_and_their_number_is_checked() {
        let verdicts = [0, 1, 2, 3, 1, 0, 3].map(|at| Verdict::ALL[at]);
        let packed = pack(verdicts.into_iter());
        assert_eq!(packed.len(), 2);
        assert_eq!(unpack(&packed, 7), Ok(verdicts.to_vec()));
        assert!(unpack(&packed, 9).is_err() && unpack(&packed, 4).is_err());
        assert_eq!(unpack(&[], 0), Ok(vec![]));
    }

    #[test]
    fn questions_out_of_bounds_are_refused() {
        let sums = |bits, depth, step, parents: Vec<u32>, sums| {
            Ask::Sums { bits, depth, step, parents, sums: vec![[0; 8]; sums] }.check()
        };
        assert_eq!(sums(20, 6, 2, vec![63], 4), Ok(()));
        assert!(sums(27, 6, 2, vec![63], 4).is_err(), "a tree too deep");
        assert!(sums(20, 19, 2, vec![63], 4).is_err(), "below the leaves");
        assert!(sums(20, 255, 2, vec![63], 4).is_err(), "below the leaves");
        assert!(sums(20, 6, 5, vec![63], 32).is_err(), "too wide");
        assert!(sums(20, 6, 2, vec![64], 4).is_err(), "no such node");
        assert!(sums(20, 6, 2, vec![63], 3).is_err(), "a sum is missing");
        assert!(sums(20, 16, 0, vec![1; SUMS_MAX + 1], SUMS_MAX + 1).is_err(), "too many");
        let node = Node { depth: 8, index: 1 };
        let keys = |piece: Piece, count, bucket: Option<&'static str>| {
            Ask::Keys { bucket: bucket.map(Bytes::from), pieces: vec![piece; count] }.check()
        };
        let whole = Piece { node, from: Bytes::new(), to: Bytes::new(), digests: vec![] };
        assert_eq!(keys(whole.clone(), PIECES_MAX, Some("b")), Ok(()));
        assert!(keys(whole.clone(), PIECES_MAX + 1, None).is_err());
        assert!(keys(whole.clone(), 1, Some("")).is_err());
        let digests = vec![KeyDigest([0; 16]); DIGESTS_MAX / 2 + 1];
        assert!(keys(Piece { digests, ..whole.clone() }, 2, None).is_err());
        let elsewhere = super::super::place(2 << 56, b"b", b"k");
        assert!(keys(Piece { from: elsewhere, ..whole }, 1, None).is_err());
    }
}
