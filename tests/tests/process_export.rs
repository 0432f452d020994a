//! Many keys through `kvasir import`, `ls`, `export` and `import` again on real nodes, while a node and the
//! export itself are killed: complete, without doubles, byte for byte, and in bounded memory.
//!
//! `KVASIR_EXPORT_KEYS=1000000` for more than the 100,000 keys of every run.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::process::{Cluster, binary, escaped, run};
use serde_json::{Value, json};

/// Resident memory that a command may take, whatever the bucket holds.
const COMMAND_MAX: u64 = 96 << 20;
/// Resident memory of a node with small memtables and caches.
const NODE_MAX: u64 = 200 << 20;
const SMALL: [&str; 3] =
    ["storage.memtable_bytes=4MiB", "storage.cache_bytes=8MiB", "storage.flush_age=2s"];

fn keys() -> usize {
    std::env::var("KVASIR_EXPORT_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

/// Longest time for one command.
fn patience() -> Duration {
    Duration::from_secs(1_200 + keys() as u64 / 100)
}

/// A key: most are text, every hundredth is not.
fn key(number: usize) -> Vec<u8> {
    match number % 100 {
        7 => [&[0xff, 0, b'\n'][..], &number.to_be_bytes()].concat(),
        _ => format!("k/{number}").into_bytes(),
    }
}

/// The line of a key as an export writes it.
fn line(number: usize) -> Value {
    let mut line = match String::from_utf8(key(number)) {
        Ok(text) => json!({ "key": text }),
        Err(_) => json!({ "key_b64": STANDARD.encode(key(number)) }),
    };
    match number % 50 {
        3 => line["value_b64"] = STANDARD.encode([0xfe, number as u8]).into(),
        9 => line["value"] = "".into(),
        _ => line["value"] = format!("value of {number} \u{1F36F}\n").into(),
    }
    if number % 10 == 1 {
        line["content_type"] = "text/plain; charset=utf-8".into();
    }
    if number % 1_000 == 5 {
        // So far away that it is there in any run.
        line["expires_ms"] = 4_000_000_000_000u64.into();
    }
    line
}

fn file_of(dir: &Path, count: usize) -> PathBuf {
    let path = dir.join("in.ndjson");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    (0..count).for_each(|number| writeln!(file, "{}", line(number)).expect("written"));
    file.flush().expect("written");
    path
}

/// A command under way, and the most memory that it and the nodes took.
struct Running {
    child: Child,
    name: &'static str,
    largest: u64,
}

fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

impl Running {
    fn start(cluster: &Cluster, name: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg(name).args(arguments).args(["--server", &cluster.urls(0)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().expect("kvasir starts"), name, largest: 0 }
    }

    fn ended(&mut self) -> bool {
        self.largest = self.largest.max(resident(self.child.id()).unwrap_or(0));
        self.child.try_wait().expect("a child").is_some()
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("a child");
    }

    /// Waits for its good end.
    async fn finish(mut self) -> (Output, u64) {
        let until = Instant::now() + patience();
        while !self.ended() {
            assert!(Instant::now() < until, "kvasir {} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (name, largest) = (self.name, self.largest);
        let output = self.child.wait_with_output().expect("output");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kvasir {name}: {}\n{errors}", output.status);
        assert!(largest < COMMAND_MAX, "kvasir {name} took {} MiB", largest >> 20);
        (output, largest)
    }
}

fn nodes_largest(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().map(|node| cluster.resident_bytes(*node)).max().unwrap_or(0)
}

/// The lines of an export by key; none twice.
fn lines(path: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).expect("an export");
    let mut lines = BTreeMap::new();
    for text in text.lines() {
        let line: Value = serde_json::from_str(text).expect("a line of JSON");
        let name = format!("{}{}", line["key"], line["key_b64"]);
        assert!(lines.insert(name, line).is_none(), "twice: {text}");
    }
    lines
}

/// What was stored beside what was imported: a conflict, and keys that are gone.
async fn change(cluster: &Cluster) {
    for value in ["milk", "bread"] {
        let mut put = Ask::new(Method::PUT, "/v1/kv/src/both");
        put.body = value.into();
        assert_eq!(cluster.ask(0, put).await.expect("an answer").status, 204);
    }
    for number in 0..10 {
        let path = format!("/v1/kv/src/{}", escaped(&key(number)));
        let deleted = cluster.ask(1, Ask::new(Method::DELETE, path)).await.expect("an answer");
        assert_eq!(deleted.status, 204);
    }
}

/// A part of an export as a file: every tenth line, and each that holds several values.
fn sample(dir: &Path, export: &Path) -> PathBuf {
    let text = std::fs::read_to_string(export).expect("an export");
    let lines = text.lines().enumerate();
    let chosen = lines.filter(|(number, line)| number % 10 == 0 || line.contains("\"siblings\""));
    let path = dir.join("sample.ndjson");
    std::fs::write(&path, chosen.map(|(_, line)| format!("{line}\n")).collect::<String>())
        .expect("a file");
    path
}

fn same(expected: &Value, found: &Value) -> bool {
    let (mut expected, mut found) = (expected.clone(), found.clone());
    // Siblings come with the newest first, whichever was stored first.
    for line in [&mut expected, &mut found] {
        if let Some(siblings) = line["siblings"].as_array_mut() {
            siblings.sort_by_key(Value::to_string);
        }
    }
    expected == found
}

fn check(exported: &BTreeMap<String, Value>, count: usize) {
    for number in 10..count {
        let expected = line(number);
        let name = format!("{}{}", expected["key"], expected["key_b64"]);
        let found = exported.get(&name).unwrap_or_else(|| panic!("missed: {name}"));
        assert!(same(&expected, found), "{found} in the place of {expected}");
    }
    let both = &exported["\"both\"null"]["siblings"];
    let mut values: Vec<&str> =
        both.as_array().expect("both").iter().filter_map(|one| one["value"].as_str()).collect();
    values.sort_unstable();
    assert_eq!((values, exported.len()), (vec!["bread", "milk"], count - 10 + 1));
}

#[test]
fn an_export_imports_to_the_same_while_a_node_and_the_export_are_killed() {
    run(async {
        let (count, dir) = (keys(), tempfile::tempdir().expect("a directory"));
        let mut cluster = Cluster::formed(3, 3, &SMALL).await;
        let (source, out) = (file_of(dir.path(), count), dir.path().join("out.ndjson"));
        let (source, out) = (source.to_str().expect("a path"), out.to_str().expect("a path"));
        let start = Instant::now();
        let quick = ["--durability", "periodic"];
        let import = [&[source, "--bucket", "src"][..], &quick].concat();
        Running::start(&cluster, "import", &import).finish().await;
        println!("{count} keys imported in {:?}", start.elapsed());
        change(&cluster).await;

        // The export is killed once its place was saved, and a node while it goes on.
        let export = ["src", "--out", out, "--page", "500"];
        let mut running = Running::start(&cluster, "export", &export);
        let state = PathBuf::from(format!("{out}.kvasir-export"));
        while !state.is_file() && !running.ended() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut node_peak = nodes_largest(&cluster, &[0, 1, 2]);
        running.kill();
        assert!(state.is_file(), "the export ended before its place was saved: too few keys");
        let start = Instant::now();
        let mut running = Running::start(&cluster, "export", &export);
        let length = || std::fs::metadata(out).map_or(0, |file| file.len());
        let before = length();
        while length() <= before && !running.ended() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cluster.kill(2);
        while !running.ended() {
            node_peak = node_peak.max(nodes_largest(&cluster, &[0, 1]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (output, export_peak) = running.finish().await;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        println!(
            "{said}\n  ({:?}; the most memory: export {} MiB, a node {} MiB)",
            start.elapsed(),
            export_peak >> 20,
            node_peak >> 20
        );
        assert!(said.contains("of earlier runs") && !state.exists(), "{said}");
        assert!(node_peak < NODE_MAX, "a node took {} MiB", node_peak >> 20);
        check(&lines(Path::new(out)), count);
        cluster.restart(2).await;

        // A conflict is refused unless it is asked for, and then everything is the same again.
        let sample = sample(dir.path(), Path::new(out));
        let from = sample.to_str().expect("a path");
        let refused = Command::new(binary())
            .args(["import", from, "--bucket", "refused", "--server", &cluster.urls(0), "--state"])
            .arg(dir.path().join("refused.state"))
            .args(quick)
            .output()
            .expect("kvasir runs");
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{errors}");
        assert!(errors.contains("--siblings keep"), "{errors}");
        let import =
            [&[from, "--bucket", "dst", "--siblings", "keep", "-o", "json"][..], &quick].concat();
        let start = Instant::now();
        let (output, peak) = Running::start(&cluster, "import", &import).finish().await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_eq!(report["complete"], true, "{report}");
        println!(
            "a part imported again in {:?}, the most memory {} MiB",
            start.elapsed(),
            peak >> 20
        );
        let again = dir.path().join("again.ndjson");
        let arguments = ["dst", "--out", again.to_str().expect("a path"), "-o", "json"];
        let (output, _) = Running::start(&cluster, "export", &arguments).finish().await;
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        println!("and exported again: {report}");
        let (expected, found) = (lines(&sample), lines(&again));
        assert!(expected.keys().eq(found.keys()), "not the same keys");
        for (name, line) in &expected {
            assert!(same(line, &found[name]), "{} in the place of {line}", found[name]);
        }
        assert_eq!((&report["with_siblings"], &report["resumed"]), (&json!(1), &json!(0)));

        let listed = Command::new(binary())
            .args(["ls", "src", "--prefix", "k/1", "-o", "json", "--server", &cluster.urls(1)])
            .output()
            .expect("kvasir runs");
        let expected = (10..count).filter(|n| key(*n).starts_with(b"k/1")).count();
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), expected);
    });
}
