//! The byte stream of one connection as the parser sees it: screened and timed.
//!
//! Reads go through [`Screen`]. Where it finds a fault in a head, the parser gets a request of our
//! own instead of the broken one; the service answers it with the fault, after the answers to the
//! requests before it, and the connection ends. Where a body is broken, the parser sees the stream
//! end and the reader of the body says so.
//!
//! The clocks here cover what the parser does not: a connection that never sends a byte, a head
//! that trickles in, idleness between requests, and a client that does not read its answer. While
//! a request is being answered or its body read none of them runs; [`super::body`] and the
//! request's deadline do.
//!
//! A connection that waits for a request may be told to leave, to make room for another. One on which no
//! request ever came is told why it ends, by an answer; one that is kept between requests just ends, as
//! clients expect of those.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::HttpLimits;
use super::problem::Code;
use super::screen::{Fault, Screen};

/// Target of the request that stands for a fault. Sent by a client it is an unknown route.
pub const FAULT_TARGET: &str = "/.fault";
const FAULT_REQUEST: &[u8] = b"GET /.fault HTTP/1.1\r\nConnection: close\r\n\r\n";

/// What stream and service of one connection share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Requests being answered.
    pub in_flight: Cell<u32>,
    /// Why the connection ends, once it does.
    pub fault: Cell<Option<Fault>>,
    /// Why it ended without a word, if it did.
    pub quiet: Cell<Option<Quiet>>,
    /// Since when it waits for the end of a head, if it does.
    waits_since: Cell<Option<Instant>>,
    leaves: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// Why a connection ended between two requests, without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// No further request came.
    Idle,
    /// It made room for another.
    MadeRoom,
}

impl Shared {
    /// Since when the connection has waited for a request, unless it was told to leave.
    pub fn waits_since(&self) -> Option<Instant> {
        self.waits_since.get().filter(|_| !self.leaves.get())
    }

    /// Has the connection end, unless a request comes first.
    pub fn leave(&self) {
        self.leaves.set(true);
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Whether it was told to leave.
    pub fn is_leaving(&self) -> bool {
        self.leaves.get()
    }

    fn wait(&self, since: Option<Instant>, cx: &Context<'_>) {
        self.waits_since.set(since);
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }
}

/// A timer that is set again and again.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `at` has passed; otherwise wakes the task then.
    fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

/// A screened, timed stream.
pub struct Screened<S> {
    stream: S,
    screen: Screen,
    /// The beginning of a head that is not whole yet.
    held: BytesMut,
    /// Judged bytes that did not fit into the parser's buffer.
    staged: BytesMut,
    /// No more bytes will be passed after `staged`.
    over: bool,
    /// Whether a head was passed before.
    used: bool,
    /// Since when the connection rests, or since when its head comes in.
    since: Option<Instant>,
    alarm: Alarm,
    stuck_since: Option<Instant>,
    write_alarm: Alarm,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    shared: Rc<Shared>,
}

impl<S> Screened<S> {
    /// Screens `stream`.
    pub fn new(stream: S, limits: &HttpLimits, shared: Rc<Shared>) -> Self {
        Self {
            stream,
            screen: Screen::new(),
            held: BytesMut::new(),
            staged: BytesMut::new(),
            over: false,
            used: false,
            since: None,
            alarm: Alarm::default(),
            stuck_since: None,
            write_alarm: Alarm::default(),
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            shared,
        }
    }

    /// The stream itself, and whether the client may still be sending what nobody will read.
    pub fn into_inner(self) -> (S, bool) {
        let unread = self.shared.fault.get().is_some() || !self.screen.in_head();
        (self.stream, unread)
    }

    /// Judges what was read into `buf` after `before` and leaves there what may pass.
    fn admit(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &buf.filled()[before..];
        let (passed, fault) = if self.held.is_empty() {
            let (passed, fault) = self.screen.judge(fresh);
            self.held.extend_from_slice(&fresh[passed..]);
            buf.set_filled(before + passed);
            (passed, fault)
        } else {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            let (passed, fault) = self.screen.judge(&self.held);
            self.staged = self.held.split_to(passed);
            (passed, fault)
        };
        if passed > 0 {
            // Whatever is held now began just now.
            self.used = true;
            self.since = None;
        }
        if !self.held.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
        if let Some(fault) = fault {
            self.end(fault);
        }
    }

    fn end(&mut self, fault: Fault) {
        self.shared.fault.set(Some(fault));
        self.held.clear();
        self.over = true;
        if self.screen.in_head() {
            self.staged.extend_from_slice(FAULT_REQUEST);
        }
    }

    /// Ready when the client took too long; what follows from it is done then.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let resting = self.held.is_empty();
        if resting && (!self.screen.in_head() || self.shared.in_flight.get() > 0) {
            self.since = None;
            self.shared.waits_since.set(None);
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.shared.wait(Some(since), cx);
        let kept = resting && self.used;
        let leaves = self.shared.leaves.get();
        if !leaves {
            let patience = if kept { self.idle_timeout } else { self.head_timeout };
            std::task::ready!(self.alarm.poll(since + patience, cx));
        }
        let detail = match (leaves, resting) {
            _ if kept => {
                self.shared.quiet.set(Some(if leaves { Quiet::MadeRoom } else { Quiet::Idle }));
                self.over = true;
                return Poll::Ready(());
            }
            (true, _) => "a connection that asked for nothing makes room for another",
            (false, true) => "no request came in time",
            (false, false) => "the head of the request was not whole in time",
        };
        let code = if leaves { Code::TooManyConnections } else { Code::RequestTimeout };
        self.end(Fault { code, detail });
        Poll::Ready(())
    }

    /// Turns a write that waits too long for the client into an error.
    fn timed<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck_since = None;
            return poll;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        std::task::ready!(self.write_alarm.poll(since + self.write_timeout, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.staged.is_empty() {
                let count = this.staged.len().min(buf.remaining());
                buf.put_slice(&this.staged[..count]);
                this.staged.advance(count);
                return Poll::Ready(Ok(()));
            }
            if this.over || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() == before => this.over = true,
                Poll::Ready(Ok(())) => {
                    if this.held.is_empty() {
                        this.since = None;
                        this.shared.waits_since.set(None);
                    }
                    this.admit(buf, before);
                    if buf.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => std::task::ready!(this.poll_patience(cx)),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.timed(poll, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.timed(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        this.timed(poll, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
