//! What goes from one data center to the other: one frame for each write, nothing for a local read, and more
//! only where a forwarder is slow or dead.

use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, Evidence, judge};
use kvasir_tests::load::{Clock, Recorder, settle};
use kvasir_tests::sim::{Conditions, run};
use tokio::time::sleep;

use super::{
    CROSSINGS, GIVEN_UP, aim, all, ask, filled, hosts, load, plan, put, sum, three_and_three,
    until_down, until_equal,
};

#[test]
fn a_write_goes_to_the_other_data_center_once() {
    run(async {
        let sim = three_and_three(1, &[]).await;
        let all_hosts: Vec<usize> = (0..6).collect();
        let mut writes = 0.0;
        for (level, fewest) in [
            ("one", 1),
            ("quorum", 4),
            ("all", 6),
            ("5", 5),
            ("local_one", 1),
            ("local_quorum", 2),
            ("each_quorum", 4),
        ] {
            for host in 0..6 {
                let path = format!("/v1/kv/check/key-{host}?w={level}");
                let (owners, standins) = put(&sim, host, &path).await;
                assert!(owners.len() >= fewest && standins.is_empty(), "{level}: {owners:?}");
                writes += 1.0;
            }
        }
        sleep(Duration::from_secs(1)).await;
        let crossed = sum(&sim, &all_hosts, CROSSINGS).await;
        println!("{writes} writes crossed over in {crossed} frames");
        assert_eq!((crossed, sum(&sim, &all_hosts, GIVEN_UP).await), (writes, 0.0));
        // The writes of low levels are everywhere too, and nobody had to be reminded.
        until_equal(&sim, 6, 6, 6).await;
        let hints = sum(&sim, &all_hosts, "kvasir_handoff_hints_returned_total").await;
        assert_eq!(hints, 0.0);
    });
}

#[test]
fn a_local_read_asks_nobody_elsewhere() {
    run(async {
        let sim = three_and_three(2, &[]).await;
        let http = sim.client(Duration::from_secs(20));
        put(&sim, 0, "/v1/kv/b/k?w=all").await;
        sleep(Duration::from_secs(3)).await;
        let served = || hosts(2, 6).into_iter().map(|host| sim.served(host)).sum::<u64>();
        let before = served();
        for level in ["local_one", "local_quorum"] {
            for host in hosts(1, 6) {
                let path = format!("/v1/kv/b/k?r={level}");
                let get = ask(&http, &sim.servers()[host], Method::GET, &path, "").await;
                assert_eq!((get.status, get.text()), (200, "v".to_string()));
            }
        }
        assert_eq!(served(), before, "a local read crossed over");
        let get = ask(&http, &sim.servers()[0], Method::GET, "/v1/kv/b/k?r=each_quorum", "").await;
        assert_eq!(get.status, 200);
        assert_eq!(served(), before + 2, "a majority there and no more");
    });
}

#[test]
fn a_forwarder_that_is_slow_or_dies_fails_no_write() {
    run(async {
        let mut sim = three_and_three(6, &[]).await;
        let far = hosts(2, 6);
        let weather = Conditions { delay_ms: 10, ..Conditions::default() };
        sim.weather.set(weather);
        let mut written = 0;
        for host in far.clone() {
            // Paused for less than it takes to be suspected, then killed.
            for round in 0..2 {
                match round {
                    0 => sim.pause(host, true),
                    _ => sim.crash(host, Crash::DropAll).await,
                }
                for key in 0..12 {
                    for level in ["each_quorum", "quorum"] {
                        let path =
                            format!("/v1/kv/check/key-{key}?w={level}&sloppy=false&timeout=4s");
                        let (owners, _) = put(&sim, hosts(1, 6)[key % 3], &path).await;
                        assert!(owners.len() >= 4);
                        written += 1;
                    }
                }
                match round {
                    0 => sim.pause(host, false),
                    _ => sim.start(host),
                }
                sim.until_ready(host).await;
                for other in 0..6 {
                    until_down(&sim, other, 0).await;
                }
                sleep(Duration::from_secs(3)).await;
            }
        }
        let given_up = sum(&sim, &hosts(1, 6), GIVEN_UP).await;
        let crossed = sum(&sim, &hosts(1, 6), CROSSINGS).await;
        println!("{written} writes crossed over in {crossed} frames, {given_up} given up");
        assert!(given_up >= 3.0, "no forwarder was slow or dead");
        assert!(crossed < f64::from(written) * 3.0, "as many as without forwarders");
        until_equal(&sim, 6, 12, 6).await;
    });
}

#[test]
fn frames_that_are_lost_doubled_and_late_lose_nothing() {
    for seed in 10..=12 {
        run(async move {
            let sim = three_and_three(seed, &["repair.interval=5s"]).await;
            let (plan, recorder) = (plan(seed, 100), Recorder::new(Clock::start()));
            let everybody: Vec<usize> = (0..6).collect();
            let aim = aim(&sim, &everybody, "each_quorum", "timeout=3s&sloppy=false");
            filled(&sim, &plan, &aim, &recorder).await;
            sim.weather.set(Conditions {
                loss_permille: 10,
                twice_permille: 30,
                delay_ms: 10,
                late_permille: 3,
                late_ms: 2_000,
            });
            all(load(&sim, &plan, &aim, &recorder)).await;
            sim.weather.set(Conditions::default());
            sleep(Duration::from_secs(10)).await;
            let last = until_equal(&sim, 6, plan.keys, 6).await;
            settle(&plan, &aim, &sim.client(Duration::from_secs(6)), &recorder).await;
            let history = recorder.history();
            let demand = Demand { operations: 500, ok_percent: 85, settled_keys: 40 };
            let evidence =
                Evidence { strict: true, acks: 4, last: &last, ..Evidence::of(&history, demand) };
            let report = judge(&evidence);
            let given_up = sum(&sim, &everybody, GIVEN_UP).await;
            println!("seed {seed}: ok/fail/unknown {:?}, {given_up} given up", report.outcomes);
            report.assert_good();
            assert!(given_up > 0.0, "no forwarder failed");
        });
    }
}
