//! The main job in simulation: three production nodes in one thread and in virtual time.

use std::time::Duration;

use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, History, check};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive, settle};
use kvasir_tests::sim::{Conditions, Sim, run};

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        clients: 4,
        operations: 80,
        keys: 20,
        read_percent: 30,
        delete_percent: 5,
        token_percent: 60,
        padding: 100,
    }
}

/// Some 200 writes, one crash that drops unsynced data, one partition, then quiet.
async fn story(seed: u64) -> (History, u64) {
    let mut sim = Sim::formed(seed, 3, 3, &[]).await;
    sim.weather.set(Conditions {
        loss_permille: 5,
        twice_permille: 20,
        delay_ms: 3,
        ..Conditions::default()
    });
    let plan = plan(seed);
    let aim = Aim {
        servers: sim.servers(),
        level: "quorum".to_string(),
        query: "timeout=2s".to_string(),
        think_ms: 200,
    };
    let recorder = Recorder::new(Clock::start());
    let mut sessions = Vec::new();
    for client in 0..plan.clients {
        let (plan, aim, to) = (plan.clone(), aim.clone(), recorder.clone());
        let http = sim.client(Duration::from_secs(5));
        sessions.push(tokio::task::spawn_local(async move {
            drive(&plan, client, &aim, &http, &to).await;
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    sim.crash(1, Crash::DropAll).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    sim.start(1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    sim.isolate(2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    sim.heal();
    for session in sessions {
        session.await.expect("a session ends");
    }
    sim.weather.set(Conditions::default());
    tokio::time::sleep(Duration::from_secs(15)).await;
    for host in 0..3 {
        sim.until_ready(host).await;
    }
    settle(&plan, &aim, &sim.client(Duration::from_secs(5)), &recorder).await;
    (recorder.history(), sim.weather.trace())
}

const DEMAND: Demand = Demand { operations: 300, ok_percent: 50, settled_keys: 20 };

#[test]
fn nothing_is_lost_through_a_crash_and_a_partition() {
    for seed in 1..=20 {
        let (history, _) = run(story(seed));
        if let Ok(dir) = std::env::var("KVASIR_SIM_HISTORY") {
            let file = std::path::Path::new(&dir).join(format!("{seed}.json"));
            history.write(&mut std::fs::File::create(file).unwrap()).unwrap();
        }
        let report = check(&history, DEMAND);
        println!(
            "seed {seed}: ok/fail/unknown {:?}, conflicts {}",
            report.outcomes, report.conflicts
        );
        report.assert_good();
    }
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    let (first, one) = run(story(7));
    let (second, two) = run(story(7));
    assert_eq!(first.operations.len(), second.operations.len());
    for (a, b) in first.operations.iter().zip(&second.operations) {
        assert_eq!(
            (a.id, a.op, &a.key, a.outcome, a.end_ms),
            (b.id, b.op, &b.key, b.outcome, b.end_ms)
        );
    }
    assert_eq!(one, two, "the traces differ");
    let (_, other) = run(story(8));
    assert_ne!(one, other, "another seed gives another run");
}
