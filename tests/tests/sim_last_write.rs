//! Buckets where the last write wins: of two writes one after the other the later one is shown, whatever
//! the clocks of their coordinators say, and chaos does not change that.

use std::time::Duration;

use hyper::Method;
use kvasir::planted::{Bug, Planted};
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Conditions, Fault, Script, Sim, Story, Timed, Unsynced, hunt, run};
use serde_json::json;

const QUORUMS: [[usize; 2]; 3] = [[0, 1], [0, 2], [1, 2]];
/// Minutes by which the clocks are ahead: more than nodes follow each other.
const SKEWS: [[i64; 3]; 6] =
    [[0, 10, 20], [0, 20, 10], [10, 0, 20], [10, 20, 0], [20, 0, 10], [20, 10, 0]];

async fn ask(sim: &Sim, host: usize, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.to_string().into();
    let client = sim.client(Duration::from_secs(20));
    client.ask(&format!("n{host}:8098"), ask).await.expect("an answer")
}

/// One request that only these two of three replicas take part in.
async fn within(
    sim: &Sim,
    quorum: [usize; 2],
    host: usize,
    (method, path, body): (Method, &str, &str),
) -> Answer {
    let outside = (0..3).find(|h| !quorum.contains(h)).expect("one of three");
    for member in quorum {
        sim.weather.cut(member, outside);
        sim.weather.cut(outside, member);
    }
    let level = if method == Method::GET { "r" } else { "w" };
    let path = format!("{path}?{level}=quorum&sloppy=false&timeout=5s");
    let answer = ask(sim, host, method, &path, body).await;
    sim.weather.heal();
    answer
}

async fn covering_rounds(sim: &Sim) -> u64 {
    let mut all = 0;
    for host in 0..3 {
        let page = sim.admin(host, Method::GET, "/metrics", None).await.expect("a page").text();
        let line =
            page.lines().find(|l| l.starts_with("kvasir_coordinator_covering_rounds_total "));
        all += line.and_then(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).expect("a count");
    }
    all
}

/// (reads that do not show the later of two writes, all reads, covering rounds).
fn lost_updates(planted: Planted) -> (usize, usize, u64) {
    run(async {
        let mut sim = Sim::new(61, 3, &[]);
        sim.planted = planted;
        sim.defaults = json!({ "mode": "lastWriteWins" });
        sim.form(3).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (mut lost, mut all) = (0, 0);
        for skews in SKEWS {
            for (host, minutes) in skews.into_iter().enumerate() {
                sim.clock_wrong_by(host, minutes * 60_000);
            }
            for (first, second) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
                for first_quorum in QUORUMS.into_iter().filter(|q| q.contains(&first)) {
                    for second_quorum in QUORUMS.into_iter().filter(|q| q.contains(&second)) {
                        for read_quorum in QUORUMS {
                            let path = format!("/v1/kv/b/{all}");
                            for (host, quorum, body) in
                                [(first, first_quorum, "first"), (second, second_quorum, "second")]
                            {
                                let put = (Method::PUT, path.as_str(), body);
                                let answer = within(&sim, quorum, host, put).await;
                                assert_eq!(answer.status, 204, "{}", answer.text());
                            }
                            let get = (Method::GET, path.as_str(), "");
                            let read = within(&sim, read_quorum, read_quorum[0], get).await;
                            assert_eq!(read.status, 200, "{}", read.text());
                            all += 1;
                            lost += usize::from(read.text() != "second");
                        }
                    }
                }
            }
        }
        (lost, all, covering_rounds(&sim).await)
    })
}

#[test]
fn no_later_write_is_lost_by_clocks_that_are_minutes_apart() {
    let (lost, all, rounds) = lost_updates(Planted::default());
    println!("{lost} of {all} later writes lost, {rounds} covering rounds");
    assert_eq!((lost, all), (0, 648));
    assert!(rounds > 0, "the clocks were wrong in vain");
}

#[test]
fn without_the_covering_round_later_writes_are_lost() {
    let (lost, all, rounds) = lost_updates(Planted::bug(Bug::OneRound));
    println!("{lost} of {all} later writes lost without the covering round");
    assert_eq!((all, rounds), (648, 0));
    assert!(lost > 50, "{lost} of {all}");
}

#[test]
fn blind_writes_and_deletes_follow_each_other_and_never_conflict() {
    run(async {
        let mut sim = Sim::new(62, 5, &[]);
        sim.defaults = json!({ "mode": "lastWriteWins" });
        sim.form(3).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        for (host, minutes) in [30, -30, 5, 0, 90].into_iter().enumerate() {
            sim.clock_wrong_by(host, minutes * 60_000);
        }
        let path = "/v1/kv/b/cart?sloppy=false";
        let mut turn = 0;
        for round in 0..40 {
            let (writer, reader) = (round % 5, (round + 2) % 5);
            let delete = round % 4 == 3;
            let method = if delete { Method::DELETE } else { Method::PUT };
            let body = if delete { String::new() } else { format!("v{round}") };
            let written = ask(&sim, writer, method, path, &body).await;
            assert_eq!(written.status, 204, "{}", written.text());
            let read = ask(&sim, reader, Method::GET, path, "").await;
            let expected = if delete { 404 } else { 200 };
            assert_eq!(read.status, expected, "round {round}: {}", read.text());
            assert!(delete || read.text() == body, "round {round}: {}", read.text());
            turn += 1;
        }
        assert_eq!(turn, 40);
        let read = ask(&sim, 0, Method::GET, path, "").await;
        assert!(read.header("x-kvasir-context").is_some(), "a token, after the delete too");
    });
}

#[test]
fn a_bucket_is_declared_beside_others_and_stays_so() {
    run(async {
        let sim = Sim::formed(63, 3, 3, &[]).await;
        let body = json!({ "mode": "lastWriteWins" }).to_string();
        let put = ask(&sim, 1, Method::PUT, "/v1/buckets/wins", &body).await;
        assert_eq!(put.status, 200, "{}", put.text());
        tokio::time::sleep(Duration::from_secs(3)).await;
        for (bucket, expected) in [("wins", 200), ("both", 300)] {
            let path = format!("/v1/kv/{bucket}/k");
            for (host, value) in [(0, "a"), (2, "b")] {
                let written = ask(&sim, host, Method::PUT, &path, value).await;
                assert_eq!(written.status, 204, "{}", written.text());
            }
            let read = ask(&sim, 1, Method::GET, &path, "").await;
            assert_eq!(read.status, expected, "{bucket}: {}", read.text());
        }
        let again = json!({ "mode": "siblings" }).to_string();
        let refused = ask(&sim, 0, Method::PUT, "/v1/buckets/wins", &again).await;
        assert_eq!(refused.status, 409, "{}", refused.text());
    });
}

fn strict(seed: u64, story: Story) -> Story {
    let query = "timeout=2s&sloppy=false";
    Story { seed, strict: true, last_write_wins: true, query, ..story }
}

#[test]
fn chaos_breaks_no_rule() {
    let mut broken = Vec::new();
    for seed in 0..6 {
        let told = hunt::told(&strict(seed, Story::short(seed)));
        println!("seed {seed}: ok/fail/unknown {:?}, faults {:?}", told.outcomes, told.fired);
        broken.extend(told.violations.iter().map(|v| format!("seed {seed}: {v}")));
    }
    // Sloppy: whoever stands in may not know of what was written before, but nothing conflicts.
    for seed in [1, 3] {
        let told = hunt::told(&Story { last_write_wins: true, ..Story::short(seed) });
        broken.extend(told.violations.iter().map(|v| format!("sloppy, seed {seed}: {v}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Clocks that are far apart, frames that are lost, a crash.
fn skewed(seed: u64) -> Story {
    let at = |at, lasts, fault| Timed { at, lasts, fault };
    let script = Script(vec![
        at(0, 60_000, Fault::Clock(0, 1_200_000)),
        at(0, 60_000, Fault::Clock(1, -1_200_000)),
        at(20_000, 3_000, Fault::Crash(seed as usize % 3, Unsynced::Dropped)),
    ]);
    let conditions = Conditions { loss_permille: 150, delay_ms: 20, ..Conditions::default() };
    strict(seed, Story { chaos_ms: 60_000, script, conditions, ..Story::short(seed) })
}

#[test]
fn clocks_far_apart_break_no_rule() {
    for seed in 0..4 {
        let told = hunt::told(&skewed(seed));
        let broken: Vec<String> = told.violations.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "seed {seed}: {}", broken.join("\n"));
    }
}

#[test]
fn a_write_that_is_never_made_again_is_found() {
    for seed in 0..200 {
        let story = Story { planted: Planted::bug(Bug::OneRound), ..skewed(seed) };
        let told = hunt::told(&story);
        if let Some(first) = told.violations.iter().find(|v| v.rule() == "returned") {
            println!("one round only: seed {seed}: {first}");
            return;
        }
    }
    panic!("not found within 200 seeds");
}
