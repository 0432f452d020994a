//! One partition of a list: as many of its owners as the level needs say what they hold from a place on.
//!
//! The story is that of a read (`get`), with pages in the place of sets: the next owner is asked when one
//! fails, all others when those that were asked are slow, stand-ins in the seats of owners that are given
//! up. With values, one of them sends its sets and the others shapes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::list::{Listed, Page, Place, Row, merge};
use kvasir_core::quorum::{Level, Tally};
use kvasir_core::ring::Partition;
use kvasir_core::version::{CodecError, Shape, SiblingSet};
use tokio::time::Instant;

use super::fanout::{Answers, Failure, shared_cause};
use super::list::ListRequest;
use super::plan::Plan;
use super::put::{late, reached};
use super::request::{CoordinateError, GetRequest};
use super::seats::{LOOK, Seats};
use super::{Coordinate, get};
use crate::peer::{Reply, Request, Scan, Scanned};
use crate::replica::{LocalError, scan};

/// Bytes of rows that one replica sends at once.
const PIECE_BYTES: u32 = 256 << 10;
/// How long the owners asked may be silent before all others are asked too.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a partition is tried: its owners may just have changed.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How the partitions of one list are looked at.
#[derive(Clone, Copy)]
pub(super) struct Sweep<'a> {
    pub this: &'a Coordinate,
    pub request: &'a ListRequest,
    pub level: Level,
    pub sloppy: bool,
}

/// What the owners of one partition hold together, from a place on.
pub(super) struct Found {
    /// Rising.
    pub keys: Vec<Listed>,
    /// Where to go on; none at the end of the partition.
    pub next: Option<Place>,
    /// The sets that some of them sent, where values were asked for.
    pub sets: BTreeMap<Place, Vec<SiblingSet>>,
    /// How many were counted.
    pub answered: u32,
    /// How many of these were stand-ins.
    pub standins: u32,
}

/// What one replica sent: its page, and the sets behind it if they were asked for.
struct Seen {
    page: Page,
    sets: Vec<(Place, SiblingSet)>,
}

impl Sweep<'_> {
    /// What a partition holds from a place on, and by which plan it was asked: a newer one where the
    /// owners changed meanwhile.
    pub async fn piece(
        self,
        plan: Plan,
        from: &Place,
        rows: usize,
    ) -> Result<(Rc<Plan>, Found), CoordinateError> {
        let (mut plan, mut tries) = (Rc::new(plan), 1);
        loop {
            let error = match self.gather(&plan, from, rows).await {
                Err(error @ CoordinateError::QuorumNotReached { .. }) => error,
                Err(error) => return Err(error),
                Ok(found) => return Ok((plan, found)),
            };
            let again = Instant::now() + PAUSE;
            if tries >= TRIES || again >= self.request.deadline {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep_until(again).await;
            let view = self.this.views.load();
            let formed = view.formed.as_ref().ok_or(CoordinateError::NotFormed)?;
            let partition = formed.ring.document().partition_of(from.hash);
            plan = Rc::new(Plan::of_partition(view.clone(), &plan.bucket, partition)?);
        }
    }

    /// Asks owners, and stand-ins in their seats, until the level is reached; merges what they hold.
    async fn gather(
        self,
        plan: &Rc<Plan>,
        from: &Place,
        rows: usize,
    ) -> Result<Found, CoordinateError> {
        let deadline = self.request.deadline;
        let mut tally = plan.read_tally(self.level)?;
        let mut seats = Seats::open(plan, self.sloppy);
        let mut answers: Answers<Seen> = Answers::until(deadline);
        let (waiting, asked) = (self.this.learned.order(plan), Vec::new());
        let mut asking = Asking { sweep: self, plan, from, rows, waiting, asked, whole: None };
        asking.enough(&tally, &answers);
        let (mut seen, mut failures) = (Vec::new(), Vec::new());
        let (mut hurried, mut wake) = (false, Instant::now() + PATIENCE);
        loop {
            for node in seats.call(&mut tally)? {
                asking.send(node, true, &answers);
            }
            match reached(&tally, false) {
                Ok(true) => return Ok(found(seen, tally.stand_in_acks().count())),
                Ok(false) => {}
                Err(error) => return Err(shared_cause(&failures, false).unwrap_or(error)),
            }
            match answers.next(deadline.min(wake)).await {
                Some((node, Ok(page))) => {
                    tally.ack(node)?;
                    seen.push(page);
                }
                Some((node, Err(why))) => {
                    tally.fail(node)?;
                    seats.failed(node, &why);
                    failures.push(why);
                    asking.whole = asking.whole.filter(|whole| *whole != node);
                    asking.enough(&tally, &answers);
                }
                None if Instant::now() >= deadline => return Err(late(&tally, false)),
                None => {
                    if std::mem::replace(&mut hurried, true) {
                        seats.look(&self.this.views.load(), &mut tally)?;
                    } else {
                        asking.hurry(&tally, &answers);
                    }
                    wake = Instant::now() + LOOK;
                }
            }
        }
    }

    /// The set behind a shape: out of what owners sent, else by a read of the key.
    pub async fn value(
        self,
        key: &Listed,
        sent: &[SiblingSet],
    ) -> Result<SiblingSet, CoordinateError> {
        if let Some(set) = key.shape.filled(sent) {
            return Ok(set);
        }
        let request = GetRequest {
            bucket: self.request.bucket.clone(),
            key: key.at.key.clone(),
            r: Some(self.level),
            sloppy: Some(self.sloppy),
            deadline: self.request.deadline,
        };
        Ok(get::get(self.this, request).await?.set)
    }
}

fn found(seen: Vec<Seen>, standins: usize) -> Found {
    let answered = seen.len() as u32;
    let (mut pages, mut sets) = (Vec::new(), BTreeMap::<Place, Vec<SiblingSet>>::new());
    for one in seen {
        pages.push(one.page);
        one.sets.into_iter().for_each(|(at, set)| sets.entry(at).or_default().push(set));
    }
    let (keys, next) = merge(pages);
    Found { keys, next, sets, answered, standins: standins as u32 }
}

/// The replicas of one piece: who is asked next, and for what.
struct Asking<'a> {
    sweep: Sweep<'a>,
    plan: &'a Rc<Plan>,
    from: &'a Place,
    rows: usize,
    waiting: Vec<NodeId>,
    asked: Vec<NodeId>,
    /// Who was asked for its sets and has not failed.
    whole: Option<NodeId>,
}

impl Asking<'_> {
    /// Asks as many as it takes if all of them answer, beside those that were asked and have not failed.
    fn enough(&mut self, tally: &Tally, answers: &Answers<Seen>) {
        while let Some(next) = tally.next_to_ask(&self.asked, &self.waiting) {
            self.ask(next, answers);
        }
    }

    /// Asks all others that the level may still want, one of them for its sets: the one that was to send
    /// them may be the slow one.
    fn hurry(&mut self, tally: &Tally, answers: &Answers<Seen>) {
        self.whole = None;
        while let Some(next) = self.waiting.iter().copied().find(|node| tally.wants(*node)) {
            self.ask(next, answers);
        }
    }

    fn ask(&mut self, node: NodeId, answers: &Answers<Seen>) {
        self.waiting.retain(|other| *other != node);
        self.asked.push(node);
        self.send(node, false, answers);
    }

    fn send(&mut self, node: NodeId, stand_in: bool, answers: &Answers<Seen>) {
        let request = self.sweep.request;
        let values = request.values && self.whole.is_none();
        if values {
            self.whole = Some(node);
        }
        let scan = Scan {
            bucket: request.bucket.clone(),
            prefix: request.prefix.clone(),
            from: self.from.clone(),
            values,
            stand_in,
            rows: self.rows as u32,
            bytes: PIECE_BYTES,
        };
        let (this, plan) = (self.sweep.this.clone(), self.plan.clone());
        let deadline = request.deadline;
        answers.ask(node, async move { this.scan_there(&plan, node, scan, deadline).await });
    }
}

impl Coordinate {
    /// One replica's page, checked: what cannot be a page is a failure of that replica.
    async fn scan_there(
        &self,
        plan: &Plan,
        node: NodeId,
        scan: Scan,
        deadline: Instant,
    ) -> Result<Seen, Failure> {
        let failed = |why: String| Failure::NotApplied(why);
        let (from, values, partition) = (scan.from.clone(), scan.values, plan.route.partition);
        let scanned = if node == plan.view.me {
            let scanned = self.scan_here(scan, partition, deadline).await;
            // A fence does not wait for a page: it counts if no newer version came meanwhile.
            self.enter(plan)?;
            scanned.map_err(|e| failed(e.to_string()))?
        } else {
            match self.call(plan, node, Request::Scan(scan), deadline).await? {
                Reply::Scanned(scanned) => scanned,
                other => return Err(failed(format!("unexpected answer {}", other.name()))),
            }
        };
        let seen = read(plan, scanned, values);
        let seen = seen.map_err(|e| failed(format!("an unreadable page: {e}")))?;
        let end = Place::behind_hash(partition.range().1);
        seen.page.check(&from, end.as_ref()).map_err(|e| failed(format!("a wrong page: {e}")))?;
        Ok(seen)
    }

    /// This node's own page of a partition: of what it owns or of what it keeps for others. Takes at most
    /// half of the time that is left.
    ///
    /// # Errors
    /// [`LocalError::Read`], [`LocalError::Record`].
    pub async fn scan_here(
        &self,
        asked: Scan,
        partition: Partition,
        deadline: Instant,
    ) -> Result<Scanned, LocalError> {
        let range = scan::Range {
            bucket: asked.bucket,
            prefix: asked.prefix,
            from: asked.from,
            end: partition.range().1.checked_add(1),
            rows: asked.rows as usize,
            bytes: asked.bytes as usize,
        };
        let store = match asked.stand_in {
            true => self.standins.store(),
            false => self.replica.store(),
        };
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / 2;
        let piece = scan::piece(store, &range, until, |set| {
            let bytes = if asked.values { set.encode() } else { set.shape().encode() };
            let weight = bytes.len();
            (Bytes::from(bytes), weight)
        });
        let piece = piece.await?;
        let rows = piece.rows.into_iter().map(|(place, bytes)| (place.key, bytes)).collect();
        Ok(Scanned { rows, next: piece.next })
    }
}

fn read(plan: &Plan, scanned: Scanned, values: bool) -> Result<Seen, CodecError> {
    let (mut rows, mut sets) = (Vec::with_capacity(scanned.rows.len()), Vec::new());
    for (key, bytes) in scanned.rows {
        let at = Place { hash: plan.hash_of(&key), key };
        let shape = if values {
            let set = SiblingSet::decode_shared(&bytes)?;
            let shape = set.shape();
            sets.push((at.clone(), set));
            shape
        } else {
            Shape::decode(&bytes)?
        };
        rows.push(Row { at, shape });
    }
    Ok(Seen { page: Page { rows, next: scanned.next }, sets })
}
