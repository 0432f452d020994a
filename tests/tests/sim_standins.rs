//! Temporary failure in simulation: who is counted while owners are down or cut off, what a sloppy read
//! finds, and that everything comes back to the owners by hand-back and hints alone.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use kvasir_core::id::NodeId;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, History, check};
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, HttpClient, Plan, Recorder, drive, settle};
use kvasir_tests::sim::{Conditions, Sim, run};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Longest virtual wait for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(http: &HttpClient, server: &str, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.as_bytes().to_vec().into();
    http.ask(server, ask).await.expect("an answer")
}

fn field(answer: &Answer, name: &str) -> Value {
    serde_json::from_slice::<Value>(&answer.body).expect("JSON")[name].clone()
}

/// What a host holds itself under a key of bucket `b`: whether it owns it, and the values.
async fn replica(sim: &Sim, host: usize, key: &str) -> (bool, Vec<String>) {
    let path = format!("/v1/replica/b/{key}");
    let answer = sim.admin(host, Method::GET, &path, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value = |sibling: &Value| {
        let bytes = STANDARD.decode(sibling["valueBase64"].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let siblings = field(&answer, "siblings").as_array().cloned().unwrap_or_default();
    (field(&answer, "owner") == true, siblings.iter().filter_map(value).collect())
}

/// The hosts that own a key, and the others.
async fn sides(sim: &Sim, hosts: usize, key: &str) -> (Vec<usize>, Vec<usize>) {
    let (mut owners, mut others) = (Vec::new(), Vec::new());
    for host in 0..hosts {
        let side = if replica(sim, host, key).await.0 { &mut owners } else { &mut others };
        side.push(host);
    }
    (owners, others)
}

/// Waits until a host holds so many others for down.
async fn until_down(sim: &Sim, host: usize, count: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = sim.admin(host, Method::GET, "/v1/status", None).await.expect("an answer");
        let nodes = field(&answer, "nodes").as_array().cloned().unwrap_or_default();
        let down = nodes.iter().filter(|node| node["liveness"] == "down").count();
        if down == count {
            return;
        }
        assert!(Instant::now() < until, "host {host} holds {down} nodes for down, not {count}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// One number of a host's metrics page.
async fn metric(sim: &Sim, host: usize, name: &str) -> f64 {
    let answer = sim.admin(host, Method::GET, "/metrics", None).await.expect("an answer");
    let text = answer.text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("{name}"))
}

/// Waits until no host keeps anything for another.
async fn until_handed_back(sim: &Sim, hosts: usize) {
    let until = Instant::now() + PATIENCE;
    for host in 0..hosts {
        loop {
            let kept = metric(sim, host, "kvasir_handoff_copies").await
                + metric(sim, host, "kvasir_handoff_hints").await;
            if kept == 0.0 {
                break;
            }
            assert!(Instant::now() < until, "host {host} still keeps {kept} entries");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// The owners and stand-ins that an answer names.
fn acks(answer: &Answer) -> (Vec<NodeId>, Vec<NodeId>) {
    let header = answer.header("x-kvasir-acks").expect("acks");
    let list = |name: &str| {
        let part = header.split("; ").find_map(|part| part.strip_prefix(name)).expect("a list");
        part.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().expect("an id")).collect()
    };
    (list("owners="), list("standins="))
}

#[test]
fn with_both_other_owners_down_a_write_names_one_owner_and_one_stand_in() {
    run(async {
        let mut sim = Sim::formed(41, 5, 3, &[]).await;
        let http = sim.client(Duration::from_secs(20));
        let (owners, others) = sides(&sim, 5, "k").await;
        let servers = sim.servers();
        for host in &owners[1..] {
            sim.crash(*host, Crash::DropAll).await;
        }
        until_down(&sim, owners[0], 2).await;
        until_down(&sim, others[0], 2).await;
        let server = &servers[owners[0]];
        let put = ask(&http, server, Method::PUT, "/v1/kv/b/k?w=2", "v").await;
        assert_eq!(put.status, 204, "{}", put.text());
        let (by_owners, by_standins) = acks(&put);
        assert_eq!(by_owners, [sim.node_id(owners[0]).await]);
        let ids = [sim.node_id(others[0]).await, sim.node_id(others[1]).await];
        assert!(by_standins.len() == 1 && ids.contains(&by_standins[0]), "{by_standins:?}");
        let strict = ask(&http, server, Method::PUT, "/v1/kv/b/k?w=2&sloppy=false", "v").await;
        assert_eq!(strict.status, 503, "{}", strict.text());
        assert_eq!(field(&strict, "may_be_stored"), true);
        for host in [owners[0], others[0], others[1]] {
            let get = ask(&http, &servers[host], Method::GET, "/v1/kv/b/k?r=2", "").await;
            assert_eq!((get.status, get.text()), (200, "v".to_string()), "through host {host}");
        }
        // A blind write beside it, on three machines.
        let gone = ask(&http, server, Method::PUT, "/v1/kv/b/k?w=3", "gone").await;
        assert_eq!(gone.status, 204, "{}", gone.text());
        assert_eq!(acks(&gone).1.len(), 2, "both others stand in");
        for host in &owners[1..] {
            sim.start(*host);
        }
        until_handed_back(&sim, 5).await;
        for host in &owners {
            let (owner, mut values) = replica(&sim, *host, "k").await;
            values.sort();
            // The strict write was minted, so that it is stored though it failed.
            values.dedup();
            assert!(owner);
            assert_eq!(values, ["gone", "v"], "host {host}: by hand-back alone");
        }
        let mut returned = 0.0;
        for host in &others {
            assert_eq!(replica(&sim, *host, "k").await, (false, vec![]), "kept apart");
            returned += metric(&sim, *host, "kvasir_handoff_copies_returned_total").await;
        }
        assert!(returned >= 2.0, "{returned} copies went back");
    });
}

#[test]
fn with_all_owners_cut_off_two_stand_ins_take_the_write_and_give_it_back() {
    run(async {
        let sim = Sim::formed(42, 5, 3, &[]).await;
        let http = sim.client(Duration::from_secs(20));
        let (owners, others) = sides(&sim, 5, "k").await;
        for owner in &owners {
            for other in &others {
                sim.weather.cut(*owner, *other);
                sim.weather.cut(*other, *owner);
            }
        }
        for host in &others {
            until_down(&sim, *host, 3).await;
        }
        let servers = sim.servers();
        let server = &servers[others[0]];
        let put = ask(&http, server, Method::PUT, "/v1/kv/b/k?w=2", "v").await;
        assert_eq!(put.status, 204, "{}", put.text());
        let (by_owners, by_standins) = acks(&put);
        assert!(by_owners.is_empty());
        assert_eq!(by_standins.len(), 2);
        assert_ne!(by_standins[0], by_standins[1]);
        let strict = ask(&http, server, Method::PUT, "/v1/kv/b/k?w=2&sloppy=false", "v").await;
        assert_eq!(strict.status, 503, "{}", strict.text());
        assert_eq!(field(&strict, "may_be_stored"), false);
        for host in &others {
            let get = ask(&http, &servers[*host], Method::GET, "/v1/kv/b/k?r=2", "").await;
            assert_eq!((get.status, get.text()), (200, "v".to_string()), "through host {host}");
        }
        let read = ask(&http, server, Method::GET, "/v1/kv/b/k?r=2&sloppy=false", "").await;
        assert_eq!(read.status, 503, "{}", read.text());
        // The token of the stand-in's write is good on the other side and resolves what it saw.
        let token = put.header("x-kvasir-context").expect("a token").to_string();
        sim.heal();
        until_handed_back(&sim, 5).await;
        for host in &owners {
            assert_eq!(replica(&sim, *host, "k").await, (true, vec!["v".to_string()]));
        }
        let mut next = Ask::new(Method::PUT, "/v1/kv/b/k?w=3");
        next.headers.push(("x-kvasir-context", token));
        next.body = "w".into();
        let next = http.ask(&servers[owners[0]], next).await.expect("an answer");
        assert_eq!(next.status, 204, "{}", next.text());
        assert_eq!(replica(&sim, owners[1], "k").await.1, ["w"]);
    });
}

/// Writes `keys` keys through two of three hosts while the third is down, and brings it back: how many it then
/// holds, and how many bytes of hints a host kept at most.
async fn with_one_down(sets: &[&str], keys: usize) -> (Sim, usize, f64) {
    // What hints leave out trees would mend.
    let sets = [sets, &["repair.enabled=false"][..]].concat();
    let mut sim = Sim::formed(43, 3, 3, &sets).await;
    let http = sim.client(Duration::from_secs(20));
    sim.crash(2, Crash::DropAll).await;
    until_down(&sim, 0, 1).await;
    until_down(&sim, 1, 1).await;
    let servers = sim.servers();
    let mut most = 0_f64;
    for key in 0..keys {
        let path = format!("/v1/kv/b/{key}?w=2");
        let put = ask(&http, &servers[key % 2], Method::PUT, &path, "v").await;
        assert_eq!(put.status, 204, "{}", put.text());
        assert!(acks(&put).1.is_empty(), "no machine is left to stand in");
        most = most.max(metric(&sim, key % 2, "kvasir_handoff_hint_bytes").await);
    }
    sim.start(2);
    sim.until_ready(2).await;
    until_handed_back(&sim, 3).await;
    let mut held = 0;
    for key in 0..keys {
        held += usize::from(replica(&sim, 2, &key.to_string()).await.1 == ["v"]);
    }
    (sim, held, most)
}

#[test]
fn a_node_that_was_down_catches_up_by_hints_alone() {
    run(async {
        let (sim, held, _) = with_one_down(&[], 60).await;
        assert_eq!(held, 60);
        assert!(metric(&sim, 2, "kvasir_handoff_taken_back_total").await >= 60.0);
    });
}

/// Nobody comes or goes any more when the disk has room again: only another look finds what stayed.
#[test]
fn a_hint_that_a_full_disk_kept_from_being_erased_goes_when_there_is_room_again() {
    run(async {
        let mut sim = Sim::formed(46, 3, 3, &[]).await;
        let http = sim.client(Duration::from_secs(20));
        sim.crash(2, Crash::DropAll).await;
        until_down(&sim, 0, 1).await;
        let put = ask(&http, &sim.servers()[0], Method::PUT, "/v1/kv/b/k?w=2", "v").await;
        assert_eq!(put.status, 204, "{}", put.text());
        assert_eq!(metric(&sim, 0, "kvasir_handoff_hints").await, 1.0);
        sim.disk(0).set_capacity(Some(0));
        sim.start(2);
        sim.until_ready(2).await;
        let until = Instant::now() + PATIENCE;
        while replica(&sim, 2, "k").await.1 != ["v"] {
            assert!(Instant::now() < until, "the value does not come");
            sleep(Duration::from_millis(200)).await;
        }
        sleep(Duration::from_secs(5)).await;
        let kept = metric(&sim, 0, "kvasir_handoff_hints").await;
        assert_eq!(kept, 1.0, "a full disk took the erase: the test shows nothing");
        sim.disk(0).set_capacity(None);
        until_handed_back(&sim, 3).await;
    });
}

#[test]
fn hints_stay_below_their_cap_and_what_overflowed_is_counted() {
    run(async {
        let (sim, held, most) = with_one_down(&["handoff.hints_max_bytes=1KiB"], 60).await;
        assert!((1.0..=1_024.0).contains(&most), "{most} bytes of hints");
        let mut dropped = 0.0;
        for host in 0..2 {
            dropped += metric(&sim, host, "kvasir_handoff_hints_overflowed_total").await;
        }
        assert!(held > 0 && held < 60, "{held} of 60 came back by hints");
        assert_eq!(held as f64 + dropped, 60.0, "every missed write was noted or counted");
    });
}

#[test]
fn hints_too_old_are_dropped_and_counted() {
    run(async {
        let (sim, held, _) = with_one_down(&["handoff.hints_max_age=1ms"], 20).await;
        let expired = metric(&sim, 0, "kvasir_handoff_hints_expired_total").await
            + metric(&sim, 1, "kvasir_handoff_hints_expired_total").await;
        assert_eq!((held, expired), (0, 20.0));
    });
}

#[test]
fn a_stand_in_at_its_cap_refuses_before_it_acknowledges() {
    run(async {
        let sim = Sim::formed(44, 5, 3, &["handoff.standins_max_bytes=2KiB"]).await;
        let http = sim.client(Duration::from_secs(20));
        let (owners, others) = sides(&sim, 5, "0").await;
        for owner in &owners {
            for other in &others {
                sim.weather.cut(*owner, *other);
                sim.weather.cut(*other, *owner);
            }
        }
        until_down(&sim, others[0], 3).await;
        until_down(&sim, others[1], 3).await;
        let server = &sim.servers()[others[0]];
        let mut taken = Vec::new();
        for key in 0..60 {
            let path = format!("/v1/kv/b/{key}?w=2");
            let put = ask(&http, server, Method::PUT, &path, "v").await;
            match put.status {
                204 => taken.push((key, acks(&put))),
                _ => assert_eq!(put.status, 503, "{}", put.text()),
            }
        }
        assert!(!taken.is_empty() && taken.len() < 60, "{} of 60 were taken", taken.len());
        let mut refused = 0.0;
        for host in &others {
            assert!(metric(&sim, *host, "kvasir_handoff_copy_bytes").await <= 2048.0);
            refused += metric(&sim, *host, "kvasir_handoff_copies_refused_total").await;
        }
        assert!(refused > 0.0);
        sim.heal();
        until_handed_back(&sim, 5).await;
        for (key, named) in taken {
            let path = format!("/v1/kv/b/{key}?r=3");
            let get = ask(&http, server, Method::GET, &path, "").await;
            assert_eq!((get.status, get.text()), (200, "v".to_string()), "key {key}, {named:?}");
        }
    });
}

/// Sloppy load on five nodes while two crash at once, lose what was not synced, and two more are cut off.
async fn story(seed: u64) -> History {
    let mut sim = Sim::formed(seed, 5, 3, &[]).await;
    sim.weather.set(Conditions {
        loss_permille: 5,
        twice_permille: 20,
        delay_ms: 3,
        ..Conditions::default()
    });
    let plan = Plan {
        seed,
        clients: 5,
        operations: 100,
        keys: 20,
        read_percent: 30,
        delete_percent: 5,
        token_percent: 60,
        padding: 100,
    };
    let aim = Aim {
        servers: sim.servers(),
        level: "quorum".to_string(),
        query: "timeout=4s".to_string(),
        think_ms: 400,
    };
    let recorder = Recorder::new(Clock::start());
    let mut sessions = Vec::new();
    for client in 0..plan.clients {
        let (plan, aim, to) = (plan.clone(), aim.clone(), recorder.clone());
        let http = sim.client(Duration::from_secs(6));
        sessions.push(tokio::task::spawn_local(async move {
            drive(&plan, client, &aim, &http, &to).await;
        }));
    }
    let first = seed as usize % 5;
    sleep(Duration::from_secs(2)).await;
    for host in [first, (first + 1) % 5] {
        sim.crash(host, Crash::DropAll).await;
    }
    sleep(Duration::from_secs(15)).await;
    for host in [first, (first + 1) % 5] {
        sim.start(host);
    }
    sleep(Duration::from_secs(5)).await;
    for host in [(first + 2) % 5, (first + 3) % 5] {
        for other in (0..5).filter(|o| *o != (first + 2) % 5 && *o != (first + 3) % 5) {
            sim.weather.cut(host, other);
            sim.weather.cut(other, host);
        }
    }
    sleep(Duration::from_secs(12)).await;
    // A stand-in that crashes keeps what it acknowledged.
    sim.crash((first + 2) % 5, Crash::DropAll).await;
    sim.heal();
    sim.start((first + 2) % 5);
    for session in sessions {
        session.await.expect("a session ends");
    }
    sim.weather.set(Conditions::default());
    for host in 0..5 {
        sim.until_ready(host).await;
    }
    until_handed_back(&sim, 5).await;
    settle(&plan, &aim, &sim.client(Duration::from_secs(5)), &recorder).await;
    let mut copies = 0.0;
    for host in 0..5 {
        copies += metric(&sim, host, "kvasir_handoff_copies_returned_total").await;
    }
    println!("seed {seed}: {copies} stand-in copies went back");
    assert!(copies > 0.0, "seed {seed}: nobody stood in");
    recorder.history()
}

#[test]
fn no_acknowledged_sloppy_write_is_lost() {
    for seed in 1..=8 {
        let report =
            check(&run(story(seed)), Demand { operations: 400, ok_percent: 50, settled_keys: 20 });
        println!("seed {seed}: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
    }
}
