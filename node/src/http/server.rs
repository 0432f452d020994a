//! Connections of one listener: accepted up to a bound, served, drained.
//!
//! A connection is one task on the worker that accepted it. Draining stops accepting, lets every
//! request in flight finish, closes idle connections at once and cuts the rest off after a grace.
//! HTTP/1.1 only: what is not spoken cannot be flooded.
//!
//! At the bound, whoever has asked for nothing for longest makes room for who comes; where nobody has for
//! a second, the newcomer is refused. So connections that nobody uses keep nobody out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{DATE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Answer;
use super::connection::{FAULT_TARGET, Quiet, Screened, Shared};
use super::date::http_date;
use super::limits::HttpLimits;
use super::problem::{Code, Problem};
use super::screen::Fault;
use super::stats::{HttpStats, Operation, Raised};

/// Bytes beyond the limit of an unwanted body that are read and dropped after the answer, so that
/// the client gets to read it: closing earlier would reset the connection under the answer.
const LINGER_BYTES: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(1);
/// Connections beyond the bound that were told so and have not gone yet. One more, and the first is cut off.
pub const REFUSALS_MAX: usize = 256;
/// Connections beyond the bound while as many, told to make room, have not gone yet.
pub const LEAVING_MAX: usize = 64;
/// A connection that asked for something within this time makes room for nobody.
const USED_WITHIN: Duration = Duration::from_secs(1);

/// Answers the requests of a listener.
pub trait Handler: 'static {
    /// Answers one request. Runs on the thread that accepted the connection.
    fn handle(self: Rc<Self>, request: Request<Incoming>) -> impl Future<Output = Answer>;
}

/// Where connections come from.
pub trait Accept {
    /// A connection's byte stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    /// The next connection. Cancelling the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>>;
}

/// One listener's worth of connections.
pub struct Server<H> {
    handler: Rc<H>,
    limits: HttpLimits,
    stats: Arc<HttpStats>,
    wall_ms: Rc<dyn Fn() -> u64>,
}

impl<H: Handler> Server<H> {
    /// `wall_ms` is the wall clock in Unix milliseconds, for `Date`.
    pub fn new(
        handler: Rc<H>,
        limits: HttpLimits,
        stats: Arc<HttpStats>,
        wall_ms: Rc<dyn Fn() -> u64>,
    ) -> Self {
        Self { handler, limits, stats, wall_ms }
    }

    /// Serves until `drain` turns true (or its sender is gone), then waits up to `grace` for the
    /// requests in flight. Must run inside a `LocalSet`.
    pub async fn run<A: Accept>(
        self: Rc<Self>,
        mut listener: A,
        mut drain: watch::Receiver<bool>,
        grace: Duration,
    ) {
        let mut tasks = JoinSet::new();
        let (open, mut refusals) = (Rc::new(Open::default()), Refusals::default());
        let stop = drain.clone();
        loop {
            tokio::select! {
                biased;
                _ = drain.wait_for(|draining| *draining) => break,
                Some(ended) = tasks.join_next() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok(stream) => {
                        if let Some(refused) = self.admit(stream, &open, &stop, &mut tasks) {
                            refusals.add(refused, &mut tasks).await;
                        }
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: a pause lets others finish.
                        tracing::warn!(%error, "accepting a connection failed");
                        sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(listener);
        let all = async { while tasks.join_next().await.map(log_panic).is_some() {} };
        if timeout(grace, all).await.is_err() {
            let left = open.connections.borrow().len();
            tracing::warn!(left, "connections cut off at the end of the grace period");
        }
    }

    /// Serves a connection, or gives it back if there is no room for it.
    fn admit<S>(
        self: &Rc<Self>,
        stream: S,
        open: &Rc<Open>,
        drain: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.stats.accepted.fetch_add(1, Relaxed);
        if open.has_room(self.limits.connections_max) {
            let (server, open, drain) = (self.clone(), Counted::new(open), drain.clone());
            tasks.spawn_local(async move {
                server.serve_shared(stream, drain, open.shared.clone()).await;
                drop(open);
            });
            return None;
        }
        self.stats.refused_connections.fetch_add(1, Relaxed);
        self.stats.problem(Code::TooManyConnections);
        Some(stream)
    }

    /// Serves one connection until either side ends it.
    pub async fn serve<S>(&self, stream: S, drain: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.serve_shared(stream, drain, Rc::default()).await;
    }

    async fn serve_shared<S>(&self, stream: S, mut drain: watch::Receiver<bool>, shared: Rc<Shared>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let _open = Raised::by_one(&self.stats.connections);
        let screened = Screened::new(stream, &self.limits, shared.clone());
        let service = service_fn(|request| self.respond(request, shared.clone()));
        let mut connection = http1::Builder::new()
            .half_close(true)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(screened), service);
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                _ = drain.wait_for(|draining| *draining), if !draining => {
                    draining = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                    if let Err(error) = ended {
                        self.note_end(&error);
                    }
                    break;
                }
            }
        }
        match shared.quiet.get() {
            Some(Quiet::Idle) => self.stats.idle.fetch_add(1, Relaxed),
            Some(Quiet::MadeRoom) => self.stats.made_room.fetch_add(1, Relaxed),
            None => 0,
        };
        let (stream, unread) = connection.into_parts().io.into_inner().into_inner();
        let linger = if unread { self.limits.value_max_bytes + LINGER_BYTES } else { 0 };
        let _ = timeout(LINGER, finish(stream, linger)).await;
    }

    fn respond(
        &self,
        request: Request<Incoming>,
        shared: Rc<Shared>,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>>>> {
        let handler = self.handler.clone();
        let wall_ms = self.wall_ms.clone();
        let fault = shared.fault.get().filter(|_| request.uri().path() == FAULT_TARGET);
        if let Some(fault) = fault {
            self.note_fault(fault);
        }
        let counted = InFlight::new(shared);
        let stats = self.stats.clone();
        Box::pin(async move {
            let mut answer = match fault {
                Some(fault) => {
                    let status = fault.code.status().as_u16();
                    stats.answered(Operation::Other, status, Duration::ZERO, 0);
                    let problem = Problem::new(fault.code, fault.detail).close();
                    match fault.code {
                        Code::TooManyConnections => problem.retry_after_ms(1_000).answer(),
                        _ => problem.answer(),
                    }
                }
                None => handler.handle(request).await,
            };
            if let Some(code) = answer.extensions_mut().remove::<Code>() {
                stats.problem(code);
            }
            if let Ok(date) = HeaderValue::try_from(http_date(wall_ms())) {
                answer.headers_mut().insert(DATE, date);
            }
            // A body in pieces is not answered before its end.
            answer.body_mut().hold(counted);
            Ok(answer)
        })
    }

    fn note_fault(&self, fault: Fault) {
        let counter = match fault.code {
            Code::RequestTimeout => &self.stats.timeouts,
            Code::TooManyConnections => &self.stats.made_room,
            _ => &self.stats.malformed,
        };
        counter.fetch_add(1, Relaxed);
        tracing::debug!(code = fault.code.name(), detail = fault.detail, "connection ended");
    }

    fn note_end(&self, error: &hyper::Error) {
        let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
        if source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            self.stats.timeouts.fetch_add(1, Relaxed);
        }
        tracing::debug!(%error, "connection ended");
    }
}

/// A request of a connection while it is being answered.
struct InFlight(Rc<Shared>);

impl InFlight {
    fn new(shared: Rc<Shared>) -> Self {
        shared.in_flight.set(shared.in_flight.get() + 1);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// The connections that count towards the bound.
#[derive(Default)]
struct Open {
    connections: RefCell<BTreeMap<u64, Rc<Shared>>>,
    leaving: Cell<usize>,
    next: Cell<u64>,
    /// Until then nobody will have rested for long enough.
    full_until: Cell<Option<Instant>>,
}

impl Open {
    /// Whether one more may come; at the bound, whether another makes room for it.
    fn has_room(&self, most: usize) -> bool {
        let open = self.connections.borrow();
        if open.len() < most + self.leaving.get() {
            return true;
        }
        if self.leaving.get() >= LEAVING_MAX {
            return false;
        }
        let now = Instant::now();
        if self.full_until.get().is_some_and(|until| now < until) {
            return false;
        }
        let waiting = open.values().filter_map(|one| Some((one.waits_since()?, one)));
        let longest = waiting.min_by_key(|(since, _)| *since);
        let Some((_, leaves)) = longest.filter(|(since, _)| now - *since >= USED_WITHIN) else {
            let rested = longest.map_or(now, |(since, _)| since) + USED_WITHIN;
            self.full_until.set(Some(rested));
            return false;
        };
        self.leaving.set(self.leaving.get() + 1);
        leaves.leave();
        true
    }
}

/// A connection that counts towards the bound.
struct Counted {
    open: Rc<Open>,
    number: u64,
    shared: Rc<Shared>,
}

impl Counted {
    fn new(open: &Rc<Open>) -> Self {
        let number = open.next.replace(open.next.get() + 1);
        let shared = Rc::new(Shared::default());
        open.connections.borrow_mut().insert(number, shared.clone());
        Self { open: open.clone(), number, shared }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.connections.borrow_mut().remove(&self.number);
        if self.shared.is_leaving() {
            self.open.leaving.set(self.open.leaving.get() - 1);
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Ends the sending side, and reads up to `left` bytes more where the client may still be sending.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, mut left: usize) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut waste = [0; 4_096];
    while left > 0 {
        match stream.read(&mut waste).await {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

/// Connections beyond the bound while they are told so, and for a moment after it.
#[derive(Default)]
struct Refusals(VecDeque<(Rc<Cell<bool>>, AbortHandle)>);

impl Refusals {
    /// Tells one more. At the bound whoever was told first is cut off; where it was not told yet, that is
    /// waited for, and so are those that connect next: nobody is sent away without a word.
    async fn add<S>(&mut self, stream: S, tasks: &mut JoinSet<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.0.retain(|(_, task)| !task.is_finished());
        while self.0.len() >= REFUSALS_MAX
            && let Some((told, task)) = self.0.front()
        {
            if told.get() || task.is_finished() {
                task.abort();
                self.0.pop_front();
            } else {
                tokio::task::yield_now().await;
            }
        }
        let told = Rc::new(Cell::new(false));
        let telling = told.clone();
        let task = tasks.spawn_local(async move {
            let _ = timeout(LINGER, refuse(stream, &telling)).await;
        });
        self.0.push_back((told, task));
    }
}

/// Tells a client that the node has too many connections.
async fn refuse<S>(mut stream: S, told: &Cell<bool>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let detail = "no further connection is taken now";
    let answer = Problem::new(Code::TooManyConnections, detail).retry_after_ms(1_000).answer();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.flush().await?;
    told.set(true);
    finish(stream, LINGER_BYTES).await;
    Ok(())
}
