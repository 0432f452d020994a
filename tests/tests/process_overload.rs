//! Real processes asked for more than they can do, by an open loop. Counts are asserted; times are printed, for the
//! bounds on them hold in virtual time (`sim_overload`). The generator first shows that it would see a stall.

use std::rc::Rc;
use std::time::{Duration, Instant};

use kvasir_tests::load::{Figures, HttpClient, Rate, TcpDial, Volley};
use kvasir_tests::process::{Cluster, run};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn client() -> HttpClient {
    HttpClient::new(Rc::new(TcpDial), 10 * SECOND)
}

fn volley(cluster: &Cluster) -> Volley {
    Volley {
        servers: cluster.servers(),
        read_percent: 50,
        keys: 30,
        bytes: 200,
        query: "timeout=5s".to_string(),
        patience: 2 * SECOND,
        under_way_max: 2_000,
    }
}

#[test]
fn a_server_that_stands_still_for_a_second_shows_as_a_second() {
    run(async {
        let cluster = Cluster::formed(1, 1, &[]).await;
        let volley = volley(&cluster);
        volley.fill(&client()).await;
        let pause = async {
            sleep(SECOND).await;
            cluster.signal(0, "STOP");
            sleep(SECOND).await;
            cluster.signal(0, "CONT");
        };
        let rate = Rate { per_s: 100.0, lasts: 3 * SECOND };
        let (shots, ()) = tokio::join!(volley.fire(0, rate, client), pause);
        let figures = Figures::all(&shots, (Duration::ZERO, 3 * SECOND));
        println!("a second of standstill at 100/s: {figures}");
        assert!(figures.max >= SECOND * 9 / 10, "{figures}");
        // Each of the hundred that were due in it waited for its end, half a second in the mean.
        let waited = shots.iter().filter(|shot| shot.took >= SECOND / 10).count();
        assert!(waited >= 60, "{waited} requests noticed");
        let sum: Duration = shots.iter().map(|shot| shot.took).sum();
        assert!(sum >= 40 * SECOND, "{sum:?} of waiting");
    });
}

/// Requests that clients who wait for each answer get done in a second.
async fn closed(volley: &Volley, clients: u64, lasts: Duration) -> f64 {
    let begun = Instant::now();
    let sessions = (0..clients).map(|number| {
        let volley = volley.clone();
        tokio::task::spawn_local(async move {
            let (http, mut done) = (client(), 0_u64);
            while begun.elapsed() < lasts {
                let number = 1_000_000 * (1 + number) + done;
                done += u64::from(volley.one(&http, number).await);
            }
            done
        })
    });
    let mut done = 0;
    for session in sessions.collect::<Vec<_>>() {
        done += session.await.expect("a session ends");
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn overloaded_nodes_refuse_early_and_recover() {
    run(async {
        let sets = ["http.requests_max=32", "workers.count=1"];
        let cluster = Cluster::formed(3, 3, &sets).await;
        let volley = volley(&cluster);
        volley.fill(&client()).await;
        let peak = closed(&volley, 48, 3 * SECOND).await;
        let rss = |cluster: &Cluster| (0..3).map(|node| cluster.resident_bytes(node)).max();
        let before = rss(&cluster);
        let storm = Rate { per_s: 3.0 * peak, lasts: 5 * SECOND };
        let shots = volley.fire(0, storm, client).await;
        let during = Figures::all(&shots, (Duration::ZERO, 5 * SECOND));
        let after = rss(&cluster);
        let calm = Rate { per_s: (peak / 10.0).max(10.0), lasts: 4 * SECOND };
        let shots = volley.fire(500_000, calm, client).await;
        let recovered = Figures::all(&shots, (SECOND, 4 * SECOND));
        println!("peak of 48 clients {peak:.0}/s");
        println!("three times that: {during}");
        println!("afterwards, at a tenth: {recovered}");
        let mib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1_048_576.0;
        println!("memory of the largest node {:.0} MiB, then {:.0} MiB", mib(before), mib(after));
        assert!(during.good > 0.0, "it goes on serving: {during}");
        assert!(recovered.good >= 0.98 * recovered.offered, "{recovered}");
        let mut refused = 0.0;
        for node in 0..3 {
            assert_eq!(cluster.metric(node, "kvasir_work").await, 0.0, "nothing is left over");
            refused += cluster.metric(node, "kvasir_work_refused_total").await;
        }
        assert!(refused as u64 >= during.refused, "{refused} counted, {during}");
    });
}
