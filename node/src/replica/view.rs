//! What this node knows of the cluster at one instant: the newest chosen document and the member list.
//!
//! Written by the control tasks, read by every worker without a lock. Liveness steers requests,
//! never ownership (DESIGN section 5).
//!
//! It is also the gate of every partition: whoever works on the local copy enters under a version of
//! the partition's entry and holds a [`Pass`] from before that version is checked until the change is
//! visible. A newer document shuts out older versions at once; it is *fenced* when nobody is inside
//! any more who entered under an older one ([`Views::fenced`]). The counter is raised before the
//! newest document is looked at again, and the newest document is stored before the counter is read,
//! with full fences between: either the one who enters sees the newer document, or the fence sees him.
//!
//! Where this node begins anew in a partition that it still holds (a rebuild), the gate is *closed* first:
//! from then on nobody enters until the newer document is in force, so that what is dropped in between is
//! never taken for all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use kvasir_core::gossip::Status;
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::Report;
use kvasir_core::ring::{Partition, Ring, Sealed};
use kvasir_core::version::TokenKey;
use tokio::sync::watch;
use tokio::time::Instant;

/// A member as seen from here.
#[derive(Debug, Clone)]
pub struct Member {
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// Alive, suspect or down.
    pub status: Status,
    /// It did not say that it serves no data.
    pub serves: bool,
    /// What it told last of its generation, its document and its stand-in copies.
    pub report: Report,
    /// Boot and nonce of the process that carries its id.
    pub process: (u64, u64),
}

impl Member {
    /// Whether data may come from a process with this boot and nonce: it is the listed one, or a later
    /// start, or the listed one is not known to be alive.
    pub fn may_be(&self, process: (u64, u64)) -> bool {
        // The boot of one process can rise while it runs, above one that the others remember.
        process.1 == self.process.1 || process > self.process || self.status != Status::Alive
    }
}

/// The cluster as its newest chosen document says.
#[derive(Debug)]
pub struct Formed {
    /// The document, made ready for routing.
    pub ring: Ring,
    /// Signs and checks tokens.
    pub token_key: TokenKey,
    /// How many work on local copies who entered under this document.
    inside: AtomicU64,
}

impl Formed {
    /// Prepares a chosen document for requests.
    pub fn new(document: Sealed) -> Self {
        let token_key = TokenKey(document.token_secret.0);
        Self { ring: Ring::new(document), token_key, inside: AtomicU64::new(0) }
    }
}

/// One instant.
#[derive(Debug, Clone)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// This node's data center.
    pub datacenter: String,
    /// Absent until the cluster is formed or this node has learnt of it.
    pub formed: Option<Arc<Formed>>,
    /// Every member heard of, this node too.
    pub members: BTreeMap<NodeId, Member>,
    /// Why this node serves no data at the moment, if so.
    pub retired: Option<String>,
    /// Copies that this node came to hold after this epoch are used, also while it is `retired`: it makes
    /// the others anew. None: no copy of it is used.
    pub above: Option<u64>,
    /// Partitions that nobody enters, since this node is about to begin anew in them.
    pub closed: Arc<BTreeSet<Partition>>,
    /// The generation of this node when this was the newest view, or one before: whatever is read or
    /// minted by this view is stamped with it.
    pub generation: u64,
}

impl View {
    /// The view of a node that has heard of nobody.
    pub fn blank(me: NodeId, datacenter: &str) -> Self {
        Self {
            me,
            datacenter: datacenter.to_string(),
            formed: None,
            members: BTreeMap::new(),
            retired: None,
            above: Some(0),
            closed: Arc::default(),
            generation: 0,
        }
    }

    /// Why this node's copy of a partition is not used; none while it is, or where it has none and serves.
    pub fn unused(&self, partition: Partition) -> Option<&str> {
        let reason = self.retired.as_deref()?;
        let document = self.formed.as_ref().map(|formed| formed.ring.document());
        let entry = document.and_then(|document| document.entry(partition));
        let since = entry.and_then(|entry| entry.tenure(self.me));
        let used = self.above.zip(since).is_some_and(|(above, since)| since > above);
        (!used).then_some(reason)
    }

    /// Epoch of the newest document here; 0 without one.
    pub fn epoch(&self) -> u64 {
        self.formed.as_ref().map_or(0, |formed| formed.ring.epoch())
    }

    /// Where a member listens for peers, unless it is known to be down.
    pub fn reachable(&self, node: NodeId) -> Option<&str> {
        let member = self.members.get(&node)?;
        (member.status != Status::Down).then_some(member.peer_address.as_str())
    }

    /// Lower is better: alive, suspect, and last those that are down, unknown or said to serve nothing.
    pub fn rank(&self, node: NodeId) -> u8 {
        match self.members.get(&node).filter(|member| member.serves).map(|m| m.status) {
            Some(Status::Alive) => 0,
            Some(Status::Suspect) => 1,
            Some(Status::Down) | None => 2,
        }
    }
}

/// Leave to work on a local copy under one version of its partition's entry; ends when dropped.
#[derive(Debug)]
pub struct Pass(Arc<Formed>);

impl Pass {
    fn enter(formed: &Arc<Formed>) -> Self {
        formed.inside.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Self(formed.clone())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The partition's entry is not at that version here. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherVersion {
    /// Epoch of the newest document here.
    pub epoch: u64,
}

/// The current view, shared by all threads of a node.
#[derive(Debug)]
pub struct Views {
    now: ArcSwap<View>,
    epoch: watch::Sender<u64>,
    /// Documents before the newest under which somebody may still be inside.
    before: Mutex<Vec<Arc<Formed>>>,
}

impl Views {
    /// Starts with a view.
    pub fn new(view: View) -> Self {
        let epoch = watch::Sender::new(view.epoch());
        Self { now: ArcSwap::from_pointee(view), epoch, before: Mutex::default() }
    }

    /// The newest view; stays valid while it is held.
    pub fn load(&self) -> Arc<View> {
        self.now.load_full()
    }

    /// Replaces the view. Only the control tasks call this.
    pub fn store(&self, view: View) {
        let epoch = view.epoch();
        let formed = view.formed.clone();
        let old = self.now.swap(Arc::new(view));
        let same = |other: &Arc<Formed>| formed.as_ref().is_some_and(|now| Arc::ptr_eq(now, other));
        if let Some(old) = old.formed.clone().filter(|old| !same(old)) {
            self.before.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
        self.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
    }

    /// Waits until the document of this epoch or a newer one is in force here. False: it is not yet.
    pub async fn reach(&self, epoch: u64, until: Instant) -> bool {
        let mut told = self.epoch.subscribe();
        let reached = told.wait_for(|now| *now >= epoch);
        matches!(tokio::time::timeout_at(until, reached).await, Ok(Ok(_)))
    }

    /// Leave to work on the local copy of a partition whose entry has this version and hash.
    ///
    /// # Errors
    /// [`OtherVersion`].
    pub fn enter(
        &self,
        partition: Partition,
        version: u64,
        entry_hash: u64,
    ) -> Result<Pass, OtherVersion> {
        loop {
            let view = self.now.load();
            let formed = view.formed.as_ref().ok_or(OtherVersion { epoch: 0 })?;
            if formed.ring.version(partition) != Some((version, entry_hash)) {
                return Err(OtherVersion { epoch: formed.ring.epoch() });
            }
            if view.closed.contains(&partition) {
                // The document that begins the copy anew is stored already.
                return Err(OtherVersion { epoch: formed.ring.epoch() + 1 });
            }
            let pass = Pass::enter(formed);
            let now = self.now.load();
            if now.formed.as_ref().is_some_and(|now| Arc::ptr_eq(now, formed)) {
                return Ok(pass);
            }
        }
    }

    /// The epoch of the document in force, if by it the entry of a partition is another than this one.
    pub fn overtook(&self, partition: Partition, version: u64, entry_hash: u64) -> Option<u64> {
        let view = self.now.load();
        let ring = &view.formed.as_ref()?.ring;
        (ring.version(partition) != Some((version, entry_hash))).then(|| ring.epoch())
    }

    /// Whether nobody is inside any more who entered before the newest view came with its document.
    pub fn quiet(&self) -> bool {
        fence(Ordering::SeqCst);
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.retain(|old| old.inside.load(Ordering::SeqCst) > 0);
        before.is_empty()
    }

    /// The newest epoch whose versions are fenced here: nobody is inside who entered under an older
    /// document, and nobody can enter under one. 0 without a document.
    pub fn fenced(&self) -> u64 {
        let newest = self.now.load().epoch();
        fence(Ordering::SeqCst);
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.retain(|old| old.inside.load(Ordering::SeqCst) > 0);
        before.iter().map(|old| old.ring.epoch()).min().unwrap_or(newest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kvasir_core::id::ClusterId;
    use kvasir_core::reclaim::Held;
    use kvasir_core::ring::{
        BucketSettings, Document, Member as Place, MemberState, NewCluster, TokenSecret,
    };

    pub fn me() -> NodeId {
        NodeId::from_bytes([1; 16])
    }

    /// One member with one copy of two partitions.
    pub fn first() -> Document {
        let place = Place {
            machine: "m".into(),
            rack: String::new(),
            zone: String::new(),
            datacenter: "dc1".into(),
            weight: 1,
            state: MemberState::Active,
        };
        let new = NewCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
            cluster_name: "test".into(),
            seed: 1,
            token_secret: TokenSecret([1; 32]),
            partition_bits: 1,
            members: BTreeMap::from([(me(), place)]),
            replication: BTreeMap::from([("dc1".into(), 1)]),
            defaults: BucketSettings::default(),
        };
        Document::first(new).expect("one machine is enough for one copy").0
    }

    fn view(document: &Document) -> View {
        let formed = Some(Arc::new(Formed::new(Sealed::new(document.clone()))));
        View { formed, ..View::blank(me(), "dc1") }
    }

    fn version(document: &Document, index: u32) -> (Partition, u64, u64) {
        let entry = &document.table[index as usize];
        (Partition { k: 1, index }, entry.version, entry.entry_hash())
    }

    #[test]
    fn a_newer_version_shuts_out_older_ones_and_is_fenced_once_they_left() {
        let document = first();
        let views = Views::new(view(&document));
        let [(one, v, h), (other, w, i)] = [version(&document, 0), version(&document, 1)];
        let inside = views.enter(one, v, h).unwrap();
        assert_eq!(views.fenced(), 1);
        let mut child = document.child();
        child.table[0].version = 2;
        views.store(view(&child));
        assert_eq!(views.enter(one, v, h).unwrap_err(), OtherVersion { epoch: 2 });
        assert!(views.enter(other, w, i).is_ok(), "an entry that did not change goes on");
        assert_eq!((views.overtook(one, v, h), views.overtook(other, w, i)), (Some(2), None));
        assert_eq!(views.fenced(), 1, "somebody is still inside");
        drop(inside);
        assert_eq!(views.fenced(), 2);
        // The same document again, with another member list, is no newer one.
        let again = View::clone(&views.load());
        views.store(again);
        assert_eq!(views.fenced(), 2);
    }

    #[test]
    fn of_two_processes_with_one_id_the_later_start_may_bring_data() {
        let listed = |status| Member {
            peer_address: "a:1".into(),
            status,
            serves: true,
            report: Report { generation: 0, document: 0, held: Held::default() },
            process: (5, 40),
        };
        let alive = listed(Status::Alive);
        assert!(alive.may_be((5, 40)) && alive.may_be((3, 40)), "it is the same process");
        assert!(alive.may_be((6, 1)) && alive.may_be((5, 41)), "a later start");
        assert!(!alive.may_be((4, 99)) && !alive.may_be((5, 39)), "a copy of the volume");
        assert!(listed(Status::Suspect).may_be((4, 99)) && listed(Status::Down).may_be((4, 99)));
    }

    #[test]
    fn a_closed_partition_lets_nobody_in_until_the_newer_document_is_in_force() {
        let document = first();
        let views = Views::new(view(&document));
        let [(one, v, h), (other, w, i)] = [version(&document, 0), version(&document, 1)];
        let inside = views.enter(one, v, h).unwrap();
        // The same document made ready once more: whoever entered before is told apart.
        views.store(View { closed: Arc::new(BTreeSet::from([one])), ..view(&document) });
        assert_eq!(views.enter(one, v, h).unwrap_err(), OtherVersion { epoch: 2 });
        assert!(views.enter(other, w, i).is_ok(), "an entry that is not closed goes on");
        assert!(!views.quiet(), "somebody is still inside");
        drop(inside);
        assert!(views.quiet());
        views.store(view(&document.child()));
        assert!(views.enter(one, v, h).is_ok());
    }

    #[test]
    fn a_node_that_is_rebuilt_uses_what_it_holds_since_then() {
        let document = first();
        let of = Partition { k: 1, index: 0 };
        let retired = |above| View { retired: Some("old".into()), above, ..view(&document) };
        assert_eq!(view(&document).unused(of), None);
        assert_eq!(retired(Some(0)).unused(of), None, "its tenure began in epoch 1");
        assert_eq!(retired(Some(1)).unused(of), Some("old"));
        assert_eq!(retired(None).unused(of), Some("old"));
        let stranger = View { me: NodeId::from_bytes([2; 16]), ..retired(Some(0)) };
        assert_eq!(stranger.unused(of), Some("old"), "it may not stand in either");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_an_epoch_is_told_when_it_is_there() {
        let document = first();
        let views = Arc::new(Views::new(View::blank(me(), "dc1")));
        let soon = || Instant::now() + std::time::Duration::from_secs(1);
        assert!(!views.reach(1, soon()).await);
        let waiting = views.clone();
        let told = tokio::spawn(async move { waiting.reach(1, soon()).await });
        views.store(view(&document));
        assert!(told.await.unwrap());
        assert!(views.reach(1, soon()).await);
    }
}
