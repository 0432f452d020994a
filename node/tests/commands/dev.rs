//! `kvasir dev` and `kvasir import` with nodes that are killed, paused and started again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::{KVASIR, free_base};

/// A cluster with a hand on its console.
struct Dev {
    process: Child,
    console: ChildStdin,
    said: Receiver<String>,
    base: u16,
}

impl Dev {
    fn start(keep: &Path) -> Self {
        Self::shaped(keep, &[], "3 nodes are ready")
    }

    fn shaped(keep: &Path, shape: &[&str], ready: &str) -> Self {
        let base = free_base();
        let mut process = Command::new(KVASIR)
            .args(["dev", "--base-port", &base.to_string(), "--keep"])
            .arg(keep)
            .args(shape)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, said) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let mut dev = Self { process, console, said, base };
        dev.wait_for(ready);
        dev
    }

    /// Waits until a line that holds this text was said.
    fn wait_for(&mut self, text: &str) {
        let mut instead = Vec::new();
        loop {
            let line = self.said.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("never said: {text}; but {instead:#?}"));
            if line.contains(text) {
                return;
            }
            instead.push(line);
        }
    }

    fn tell(&mut self, command: &str, answer: &str) {
        writeln!(self.console, "{command}").unwrap();
        self.wait_for(answer);
    }

    fn url(&self, node: u16) -> String {
        format!("http://127.0.0.1:{}", self.base + node)
    }

    fn urls(&self) -> String {
        format!("{},{},{}", self.url(0), self.url(1), self.url(2))
    }

    /// Whether anything listens on the HTTP port of a node.
    fn listens(&self, node: u16) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.base + node)).is_ok()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn kvasir(arguments: &[&str]) -> Output {
    Command::new(KVASIR)
        .args(arguments)
        .env_remove("KVASIR_URL")
        .env_remove("KVASIR_ADMIN_URL")
        .output()
        .unwrap()
}

fn words(folder: &Path, count: u32) -> String {
    let path = folder.join("words.tsv");
    let text: String = (1..=count).map(|line| format!("word-{line}\t{line}\n")).collect();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every word has its number, read at quorum through one node.
fn assert_all(server: &str, count: u32, step: usize) {
    for line in (1..=count).step_by(step) {
        let key = format!("word-{line}");
        let read = kvasir(&["get", "default", &key, "-r", "quorum", "--server", server]);
        let errors = String::from_utf8_lossy(&read.stderr);
        assert_eq!(read.status.code(), Some(0), "{key}: {errors}");
        assert_eq!(read.stdout, line.to_string().as_bytes(), "{key}");
    }
}

#[test]
fn an_import_ends_without_a_failed_write_though_a_node_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&folder.path().join("cluster"));
    let file = words(folder.path(), 6_000);
    let import = Command::new(KVASIR)
        .args(["import", &file, "-w", "quorum", "-o", "json", "--server", &dev.urls()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    dev.tell("kill 2", "node 2 is killed");
    let done = import.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{report}");
    assert_eq!((&report["stored"], &report["failed"]), (&6_000.into(), &0.into()));
    assert_eq!(report["complete"], true);
    for node in 0..2 {
        assert_all(&dev.url(node), 6_000, 97);
    }
    dev.tell("start 2", "node 2 is ready");
    assert_all(&dev.url(2), 6_000, 97);
}

#[test]
fn a_killed_import_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("cluster"));
    let file = words(folder.path(), 8_000);
    let arguments = ["import", &file, "-w", "quorum", "-o", "json", "--server", &dev.urls()];
    let state = format!("{file}.kvasir-import");
    let mut killed = Command::new(KVASIR).args(arguments).stdout(Stdio::null()).spawn().unwrap();
    while !Path::new(&state).exists() && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let resumed = kvasir(&arguments);
    let report: serde_json::Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{report}");
    assert!(report["resumed"].as_u64() > Some(0), "{report}");
    let both = report["resumed"].as_u64().unwrap() + report["stored"].as_u64().unwrap();
    assert_eq!(both, 8_000);
    assert!(!Path::new(&state).exists());
    assert_all(&dev.url(1), 8_000, 131);
}

#[test]
fn a_kept_cluster_is_started_again_with_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("cluster");
    let mut dev = Dev::start(&keep);
    let put = kvasir(&["put", "default", "k", "v", "--server", &dev.url(0)]);
    assert_eq!(put.status.code(), Some(0));
    // A second cluster on the same ports is refused before anything is started.
    let base = dev.base.to_string();
    let second = kvasir(&["dev", "--base-port", &base]);
    let errors = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot be used") && errors.contains("try: "), "{errors}");
    writeln!(dev.console, "quit").unwrap();
    assert!(dev.process.wait().unwrap().success());
    let dev = Dev::start(&keep);
    let get = kvasir(&["get", "default", "k", "--server", &dev.url(2)]);
    assert_eq!(get.stdout, b"v");
    let other = kvasir(&["dev", "--keep", keep.to_str().unwrap(), "--nodes", "5"]);
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn links_break_and_heal_and_the_lesson_shows_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&folder.path().join("cluster"));
    dev.tell("lesson siblings", "the network is cut: ");
    dev.tell("", "300, 2 values: `milk, ");
    dev.tell("", "200: milk, bread, eggs");
    dev.tell("partition 2 | 0,1", "the network is cut: 2 | 0,1");
    // Refused, on standard error; what was cut stays cut.
    writeln!(dev.console, "lesson siblings").unwrap();
    // Two of three are a quorum, one alone is none: it says so and stores nothing for good.
    let put = |node: u16, value: &str, dev: &Dev| {
        let arguments =
            ["put", "default", "k", value, "--server", &dev.url(node), "--timeout", "5s"];
        kvasir(&arguments).status.code()
    };
    assert_eq!(put(0, "majority", &dev), Some(0));
    assert_eq!(put(2, "minority", &dev), Some(4));
    dev.tell("kill 1", "node 1 is killed");
    dev.tell("start 1", "node 1 is ready");
    dev.tell("status", "partition: 2 | 0,1");
    dev.tell("slow 2 50ms", "what node 2 sends to other nodes is 50 ms late");
    dev.tell("heal", "the network is whole");
    assert_eq!(put(2, "again", &dev), Some(0));
}

#[test]
fn one_of_two_data_centers_is_killed_and_the_other_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let shape = ["--nodes", "6", "--datacenters", "2"];
    let ready = "6 nodes are ready, n=3 in each of 2 data centers";
    let mut dev = Dev::shaped(&folder.path().join("cluster"), &shape, ready);
    let put = |key: &str, level: &str, dev: &Dev| {
        kvasir(&["put", "default", key, "v", "-w", level, "--server", &dev.url(0)])
    };
    assert_eq!(put("before", "each_quorum", &dev).status.code(), Some(0));
    for node in [1, 3, 5] {
        dev.tell(&format!("kill {node}"), &format!("node {node} is killed"));
    }
    assert_eq!(put("local", "local_quorum", &dev).status.code(), Some(0));
    let each = put("each", "each_quorum", &dev);
    let errors = String::from_utf8_lossy(&each.stderr).into_owned();
    assert_eq!(each.status.code(), Some(4), "{errors}");
    assert!(errors.contains("data center dc2: 0 of 2"), "{errors}");
    for node in [1, 3, 5] {
        dev.tell(&format!("start {node}"), &format!("node {node} is ready"));
    }
    // Whether or not dc2 has been sent it by now, a majority of dc1 is asked as well.
    let server = dev.url(1);
    let read = kvasir(&["get", "default", "local", "-r", "each_quorum", "--server", &server]);
    assert_eq!(read.stdout, b"v", "{}", String::from_utf8_lossy(&read.stderr));
    dev.tell("status", " dc2 ");
}

#[test]
fn a_node_joins_and_another_leaves_and_every_word_stays() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("cluster");
    let mut dev = Dev::start(&keep);
    let file = words(folder.path(), 2_000);
    let import = kvasir(&["import", &file, "-w", "quorum", "--server", &dev.urls()]);
    assert_eq!(import.status.code(), Some(0));
    dev.tell("add", "partition replicas move, about ");
    dev.tell("", "is done; ");
    dev.tell("", "export KVASIR_ADMIN_URL=");
    assert_all(&dev.url(3), 2_000, 61);
    dev.tell("remove 0", "node 0 has stopped");
    dev.tell("", "its folder is kept");
    assert!(!dev.listens(0) && keep.join("node-0/data").exists());
    for node in [1, 2, 3] {
        assert_all(&dev.url(node), 2_000, 61);
    }
    // A story is told by the nodes that are left.
    dev.tell("lesson siblings", "200: milk, bread, eggs");
    // What was done is told afterwards, by whoever is asked, and what cannot be is refused.
    let url = dev.url(3);
    let told = kvasir(&["ring", "status", "-o", "json", "--server", &url]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let kinds: Vec<_> =
        told.as_array().unwrap().iter().map(|one| &one["request"]["kind"]).collect();
    assert_eq!(kinds, ["leave", "join"], "{told}");
    let left = told[0]["request"]["node"].as_str().unwrap();
    let unasked = kvasir(&["ring", "apply", "rebalance", "--server", &url]);
    assert_eq!(unasked.status.code(), Some(2), "nobody is there to be asked");
    for change in ["rebalance", "double"] {
        let apply = ["ring", "apply", change, "--yes", "-o", "json", "--server", &url];
        let applied = kvasir(&apply);
        let end: serde_json::Value = serde_json::from_slice(&applied.stdout).unwrap();
        assert_eq!((applied.status.code(), &end["state"]), (Some(0), &"done".into()), "{end}");
    }
    for refused in [&["apply", "leave", left, "--yes"][..], &["cancel"], &["cancel", "nobody"]] {
        let refused = kvasir(&[&["ring"], refused, &["--server", &url]].concat());
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() > Some(0) && errors.contains("try: "), "{errors}");
    }
    writeln!(dev.console, "quit").unwrap();
    assert!(dev.process.wait().unwrap().success());
    let dev = Dev::start(&keep);
    assert!(!dev.listens(0));
    assert_all(&dev.url(3), 2_000, 61);
}

#[test]
fn children_end_with_their_parent_even_when_paused() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&folder.path().join("cluster"));
    dev.tell("pause 1", "node 1 is paused");
    dev.process.kill().unwrap();
    dev.process.wait().unwrap();
    for _ in 0..300 {
        if (0..3).all(|node| !dev.listens(node)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("a node outlived kvasir dev by 30 s");
}

#[test]
fn exec_passes_urls_and_status_on() {
    let base = free_base().to_string();
    let script = "test -n \"$KVASIR_ADMIN_URL\" && echo \"$KVASIR_URL\" && exit 7";
    let run = kvasir(&["dev", "--base-port", &base, "--nodes", "1", "--exec", script]);
    assert_eq!(run.status.code(), Some(7));
    assert_eq!(run.stdout, format!("http://127.0.0.1:{base}\n").as_bytes());
}
