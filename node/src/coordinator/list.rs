//! A page of a list: the keys of a bucket from a place on, in the order of their hashes.
//!
//! The list runs along the ring, partition by partition. In each, as many owners are asked as the level
//! needs, for what they hold from the place on; their pages are merged up to where all of them looked
//! (`kvasir_core::list`). An owner that fails or is slow is replaced by another, an owner that is down by
//! a stand-in where the request is sloppy. Owners of neighbouring partitions are chosen in one order, so
//! that few nodes are asked. Where partitions hold little of the bucket, several are looked at at once.
//!
//! With values, one owner sends its sets and the others shapes; a key of which the first lacks something
//! is read like any other. Without values nothing is repaired: a list costs little per key.
//!
//! Invariants: a page holds every key up to its end that the owners asked hold, each once, and what is
//! kept in memory for it is bounded by its own bounds, whatever the bucket holds. Nothing is remembered
//! between two pages: the cursor says where to go on.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use kvasir_core::list::{Cursor, Listed, Place};
use kvasir_core::quorum::Level;
use kvasir_core::ring::{Mode, Partition};
use kvasir_core::version::{Shape, SiblingSet, View, shape};
use tokio::time::Instant;

use super::Coordinate;
use super::plan::Plan;
use super::request::{CoordinateError, Showing};
use super::sweep::{Found, Sweep};
use crate::replica::View as ClusterView;

/// Bytes of values after which a page ends.
const PAGE_BYTES: usize = 4 << 20;
/// Most keys of a page.
pub const PAGE_KEYS_MAX: usize = 10_000;
/// Partitions that are looked at at once where they hold little.
const AHEAD_MAX: usize = 8;
/// Keys whose values are read one by one at once, where what the owners sent lacks something.
const READS: usize = 16;

/// List the keys of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// What the keys begin with, at most 4,096 bytes; may be empty.
    pub prefix: Bytes,
    /// Where to go on: the cursor of the page before. Absent = at the beginning.
    pub cursor: Option<String>,
    /// Most keys of the page, 1 to [`PAGE_KEYS_MAX`].
    pub limit: usize,
    /// Whether [`ListedKey::set`] is wanted.
    pub values: bool,
    /// Replicas that must answer in each partition; the bucket's setting where absent.
    pub r: Option<Level>,
    /// Whether stand-ins may answer for owners that are down; the bucket's setting where absent.
    pub sloppy: Option<bool>,
    /// When the client stops waiting. The page ends after half of the time if it has come further by then.
    pub deadline: Instant,
}

/// A key that is there: at least one live value is shown under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// The key.
    pub key: Bytes,
    /// What is stored under it, without its values.
    pub shape: Shape,
    /// What is stored under it, where values were asked for.
    pub set: Option<SiblingSet>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPage {
    /// Keys in the order of their hashes. There may be fewer than asked for, or none, and more behind them.
    pub keys: Vec<ListedKey>,
    /// How to show them.
    pub showing: Showing,
    /// The cursor of the next page; none at the end of the bucket.
    pub next: Option<String>,
    /// How much of the ring lies before the next page: 0 to 1.
    pub progress: f64,
    /// The fewest replicas that held the same of a key of this page, or answered where there is none.
    pub agreed: u32,
    /// Replicas of a key by the cluster document (N).
    pub replicas: u32,
    /// Most stand-ins that answered in the place of owners, in any partition.
    pub standins: u32,
    /// The coordinator's wall clock in Unix milliseconds, by which expiry was judged.
    pub now_ms: u64,
}

impl ListedKey {
    /// Live values that are shown, equal ones as one, and their bytes.
    pub fn counts(&self, showing: Showing, now_ms: u64) -> (usize, u64) {
        let groups = viewed(&self.shape, showing, now_ms).groups;
        (groups.len(), groups.iter().map(shape::value_bytes).sum())
    }
}

fn viewed(shape: &Shape, showing: Showing, now_ms: u64) -> View<'_> {
    match showing {
        Showing::Siblings => shape.view(now_ms),
        Showing::LastWriteWins => shape.latest_view(now_ms),
    }
}

/// Lists a page of a bucket.
///
/// # Errors
/// See [`CoordinateError`]; nothing was changed. What was found before a later partition failed is a page
/// of its own.
pub async fn list(this: &Coordinate, request: &ListRequest) -> Result<ListPage, CoordinateError> {
    let view = this.views.load();
    let from = start(&view, request)?;
    let mut gathering = Gathering::new(this, request, &view, from)?;
    let half = Instant::now() + request.deadline.saturating_duration_since(Instant::now()) / 2;
    while let Some(at) = gathering.at.clone() {
        if gathering.is_full() || (gathering.moved && Instant::now() >= half) {
            break;
        }
        if let Err(error) = gathering.round(&at).await {
            // What was found is a page; whoever asks for the next one meets the failure.
            if gathering.moved {
                break;
            }
            return Err(error);
        }
    }
    Ok(gathering.page(&view))
}

fn cursor<'a>(view: &'a ClusterView, request: &'a ListRequest) -> Option<Cursor<'a>> {
    let formed = view.formed.as_ref()?;
    Some(Cursor {
        key: &formed.token_key,
        cluster: formed.ring.document().cluster_id,
        bucket: &request.bucket,
        prefix: &request.prefix,
    })
}

fn start(view: &ClusterView, request: &ListRequest) -> Result<Place, CoordinateError> {
    let Some(text) = &request.cursor else { return Ok(Place::START) };
    let cursor = cursor(view, request).ok_or(CoordinateError::NotFormed)?;
    cursor.decode(text).map_err(|e| CoordinateError::BadCursor { reason: e.to_string() })
}

/// A page under way.
struct Gathering<'a> {
    this: &'a Coordinate,
    request: &'a ListRequest,
    sweep: Sweep<'a>,
    showing: Showing,
    /// Where the next round begins; none at the end of the ring.
    at: Option<Place>,
    /// Whether it is further than where the page began.
    moved: bool,
    /// Partitions that the next round looks at.
    ahead: usize,
    keys: Vec<ListedKey>,
    bytes: usize,
    agreed: u32,
    replicas: u32,
    standins: u32,
    now_ms: u64,
}

impl<'a> Gathering<'a> {
    fn new(
        this: &'a Coordinate,
        request: &'a ListRequest,
        view: &ClusterView,
        from: Place,
    ) -> Result<Self, CoordinateError> {
        let formed = view.formed.as_ref().ok_or(CoordinateError::NotFormed)?;
        let document = formed.ring.document();
        let settings = document.settings(&request.bucket);
        let replicas = document.replication.values().sum();
        let level = request.r.unwrap_or(settings.r);
        let sloppy = request.sloppy.unwrap_or(settings.sloppy);
        Ok(Self {
            this,
            request,
            sweep: Sweep { this, request, level, sloppy },
            showing: match settings.mode {
                Mode::Siblings => Showing::Siblings,
                Mode::LastWriteWins => Showing::LastWriteWins,
            },
            at: Some(from),
            moved: false,
            ahead: 1,
            keys: Vec::new(),
            bytes: 0,
            agreed: replicas,
            replicas,
            standins: 0,
            now_ms: this.replica.now_ms(),
        })
    }

    fn is_full(&self) -> bool {
        self.keys.len() >= self.request.limit || self.bytes >= PAGE_BYTES
    }

    /// Looks at the next partitions, and takes what they hold in their order.
    async fn round(&mut self, at: &Place) -> Result<(), CoordinateError> {
        let (rows, sweep) = (self.request.limit - self.keys.len(), self.sweep);
        let partitions: Vec<_> =
            (0..self.ahead).map_while(|number| self.partition(at, number)).collect();
        let pieces = partitions.into_iter().map(|(plan, from)| async move {
            let piece = sweep.piece(plan?, &from, rows).await;
            piece.map(|(plan, found)| (from, plan, found))
        });
        let pieces = join_all(pieces).await;
        let mut sparse = true;
        for piece in pieces {
            let (from, plan, found) = piece?;
            // The ring may have been cut anew since the round began.
            if self.at.as_ref() != Some(&from) {
                break;
            }
            sparse &= found.next.is_none() && found.keys.len() * 4 <= rows;
            let unfinished = found.next.is_some();
            self.take(&plan, found).await?;
            if unfinished || self.is_full() {
                break;
            }
        }
        self.ahead = if sparse { (self.ahead * 2).min(AHEAD_MAX) } else { 1 };
        Ok(())
    }

    /// The plan of the partition `number` places behind that of `at`, and where to begin in it.
    fn partition(
        &self,
        at: &Place,
        number: usize,
    ) -> Option<(Result<Plan, CoordinateError>, Place)> {
        let view = self.this.views.load();
        let bits = view.formed.as_ref().map_or(0, |f| f.ring.document().partition_bits);
        let first = Partition::of(at.hash, bits);
        let index = first.index.checked_add(number as u32)?;
        let partition = Partition { index, ..first };
        if !partition.is_valid() {
            return None;
        }
        let from = if number == 0 { at.clone() } else { Place::at_hash(partition.range().0) };
        Some((Plan::of_partition(view, &self.request.bucket, partition), from))
    }

    /// Takes the keys that are there, until the page is full, and notes where to go on.
    async fn take(&mut self, plan: &Rc<Plan>, found: Found) -> Result<(), CoordinateError> {
        let Found { keys, next, mut sets, answered, standins } = found;
        self.standins = self.standins.max(standins);
        self.agreed = self.agreed.min(answered);
        let (showing, now_ms) = (self.showing, self.now_ms);
        let shown = |key: &Listed| !viewed(&key.shape, showing, now_ms).groups.is_empty();
        let (sweep, values) = (self.sweep, self.request.values);
        let filled = keys.into_iter().filter(shown).map(|key| {
            let own = sets.remove(&key.at).unwrap_or_default();
            async move {
                let set = if values { Some(sweep.value(&key, &own).await?) } else { None };
                Ok::<_, CoordinateError>((key, set))
            }
        });
        let mut filled = stream::iter(filled).buffered(READS);
        let mut place = next.or_else(|| Place::behind_hash(plan.route.partition.range().1));
        while let Some(key) = filled.next().await {
            let (key, set) = key?;
            if self.is_full() {
                place = Some(key.at);
                break;
            }
            self.agreed = self.agreed.min(key.agreed);
            self.add(key, set);
        }
        self.moved = true;
        self.at = place;
        Ok(())
    }

    fn add(&mut self, key: Listed, set: Option<SiblingSet>) {
        let shape = set.as_ref().map_or(key.shape, SiblingSet::shape);
        let listed = ListedKey { key: key.at.key, shape, set };
        let (count, bytes) = listed.counts(self.showing, self.now_ms);
        // It may be gone since the page was seen.
        if count > 0 {
            self.bytes += if self.request.values { bytes as usize } else { 0 };
            self.keys.push(listed);
        }
    }

    fn page(self, view: &ClusterView) -> ListPage {
        let cursor = cursor(view, self.request);
        let next = self.at.as_ref().zip(cursor).map(|(place, cursor)| cursor.encode(place));
        ListPage {
            progress: self.at.as_ref().map_or(1.0, Place::share),
            keys: self.keys,
            showing: self.showing,
            next,
            agreed: self.agreed,
            replicas: self.replicas,
            standins: self.standins,
            now_ms: self.now_ms,
        }
    }
}
