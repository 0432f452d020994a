//! Named scenarios: scripts written by hand, each run under load on five nodes and judged by every rule.
//!
//! The list follows the kinds of failure that broke other stores: isolation of one node, a minority, one way
//! only, a bridge, links going one by one, rolling crashes, pauses, clocks, frames twice and late, disks that
//! are slow, full, swapped, wiped or put back.

use std::collections::BTreeSet;

use kvasir_tests::sim::{Conditions, Fault, Script, Story, Timed, Unsynced, hunt};

fn at(at: u64, lasts: u64, fault: Fault) -> Timed {
    Timed { at: at * 1_000, lasts: lasts * 1_000, fault }
}

fn side(hosts: &[usize]) -> BTreeSet<usize> {
    hosts.iter().copied().collect()
}

/// Runs a script on five nodes; every fault in it must happen.
fn scenario(seed: u64, script: Vec<Timed>) {
    let ends = script.iter().map(|t| t.at + t.lasts).max().unwrap_or(0);
    let kinds: BTreeSet<&str> = script.iter().map(|t| t.fault.kind()).collect();
    let story = Story {
        chaos_ms: ends + 5_000,
        script: Script(script),
        conditions: Conditions { delay_ms: 2, ..Conditions::default() },
        strict: true,
        query: "timeout=2s&sloppy=false",
        think_ms: 1_000,
        ..Story::random(seed)
    };
    let told = hunt::told(&story);
    println!("ok/fail/unknown {:?}, faults {:?}", told.outcomes, told.fired);
    let broken: Vec<String> = told.violations.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{}", broken[..broken.len().min(10)].join("\n"));
    for kind in kinds {
        assert!(told.fired.contains_key(kind), "no {kind} happened");
    }
}

#[test]
fn one_node_is_isolated_for_a_second_ten_and_a_minute() {
    let alone = Fault::Split(side(&[2]));
    scenario(101, vec![at(2, 1, alone.clone()), at(10, 10, alone.clone()), at(30, 60, alone)]);
}

#[test]
fn both_sides_of_a_split_write_the_same_keys() {
    scenario(102, vec![at(3, 40, Fault::Split(side(&[0, 1])))]);
}

#[test]
fn one_hears_and_is_not_heard() {
    scenario(103, vec![at(2, 30, Fault::Oneway(0, 1)), at(40, 30, Fault::Oneway(3, 0))]);
}

#[test]
fn one_node_bridges_two_sides() {
    scenario(104, vec![at(2, 40, Fault::Bridge(side(&[0, 1]), 4))]);
}

#[test]
fn links_go_one_by_one_and_come_back_in_another_order() {
    scenario(105, vec![at(2, 40, Fault::Swizzle(1)), at(50, 40, Fault::Swizzle(3))]);
}

#[test]
fn all_nodes_lose_their_power_within_a_second_and_one_after_the_other() {
    let off = |host, from, lasts| at(from, lasts, Fault::Crash(host, Unsynced::Dropped));
    let mut script: Vec<Timed> = (0..5).map(|host| off(host, 10, 3 + host as u64)).collect();
    script.extend((0..5).map(|host| off(host, 40 + 6 * host as u64, 5)));
    scenario(106, script);
}

#[test]
fn a_node_comes_and_goes_faster_than_it_is_given_what_it_missed() {
    let crash = |turn: u64| at(5 + 4 * turn, 2, Fault::Crash(1, Unsynced::Dropped));
    scenario(116, (0..15).map(crash).collect());
}

#[test]
fn a_node_stands_still_for_ten_thirty_and_sixty_seconds() {
    let pauses =
        [at(2, 10, Fault::Pause(0)), at(20, 30, Fault::Pause(1)), at(60, 60, Fault::Pause(2))];
    scenario(107, pauses.to_vec());
}

#[test]
fn half_of_all_frames_come_twice_and_some_a_minute_late() {
    let weather = Fault::Weather { loss: 20, twice: 500, delay: 100, late: 20 };
    scenario(108, vec![at(2, 90, weather)]);
}

#[test]
fn a_third_of_all_frames_is_lost() {
    scenario(109, vec![at(5, 20, Fault::Weather { loss: 300, twice: 0, delay: 20, late: 0 })]);
}

#[test]
fn clocks_are_wrong_by_minutes_and_jump_back_an_hour() {
    let wrong =
        |host, from, lasts, seconds: i64| at(from, lasts, Fault::Clock(host, seconds * 1_000));
    scenario(110, vec![wrong(0, 1, 80, 600), wrong(1, 1, 80, -600), wrong(2, 20, 30, -3_600)]);
}

#[test]
fn slow_disks_slow_nodes_and_full_disks() {
    let script = [
        at(2, 30, Fault::Disk(0, 300)),
        at(10, 30, Fault::Slow(1, 50)),
        at(45, 20, Fault::Full(2)),
        at(70, 10, Fault::Full(3)),
        at(70, 10, Fault::Full(4)),
    ];
    scenario(111, script.to_vec());
}

#[test]
fn two_disks_are_swapped() {
    scenario(112, vec![at(10, 5, Fault::Swap(0, 3))]);
}

#[test]
fn a_wiped_disk_loses_nothing_that_was_acknowledged() {
    scenario(113, vec![at(20, 5, Fault::Wipe(1)), at(40, 10, Fault::Split(side(&[2])))]);
}

#[test]
fn a_volume_that_lost_its_data_but_not_its_name_is_rebuilt() {
    scenario(115, vec![at(20, 5, Fault::Empty(1)), at(40, 20, Fault::Split(side(&[2])))]);
}

#[test]
fn a_disk_put_back_in_time_is_rebuilt() {
    scenario(114, vec![at(10, 20, Fault::Rewind(4)), at(50, 5, Fault::Crash(4, Unsynced::Kept))]);
}
