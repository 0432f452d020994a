//! Hand-back: brings what this node kept for others to the owners of the day.
//!
//! One worker of the node runs it. A pass looks at every shelf that holds something and whose owners or
//! entries changed since it was last looked at. A stand-in copy goes to every owner of its partition and
//! is deleted when all of them stored it under one version of the entry ([`HandBack`]); a hint sends
//! what this owner holds itself. Each answer says how long to pause: the receiver sets the pace.
//!
//! Nothing is handed back while this node serves no data: what it keeps may be of an older state.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use kvasir_core::handoff::HandBack;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Durability;
use kvasir_core::version::{Record, SiblingSet};
use kvasir_storage::TableKey;
use tokio::time::Instant;

use crate::peer::{Peers, Refusal, Reply, Request, Route};
use crate::planted::Bug;
use crate::replica::standins::{Entry, Hint, unstamped};
use crate::replica::{Formed, Replica, Shelf, StandIns, View, Views};

/// Between two looks at whether anything changed.
const ROUND: Duration = Duration::from_millis(500);
/// A shelf on which something did not get through, or on which entries were put, waits this long.
const AGAIN: Duration = Duration::from_secs(3);
/// So long if the last look found nothing to give: its owners are down, and looking costs reading. Twice as
/// long after each further look in vain, eight times at most; who comes back is given all at once.
const LATER: Duration = Duration::from_secs(15);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Entries on their way at once.
const AT_ONCE: usize = 16;
/// Copies of which it is remembered who stored them; beyond that some are sent once more.
const REMEMBERED: usize = 65_536;

/// The loop and what it works with.
pub struct HandingBack {
    /// The local side, for hints and for copies that this node came to own.
    pub replica: Arc<Replica>,
    /// What is kept for others.
    pub standins: Arc<StandIns>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// Connections of the worker that runs this.
    pub peers: Rc<Peers>,
    /// A hint this old is dropped.
    pub hints_max_age: Duration,
}

/// What a shelf was last looked at with.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    epoch: u64,
    up: Vec<NodeId>,
    puts: u64,
    through: bool,
    /// Looks in a row that found nothing to give.
    idle: u32,
    at: Instant,
}

/// One pass: who did not answer in it, whether this node's own disk failed, and how far each copy has come.
struct Pass<'a> {
    view: &'a View,
    formed: &'a Formed,
    silent: RefCell<BTreeSet<NodeId>>,
    failed: Cell<bool>,
    gave: Cell<bool>,
    copies: &'a RefCell<BTreeMap<TableKey, HandBack>>,
}

impl HandingBack {
    /// Runs until the node stops.
    pub async fn run(self) {
        while let Err(error) = self.standins.count().await {
            tracing::warn!(%error, "what was kept for others could not be counted: nothing is kept or handed back");
            self.standins.shelves().not_counted(error.to_string());
            tokio::time::sleep(AGAIN).await;
        }
        if self.replica.planted().leaves_it_to_trees() {
            return;
        }
        let mut seen: BTreeMap<Shelf, Seen> = BTreeMap::new();
        let copies = RefCell::new(BTreeMap::new());
        loop {
            tokio::time::sleep(ROUND).await;
            let filled = self.standins.shelves().filled();
            // They come in order, and there are up to 65,536 of them.
            seen.retain(|shelf, _| filled.binary_search_by_key(shelf, |(other, _)| *other).is_ok());
            for (shelf, held) in filled {
                let view = self.views.load();
                let Some(formed) = view.formed.clone().filter(|_| view.retired.is_none()) else {
                    break;
                };
                let now = Seen {
                    epoch: formed.ring.epoch(),
                    up: view.members.keys().copied().filter(|n| view.rank(*n) < 2).collect(),
                    puts: held.puts,
                    through: true,
                    idle: 0,
                    at: Instant::now(),
                };
                let before = seen.get(&shelf);
                if !due(before, &now) {
                    continue;
                }
                let idle = before.map_or(0, |before| before.idle).saturating_add(1);
                let (silent, failed, gave) = Default::default();
                let (view, formed, copies) = (&*view, &*formed, &copies);
                let pass = Pass { view, formed, silent, failed, gave, copies };
                let through = self.shelf(&pass, shelf).await;
                let idle = if pass.gave.get() { 0 } else { idle };
                seen.insert(shelf, Seen { through, idle, at: Instant::now(), ..now });
            }
        }
    }

    /// Looks at everything on a shelf. False if something is worth trying again soon.
    async fn shelf(&self, pass: &Pass<'_>, shelf: Shelf) -> bool {
        let mut from = None;
        loop {
            let chunk = match self.standins.piece(shelf, from.as_ref()).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::warn!(%error, "what is kept for others could not be read");
                    return false;
                }
            };
            let each = |(key, value)| self.entry(pass, key, value);
            let work = stream::iter(chunk.entries).for_each_concurrent(AT_ONCE, each);
            work.await;
            match chunk.next {
                Some(next) => from = Some(next),
                None => return pass.silent.borrow().is_empty() && !pass.failed.get(),
            }
        }
    }

    async fn entry(&self, pass: &Pass<'_>, key: TableKey, value: Bytes) {
        let done = match Entry::of(&key) {
            Some(Entry::Copy) => self.copy(pass, &key, value).await,
            Some(Entry::Hint { target, of }) => self.hint(pass, (&key, value), target, &of).await,
            None => {
                tracing::warn!("an entry that this version does not know is kept for another node");
                return;
            }
        };
        if let Err(error) = done {
            // A disk that is full or fails for a while is no reason to keep it for ever.
            pass.failed.set(true);
            tracing::warn!(error, "something that is kept for another node stays where it is");
        }
    }

    /// One stand-in copy.
    async fn copy(&self, pass: &Pass<'_>, key: &TableKey, value: Bytes) -> Result<(), String> {
        let record = Record::decode_shared(&unstamped(&value).1).map_err(|e| e.to_string())?;
        let Some((route, owners)) = pass.owners(key) else { return Ok(()) };
        let (entry, print) = ((route.version, route.entry_hash), fingerprint(&record.set));
        let missing = {
            let mut copies = pass.copies.borrow_mut();
            if copies.len() >= REMEMBERED && !copies.contains_key(key) {
                copies.pop_first();
            }
            copies.entry(key.clone()).or_default().missing(entry, print, &owners)
        };
        for owner in missing {
            if self.give(pass, route, key, &record.set, owner).await
                && let Some(copy) = pass.copies.borrow_mut().get_mut(key)
                && copy.is_under(entry, print)
            {
                copy.stored(owner);
            }
        }
        let mut complete =
            pass.copies.borrow().get(key).is_some_and(|copy| copy.complete(entry, print, &owners));
        if self.replica.planted().is(Bug::EraseBeforeAck) {
            complete = true;
        }
        if complete {
            pass.copies.borrow_mut().remove(key);
            if self.standins.erase_copy(key, value).await.map_err(|e| e.to_string())? {
                self.standins.shelves().copies_handed_back.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// One hint: the target is sent what this node holds, if both still own the key.
    async fn hint(
        &self,
        pass: &Pass<'_>,
        (key, value): (&TableKey, Bytes),
        target: NodeId,
        of: &TableKey,
    ) -> Result<(), String> {
        let hint = Hint::decode(&value).ok_or("an unreadable hint")?;
        let Some((route, owners)) = pass.owners(of) else { return Ok(()) };
        let age = self.replica.now_ms().saturating_sub(hint.since_ms);
        let old = u128::from(age) > self.hints_max_age.as_millis();
        let both = owners.contains(&target) && owners.contains(&pass.view.me);
        let mut handed_back = false;
        if both && !old {
            let set = self.replica.read(of).await.map_err(|e| e.to_string())?;
            handed_back = self.give(pass, route, of, &set, target).await;
            if !handed_back {
                return Ok(());
            }
        }
        if self.standins.erase_hint(key, value).await.map_err(|e| e.to_string())? {
            let shelves = self.standins.shelves();
            if handed_back {
                shelves.hints_handed_back.fetch_add(1, Relaxed);
            } else if both {
                shelves.hints_expired.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// Has an owner store a set durably; false if it did not, as far as is known.
    async fn give(
        &self,
        pass: &Pass<'_>,
        route: Route,
        key: &TableKey,
        set: &SiblingSet,
        owner: NodeId,
    ) -> bool {
        if owner == pass.view.me {
            return self.take(key, set, pass.view.generation).await;
        }
        let Some(address) = pass.view.reachable(owner) else { return false };
        if pass.silent.borrow().contains(&owner) {
            return false;
        }
        let request = Request::HandBack {
            bucket: Bytes::copy_from_slice(key.bucket()),
            key: Bytes::copy_from_slice(key.key()),
            set: set.encode().into(),
        };
        let deadline = Instant::now() + ANSWER;
        // What is kept was read after the view was taken.
        let head = (Some(route), pass.view.generation);
        let answer = self.peers.call_stamped(owner, address, head, request, deadline).await;
        match answer.map(|answer| answer.reply) {
            Ok(Reply::HandedBack { pause_ms }) => {
                pass.gave.set(true);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                true
            }
            Ok(Reply::Refused(Refusal::Overloaded { retry_after_ms })) => {
                pass.silent.borrow_mut().insert(owner);
                tokio::time::sleep(Duration::from_millis(retry_after_ms.min(2_000))).await;
                false
            }
            other => {
                tracing::debug!(%owner, ?other, "a hand-back did not get through");
                pass.silent.borrow_mut().insert(owner);
                false
            }
        }
    }

    /// This node came to own what it had kept for another.
    async fn take(&self, key: &TableKey, set: &SiblingSet, stamp: u64) -> bool {
        match self.replica.merge(key, set.clone(), stamp, Durability::Group).await {
            Ok(applied) => applied.durable.await.is_ok(),
            Err(error) => {
                tracing::warn!(%error, "a stand-in copy of this node's own data was not merged");
                false
            }
        }
    }
}

impl Pass<'_> {
    /// The entry of a key's partition, and everybody who stores its writes. None while one of its slots
    /// has nobody to take a copy over: then the copy waits.
    fn owners(&self, key: &TableKey) -> Option<(Route, Vec<NodeId>)> {
        let ring = &self.formed.ring;
        let partition = ring.document().partition_of(key.hash());
        let (version, entry_hash) = ring.version(partition)?;
        if ring.seats(partition).iter().any(|seat| seat.writers.is_empty()) {
            return None;
        }
        let owners = ring.owners(partition).iter().map(|owner| owner.node).collect();
        Some((Route { partition, version, entry_hash }, owners))
    }
}

/// Whether a shelf is to be looked at: for the first time, when somebody came or went or the document
/// changed, or after a while when entries were put there or something did not get through.
fn due(seen: Option<&Seen>, now: &Seen) -> bool {
    let Some(seen) = seen else { return true };
    let pause = match seen.idle {
        looks if looks > 0 && seen.through => LATER * (1 << (looks - 1).min(3)),
        _ => AGAIN,
    };
    let waited = now.at.duration_since(seen.at) >= pause;
    seen.epoch != now.epoch
        || seen.up != now.up
        || (waited && (seen.puts != now.puts || !seen.through))
}

fn fingerprint(set: &SiblingSet) -> u128 {
    u128::from_be_bytes(set.digest().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_is_looked_at_when_something_changed() {
        let at = Instant::now();
        let seen = Seen { epoch: 1, up: Vec::new(), puts: 1, through: true, idle: 0, at };
        let later = Seen { at: at + AGAIN, ..seen.clone() };
        assert!(due(None, &seen));
        assert!(!due(Some(&seen), &later), "nothing changed");
        assert!(due(Some(&seen), &Seen { epoch: 2, ..seen.clone() }));
        let up = vec![NodeId::from_bytes([1; 16])];
        assert!(due(Some(&seen), &Seen { up, ..seen.clone() }));
        assert!(!due(Some(&seen), &Seen { puts: 2, ..seen.clone() }), "too soon");
        assert!(due(Some(&seen), &Seen { puts: 2, ..later.clone() }));
        let blocked = Seen { idle: 1, ..seen.clone() };
        assert!(!due(Some(&blocked), &Seen { puts: 2, ..later.clone() }), "its owners are down");
        for (looks, times) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (u32::MAX, 8)] {
            let blocked = Seen { idle: looks, ..seen.clone() };
            let after = |pause| Seen { puts: 2, at: at + pause, ..seen.clone() };
            assert!(due(Some(&blocked), &after(LATER * times)), "{looks}");
            assert!(!due(Some(&blocked), &after(LATER * times - AGAIN)), "{looks}");
        }
        assert!(due(Some(&Seen { through: false, ..seen.clone() }), &later));
    }
}
