//! Byte-exact requests: one request is never taken for two, and bounds hold before memory is used.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

#[test]
fn smuggling_is_refused_and_the_connection_closed() {
    run(async {
        let bench = Bench::new();
        let inner = "PUT /v1/kv/b/smuggled HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        for head in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "Content-Length: +1\r\n\r\na",
            "Content-Length: 0x1\r\n\r\na",
            "Content-Length: 1 \r\n 2\r\n\r\na",
            "Content-Length: 99999999999999999999\r\n\r\na",
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "X: a\nContent-Length: 1\r\n\r\na",
            "X: a\0b\r\n\r\n",
            "X: a\r\n folded\r\n\r\n",
        ] {
            let bytes = format!("PUT /v1/kv/b/k HTTP/1.1\r\nHost: x\r\n{head}{inner}");
            let replies = bench.exchange(&bytes).await;
            assert_eq!(replies.len(), 1, "{head:?}: {replies:?}");
            assert_eq!((replies[0].status, replies[0].code().as_str()), (400, "malformed_request"));
            assert_eq!(replies[0].header("connection"), "close");
        }
        assert!(bench.memory.puts.borrow().is_empty(), "nothing changed");
        assert_eq!(bench.stats.malformed.load(std::sync::atomic::Ordering::Relaxed), 12);
    });
}

#[test]
fn a_fault_is_answered_after_what_came_before_it() {
    run(async {
        let bench = Bench::new();
        let bytes = "PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1\r\n\r\naGET /v1/kv/b/k HTTP/1.1\r\n\r\n\
                     GET /v1/kv/b/k HTTP/1.1\nHost: x\n\nGET /v1/kv/b/k HTTP/1.1\r\n\r\n";
        let replies = bench.exchange(bytes).await;
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, [204, 200, 400]);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let bench = Bench::new();
        let mut bytes = String::new();
        for n in 0..50 {
            bytes += &format!("PUT /v1/kv/b/{n} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{n:02}");
            bytes += &format!("GET /v1/kv/b/{n} HTTP/1.1\r\n\r\n");
        }
        bytes += "GET /v1/kv/b/0 HTTP/1.1\r\nConnection: close\r\n\r\n";
        let replies = bench.exchange(&bytes).await;
        assert_eq!(replies.len(), 101);
        assert_eq!(replies[99].text(), "49");
    });
}

#[test]
fn heads_have_a_bound_and_a_token_of_64_kib_passes() {
    run(async {
        let bench = Bench::new();
        let token = "a".repeat(64 * 1024);
        let reply = bench.put("/v1/kv/b/k", &format!("X-Kvasir-Context: {token}\r\n"), "x").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_context"));
        assert_eq!(bench.memory.puts.borrow()[0].token.as_deref(), Some(token.as_str()));
        let reply = bench.put("/v1/kv/b/k", &format!("X: {token}\r\nY: {token}\r\n"), "x").await;
        assert_eq!((reply.status, reply.code().as_str()), (431, "header_too_large"));
        let reply = bench.put("/v1/kv/b/k", &"X: y\r\n".repeat(101), "x").await;
        assert_eq!((reply.status, reply.code().as_str()), (431, "header_too_large"));
        let reply = bench.get(&format!("/v1/kv/b/{}", "k".repeat(61_000)), "").await;
        assert_eq!((reply.status, reply.code().as_str()), (414, "uri_too_long"));
    });
}

#[test]
fn values_have_a_bound() {
    run(async {
        let bench = Bench::new();
        let at_limit = "v".repeat(1_000);
        assert_eq!(bench.put("/v1/kv/b/k", "", &at_limit).await.status, 204);
        let reply = bench.put("/v1/kv/b/k", "", &"v".repeat(1_001)).await;
        assert_eq!((reply.status, reply.code().as_str()), (413, "value_too_large"));
        assert_eq!(reply.json()["limit_bytes"], 1_000);
        // Claimed only: answered without one byte of the body.
        let claim = "PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1099511627776\r\n\
                     Expect: 100-continue\r\n\r\n";
        let mut client = bench.open();
        client.write_all(claim.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(!String::from_utf8_lossy(&all).contains("100 Continue"));
        assert_eq!(Reply::parse_all(&all)[0].code(), "value_too_large");
        // Chunked without end: refused at the limit.
        let mut endless = b"PUT /v1/kv/b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        endless.extend(
            b"64\r\n"
                .iter()
                .chain([b'v'; 100].iter())
                .chain(b"\r\n")
                .copied()
                .cycle()
                .take(200_000),
        );
        let replies = bench.exchange(&endless).await;
        assert_eq!(replies.len(), 1);
        assert_eq!((replies[0].status, replies[0].code().as_str()), (413, "value_too_large"));
        assert_eq!(bench.memory.puts.borrow().len(), 1);
    });
}

#[test]
fn chunked_bodies_are_taken_whole_or_not_at_all() {
    run(async {
        let bench = Bench::new();
        let put = "PUT /v1/kv/b/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let good = format!(
            "{put}3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /v1/kv/b/k HTTP/1.1\r\nConnection: close\r\n\r\n"
        );
        let replies = bench.exchange(&good).await;
        assert_eq!((replies[0].status, replies[1].text()), (204, "abcde"));
        for body in
            ["3\r\nabc\r\nffffffffffffffffff\r\n", "3\nabc\r\n", "3\r\nabcX", "3\r\nabc\r\nz"]
        {
            let replies = bench.exchange(format!("{put}{body}")).await;
            assert_eq!(replies.len(), 1, "{body:?}");
            assert_eq!(
                (replies[0].status, replies[0].code().as_str()),
                (400, "bad_body"),
                "{body:?}"
            );
        }
        assert_eq!(bench.memory.puts.borrow().len(), 1);
        // A body that the client cuts off.
        let mut client = bench.open();
        client.write_all(format!("{put}5\r\nab").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(Reply::parse_all(&all)[0].code(), "bad_body");
    });
}

#[test]
fn a_client_that_closes_its_sending_side_still_gets_its_answer() {
    run(async {
        let bench = Bench::new();
        bench.memory.delay.set(Duration::from_millis(500));
        let mut client = bench.open();
        let put = b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        client.write_all(put).await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(Reply::parse_all(&all)[0].status, 204);
    });
}

#[test]
fn expect_continue_is_answered_when_the_body_is_wanted() {
    run(async {
        let bench = Bench::new();
        let mut client = bench.open();
        let head = b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\
                     Connection: close\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut interim = [0; 25];
        client.read_exact(&mut interim).await.unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"x").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(Reply::parse_all(&all)[0].status, 204);
    });
}

#[test]
fn a_body_that_nobody_reads_ends_the_connection_after_the_answer() {
    run(async {
        let bench = Bench::new();
        let mut client = bench.open();
        let get = b"GET /v1/kv/b/k HTTP/1.1\r\nContent-Length: 500\r\n\r\nnot all of it";
        client.write_all(get).await.unwrap();
        let started = tokio::time::Instant::now();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(Reply::parse_all(&all)[0].code(), "not_found");
        assert!(started.elapsed() <= Duration::from_secs(2));
    });
}

/// Over real sockets a close with unread bytes resets the connection; the answer must survive it.
#[test]
fn a_refused_upload_gets_its_answer_over_tcp() {
    use std::io::{Read, Write};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let bench = Bench::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = b"PUT /v1/kv/b/k HTTP/1.1\r\nContent-Length: 60000\r\n\r\n";
            stream.write_all(head).unwrap();
            stream.write_all(&[b'v'; 60_000]).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let (stream, _) = listener.accept().await.unwrap();
        bench.server.serve(stream, bench.drain.subscribe()).await;
        let all = tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap();
        assert_eq!(Reply::parse_all(&all)[0].code(), "value_too_large");
    });
}

/// Bytes that look like requests here and there.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"PUT /v1/kv/b/k?w=1 HTTP/1.1\r\n".to_vec()),
        Just(b"GET /v1/kv/b/%00 HTTP/1.1\r\n".to_vec()),
        Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Expect: 100-continue\r\nX-Kvasir-Context: AQ\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"3\r\nabc\r\n0\r\n\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

#[test]
fn random_bytes_never_hurt() {
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&noise(), |bytes| {
        run(async {
            let bench = Bench::new();
            let mut client = bench.open();
            let _ = client.write_all(&bytes).await;
            let _ = client.shutdown().await;
            let mut all = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut all));
            ended.await.expect("the connection ends").unwrap();
            for reply in Reply::parse_all(&all) {
                assert!((200..=599).contains(&reply.status));
            }
            assert_eq!(bench.stats.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
            assert_eq!(bench.stats.in_flight.load(std::sync::atomic::Ordering::Relaxed), 0);
        });
        Ok(())
    });
    outcome.unwrap();
}
