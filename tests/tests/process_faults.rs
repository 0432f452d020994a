//! Real faults against real processes: five nodes, each in a network namespace and on a small file system of its
//! own, under a checking load; every kind of fault once, on one cluster, with a line of a report for each.
//!
//! Needs root on Linux. Elsewhere it says so and runs nothing, and where CI is set that is a failure.
//! `KVASIR_FAULTS=WORD` tries those alone whose names have the word. `tests/run soak --faults` goes on for hours,
//! with faults, nodes and times by chance.

use std::ffi::OsString;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kvasir_tests::process::faults::Fault;
use kvasir_tests::process::ground::{Ground, NODES};
use kvasir_tests::process::netns::{self, Network, World};
use kvasir_tests::process::{run, trial};

const NAME: &str = "every_fault_once_and_no_acknowledged_write_is_lost";
/// Longest run; usually less than half of it.
const WITHIN: Duration = Duration::from_secs(240);

/// Where CI is set, nothing may be left out.
fn not_run(what: &str, why: &str) {
    println!("NOT RUN: {what}: {why}");
    assert!(std::env::var_os("CI").is_none(), "{what} must run where CI is set: {why}");
}

async fn each_once() {
    let start = Instant::now();
    let network = Rc::new(Network::make(NODES).unwrap_or_else(|why| panic!("no network: {why:?}")));
    let mut ground = Ground::make(network).await.unwrap_or_else(|why| panic!("no ground: {why:?}"));
    let mut load = trial::load(&ground, 9, "timeout=3s&sloppy=false").await;
    println!("five nodes serve after {:?}\n{}", start.elapsed(), trial::head());
    let mut wrong = Vec::new();
    let word = std::env::var("KVASIR_FAULTS").unwrap_or_default();
    let asked = |fault: &(Fault, Duration)| fault.0.to_string().contains(&word);
    for (fault, hold) in trial::each_once().into_iter().filter(asked) {
        let line = trial::of(&fault, hold, &mut ground, &mut load).await;
        let line = line.unwrap_or_else(|why| panic!("{fault} cannot be undone: {why:?}"));
        println!("{line}");
        if let Some(why) = &line.not_run {
            not_run(&line.fault, why);
        }
        wrong.extend(line.violations);
    }
    wrong.extend(trial::settled(&ground, &load).await);
    println!("all of it took {:?}", start.elapsed());
    if !wrong.is_empty() {
        (0..NODES).for_each(|node| println!("node {node}:\n{}", ground.cluster.log(node)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_fault_once_and_no_acknowledged_write_is_lost() {
    let words = ["--exact", NAME, "--nocapture"].map(OsString::from);
    match netns::enter(&words, WITHIN) {
        Ok(World::Inside) => run(each_once()),
        Ok(World::Outside(status)) => assert!(status.success(), "the run ended with {status}"),
        Err(why) => not_run("faults of networks, disks and clocks", &why.0),
    }
}
