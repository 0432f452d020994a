//! Failover against fake servers in this process.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What a fake server does with each request it reads.
#[derive(Clone, Copy)]
enum Fake {
    Answers(u16, &'static str),
    ReadsAndHangsUp,
    NeverAnswers,
}

type Seen = Rc<RefCell<u32>>;

/// Reads one request: a head, and the one byte of body that a put has here.
async fn request_read(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return false,
        }
        let end: &[u8] = if request.starts_with(b"PUT") { b"\r\n\r\nv" } else { b"\r\n\r\n" };
        if request.ends_with(end) {
            return true;
        }
    }
}

/// Starts a fake server and counts the requests that reach it.
async fn serve(fake: Fake) -> (Server, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let counted = seen.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::task::spawn_local(async move {
                while request_read(&mut stream).await {
                    *counted.borrow_mut() += 1;
                    match fake {
                        Fake::ReadsAndHangsUp => return,
                        Fake::NeverAnswers => std::future::pending().await,
                        Fake::Answers(status, body) => {
                            let length = body.len();
                            let answer = format!(
                                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
                            );
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (Server { host: "127.0.0.1".into(), port }, seen)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

fn bounds(tries: u32) -> Bounds {
    Bounds { total: Duration::from_secs(5), attempt: Duration::from_millis(300), tries }
}

fn client(servers: Vec<Server>, tries: u32) -> Client {
    Client::new("--server", servers, bounds(tries))
}

fn nobody() -> Server {
    // Bound and dropped: nothing listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Server { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() }
}

fn put(repeat: Repeat) -> Ask {
    let (headers, body) = (vec![], Bytes::from_static(b"v"));
    Ask { method: Method::PUT, target: "/v1/kv/b/k".into(), headers, body, repeat }
}

const NOT_APPLIED: &str =
    r#"{"title":"t","status":503,"code":"c","detail":"d","may_be_stored":false}"#;
const MAYBE: &str = r#"{"title":"t","status":503,"code":"c","detail":"d","may_be_stored":true}"#;

#[test]
fn a_dead_server_is_passed_over() {
    run(async {
        let (good, seen) = serve(Fake::Answers(204, "")).await;
        let client = client(vec![nobody(), good], 2);
        let reply = client.ask(&put(Repeat::UnlessSent)).await.unwrap();
        assert_eq!((reply.status, reply.retries, reply.unknown), (204, 1, false));
        // The one that answered is asked first from then on.
        let reply = client.ask(&put(Repeat::UnlessSent)).await.unwrap();
        assert_eq!((reply.status, reply.retries, *seen.borrow()), (204, 0, 2));
    });
}

#[test]
fn not_applied_goes_to_the_next_server_whatever_it_was() {
    run(async {
        let (busy, _) = serve(Fake::Answers(503, NOT_APPLIED)).await;
        let (good, seen) = serve(Fake::Answers(204, "")).await;
        let client = client(vec![busy, good], 2);
        let reply = client.ask(&put(Repeat::UnlessSent)).await.unwrap();
        assert_eq!((reply.status, *seen.borrow()), (204, 1));
    });
}

#[test]
fn what_may_be_stored_is_repeated_only_where_that_is_harmless() {
    run(async {
        for fake in [Fake::Answers(503, MAYBE), Fake::ReadsAndHangsUp, Fake::NeverAnswers] {
            let (bad, _) = serve(fake).await;
            let (good, seen) = serve(Fake::Answers(204, "")).await;
            let client = client(vec![bad, good], 2);
            let ask = put(Repeat::UnlessSent);
            match client.ask_from(0, &ask).await {
                Ok(reply) => {
                    assert_eq!(reply.status, 503);
                    assert!(reply.failure().message.contains("may be stored"));
                }
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::Unavailable);
                    assert!(failure.message.contains("may be stored"), "{failure}");
                }
            }
            assert_eq!(*seen.borrow(), 0);
            let reply = client.ask_from(0, &put(Repeat::Always)).await.unwrap();
            assert_eq!((reply.status, *seen.borrow()), (204, 1));
        }
    });
}

#[test]
fn a_final_answer_ends_the_search() {
    run(async {
        let (first, _) = serve(Fake::Answers(404, "")).await;
        let (second, seen) = serve(Fake::Answers(200, "v")).await;
        let client = client(vec![first, second], 2);
        let reply = client.ask(&Ask::get("/v1/kv/b/k")).await.unwrap();
        assert_eq!((reply.status, *seen.borrow()), (404, 0));
    });
}

#[test]
fn when_nobody_is_there_the_error_says_that_nothing_changed() {
    run(async {
        let client = client(vec![nobody(), nobody()], 2);
        let failure = client.ask(&put(Repeat::Always)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.message.contains("nothing is changed"), "{failure}");
        assert!(failure.next.contains("kvasir dev"), "{failure}");
    });
}

#[test]
fn without_a_bound_on_tries_the_deadline_ends_them() {
    run(async {
        let (busy, seen) = serve(Fake::Answers(503, NOT_APPLIED)).await;
        let limits = Bounds { total: Duration::from_millis(400), ..bounds(0) };
        let client = Client::new("--server", vec![busy], limits);
        let reply = client.ask(&put(Repeat::Always)).await.unwrap();
        assert_eq!(reply.status, 503);
        assert!((2..12).contains(&*seen.borrow()), "{} tries", seen.borrow());
    });
}

#[test]
fn a_connection_is_kept_and_used_again() {
    run(async {
        let (good, _) = serve(Fake::Answers(204, "")).await;
        let client = client(vec![good], 1);
        for _ in 0..3 {
            assert_eq!(client.ask(&put(Repeat::UnlessSent)).await.unwrap().status, 204);
        }
        assert_eq!(client.slots[0].idle.borrow().len(), 1);
    });
}
