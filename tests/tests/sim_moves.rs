//! Partitions that move, in simulation: nodes come, go and are replaced while clients write and read with
//! strict quorums, and the checker judges every history: nothing acknowledged is lost, no read goes back.

use std::ops::Range;
use std::time::Duration;

use hyper::Method;
use kvasir_core::ring::Partition;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, Evidence, History, judge};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive, fill, settle};
use kvasir_tests::sim::{Conditions, Sim, Story, hunt, owned, run};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Five hosts of which the first three are a cluster of three copies.
async fn three_of_five(seed: u64) -> Sim {
    Sim::some_formed(seed, (5, 3), None, &[]).await
}

fn plan(seed: u64, operations: u32) -> Plan {
    Plan {
        seed,
        clients: 6,
        operations,
        keys: 120,
        read_percent: 40,
        delete_percent: 5,
        token_percent: 60,
        padding: 200,
    }
}

fn aim(sim: &Sim) -> Aim {
    Aim {
        servers: sim.servers()[..3].to_vec(),
        level: "quorum".to_string(),
        query: "timeout=4s&sloppy=false".to_string(),
        think_ms: 150,
    }
}

/// Clients that write and read until their plan is done.
fn load(sim: &Sim, plan: &Plan, to: &Recorder) -> Vec<JoinHandle<()>> {
    let session = |client| {
        let (plan, aim, to, http) =
            (plan.clone(), aim(sim), to.clone(), sim.client(Duration::from_secs(6)));
        tokio::task::spawn_local(async move { drive(&plan, client, &aim, &http, &to).await })
    };
    (0..plan.clients).map(session).collect()
}

/// Lets the load end, reads everything once more, and gives the history.
async fn history(
    sim: &Sim,
    plan: &Plan,
    sessions: Vec<JoinHandle<()>>,
    recorder: &Recorder,
) -> History {
    for session in sessions {
        session.await.expect("a session ends");
    }
    sim.weather.set(Conditions::default());
    sim.heal();
    settle(plan, &aim(sim), &sim.client(Duration::from_secs(5)), recorder).await;
    recorder.history()
}

fn judged(history: &History, name: &str, ok_percent: usize) {
    let demand = Demand { operations: 500, ok_percent, settled_keys: 100 };
    let report = judge(&Evidence { strict: true, acks: 2, ..Evidence::of(history, demand) });
    println!("{name}: ok/fail/unknown {:?}", report.outcomes);
    report.assert_good();
}

/// Three nodes become five and three again, under load. When the first change was asked for, and when the last one
/// was done, stands beside the history.
async fn there_and_back(seed: u64, weather: Conditions) -> (History, Range<u64>) {
    let sim = three_of_five(seed).await;
    let (plan, recorder) = (plan(seed, 300), Recorder::new(Clock::start()));
    fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
    sim.weather.set(weather);
    let sessions = load(&sim, &plan, &recorder);
    sleep(Duration::from_secs(10)).await;
    let from = recorder.now_ms();
    let mut joined = Vec::new();
    for host in [3, 4] {
        let node = sim.node_id(host).await;
        let id = format!("join-{host}");
        let end = sim.done(0, json!({ "id": id, "kind": "join", "node": node })).await;
        let now = sim.document(0).expect("it runs");
        let (share, moving) = owned(&now, node);
        let slots = now.table.len() * 3;
        let even = slots / (host + 1);
        assert!((even..=even + 1).contains(&share) && !moving, "{share} of {slots} slots");
        let (moved, bytes) = (end["movesDone"].clone(), end["movedBytes"].clone());
        println!("seed {seed}, join of node {}: {moved} slots for {even}, {bytes} B", host + 1);
        assert_eq!(moved, share, "no slot moved that need not");
        joined.push(node);
    }
    for node in joined {
        let id = format!("leave-{node}");
        sim.done(1, json!({ "id": id, "kind": "leave", "node": node })).await;
        let now = sim.document(1).expect("it runs");
        assert!(!now.members.contains_key(&node), "it is a member still");
        assert_eq!(owned(&now, node), (0, false));
    }
    let moving = from..recorder.now_ms();
    (history(&sim, &plan, sessions, &recorder).await, moving)
}

#[test]
fn three_become_five_and_three_again_under_load() {
    let weather = Conditions { delay_ms: 8, ..Conditions::default() };
    let (history, moving) = run(there_and_back(1, weather));
    judged(&history, "calm", 100);
    let (before, meanwhile) = (history.p99_ms(0..moving.start), history.p99_ms(moving));
    println!("operations and p99 in ms: before {before:?}, meanwhile {meanwhile:?}");
    assert!(before.0 > 200 && meanwhile.0 > 200, "too few to judge by");
    assert!(meanwhile.1 <= before.1 * 2, "clients wait for the moves");
}

#[test]
fn frames_that_are_lost_doubled_and_late_lose_nothing() {
    let weather = Conditions {
        loss_permille: 5,
        twice_permille: 20,
        delay_ms: 5,
        late_permille: 2,
        late_ms: 3_000,
    };
    // Further seeds are told by the soak (`--moves`), which goes through all of this and more.
    judged(&run(there_and_back(2, weather)).0, "seed 2", 85);
}

#[test]
fn a_joiner_that_crashes_in_the_middle_comes_back_and_goes_on() {
    let history = run(async {
        let mut sim = three_of_five(11).await;
        let (plan, recorder) = (plan(11, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let node = sim.node_id(3).await;
        let (status, answer) =
            sim.post(0, json!({ "id": "j", "kind": "join", "node": node })).await;
        assert_eq!(status, 200, "{answer}");
        for _ in 0..3 {
            sleep(Duration::from_millis(900)).await;
            sim.crash(3, Crash::DropAll).await;
            sleep(Duration::from_secs(2)).await;
            sim.start(3);
        }
        let end = sim.carried_out(0, "j").await;
        assert_eq!(end["state"], "done", "{end}");
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "joiner crashes", 90);
}

#[test]
fn a_join_is_taken_back_and_asked_for_again() {
    let history = run(async {
        let sim = three_of_five(12).await;
        let (plan, recorder) = (plan(12, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let node = sim.node_id(3).await;
        for wait_ms in [0, 300, 700, 1_500] {
            let id = format!("j{wait_ms}");
            let body = json!({ "id": id, "kind": "join", "node": node });
            assert_eq!(sim.post(0, body).await.0, 200);
            sleep(Duration::from_millis(wait_ms)).await;
            let (status, answer) = sim.take_back(0, &id).await;
            assert_eq!(status, 200, "{answer}");
            let end = sim.carried_out(0, &id).await;
            assert_eq!(end["state"], "cancelled", "{end}");
            println!("taken back after {wait_ms} ms: {} slots had moved", end["movesDone"]);
            assert!(
                !owned(&sim.document(0).expect("it runs"), node).1,
                "a slot is still in motion"
            );
        }
        sim.done(0, json!({ "id": "j", "kind": "join", "node": node })).await;
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "taken back", 99);
}

#[test]
fn a_node_that_died_is_replaced_and_its_old_disk_is_refused() {
    let history = run(async {
        let mut sim = three_of_five(13).await;
        let (plan, recorder) = (plan(13, 250), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let (dead, new) = (sim.node_id(2).await, sim.node_id(3).await);
        sim.crash(2, Crash::DropAll).await;
        sleep(Duration::from_secs(20)).await;
        let body = json!({ "id": "r", "kind": "replace", "node": new, "replaces": dead });
        let began = Instant::now();
        let end = sim.done(0, body).await;
        let (seconds, bytes) = (began.elapsed().as_secs_f64(), end["movedBytes"].as_f64());
        let rate = bytes.expect("bytes") / seconds / 1e6;
        let slots = &end["movesDone"];
        println!(
            "replaced: {slots} slots, {} B, {seconds:.1} s, {rate:.3} MB/s",
            end["movedBytes"]
        );
        let now = sim.document(0).expect("it runs");
        assert!(!now.members.contains_key(&dead));
        assert_eq!(owned(&now, dead), (0, false));
        // The old disk comes back: no member any more, so it must not serve.
        sim.start(2);
        sleep(Duration::from_secs(10)).await;
        let ready = sim.admin(2, Method::GET, "/readyz", None).await.expect("an answer");
        assert_eq!(ready.status, 503, "a retired node serves: {}", ready.text());
        assert!(ready.text().contains("is no member as of epoch"), "{}", ready.text());
        let history = history(&sim, &plan, sessions, &recorder).await;
        // Full redundancy again: three living owners of everything, and they hold the same.
        let (document, mut nodes) = (sim.settled(&[0, 1, 3]).await, Vec::new());
        for host in [0, 1, 3] {
            nodes.push((host, sim.node_id(host).await));
        }
        for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
            let mut held = Vec::new();
            for (host, _) in nodes.iter().filter(|(_, node)| entry.names(*node)) {
                held.push(sim.stored(*host, partition).await);
            }
            assert_eq!(held.len(), 3, "{partition}");
            assert!(held.windows(2).all(|two| two[0] == two[1]), "{partition}: {held:?}");
        }
        history
    });
    judged(&history, "replaced", 60);
}

#[test]
fn the_ring_is_cut_more_finely_under_load() {
    let history = run(async {
        let sim = three_of_five(14).await;
        let (plan, recorder) = (plan(14, 150), Recorder::new(Clock::start()));
        fill(&plan, 0, &aim(&sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let sessions = load(&sim, &plan, &recorder);
        let before = sim.document(0).expect("it runs").table.len();
        sleep(Duration::from_secs(2)).await;
        sim.done(0, json!({ "id": "d", "kind": "double" })).await;
        let after = sim.document(0).expect("it runs").table.len();
        assert_eq!(after, before * 2);
        let node = sim.node_id(3).await;
        sim.done(0, json!({ "id": "j", "kind": "join", "node": node })).await;
        sim.done(0, json!({ "id": "e", "kind": "double" })).await;
        history(&sim, &plan, sessions, &recorder).await
    });
    judged(&history, "doubled", 99);
}

/// Random stories in which nodes come and go; `tests/run soak --moves --seeds N` tells more.
#[test]
fn nodes_come_and_go_while_everything_else_goes_wrong() {
    let seeds = std::env::var("KVASIR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let found = hunt::hunt(0..seeds, Story::moving);
    println!("{} tombstones erased, {} pieces moved", found.erased, found.moved);
    found.assert_good();
    assert!(found.erased > 0 && found.moved > 0, "nothing was erased, or nothing moved");
}
