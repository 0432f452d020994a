//! One node of three and one of five dies under load, in virtual time: what real processes show by counts is
//! bounded here in time. Clients of the dead node succeed elsewhere within two seconds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::death::{self, Death, Seen};
use kvasir_tests::check::{Demand, Evidence, judge};
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive_at_home, fill, settle};
use kvasir_tests::sim::{Conditions, Sim, run};
use tokio::time::sleep;

const KEYS: u32 = 40;

/// Tells one death, holds it against the rules, and returns its counts.
async fn one_dies(seed: u64, hosts: usize, query: &str) -> Seen {
    let mut sim = Sim::formed(seed, hosts, 3, &[]).await;
    sim.weather.set(Conditions { delay_ms: 3, ..Conditions::default() });
    let servers = sim.servers();
    let mut owners: BTreeMap<String, _> = BTreeMap::new();
    for key in (0..KEYS).map(|number| format!("key-{number}")) {
        let mut own = std::collections::BTreeSet::new();
        for (host, server) in servers.iter().enumerate() {
            let read = sim.replica(host, "check", &key).await.expect("the host serves");
            if read.owner {
                own.insert(server.clone());
            }
        }
        owners.insert(key, own);
    }
    let plan = Plan {
        seed,
        clients: 6 * hosts as u32,
        operations: u32::MAX,
        keys: KEYS,
        read_percent: 40,
        delete_percent: 4,
        token_percent: 60,
        padding: 100,
    };
    let (level, query) = ("quorum".to_string(), query.to_string());
    let aim = Aim { servers: servers.clone(), level, query, think_ms: 250 };
    let recorder = Recorder::new(Clock::start());
    let client = || sim.client(Duration::from_secs(20));
    fill(&Plan { clients: 1, ..plan.clone() }, 0, &aim, &client(), &recorder).await;
    let going = Rc::new(Cell::new(true));
    let mut sessions = Vec::new();
    for number in 0..plan.clients {
        let (plan, mut aim, to, http) = (plan.clone(), aim.clone(), recorder.clone(), client());
        aim.servers.rotate_left(number as usize % hosts);
        let going = going.clone();
        sessions.push(tokio::task::spawn_local(async move {
            drive_at_home(&plan, number, &aim, &http, &to, &|| going.get()).await;
        }));
    }
    sleep(Duration::from_millis(1_500 + seed * 7 % 50)).await;
    let (victim, at_ms) = (seed as usize % hosts, recorder.now_ms());
    sim.crash(victim, Crash::Process).await;
    let server = servers[victim].clone();
    let death = Death { at_ms, gone_ms: recorder.now_ms(), server, owners };
    sleep(Duration::from_secs(9)).await;
    going.set(false);
    for session in sessions {
        session.await.expect("a session ends");
    }
    let (seen, noticed) = death::seen(&recorder.history(), &death);
    assert_eq!(noticed, vec![], "seed {seed}: {seen}");
    sim.start(victim);
    sim.until_ready(victim).await;
    settle(&plan, &aim, &sim.client(Duration::from_secs(20)), &recorder).await;
    let history = recorder.history();
    let demand = Demand { operations: 400, ok_percent: 95, settled_keys: KEYS as usize };
    let strict = aim.query.contains("sloppy=false");
    let report = judge(&Evidence { strict, acks: 2, ..Evidence::of(&history, demand) });
    report.assert_good();
    seen
}

/// Some deaths, and their counts in one.
fn deaths(seeds: u64, hosts: usize, query: &str) -> Seen {
    let mut all = Seen::default();
    for seed in 0..seeds {
        let seen = run(one_dies(seed, hosts, query));
        assert!(seen.slowest_ms <= 2_000, "seed {seed}: {seen}");
        assert!(seen.moved > 0 && seen.unknown <= seen.in_flight, "seed {seed}: {seen}");
        all.living += seen.living;
        all.after += seen.after;
        all.in_flight += seen.in_flight;
        all.unknown += seen.unknown;
        all.moved += seen.moved;
        all.slowest_ms = all.slowest_ms.max(seen.slowest_ms);
    }
    println!("{seeds} deaths, one of {hosts}: {all}");
    all
}

#[test]
fn nobody_notices_but_the_clients_of_the_dead_with_three_nodes() {
    let all = deaths(3, 3, "timeout=10s&sloppy=false");
    assert_eq!((all.in_flight, all.unknown), (0, 0), "every node owns every key");
}

#[test]
fn only_writes_in_its_hands_are_unknown_with_five_nodes() {
    deaths(4, 5, "timeout=10s&sloppy=false");
}

#[test]
fn so_it_is_where_others_may_stand_in() {
    deaths(3, 5, "timeout=10s");
}
