//! A worker that has enough to do says so, early and cheaply, and connections that ask for nothing make room.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::{Instant, advance, sleep};

use super::slow::{Channel, until_closed};
use super::*;
use crate::http::stats::Operation;

fn refused(reply: &Reply) -> bool {
    if reply.status != 503 {
        return false;
    }
    assert_eq!(
        (reply.code().as_str(), &reply.json()["may_be_stored"]),
        ("overloaded", &false.into())
    );
    let pause: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=3).contains(&pause), "{pause}");
    true
}

#[test]
fn more_than_a_worker_takes_on_is_refused_and_the_rest_is_answered() {
    run(async {
        let bench = Bench::taking(HttpLimits::default(), 4);
        bench.memory.delay.set(Duration::from_secs(1));
        let begun = Instant::now();
        let many = (0..10).map(|_| bench.get("/v1/kv/b/k", ""));
        let answers = futures_util::future::join_all(many).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 404).count(), 4);
        assert_eq!(answers.iter().filter(|answer| refused(answer)).count(), 6);
        assert_eq!(bench.memory.gets.borrow().len(), 4, "what is refused does no work");
        let of = |operation| bench.stats.of(operation).by_class[4].load(Relaxed);
        assert_eq!((of(Operation::Other), of(Operation::Get)), (6, 0), "and is no quick answer");
        assert!(begun.elapsed() < Duration::from_millis(1_100));
        assert_eq!(bench.get("/v1/kv/b/k", "").await.status, 404, "there is room again");
    });
}

#[test]
fn a_body_is_not_read_by_a_worker_that_has_enough_to_do() {
    run(async {
        let bench = Bench::taking(HttpLimits::default(), 1);
        bench.memory.delay.set(Duration::from_secs(5));
        let mut busy = bench.open();
        busy.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(10)).await;
        let mut client = bench.open();
        let head =
            b"PUT /v1/kv/b/k HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 900000\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut all = vec![0; 16 * 1024];
        let count = client.read(&mut all).await.unwrap();
        assert!(refused(&Reply::parse_all(&all[..count])[0]), "and no `100 Continue` came");
        assert_eq!(bench.stats.body_bytes.load(Relaxed), 0);
        assert!(bench.memory.puts.borrow().is_empty());
    });
}

#[test]
fn bodies_that_trickle_in_hold_no_place() {
    run(async {
        let bench = Bench::taking(HttpLimits::default(), 4);
        let mut slow: Vec<DuplexStream> = (0..100).map(|_| bench.open()).collect();
        for client in &mut slow {
            let head = b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 100\r\n\r\nx";
            client.write_all(head).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.stats.body_bytes.load(Relaxed), 100);
        assert_eq!(bench.put("/v1/kv/b/k", "", "x").await.status, 204);
        sleep(Duration::from_secs(15)).await;
        assert_eq!(bench.stats.connections.load(Relaxed), 0);
        assert_eq!(bench.stats.body_bytes.load(Relaxed), 0);
    });
}

#[test]
fn a_batch_weighs_what_it_does_at_once() {
    run(async {
        let bench = Bench::taking(HttpLimits::default(), 20);
        bench.memory.delay.set(Duration::from_secs(1));
        let body = r#"[{"op":"get","bucket":"b","key":"k"}]"#;
        let post = format!(
            "POST /v1/batch HTTP/1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let (mut first, mut second) = (bench.open(), bench.open());
        first.write_all(post.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        second.write_all(post.as_bytes()).await.unwrap();
        let (all, _) = until_closed(&mut second).await;
        assert!(refused(&Reply::parse_all(&all)[0]));
        let (all, _) = until_closed(&mut first).await;
        assert_eq!(Reply::parse_all(&all)[0].status, 200);
    });
}

#[test]
fn a_worker_that_is_behind_refuses_at_once() {
    run(async {
        let bench = Bench::new();
        let feeling = bench.pressure.clone();
        tokio::task::spawn_local(async move { feeling.run().await });
        bench.memory.delay.set(Duration::from_secs(20));
        let mut busy = bench.open();
        busy.write_all(b"GET /v1/kv/b/k?timeout=60s HTTP/1.1\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(60)).await;
        for _ in 0..6 {
            advance(Duration::from_millis(400)).await;
            tokio::task::yield_now().await;
        }
        assert!(bench.pressure.is_behind());
        assert!(refused(&bench.get("/v1/kv/b/k", "").await));
        sleep(Duration::from_millis(200)).await;
        bench.memory.delay.set(Duration::ZERO);
        assert_eq!(bench.get("/v1/kv/b/k", "").await.status, 404, "it caught up");
    });
}

#[test]
fn who_asked_for_nothing_for_longest_makes_room() {
    run(async {
        let limits = HttpLimits { connections_max: 3, ..HttpLimits::default() };
        let bench = Bench::with(limits);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let connect = || {
            let (client, server) = duplex(64 * 1024);
            sender.send(server).unwrap();
            client
        };
        tokio::task::spawn_local(bench.server.clone().run(
            Channel(receiver),
            bench.drain.subscribe(),
            Duration::from_secs(10),
        ));
        let (mut kept, mut silent, mut busy) = (connect(), connect(), connect());
        let get = b"GET /v1/kv/b/k?timeout=60s HTTP/1.1\r\n\r\n";
        sleep(Duration::from_millis(500)).await;
        kept.write_all(get).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        bench.memory.delay.set(Duration::from_secs(30));
        busy.write_all(get).await.unwrap();
        sleep(Duration::from_millis(600)).await;
        bench.memory.delay.set(Duration::ZERO);

        // The silent one came first; the other was used since, and the busy one stays whatever comes.
        let mut one = connect();
        let (all, took) = until_closed(&mut silent).await;
        let told = &Reply::parse_all(&all)[0];
        assert_eq!((told.status, told.code().as_str()), (503, "too_many_connections"));
        assert!(took < Duration::from_millis(100), "{took:?}");
        one.write_all(get).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let mut two = connect();
        let (all, _) = until_closed(&mut kept).await;
        assert_eq!(Reply::parse_all(&all).len(), 1, "its own answer, then the end");
        one.write_all(get).await.unwrap();
        two.write_all(get).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        assert_eq!(bench.stats.made_room.load(Relaxed), 2);
        assert_eq!(bench.stats.refused_connections.load(Relaxed), 0);
        assert_eq!(bench.stats.connections.load(Relaxed), 3);
        let (all, _) = until_closed(&mut connect()).await;
        assert_eq!(Reply::parse_all(&all)[0].status, 503, "nobody rested for a second");
        let answered = busy.read(&mut [0; 100]).await.unwrap();
        assert!(answered > 0);
    });
}
