//! A second process on a copy of a node's volume, while the first goes on. The others listen to one of the two
//! and take data from that one alone: the younger process, whose older data is made anew before it serves. The
//! first serves nothing any more, nothing acknowledged is lost, clients of the others notice nothing but writes
//! that were handed to that node in the moments of the change, and once the copy is gone the first comes back
//! with its next start.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, Evidence, Kind, Operation, Outcome, judge};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive_while, fill, settle};
use kvasir_tests::sim::{Sim, run};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// The node whose volume is copied.
const FIRST: usize = 4;
/// Where the copy runs.
const COPY: usize = 5;
const KEYS: u32 = 60;

/// Six hosts of which the first five are a cluster of three copies; the last does not run.
async fn five_of_six(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, 6, &[]);
    for host in 0..5 {
        sim.start(host);
    }
    let nodes: Vec<String> = (0..5).map(|host| format!("n{host}:8099")).collect();
    let body = json!({ "clusterName": "sim", "replication": { "dc1": 3 }, "nodes": nodes });
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let path = "/v1/cluster/init";
        match sim.admin(0, Method::POST, path, Some(body.clone())).await {
            Some(answer) if answer.status < 300 => break,
            other => assert!(Instant::now() < until, "init: {other:?}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
    for host in 0..5 {
        sim.until_ready(host).await;
    }
    sim
}

/// Data connections that the first four hosts refused because another process carries the id.
async fn refused(sim: &Sim) -> f64 {
    let mut all = 0.0;
    for host in 0..FIRST {
        let page = sim.admin(host, Method::GET, "/metrics", None).await.expect("an answer").text();
        let line = page
            .lines()
            .find(|l| l.starts_with("kvasir_peer_goodbyes_total") && l.contains("reason=\"twin\""));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        all += value.expect("the counter is there");
    }
    all
}

async fn readiness(sim: &Sim, host: usize) -> (u16, String) {
    let answer = sim.admin(host, Method::GET, "/readyz", None).await.expect("an answer");
    (answer.status, answer.text())
}

#[test]
fn of_two_processes_on_copies_of_one_volume_none_does_harm() {
    run(async {
        let mut sim = five_of_six(71).await;
        let (servers, level) = (sim.servers(), "quorum".to_string());
        let query = "timeout=4s&sloppy=false".to_string();
        let aim = Aim { servers: servers[..FIRST].to_vec(), level, query, think_ms: 100 };
        let plan = Plan {
            seed: 71,
            clients: 4,
            operations: u32::MAX,
            keys: KEYS,
            read_percent: 40,
            delete_percent: 5,
            token_percent: 60,
            padding: 50,
        };
        let recorder = Recorder::new(Clock::start());
        fill(
            &Plan { clients: 1, ..plan.clone() },
            0,
            &aim,
            &sim.client(Duration::from_secs(5)),
            &recorder,
        )
        .await;
        let going = Rc::new(Cell::new(true));
        let mut sessions = Vec::new();
        // One more client knows the first of the two alone.
        for number in 0..=plan.clients {
            let (plan, mut aim, to) = (plan.clone(), aim.clone(), recorder.clone());
            if number == plan.clients {
                aim.servers = vec![servers[FIRST].clone()];
            }
            let (going, http) = (going.clone(), sim.client(Duration::from_secs(6)));
            sessions.push(tokio::task::spawn_local(async move {
                drive_while(&plan, number, &aim, &http, &to, &|| going.get()).await;
            }));
        }
        sleep(Duration::from_secs(5)).await;
        let image = sim.disk(FIRST).image(Crash::KeepAll, 0);
        sim.replace_disk(COPY, image);
        sleep(Duration::from_secs(5)).await;
        let begun_ms = recorder.now_ms();
        sim.start(COPY);
        sleep(Duration::from_secs(60)).await;
        let [first, copy] = [readiness(&sim, FIRST).await, readiness(&sim, COPY).await];
        // The copy is the younger process, so the others listen to it; of an older state, it was rebuilt.
        assert_eq!((first.0, copy.0), (503, 200), "{first:?} {copy:?}");
        assert!(first.1.contains("copy of this volume"), "{first:?}");
        let refused = refused(&sim).await;
        println!("{refused} data connections refused; the copy: {}", copy.1.trim());
        assert!(refused > 0.0);

        let ended_ms = recorder.now_ms();
        sim.crash(COPY, Crash::Process).await;
        sim.crash(FIRST, Crash::Process).await;
        sim.start(FIRST);
        sim.until_ready(FIRST).await;
        sleep(Duration::from_secs(5)).await;
        going.set(false);
        for session in sessions {
            session.await.expect("a session ends");
        }
        let all = Aim { servers: servers[..=FIRST].to_vec(), ..aim };
        settle(&plan, &all, &sim.client(Duration::from_secs(5)), &recorder).await;
        let history = recorder.history();
        let others = history.operations.iter().filter(|o| o.client < plan.clients);
        let noticed: Vec<_> = others.filter(|o| o.outcome != Outcome::Ok).collect();
        let in_the_moment = |o: &&Operation| {
            let since = [begun_ms, ended_ms].map(|ms| o.end_ms.saturating_sub(ms));
            o.op != Kind::Get && since.iter().any(|since| (1..=6_000).contains(since))
        };
        println!("{} writes were in its hands", noticed.len());
        assert!(noticed.iter().all(in_the_moment) && noticed.len() < 30, "{noticed:?}");
        let demand = Demand { operations: 1_000, ok_percent: 70, settled_keys: KEYS as usize };
        let report = judge(&Evidence { strict: true, acks: 2, ..Evidence::of(&history, demand) });
        println!("ok/refused/unknown {:?}", report.outcomes);
        report.assert_good();
    });
}
