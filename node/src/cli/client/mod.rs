//! An HTTP client over several servers that can each do the same.
//!
//! One request is tried on one server after another until one answers for good, the tries or the
//! deadline are used up. What may be tried again follows from what is known of the try before:
//!
//! - nothing was sent, or the answer says that nothing was applied: always;
//! - something was sent and no answer came, or the answer says that the write may be stored: only
//!   where the request says [`Repeat::Always`]. Reads may, and so may a put: it stores the same
//!   value under the same context again, and Kvasir shows equal siblings as one. A delete without
//!   token may not, since it would remove what others wrote in between.
//!
//! Connections are kept and reused. A server that did not answer rests for a moment, so that a
//! long import does not wait for a dead node again and again.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use kvasir_core::admin_api::Problem;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cli::failure::{Exit, Failure, may_be_stored};
use crate::cli::servers::Server;

/// How long a server that did not answer is left alone while others can be asked.
const REST: Duration = Duration::from_secs(1);
/// First pause after every server was tried once; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whether a request may be sent again after bytes of it were sent and no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Doing it twice is the same as doing it once.
    Always,
    /// Only as long as it certainly was not applied.
    UnlessSent,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// HTTP method.
    pub method: Method,
    /// Path and query, encoded.
    pub target: String,
    /// Header names in lower case, with values.
    pub headers: Vec<(&'static str, String)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// What may happen after bytes were sent.
    pub repeat: Repeat,
}

impl Ask {
    /// A read of this target.
    pub fn get(target: impl Into<String>) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method: Method::GET, target: target.into(), headers, body, repeat: Repeat::Always }
    }
}

/// The answer that the caller has to deal with; may be an error answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Who answered.
    pub server: String,
    /// Tries before this one.
    pub retries: u32,
    /// An earlier try was sent and not answered: a write may be stored even if this answer says
    /// that it is not.
    pub unknown: bool,
}

impl Reply {
    /// A header as text, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The failure that an error answer stands for.
    pub fn failure(&self) -> Failure {
        let mut failure = Failure::answered(&self.server, self.status, &self.body);
        if self.unknown {
            failure.message += "; an earlier try was sent and not answered, so it may be stored";
        }
        failure
    }
}

/// Bounds of a client.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// From the first try to the last answer.
    pub total: Duration,
    /// One try, connecting included.
    pub attempt: Duration,
    /// Most tries of one request; 0 for as many as fit into `total`.
    pub tries: u32,
}

/// A client over several equal servers. Futures of it must be driven on one thread.
pub struct Client {
    slots: Vec<Slot>,
    preferred: Cell<usize>,
    bounds: Bounds,
    bearer: Option<String>,
    /// The option that names the servers, for error messages.
    option: &'static str,
}

struct Slot {
    server: Server,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    rests_until: Cell<Option<Instant>>,
}

/// A try without answer.
enum Broken {
    /// The server has not seen the request.
    NotSent(String),
    /// It may have.
    Sent(String),
}

/// What is known of a request while it is tried.
#[derive(Default)]
struct Story {
    retries: u32,
    unknown: bool,
    last: Option<Reply>,
    troubles: Vec<String>,
}

impl Client {
    /// A client of these servers, asked in this order.
    pub fn new(option: &'static str, servers: Vec<Server>, bounds: Bounds) -> Self {
        let slot = |server| Slot { server, idle: RefCell::default(), rests_until: Cell::new(None) };
        let slots = servers.into_iter().map(slot).collect();
        Self { slots, preferred: Cell::new(0), bounds, bearer: None, option }
    }

    /// The same, with a bearer token in every request.
    pub fn with_bearer(mut self, bearer: Option<String>) -> Self {
        self.bearer = bearer;
        self
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The same answer as `len() == 0`.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Time of one try: what a server is asked to stay within.
    pub fn attempt(&self) -> Duration {
        self.bounds.attempt.min(self.bounds.total)
    }

    /// Sends a request, beginning with the server that answered last.
    pub async fn ask(&self, ask: &Ask) -> Result<Reply, Failure> {
        let reply = self.ask_from(self.preferred.get(), ask).await?;
        if let Some(at) = self.slots.iter().position(|s| s.server.to_string() == reply.server) {
            self.preferred.set(at);
        }
        Ok(reply)
    }

    /// Sends a request, beginning with the `first`-th server (modulo their number).
    ///
    /// The answer may be an error answer; it is a `Failure` only when no server answered.
    pub async fn ask_from(&self, first: usize, ask: &Ask) -> Result<Reply, Failure> {
        let deadline = Instant::now() + self.bounds.total;
        let mut story = Story::default();
        let mut at = first;
        for number in 0.. {
            let slot = self.pick(&mut at);
            match self.attempt_once(slot, ask, deadline).await {
                Ok(mut reply) => {
                    slot.rests_until.set(None);
                    reply.retries = story.retries;
                    reply.unknown = story.unknown;
                    let again = self.may_go_on(&reply, ask, &mut story);
                    if !again {
                        return Ok(reply);
                    }
                    story.last = Some(reply);
                }
                Err(broken) => {
                    slot.rests_until.set(Some(Instant::now() + REST));
                    let (why, sent) = match broken {
                        Broken::NotSent(why) => (why, false),
                        Broken::Sent(why) => (why, true),
                    };
                    story.trouble(&slot.server, &why);
                    story.unknown |= sent;
                    if sent && ask.repeat == Repeat::UnlessSent {
                        break;
                    }
                }
            }
            let used_up = self.bounds.tries > 0 && number + 1 >= self.bounds.tries;
            if used_up || !self.pause(number, deadline, story.last.as_ref()).await {
                break;
            }
            story.retries += 1;
        }
        self.give_up(ask, story)
    }

    /// The next server in turn that does not rest; where all rest, the next in turn.
    fn pick(&self, at: &mut usize) -> &Slot {
        let now = Instant::now();
        let count = self.slots.len();
        let awake = |slot: &Slot| slot.rests_until.get().is_none_or(|until| until <= now);
        let step = (0..count).find(|step| awake(&self.slots[(*at + step) % count])).unwrap_or(0);
        let chosen = (*at + step) % count;
        *at = chosen + 1;
        &self.slots[chosen]
    }

    /// Whether an answer asks for another try elsewhere.
    fn may_go_on(&self, reply: &Reply, ask: &Ask, story: &mut Story) -> bool {
        if !matches!(reply.status, 429 | 500 | 503 | 504) {
            return false;
        }
        let problem = serde_json::from_slice::<Problem>(&reply.body).ok();
        let changes = ask.method != Method::GET && ask.method != Method::HEAD;
        let stored = changes
            && match problem.as_ref().and_then(may_be_stored) {
                Some(stored) => stored,
                None => !matches!(reply.status, 429 | 503),
            };
        story.unknown |= stored;
        !stored || ask.repeat == Repeat::Always
    }

    /// Waits before the next try where every server had its turn; false when time is over.
    async fn pause(&self, number: u32, deadline: Instant, last: Option<&Reply>) -> bool {
        let (tried, servers) = (number + 1, self.slots.len().max(1) as u32);
        let pause = if tried.is_multiple_of(servers) {
            let asked = last.and_then(|reply| reply.header(RETRY_AFTER.as_str())?.parse().ok());
            let own = PAUSE.saturating_mul(1 << (tried / servers - 1).min(5));
            own.max(Duration::from_secs(asked.unwrap_or(0))).min(PAUSE_MAX)
        } else {
            Duration::ZERO
        };
        if Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    fn give_up(&self, ask: &Ask, story: Story) -> Result<Reply, Failure> {
        if let Some(mut reply) = story.last {
            reply.retries = story.retries;
            reply.unknown = story.unknown;
            return Ok(reply);
        }
        let mut message = format!("no server answered: {}", story.troubles.join("; "));
        if ask.method != Method::GET {
            message += match story.unknown {
                true => "; something was sent, so the change may be stored",
                false => "; nothing was sent, so nothing is changed",
            };
        }
        let next = format!(
            "start a cluster with `kvasir dev`, or name servers that run with {} http://HOST:PORT",
            self.option
        );
        Err(Failure::new(Exit::Unavailable, message, next))
    }

    async fn attempt_once(
        &self,
        slot: &Slot,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let sent = Cell::new(false);
        let until = deadline.min(Instant::now() + self.bounds.attempt);
        match tokio::time::timeout_at(until, self.exchange(slot, ask, &sent)).await {
            Ok(outcome) => outcome,
            Err(_) if sent.get() => Err(Broken::Sent("no answer in time".into())),
            Err(_) => Err(Broken::NotSent("no connection in time".into())),
        }
    }

    async fn exchange(&self, slot: &Slot, ask: &Ask, sent: &Cell<bool>) -> Result<Reply, Broken> {
        let request = self.request(slot, ask)?;
        let mut connection = slot.connection().await?;
        sent.set(true);
        let response = connection.try_send_request(request).await.map_err(|error| {
            let unsent = error.message().is_some();
            let why = error.error().to_string();
            if unsent { Broken::NotSent(why) } else { Broken::Sent(why) }
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Broken::Sent(error.to_string()))?;
        slot.idle.borrow_mut().push(connection);
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
            server: slot.server.to_string(),
            retries: 0,
            unknown: false,
        })
    }

    fn request(&self, slot: &Slot, ask: &Ask) -> Result<Request<Full<Bytes>>, Broken> {
        let mut builder = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.target)
            .header(HOST, slot.server.authority());
        for (name, value) in &ask.headers {
            builder = builder.header(*name, value);
        }
        if let Some(bearer) = &self.bearer {
            builder = builder.header(hyper::header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        builder.body(Full::new(ask.body.clone())).map_err(|e| Broken::NotSent(e.to_string()))
    }
}

impl Slot {
    /// A connection that can take a request: a kept one, or a new one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Broken> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let Some(mut kept) = kept else { break };
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        let unsent = |error: &dyn std::fmt::Display| Broken::NotSent(error.to_string());
        let stream =
            TcpStream::connect(self.server.authority()).await.map_err(|error| unsent(&error))?;
        stream.set_nodelay(true).map_err(|error| unsent(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unsent(&error))?;
        // Ends when the sender is dropped or the server closes; its errors reach the sender too.
        tokio::spawn(async move { connection.await.ok() });
        sender.ready().await.map_err(|error| unsent(&error))?;
        Ok(sender)
    }
}

impl Story {
    fn trouble(&mut self, server: &Server, why: &str) {
        let line = format!("{server}: {why}");
        if !self.troubles.contains(&line) && self.troubles.len() < 8 {
            self.troubles.push(line);
        }
    }
}

#[cfg(test)]
mod tests;
