//! One data center dies, the link between them breaks, owners of one are down: who goes on, what is refused,
//! and that both hold the same afterwards.

use std::time::Duration;

use hyper::Method;
use kvasir::planted::Planted;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, Evidence, Outcome, judge};
use kvasir_tests::load::{Clock, Recorder, settle};
use kvasir_tests::sim::{Story, hunt, run};
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE, aim, all, ask, filled, hosts, load, metric, plan, put, refused, three_and_three,
    two_centers, until_down, until_equal,
};

#[test]
fn with_a_data_center_dead_the_other_goes_on_and_both_are_equal_afterwards() {
    run(async {
        let mut sim = three_and_three(3, &["repair.interval=5s"]).await;
        let (plan, recorder) = (plan(3, 120), Recorder::new(Clock::start()));
        let near = aim(&sim, &hosts(1, 6), "local_quorum", "timeout=4s&sloppy=false");
        filled(&sim, &plan, &near, &recorder).await;
        let sessions = load(&sim, &plan, &near, &recorder);
        sleep(Duration::from_secs(2)).await;
        for host in hosts(2, 6) {
            sim.crash(host, Crash::DropAll).await;
        }
        for (method, path) in [
            (Method::PUT, "/v1/kv/b/k?w=each_quorum"),
            (Method::GET, "/v1/kv/b/k?r=each_quorum"),
            (Method::DELETE, "/v1/kv/b/k?w=each_quorum"),
            (Method::GET, "/v1/kv/b?r=each_quorum"),
        ] {
            assert_eq!(refused(&sim, 0, method, path).await, ["dc2"], "{path}");
        }
        // Three of six are no majority; but this level counts over both.
        assert!(refused(&sim, 2, Method::PUT, "/v1/kv/b/k?w=quorum").await.is_empty());
        until_down(&sim, 0, 3).await;
        assert_eq!(refused(&sim, 4, Method::PUT, "/v1/kv/b/k?w=each_quorum").await, ["dc2"]);
        put(&sim, 0, "/v1/kv/b/k?w=local_quorum").await;
        let http = sim.client(Duration::from_secs(6));
        let path = "/v1/kv/b/k?w=local_quorum";
        let gone = ask(&http, &sim.servers()[0], Method::DELETE, path, "").await;
        assert_eq!(gone.status, 204, "without a token: {}", gone.text());
        all(sessions).await;
        let failed =
            recorder.history().operations.iter().filter(|o| o.outcome != Outcome::Ok).count();
        assert_eq!(failed, 0, "a local level failed while the other data center was dead");
        for host in hosts(2, 6) {
            sim.start(host);
        }
        for host in hosts(2, 6) {
            sim.until_ready(host).await;
        }
        let last = until_equal(&sim, 6, plan.keys, 6).await;
        let everywhere = aim(&sim, &[0, 1, 2, 3, 4, 5], "local_quorum", "timeout=4s&sloppy=false");
        settle(&plan, &everywhere, &http, &recorder).await;
        let history = recorder.history();
        let demand = Demand { operations: 500, ok_percent: 100, settled_keys: 40 };
        let evidence =
            Evidence { strict: true, acks: 2, last: &last, ..Evidence::of(&history, demand) };
        let report = judge(&evidence);
        println!("one dead: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
    });
}

#[test]
fn with_the_link_between_cut_both_go_on_and_are_equal_afterwards() {
    run(async {
        // Only anti-entropy mends: neither hints nor reads.
        let mut sim = two_centers(4, 6, &["repair.interval=5s"]);
        sim.planted = Planted::default().with_trees_alone();
        sim.form(3).await;
        sleep(Duration::from_secs(5)).await;
        let (plan, recorder) = (plan(4, 60), Recorder::new(Clock::start()));
        let everybody: Vec<usize> = (0..6).collect();
        let aim = aim(&sim, &everybody, "local_quorum", "timeout=4s&sloppy=false");
        filled(&sim, &plan, &aim, &recorder).await;
        let sessions = load(&sim, &plan, &aim, &recorder);
        sleep(Duration::from_secs(1)).await;
        let between = |from: &usize, to: &usize| from % 2 != to % 2;
        let links = (0..6).flat_map(|from| (0..6).map(move |to| (from, to)));
        sim.cut_only(links.filter(|(from, to)| between(from, to)).collect());
        all(sessions).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(refused(&sim, 1, Method::PUT, "/v1/kv/b/k?w=each_quorum").await, ["dc1"]);
        sim.heal();
        let last = until_equal(&sim, 6, plan.keys, 6).await;
        settle(&plan, &aim, &sim.client(Duration::from_secs(6)), &recorder).await;
        let history = recorder.history();
        let failed = history.operations.iter().filter(|o| o.outcome != Outcome::Ok).count();
        assert_eq!(failed, 0, "a local level failed while the link was cut");
        let demand = Demand { operations: 300, ok_percent: 100, settled_keys: 40 };
        let evidence = Evidence { acks: 2, last: &last, ..Evidence::of(&history, demand) };
        let report = judge(&evidence);
        println!("link cut: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
    });
}

#[test]
fn stand_ins_stay_in_their_data_center_and_hand_back_to_both() {
    run(async {
        let mut sim = two_centers(5, 8, &[]);
        sim.form(3).await;
        sleep(Duration::from_secs(5)).await;
        let mut owners = Vec::new();
        for host in 0..8 {
            if sim.replica(host, "check", "key-0").await.expect("a read").owner {
                owners.push(host);
            }
        }
        let (far, near): (Vec<usize>, Vec<usize>) = owners.iter().partition(|host| *host % 2 == 1);
        assert_eq!((far.len(), near.len()), (3, 3));
        let spare = hosts(2, 8).into_iter().find(|host| !far.contains(host)).expect("one");
        let spare_id = sim.node_id(spare).await;
        for host in &far[..2] {
            sim.crash(*host, Crash::DropAll).await;
        }
        until_down(&sim, near[0], 2).await;
        until_down(&sim, spare, 2).await;
        let path = "/v1/kv/check/key-0";
        // One of three owners there and one stand-in are a majority.
        let (_, standins) = put(&sim, near[0], &format!("{path}?w=each_quorum")).await;
        assert_eq!(standins, [spare_id]);
        let strict = format!("{path}?w=each_quorum&sloppy=false");
        assert_eq!(refused(&sim, near[0], Method::PUT, &strict).await, ["dc2"]);
        sim.crash(far[2], Crash::DropAll).await;
        until_down(&sim, near[0], 3).await;
        until_down(&sim, spare, 3).await;
        // Nobody of the other data center stands in, though one there is free.
        let each = format!("{path}?w=each_quorum");
        assert_eq!(refused(&sim, near[0], Method::PUT, &each).await, ["dc2"]);
        // A node whose data center has no owner left coordinates a local request itself, or nobody does.
        let local = format!("{path}?w=local_quorum");
        assert_eq!(refused(&sim, spare, Method::PUT, &local).await, ["dc2"]);
        let (by, standins) = put(&sim, spare, &format!("{path}?w=local_one")).await;
        assert_eq!((by, standins), (vec![], vec![spare_id]));
        let strict = format!("{path}?r=local_one&sloppy=false");
        assert_eq!(refused(&sim, spare, Method::GET, &strict).await, ["dc2"]);
        // Any other level goes to the owners elsewhere.
        let (by, _) = put(&sim, spare, &format!("{path}?w=3&sloppy=false")).await;
        assert_eq!(by.len(), 3);
        for host in &far {
            sim.start(*host);
        }
        until_equal(&sim, 8, 1, 6).await;
        let until = Instant::now() + PATIENCE;
        while metric(&sim, spare, "kvasir_handoff_copies").await > 0.0 {
            assert!(Instant::now() < until, "the copy stays where it is");
            sleep(Duration::from_secs(1)).await;
        }
        assert!(metric(&sim, spare, "kvasir_handoff_copies_returned_total").await >= 1.0);
    });
}

#[test]
fn random_stories_of_two_data_centers_break_no_rule() {
    let found = hunt::hunt(0..4, Story::centers);
    found.assert_good();
}
