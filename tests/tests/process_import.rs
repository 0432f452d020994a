//! The word list of Debian's `wamerican` through `kvasir import`, while nodes and the import itself are
//! killed: no write fails, every word reads back, and the killed node holds what it acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::process::{Cluster, binary, escaped, run};
use serde_json::Value;

const WORDS: &str = "/usr/share/dict/words";
/// Longest time for one import.
const IMPORT_PATIENCE: Duration = Duration::from_secs(300);

/// One import at a time: three clusters at once say nothing more and need three times the machine.
static ONE: Mutex<()> = Mutex::new(());

/// The words in the order of the list; the value of each is its line number.
fn words() -> Vec<String> {
    let text = std::fs::read_to_string(WORDS).unwrap_or_else(|error| {
        panic!("{WORDS}: {error}. try: apt-get install wamerican (tests/run does it)")
    });
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(words.len() > 100_000, "{WORDS} has {} words", words.len());
    words
}

/// A file to import, `key<TAB>value` a line.
fn table(dir: &Path, words: &[String]) -> PathBuf {
    let path = dir.join("words.tsv");
    let lines = words.iter().enumerate().map(|(i, word)| format!("{word}\t{}\n", i + 1));
    std::fs::write(&path, lines.collect::<String>()).expect("a file");
    path
}

/// An import under way.
struct Import(Child);

impl Import {
    fn start(cluster: &Cluster, first: usize, file: &Path, out: &Path) -> Self {
        let file_of = |name: &str| std::fs::File::create(out.join(name)).expect("a file");
        let mut command = Command::new(binary());
        command.arg("import").arg(file).args(["--bucket", "words", "-w", "quorum", "-o", "json"]);
        command.args(["--server", &cluster.urls(first)]).stdin(Stdio::null());
        command.arg("--acks").arg(out.join("acks"));
        command.stdout(file_of("import.out")).stderr(file_of("import.err"));
        Self(command.spawn().expect("kvasir import starts"))
    }

    fn ended(&mut self) -> Option<Option<i32>> {
        self.0.try_wait().expect("a child").map(|status| status.code())
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("a child");
    }

    /// Waits for the end and returns the report; it must have stored everything.
    async fn finish(&mut self, out: &Path) -> Value {
        let until = Instant::now() + IMPORT_PATIENCE;
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
        let code = loop {
            if let Some(code) = self.ended() {
                break code;
            }
            assert!(Instant::now() < until, "the import does not end: {}", read("import.err"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(code, Some(0), "{}{}", read("import.out"), read("import.err"));
        let report: Value = serde_json::from_str(&read("import.out")).expect("a JSON report");
        assert_eq!((&report["failed"], &report["complete"]), (&0.into(), &true.into()), "{report}");
        report
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a node's log has taken so many bytes of the import, so that a kill falls in the middle on any
/// machine.
async fn until_under_way(cluster: &Cluster, node: usize, import: &mut Import, bytes: f64) {
    loop {
        let done = cluster.metric(node, "kvasir_storage_log_written_bytes_total").await;
        assert!(import.ended().is_none(), "the import ended before the kill");
        if done > bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads every word at quorum from one node. Returns how many.
async fn reads_back(cluster: &Rc<Cluster>, node: usize, words: &Rc<Vec<String>>) -> usize {
    const TASKS: usize = 32;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (cluster, words) = (cluster.clone(), words.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut count = 0;
            for index in (0..words.len()).skip(task).step_by(TASKS) {
                let path = format!("/v1/kv/words/{}?r=quorum", escaped(words[index].as_bytes()));
                let answer = cluster.ask(node, Ask::new(Method::GET, path)).await;
                let answer = answer.expect("an answer");
                let found = (answer.status, answer.text());
                let word = &words[index];
                assert_eq!(found, (200, (index + 1).to_string()), "node {node}, word {word}");
                count += 1;
            }
            count
        }));
    }
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("a task ends");
    }
    count
}

/// All words from each living node.
async fn all_read_back(cluster: &Rc<Cluster>, living: &[usize], words: &Rc<Vec<String>>) {
    let start = Instant::now();
    let mut counts = BTreeMap::new();
    for node in living {
        counts.insert(*node, reads_back(cluster, *node, words).await);
    }
    println!("words read back right at r=quorum by node: {counts:?} in {:?}", start.elapsed());
}

/// Which words were acknowledged by whom, as the import noted it: word and line number.
fn acknowledged(dir: &Path, by: &str) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(dir.join("acks")).expect("the file of acknowledgements");
    let lines = text.lines().map(serde_json::from_str::<Value>);
    // The last line of a run that was killed may be cut off.
    lines
        .flatten()
        .filter(|line| line["acks"].as_str().is_some_and(|acks| acks.contains(by)))
        .map(|line| {
            let word = line["key"].as_str().expect("a word").to_string();
            (word, line["line"].as_u64().expect("a number"))
        })
        .collect()
}

/// The node alone, with the others stopped, holds each word whose acknowledgement names it.
async fn alone_it_holds(mut cluster: Cluster, node: usize, words: BTreeMap<String, u64>) {
    const TASKS: usize = 32;
    for other in (0..3).filter(|other| *other != node) {
        cluster.kill(other);
    }
    cluster.restart_alone(node).await;
    let (cluster, words) = (Rc::new(cluster), Rc::new(Vec::from_iter(words)));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (cluster, words) = (cluster.clone(), words.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for (word, line) in words.iter().skip(task).step_by(TASKS) {
                let stored = cluster.replica(node, "words", word.as_bytes()).await;
                let values = stored["siblings"].as_array().expect("siblings");
                let value = values.first().and_then(|s| s["valueBase64"].as_str());
                let value = value.and_then(|text| STANDARD.decode(text).ok());
                let line = line.to_string();
                assert_eq!(value.as_deref(), Some(line.as_bytes()), "{word}: {stored}");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a task ends");
    }
    assert!(words.len() >= 1_000, "only {} acknowledgements name the node", words.len());
    println!("asked alone, node {node} holds all {} words that it acknowledged", words.len());
}

/// Kills a node that other tasks still use.
fn kill_unannounced(cluster: &Cluster, node: usize) {
    let pid = cluster.pid(node);
    let killed = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
    assert!(killed.expect("kill runs").success());
}

/// Kills a node in the middle of an import by way of node 0: no write fails, the others hold every word,
/// and the killed node, asked alone, those that it acknowledged.
async fn a_node_dies_in_the_middle(victim: usize) {
    let words = Rc::new(words());
    let cluster = Rc::new(Cluster::formed(3, 3, &[]).await);
    let dir = tempfile::tempdir().expect("a directory");
    let file = table(dir.path(), &words);
    let id = cluster.id(victim).await;
    let mut import = Import::start(&cluster, 0, &file, dir.path());
    until_under_way(&cluster, 0, &mut import, 3e6).await;
    kill_unannounced(&cluster, victim);
    assert!(import.ended().is_none(), "the import ended before the kill");
    let report = import.finish(dir.path()).await;
    assert_eq!(report["stored"], words.len());
    assert!(report["retries"].as_u64() > Some(0), "nothing was in flight: {report}");
    println!("node {victim} killed in the middle: {report}");
    let living: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
    all_read_back(&cluster, &living, &words).await;
    let mut cluster = Rc::into_inner(cluster).expect("no task is left");
    cluster.kill(victim);
    alone_it_holds(cluster, victim, acknowledged(dir.path(), &id)).await;
}

#[test]
fn no_write_fails_when_a_node_dies() {
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(a_node_dies_in_the_middle(2));
}

#[test]
fn no_write_fails_when_the_node_dies_that_the_import_talks_to() {
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(a_node_dies_in_the_middle(0));
}

#[test]
fn a_killed_import_goes_on_where_it_was() {
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let words = Rc::new(words());
        let cluster = Rc::new(Cluster::formed(3, 3, &[]).await);
        let dir = tempfile::tempdir().expect("a directory");
        let file = table(dir.path(), &words);
        let mut import = Import::start(&cluster, 0, &file, dir.path());
        until_under_way(&cluster, 0, &mut import, 3e6).await;
        // The place is saved every second; the kill comes after at least one save.
        let state = dir.path().join("words.tsv.kvasir-import");
        while !state.is_file() {
            assert!(import.ended().is_none(), "the import ended before the kill");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        import.kill();
        let mut import = Import::start(&cluster, 0, &file, dir.path());
        let report = import.finish(dir.path()).await;
        let resumed = report["resumed"].as_u64().expect("a count");
        let stored = report["stored"].as_u64().expect("a count");
        assert!(resumed > 0, "it began again: {report}");
        assert_eq!(resumed + stored, words.len() as u64, "{report}");
        println!("the import killed and resumed: {report}");
        all_read_back(&cluster, &[0, 1, 2], &words).await;
    });
}
