//! Accepts connections from other nodes, hands their requests to the node, sends back the answers.
//!
//! Bounds: connections, requests in work for each connection and, by kind, for the worker
//! ([`crate::pressure`]), bytes of answers that a peer has not
//! read (beyond them it is not read from any more), time to the first whole frame, time inside a
//! frame, time of silence. A request in excess is answered "overloaded", a notice in excess is
//! dropped. A request whose deadline passed before its turn is not begun: nobody waits for it. A handler
//! runs until its request's deadline, also when its connection is gone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use kvasir_core::id::NodeId;
use tokio::io::{AsyncWriteExt, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::frame::{BODY_MAX_BYTES, Class, Frame, FrameKind, Header, Route};
use super::hello::{Goodbye, HELLO_MAX_BYTES, Hello, Me};
use super::message::{Refusal, Reply, Request};
use super::outbox::{Outbox, Parcel, Wire};
use super::reader::{FrameReader, ReadEnd};
use super::repeats::Repeats;
use super::stats::{PeerStats, add};
use crate::pressure::{Permit, Pressure, Share};
use crate::seam::{BoxedStream, Listener, Net};

/// Rest after an accept that failed, so that a process without file descriptors does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Pause that an overloaded node asks for.
const OVERLOAD_PAUSE_MS: u64 = 50;
/// Time for what is still queued when a connection ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a node that has nothing in work any more still refuses requests before it closes connections: what
/// is on its way then is answered "not applied", while a closed connection would leave it unknown.
const LINGER: Duration = Duration::from_millis(200);
/// Longest time that a frame's deadline may grant.
const DEADLINE_MAX: Duration = Duration::from_secs(600);

/// Bounds and times of the accepting side.
#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// Connections at once, of this worker.
    pub connections: usize,
    /// Requests and notices in work for one connection.
    pub requests: usize,
    /// Bytes of those requests.
    pub request_bytes: usize,
    /// Bytes of answers that may wait for one connection before its requests are not read any more.
    pub reply_bytes: usize,
    /// Time from accepting to a whole hello.
    pub hello: Duration,
    /// A connection without any frame for this long is closed.
    pub idle: Duration,
    /// A write, or a frame that began to arrive, must make progress within this time.
    pub stall: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            requests: 1024,
            request_bytes: 64 * 1024 * 1024,
            reply_bytes: 32 * 1024 * 1024,
            hello: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            stall: Duration::from_secs(10),
        }
    }
}

/// What the frame said about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// What the connection is for.
    pub class: Class,
    /// The entry by which the sender routed it.
    pub route: Option<Route>,
    /// Generation of the sender from before the payload was read or minted.
    pub generation: u64,
}

/// The node, as its peers see it.
pub trait PeerHandler {
    /// Answers a request. What goes wrong is a [`Reply::Refused`]. The answer to a notice is
    /// dropped. The future is dropped at the deadline: a write must then be whole or absent.
    fn handle(&self, from: NodeId, request: Request, head: Incoming) -> LocalBoxFuture<'_, Reply>;

    /// The generation of this node now, with which an answer is stamped whose work begins after this
    /// call.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether data may come from the process that said this hello: false while a later start of the
    /// same node id is alive.
    fn carries_its_id(&self, _hello: &Hello) -> bool {
        true
    }

    /// Whether a request that arrives a second time is worked on again; true only where a test plants it.
    fn takes_repeats(&self) -> bool {
        false
    }
}

struct Shared {
    net: Rc<dyn Net>,
    me: Me,
    handler: Rc<dyn PeerHandler>,
    limits: ListenerLimits,
    stats: Arc<PeerStats>,
    pressure: Rc<Pressure>,
    draining: Cell<bool>,
    drain: Notify,
    /// Requests in work over all connections.
    in_work: Cell<usize>,
    /// Told whenever a request or a connection ended.
    ended: Notify,
    /// Outboxes of the open connections, to say goodbye on.
    open: RefCell<BTreeMap<u64, (Class, Rc<Outbox>)>>,
    next_connection: Cell<u64>,
}

/// The accepting side of one worker thread. Cheap to clone.
#[derive(Clone)]
pub struct PeerListener(Rc<Shared>);

impl PeerListener {
    /// Accepts nothing before [`PeerListener::run`]. `pressure` is that of its worker.
    pub fn new(
        net: Rc<dyn Net>,
        me: Me,
        handler: Rc<dyn PeerHandler>,
        limits: ListenerLimits,
        stats: Arc<PeerStats>,
        pressure: Rc<Pressure>,
    ) -> Self {
        Self(Rc::new(Shared {
            net,
            me,
            handler,
            limits,
            stats,
            pressure,
            draining: Cell::new(false),
            drain: Notify::new(),
            in_work: Cell::new(0),
            ended: Notify::new(),
            open: RefCell::default(),
            next_connection: Cell::new(0),
        }))
    }

    /// Accepts and serves connections until [`PeerListener::drain`]. Spawns tasks on the current
    /// `LocalSet`.
    pub async fn run(&self, mut listener: Box<dyn Listener>) {
        let shared = &self.0;
        while !shared.draining.get() {
            let accepted = tokio::select! {
                biased;
                () = shared.drain.notified() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => {
                    tokio::task::spawn_local(shared.clone().connection(stream, remote));
                }
                Err(error) => {
                    tracing::debug!("accepting a peer connection failed: {error}");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Stops accepting, refuses new requests with "does not serve now", waits until those in work
    /// are answered (at most until the deadline) and what is on its way is refused, then says goodbye on
    /// every connection and waits for the goodbyes to be written. The result is the number of requests that
    /// were left behind.
    pub async fn drain(&self, deadline: Instant) -> usize {
        let shared = &self.0;
        shared.draining.set(true);
        shared.drain.notify_waiters();
        let answered = shared.until(deadline, || shared.in_work.get() == 0);
        answered.await;
        tokio::time::sleep_until(deadline.min(Instant::now() + LINGER)).await;
        let left = shared.in_work.get();
        for (class, outbox) in shared.open.borrow().values() {
            outbox.push_finished(Goodbye::Draining.frame(*class));
            outbox.close();
        }
        shared.until(deadline, || shared.open.borrow().is_empty()).await;
        left
    }

    /// Requests in work now.
    pub fn in_work(&self) -> usize {
        self.0.in_work.get()
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.0.open.borrow().len()
    }
}

type Writer = WriteHalf<BoxedStream>;

impl Shared {
    async fn until(&self, deadline: Instant, done: impl Fn() -> bool) {
        while !done() {
            if timeout_at(deadline, self.ended.notified()).await.is_err() {
                return;
            }
        }
    }

    /// One accepted connection, from its first byte to its end.
    async fn connection(self: Rc<Self>, stream: BoxedStream, remote: String) {
        let (reader, mut writer) = split(stream);
        let mut reader = FrameReader::new(reader);
        let deadline = Instant::now() + self.limits.hello;
        // Registered before the hello, so that connections which never say it count as well.
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        let outbox = Rc::new(Outbox::default());
        let full = self.open.borrow().len() >= self.limits.connections;
        if full {
            self.refuse(&mut writer, &remote, Goodbye::Busy, Class::Control, deadline).await;
            return;
        }
        self.open.borrow_mut().insert(number, (Class::Control, outbox.clone()));
        if let Some(hello) = self.greet(&mut reader, &mut writer, &remote, deadline).await {
            self.open.borrow_mut().insert(number, (hello.class, outbox.clone()));
            add(&self.stats.accepted, 1);
            add(&self.stats.open, 1);
            self.serve(&mut reader, &mut writer, &remote, &hello, &outbox).await;
            self.stats.open.fetch_sub(1, Ordering::Relaxed);
        }
        outbox.close();
        let _ = timeout(Duration::from_millis(100), writer.shutdown()).await;
        self.open.borrow_mut().remove(&number);
        self.ended.notify_waiters();
    }

    /// Exchanges hellos. `None`: they will not talk, and the other side was told why.
    async fn greet(
        &self,
        reader: &mut FrameReader<tokio::io::ReadHalf<BoxedStream>>,
        writer: &mut Writer,
        remote: &str,
        deadline: Instant,
    ) -> Option<Hello> {
        let mine = self.me.hello();
        let first = tokio::select! {
            biased;
            () = self.drain.notified() => return None,
            first = reader.first(deadline, HELLO_MAX_BYTES, &self.stats) => first,
        };
        let (goodbye, class) = match first {
            Ok(frame) => match Hello::parse(&frame) {
                Ok(hello) => match mine.judge(&hello) {
                    Ok(_) if self.draining.get() => (Goodbye::Draining, hello.class),
                    Ok(_) if self.is_twin(&hello) => (Goodbye::Twin, hello.class),
                    Ok(_) => {
                        let said = mine.frame(hello.class);
                        return match timeout_at(deadline, writer.write_all(&said)).await {
                            Ok(Ok(())) => Some(hello),
                            _ => None,
                        };
                    }
                    Err(goodbye) => (goodbye, hello.class),
                },
                Err(goodbye) => (goodbye, frame.header.class),
            },
            Err(ReadEnd::NoFrame(error)) => {
                self.stats.bad_frame(remote, error);
                (Goodbye::Garbage, Class::Control)
            }
            Err(ReadEnd::Stalled) => (Goodbye::Garbage, Class::Control),
            // A probe that connects and closes says nothing, and is told nothing.
            Err(_) => return None,
        };
        self.refuse(writer, remote, goodbye, class, deadline).await;
        None
    }

    async fn refuse(
        &self,
        writer: &mut Writer,
        remote: &str,
        goodbye: Goodbye,
        class: Class,
        deadline: Instant,
    ) {
        self.stats.goodbye(remote, &goodbye);
        let soon = deadline.max(Instant::now() + Duration::from_millis(100));
        let said = async {
            writer.write_all(&goodbye.frame(class)).await?;
            writer.shutdown().await
        };
        let _ = timeout_at(soon, said).await;
    }

    /// Reads requests and writes answers until the connection ends.
    async fn serve(
        self: &Rc<Self>,
        reader: &mut FrameReader<tokio::io::ReadHalf<BoxedStream>>,
        writer: &mut Writer,
        remote: &str,
        hello: &Hello,
        outbox: &Rc<Outbox>,
    ) {
        let wire = Wire {
            net: self.net.clone(),
            from: self.me.node(),
            to: hello.node,
            stall: self.limits.stall,
            stats: self.stats.clone(),
        };
        let mut written = pin!(wire.pump(outbox, writer, &|_, _| {}));
        let ended = tokio::select! {
            biased;
            written = &mut written => {
                if let Err(error) = written {
                    tracing::debug!(node = %hello.node, "answers cannot be written: {error}");
                }
                return;
            }
            ended = self.requests(reader, remote, hello, outbox) => ended,
        };
        if let Some(goodbye) = ended {
            self.stats.goodbye(remote, &goodbye);
            outbox.push_finished(goodbye.frame(hello.class));
        }
        // What was answered still leaves, as far as the other side takes it; the writer goes on
        // where it was, so that no frame is cut.
        outbox.close();
        let _ = timeout(LAST_WORDS, written).await;
    }

    /// Reads frames until the connection ends; the goodbye to say, if one is due.
    async fn requests(
        self: &Rc<Self>,
        reader: &mut FrameReader<tokio::io::ReadHalf<BoxedStream>>,
        remote: &str,
        hello: &Hello,
        outbox: &Rc<Outbox>,
    ) -> Option<Goodbye> {
        let load = Rc::new(Load::default());
        let mut repeats = Repeats::default();
        loop {
            // A peer that reads none of its answers stops the writer, whose stall time ends this.
            outbox.below(self.limits.reply_bytes).await;
            let next = reader.next(self.limits.idle, self.limits.stall, &self.stats).await;
            let frame = match next {
                Ok(frame) => frame,
                Err(ReadEnd::NoFrame(error)) => {
                    self.stats.bad_frame(remote, error);
                    return Some(Goodbye::FramingLost);
                }
                Err(ReadEnd::Idle) if load.requests.get() > 0 => continue,
                Err(_) => return None,
            };
            if self.me.is_foreign(hello) {
                return Some(Goodbye::OtherCluster { cluster: self.me.hello().cluster });
            }
            if self.is_twin(hello) {
                return Some(Goodbye::Twin);
            }
            match frame.header.kind {
                // The first one answers, or has.
                FrameKind::Request
                    if !repeats.is_new(frame.header.request_id)
                        && !self.handler.takes_repeats() =>
                {
                    add(&self.stats.repeated, 1);
                    tracing::debug!(node = %hello.node, "a request arrived twice");
                }
                FrameKind::Request | FrameKind::Notice => {
                    self.request(&frame, hello, outbox, &load);
                }
                FrameKind::Goodbye => {
                    self.stats.goodbye(remote, &Goodbye::parse(&frame));
                    return None;
                }
                FrameKind::Hello | FrameKind::Reply => return Some(Goodbye::FramingLost),
            }
        }
    }

    /// Whether this connection brings data of a process that does not carry its node id.
    fn is_twin(&self, hello: &Hello) -> bool {
        hello.class == Class::Data && !self.handler.carries_its_id(hello)
    }

    /// Starts the work on one request, or answers at once that it is not done.
    fn request(
        self: &Rc<Self>,
        frame: &Frame,
        hello: &Hello,
        outbox: &Rc<Outbox>,
        load: &Rc<Load>,
    ) {
        let header = frame.header;
        let is_notice = header.kind == FrameKind::Notice;
        let left = Duration::from_millis(u64::from(header.deadline_left_ms)).min(DEADLINE_MAX);
        let head = Incoming {
            deadline: Instant::now() + left,
            class: hello.class,
            route: header.route,
            generation: header.generation,
        };
        let (request, permit) = match self.admit(frame, &head, load) {
            Ok(admitted) => admitted,
            Err(_) if is_notice => return,
            Err(refusal) => return answer(outbox, &header, 0, Reply::Refused(refusal)),
        };
        let generation = self.handler.generation();
        let work = InWork::begin(self, load, frame.body.len());
        let (outbox, from) = (outbox.clone(), hello.node);
        tokio::task::spawn_local(async move {
            let reply = work.shared.in_turn(from, request, head).await;
            if !is_notice {
                answer(&outbox, &header, generation, reply);
            }
            drop((work, permit));
        });
    }

    /// Works on a request, unless its deadline passed while it waited for its turn.
    async fn in_turn(&self, from: NodeId, request: Request, head: Incoming) -> Reply {
        if head.deadline <= Instant::now() {
            self.pressure.too_late();
            return Reply::Refused(Refusal::Deadline);
        }
        let handled = self.handler.handle(from, request, head);
        timeout_at(head.deadline, handled).await.unwrap_or_else(|_| {
            Reply::Refused(Refusal::Unknown("the deadline passed during the work".to_string()))
        })
    }

    /// Decodes a request that may be worked on now, and takes a place for it where its kind needs one.
    fn admit(
        &self,
        frame: &Frame,
        head: &Incoming,
        load: &Load,
    ) -> Result<(Request, Option<Permit>), Refusal> {
        if self.draining.get() {
            return Err(Refusal::NotServing("it is shutting down".to_string()));
        }
        if frame.header.deadline_left_ms == 0 {
            return Err(Refusal::Deadline);
        }
        let requests = load.requests.get();
        let bytes = load.bytes.get() + frame.body.len();
        let overloaded = || {
            let notice = frame.header.kind == FrameKind::Notice;
            add(if notice { &self.stats.notices_dropped } else { &self.stats.overloaded }, 1);
            Refusal::Overloaded { retry_after_ms: OVERLOAD_PAUSE_MS }
        };
        if requests >= self.limits.requests || (requests > 0 && bytes > self.limits.request_bytes) {
            return Err(overloaded());
        }
        let malformed = |why: String| {
            add(&self.stats.bad_bodies, 1);
            Refusal::Malformed(why)
        };
        let request = Request::decode(&frame.body).map_err(|error| malformed(error.to_string()))?;
        if request.class() != head.class || frame.header.class != head.class {
            return Err(malformed(format!("{} on the wrong connection", request.name())));
        }
        let piece = Share { count: 1, bytes: frame.body.len() };
        let permit = request.work().map(|work| self.pressure.enter(work, piece)).transpose();
        Ok((request, permit.map_err(|_| overloaded())?))
    }
}

/// Queues the answer to a request; one that no frame can carry becomes a refusal.
fn answer(outbox: &Outbox, request: &Header, generation: u64, reply: Reply) {
    let mut body = reply.encode();
    if body.len() > BODY_MAX_BYTES {
        body = Reply::Refused(Refusal::TooLarge { bytes: body.len() as u64 }).encode();
    }
    let header = Header {
        request_id: request.request_id,
        route: request.route,
        generation,
        ..Header::plain(FrameKind::Reply, request.class)
    };
    outbox.push_reply(Parcel { header, body: body.into(), deadline: None });
}

/// What one connection has in work.
#[derive(Debug, Default)]
struct Load {
    requests: Cell<usize>,
    bytes: Cell<usize>,
}

/// Counts one request as in work until dropped.
struct InWork {
    shared: Rc<Shared>,
    load: Rc<Load>,
    bytes: usize,
}

impl InWork {
    fn begin(shared: &Rc<Shared>, load: &Rc<Load>, bytes: usize) -> Self {
        shared.in_work.set(shared.in_work.get() + 1);
        load.requests.set(load.requests.get() + 1);
        load.bytes.set(load.bytes.get() + bytes);
        Self { shared: shared.clone(), load: load.clone(), bytes }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.shared.in_work.set(self.shared.in_work.get() - 1);
        self.load.requests.set(self.load.requests.get() - 1);
        self.load.bytes.set(self.load.bytes.get() - self.bytes);
        self.shared.ended.notify_waiters();
    }
}
