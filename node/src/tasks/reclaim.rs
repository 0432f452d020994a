//! Reclaim: finds tombstones of the partitions that this node leads, has all owners confirm them, waits,
//! and has all erase them (DESIGN section 7). What decides is `kvasir_core::reclaim`; what an owner does
//! is [`Holder`].
//!
//! One worker of the node runs it. Owners lead a partition in turn, by generation, so that a tombstone
//! which only one of them still holds is found too. A pass reads at the configured rate, begins anew in a
//! partition where the last batch ended, and keeps at most `BATCHES_MAX` batches waiting. What the
//! owners hold differently is levelled on the way, so that reclaim gets on without anti-entropy.
//!
//! Rows of contexts that nothing needs any more go the same way, once a key has `ROWS_MIN` of them: each start
//! of a node that writes a key leaves one, and dropping them rewrites the record. Unlike a tombstone they
//! need not rest: a key that is written all the time loses them too.
//!
//! Nothing is begun while members are down: their word is needed in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::batch::{BYTES_MAX, ITEMS_MAX};
use kvasir_core::reclaim::{Ask, Batch, Due, Goes, Hold, Item, Report, Say, Why};
use kvasir_core::ring::{Durability, Partition, SlotState};
use kvasir_core::version::{Dot, Record, SiblingSet};
use kvasir_storage::TableKey;
use tokio::time::Instant;

use crate::peer::{Peers, Reply, Request, Route};
use crate::planted::{Bug, Planted};
use crate::replica::{Formed, Holder, Replica, View, Views};

/// Between two looks at the batches that wait.
const ROUND: Duration = Duration::from_secs(1);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Batches that wait at a time.
const BATCHES_MAX: usize = 64;
/// Generations for which one owner leads a partition.
const TURN: u64 = 8;
/// Keys that are levelled for one batch; the others have their turn at a later pass.
const LEVELLED_MAX: usize = 64;
/// Spent rows for which a record is rewritten.
const ROWS_MIN: usize = 8;
/// Rows of one key that go at a time.
const ROWS_MAX: usize = 256;
/// A piece of a pass over the store.
const CHUNK: (usize, usize) = (256, 1 << 20);

/// What reclaim did and waits for, for metrics and status.
#[derive(Debug, Default)]
pub struct ReclaimFigures {
    /// Dead sets that the last pass saw in the partitions that this node led.
    pub seen: AtomicU64,
    /// Sets, or keys with rows, in batches that wait.
    pub waiting: AtomicU64,
    /// Batches that came to nothing: a document, a start, a lost table or a silent owner.
    pub void: AtomicU64,
    held: Mutex<BTreeMap<NodeId, Hold>>,
}

impl ReclaimFigures {
    /// Who holds up what could be erased, and why.
    pub fn held_up_by(&self) -> BTreeMap<NodeId, Hold> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The loop and what it works with.
pub struct Reclaiming {
    /// The local side.
    pub replica: Arc<Replica>,
    /// This node as one of the owners.
    pub holder: Arc<Holder>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// Connections of the worker that runs this.
    pub peers: Rc<Peers>,
    /// What is told.
    pub figures: Arc<ReclaimFigures>,
    /// Tombstones younger than this stay.
    pub min_age: Duration,
    /// Pause between two passes.
    pub pause: Duration,
    /// Bytes a second that a pass reads; 0: there are no passes.
    pub rate: u64,
    /// A mistake made on purpose; none but in tests.
    pub planted: Planted,
}

/// One partition at one instant.
struct Place<'a> {
    view: &'a View,
    formed: &'a Formed,
    route: Route,
    owners: Vec<NodeId>,
}

/// Where a pass is.
#[derive(Default)]
struct Pass {
    ahead: VecDeque<Partition>,
    seen: u64,
    due: Option<Instant>,
    /// Where the batch that waits in a partition ended.
    cursors: BTreeMap<Partition, TableKey>,
}

impl Reclaiming {
    /// Runs until the node stops.
    pub async fn run(self) {
        if self.rate == 0 {
            return;
        }
        let mut batches: BTreeMap<Partition, Batch> = BTreeMap::new();
        let mut pass = Pass::default();
        loop {
            tokio::time::sleep(ROUND).await;
            let view = self.views.load();
            let Some(formed) = view.formed.clone().filter(|_| view.retired.is_none()) else {
                batches.clear();
                continue;
            };
            let held = self.advance(&view, &formed, &mut batches, &mut pass).await;
            *self.figures.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
            self.look(&view, &formed, &mut batches, &mut pass).await;
            let waiting = batches.values().map(|batch| batch.items().len() as u64).sum();
            self.figures.waiting.store(waiting, Relaxed);
        }
    }

    /// Erases the batches that are due; the answer is who holds up the others.
    async fn advance(
        &self,
        view: &View,
        formed: &Formed,
        batches: &mut BTreeMap<Partition, Batch>,
        pass: &mut Pass,
    ) -> BTreeMap<NodeId, Hold> {
        let (mut held, reports) = (BTreeMap::new(), reports(view, formed));
        let own = (self.replica.generation().now(), formed.ring.epoch());
        for partition in batches.keys().copied().collect::<Vec<_>>() {
            let Some(batch) = batches.get_mut(&partition) else { continue };
            let Some(place) = Place::of(view, formed, partition) else {
                batches.remove(&partition);
                continue;
            };
            let mut due = batch.due(own, &place.owners, &reports);
            if self.planted.is(Bug::EraseEarly) && due != Due::Void {
                due = Due::Now(own.0);
            }
            let done = match due {
                Due::Soon => false,
                Due::Held(nodes) => {
                    held.extend(nodes);
                    false
                }
                Due::Void => {
                    self.figures.void.fetch_add(1, Relaxed);
                    true
                }
                Due::Now(from) => self.erase(&place, batch, from).await,
            };
            if done {
                batches.remove(&partition);
                // What lies behind the batch need not wait for the next pass.
                if pass.cursors.contains_key(&partition) {
                    pass.ahead.push_front(partition);
                }
            }
        }
        held
    }

    /// Has all owners agree, then all erase. False: one of them is not there yet, try again.
    async fn erase(&self, place: &Place<'_>, batch: &mut Batch, from: u64) -> bool {
        for owner in place.owners.clone() {
            let Some(term) = batch.term(owner) else { return true };
            let (document, items) = (batch.document(), batch.items().to_vec());
            match self.ask(place, owner, Ask::Agree { document, term, from, items }).await {
                Some(Say::Agreed { agrees }) => drop(batch.keep(&agrees)),
                Some(Say::No(Why::Early)) | None => return false,
                Some(_) => {
                    self.figures.void.fetch_add(1, Relaxed);
                    return true;
                }
            }
        }
        let ask = || Ask::Erase { items: batch.items().to_vec() };
        let erasing = place.owners.iter().map(|owner| self.ask(place, *owner, ask()));
        // An owner that does not answer keeps its tombstones; they are found again.
        futures_util::future::join_all(erasing).await;
        true
    }

    /// Goes on with the pass, or begins one when its time has come.
    async fn look(
        &self,
        view: &View,
        formed: &Formed,
        batches: &mut BTreeMap<Partition, Batch>,
        pass: &mut Pass,
    ) {
        let begun = Instant::now();
        let all_up = formed.ring.document().members.keys().all(|node| view.rank(*node) < 2);
        if !all_up {
            return;
        }
        if pass.ahead.is_empty() {
            if pass.due.is_some_and(|due| Instant::now() < due) {
                return;
            }
            self.figures.seen.store(pass.seen, Relaxed);
            pass.seen = 0;
            pass.due = Some(Instant::now() + self.pause);
            let bits = formed.ring.document().partition_bits;
            pass.ahead = Partition::all(bits).filter(|p| self.leads(view, formed, *p)).collect();
        }
        while begun.elapsed() < ROUND && batches.len() < BATCHES_MAX {
            let Some(partition) = pass.ahead.pop_front() else { return };
            let stable = formed.ring.document().entry(partition).is_some_and(|entry| {
                entry.slots.values().flatten().all(|slot| slot.state == SlotState::Stable)
            });
            let place = Place::of(view, formed, partition);
            let Some(place) = place.filter(|_| stable && !batches.contains_key(&partition)) else {
                continue;
            };
            let (items, seen) = self.candidates(&place, pass).await;
            pass.seen += seen;
            if !items.is_empty()
                && let Some(batch) = self.confirm(&place, items).await
            {
                batches.insert(partition, batch);
            }
        }
    }

    /// Whether it is this owner's turn.
    fn leads(&self, view: &View, formed: &Formed, partition: Partition) -> bool {
        let owners = formed.ring.owners(partition);
        let turn = view.generation / TURN;
        let first = owners.get((turn % owners.len().max(1) as u64) as usize);
        first.is_some_and(|owner| owner.node == view.me)
    }

    /// Sets of the partition that show nothing and did so for long enough, and rows that are spent, from
    /// where the last batch ended; and how many such sets there are, old enough or not, in what was read.
    async fn candidates(&self, place: &Place<'_>, pass: &mut Pass) -> (Vec<Item>, u64) {
        let partition = place.route.partition;
        let (first, last) = partition.range();
        let end = last.checked_add(1).map(TableKey::first_of);
        let snapshot = self.replica.store().snapshot();
        let mut from = pass.cursors.remove(&partition).or(Some(TableKey::first_of(first)));
        let (mut items, mut bytes, mut seen, mut tags) = (Vec::new(), 0, 0, None);
        while let Some(at) = from {
            let scan = self.replica.store().scan(&snapshot, &at, end.as_ref(), CHUNK.0, CHUNK.1);
            let chunk = match scan.await {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::debug!(%error, "a partition was not searched for tombstones");
                    break;
                }
            };
            let mut read = 0;
            for (key, value) in &chunk.entries {
                read += (key.as_bytes().len() + value.len()) as u64;
                let Ok(Record { set, .. }) = Record::decode_shared(value) else { continue };
                let goes = match self.dead(&set) {
                    Some(old) => {
                        seen += 1;
                        old.then(|| Goes::Set(set.digest().0))
                    }
                    None => self.spent(place, &set, &mut tags).await.map(Goes::Rows),
                };
                let Some(goes) = goes else { continue };
                let (bucket, name) = (key.bucket(), key.key());
                let (bucket, name) = (Bytes::copy_from_slice(bucket), Bytes::copy_from_slice(name));
                let item = Item { bucket, key: name, goes };
                bytes += item.cost();
                items.push(item);
                if items.len() >= ITEMS_MAX || bytes >= BYTES_MAX {
                    pass.cursors.insert(partition, key.clone());
                    return (items, seen);
                }
            }
            from = chunk.next;
            let pause_ms = read.saturating_mul(1_000) / self.rate;
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        (items, seen)
    }

    /// If a read shows nothing of a set: whether that is so for long enough.
    fn dead(&self, set: &SiblingSet) -> Option<bool> {
        let now = self.replica.now_ms();
        if set.is_empty() || set.live(now).next().is_some() {
            return None;
        }
        let since = |s: &kvasir_core::version::Sibling| s.expires_ms.unwrap_or(s.stamp.millis());
        let last = set.siblings().values().map(since).max().unwrap_or(0);
        Some(u128::from(now.saturating_sub(last)) >= self.min_age.as_millis())
    }

    /// The rows of a set that are spent, if there are enough of them; not those under the tags under which
    /// the owners write now, which are asked for once.
    async fn spent(
        &self,
        place: &Place<'_>,
        set: &SiblingSet,
        tags: &mut Option<Option<BTreeSet<u64>>>,
    ) -> Option<Vec<Dot>> {
        let context = set.context();
        if context.vector().len() + context.cloud().len() < ROWS_MIN {
            return None;
        }
        let rows: Vec<Vec<Dot>> = set.spent_rows().collect();
        if rows.len() < ROWS_MIN {
            return None;
        }
        if tags.is_none() {
            *tags = Some(self.tags(place).await);
        }
        let living = tags.as_ref()?.as_ref()?;
        let lives = |row: &Vec<Dot>| row.iter().any(|dot| living.contains(&dot.actor.tag));
        let dead = rows.into_iter().filter(|row| !lives(row));
        let dead: Vec<Vec<Dot>> = dead.take(ROWS_MAX).collect();
        (dead.len() >= ROWS_MIN).then(|| dead.concat())
    }

    /// The tags under which the owners write now; none if one of them does not say.
    async fn tags(&self, place: &Place<'_>) -> Option<BTreeSet<u64>> {
        let mut tags = BTreeSet::new();
        for owner in &place.owners {
            let Some(Say::Tag(tag)) = self.ask(place, *owner, Ask::Tag).await else { return None };
            tags.insert(tag);
        }
        Some(tags)
    }

    /// Has all owners confirm; none if one of them does not take part or nothing is left.
    async fn confirm(&self, place: &Place<'_>, items: Vec<Item>) -> Option<Batch> {
        let document = place.formed.ring.epoch();
        let mut batch = Batch::new(document, items);
        let mut differ = Vec::new();
        for owner in place.owners.clone() {
            let ask = Ask::Confirm { document, items: batch.items().to_vec() };
            match self.ask(place, owner, ask).await {
                Some(Say::Confirmed { generation, term, holds }) => {
                    differ.extend(batch.confirm(owner, (generation, term), &holds));
                }
                answer => {
                    tracing::debug!(%owner, ?answer, "an owner confirms no tombstones now");
                    return None;
                }
            }
        }
        for item in differ.into_iter().take(LEVELLED_MAX) {
            self.level(place, &item).await;
        }
        (!batch.items().is_empty()).then_some(batch)
    }

    /// Brings all owners to the same set of a key. What fails is tried at a later pass.
    async fn level(&self, place: &Place<'_>, item: &Item) {
        let (hash, _) = place.formed.ring.locate(&item.bucket, &item.key);
        let key = TableKey::new(hash, &item.bucket, &item.key);
        // The view was taken before anything is read here.
        let stamp = place.view.generation;
        let (mut merged, mut found) = (SiblingSet::new(), Vec::new());
        for owner in &place.owners {
            let set = match *owner == place.view.me {
                true => self.replica.read(&key).await.ok(),
                false => self.read_there(place, *owner, item).await,
            };
            let Some(set) = set else { return };
            merged.merge_in(&set);
            found.push((*owner, set));
        }
        for (owner, _) in found.into_iter().filter(|(_, set)| *set != merged) {
            if owner == place.view.me {
                let stored =
                    self.replica.merge(&key, merged.clone(), stamp, Durability::Group).await;
                drop(stored);
            } else {
                let request = Request::Apply {
                    bucket: item.bucket.clone(),
                    key: item.key.clone(),
                    delta: merged.encode().into(),
                    durability: Durability::Group,
                };
                self.call(place, owner, request).await;
            }
        }
    }

    async fn read_there(
        &self,
        place: &Place<'_>,
        owner: NodeId,
        item: &Item,
    ) -> Option<SiblingSet> {
        let request = Request::Read { bucket: item.bucket.clone(), key: item.key.clone() };
        match self.call(place, owner, request).await? {
            (Reply::Set(bytes), stamp) if self.replica.generation().takes(stamp) => {
                SiblingSet::decode(&bytes).ok()
            }
            _ => None,
        }
    }

    async fn ask(&self, place: &Place<'_>, owner: NodeId, ask: Ask) -> Option<Say> {
        if owner == place.view.me {
            return Some(self.holder.answer(place.view, place.route.partition, ask).await);
        }
        let request = Request::Reclaim(postcard::to_allocvec(&ask).ok()?.into());
        match self.call(place, owner, request).await? {
            (Reply::Message(bytes), _) => postcard::from_bytes(&bytes).ok(),
            (reply, _) => {
                tracing::debug!(%owner, ?reply, "an owner did not answer reclaim");
                None
            }
        }
    }

    async fn call(
        &self,
        place: &Place<'_>,
        owner: NodeId,
        request: Request,
    ) -> Option<(Reply, u64)> {
        let address = place.view.reachable(owner)?;
        let head = (Some(place.route), place.view.generation);
        let deadline = Instant::now() + ANSWER;
        let answer = self.peers.call_stamped(owner, address, head, request, deadline).await.ok()?;
        Some((answer.reply, answer.generation))
    }
}

impl<'a> Place<'a> {
    fn of(view: &'a View, formed: &'a Formed, partition: Partition) -> Option<Self> {
        let (version, entry_hash) = formed.ring.version(partition)?;
        let owners: Vec<NodeId> = formed.ring.owners(partition).iter().map(|o| o.node).collect();
        let route = Route { partition, version, entry_hash };
        owners.contains(&view.me).then_some(Self { view, formed, route, owners })
    }
}

/// What every member of the document told of itself.
fn reports(view: &View, formed: &Formed) -> BTreeMap<NodeId, Option<Report>> {
    let members = formed.ring.document().members.keys();
    members.map(|id| (*id, view.members.get(id).map(|m| m.report))).collect()
}
