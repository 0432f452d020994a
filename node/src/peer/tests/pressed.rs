//! Shares of what a worker takes on, calls that wait for a slow node, and requests that come too late.

use super::*;
use crate::pressure::{Full, Work};

fn hand_back(bucket: &str) -> Request {
    let bucket = Bytes::copy_from_slice(bucket.as_bytes());
    Request::HandBack { bucket, key: Bytes::from_static(b"k"), set: Bytes::from_static(b"set") }
}

fn refused(result: &Result<Reply, CallError>) -> bool {
    matches!(result, Ok(Reply::Refused(Refusal::Overloaded { .. })))
}

#[test]
fn what_can_wait_takes_an_eighth_and_leaves_the_rest_to_clients() {
    run(async {
        let net = MemoryNet::new();
        let a = Node::start(&net, 1);
        let (pool, limits) = (PoolLimits::default(), ListenerLimits::default());
        let b = Node::taking(&net, Hello::blank(id(2), 2, 1), pool, limits, 16);
        let backs = join_all(
            (0..10).map(|_| a.peers.call(id(2), &b.address, None, hand_back("300"), soon())),
        );
        let reads = async {
            sleep(SECOND / 10).await;
            join_all((0..20).map(|_| a.read(&b, "100", "k"))).await
        };
        let (backs, reads) = tokio::join!(backs, reads);
        let taken = backs.iter().filter(|r| **r == Ok(Reply::HandedBack { pause_ms: 0 })).count();
        assert_eq!((taken, backs.iter().filter(|r| refused(r)).count()), (2, 8));
        let done = reads.iter().filter(|r| **r == set("k")).count();
        assert_eq!((done, reads.iter().filter(|r| refused(r)).count()), (16, 4));
        assert_eq!(b.pressure.refused(Work::HandBack, Full::Count), 8);
        assert_eq!(b.pressure.refused(Work::Replica, Full::Count), 4);
        assert_eq!(b.pressure.held(Work::Replica), (0, 0));
        let gossip = Request::Gossip(Bytes::from_static(b"hello"));
        let full = join_all((0..16).map(|_| a.read(&b, "100", "k")));
        let control = async {
            sleep(SECOND / 20).await;
            a.peers.call(id(2), &b.address, None, gossip, soon()).await
        };
        let (_, control) = tokio::join!(full, control);
        assert_eq!(control, Ok(Reply::Message(Bytes::from_static(b"hello"))), "never refused");
    });
}

#[test]
fn a_request_that_waited_past_its_deadline_is_not_begun() {
    run(async {
        let net = MemoryNet::new();
        let b = Node::start(&net, 2);
        let mut raw = Raw::dial(&net, &b.address).await;
        raw.send(&hello(3)).await;
        raw.frame().await.expect("a hello");
        let plain = Header::plain(FrameKind::Request, Class::Data);
        let short = Header { request_id: 2, deadline_left_ms: 100, ..plain };
        let late = frame::encode(&short, &read("0", "late").encode()).unwrap();
        raw.send(&[request(1, &read("busy", "first")), late].concat()).await;
        let mut answers = BTreeMap::new();
        for _ in 0..2 {
            let frame = raw.frame().await.expect("an answer");
            answers.insert(frame.header.request_id, Reply::decode(&frame.body).unwrap());
        }
        assert_eq!(Ok(answers[&1].clone()), set("first"));
        assert_eq!(answers[&2], Reply::Refused(Refusal::Deadline));
        assert_eq!((b.echo.handled.get(), count(&b.pressure.too_late)), (1, 1));
    });
}

#[test]
fn calls_to_a_slow_node_are_bounded_and_hold_up_no_others() {
    run(async {
        let net = MemoryNet::new();
        let pool = PoolLimits { queue_count: 8, ..PoolLimits::default() };
        let a = Node::with(&net, Hello::blank(id(1), 1, 1), pool, ListenerLimits::default());
        let (slow, fast) = (Node::start(&net, 2), Node::start(&net, 3));
        assert_eq!(a.read(&slow, "0", "k").await, set("k"));
        let calls = join_all((0..12).map(|_| a.read(&slow, "900", "k")));
        let meanwhile = async {
            sleep(SECOND / 10).await;
            let open = (count(&a.stats.calls_open), count(&a.stats.calls_open_bytes));
            assert!(open.0 == 8 && open.1 > 0, "{open:?}");
            let begun = Instant::now();
            assert_eq!(a.read(&fast, "0", "k").await, set("k"));
            begun.elapsed()
        };
        let (calls, took) = tokio::join!(calls, meanwhile);
        assert_eq!(calls.iter().filter(|r| **r == set("k")).count(), 8);
        let full = |r: &&Result<_, _>| matches!(r, Err(CallError::NotSent(_)));
        assert_eq!(calls.iter().filter(full).count(), 4, "they were answered, not queued");
        assert!(took < Duration::from_millis(10), "{took:?}");
        assert_eq!((count(&a.stats.calls_open), count(&a.stats.calls_open_bytes)), (0, 0));
    });
}
