//! Two nodes and less in virtual time: calls, faults, refusals, bounds, ends.

mod calls;
mod pressed;
mod refusals;
mod silence;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{LocalBoxFuture, join_all};
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::{Durability, Partition};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::frame::{self, FrameKind, Header};
use super::memory_net::{Cut, MemoryNet};
use super::*;
use crate::pressure::{Pressure, PressureStats, Share, Shares};
use crate::seam::{BoxedStream, Fate, Net};

const SECOND: Duration = Duration::from_secs(1);

fn run<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn soon() -> Instant {
    Instant::now() + SECOND
}

/// Answers a read with its key, and what is handed back, after the milliseconds that the bucket names; `big` with too much, `busy`
/// after half a second in which the node does nothing else.
#[derive(Default)]
struct Echo {
    heads: RefCell<Vec<(NodeId, Incoming)>>,
    handled: Cell<usize>,
    /// The start of each node from which data is taken; of others any.
    listed: RefCell<BTreeMap<NodeId, u64>>,
}

impl PeerHandler for Echo {
    fn carries_its_id(&self, hello: &Hello) -> bool {
        self.listed.borrow().get(&hello.node).is_none_or(|start| *start == hello.start)
    }

    fn handle(&self, from: NodeId, request: Request, head: Incoming) -> LocalBoxFuture<'_, Reply> {
        self.heads.borrow_mut().push((from, head));
        self.handled.set(self.handled.get() + 1);
        Box::pin(async move {
            match request {
                Request::Read { bucket, .. } if bucket == "big" => {
                    Reply::Set(Bytes::from(vec![0; frame::BODY_MAX_BYTES]))
                }
                Request::Read { bucket, key } if bucket == "busy" => {
                    tokio::time::advance(SECOND / 2).await;
                    Reply::Set(key)
                }
                Request::Read { bucket, key } => {
                    let wait = std::str::from_utf8(&bucket).ok().and_then(|b| b.parse().ok());
                    sleep(Duration::from_millis(wait.unwrap_or(0))).await;
                    Reply::Set(key)
                }
                Request::HandBack { bucket, .. } => {
                    let wait = std::str::from_utf8(&bucket).ok().and_then(|b| b.parse().ok());
                    sleep(Duration::from_millis(wait.unwrap_or(0))).await;
                    Reply::HandedBack { pause_ms: 0 }
                }
                Request::Gossip(message) => Reply::Message(message),
                _ => Reply::Applied,
            }
        })
    }
}

struct Node {
    me: Me,
    peers: Peers,
    listener: PeerListener,
    echo: Rc<Echo>,
    stats: Arc<PeerStats>,
    pressure: Arc<PressureStats>,
    address: String,
}

/// A worker that takes on so many requests at once, and what it counts.
fn taking(count: usize) -> (Rc<Pressure>, Arc<PressureStats>) {
    let stats = Arc::<PressureStats>::default();
    let share = Share { count, bytes: 1 << 30 };
    (Pressure::new(Shares::new(share, share), SECOND, stats.clone()), stats)
}

impl Node {
    fn start(net: &MemoryNet, number: u8) -> Self {
        let hello = Hello::blank(id(number), u64::from(number), 1);
        Self::with(net, hello, PoolLimits::default(), ListenerLimits::default())
    }

    fn with(net: &MemoryNet, hello: Hello, pool: PoolLimits, limits: ListenerLimits) -> Self {
        Self::taking(net, hello, pool, limits, 1_024)
    }

    fn taking(
        net: &MemoryNet,
        hello: Hello,
        pool: PoolLimits,
        limits: ListenerLimits,
        count: usize,
    ) -> Self {
        let name = format!("n{}", hello.start);
        let (host, address) = (net.host(&name), format!("{name}:8099"));
        let (me, stats, echo) =
            (Me::new(hello), Arc::<PeerStats>::default(), Rc::<Echo>::default());
        let peers = Peers::new(host.clone(), me.clone(), pool, stats.clone(), 1);
        let accepting = host.listen(&address).unwrap();
        let (pressure, counted) = taking(count);
        let listener =
            PeerListener::new(host, me.clone(), echo.clone(), limits, stats.clone(), pressure);
        let runs = listener.clone();
        spawn_local(async move { runs.run(accepting).await });
        Self { me, peers, listener, echo, stats, pressure: counted, address }
    }

    async fn read(&self, to: &Node, bucket: &str, key: &str) -> Result<Reply, CallError> {
        self.peers.call(to.me.node(), &to.address, None, read(bucket, key), soon()).await
    }

    fn goodbyes(&self, code: &str) -> u64 {
        self.stats.goodbyes().find(|(c, _)| *c == code).unwrap().1
    }
}

fn read(bucket: &str, key: &str) -> Request {
    Request::Read {
        bucket: Bytes::copy_from_slice(bucket.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

fn set(text: &str) -> Result<Reply, CallError> {
    Ok(Reply::Set(Bytes::copy_from_slice(text.as_bytes())))
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A stream that plays a node by hand.
struct Raw {
    stream: BoxedStream,
    buffer: BytesMut,
}

impl Raw {
    async fn dial(net: &MemoryNet, address: &str) -> Self {
        let stream = net.host("raw").dial(address).await.unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn frame(&mut self) -> Option<frame::Frame> {
        loop {
            if let Some(frame) = frame::take(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if timeout(30 * SECOND, self.stream.read_buf(&mut self.buffer)).await.unwrap().ok()?
                == 0
            {
                return None;
            }
        }
    }

    async fn goodbye(&mut self) -> Goodbye {
        let frame = self.frame().await.expect("a goodbye before the end");
        assert_eq!(frame.header.kind, FrameKind::Goodbye);
        Goodbye::parse(&frame)
    }
}

fn hello(number: u8) -> Bytes {
    Hello::blank(id(number), u64::from(number), 1).frame(Class::Data)
}

fn request(request_id: u64, request: &Request) -> Bytes {
    let plain = Header::plain(FrameKind::Request, request.class());
    frame::encode(&Header { request_id, deadline_left_ms: 9_000, ..plain }, &request.encode())
        .unwrap()
}

/// Listens as node `number` and hands over the first stream after the hellos.
async fn raw_server(net: &MemoryNet, number: u8) -> (String, tokio::task::JoinHandle<Raw>) {
    let address = format!("raw{number}:8099");
    let mut listener = net.host(&format!("raw{number}")).listen(&address).unwrap();
    let accepted = spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut raw = Raw { stream, buffer: BytesMut::new() };
        assert_eq!(raw.frame().await.unwrap().header.kind, FrameKind::Hello);
        raw.send(&hello(number)).await;
        raw
    });
    (address, accepted)
}
