//! Calls that arrive, are lost, late, doubled, dropped by their caller, and cross real sockets.

use super::*;

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
        let (counted, pressure) = (stats.clone(), taking(1_024).0);
        let listener = PeerListener::new(net.clone(), me(2), echo, limits, counted, pressure);
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
