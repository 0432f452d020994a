//! Connections that break, hang, or cannot be opened.

use super::*;

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
