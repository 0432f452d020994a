//! The client API driven in process: raw bytes in, raw bytes out, over a coordinator in memory.

mod answers;
mod framing;
mod many;
mod pressed;
mod settings;
mod slow;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::version::{
    Actor, Context, Life, Payload, Sibling, SiblingSet, Stamp, Token, TokenKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::api::Api;
use super::limits::HttpLimits;
use super::server::Server;
use super::stats::HttpStats;
use crate::coordinator::request::{
    Acks, CoordinateError, Coordinator, DeleteOutcome, DeleteRequest, Durability, GetOutcome,
    GetRequest, PutOutcome, PutRequest, Showing,
};
use crate::coordinator::{ListPage, ListRequest, ListedKey};
use crate::pressure::{Pressure, PressureStats, Share, Shares};

const NOW_MS: u64 = 784_111_777_000;
const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
const SECRET: TokenKey = TokenKey([9; 32]);

/// One replica without a disk: sets in a map, every write minted by one actor.
struct Memory {
    sets: RefCell<BTreeMap<(Bytes, Bytes), SiblingSet>>,
    count: Cell<u64>,
    now_ms: Cell<u64>,
    showing: Cell<Showing>,
    /// What every request fails with, if anything.
    failure: RefCell<Option<CoordinateError>>,
    /// How long every request takes.
    delay: Cell<Duration>,
    puts: RefCell<Vec<PutRequest>>,
    gets: RefCell<Vec<GetRequest>>,
    deletes: RefCell<Vec<DeleteRequest>>,
    lists: RefCell<Vec<ListRequest>>,
}

impl Memory {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            sets: RefCell::default(),
            count: Cell::new(0),
            now_ms: Cell::new(NOW_MS),
            showing: Cell::new(Showing::Siblings),
            failure: RefCell::new(None),
            delay: Cell::new(Duration::ZERO),
            puts: RefCell::default(),
            gets: RefCell::default(),
            deletes: RefCell::default(),
            lists: RefCell::default(),
        })
    }

    fn token(&self, context: &Context) -> String {
        Token::encode(&SECRET, CLUSTER, 0, context).unwrap()
    }

    fn context(&self, token: Option<&str>) -> Result<Context, CoordinateError> {
        let Some(token) = token else { return Ok(Context::new()) };
        Token::decode(&SECRET, CLUSTER, 0, token)
            .map_err(|error| CoordinateError::BadToken { reason: error.to_string() })
    }

    async fn begin(&self) -> Result<(), CoordinateError> {
        tokio::time::sleep(self.delay.get()).await;
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    fn look(&self, name: &(Bytes, Bytes)) -> GetOutcome {
        let set = self.sets.borrow().get(name).cloned().unwrap_or_default();
        let token = (!set.is_empty()).then(|| self.token(set.context()));
        let (showing, now_ms) = (self.showing.get(), self.now_ms.get());
        GetOutcome { set, showing, token, agreed: 2, replicas: 3, now_ms }
    }

    /// Merges one write; returns its token.
    fn write(&self, name: (Bytes, Bytes), seen: Context, sibling: Sibling) -> String {
        self.count.set(self.count.get() + 1);
        let dot = Actor { tag: 1, serial: 0 }.dot(self.count.get());
        let delta = SiblingSet::delta(seen, dot, sibling);
        let token = self.token(delta.context());
        self.sets.borrow_mut().entry(name).or_default().merge_in(&delta);
        token
    }

    fn stamp(&self) -> Stamp {
        Stamp::from_millis(self.now_ms.get() + self.count.get() * 1_000)
    }
}

fn acks() -> Acks {
    let node = |byte| NodeId::from_bytes([byte; 16]);
    Acks { owners: vec![node(1), node(2)], standins: vec![node(3)], durability: Durability::Group }
}

impl Coordinator for Memory {
    fn get(&self, request: GetRequest) -> LocalBoxFuture<'_, Result<GetOutcome, CoordinateError>> {
        self.gets.borrow_mut().push(request.clone());
        async move {
            self.begin().await?;
            Ok(self.look(&(request.bucket, request.key)))
        }
        .boxed_local()
    }

    fn put(&self, request: PutRequest) -> LocalBoxFuture<'_, Result<PutOutcome, CoordinateError>> {
        self.puts.borrow_mut().push(request.clone());
        async move {
            self.begin().await?;
            let seen = self.context(request.token.as_deref())?;
            let expires_ms = request.life.map(|life| match life {
                Life::Lasts(ms) => self.now_ms.get() + ms,
                Life::Ends(at_ms) => at_ms,
            });
            let payload =
                Payload::Value { bytes: request.value, content_type: request.content_type };
            let sibling = Sibling { stamp: self.stamp(), expires_ms, payload };
            let name = (request.bucket, request.key);
            let token = self.write(name.clone(), seen, sibling);
            let returned = request.return_set.then(|| self.look(&name));
            Ok(PutOutcome { token, acks: acks(), returned })
        }
        .boxed_local()
    }

    fn delete(
        &self,
        request: DeleteRequest,
    ) -> LocalBoxFuture<'_, Result<DeleteOutcome, CoordinateError>> {
        self.deletes.borrow_mut().push(request.clone());
        async move {
            self.begin().await?;
            let name = (request.bucket, request.key);
            let seen = match request.token {
                Some(token) => self.context(Some(&token))?,
                None => self.look(&name).set.context().clone(),
            };
            let token = self.write(name, seen, Sibling::tombstone(self.stamp()));
            Ok(DeleteOutcome { token, acks: acks() })
        }
        .boxed_local()
    }

    /// In the order of the keys; the cursor is the number of keys before it.
    fn list(&self, request: ListRequest) -> LocalBoxFuture<'_, Result<ListPage, CoordinateError>> {
        self.lists.borrow_mut().push(request.clone());
        async move {
            self.begin().await?;
            let number = request.cursor.as_deref().unwrap_or("0").parse::<usize>();
            let from = number.map_err(|e| CoordinateError::BadCursor { reason: e.to_string() })?;
            let sets = self.sets.borrow();
            let all = sets.iter().filter(|((bucket, key), set)| {
                let shown = !set.view(self.now_ms.get()).groups.is_empty();
                *bucket == request.bucket && key.starts_with(&request.prefix) && shown
            });
            let (count, page) = (all.clone().count(), all.skip(from).take(request.limit));
            let keys = page.map(|((_, key), set)| ListedKey {
                key: key.clone(),
                shape: set.shape(),
                set: request.values.then(|| set.clone()),
            });
            let end = from + request.limit;
            let (next, now_ms) = ((end < count).then(|| end.to_string()), self.now_ms.get());
            Ok(ListPage {
                keys: keys.collect(),
                showing: self.showing.get(),
                next,
                progress: 0.5,
                agreed: 2,
                replicas: 3,
                standins: 0,
                now_ms,
            })
        }
        .boxed_local()
    }
}

/// A server over a [`Memory`], to which connections are opened by hand.
struct Bench {
    memory: Rc<Memory>,
    desk: Rc<settings::Desk>,
    server: Rc<Server<Api<Memory>>>,
    stats: Arc<HttpStats>,
    pressure: Rc<Pressure>,
    drain: watch::Sender<bool>,
}

impl Bench {
    fn with(limits: HttpLimits) -> Self {
        Self::taking(limits, 1_024)
    }

    /// A worker that takes on so many requests at once.
    fn taking(limits: HttpLimits, requests: usize) -> Self {
        let memory = Memory::new();
        let stats = Arc::new(HttpStats::default());
        let desk = Rc::new(settings::Desk::new());
        let share = Share { count: requests, bytes: usize::MAX };
        let counted = Arc::new(PressureStats::default());
        let pressure =
            Pressure::new(Shares::new(share, share), Duration::from_millis(300), counted);
        let of_worker = pressure.clone();
        let api = Api::new(memory.clone(), desk.clone(), limits.clone(), stats.clone(), of_worker);
        let server = Server::new(Rc::new(api), limits, stats.clone(), Rc::new(|| NOW_MS));
        let drain = watch::channel(false).0;
        Self { memory, desk, server: Rc::new(server), stats, pressure, drain }
    }

    fn new() -> Self {
        Self::with(HttpLimits { value_max_bytes: 1_000, ..HttpLimits::default() })
    }

    fn open(&self) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let (shared, drain) = (self.server.clone(), self.drain.subscribe());
        tokio::task::spawn_local(async move { shared.serve(server, drain).await });
        client
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Vec<Reply> {
        let (mut reader, mut writer) = tokio::io::split(self.open());
        let bytes = bytes.as_ref().to_vec();
        let sending = tokio::task::spawn_local(async move {
            // The server may close before it read everything.
            let _ = writer.write_all(&bytes).await;
            writer
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        drop(sending.await.unwrap());
        Reply::parse_all(&all)
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Reply {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        bytes += headers;
        if !body.is_empty() || method == "PUT" {
            bytes += &format!("Content-Length: {}\r\n", body.len());
        }
        let bytes = [bytes.as_bytes(), b"\r\n", body].concat();
        let mut replies = self.exchange(bytes).await;
        assert_eq!(replies.len(), 1, "{method} {target}: {replies:?}");
        replies.remove(0)
    }

    async fn get(&self, target: &str, headers: &str) -> Reply {
        self.ask("GET", target, headers, b"").await
    }

    async fn put(&self, target: &str, headers: &str, body: &str) -> Reply {
        self.ask("PUT", target, headers, body.as_bytes()).await
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    /// Splits a stream of answers. Bodies are framed by Content-Length only; that of an answer to
    /// HEAD must be taken off by `Connection: close`.
    fn parse_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let head = std::str::from_utf8(&bytes[..end]).unwrap();
            let mut lines = head.lines();
            let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let headers: BTreeMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            bytes = &bytes[end..];
            let length: usize = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
            let (body, rest) = bytes.split_at(length.min(bytes.len()));
            if status != 100 {
                replies.push(Self { status, headers, body: body.to_vec() });
            }
            bytes = rest;
        }
        replies
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status);
        assert!(!body["detail"].as_str().unwrap().is_empty());
        assert!(!body["hint"].as_str().unwrap().is_empty());
        body["code"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// The request line that sends this answer's token back.
    fn context(&self) -> String {
        format!("X-Kvasir-Context: {}\r\n", self.header("x-kvasir-context"))
    }
}

/// Runs a test inside a `LocalSet` in virtual time.
fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), test);
}
