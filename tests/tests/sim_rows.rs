//! Contexts stay short: what each start of a node leaves in the context of a key it wrote goes by the rules of
//! reclaim, from keys that are written all the time too; no value is lost and none comes back by it.

use std::time::Duration;

use hyper::Method;
use kvasir_core::admin_api::ReplicaRead;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Sim, run};
use tokio::time::{Instant, sleep};

/// Fast enough to be watched.
const FAST: &[&str] = &["reclaim.generation=1s", "reclaim.min_age=1h", "reclaim.pause=1s"];
/// Nothing is reclaimed.
const NEVER: &[&str] = &["reclaim.generation=1s", "reclaim.rate=0"];
const KEYS: usize = 12;
/// Starts of every node.
const STARTS: usize = 6;
/// Rows of a key that stay: fewer than are worth a rewrite, and one for each owner that writes now.
const ROWS: usize = 7 + 3;

async fn ask(sim: &Sim, host: usize, ask: Ask) -> Answer {
    let client = sim.client(Duration::from_secs(20));
    client.ask(&sim.servers()[host], ask).await.expect("an answer")
}

/// Reads a key through a host and writes over what it shows.
async fn write_over(sim: &Sim, host: usize, key: usize, value: &str) {
    let path = format!("/v1/kv/b/k{key}");
    let read = ask(sim, host, Ask::new(Method::GET, format!("{path}?r=quorum"))).await;
    let mut put = Ask::new(Method::PUT, format!("{path}?w=all"));
    put.body = value.to_string().into();
    if let Some(token) = read.header("x-kvasir-context") {
        put.headers.push(("x-kvasir-context", token.to_string()));
    }
    let answer = ask(sim, host, put).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

async fn held(sim: &Sim, key: usize) -> Vec<ReplicaRead> {
    let mut held = Vec::new();
    for host in 0..3 {
        held.push(sim.replica(host, "b", &format!("k{key}")).await.expect("it serves"));
    }
    held
}

/// The longest context of any replica of any key.
async fn longest(sim: &Sim) -> usize {
    let mut longest = 0;
    for key in 0..KEYS {
        let rows = held(sim, key).await.into_iter().map(|read| read.context.len());
        longest = longest.max(rows.max().unwrap_or(0));
    }
    longest
}

/// Three nodes, each of which writes every key in each of its starts.
async fn written_in_many_starts(sets: &[&str]) -> Sim {
    let mut sim = Sim::formed(81, 3, 3, sets).await;
    sleep(Duration::from_secs(5)).await;
    for start in 0..STARTS {
        for key in 0..KEYS {
            for host in 0..3 {
                write_over(&sim, host, key, &format!("{start}-{host}")).await;
            }
        }
        for host in (0..3).filter(|_| start + 1 < STARTS) {
            sim.crash(host, Crash::DropAll).await;
            sim.start(host);
            sim.until_ready(host).await;
            sleep(Duration::from_secs(5)).await;
        }
    }
    sim
}

#[test]
fn without_reclaim_every_start_leaves_a_row() {
    run(async {
        let sim = written_in_many_starts(NEVER).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(longest(&sim).await, 3 * STARTS);
        assert_eq!(sim.folded(), 0);
    });
}

#[test]
fn contexts_stay_short_whether_a_key_rests_or_is_written_all_the_time() {
    run(async {
        let sim = written_in_many_starts(FAST).await;
        let (until, mut writes) = (Instant::now() + Duration::from_secs(200), 0);
        while writes < 40 || longest(&sim).await > ROWS {
            assert!(
                Instant::now() < until,
                "{} rows, {} folded",
                longest(&sim).await,
                sim.folded()
            );
            // The first key never rests.
            write_over(&sim, writes % 3, 0, &format!("busy-{writes}")).await;
            writes += 1;
            sleep(Duration::from_millis(300)).await;
        }
        println!("{} rows folded since the last start, {writes} writes meanwhile", sim.folded());
        assert_eq!(sim.erased(), 0, "nothing was deleted");
        sleep(Duration::from_secs(30)).await;
        for key in 0..KEYS {
            let value = match key {
                0 => format!("busy-{}", writes - 1),
                _ => format!("{}-2", STARTS - 1),
            };
            let read = Ask::new(Method::GET, format!("/v1/kv/b/k{key}?r=all"));
            let read = ask(&sim, key % 3, read).await;
            assert_eq!((read.status, read.text()), (200, value), "key {key}");
            let held = held(&sim, key).await;
            let first = held[0].digest.clone();
            assert!(held.iter().all(|read| read.digest == first), "{held:?}");
            // The writers of now go on counting on their rows.
            assert!(held.iter().all(|read| read.counting.is_some()), "{held:?}");
        }
        for host in 0..3 {
            write_over(&sim, host, 1, "last").await;
        }
        let read = ask(&sim, 0, Ask::new(Method::GET, "/v1/kv/b/k1?r=all")).await;
        assert_eq!((read.status, read.text()), (200, "last".to_string()));
    });
}
