//! What a read costs: values travel once, and one slow owner does not make reads slow.

use std::time::Duration;

use hyper::Method;
use kvasir_tests::load::HttpClient;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Sim, run};
use tokio::time::Instant;

const KEYS: usize = 20;

async fn put_all(http: &HttpClient, server: &str, bytes: usize) {
    for key in 0..KEYS {
        let mut put = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?w=all"));
        put.body = vec![key as u8; bytes].into();
        let answer = http.ask(server, put).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

async fn get(http: &HttpClient, server: &str, key: usize, r: &str) -> Answer {
    let get = Ask::new(Method::GET, format!("/v1/kv/b/{key}?r={r}&timeout=2s"));
    http.ask(server, get).await.expect("an answer")
}

/// The value of a counter of one host.
async fn counter(sim: &Sim, host: usize, name: &str) -> f64 {
    let page = sim.admin(host, Method::GET, "/metrics", None).await.expect("an answer").text();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

#[test]
fn owners_that_agree_send_digests_instead_of_values() {
    run(async {
        let sim = Sim::formed(41, 3, 3, &[]).await;
        let (server, http) = (sim.servers()[0].clone(), sim.client(Duration::from_secs(30)));
        put_all(&http, &server, 16 << 10).await;
        // No value gets through to the coordinator: it has one itself, and needs no other.
        sim.weather.narrow(1, 0, 4 << 10);
        sim.weather.narrow(2, 0, 4 << 10);
        for key in 0..KEYS {
            let answer = get(&http, &server, key, "all").await;
            assert_eq!((answer.status, answer.body.len()), (200, 16 << 10), "{}", answer.text());
        }
        assert_eq!(counter(&sim, 0, "kvasir_coordinator_reads_differing_total").await, 0.0);
    });
}

#[test]
fn a_value_that_only_others_hold_is_fetched_and_kept() {
    run(async {
        let sim = Sim::formed(42, 3, 3, &[]).await;
        let (servers, http) = (sim.servers(), sim.client(Duration::from_secs(30)));
        // Values do not reach host 0 while they are written.
        sim.weather.narrow(1, 0, 1 << 10);
        sim.weather.narrow(2, 0, 1 << 10);
        for key in 0..KEYS {
            let mut put = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?w=quorum"));
            put.body = vec![key as u8; 4 << 10].into();
            let answer = http.ask(&servers[1], put).await.expect("an answer");
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
        sim.heal();
        for key in 0..KEYS {
            let answer = get(&http, &servers[0], key, "quorum").await;
            assert_eq!((answer.status, answer.body.len()), (200, 4 << 10), "{}", answer.text());
            let again = get(&http, &servers[0], key, "one").await;
            assert_eq!((again.status, again.body.len()), (200, 4 << 10), "it was repaired before");
        }
        assert!(counter(&sim, 0, "kvasir_coordinator_reads_differing_total").await > 0.0);
        assert!(counter(&sim, 0, "kvasir_coordinator_read_repairs_total").await > 0.0);
    });
}

#[test]
fn one_slow_owner_does_not_make_reads_slow() {
    run(async {
        for slow in [1, 2] {
            let sim = Sim::formed(43 + slow as u64, 3, 3, &[]).await;
            let (server, http) = (sim.servers()[0].clone(), sim.client(Duration::from_secs(30)));
            put_all(&http, &server, 100).await;
            for key in 0..KEYS {
                assert_eq!(get(&http, &server, key, "quorum").await.status, 200);
            }
            sim.slow(slow, Duration::from_millis(100));
            let mut times = Vec::new();
            for round in 0..400 {
                let begun = Instant::now();
                assert_eq!(get(&http, &server, round % KEYS, "quorum").await.status, 200);
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            let p99 = times[times.len() * 99 / 100];
            println!("host {slow} slow: p99 {p99:?}, longest {:?}", times[times.len() - 1]);
            assert!(p99 < Duration::from_millis(50), "host {slow}: p99 {p99:?}");
        }
    });
}
