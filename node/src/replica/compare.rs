//! The keys of this replica as anti-entropy compares them: listed as digests, and what another lacks found
//! beside its digests. Bounded in keys read and in bytes answered; the messages are those of
//! [`kvasir_core::merkle`], encoded here. What all owners agreed to erase is neither listed nor sent: an
//! owner that erased it already would be given it again.

use bytes::Bytes;
use kvasir_core::merkle::respond::Matching;
use kvasir_core::merkle::{Answer, Held, Listed, PAGE_BYTES, Piece, Span};
use kvasir_core::version::Record;
use kvasir_storage::{Snapshot, TableKey};
use serde::{Serialize, de::DeserializeOwned};

use super::local::{LocalError, Replica};
use super::trees::scan;

/// Keys and bytes of values read at a time.
const PIECE: (usize, usize) = (512, 1 << 20);
/// Keys looked at for one answer.
const LOOKED_AT_MAX: usize = 8_192;

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_allocvec(message).expect("plain data of known lengths always encodes").into()
}

/// Reads a message that fills the bytes exactly.
///
/// # Errors
/// What is wrong with them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(format!("{} bytes behind the end of a message", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// The key at a place that a message names.
fn key_at(place: &Bytes) -> Result<Option<TableKey>, LocalError> {
    if place.is_empty() {
        return Ok(None);
    }
    TableKey::from_encoded(place.clone()).map(Some).map_err(|_| LocalError::Place)
}

impl Replica {
    /// The keys of some spans, at most `room` in all: spans that were not come to are missing at the end.
    ///
    /// # Errors
    /// [`LocalError::Read`]; [`LocalError::Place`] for a span that begins at no key.
    pub async fn list(
        &self,
        spans: &[Span],
        bucket: Option<&Bytes>,
        mut room: usize,
    ) -> Result<Vec<Listed>, LocalError> {
        let snapshot = self.store().snapshot();
        let mut out = Vec::new();
        for span in spans {
            if room == 0 {
                break;
            }
            let listed = self.list_one(&snapshot, span, bucket, &mut room).await?;
            let cut = listed.next.is_some();
            out.push(listed);
            if cut {
                break;
            }
        }
        Ok(out)
    }

    async fn list_one(
        &self,
        snapshot: &Snapshot,
        span: &Span,
        bucket: Option<&Bytes>,
        room: &mut usize,
    ) -> Result<Listed, LocalError> {
        let (mut from, to) = (key_at(&span.from)?, key_at(&span.to)?);
        let (mut listed, mut looked_at) = (Listed::default(), 0);
        loop {
            let range = (from.as_ref(), to.as_ref());
            let piece = scan(self.store(), snapshot, span.node, range, PIECE).await?;
            for (key, record) in piece.entries {
                if *room == 0 || looked_at == LOOKED_AT_MAX {
                    listed.next = Some(copied(&key));
                    *room = 0;
                    return Ok(listed);
                }
                looked_at += 1;
                if bucket.is_none_or(|bucket| key.bucket() == bucket)
                    && !self.leaves(&key, &record)
                    && let Some(digest) = self.trees().digest(key.as_bytes(), &record)
                {
                    *room -= 1;
                    listed.entries.push((copied(&key), digest));
                }
            }
            match piece.next {
                Some(next) => from = Some(next),
                None => return Ok(listed),
            }
        }
    }

    /// What the asker of some pieces lacks, and what is lacking here.
    ///
    /// # Errors
    /// [`LocalError::Read`]; [`LocalError::Record`] for a stored record that cannot be read;
    /// [`LocalError::Place`] for a piece that begins at no key.
    pub async fn compare(
        &self,
        pieces: &[Piece],
        bucket: Option<&Bytes>,
    ) -> Result<Answer, LocalError> {
        let snapshot = self.store().snapshot();
        let mut page = Page::default();
        for (number, piece) in (0..).zip(pieces) {
            let mut matching = Matching::new(&piece.digests);
            let cut =
                self.compare_one(&snapshot, (piece, bucket), &mut matching, &mut page).await?;
            page.wanted.extend(matching.wanted().into_iter().map(|position| (number, position)));
            if let Some(place) = cut {
                return Ok(page.answer(Some((number, place))));
            }
        }
        Ok(page.answer(None))
    }

    /// Looks through one piece; gives where the page was full.
    async fn compare_one(
        &self,
        snapshot: &Snapshot,
        (piece, bucket): (&Piece, Option<&Bytes>),
        matching: &mut Matching,
        page: &mut Page,
    ) -> Result<Option<Bytes>, LocalError> {
        let (mut from, to) = (key_at(&piece.from)?, key_at(&piece.to)?);
        loop {
            let range = (from.as_ref(), to.as_ref());
            let found = scan(self.store(), snapshot, piece.node, range, PIECE).await?;
            for (key, record) in found.entries {
                if page.is_full() {
                    return Ok(Some(copied(&key)));
                }
                page.looked_at += 1;
                if bucket.is_some_and(|bucket| key.bucket() != bucket) {
                    continue;
                }
                let digest = self.trees().digest(key.as_bytes(), &record);
                let lacks = digest.is_some_and(|digest| matching.lacks(digest));
                if lacks && !self.leaves(&key, &record) {
                    page.add(held(&key, &Record::decode_shared(&record)?.set.encode().into()));
                }
            }
            match found.next {
                Some(next) => from = Some(next),
                None => return Ok(None),
            }
        }
    }

    /// What is stored at some places; nothing for a place where nothing is.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`], [`LocalError::Place`].
    pub async fn held_at(&self, places: &[Bytes]) -> Result<Vec<(Bytes, Held)>, LocalError> {
        let mut out = Vec::new();
        for place in places {
            let Some(key) = key_at(place)? else { continue };
            let set = self.read(&key).await?;
            if !set.is_empty() {
                out.push((place.clone(), held(&key, &set.encode().into())));
            }
        }
        Ok(out)
    }
}

/// Memory of its own: a key that was read shares a block of its table.
fn copied(key: &TableKey) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn held(key: &TableKey, set: &Bytes) -> Held {
    let (bucket, name) = (Bytes::copy_from_slice(key.bucket()), Bytes::copy_from_slice(key.key()));
    Held { bucket, key: name, set: set.clone() }
}

/// An answer as it grows.
#[derive(Default)]
struct Page {
    sets: Vec<Held>,
    wanted: Vec<(u32, u32)>,
    bytes: usize,
    looked_at: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES || self.looked_at >= LOOKED_AT_MAX
    }

    fn add(&mut self, held: Held) {
        self.bytes += held.bytes();
        self.sets.push(held);
    }

    fn answer(self, cut: Option<(u32, Bytes)>) -> Answer {
        Answer::Keys { sets: self.sets, wanted: self.wanted, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasir_core::merkle::{Ask, KeyDigest, Node, Tree, respond};
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = Node> {
        (0..40_u8, any::<u32>()).prop_map(|(depth, index)| Node { depth, index: index % 3_000 })
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let places = prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
        let sums = (
            any::<u8>(),
            0..30_u8,
            0..6_u8,
            prop::collection::vec(0..70_000_u32, 0..9),
            0..40_usize,
        );
        let piece = (node(), places.clone(), places.clone(), 0..9_usize);
        let piece = piece.prop_map(|(node, from, to, digests)| Piece {
            node,
            from,
            to,
            digests: vec![KeyDigest([7; 16]); digests],
        });
        prop_oneof![
            sums.prop_map(|(bits, depth, step, parents, sums)| {
                // Often as many as they should be.
                let sums = if sums % 2 == 0 { parents.len() << step } else { sums };
                Ask::Sums { bits: bits % 32, depth, step, parents, sums: vec![[1; 8]; sums] }
            }),
            (prop::option::of(places), prop::collection::vec(piece, 0..4))
                .prop_map(|(bucket, pieces)| Ask::Keys { bucket, pieces }),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ask) = decode::<Ask>(&bytes) {
                prop_assert_eq!(decode(&encode(&ask)), Ok(ask.clone()));
                let _ = ask.check();
            }
            let _ = decode::<Answer>(&bytes);
        }

        /// Whatever a peer asks for, it is refused or answered with one verdict for each sum.
        #[test]
        fn what_is_out_of_bounds_is_refused_and_the_rest_answered(ask in ask()) {
            prop_assert_eq!(decode(&encode(&ask)), Ok(ask.clone()));
            let mut longer = encode(&ask).to_vec();
            longer.push(0);
            prop_assert!(decode::<Ask>(&longer).is_err(), "bytes behind the end");
            let answer = respond::sums(&Tree::new(16), &ask, |_| true);
            match &ask {
                Ask::Sums { sums, .. } if ask.check().is_ok() => {
                    let Ok(Answer::Sums { verdicts, .. }) = answer else { panic!("{answer:?}") };
                    prop_assert_eq!(verdicts.len(), sums.len().div_ceil(4));
                }
                _ => prop_assert!(answer.is_err()),
            }
        }
    }
}
