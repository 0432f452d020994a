//! Two nodes and less in virtual time: calls, faults, refusals, bounds, ends.

use std::cell::{Cell, RefCell};
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

/// Answers a read with its key, after the milliseconds that the bucket names; `big` with too much.
#[derive(Default)]
struct Echo {
    heads: RefCell<Vec<(NodeId, Incoming)>>,
    handled: Cell<usize>,
}

impl PeerHandler for Echo {
    fn handle(&self, from: NodeId, request: Request, head: Incoming) -> LocalBoxFuture<'_, Reply> {
        self.heads.borrow_mut().push((from, head));
        self.handled.set(self.handled.get() + 1);
        Box::pin(async move {
            match request {
                Request::Read { bucket, .. } if bucket == "big" => {
                    Reply::Set(Bytes::from(vec![0; frame::BODY_MAX_BYTES]))
                }
                Request::Read { bucket, key } => {
                    let wait = std::str::from_utf8(&bucket).ok().and_then(|b| b.parse().ok());
                    sleep(Duration::from_millis(wait.unwrap_or(0))).await;
                    Reply::Set(key)
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
    address: String,
}

impl Node {
    fn start(net: &MemoryNet, number: u8) -> Self {
        let hello = Hello::blank(id(number), u64::from(number), 1);
        Self::with(net, hello, PoolLimits::default(), ListenerLimits::default())
    }

    fn with(net: &MemoryNet, hello: Hello, pool: PoolLimits, limits: ListenerLimits) -> Self {
        let name = format!("n{}", hello.start);
        let (host, address) = (net.host(&name), format!("{name}:8099"));
        let (me, stats, echo) =
            (Me::new(hello), Arc::<PeerStats>::default(), Rc::<Echo>::default());
        let peers = Peers::new(host.clone(), me.clone(), pool, stats.clone(), 1);
        let accepting = host.listen(&address).unwrap();
        let listener = PeerListener::new(host, me.clone(), echo.clone(), limits, stats.clone());
        let runs = listener.clone();
        spawn_local(async move { runs.run(accepting).await });
        Self { me, peers, listener, echo, stats, address }
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

#[test]
fn a_call_carries_head_and_body_and_brings_the_answer() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        let partition = Partition { k: 4, index: 9 };
        let route = Route { partition, version: 5, entry_hash: 6 };
        let got = a.peers.call(id(2), &b.address, route, read("0", "k"), soon()).await;
        assert_eq!(got, set("k"));
        let (from, head) = b.echo.heads.borrow()[0];
        assert_eq!((from, head.route, head.class), (id(1), Some(route), Class::Data));
        assert_eq!(head.deadline, soon());
        a.peers.notify(None, &b.address, Request::Gossip(Bytes::from_static(b"rumour")));
        sleep(SECOND / 10).await;
        assert_eq!(b.echo.handled.get(), 2);
        assert_eq!((a.peers.open_connections(), b.listener.open_connections()), (2, 2));
    });
}

#[test]
fn a_thousand_calls_share_one_connection_and_few_writes() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        let calls = (0..1000).map(|n| {
            let (a, b) = (&a, &b);
            // The later ones are answered first.
            async move { (n, a.read(b, &(999 - n).to_string(), &n.to_string()).await) }
        });
        for (n, got) in join_all(calls).await {
            assert_eq!(got, set(&n.to_string()));
        }
        assert_eq!(net.dials(), 1);
        assert_eq!(count(&a.stats.frames_out), 1000);
        assert!(count(&a.stats.writes) < 20, "{} writes", count(&a.stats.writes));
    });
}

#[test]
fn lost_late_and_doubled_frames() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        assert_eq!(a.read(&b, "0", "before").await, set("before"));
        net.set_fates(Some(Rc::new(
            |from, _, _| if from == id(1) { Fate::Drop } else { Fate::Deliver },
        )));
        assert_eq!(a.read(&b, "0", "k").await, Err(CallError::Deadline { sent: true }));
        assert_eq!(b.echo.handled.get(), 1, "a lost request is never handled");
        net.set_fates(Some(Rc::new(
            |from, _, _| if from == id(2) { Fate::Drop } else { Fate::Deliver },
        )));
        assert_eq!(a.read(&b, "0", "k").await, Err(CallError::Deadline { sent: true }));
        assert_eq!(b.echo.handled.get(), 2, "only its answer was lost");
        let late = Fate::Delay(SECOND / 2);
        net.set_fates(Some(Rc::new(
            move |_, _, bytes| if bytes > 200 { late } else { Fate::Deliver },
        )));
        let (long, began) = ("x".repeat(300), Instant::now());
        let slow = async { (a.read(&b, "0", &long).await, began.elapsed()) };
        let fast = async { (a.read(&b, "0", "k").await, began.elapsed()) };
        let ((slow, slow_time), (fast, fast_time)) = tokio::join!(slow, fast);
        assert!(fast == set("k") && fast_time < SECOND / 10, "overtaken: {fast_time:?}");
        assert_eq!(slow, Err(CallError::Deadline { sent: true }), "half a second each way");
        assert!(slow_time >= SECOND);
        net.set_fates(Some(Rc::new(|_, _, _| Fate::Twice(SECOND / 4))));
        let handled = b.echo.handled.get();
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        assert_eq!(a.read(&b, "0", "l").await, set("l"));
        sleep(SECOND).await;
        assert_eq!(b.echo.handled.get(), handled + 2, "each arrives twice and is worked on once");
        assert_eq!(net.dials(), 1);
    });
}

#[test]
fn who_may_not_talk_is_told_why_and_counted() {
    run(async {
        let net = MemoryNet::new();
        let blank = |number: u8| Hello::blank(id(number), u64::from(number), 1);
        let of = |number, cluster| Hello {
            cluster: ClusterId::from_bytes([cluster; 16]),
            ..blank(number)
        };
        let node =
            |hello| Node::with(&net, hello, PoolLimits::default(), ListenerLimits::default());
        let (a, same, other) = (node(of(1, 7)), node(of(2, 7)), node(of(3, 8)));
        let new = node(Hello { protocol_min: 9, protocol_max: 9, ..of(4, 7) });
        let clone = node(Hello { start: 5, ..of(1, 7) });
        let fresh = node(blank(6));
        assert_eq!(a.read(&same, "0", "k").await, set("k"));
        assert_eq!(a.read(&fresh, "0", "k").await, set("k"), "a blank node may be talked to");
        assert_eq!(fresh.read(&other, "0", "k").await, set("k"), "and may talk to anybody");
        let refused = |result| match result {
            Err(CallError::Refused(goodbye)) => goodbye.code(),
            other => panic!("must be refused, got {other:?}"),
        };
        assert_eq!(refused(a.read(&other, "0", "k").await), "other_cluster");
        assert_eq!(refused(a.read(&new, "0", "k").await), "protocol_version");
        let call = |to: &str, who: Option<NodeId>| {
            let (peers, to) = (a.peers.clone(), to.to_string());
            async move { peers.call(who, &to, None, read("0", "k"), soon()).await }
        };
        assert_eq!(refused(call(&clone.address, None).await), "own_id");
        assert_eq!(refused(call(&a.address, None).await), "self");
        assert_eq!(refused(call(&same.address, Some(id(9))).await), "other_node");
        assert_eq!(a.read(&same, "0", "k").await, set("k"), "its own connection is not disturbed");
        for code in ["other_cluster", "protocol_version", "own_id", "self", "other_node"] {
            assert!(a.goodbyes(code) >= 1, "{code}");
        }
        assert_eq!((other.goodbyes("other_cluster"), clone.goodbyes("own_id")), (1, 1));
        assert_eq!(other.echo.handled.get() + new.echo.handled.get() + clone.echo.handled.get(), 1);
        // A blank node that joins a cluster drops those of another one.
        fresh.me.set_document(ClusterId::from_bytes([7; 16]), 1, [1; 32]);
        assert!(fresh.read(&other, "0", "k").await.is_err());
        assert_eq!(refused(fresh.read(&other, "0", "k").await), "other_cluster");
    });
}

#[test]
fn bytes_that_are_no_frame_close_only_their_connection() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        let mut web = Raw::dial(&net, &b.address).await;
        web.send(b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(web.goodbye().await, Goodbye::Garbage);
        assert!(web.frame().await.is_none());
        let mut eager = Raw::dial(&net, &b.address).await;
        eager.send(&request(1, &read("0", "k"))).await;
        assert_eq!(eager.goodbye().await, Goodbye::Garbage, "a request before the hello");
        let mut long = Raw::dial(&net, &b.address).await;
        let header = Header::plain(FrameKind::Hello, Class::Data);
        let first = frame::encode(&header, &vec![0; 100_000]).unwrap();
        let _ = long.stream.write_all(&first[..50_000]).await;
        assert_eq!(long.goodbye().await, Goodbye::Garbage, "a first frame beyond any hello");
        let mut middle = Raw::dial(&net, &b.address).await;
        middle.send(&hello(3)).await;
        assert_eq!(middle.frame().await.unwrap().header.kind, FrameKind::Hello);
        let mut damaged = BytesMut::from(&request(1, &read("0", "k"))[..]);
        *damaged.last_mut().unwrap() ^= 1;
        middle.send(&damaged).await;
        assert_eq!(middle.goodbye().await, Goodbye::FramingLost);
        let mut body = Raw::dial(&net, &b.address).await;
        body.send(&hello(3)).await;
        body.frame().await.unwrap();
        let plain =
            Header { deadline_left_ms: 9, ..Header::plain(FrameKind::Request, Class::Data) };
        body.send(&frame::encode(&plain, &[0xff; 9]).unwrap()).await;
        let reply = Reply::decode(&body.frame().await.unwrap().body).unwrap();
        assert!(matches!(reply, Reply::Refused(Refusal::Malformed(_))), "framing is intact");
        body.send(&request(2, &read("0", "k"))).await;
        assert_eq!(Reply::decode(&body.frame().await.unwrap().body), Ok(set("k").unwrap()));
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        assert_eq!((net.dials(), b.echo.handled.get()), (6, 3));
        assert_eq!((count(&b.stats.bad_frames), count(&b.stats.bad_bodies)), (3, 1));
    });
}

#[test]
fn who_trickles_its_hello_is_cut_off() {
    run(async {
        let net = MemoryNet::new();
        let b = Node::start(&net, 2);
        let began = Instant::now();
        let mut slow = Raw::dial(&net, &b.address).await;
        for byte in hello(3).chunks(1) {
            if slow.stream.write_all(byte).await.is_err() {
                break;
            }
            sleep(SECOND).await;
        }
        let _silent = Raw::dial(&net, &b.address).await;
        sleep(6 * SECOND).await;
        assert_eq!(b.listener.open_connections(), 0, "after {:?}", began.elapsed());
        assert_eq!(b.goodbyes("garbage"), 2);
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_a_bounded_queue() {
    run(async {
        let net = MemoryNet::new();
        let limits = PoolLimits { queue_count: 8, ..PoolLimits::default() };
        let a = Node::with(&net, Hello::blank(id(1), 1, 1), limits, ListenerLimits::default());
        let (address, raw) = raw_server(&net, 9).await;
        let apply = Request::Apply {
            bucket: Bytes::from_static(b"b"),
            key: Bytes::from_static(b"k"),
            delta: Bytes::from(vec![0; 1024 * 1024]),
            durability: Durability::Group,
        };
        let calls = (0..32).map(|_| {
            let (peers, address, apply) = (a.peers.clone(), address.clone(), apply.clone());
            async move { peers.call(id(9), &address, None, apply, soon()).await }
        });
        let results = join_all(calls).await;
        let sent =
            results.iter().filter(|r| **r == Err(CallError::Deadline { sent: true })).count();
        let unsent =
            results.iter().filter(|r| **r == Err(CallError::Deadline { sent: false })).count();
        let full = results.iter().filter(|r| matches!(r, Err(CallError::NotSent(_)))).count();
        assert_eq!((sent, unsent, full), (1, 7, 24));
        assert_eq!(count(&a.stats.queue_full), 24);
        let _still_open = raw.await.unwrap();
        sleep(12 * SECOND).await;
        assert_eq!(a.peers.open_connections(), 0, "a stalled write ends the connection");
    });
}

#[test]
fn a_peer_that_reads_no_answers_is_not_read_any_more() {
    run(async {
        let net = MemoryNet::new();
        let limits = ListenerLimits { reply_bytes: 100_000, ..ListenerLimits::default() };
        let b = Node::with(&net, Hello::blank(id(2), 2, 1), PoolLimits::default(), limits);
        let mut greedy = Raw::dial(&net, &b.address).await;
        greedy.send(&hello(3)).await;
        greedy.frame().await.unwrap();
        let ask = |number| request(number, &read("0", &"k".repeat(4096)));
        let mut asked = 0;
        while timeout(SECOND, greedy.stream.write_all(&ask(asked))).await.is_ok_and(|w| w.is_ok()) {
            asked += 1;
            assert!(asked < 1000, "it is read without end");
        }
        assert!(b.echo.handled.get() < 150, "{}", b.echo.handled.get());
        sleep(15 * SECOND).await;
        assert_eq!(b.listener.open_connections(), 0, "a stalled answer ends the connection");
    });
}

#[test]
fn a_connection_lost_during_a_call_leaves_its_outcome_unknown() {
    run(async {
        let net = MemoryNet::new();
        let a = Node::start(&net, 1);
        let (address, accepted) = raw_server(&net, 9).await;
        let call = |key: &str| {
            let (peers, address, ask) = (a.peers.clone(), address.clone(), read("0", key));
            async move { peers.call(id(9), &address, None, ask, soon()).await }
        };
        let server = async {
            let mut raw = accepted.await.unwrap();
            raw.frame().await.unwrap();
        };
        let (got, ()) = tokio::join!(call("k"), server);
        assert!(matches!(got, Err(CallError::Unknown(_))), "{got:?}");
        let got = call("k").await;
        assert!(matches!(got, Err(CallError::NotSent(_))), "nobody listens now: {got:?}");
        sleep(SECOND).await;
        let (_, accepted) = raw_server(&net, 9).await;
        let garbler = async {
            let mut raw = accepted.await.unwrap();
            raw.frame().await.unwrap();
            raw.send(b"KVF1 and then nonsense, long enough to be a header of version 1").await;
        };
        let (got, ()) = tokio::join!(call("k"), garbler);
        assert!(matches!(got, Err(CallError::Unknown(_))), "{got:?}");
        assert_eq!(count(&a.stats.bad_frames), 1);
    });
}

#[test]
fn an_address_that_fails_rests_for_a_bounded_growing_time() {
    run(async {
        let net = MemoryNet::new();
        let a = Node::start(&net, 1);
        let call = || a.peers.call(id(2), "n2:8099", None, read("0", "k"), soon());
        let (mut rests, mut last) = (Vec::new(), Instant::now());
        for _ in 0..12 {
            let dials = net.dials();
            while net.dials() == dials {
                assert!(matches!(call().await, Err(CallError::NotSent(_))));
                sleep(Duration::from_millis(5)).await;
            }
            rests.push(last.elapsed());
            last = Instant::now();
        }
        assert!(rests[2] < SECOND / 5 && rests[6] > SECOND, "{rests:?}");
        assert!(rests.iter().all(|rest| *rest < Duration::from_millis(2_050)), "{rests:?}");
        let b = Node::start(&net, 2);
        sleep(3 * SECOND).await;
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
    });
}

#[test]
fn a_dial_that_hangs_is_given_up_and_nothing_was_sent() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        net.set_cut("n1", "n2", Some(Cut::Silent));
        let short = Instant::now() + SECOND / 2;
        let early = a.peers.call(id(2), &b.address, None, read("0", "k"), short);
        let long =
            a.peers.call(id(2), &b.address, None, read("0", "k"), Instant::now() + 5 * SECOND);
        let began = Instant::now();
        let (early, long) = tokio::join!(early, long);
        assert_eq!(early, Err(CallError::Deadline { sent: false }));
        assert!(matches!(long, Err(CallError::NotSent(_))), "{long:?}");
        assert!(began.elapsed() < SECOND * 3 / 2);
        net.set_cut("n1", "n2", None);
        sleep(SECOND).await;
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        let past = a.peers.call(id(2), &b.address, None, read("0", "k"), Instant::now()).await;
        assert_eq!(past, Err(CallError::Deadline { sent: false }));
    });
}

#[test]
fn a_path_that_swallows_bytes_is_opened_anew() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        net.set_fates(Some(Rc::new(|_, _, _| Fate::Drop)));
        for _ in 0..4 {
            assert_eq!(a.read(&b, "0", "k").await, Err(CallError::Deadline { sent: true }));
        }
        net.set_fates(None);
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        assert_eq!(net.dials(), 2);
    });
}

#[test]
fn work_in_excess_is_refused_before_it_begins() {
    run(async {
        let net = MemoryNet::new();
        let a = Node::start(&net, 1);
        let limits = ListenerLimits { requests: 4, connections: 1, ..ListenerLimits::default() };
        let b = Node::with(&net, Hello::blank(id(2), 2, 1), PoolLimits::default(), limits);
        let results = join_all((0..10).map(|_| a.read(&b, "200", "k"))).await;
        let done = results.iter().filter(|r| **r == set("k")).count();
        let refused =
            |r: &&Result<_, _>| matches!(r, Ok(Reply::Refused(Refusal::Overloaded { .. })));
        assert_eq!((done, results.iter().filter(refused).count()), (4, 6));
        assert_eq!((b.echo.handled.get(), count(&b.stats.overloaded)), (4, 6));
        let mut second = Raw::dial(&net, &b.address).await;
        assert_eq!(second.goodbye().await, Goodbye::Busy);
        let big = a.read(&b, "big", "k").await;
        assert!(matches!(big, Ok(Reply::Refused(Refusal::TooLarge { .. }))), "{big:?}");
        let late = a.read(&b, "5000", "k").await;
        assert!(matches!(late, Err(CallError::Deadline { sent: true })), "{late:?}");
        sleep(SECOND / 10).await;
        assert_eq!(b.listener.in_work(), 0, "work ends at its deadline");
    });
}

#[test]
fn draining_answers_what_is_in_work_and_refuses_the_rest() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        let (in_work, meanwhile, left) = tokio::join!(
            a.read(&b, "500", "in work"),
            async {
                sleep(SECOND / 5).await;
                a.read(&b, "0", "meanwhile").await
            },
            async {
                sleep(SECOND / 10).await;
                b.listener.drain(Instant::now() + 5 * SECOND).await
            },
        );
        assert_eq!((in_work, left), (set("in work"), 0));
        assert!(matches!(meanwhile, Ok(Reply::Refused(Refusal::NotServing(_)))), "{meanwhile:?}");
        assert_eq!(a.goodbyes("draining"), 1);
        assert!(matches!(a.read(&b, "0", "k").await, Err(CallError::NotSent(_))));
        let c = Node::start(&net, 3);
        let ask = read("9000", "k");
        let slow = a.peers.call(id(3), &c.address, None, ask, Instant::now() + 10 * SECOND);
        let drain = async {
            sleep(SECOND / 10).await;
            c.listener.drain(soon()).await
        };
        let (slow, left) = tokio::join!(slow, drain);
        assert!(matches!(slow, Err(CallError::Unknown(_))), "{slow:?}");
        assert_eq!(left, 1, "it waits no longer than it was told");
    });
}

#[test]
fn a_dropped_call_is_taken_back_and_idle_connections_close() {
    run(async {
        let net = MemoryNet::new();
        let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
        net.set_cut("n1", "n2", Some(Cut::Silent));
        assert!(timeout(SECOND / 10, a.read(&b, "0", "dropped")).await.is_err());
        net.set_cut("n1", "n2", None);
        sleep(2 * SECOND).await;
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        assert_eq!(b.echo.handled.get(), 1);
        sleep(50 * SECOND).await;
        assert_eq!(a.peers.open_connections(), 1);
        sleep(70 * SECOND).await;
        assert_eq!((a.peers.open_connections(), b.listener.open_connections()), (0, 0));
        assert_eq!(a.read(&b, "0", "k").await, set("k"));
        a.peers.close();
        sleep(SECOND).await;
        assert_eq!(b.listener.open_connections(), 0);
        assert_eq!((count(&a.stats.open), count(&b.stats.open)), (0, 0));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_anywhere_in_a_stream_stops_nobody_else(
        at in 0usize..400, garbage in proptest::collection::vec(any::<u8>(), 1..60), whole: bool,
    ) {
        run(async {
            let net = MemoryNet::new();
            let (a, b) = (Node::start(&net, 1), Node::start(&net, 2));
            let mut stream = hello(3).to_vec();
            for n in 0..3 {
                stream.extend_from_slice(&request(n, &read("0", "key")));
            }
            let at = at.min(stream.len());
            let end = if whole { at } else { (at + garbage.len()).min(stream.len()) };
            stream.splice(at..end, garbage);
            let mut raw = Raw::dial(&net, &b.address).await;
            let _ = raw.stream.write_all(&stream).await;
            let _ = raw.stream.shutdown().await;
            let mut rest = Vec::new();
            timeout(60 * SECOND, raw.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
            assert_eq!(a.read(&b, "0", "k").await, set("k"));
            assert_eq!(b.listener.open_connections(), 1);
        });
    }
}

#[test]
fn calls_cross_real_sockets() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let net = Rc::new(crate::serve::net::TcpNet::default());
        let me = |number: u8| Me::new(Hello::blank(id(number), u64::from(number), 1));
        let accepting = net.listen("127.0.0.1:0").unwrap();
        let (address, stats) = (accepting.address(), Arc::<PeerStats>::default());
        let limits = ListenerLimits::default();
        let echo = Rc::<Echo>::default();
        let listener = PeerListener::new(net.clone(), me(2), echo, limits, stats.clone());
        let runs = listener.clone();
        let accepts = spawn_local(async move { runs.run(accepting).await });
        let peers = Peers::new(net, me(1), PoolLimits::default(), stats.clone(), 1);
        let call = |key: String, seconds: u32| {
            let (peers, address) = (peers.clone(), address.clone());
            let deadline = Instant::now() + seconds * SECOND;
            async move { peers.call(id(2), &address, None, read("0", &key), deadline).await }
        };
        let calls = join_all((0..200).map(|n| call(n.to_string(), 20))).await;
        for (n, got) in calls.into_iter().enumerate() {
            assert_eq!(got, set(&n.to_string()));
        }
        let apply = Request::Apply {
            bucket: Bytes::from_static(b"b"),
            key: Bytes::from_static(b"k"),
            delta: Bytes::from(vec![7; 16 * 1024 * 1024]),
            durability: Durability::Group,
        };
        let deadline = Instant::now() + 20 * SECOND;
        let got = peers.call(id(2), &address, None, apply, deadline).await;
        assert_eq!(got, Ok(Reply::Applied), "the largest value fits a frame");
        assert_eq!(listener.drain(Instant::now() + 5 * SECOND).await, 0);
        accepts.await.unwrap();
        assert!(call("k".to_string(), 5).await.is_err());
        assert_eq!(listener.open_connections(), 0);
    });
}
