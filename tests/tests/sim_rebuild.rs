//! Copies that are made anew on their own node: after its data was emptied under a kept id, its volume put
//! back, a table damaged, two generations missed. The node does so by itself under a checking load; until a
//! copy's last step it counts towards no read; in the end the node serves and agrees with all others, and
//! nothing that was acknowledged is lost or comes back.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use kvasir::planted::{Bug, Planted};
use kvasir_core::id::NodeId;
use kvasir_core::ring::Document;
use kvasir_storage::MemoryDisk;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::replicas::Held;
use kvasir_tests::check::{Demand, Evidence, judge};
use kvasir_tests::load::http::Ask;
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive_while, fill, settle};
use kvasir_tests::sim::{Sim, run};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Small tables, and erasing as soon as it may be.
const FAST: &[&str] = &[
    "storage.memtable_bytes=64KiB",
    "storage.log_segment_bytes=64KiB",
    "storage.scrub_interval=2s",
    "repair.interval=5s",
    "repair.tree_bits=16",
    "reclaim.generation=2s",
    "reclaim.min_age=1s",
    "reclaim.pause=2s",
];
/// Longest virtual wait for anything.
const PATIENCE: Duration = Duration::from_secs(180);
const KEYS: u32 = 60;
/// The host that is hurt.
const HURT: usize = 2;

async fn json_of(sim: &Sim, host: usize, path: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        // A node that was just started has no port yet.
        match sim.admin(host, Method::GET, path, None).await {
            Some(answer) => return serde_json::from_slice(&answer.body).expect("JSON"),
            None => assert!(Instant::now() < until, "no answer"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn document(sim: &Sim, host: usize) -> Document {
    let answer = json_of(sim, host, "/v1/cluster/document").await;
    serde_json::from_value(answer["document"].clone()).expect("a document")
}

/// What a host says of itself.
async fn own_row(sim: &Sim, host: usize) -> Value {
    let status = json_of(sim, host, "/v1/status").await;
    let rows = status["nodes"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["id"] == status["answeredBy"]).expect("its own row")
}

/// Four hosts, three copies, and clients at the hosts that are not hurt.
struct Stage {
    sim: Sim,
    plan: Plan,
    recorder: Recorder,
    going: Rc<Cell<bool>>,
    sessions: Vec<JoinHandle<()>>,
}

impl Stage {
    async fn set(seed: u64, sets: &[&str]) -> Self {
        let sim = Sim::formed(seed, 4, 3, &[FAST, sets].concat()).await;
        let plan = Plan {
            seed,
            clients: 4,
            operations: u32::MAX,
            keys: KEYS,
            read_percent: 40,
            delete_percent: 15,
            token_percent: 60,
            padding: 400,
        };
        let recorder = Recorder::new(Clock::start());
        let mut stage =
            Self { sim, plan, recorder, going: Rc::new(Cell::new(true)), sessions: Vec::new() };
        let client = stage.sim.client(Duration::from_secs(5));
        fill(&stage.plan, 0, &stage.aim(), &client, &stage.recorder).await;
        for client in 0..stage.plan.clients {
            let (plan, aim, to) = (stage.plan.clone(), stage.aim(), stage.recorder.clone());
            let (going, http) = (stage.going.clone(), stage.sim.client(Duration::from_secs(6)));
            stage.sessions.push(tokio::task::spawn_local(async move {
                drive_while(&plan, client, &aim, &http, &to, &|| going.get()).await;
            }));
        }
        sleep(Duration::from_secs(15)).await;
        stage
    }

    fn aim(&self) -> Aim {
        let servers = self.sim.servers();
        let servers = (0..4).filter(|host| *host != HURT).map(|host| servers[host].clone());
        Aim {
            servers: servers.collect(),
            level: "quorum".to_string(),
            query: "timeout=4s&sloppy=false".to_string(),
            think_ms: 200,
        }
    }

    /// Waits until the hurt host was rebuilt: an operation of this id's beginning ended, the host serves and
    /// no damage is left. Gives how many copies were made anew. While a slot is on its way it answers no
    /// read.
    async fn rebuilt(&self, node: NodeId, begins: &str) -> u64 {
        let until = Instant::now() + PATIENCE;
        let (mut unread, mut seen) = (0, 0);
        loop {
            let document = document(&self.sim, 0).await;
            for entry in document.table.iter().filter(|entry| entry.moving().is_some()) {
                let (_, slot) = entry.moving().expect("it moves");
                assert_eq!((slot.owner, slot.reader()), (node, None), "{slot:?}");
                seen += 1;
            }
            if seen > unread {
                unread += u32::from(self.all_fails(&document).await);
            }
            let of_it = |id: &&String| id.starts_with(begins);
            let ended = document.operations.iter().find(|(id, r)| of_it(id) && !r.is_running());
            let row = own_row(&self.sim, HURT).await;
            let sound = row["notServing"].is_null() && row["load"]["damage"].is_null();
            if let Some((id, _)) = ended.filter(|_| sound && self.sim.serves(HURT)) {
                let end = json_of(&self.sim, 1, &format!("/v1/operations/{id}")).await;
                assert_eq!(
                    (&end["state"], &end["movesDone"]),
                    (&json!("done"), &end["movesTotal"])
                );
                assert!(unread > 0, "nobody saw a copy that counts towards no read");
                println!("{id}: {} copies, {} B", end["movesDone"], end["movedBytes"]);
                return end["movesDone"].as_u64().expect("a number");
            }
            assert!(Instant::now() < until, "{row} {:?}", document.operations);
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// A read of all copies of a key whose slot is on its way, which must not succeed. False where the slot
    /// arrived meanwhile.
    async fn all_fails(&self, before: &Document) -> bool {
        let ring = kvasir_core::ring::Ring::new(kvasir_core::ring::Sealed::new(before.clone()));
        let moving = (0..10_000).map(|number| format!("probe-{number}")).find(|key| {
            let (_, partition) = ring.locate(b"check", key.as_bytes());
            before.entry(partition).is_some_and(|entry| entry.moving().is_some())
        });
        let Some(key) = moving else { return false };
        let path = format!("/v1/kv/check/{key}?r=all&sloppy=false&timeout=500ms");
        let http = self.sim.client(Duration::from_secs(5));
        let read = http.ask("n0:8098", Ask::new(Method::GET, path)).await;
        let after = document(&self.sim, 0).await;
        let (_, partition) = ring.locate(b"check", key.as_bytes());
        let moves = after.entry(partition).is_some_and(|entry| entry.moving().is_some());
        if moves && after.epoch == before.epoch {
            let status = read.expect("an answer").status;
            assert!(![200, 300, 404].contains(&status), "{status}: it counted towards R");
        }
        moves && after.epoch == before.epoch
    }

    /// Ends the load and judges the history and every replica alone.
    async fn judged(self, name: &str) {
        // The rebuilt node answers for its copies like any other.
        sleep(Duration::from_secs(5)).await;
        self.going.set(false);
        for session in self.sessions {
            session.await.expect("a session ends");
        }
        let (sim, plan) = (&self.sim, &self.plan);
        let aim = Aim {
            servers: sim.servers(),
            level: "quorum".to_string(),
            query: "timeout=4s&sloppy=false".to_string(),
            think_ms: 200,
        };
        settle(plan, &aim, &sim.client(Duration::from_secs(5)), &self.recorder).await;
        sleep(Duration::from_secs(20)).await;
        let mut held = Vec::new();
        for number in 0..plan.keys {
            let key = format!("key-{number}");
            for host in 0..4 {
                let read = sim.replica(host, "check", &key).await.expect("every host serves");
                held.push(Held { key: key.clone(), read });
            }
        }
        let history = self.recorder.history();
        let demand = Demand { operations: 500, ok_percent: 80, settled_keys: plan.keys as usize };
        let all = Evidence { strict: true, acks: 2, last: &held, ..Evidence::of(&history, demand) };
        let report = judge(&all);
        println!("{name}: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
        for host in 0..4 {
            let ready = sim.admin(host, Method::GET, "/readyz", None).await.expect("an answer");
            assert_eq!(ready.status, 200, "{}", ready.text());
        }
        let metrics = sim.admin(HURT, Method::GET, "/metrics", None).await.expect("an answer");
        let metrics = metrics.text();
        assert!(metrics.contains("kvasir_node_unfit{reason=\"put_back\"} 0"));
        assert!(metrics.contains("kvasir_storage_lost_ranges 0"));
    }
}

/// Partition replicas of a node.
async fn owned(sim: &Sim, node: NodeId) -> u64 {
    let document = document(sim, 0).await;
    document.table.iter().filter(|entry| entry.names(node)).count() as u64
}

#[test]
fn data_emptied_under_a_kept_id_is_made_anew() {
    run(async {
        let mut stage = Stage::set(1, &[]).await;
        let node = stage.sim.node_id(HURT).await;
        stage.sim.crash(HURT, Crash::DropAll).await;
        stage.sim.empty_store(HURT);
        sleep(Duration::from_secs(5)).await;
        stage.sim.start(HURT);
        let copies = stage.rebuilt(node, "rebuild-").await;
        assert_eq!(copies, owned(&stage.sim, node).await, "all of its copies");
        stage.judged("emptied").await;
    });
}

#[test]
fn a_volume_that_was_put_back_is_made_anew() {
    run(async {
        let mut stage = Stage::set(2, &[]).await;
        let node = stage.sim.node_id(HURT).await;
        let before = stage.sim.disk(HURT).image(Crash::KeepAll, 0);
        sleep(Duration::from_secs(20)).await;
        stage.sim.crash(HURT, Crash::DropAll).await;
        stage.sim.replace_disk(HURT, before);
        stage.sim.start(HURT);
        let copies = stage.rebuilt(node, "rebuild-").await;
        assert_eq!(copies, owned(&stage.sim, node).await);
        stage.judged("put back").await;
    });
}

#[test]
fn a_member_two_generations_behind_is_made_anew() {
    run(async {
        let mut stage = Stage::set(3, &[]).await;
        let node = stage.sim.node_id(HURT).await;
        let file = Path::new("data/generation");
        let before = stage.sim.disk(HURT).content(file).expect("a generation");
        sleep(Duration::from_secs(15)).await;
        stage.sim.crash(HURT, Crash::DropAll).await;
        stage.sim.disk(HURT).plant(file, &before);
        stage.sim.start(HURT);
        let copies = stage.rebuilt(node, "rebuild-").await;
        assert_eq!(copies, owned(&stage.sim, node).await);
        stage.judged("left behind").await;
    });
}

/// Posts an operation and waits until it is done.
async fn done(sim: &Sim, body: Value) {
    let path = format!("/v1/operations/{}", body["id"].as_str().expect("an id"));
    let posted = sim.admin(0, Method::POST, "/v1/operations", Some(body)).await;
    let posted = posted.expect("an answer");
    assert_eq!(posted.status, 200, "{}", posted.text());
    let until = Instant::now() + PATIENCE;
    loop {
        let now = json_of(sim, 0, &path).await;
        if now["state"] != "running" {
            assert_eq!(now["state"], "done", "{now}");
            return;
        }
        assert!(Instant::now() < until, "{now}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// While it is no member its generation stands still: it comes back far behind, with all that it had.
#[test]
fn a_member_that_left_comes_back_many_generations_later() {
    run(async {
        let stage = Stage::set(7, &[]).await;
        let node = stage.sim.node_id(HURT).await;
        done(&stage.sim, json!({ "id": "leave", "kind": "leave", "node": node })).await;
        sleep(Duration::from_secs(20)).await;
        done(&stage.sim, json!({ "id": "join", "kind": "join", "node": node })).await;
        let share = owned(&stage.sim, node).await;
        assert!(share > 0, "it owns nothing");
        let until = Instant::now() + PATIENCE;
        while !stage.sim.serves(HURT) {
            assert!(Instant::now() < until, "{}", own_row(&stage.sim, HURT).await);
            sleep(Duration::from_millis(500)).await;
        }
        println!("back with {share} copies");
        stage.judged("came back").await;
    });
}

/// Flips a bit in a block of every table of a store.
fn damage(disk: &MemoryDisk) -> usize {
    let paths = disk.paths();
    let in_tables = paths.iter().filter(|path| path.starts_with("data/store/tables"));
    let tables = in_tables.filter(|path| path.extension().is_some_and(|end| end == "table"));
    tables.filter(|path| disk.flip_bit(path, 2_000, 3)).count()
}

#[test]
fn copies_of_which_a_table_held_a_part_are_made_anew_and_no_others() {
    run(async {
        let mut stage = Stage::set(4, &[]).await;
        let node = stage.sim.node_id(HURT).await;
        stage.sim.crash(HURT, Crash::DropAll).await;
        let tables = damage(stage.sim.disk(HURT));
        assert!(tables > 0, "there is no table to damage");
        stage.sim.start(HURT);
        let until = Instant::now() + PATIENCE;
        while own_row(&stage.sim, HURT).await["load"]["damage"].is_null() {
            assert!(Instant::now() < until, "the damage of {tables} tables is not found");
            sleep(Duration::from_millis(100)).await;
        }
        let copies = stage.rebuilt(node, "rebuild-").await;
        let all = owned(&stage.sim, node).await;
        assert!((1..all).contains(&copies), "{copies} of {all} copies");
        stage.judged("damaged").await;
    });
}

#[test]
fn a_rebuild_is_posted_through_any_node_and_one_of_what_is_whole_is_refused() {
    run(async {
        let mut stage = Stage::set(5, &["repair.rebuild=false"]).await;
        let node = stage.sim.node_id(HURT).await;
        let path = "/v1/operations";
        let body = json!({ "id": "by-hand", "kind": "rebuild", "node": node });
        let whole = stage.sim.admin(0, Method::POST, path, Some(body.clone())).await;
        let whole = whole.expect("an answer");
        assert_eq!(whole.status, 409, "{}", whole.text());
        assert!(whole.text().contains("\"nothing_to_rebuild\""), "{}", whole.text());
        stage.sim.crash(HURT, Crash::DropAll).await;
        let silent = stage.sim.admin(0, Method::POST, path, Some(body.clone())).await;
        let silent = silent.expect("an answer");
        assert_eq!(silent.status, 503, "{}", silent.text());
        stage.sim.empty_store(HURT);
        stage.sim.start(HURT);
        let until = Instant::now() + PATIENCE;
        loop {
            let row = own_row(&stage.sim, HURT).await;
            if row["notServing"] == "needsRebuild" {
                break;
            }
            assert!(Instant::now() < until, "{row}");
            sleep(Duration::from_millis(200)).await;
        }
        // It says what it lost once it knows its votes again.
        sleep(Duration::from_secs(10)).await;
        assert!(document(&stage.sim, 0).await.operations.is_empty(), "it posted by itself");
        let dry = format!("{path}?dryRun=true");
        let plan = stage.sim.admin(1, Method::POST, &dry, Some(body.clone())).await;
        let plan: Value = serde_json::from_str(&plan.expect("an answer").text()).expect("JSON");
        let moves = plan["moves"].as_array().expect("moves").len() as u64;
        assert_eq!(moves, owned(&stage.sim, node).await);
        for host in [0, 3, 0] {
            let posted = stage.sim.admin(host, Method::POST, path, Some(body.clone())).await;
            let posted = posted.expect("an answer");
            assert_eq!(posted.status, 200, "{}", posted.text());
        }
        assert_eq!(stage.rebuilt(node, "by-hand").await, moves);
        stage.judged("by hand").await;
    });
}

/// Keys that a host stores, or that a read of one copy still shows.
async fn shown(sim: &Sim, keys: usize) -> usize {
    let http = sim.client(Duration::from_secs(10));
    let mut found = 0;
    for key in 0..keys {
        for host in 0..4 {
            let path = format!("/v1/kv/old/k{key}?r=one");
            let read = http.ask(&sim.servers()[host], Ask::new(Method::GET, path)).await;
            found += usize::from(read.is_ok_and(|answer| answer.status == 200));
        }
    }
    found
}

/// How many reads show what was deleted, and erased everywhere, after a volume was put back to before.
async fn brought_back(planted: Planted) -> usize {
    const OLD: usize = 20;
    let mut sim = Sim::new(6, 4, FAST);
    sim.planted = planted;
    sim.form(3).await;
    sleep(Duration::from_secs(5)).await;
    let http = sim.client(Duration::from_secs(10));
    for key in 0..OLD {
        let mut put = Ask::new(Method::PUT, format!("/v1/kv/old/k{key}?w=all"));
        put.body = "old".into();
        let answer = http.ask("n0:8098", put).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    let before = sim.disk(HURT).image(Crash::KeepAll, 0);
    for key in 0..OLD {
        let delete = Ask::new(Method::DELETE, format!("/v1/kv/old/k{key}?w=all"));
        assert_eq!(http.ask("n0:8098", delete).await.expect("an answer").status, 204);
    }
    let until = Instant::now() + 2 * PATIENCE;
    loop {
        let mut left = 0;
        for key in 0..OLD {
            for host in 0..4 {
                let read = sim.replica(host, "old", &format!("k{key}")).await.expect("it serves");
                left += usize::from(read.found);
            }
        }
        if left == 0 {
            break;
        }
        assert!(Instant::now() < until, "{left} records are not erased");
        sleep(Duration::from_secs(2)).await;
    }
    sim.crash(HURT, Crash::DropAll).await;
    sim.replace_disk(HURT, before);
    sim.start(HURT);
    let until = Instant::now() + PATIENCE;
    while !sim.serves(HURT) {
        assert!(Instant::now() < until, "it does not come back");
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_secs(30)).await;
    shown(&sim, OLD).await
}

#[test]
fn what_was_erased_does_not_come_back_with_an_old_volume_and_without_the_floor_it_does() {
    assert_eq!(run(brought_back(Planted::default())), 0);
    let found = run(brought_back(Planted::bug(Bug::FloorUnseen)));
    println!("old copies taken for whole: {found} reads show what was erased");
    assert!(found > 0, "the floor makes no difference: this test cannot fail");
}
