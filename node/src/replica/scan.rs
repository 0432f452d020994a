//! A piece of what one replica holds of a bucket, from a place of its order on, for a list.
//!
//! The store is sorted by hash first, so the keys of a bucket lie between those of all others: looking
//! for them costs reading what lies there, whatever its bucket. A piece therefore ends after a number of
//! entries looked at, not only after a number of rows, and says how far it came.
//!
//! Invariants: a piece holds every key of the bucket between its beginning and its end, as one moment had
//! it; it always comes further than where it began. A record that does not decode fails the piece: it is
//! never left out.

use bytes::Bytes;
use kvasir_core::list::Place;
use kvasir_core::version::{Record, SiblingSet};
use kvasir_storage::{Store, TableKey};
use tokio::time::Instant;

use super::local::LocalError;
use super::standins::unstamped;

/// Entries of one look into the store, and their bytes: what is in memory is answered without a reader.
const LOOK: (usize, usize) = (128, 64 << 10);
/// Looks of one piece.
const LOOKS_MAX: usize = 128;

/// What is looked for, and how much of it is wanted at once.
#[derive(Debug, Clone)]
pub struct Range {
    /// The bucket.
    pub bucket: Bytes,
    /// What its keys begin with; may be empty.
    pub prefix: Bytes,
    /// Where to begin.
    pub from: Place,
    /// The first hash behind the range; none at the end of the ring.
    pub end: Option<u64>,
    /// Rows, at least one.
    pub rows: usize,
    /// Bytes of the rows, as `weigh` counts them; the first row may exceed them.
    pub bytes: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<T> {
    /// The keys, rising, and what was made of what is held under each.
    pub rows: Vec<(Place, T)>,
    /// Where to go on; none at the end of the range.
    pub next: Option<Place>,
}

/// Looks through a store for a piece of a range. `make` turns what is held under a key into a row and
/// says how many bytes that has. Ends early at `until`.
///
/// # Errors
/// [`LocalError::Read`], [`LocalError::Record`].
pub async fn piece<T>(
    store: &Store,
    range: &Range,
    until: Instant,
    make: impl Fn(SiblingSet) -> (T, usize),
) -> Result<Piece<T>, LocalError> {
    let snapshot = store.snapshot();
    let end = range.end.map(TableKey::first_of);
    let mut at = TableKey::new(range.from.hash, &range.bucket, &range.from.key);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for looks in 1.. {
        let chunk = store.scan(&snapshot, &at, end.as_ref(), LOOK.0, LOOK.1).await?;
        for (key, value) in &chunk.entries {
            if key.bucket() != range.bucket || !key.key().starts_with(&range.prefix) {
                continue;
            }
            let place = Place::of(key.hash(), key.key());
            if rows.len() >= range.rows || (bytes >= range.bytes && !rows.is_empty()) {
                return Ok(Piece { rows, next: Some(place) });
            }
            let (row, weight) = make(Record::decode_shared(&unstamped(value).1)?.set);
            bytes += weight + key.key().len();
            rows.push((place, row));
        }
        let Some(next) = chunk.next else { break };
        if looks >= LOOKS_MAX || Instant::now() >= until {
            return Ok(Piece { rows, next: place_in(range, &next) });
        }
        at = next;
        tokio::task::yield_now().await;
    }
    Ok(Piece { rows, next: None })
}

/// The place in the order of a bucket that a key of any bucket stands for; none behind the range.
fn place_in(range: &Range, key: &TableKey) -> Option<Place> {
    let order = |bucket: &[u8]| (bucket.len(), bucket.to_vec());
    let place = match order(key.bucket()).cmp(&order(&range.bucket)) {
        std::cmp::Ordering::Less => Some(Place::at_hash(key.hash())),
        std::cmp::Ordering::Equal => Some(Place::of(key.hash(), key.key())),
        std::cmp::Ordering::Greater => Place::behind_hash(key.hash()),
    };
    place.filter(|place| range.end.is_none_or(|end| place.hash < end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvasir_core::version::{Actor, Context, Sibling, Stamp};
    use kvasir_storage::{Durability, MemoryDisk, NoObserver, StoreOptions, Threads};

    use super::*;

    async fn put(store: &Store, hash: u64, bucket: &str, key: &str) {
        let dot = Actor { tag: 1, serial: 0 }.dot(1);
        let sibling = Sibling::value(Stamp::from_millis(1), key.to_owned());
        let record = Record::merged(SiblingSet::delta(Context::new(), dot, sibling));
        let key = TableKey::new(hash, bucket.as_bytes(), key.as_bytes());
        store.put(&key, record.encode().into(), Durability::Memory).await.unwrap();
    }

    fn open() -> Arc<Store> {
        let threads = Arc::new(Threads::start(1).unwrap());
        let disk = Arc::new(MemoryDisk::new());
        Store::open(StoreOptions::new("store"), disk, threads, Arc::new(NoObserver)).unwrap()
    }

    /// Every key of a range, by pieces of so many rows and bytes; each piece ends early where `hurried`.
    async fn all(store: &Store, mut range: Range, hurried: bool) -> (Vec<(u64, String)>, usize) {
        let (mut keys, mut pieces) = (Vec::new(), 0);
        loop {
            let until = Instant::now() + std::time::Duration::from_secs(u64::from(!hurried) * 60);
            let piece = piece(store, &range, until, |set| ((), set.encode().len())).await.unwrap();
            let key = |place: Place| (place.hash, String::from_utf8(place.key.to_vec()).unwrap());
            keys.extend(piece.rows.into_iter().map(|(place, ())| key(place)));
            pieces += 1;
            let Some(next) = piece.next else { return (keys, pieces) };
            assert!(next > range.from, "it goes on");
            range.from = next;
        }
    }

    fn range(bucket: &'static str, rows: usize) -> Range {
        let (bucket, prefix) = (Bytes::from_static(bucket.as_bytes()), Bytes::new());
        Range { bucket, prefix, from: Place::START, end: None, rows, bytes: 1 << 20 }
    }

    #[tokio::test]
    async fn a_bucket_is_found_between_the_others_however_it_is_cut() {
        let store = open();
        let mut own = Vec::new();
        for hash in (0..600).chain([u64::MAX - 1, u64::MAX]) {
            // Shorter, equal and longer names, before and behind the bucket's own keys.
            for bucket in ["a", "bb", "bc", "ccc"] {
                put(&store, hash, bucket, &format!("{bucket}-{hash}")).await;
            }
            if hash % 3 == 0 {
                put(&store, hash, "bb", "x/second").await;
            }
        }
        for hash in (0..600).chain([u64::MAX - 1, u64::MAX]) {
            own.push((hash, format!("bb-{hash}")));
            if hash % 3 == 0 {
                own.push((hash, "x/second".to_string()));
            }
        }
        for rows in [1, 7, 10_000] {
            for hurried in [false, true] {
                assert_eq!(
                    all(&store, range("bb", rows), hurried).await.0,
                    own,
                    "{rows} {hurried}"
                );
            }
        }
        let (none, pieces) = all(&store, range("b", 10), true).await;
        assert!(none.is_empty() && pieces > 3, "{pieces} pieces say how far they came");
        let some = Range { prefix: Bytes::from_static(b"x/"), end: Some(300), ..range("bb", 9) };
        assert_eq!(all(&store, some, true).await.0.len(), 100);
    }

    #[tokio::test]
    async fn bytes_bound_a_piece_and_a_broken_record_fails_it() {
        let store = open();
        for hash in 0..20 {
            put(&store, hash, "b", &"k".repeat(1_000)).await;
        }
        let (keys, pieces) = all(&store, Range { bytes: 5_000, ..range("b", 100) }, false).await;
        assert_eq!((keys.len(), pieces), (20, 7), "three of 2,000 bytes each");
        let broken = TableKey::new(7, b"b", b"broken");
        store.put(&broken, Bytes::from_static(b"?"), Durability::Memory).await.unwrap();
        let until = Instant::now() + std::time::Duration::from_secs(60);
        let failed = piece(&store, &range("b", 100), until, |_| ((), 0)).await;
        assert!(matches!(failed, Err(LocalError::Record(_))));
    }
}
