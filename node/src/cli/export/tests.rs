//! Whole exports against a fake server in this process: forms of lines, failures in the middle, resuming.

use std::cell::Cell;
use std::rc::Rc;

use clap::Parser;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    export: Export,
}

/// A server of 30 keys whose cursor is the number of keys before it; fails from a page on.
#[derive(Default)]
struct Fake {
    fails_from: Cell<Option<usize>>,
    requests: Cell<usize>,
}

fn key(number: usize) -> serde_json::Value {
    let milk = json!({ "vtag": "v", "value_b64": "bWlsaw==", "modified": "m", "expires": null });
    let raw = json!({ "value_b64": "AP8=", "content_type": "a/b", "expires_ms": 5 });
    match number {
        0 => json!({ "key_b64": "/w==", "siblings": 1, "bytes": 2, "values": [raw] }),
        1 => json!({ "key": "one", "siblings": 2, "bytes": 6, "values": [milk, raw] }),
        _ => json!({ "key": format!("k{number}"), "siblings": 1, "bytes": 4, "values": [milk] }),
    }
}

impl Fake {
    async fn serve(self: Rc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(self.clone().converse(stream));
            }
        });
        url
    }

    async fn converse(self: Rc<Self>, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut target, mut line) = (String::new(), String::new());
            loop {
                line.clear();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                match line.trim() {
                    "" => break,
                    text if target.is_empty() => target = text.to_owned(),
                    _ => {}
                }
            }
            self.requests.set(self.requests.get() + 1);
            let number = |name: &str| {
                let rest = target.split_once(&format!("{name}="))?.1;
                rest.split(['&', ' ']).next()?.parse::<usize>().ok()
            };
            let (from, limit) = (number("cursor").unwrap_or(0), number("limit").unwrap());
            let failed = self.fails_from.get().is_some_and(|page| from >= page);
            let end = (from + limit).min(30);
            let next = (end < 30).then(|| end.to_string());
            let body = match failed {
                true => {
                    json!({ "status": 400, "code": "bad_cursor", "title": "t", "detail": "no" })
                }
                false => json!({
                    "keys": (from..end).map(key).collect::<Vec<_>>(), "next": next, "progress": 0.5,
                }),
            };
            let (status, body) = (if failed { 400 } else { 200 }, body.to_string());
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    }
}

fn run_local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

async fn start(url: &str, out: &Path, more: &[&str]) -> Result<Exit, Failure> {
    let line = ["export", "b", "--server", url, "--page", "4", "--out", out.to_str().unwrap()];
    let command = CommandLine::try_parse_from(line.iter().chain(more)).unwrap();
    export(&command.export).await
}

#[test]
fn every_key_is_a_line_and_an_export_that_failed_goes_on() {
    run_local(async {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Rc::new(Fake::default()));
        let (url, out) = (fake.clone().serve().await, dir.path().join("out"));
        fake.fails_from.set(Some(12));
        let failure = start(&url, &out, &[]).await.unwrap_err();
        assert!(failure.message.contains("bad_cursor"), "{failure}");
        let state = state::default_path(&out);
        assert!(state.is_file());
        // What a kill left beyond the place is cut off.
        let mut file = OpenOptions::new().append(true).open(&out).unwrap();
        file.write_all(b"{\"key\":\"half").unwrap();
        drop(file);
        fake.fails_from.set(None);
        let before = fake.requests.get();
        assert_eq!(start(&url, &out, &[]).await, Ok(Exit::Ok));
        assert_eq!(fake.requests.get() - before, 5, "twelve of thirty keys were there");
        assert!(!state.exists(), "there is no place to go on from any more");
        let text = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 30);
        assert_eq!(
            lines[0],
            r#"{"key_b64":"/w==","value_b64":"AP8=","content_type":"a/b","expires_ms":5}"#
        );
        let both = r#"{"value":"milk"},{"value_b64":"AP8=","content_type":"a/b","expires_ms":5}"#;
        assert_eq!(lines[1], format!(r#"{{"key":"one","siblings":[{both}]}}"#));
        assert_eq!(lines[29], r#"{"key":"k29","value":"milk"}"#);
    });
}

#[test]
fn what_another_wrote_is_not_written_over() {
    run_local(async {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Rc::new(Fake::default()));
        let (url, out) = (fake.clone().serve().await, dir.path().join("out"));
        std::fs::write(&out, "mine").unwrap();
        assert_eq!(start(&url, &out, &[]).await.unwrap_err().exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "mine");
        assert_eq!(fake.requests.get(), 0);
        assert_eq!(start(&url, &out, &["--restart"]).await, Ok(Exit::Ok));
        assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 30);
        // A state of another bucket, and one that speaks of more than there is.
        let state = state::default_path(&out);
        State { bytes: 1, ..State::new("other", None) }.save(&state).unwrap();
        assert!(start(&url, &out, &[]).await.unwrap_err().message.contains("other"));
        State { bytes: 1 << 40, ..State::new("b", None) }.save(&state).unwrap();
        assert!(start(&url, &out, &[]).await.unwrap_err().message.contains("fewer"));
        std::fs::write(&state, "{}").unwrap();
        assert!(start(&url, &out, &[]).await.unwrap_err().next.contains("--restart"));
    });
}
