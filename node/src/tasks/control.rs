//! The state of the control thread, and the handle by which workers reach it.
//!
//! One owner, one thread: gossip, the acceptor, the newest document and the view built from them live
//! here. Workers send frames of the control class over a bounded channel and read the published view.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kvasir_core::admin_api::BucketAnswer;
use kvasir_core::consensus::Acceptor;
use kvasir_core::gossip::{DocumentId, Gossip};
use kvasir_core::id::NodeId;
use kvasir_core::ring::{BucketName, Document, Handovers, Partition, Sealed, SettingsChange};
use rand::rngs::SmallRng;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::buckets::{self, Asked, ChangeError};
use super::identity::Identity;
use super::set_aside::SetAside;
use super::small_files::SmallFiles;
use super::tenures::Tenures;
use super::unfit::Unfit;
use super::{ballots, driver, generations, gossip, handovers, marks, rebuilds, seeds};
use crate::peer::{Me, Peers, Refusal, Reply, Request};
use crate::replica::{Formed, Moving, Replica, StandIns, Views};
use crate::seam::Net;

/// Frames of the control class waiting for the control thread.
const QUEUE: usize = 1_024;
/// Changes of bucket settings waiting for the control thread.
const CHANGES: usize = 16;
/// Nodes that showed to know a newer document, waiting for the control thread. More are forgotten: gossip tells
/// of the document too.
const HOLDERS: usize = 64;

/// A question from another node, on its way to the control thread.
pub struct Question {
    from: NodeId,
    request: Request,
    reply: oneshot::Sender<Reply>,
}

/// How workers reach the control thread.
#[derive(Clone)]
pub struct ControlHandle {
    questions: mpsc::Sender<Question>,
    changes: mpsc::Sender<Asked>,
    pull: mpsc::Sender<(NodeId, u64)>,
}

/// The other end of a [`ControlHandle`].
pub struct Inbox {
    questions: mpsc::Receiver<Question>,
    changes: mpsc::Receiver<Asked>,
    pull: mpsc::Receiver<(NodeId, u64)>,
}

impl ControlHandle {
    /// A handle and its inbox.
    pub fn new() -> (Self, Inbox) {
        let (questions, inbox) = mpsc::channel(QUEUE);
        let (changes, asked) = mpsc::channel(CHANGES);
        let (pull, pulled) = mpsc::channel(HOLDERS);
        let inbox = Inbox { questions: inbox, changes: asked, pull: pulled };
        (Self { questions, changes, pull }, inbox)
    }

    /// Has the control thread answer.
    pub async fn ask(&self, from: NodeId, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        match self.questions.try_send(Question { from, request, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Reply::Refused(Refusal::Overloaded { retry_after_ms: 100 })
            }
            Err(mpsc::error::TrySendError::Closed(_)) => stopping(),
        }
    }

    /// Has the control thread change settings of a bucket, and waits for what comes of it.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change(
        &self,
        bucket: BucketName,
        change: SettingsChange,
    ) -> Result<BucketAnswer, ChangeError> {
        buckets::ask(&self.changes, bucket, change).await
    }

    /// Says that a node showed to know the document of an epoch: it is fetched from there at once, unless it
    /// is known here.
    pub fn pull(&self, holder: NodeId, epoch: u64) {
        // Where too many wait, or the node stops, gossip tells of it or nobody asks any more.
        let _ = self.pull.try_send((holder, epoch));
    }
}

fn stopping() -> Reply {
    Reply::Refused(Refusal::NotServing("the node is stopping".to_string()))
}

/// Everything that the control thread owns.
pub struct Control {
    /// Who this node is.
    pub identity: Identity,
    /// The data center of this node.
    pub datacenter: String,
    /// The member list.
    pub gossip: RefCell<Gossip>,
    /// Votes and the newest document. Held over its own fsync, so that votes are stored in order.
    pub acceptor: Mutex<Acceptor>,
    /// Where the acceptor's state is stored.
    pub files: SmallFiles,
    /// What this node says of itself to peers.
    pub me: Me,
    /// Connections of the control class.
    pub peers: Rc<Peers>,
    /// What workers read.
    pub views: Arc<Views>,
    /// The local side, for figures and replica reads.
    pub replica: Arc<Replica>,
    /// What is kept for others, of which gossip tells.
    pub standins: Arc<StandIns>,
    /// Which tenure the local data of each partition is of.
    pub tenures: RefCell<Tenures>,
    /// Which copies this node gives or gave to others and has not removed.
    pub handovers: RefCell<Handovers>,
    /// What this node did for the moves of its partitions.
    pub moving: Arc<Moving>,
    /// The newest document, prepared.
    pub formed: RefCell<Option<Arc<Formed>>>,
    /// The network, for looking up seeds.
    pub net: Rc<dyn Net>,
    /// Peer addresses that the configuration names.
    pub configured_seeds: Vec<String>,
    /// The same, with every address behind a name.
    pub seeds: RefCell<Vec<String>>,
    /// Why this node serves no data, if so, as it was last told.
    pub unfit: RefCell<Option<Unfit>>,
    /// The node has not heard yet what the others remember of it, and has not waited long enough.
    pub starting: Cell<bool>,
    /// Which data of this node must not be used: that of a volume that was put back, say.
    pub set_aside: SetAside,
    /// Partitions that nobody enters, since this node is about to begin anew in them.
    pub closed: RefCell<Arc<BTreeSet<Partition>>>,
    /// Whether this node posts a rebuild of what it lost.
    pub rebuilds: bool,
    /// Free bytes of the volume, as of a second ago or two.
    pub disk_free: Cell<Option<u64>>,
    /// This start has already gone on above a boot that others remember.
    pub boot_raised: Cell<bool>,
    /// Why this node must stop, if so: its own votes could not be stored.
    pub failed: RefCell<Option<String>>,
    /// Told whenever another document came into force.
    pub enforced: tokio::sync::Notify,
    /// Shortest time between two generations of this node.
    pub generation_interval: std::time::Duration,
    /// Members that the next generation waits for.
    pub held_up_by: RefCell<Vec<NodeId>>,
    /// The newest document that gossip named is being fetched.
    pub pulling: Cell<bool>,
    /// Whom this node is asking for its document.
    pub fetching: RefCell<BTreeSet<NodeId>>,
    /// The newest document that was fetched and does not concern this node: not fetched again.
    pub passed_over: Cell<Option<DocumentId>>,
    /// Randomness of this thread.
    pub rng: RefCell<SmallRng>,
    /// Start of the node, from which its steady milliseconds count.
    pub started: Instant,
}

impl Control {
    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Epoch of the newest document here, 0 without one.
    pub fn epoch(&self) -> u64 {
        self.formed.borrow().as_ref().map_or(0, |f| f.ring.epoch())
    }

    /// The newest document.
    pub fn newest(&self) -> Option<Sealed> {
        self.formed.borrow().as_ref().map(|f| f.ring.sealed().clone())
    }

    /// Takes note of the free bytes of the volume: also while there is no room for the next beat.
    pub(super) async fn look_at_room(&self) {
        self.disk_free.set(self.files.free_bytes().await);
    }

    /// Says goodbye to the others, so that they need not find out.
    pub async fn leave(&self) {
        gossip::leave(self);
        // One turn of the loop, so that the frames leave before the process does.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        self.peers.close();
    }

    /// Takes in a document that another node holds as chosen. True when it is in force here now.
    pub(super) async fn learn(&self, bytes: &[u8]) -> bool {
        match serde_json::from_slice::<Document>(bytes) {
            Ok(document) => ballots::adopt(self, Sealed::new(document)).await,
            Err(error) => {
                tracing::warn!(%error, "an unreadable cluster document was not taken");
                false
            }
        }
    }
}

/// Runs the loops and answers questions until the inbox closes or the node must stop.
pub async fn run(control: Rc<Control>, mut inbox: Inbox) {
    ballots::restore(&control).await;
    gossip::publish(&control);
    tokio::task::spawn_local(seeds::run(control.clone()));
    tokio::task::spawn_local(gossip::run(control.clone()));
    tokio::task::spawn_local(marks::run(control.clone()));
    tokio::task::spawn_local(buckets::run(control.clone(), inbox.changes));
    tokio::task::spawn_local(generations::run(control.clone()));
    tokio::task::spawn_local(driver::run(control.clone()));
    tokio::task::spawn_local(rebuilds::run(control.clone()));
    tokio::task::spawn_local(handovers::run(control.clone()));
    loop {
        tokio::select! {
            biased;
            question = inbox.questions.recv() => match question {
                Some(question) => answer(&control, question),
                None => return,
            },
            Some((holder, epoch)) = inbox.pull.recv() => gossip::pull_from(&control, holder, epoch),
        }
    }
}

fn answer(control: &Rc<Control>, question: Question) {
    let Question { from, request, reply } = question;
    let control = control.clone();
    tokio::task::spawn_local(async move {
        let answer = match request {
            Request::Gossip(body) => {
                gossip::receive(&control, from, &body);
                Reply::Message(Bytes::new())
            }
            // Two processes on copies of one volume must not both vote under one name.
            Request::Ballot(_) if control.gossip.borrow().twin().is_some() => {
                let why = Unfit::of(&control).map(|reason| reason.to_string());
                Reply::Refused(Refusal::NotServing(why.unwrap_or_default()))
            }
            Request::Ballot(body) => ballots::answer(&control, from, &body).await,
            Request::FetchDocument { have_epoch } => Reply::Document(
                control
                    .newest()
                    .filter(|d| d.epoch > have_epoch)
                    .map(|d| Bytes::from(d.share().canonical())),
            ),
            other => {
                let detail = format!("{} is no control request", other.name());
                Reply::Refused(Refusal::Malformed(detail))
            }
        };
        // The worker may have given up meanwhile.
        let _ = reply.send(answer);
    });
}
