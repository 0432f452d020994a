//! Whole imports against fake servers in this process: nodes die, lines are refused, runs resume.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    import: Import,
}

/// A server that keeps what is put, hangs up for ever after so many requests, and refuses one key.
#[derive(Default)]
struct Fake {
    stored: Rc<RefCell<BTreeMap<String, String>>>,
    requests: Cell<u32>,
    dies_after: Cell<Option<u32>>,
    refuses: RefCell<Option<String>>,
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
            let (mut target, mut length, mut line) = (String::new(), 0, String::new());
            loop {
                line.clear();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let text = line.trim();
                if text.is_empty() {
                    break;
                }
                if target.is_empty() {
                    target = text.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
                }
                if let Some(number) = text.to_lowercase().strip_prefix("content-length:") {
                    length = number.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            self.requests.set(self.requests.get() + 1);
            if self.dies_after.get().is_some_and(|after| self.requests.get() > after) {
                return;
            }
            let refused = self.refuses.borrow().as_deref().is_some_and(|key| target.ends_with(key));
            let answer: &[u8] = if refused {
                b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n"
            } else {
                let value = String::from_utf8(body).unwrap();
                self.stored.borrow_mut().insert(target, value);
                b"HTTP/1.1 204 X\r\n\r\n"
            };
            stream.write_all(answer).await.unwrap();
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// 500 words with their line numbers.
fn words(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("words");
    let text: String = (1..=500).map(|line| format!("word-{line}\t{line}\n")).collect();
    std::fs::write(&path, text).unwrap();
    path
}

async fn start(file: &std::path::Path, servers: &str, more: &[&str]) -> Result<Exit, Failure> {
    let line = ["import", file.to_str().unwrap(), "--server", servers];
    let command = CommandLine::try_parse_from(line.iter().chain(more)).unwrap();
    import(&command.import).await
}

fn assert_complete(stored: &RefCell<BTreeMap<String, String>>) {
    let stored = stored.borrow();
    assert_eq!(stored.len(), 500);
    for line in 1..=500 {
        let key = format!("/v1/kv/default/word-{line}");
        assert_eq!(stored.get(&key), Some(&line.to_string()), "{key}");
    }
}

#[test]
fn every_line_is_stored_though_a_server_dies_in_the_middle() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = words(&dir);
        let (good, bad) = (Rc::new(Fake::default()), Rc::new(Fake::default()));
        bad.dies_after.set(Some(100));
        let shared = good.stored.clone();
        let bad = Rc::new(Fake { stored: shared.clone(), ..Rc::into_inner(bad).unwrap() });
        let servers = [good.clone().serve().await, bad.clone().serve().await].join(",");
        assert_eq!(start(&file, &servers, &[]).await, Ok(Exit::Ok));
        assert!(bad.requests.get() > 100, "the dead server was used: {}", bad.requests.get());
        assert_complete(&shared);
        assert!(!state::default_path(&file).exists());
    });
}

#[test]
fn a_refused_line_is_named_and_the_import_goes_on_from_there() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = words(&dir);
        let server = Rc::new(Fake::default());
        *server.refuses.borrow_mut() = Some("word-300".into());
        let url = server.clone().serve().await;
        let failure = start(&file, &url, &["--concurrency", "8"]).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Error);
        assert!(failure.message.contains("line 300: "), "{failure}");
        let state = State::load(&state::default_path(&file)).unwrap().unwrap();
        assert_eq!((state.place.lines, state.place.pairs), (299, 299));
        // The cause is gone: only what is left is sent.
        *server.refuses.borrow_mut() = None;
        server.requests.set(0);
        assert_eq!(start(&file, &url, &[]).await, Ok(Exit::Ok));
        assert_eq!(server.requests.get(), 201);
        assert_complete(&server.stored);
        assert!(!state::default_path(&file).exists());
    });
}

#[test]
fn a_malformed_line_is_named_after_all_before_it_was_stored() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("words");
        std::fs::write(&file, "a\t1\n\nb\t2\nno tab\nc\t3\n").unwrap();
        let server = Rc::new(Fake::default());
        let url = server.clone().serve().await;
        let failure = start(&file, &url, &[]).await.unwrap_err();
        assert!(failure.message.contains("words, line 4: there is no tab"), "{failure}");
        assert_eq!(server.stored.borrow().len(), 2);
    });
}

#[test]
fn when_no_server_is_there_nothing_is_claimed() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = words(&dir);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{nobody}");
        let failure = start(&file, &url, &["--timeout", "300ms"]).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.next.contains("goes on where it was"), "{failure}");
    });
}
