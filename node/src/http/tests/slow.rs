//! Slow, silent and too many clients, in virtual time.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::*;
use crate::http::server::Accept;

/// Reads to the end; says how long that took.
pub(super) async fn until_closed(client: &mut DuplexStream) -> (Vec<u8>, Duration) {
    let started = Instant::now();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    (all, started.elapsed())
}

#[test]
fn a_silent_connection_is_closed() {
    run(async {
        let bench = Bench::new();
        let (all, took) = until_closed(&mut bench.open()).await;
        let told = &Reply::parse_all(&all)[0];
        assert_eq!((told.status, told.code().as_str()), (408, "request_timeout"));
        assert!(took <= Duration::from_secs(12), "{took:?}");
        assert_eq!(bench.stats.timeouts.load(Relaxed), 1);
    });
}

#[test]
fn a_head_that_trickles_in_is_refused_in_time() {
    run(async {
        let bench = Bench::new();
        let (mut reader, mut writer) = tokio::io::split(bench.open());
        tokio::task::spawn_local(async move {
            for byte in b"GET /v1/kv/b/a-long-key-name HTTP/1.1\r\nHost: example\r\n\r\n" {
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        let reply = &Reply::parse_all(&all)[0];
        assert_eq!((reply.status, reply.code().as_str()), (408, "request_timeout"));
        assert!(started.elapsed() <= Duration::from_secs(12), "{:?}", started.elapsed());
        assert_eq!(bench.stats.timeouts.load(Relaxed), 1);
    });
}

#[test]
fn a_body_that_trickles_in_is_refused_in_time() {
    run(async {
        let bench = Bench::new();
        let (mut reader, mut writer) = tokio::io::split(bench.open());
        tokio::task::spawn_local(async move {
            let head = b"PUT /v1/kv/b/k?timeout=60s HTTP/1.1\r\nContent-Length: 100\r\n\r\n";
            writer.write_all(head).await.unwrap();
            while writer.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        let reply = &Reply::parse_all(&all)[0];
        assert_eq!((reply.status, reply.code().as_str()), (408, "request_timeout"));
        assert!(started.elapsed() <= Duration::from_secs(12), "{:?}", started.elapsed());
        assert!(bench.memory.puts.borrow().is_empty());
    });
}

#[test]
fn a_slow_body_within_the_deadline_rules() {
    run(async {
        let bench = Bench::new();
        let mut client = bench.open();
        let head = b"PUT /v1/kv/b/k?timeout=2s HTTP/1.1\r\nContent-Length: 100\r\n\r\nx";
        client.write_all(head).await.unwrap();
        let (all, took) = until_closed(&mut client).await;
        assert_eq!(Reply::parse_all(&all)[0].code(), "deadline");
        assert!(took <= Duration::from_secs(4), "{took:?}");
    });
}

#[test]
fn an_idle_connection_outlives_the_head_timeout_and_is_closed_later() {
    run(async {
        let bench = Bench::new();
        let mut client = bench.open();
        for _ in 0..3 {
            client.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\n\r\n").await.unwrap();
            let mut part = vec![0; 16 * 1024];
            let count = client.read(&mut part).await.unwrap();
            assert!(part[..count].starts_with(b"HTTP/1.1 404"));
            sleep(Duration::from_secs(60)).await;
        }
        let (all, took) = until_closed(&mut client).await;
        assert!(all.is_empty() && took <= Duration::from_secs(16), "{took:?}");
        assert_eq!(bench.stats.idle.load(Relaxed), 1);
    });
}

#[test]
fn a_slow_answer_is_no_idleness() {
    run(async {
        let limits = HttpLimits { idle_timeout: Duration::from_secs(1), ..HttpLimits::default() };
        let bench = Bench::with(limits);
        bench.memory.delay.set(Duration::from_secs(40));
        let reply = bench.get("/v1/kv/b/k?timeout=60s", "").await;
        assert_eq!(reply.status, 404);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    run(async {
        let bench = Bench::with(HttpLimits::default());
        let big = "v".repeat(900_000);
        assert_eq!(bench.put("/v1/kv/b/k", "", &big).await.status, 204);
        let mut client = bench.open();
        client.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(40)).await;
        assert_eq!(bench.stats.connections.load(Relaxed), 0);
        assert_eq!(bench.stats.timeouts.load(Relaxed), 1);
    });
}

pub(super) struct Channel(pub(super) mpsc::UnboundedReceiver<DuplexStream>);

impl Accept for Channel {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

#[test]
fn connections_are_bounded_and_drained() {
    run(async {
        let bench = Bench::with(HttpLimits { connections_max: 2, ..HttpLimits::default() });
        let (sender, receiver) = mpsc::unbounded_channel();
        let connect = || {
            let (client, server) = duplex(64 * 1024);
            sender.send(server).unwrap();
            client
        };
        let running = tokio::task::spawn_local(bench.server.clone().run(
            Channel(receiver),
            bench.drain.subscribe(),
            Duration::from_secs(10),
        ));
        let (mut idle, mut busy, mut third) = (connect(), connect(), connect());
        let (all, _) = until_closed(&mut third).await;
        let refused = &Reply::parse_all(&all)[0];
        assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_connections"));
        assert_eq!(bench.stats.refused_connections.load(Relaxed), 1);

        bench.memory.delay.set(Duration::from_secs(2));
        busy.write_all(b"GET /v1/kv/b/k HTTP/1.1\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        bench.drain.send(true).unwrap();
        let (nothing, took) = until_closed(&mut idle).await;
        assert!(nothing.is_empty() && took < Duration::from_secs(1), "idle ones close at once");
        let (all, _) = until_closed(&mut busy).await;
        let answered = &Reply::parse_all(&all)[0];
        assert_eq!((answered.status, answered.header("connection")), (404, "close"));
        running.await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(bench.stats.connections.load(Relaxed), 0);
    });
}

#[test]
fn draining_ends_after_its_grace() {
    run(async {
        let bench = Bench::new();
        let (sender, receiver) = mpsc::unbounded_channel();
        let running = tokio::task::spawn_local(bench.server.clone().run(
            Channel(receiver),
            bench.drain.subscribe(),
            Duration::from_secs(3),
        ));
        let (mut client, server) = duplex(64 * 1024);
        sender.send(server).unwrap();
        bench.memory.delay.set(Duration::from_secs(50));
        client.write_all(b"GET /v1/kv/b/k?timeout=60s HTTP/1.1\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        bench.drain.send(true).unwrap();
        let started = Instant::now();
        running.await.unwrap();
        assert!(started.elapsed() <= Duration::from_millis(3_100));
    });
}

#[test]
fn two_thousand_slow_clients_leave_the_others_alone() {
    run(async {
        let bench = Bench::new();
        let slow: Vec<DuplexStream> = (0..2_000).map(|_| bench.open()).collect();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.put("/v1/kv/b/k", "", "x").await.status, 204);
        sleep(Duration::from_secs(11)).await;
        assert_eq!(bench.stats.connections.load(Relaxed), 0);
        drop(slow);
    });
}
