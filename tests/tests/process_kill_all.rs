//! Every node is killed at once under load: what was acknowledged is there after the start.

use std::time::Duration;

use kvasir_tests::check::{Demand, Evidence, judge};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive, settle};
use kvasir_tests::process::{Cluster, run};

#[test]
fn every_acknowledged_write_survives_kill_9_of_all_three() {
    run(async {
        let mut cluster = Cluster::formed(3, 3, &[]).await;
        let plan = Plan {
            seed: 3,
            clients: 16,
            operations: 150,
            keys: 200,
            read_percent: 20,
            delete_percent: 5,
            token_percent: 70,
            padding: 200,
        };
        let aim = Aim {
            servers: cluster.servers(),
            level: "quorum".to_string(),
            query: "timeout=3s&sloppy=false".to_string(),
            think_ms: 20,
        };
        let recorder = Recorder::new(Clock::start());
        let mut sessions = Vec::new();
        for client in 0..plan.clients {
            let (plan, aim, to) = (plan.clone(), aim.clone(), recorder.clone());
            let http = cluster.client();
            sessions.push(tokio::task::spawn_local(async move {
                drive(&plan, client, &aim, &http, &to).await;
            }));
        }
        // The kill falls in the middle of the load, whatever the speed of the machine.
        let all = plan.clients as usize * plan.operations as usize;
        while recorder.history().operations.len() < all / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for node in 0..3 {
            cluster.kill(node);
        }
        let before = recorder.history().operations.len();
        assert!(before < all, "the load ended before the kill");
        for node in 0..3 {
            cluster.restart_alone(node).await;
        }
        for node in 0..3 {
            cluster.until_ready(node).await;
        }
        for session in sessions {
            session.await.expect("a session ends");
        }
        let calm_from_ms = recorder.now_ms();
        settle(&plan, &aim, &cluster.client(), &recorder).await;
        let earlier = cluster.held("check", plan.keys).await;
        let whole = Aim { level: "all".to_string(), ..aim.clone() };
        settle(&plan, &whole, &cluster.client(), &recorder).await;
        let (history, last) = (recorder.history(), cluster.held("check", plan.keys).await);
        let demand = Demand { operations: all, ok_percent: 30, settled_keys: 200 };
        let report = judge(&Evidence {
            strict: true,
            acks: 2,
            calm_from_ms: Some(calm_from_ms),
            earlier: &earlier,
            last: &last,
            ..Evidence::of(&history, demand)
        });
        let [ok, fail, unknown] = report.outcomes;
        println!(
            "{before} operations before the kill of {all}; ok {ok}, refused {fail}, unknown {unknown}, \
             {} reads with a conflict",
            report.conflicts
        );
        report.assert_good();
    });
}
