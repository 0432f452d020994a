//! Calls to other nodes: one connection per (node, address, class), many calls on it at once.
//!
//! One `Peers` belongs to one worker thread. A connection is opened by the first call that needs it
//! and closed when nothing used it for a while; after a failure the address rests for a bounded,
//! growing, jittered time in which calls to it fail at once. What a caller learns is exact: *not
//! sent* means that no byte of the request left, so nothing was applied; once bytes may have left,
//! anything but an answer is *unknown*. This room never sends a request twice.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvasir_core::id::{ClusterId, NodeId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, timeout_at};

use super::frame::{BODY_MAX_BYTES, Class, FrameKind, Header, Route};
use super::hello::{Goodbye, Me};
use super::link::{Answer, Link, LinkKey, Waiting};
use super::message::{Reply, Request};
use super::outbox::Parcel;
use super::stats::{PeerStats, add};
use crate::seam::Net;

/// Links that are remembered before those out of use are forgotten.
const LINKS_MAX: usize = 1024;

/// Bounds and times of a pool.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// Time to connect, and again to exchange hellos.
    pub connect: Duration,
    /// A connection without any traffic for this long is closed.
    pub idle: Duration,
    /// A write, or a frame that began to arrive, must make progress within this time.
    pub stall: Duration,
    /// A connection on which a call ran out of time is closed when nothing was heard on it for
    /// this long: a path that swallows bytes is opened anew.
    pub silence: Duration,
    /// First rest after a failure; doubled with each further one.
    pub backoff_first: Duration,
    /// Longest rest.
    pub backoff_max: Duration,
    /// Requests and notices that may wait for one connection, and requests that may wait for their answers
    /// on it, whether written or not.
    pub queue_count: usize,
    /// Bytes of each.
    pub queue_bytes: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(10),
            silence: Duration::from_secs(3),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            queue_count: 4096,
            queue_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Why a call has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request left: nothing was applied. Another node, or a later retry, may help.
    #[error("not sent: {0}")]
    NotSent(String),
    /// One of the two nodes will not talk to the other. Nothing was applied; a retry does not help
    /// until somebody acted, except after [`Goodbye::Busy`] and [`Goodbye::Draining`].
    #[error("connection refused: {0}")]
    Refused(Goodbye),
    /// Bytes of the request may have left and no answer came: it may be applied or not.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The deadline passed. Applied or not where `sent`; not applied otherwise.
    #[error("the deadline passed ({})", if *.sent { "sent, outcome unknown" } else { "not sent" })]
    Deadline {
        /// Whether bytes of the request may have left.
        sent: bool,
    },
}

impl CallError {
    /// Whether nothing was applied for sure.
    pub fn not_applied(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Refused(_) | Self::Deadline { sent: false })
    }
}

/// What every link of a pool shares.
pub(super) struct Shared {
    pub net: Rc<dyn Net>,
    pub me: Me,
    pub limits: PoolLimits,
    pub stats: Arc<PeerStats>,
    random: RefCell<SmallRng>,
}

impl Shared {
    /// The rest after this many failures in a row (at least 1), with up to a quarter of jitter.
    pub fn backoff(&self, failures: u32) -> Duration {
        let doubled =
            self.limits.backoff_first.saturating_mul(1 << failures.min(16).saturating_sub(1));
        let jitter = self.random.borrow_mut().random_range(0.75..=1.0);
        doubled.min(self.limits.backoff_max).mul_f64(jitter)
    }
}

/// The connections of one worker thread to other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    shared: Rc<Shared>,
    links: Rc<RefCell<BTreeMap<LinkKey, Rc<Link>>>>,
}

impl Peers {
    /// No connection yet. Calls spawn tasks on the current `LocalSet`. `seed` jitters the rests.
    pub fn new(
        net: Rc<dyn Net>,
        me: Me,
        limits: PoolLimits,
        stats: Arc<PeerStats>,
        seed: u64,
    ) -> Self {
        let random = RefCell::new(SmallRng::seed_from_u64(seed));
        Self { shared: Rc::new(Shared { net, me, limits, stats, random }), links: Rc::default() }
    }

    /// Asks a node and waits for its answer until the deadline. With no node id (a seed address)
    /// whoever answers at the address is asked.
    ///
    /// Dropping the future takes the request back if it was not sent yet; otherwise it may be
    /// applied.
    ///
    /// # Errors
    /// [`CallError`] says whether something may have been applied.
    pub async fn call(
        &self,
        node: impl Into<Option<NodeId>>,
        address: &str,
        route: impl Into<Option<Route>>,
        request: Request,
        deadline: Instant,
    ) -> Result<Reply, CallError> {
        Ok(self.call_stamped(node, address, (route.into(), 0), request, deadline).await?.reply)
    }

    /// As [`Self::call`], for what carries stored data or asks for it: the request is stamped with the
    /// generation of this node from before the data was read or minted, and the answer comes with that of
    /// the other node.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_stamped(
        &self,
        node: impl Into<Option<NodeId>>,
        address: &str,
        (route, generation): (Option<Route>, u64),
        request: Request,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        add(&self.shared.stats.calls, 1);
        let head =
            Header { route, generation, ..Header::plain(FrameKind::Request, request.class()) };
        let result = self.exchange(node.into(), address, head, &request, deadline).await;
        add(&self.shared.stats.calls_failed, usize::from(result.is_err()));
        result
    }

    async fn exchange(
        &self,
        node: Option<NodeId>,
        address: &str,
        header: Header,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        if deadline <= Instant::now() {
            return Err(CallError::Deadline { sent: false });
        }
        let link = self.link(node, address, request.class());
        let body = body_of(request)?;
        let waiting = self.post(&link, header, body, Some(deadline))?;
        waiting.answer(deadline, self.shared.limits.silence).await
    }

    /// Sends something that wants no answer. It may be lost, and nobody is told.
    pub fn notify(&self, node: impl Into<Option<NodeId>>, address: &str, request: Request) {
        let link = self.link(node.into(), address, request.class());
        let header = Header::plain(FrameKind::Notice, request.class());
        let deadline = Instant::now() + self.shared.limits.stall;
        let posted = body_of(&request)
            .and_then(|body| self.post(&link, header, body, Some(deadline)).map(Waiting::forget));
        if let Err(error) = posted {
            tracing::debug!(%address, notice = request.name(), "notice lost: {error}");
        }
    }

    /// Queues one message and makes sure that somebody works on the queue.
    fn post(
        &self,
        link: &Rc<Link>,
        header: Header,
        body: Bytes,
        deadline: Option<Instant>,
    ) -> Result<Waiting, CallError> {
        link.admit()?;
        let (count, bytes) = (self.shared.limits.queue_count, self.shared.limits.queue_bytes);
        let wants_answer = header.kind == FrameKind::Request;
        if wants_answer && !link.has_room(body.len(), count, bytes) {
            return Err(self.queue_full());
        }
        let request_id = link.next_id();
        let waiting = Waiting::new(link, request_id, body.len(), wants_answer);
        let parcel = Parcel { header: Header { request_id, ..header }, body, deadline };
        if !link.outbox.push(parcel, count, bytes) {
            return Err(self.queue_full());
        }
        link.start(&self.shared);
        Ok(waiting)
    }

    fn queue_full(&self) -> CallError {
        add(&self.shared.stats.queue_full, 1);
        CallError::NotSent("the queue to the node is full".to_string())
    }

    fn link(&self, node: Option<NodeId>, address: &str, class: Class) -> Rc<Link> {
        let key = LinkKey { node, address: address.to_string(), class };
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get(&key) {
            return link.clone();
        }
        if links.len() >= LINKS_MAX {
            links.retain(|_, link| link.in_use());
        }
        let link = Rc::new(Link::new(key.clone(), self.shared.stats.clone()));
        links.insert(key, link.clone());
        link
    }

    /// Says goodbye on every connection. Calls in flight end as unknown; later ones open anew.
    pub fn close(&self) {
        let links = std::mem::take(&mut *self.links.borrow_mut());
        for link in links.into_values() {
            link.end();
        }
    }

    /// The other cluster to which the node at this address belongs, if the last that answered
    /// there refused this node for that.
    pub fn other_cluster(&self, address: &str) -> Option<ClusterId> {
        let links = self.links.borrow();
        let there = links.values().filter(|link| link.address() == address);
        there.filter_map(|link| link.other_cluster()).next()
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.links.borrow().values().filter(|link| link.is_open()).count()
    }
}

fn body_of(request: &Request) -> Result<Bytes, CallError> {
    let body = request.encode();
    if body.len() > BODY_MAX_BYTES {
        let length = body.len();
        return Err(CallError::NotSent(format!("{length} bytes are more than a frame may carry")));
    }
    Ok(body.into())
}

/// Waits for an answer, and settles what is known when none came.
impl Waiting {
    pub(super) async fn answer(
        mut self,
        deadline: Instant,
        silence: Duration,
    ) -> Result<Answer, CallError> {
        match timeout_at(deadline, self.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let sent = self.was_sent();
                if sent {
                    self.link().suspect(silence);
                }
                Err(CallError::Deadline { sent })
            }
        }
    }
}
