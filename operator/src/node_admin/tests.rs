//! What is asked and how answers are read, over an exchange in memory; and once over TCP.

use std::sync::Mutex;

use kvasir_core::admin_api::problem::code;
use serde_json::json;

use super::*;

/// Answers everything with one answer and keeps what it was asked.
struct Canned {
    answer: Result<(u16, String), String>,
    asked: Mutex<Vec<(String, String, Option<String>)>>,
}

impl Canned {
    fn new(answer: Result<(u16, String), String>) -> Arc<Self> {
        Arc::new(Self { answer, asked: Mutex::default() })
    }
}

impl Exchange for Canned {
    fn exchange<'a>(&'a self, address: &'a str, request: Request<Full<Bytes>>) -> Exchanged<'a> {
        let token = request.headers().get(AUTHORIZATION);
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        let line = format!("{} {}", request.method(), request.uri());
        self.asked.lock().unwrap().push((address.to_owned(), line, token));
        let answer = self.answer.clone().map(|(status, body)| {
            Response::builder().status(status).body(Bytes::from(body)).unwrap()
        });
        Box::pin(async move { answer })
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn the_token_goes_only_with_what_needs_it() {
    let body = json!({"epoch": 1, "hash": "h", "document": {}}).to_string();
    let canned = Canned::new(Ok((200, body)));
    let nodes = NodeAdmin::new(canned.clone(), 9098);
    let request = InitRequest {
        cluster_name: "demo".to_owned(),
        replication: [("dc1".to_owned(), 3)].into(),
        partition_bits: None,
        nodes: Vec::new(),
        defaults: None,
    };
    assert_eq!(run(nodes.init("10.0.0.7", "secret", &request)).unwrap().epoch, 1);
    assert!(matches!(run(nodes.status("fd00::7")), Err(AskError::Unreadable { status: 200, .. })));
    assert!(run(nodes.operation("10.0.0.7", "a/b")).is_err());
    assert!(run(nodes.cancel("10.0.0.7", "secret", "join-4")).is_err());
    let asked = canned.asked.lock().unwrap();
    let expected = [
        ("10.0.0.7:9098", "POST /v1/cluster/init", Some("Bearer secret")),
        ("[fd00::7]:9098", "GET /v1/status", None),
        ("10.0.0.7:9098", "GET /v1/operations/a/b", None),
        ("10.0.0.7:9098", "DELETE /v1/operations/join-4", Some("Bearer secret")),
    ];
    let told = asked.iter().map(|(at, line, token)| (at.as_str(), line.as_str(), token.as_deref()));
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_refusal_carries_the_problem_of_the_node() {
    let problem = Problem::new(code::NODES_NOT_READY, "node x is not blank");
    let body = serde_json::to_string(&problem).unwrap();
    let nodes = NodeAdmin::new(Canned::new(Ok((503, body))), 9098);
    match run(nodes.status("10.0.0.7")) {
        Err(AskError::Refused { problem: told, .. }) => assert_eq!(*told, problem),
        other => panic!("{other:?}"),
    }
    let nodes = NodeAdmin::new(Canned::new(Ok((502, "<html>".to_owned()))), 9098);
    assert!(matches!(run(nodes.status("x")), Err(AskError::Unreadable { status: 502, .. })));
    let nodes = NodeAdmin::new(Canned::new(Err("refused".to_owned())), 9098);
    let error = run(nodes.status("10.0.0.7")).unwrap_err().to_string();
    assert_eq!(error, "10.0.0.7:9098 did not answer: refused");
}

#[test]
fn a_node_that_hangs_is_left_after_the_deadline() {
    struct Hangs;
    impl Exchange for Hangs {
        fn exchange<'a>(&'a self, _: &'a str, _: Request<Full<Bytes>>) -> Exchanged<'a> {
            Box::pin(std::future::pending())
        }
    }
    let error = run(NodeAdmin::new(Arc::new(Hangs), 1).status("x")).unwrap_err();
    assert!(error.to_string().contains("no answer within 3 s"), "{error}");
}

#[test]
fn one_exchange_over_tcp() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let problem =
            serde_json::to_string(&Problem::new(code::UNKNOWN_OPERATION, "none")).unwrap();
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{problem}",
            problem.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(head).unwrap()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let nodes = NodeAdmin::new(Arc::new(Tcp), port);
    let answer = runtime.block_on(nodes.operation("127.0.0.1", "join-1"));
    assert!(matches!(answer, Err(AskError::Refused { problem, .. }) if problem.status == 404));
    let head = served.join().unwrap();
    assert!(head.starts_with("GET /v1/operations/join-1 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&format!("host: 127.0.0.1:{port}")), "{head}");
}
