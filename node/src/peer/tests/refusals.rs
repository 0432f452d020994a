//! Who and what is refused: strangers, bytes that are no frame, too much at a time, and everybody at the end.

use super::*;

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
fn of_two_processes_with_one_id_data_is_taken_from_one_alone() {
    run(async {
        let net = MemoryNet::new();
        let start = |start| {
            let hello = Hello::blank(id(1), start, 1);
            Node::with(&net, hello, PoolLimits::default(), ListenerLimits::default())
        };
        let (first, copy, b) = (start(1), start(5), Node::start(&net, 2));
        assert_eq!(copy.read(&b, "0", "k").await, set("k"), "nobody knows of two yet");
        b.echo.listed.borrow_mut().insert(id(1), 1);
        // The connection that was open ends before the next request is looked at.
        assert!(copy.read(&b, "0", "k").await.is_err());
        let refused = copy.read(&b, "0", "k").await;
        assert_eq!(refused, Err(CallError::Refused(Goodbye::Twin)));
        assert_eq!(first.read(&b, "0", "k").await, set("k"));
        let gossip = Request::Gossip(Bytes::from_static(b"m"));
        let told = copy.peers.call(id(2), &b.address, None, gossip, soon()).await;
        assert_eq!(told, Ok(Reply::Message(Bytes::from_static(b"m"))), "so that it learns why");
        assert!(b.goodbyes("twin") >= 2 && b.echo.handled.get() == 3);
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
