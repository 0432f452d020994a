//! More load than a cluster can carry, in virtual time: nodes whose work costs time are asked for three times what
//! they can do, for a minute, by clients that do not wait for each other. They go on doing what they can, say so to
//! the rest, stay within their bounds, and are as before soon afterwards. Without admission the same load ends all
//! service: that is what the bounds are for.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use kvasir_tests::check::bounds::exceeded;
use kvasir_tests::check::{Measured, Violation};
use kvasir_tests::load::{Figures, Rate, Volley};
use kvasir_tests::sim::{Costs, Sim, run};
use tokio::time::{Instant, sleep};

/// A slow machine: a frame costs 6 ms at each end, a request of a client 0.6 ms besides. A quorum write of three
/// nodes then costs 24 ms of each 3 s that the cluster has in a second, a quorum read 12 ms.
const COSTS: Costs = Costs { frame_us: 6_000, read_us: 300, write_us: 300 };
const SECOND: Duration = Duration::from_secs(1);

fn volley(sim: &Sim) -> Volley {
    Volley {
        servers: sim.servers(),
        read_percent: 50,
        keys: 60,
        bytes: 100,
        query: "timeout=5s".to_string(),
        patience: 2 * SECOND,
        under_way_max: 4_000,
    }
}

/// Requests that clients who wait for each answer get done in a second.
async fn peak(sim: &Sim, volley: &Volley, clients: usize) -> f64 {
    let (begun, done) = (Instant::now(), Rc::new(Cell::new(0_u64)));
    let sessions = (0..clients as u64).map(|client| {
        let (volley, http, done) = (volley.clone(), sim.client(10 * SECOND), done.clone());
        tokio::task::spawn_local(async move {
            let mut number = 1_000_000 * (1 + client);
            while begun.elapsed() < 11 * SECOND {
                let good = volley.one(&http, number).await;
                number += 1;
                done.set(done.get() + u64::from(good && begun.elapsed() >= SECOND));
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.expect("a session ends");
    }
    done.get() as f64 / 10.0
}

/// Measures every node ten times a second until told to stop; what was above its bound.
fn watched(sim: &Rc<Sim>, going: &Rc<Cell<bool>>) -> tokio::task::JoinHandle<Vec<Violation>> {
    let (sim, going) = (sim.clone(), going.clone());
    tokio::task::spawn_local(async move {
        let mut all: Vec<Measured> = Vec::new();
        while going.get() {
            for host in 0..3 {
                all.extend(sim.inside(host).expect("it runs").1);
            }
            sleep(SECOND / 10).await;
        }
        exceeded(&all)
    })
}

async fn cluster(seed: u64, sets: &[&str]) -> Rc<Sim> {
    let sim = Sim::formed(seed, 3, 3, sets).await;
    volley(&sim).fill(&sim.client(10 * SECOND)).await;
    sim.set_costs(COSTS);
    Rc::new(sim)
}

#[test]
fn three_times_what_a_cluster_can_do_leaves_it_doing_what_it_can() {
    run(async {
        let sim = cluster(91, &["http.requests_max=16"]).await;
        let (volley, client) = (volley(&sim), || sim.client(10 * SECOND));
        let peak = peak(&sim, &volley, 24).await;
        let going = Rc::new(Cell::new(true));
        let bounds = watched(&sim, &going);
        let half = |seconds: u32| Rate { per_s: peak / 2.0, lasts: seconds * SECOND };
        let before = volley.fire(0, half(10), client).await;
        let before = Figures::all(&before, (SECOND, 10 * SECOND));
        println!("peak {peak:.0}/s; at half of it: {before}");

        let storm = Rate { per_s: 3.0 * peak, lasts: 60 * SECOND };
        let shots = volley.fire(100_000, storm, client).await;
        let during = Figures::all(&shots, (Duration::ZERO, 60 * SECOND));
        println!("at three times the peak: {during}");
        for from in (0..60).step_by(10) {
            let part = Figures::all(&shots, (from * SECOND, (from + 10) * SECOND));
            println!("  {from:2} s: {part}");
            assert!(part.good >= 0.8 * peak, "{:.0} of {peak:.0}/s", part.good);
        }
        assert!(during.refused as f64 > peak * 60.0, "most of it is told so");
        assert_eq!(during.not_sent, 0, "connections are left");
        assert!((during.failed + during.late) as f64 <= 0.01 * 60.0 * during.offered, "{during}");

        let after = volley.fire(900_000, half(15), client).await;
        let after = Figures::all(&after, (10 * SECOND, 15 * SECOND));
        println!("ten seconds later, at half of the peak: {after}");
        assert!(after.good >= 0.99 * after.offered, "{after}");
        assert!(after.p99 <= before.p99 * 3 / 2, "{after}");
        going.set(false);
        assert_eq!(bounds.await.expect("it measures"), vec![]);
    });
}

#[test]
fn without_admission_the_same_load_ends_all_service() {
    run(async {
        let sets = ["http.requests_max=100000", "workers.late_max=10h"];
        let sim = cluster(93, &sets).await;
        let (volley, client) = (volley(&sim), || sim.client(10 * SECOND));
        let storm = Rate { per_s: 240.0, lasts: 20 * SECOND };
        let shots = volley.fire(0, storm, client).await;
        let during = Figures::all(&shots, (10 * SECOND, 20 * SECOND));
        println!("without admission: {during}");
        assert!(during.good <= 20.0 && during.refused == 0, "{during}");
    });
}

#[test]
fn one_replica_a_hundred_times_slower_holds_up_nobody() {
    run(async {
        let sim = Sim::formed(94, 3, 3, &[]).await;
        sim.weather.set(kvasir_tests::sim::Conditions { delay_ms: 4, ..Default::default() });
        let volley = Volley { servers: sim.servers()[..2].to_vec(), ..volley(&sim) };
        let client = || sim.client(10 * SECOND);
        volley.fill(&client()).await;
        sim.set_costs(Costs { frame_us: 100, read_us: 10, write_us: 10 });
        let rate = Rate { per_s: 200.0, lasts: 30 * SECOND };
        let within = (SECOND, 30 * SECOND);
        let both = |shots: &[_]| {
            let of = |reads: bool| {
                Figures::of(shots, within, |s: &kvasir_tests::load::open::Shot| s.read == reads)
            };
            (of(true), of(false))
        };
        let (reads, writes) = both(&volley.fire(0, rate, client).await);
        println!("none slow: reads {reads}\n          writes {writes}");
        sim.times_slower(2, 100);
        let (slow_reads, slow_writes) = both(&volley.fire(100_000, rate, client).await);
        println!("one slow:  reads {slow_reads}\n          writes {slow_writes}");
        for (before, now) in [(reads, slow_reads), (writes, slow_writes)] {
            assert!(now.good >= 0.99 * now.offered, "{now}");
            assert!(now.p99 <= before.p99 * 3 / 2, "{now}, before: {before}");
        }
        let (_, held) = sim.inside(0).expect("it runs");
        assert_eq!(exceeded(&held), vec![]);
    });
}

#[test]
fn nor_does_it_where_it_would_coordinate_for_others() {
    run(async {
        let sim = Sim::formed(95, 5, 3, &[]).await;
        sim.weather.set(kvasir_tests::sim::Conditions { delay_ms: 4, ..Default::default() });
        let volley = Volley { servers: sim.servers()[..4].to_vec(), ..volley(&sim) };
        let client = || sim.client(10 * SECOND);
        volley.fill(&client()).await;
        sim.set_costs(Costs { frame_us: 100, read_us: 10, write_us: 10 });
        let rate = Rate { per_s: 200.0, lasts: 30 * SECOND };
        let within = (SECOND, 30 * SECOND);
        let before = Figures::all(&volley.fire(0, rate, client).await, within);
        println!("none of five slow: {before}");
        sim.times_slower(4, 100);
        let now = Figures::all(&volley.fire(100_000, rate, client).await, within);
        println!("one of five slow:  {now}");
        assert!(now.good >= 0.99 * now.offered, "{now}");
        assert!(now.p99 <= before.p99 * 3 / 2, "{now}, before: {before}");
    });
}
