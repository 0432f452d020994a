//! One connection of the pool: dialed when it is needed, redialed with growing rests, shared by all
//! calls to one node.
//!
//! A task works on a link while there is something to do: it connects, exchanges hellos, then reads
//! and writes until the connection ends. It is gone between connections; the next call starts it.
//! Invariant: a waiting call is told exactly once, and is told "not sent" only when its parcel never
//! left the queue.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kvasir_core::id::{ClusterId, NodeId};
use tokio::io::{AsyncWriteExt, split};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::frame::{Class, Frame, FrameKind};
use super::hello::{Goodbye, HELLO_MAX_BYTES, Hello};
use super::message::Reply;
use super::outbox::{Outbox, Wire};
use super::pool::{CallError, Shared};
use super::reader::{FrameReader, ReadEnd};
use super::stats::{PeerStats, add};
use crate::seam::BoxedStream;

/// A connection that ended sooner than this counts as a failure to connect.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkKey {
    /// The node that must answer; whoever does, where absent.
    pub node: Option<NodeId>,
    /// Where.
    pub address: String,
    /// For what.
    pub class: Class,
}

/// A reply, and the generation of who sent it from before it read what is in it.
#[derive(Debug)]
pub struct Answer {
    /// What it says.
    pub reply: Reply,
    /// The stamp of its frame.
    pub generation: u64,
}

/// A call that waits for its answer.
struct Waiter {
    sent: bool,
    bytes: usize,
    answer: oneshot::Sender<Result<Answer, CallError>>,
}

#[derive(Default)]
struct State {
    /// A task works on it.
    running: bool,
    /// Hellos were exchanged.
    open: bool,
    /// Failures in a row.
    failures: u32,
    /// Calls fail until then, for this reason.
    rest: Option<(Instant, CallError)>,
    waiters: BTreeMap<u64, Waiter>,
    /// Bytes of their messages, written or not.
    waiting_bytes: usize,
    last_heard: Option<Instant>,
    last_used: Option<Instant>,
    /// Who answered last belongs to this other cluster.
    other_cluster: Option<ClusterId>,
}

impl State {
    fn insert(&mut self, id: u64, waiter: Waiter, stats: &PeerStats) {
        self.waiting_bytes += waiter.bytes;
        add(&stats.calls_open, 1);
        add(&stats.calls_open_bytes, waiter.bytes);
        self.waiters.insert(id, waiter);
    }

    fn remove(&mut self, id: u64, stats: &PeerStats) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.waiting_bytes -= waiter.bytes;
        stats.calls_open.fetch_sub(1, Relaxed);
        stats.calls_open_bytes.fetch_sub(waiter.bytes as u64, Relaxed);
        Some(waiter)
    }
}

/// See the module.
pub(super) struct Link {
    key: LinkKey,
    stats: Arc<PeerStats>,
    next_id: Cell<u64>,
    state: RefCell<State>,
    /// What waits to be written.
    pub outbox: Rc<Outbox>,
    ended: tokio::sync::Notify,
    closed: Cell<bool>,
}

/// Why a connection ended, for whoever waits on it.
enum End {
    /// No connection came about.
    NotOpened(CallError),
    /// It was open and is no more.
    Lost(String),
    /// The other side said goodbye.
    Goodbye(Goodbye),
}

impl Link {
    pub fn new(key: LinkKey, stats: Arc<PeerStats>) -> Self {
        Self {
            key,
            stats,
            next_id: Cell::new(1),
            state: RefCell::default(),
            outbox: Rc::default(),
            ended: tokio::sync::Notify::new(),
            closed: Cell::new(false),
        }
    }

    pub fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Whether a call may be queued now.
    pub fn admit(&self) -> Result<(), CallError> {
        let mut state = self.state.borrow_mut();
        match &state.rest {
            Some((until, why)) if *until > Instant::now() => Err(why.clone()),
            _ => {
                state.rest = None;
                Ok(())
            }
        }
    }

    /// Whether another call may wait for its answer, written or not: a node that answers slowly, or reads
    /// nothing, costs a bounded part of this one's memory and holds up none of its calls to others.
    pub fn has_room(&self, bytes: usize, count_max: usize, bytes_max: usize) -> bool {
        let state = self.state.borrow();
        let full = state.waiters.len() >= count_max || state.waiting_bytes + bytes > bytes_max;
        state.waiters.is_empty() || !full
    }

    /// Whether forgetting the link would lose anything.
    pub fn in_use(&self) -> bool {
        let state = self.state.borrow();
        state.running || state.rest.as_ref().is_some_and(|(until, _)| *until > Instant::now())
    }

    pub fn is_open(&self) -> bool {
        self.state.borrow().open
    }

    /// The other cluster to which the node at this address belongs, if the last that answered
    /// there said so.
    pub fn other_cluster(&self) -> Option<ClusterId> {
        self.state.borrow().other_cluster
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.key.address
    }

    /// Ends the connection for good.
    pub fn end(&self) {
        self.closed.set(true);
        self.ended.notify_waiters();
    }

    /// Ends the connection if nothing was heard on it for `silence`: a call ran out of time on it.
    pub fn suspect(&self, silence: Duration) {
        let state = self.state.borrow();
        if state.open && state.last_heard.is_none_or(|heard| heard.elapsed() >= silence) {
            self.ended.notify_waiters();
        }
    }

    /// Drops the waiter of a call that will not wait, and its message if that was not written yet.
    pub fn forget(&self, request_id: u64) {
        let waiter = self.state.borrow_mut().remove(request_id, &self.stats);
        if waiter.is_some_and(|waiter| !waiter.sent) {
            self.outbox.take_back(request_id);
        }
    }

    /// Makes sure that a task works on the link.
    pub fn start(self: &Rc<Self>, shared: &Rc<Shared>) {
        if std::mem::replace(&mut self.state.borrow_mut().running, true) {
            return;
        }
        tokio::task::spawn_local(self.clone().work(shared.clone()));
    }

    /// Connects and serves until nothing waits any more.
    async fn work(self: Rc<Self>, shared: Rc<Shared>) {
        loop {
            let began = Instant::now();
            let end = self.connection(&shared).await;
            let now = Instant::now();
            let mut state = self.state.borrow_mut();
            state.open = false;
            let opened = !matches!(end, End::NotOpened(_));
            if opened && now - began >= SHORT_LIVED {
                state.failures = 0;
            } else {
                state.failures += 1;
            }
            // One connection that ends is no reason to rest: it is opened anew if calls wait.
            let rests = state.failures > u32::from(opened);
            let reason = end.for_unsent();
            if rests {
                let until = now + shared.backoff(state.failures);
                state.rest = Some((until, reason.clone()));
            }
            let unsent = if rests || self.closed.get() { self.outbox.drain() } else { Vec::new() };
            let mut told: Vec<(Waiter, CallError)> = Vec::new();
            let lost: Vec<u64> =
                state.waiters.iter().filter(|(_, w)| w.sent).map(|(id, _)| *id).collect();
            for (ids, why) in [(lost, end.for_sent()), (unsent, reason)] {
                told.extend(
                    ids.iter()
                        .filter_map(|id| Some((state.remove(*id, &self.stats)?, why.clone()))),
                );
            }
            let done = self.outbox.waiting().0 == 0;
            state.running = !done;
            drop(state);
            for (waiter, why) in told {
                // A caller that left is not told.
                let _ = waiter.answer.send(Err(why));
            }
            if done {
                return;
            }
        }
    }

    /// One connection, from dialing to its end.
    async fn connection(&self, shared: &Rc<Shared>) -> End {
        let dialed = self.dial(shared).await;
        let (mut reader, mut writer, hello) = match dialed {
            Ok(dialed) => dialed,
            Err(error) => {
                add(&shared.stats.dial_failed, 1);
                tracing::debug!(address = %self.key.address, "no connection: {error}");
                return End::NotOpened(error);
            }
        };
        if self.closed.get() {
            return End::NotOpened(CallError::NotSent(
                "the connection was closed here".to_string(),
            ));
        }
        add(&shared.stats.dialed, 1);
        add(&shared.stats.open, 1);
        {
            let mut state = self.state.borrow_mut();
            (state.open, state.last_heard) = (true, Some(Instant::now()));
            state.other_cluster = None;
        }
        let wire = Wire {
            net: shared.net.clone(),
            from: shared.me.node(),
            to: hello.node,
            stall: shared.limits.stall,
            stats: shared.stats.clone(),
        };
        let taken = |id: u64, sent: bool| self.taken(id, sent);
        let end = tokio::select! {
            biased;
            () = self.ended.notified() => End::Lost("the connection was closed here".to_string()),
            end = self.read(shared, &mut reader, &hello) => end,
            written = wire.pump(&self.outbox, &mut writer, &taken) => match written {
                Ok(()) => End::Lost("the connection was closed here".to_string()),
                Err(error) => End::Lost(format!("writing failed: {error}")),
            },
        };
        shared.stats.open.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        let _ = timeout(Duration::from_millis(100), writer.shutdown()).await;
        end
    }

    /// Connects and exchanges hellos.
    async fn dial(&self, shared: &Shared) -> Result<Opened, CallError> {
        let not_sent = |what: &str| CallError::NotSent(format!("{}: {what}", self.key.address));
        let dialed = timeout(shared.limits.connect, shared.net.dial(&self.key.address)).await;
        let stream = dialed
            .map_err(|_| not_sent("connecting took too long"))?
            .map_err(|error| not_sent(&error.to_string()))?;
        let deadline = Instant::now() + shared.limits.connect;
        let mine = shared.me.hello();
        let (reader, mut writer) = split(stream);
        let mut reader = FrameReader::new(reader);
        let hello = async {
            writer.write_all(&mine.frame(self.key.class)).await?;
            writer.flush().await?;
            reader.first(deadline, HELLO_MAX_BYTES, &shared.stats).await
        };
        let frame: Result<Frame, ReadEnd> = timeout_at(deadline, hello)
            .await
            .map_err(|_| not_sent("it accepted the connection and said nothing"))?;
        let frame = match frame {
            Ok(frame) => frame,
            Err(ReadEnd::NoFrame(error)) => {
                shared.stats.bad_frame(&self.key.address, error);
                return Err(not_sent("no Kvasir node answers there"));
            }
            Err(end) => return Err(not_sent(&end.to_string())),
        };
        let judged = Hello::parse(&frame).map_err(Refuse::Heard).and_then(|hello| {
            mine.judge(&hello).map_err(Refuse::Said)?;
            match self.key.node {
                Some(wanted) if wanted != hello.node => Err(Refuse::Said(Goodbye::OtherNode)),
                _ => Ok(hello),
            }
        });
        match judged {
            Ok(hello) => Ok((reader, writer, hello)),
            Err(refuse) => {
                if let Refuse::Heard(Goodbye::OtherCluster { cluster }) = &refuse {
                    self.state.borrow_mut().other_cluster = Some(*cluster);
                }
                if let Refuse::Said(goodbye) = &refuse {
                    let frame = goodbye.frame(self.key.class);
                    let _ = timeout_at(deadline, writer.write_all(&frame)).await;
                }
                let (Refuse::Said(goodbye) | Refuse::Heard(goodbye)) = refuse;
                shared.stats.goodbye(&self.key.address, &goodbye);
                Err(CallError::Refused(goodbye))
            }
        }
    }

    /// Hands replies to those who wait until the connection ends.
    async fn read(&self, shared: &Shared, reader: &mut Reader, hello: &Hello) -> End {
        let limits = &shared.limits;
        loop {
            let frame = match reader.next(limits.idle, limits.stall, &shared.stats).await {
                Ok(frame) => frame,
                Err(ReadEnd::NoFrame(error)) => {
                    shared.stats.bad_frame(&self.key.address, error);
                    return End::Lost(error.to_string());
                }
                Err(ReadEnd::Idle) if !self.is_idle(limits.idle) => continue,
                Err(end) => return End::Lost(end.to_string()),
            };
            self.state.borrow_mut().last_heard = Some(Instant::now());
            if shared.me.is_foreign(hello) {
                let goodbye = Goodbye::OtherCluster { cluster: shared.me.hello().cluster };
                shared.stats.goodbye(&self.key.address, &goodbye);
                return End::Goodbye(goodbye);
            }
            match frame.header.kind {
                FrameKind::Reply => self.reply(shared, &frame),
                FrameKind::Goodbye => {
                    let goodbye = Goodbye::parse(&frame);
                    shared.stats.goodbye(&self.key.address, &goodbye);
                    return End::Goodbye(goodbye);
                }
                FrameKind::Hello | FrameKind::Request | FrameKind::Notice => {
                    return End::Lost(
                        "it sent a frame that only the dialing side sends".to_string(),
                    );
                }
            }
        }
    }

    /// Nothing waits for an answer, and nothing (notices have none) was sent for this long.
    fn is_idle(&self, idle: Duration) -> bool {
        let state = self.state.borrow();
        state.waiters.is_empty() && state.last_used.is_none_or(|used| used.elapsed() >= idle)
    }

    /// Answers one waiting call. A reply that nobody waits for is late or doubled: ignored.
    fn reply(&self, shared: &Shared, frame: &Frame) {
        let waiter = self.state.borrow_mut().remove(frame.header.request_id, &self.stats);
        let Some(waiter) = waiter else { return };
        let generation = frame.header.generation;
        let answer = Reply::decode(&frame.body).map(|reply| Answer { reply, generation });
        let answer = answer.map_err(|error| {
            add(&shared.stats.bad_bodies, 1);
            CallError::Unknown(format!("the answer does not decode: {error}"))
        });
        let _ = waiter.answer.send(answer);
    }

    /// The writer took a request off the queue.
    fn taken(&self, request_id: u64, sent: bool) {
        let mut state = self.state.borrow_mut();
        state.last_used = Some(Instant::now());
        if sent && let Some(waiter) = state.waiters.get_mut(&request_id) {
            waiter.sent = true;
        }
    }
}

type Reader = FrameReader<tokio::io::ReadHalf<BoxedStream>>;
type Opened = (Reader, tokio::io::WriteHalf<BoxedStream>, Hello);

enum Refuse {
    Said(Goodbye),
    Heard(Goodbye),
}

impl End {
    fn for_unsent(&self) -> CallError {
        match self {
            Self::NotOpened(error) => error.clone(),
            Self::Lost(why) => CallError::NotSent(why.clone()),
            Self::Goodbye(goodbye) => CallError::Refused(goodbye.clone()),
        }
    }

    fn for_sent(&self) -> CallError {
        match self {
            Self::NotOpened(error) => CallError::Unknown(error.to_string()),
            Self::Lost(why) => CallError::Unknown(why.clone()),
            Self::Goodbye(goodbye) => {
                CallError::Unknown(format!("the connection ended: {goodbye}"))
            }
        }
    }
}

/// The caller's side of a queued message. Dropping it forgets the call and takes the message back
/// if it was not written yet.
pub(super) struct Waiting {
    link: Rc<Link>,
    request_id: u64,
    answer: Option<oneshot::Receiver<Result<Answer, CallError>>>,
}

impl Waiting {
    /// Registers the call, whose message has so many bytes, before it is queued; a notice (`wants_answer`
    /// false) waits for nothing.
    pub fn new(link: &Rc<Link>, request_id: u64, bytes: usize, wants_answer: bool) -> Self {
        let answer = wants_answer.then(|| {
            let (sender, receiver) = oneshot::channel();
            let waiter = Waiter { sent: false, bytes, answer: sender };
            link.state.borrow_mut().insert(request_id, waiter, &link.stats);
            receiver
        });
        Self { link: link.clone(), request_id, answer }
    }

    /// Waits for the answer without a deadline of its own.
    pub async fn outcome(&mut self) -> Result<Answer, CallError> {
        let gone = || CallError::Unknown("the connection's task ended".to_string());
        match &mut self.answer {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(gone())),
            None => Err(gone()),
        }
    }

    /// Whether bytes of the request may have left.
    pub fn was_sent(&self) -> bool {
        self.link.state.borrow().waiters.get(&self.request_id).is_none_or(|waiter| waiter.sent)
    }

    /// The connection it waits on.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Leaves the message in the queue and waits for nothing.
    pub fn forget(mut self) {
        self.answer = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.link.forget(self.request_id);
        }
    }
}
