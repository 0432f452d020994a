//! The HTTP front: screen, parser, path, query, headers, over a byte stream. Whatever is sent, the
//! connection ends, answers are answers, and the same requests are seen however the bytes are cut: two
//! readings of one stream are how requests are smuggled.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use kvasir::http::content::Content;
use kvasir::http::headers::{content_type, token};
use kvasir::http::limits::HttpLimits;
use kvasir::http::path::{Action, route, unescape};
use kvasir::http::server::{Handler, Server};
use kvasir::http::stats::HttpStats;
use kvasir::http::{Answer, query};
use kvasir_tests::fuzz::{Target, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::watch;

/// What was handed to the handler: method and target, and the body if it came whole.
type Seen = Vec<(String, Option<Bytes>)>;

#[derive(Default)]
struct Noting(RefCell<Seen>);

impl Handler for Noting {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let _ = route(&head.method, head.uri.path()).is_ok();
        for action in [Action::Get, Action::Put, Action::Delete] {
            let _ = query::parse(head.uri.query(), action, Duration::from_secs(9)).is_ok();
        }
        let _ = (token(&head.headers).is_ok(), content_type(&head.headers).is_ok());
        if let Some(plain) = unescape(head.uri.path().as_bytes()) {
            assert!(plain.len() <= head.uri.path().len());
        }
        let body = body.collect().await.ok().map(|body| body.to_bytes());
        self.0.borrow_mut().push((format!("{} {}", head.method, head.uri), body));
        Response::new(Content::from(Bytes::from_static(b"ok")))
    }
}

async fn answered(input: &[u8], piece: usize) -> (Seen, Vec<u8>) {
    let handler = Rc::new(Noting::default());
    let server = Server::new(
        handler.clone(),
        HttpLimits::default(),
        Arc::new(HttpStats::default()),
        Rc::new(|| 784_111_777_000),
    );
    let (client, serving) = duplex(1 << 20);
    let (mut answers, mut requests) = tokio::io::split(client);
    let (_drain, draining) = watch::channel(false);
    let send = async {
        for part in input.chunks(piece) {
            if requests.write_all(part).await.is_err() {
                return;
            }
            // As long as it takes the other side to look at it.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = requests.shutdown().await;
    };
    let mut out = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(3_600), async {
        tokio::join!(server.serve(serving, draining), send, answers.read_to_end(&mut out))
    });
    assert!(ended.await.is_ok(), "the connection never ended");
    let seen = handler.0.borrow().clone();
    (seen, out)
}

fn fed(input: &[u8]) -> String {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let (seen, out) = runtime.block_on(answered(input, usize::MAX));
    assert!(out.is_empty() || out.starts_with(b"HTTP/1."), "{}", out.escape_ascii());
    let heads = out.windows(7).filter(|part| *part == b"HTTP/1.").count();
    assert!(heads >= seen.len(), "{} requests, {heads} answers", seen.len());
    let (in_pieces, _) = runtime.block_on(answered(input, 1 + input.len() / 9));
    assert_eq!(in_pieces, seen, "two readings of one stream");
    let statuses = out.windows(12).filter(|part| part.starts_with(b"HTTP/1.")).take(3);
    let statuses: Vec<String> = statuses.map(|part| part[9..].escape_ascii().to_string()).collect();
    format!("{} {}", seen.len().min(4), statuses.join(" "))
}

#[test]
fn requests() {
    let seeds = [
        &b"GET /v1/kv/b/k?r=quorum&timeout=2s HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PUT /v1/kv/b/%00%ff?w=2&durability=each HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Kvasir-Context: AA\r\n\r\nhello",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nDELETE /v1/kv/b/k HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"PUT /v1/kv/b/k HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
        b"HEAD /v1/kv/b/k HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nTrailer: y\r\n\r\n",
    ];
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"Content-Length: +3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Host: b\r\n",
        b" HTTP/1.1",
        b"HTTP/2.0",
        b"0\r\n\r\n",
        b"ffffffffffffffff",
        b"%",
        b"%2f",
        b"..",
        b"//",
        b"http://a/",
        b"*",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"\x00",
        b" \t",
    ];
    let seeds = seeds.iter().map(|seed| seed.to_vec()).collect();
    let target = Target { name: "http", seeds, words, inputs: 4_000, mend: &|_| (), run: &fed };
    assert!(run(&target).outcomes.len() >= 8);
}
