//! The power of a real file system is cut in the middle of writes, again and again: what was
//! acknowledged is there after the next mount, and nothing is there that nobody wrote.
//!
//! Needs root, a loop device and ext4: ignored by a plain `cargo test`, run by `tests/run ci` as root.
//! `KVASIR_POWER_CUTS` sets the number of cycles (100 if unset).

#![allow(clippy::unwrap_used)] // a failed call fails the test

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kvasir_storage::TableKey;
use kvasir_tests::power::script::Line;
use kvasir_tests::power::{Ledger, Volume, open};

/// A small deterministic generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn volume() -> Volume {
    Volume::new(64).unwrap_or_else(|missing| {
        panic!("a power cut needs root, a loop device and mkfs.ext4: {}", missing.0)
    })
}

/// Writes until `acknowledgements` were heard, cuts the power, and notes everything that was said.
fn write_until_cut(volume: &Volume, cycle: u64, durability: &str, wanted: u64, to: &mut Ledger) {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_power_cut_writer"))
        .arg(volume.dir("store"))
        .args([&cycle.to_string(), durability])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap());
    let (mut line, start, mut is_cut) = (String::new(), to.count, false);
    while lines.read_line(&mut line).unwrap() > 0 {
        // After the kill the last line may be cut short; what it says was not said.
        if let Some(known) = Line::parse(&line) {
            to.note(known);
        }
        line.clear();
        if !is_cut && to.count >= start + wanted {
            to.cut();
            volume.cut().unwrap();
            is_cut = true;
            writer.kill().unwrap();
        }
    }
    let said = writer.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(is_cut, "the writer of cycle {cycle} ended before the cut: {error}");
}

/// Everything that is stored, after an open that repairs what the cut left.
fn stored(dir: &Path, cycle: u64) -> BTreeMap<TableKey, Vec<u8>> {
    let store = open(dir, cycle, 1);
    let snapshot = store.snapshot();
    let (mut all, mut next) = (BTreeMap::new(), Some(TableKey::first_of(0)));
    while let Some(from) = next {
        let chunk = store.scan(&snapshot, &from, None, 100, 1 << 20).wait().unwrap();
        all.extend(chunk.entries.into_iter().map(|(key, value)| (key, value.to_vec())));
        next = chunk.next;
    }
    drop(snapshot);
    if cycle.is_multiple_of(4) {
        // Now and then an orderly end, so that cycles begin with an empty log too.
        store.close().wait().unwrap();
    }
    all
}

/// One cycle; gives what is wrong after it.
fn cycle(
    volume: &mut Volume,
    cycle: u64,
    durability: &str,
    wanted: u64,
    to: &mut Ledger,
) -> Vec<String> {
    write_until_cut(volume, cycle, durability, wanted, to);
    volume.unmount().unwrap_or_else(|why| panic!("cycle {cycle}: {}", why.0));
    volume.mount().unwrap_or_else(|why| panic!("cycle {cycle}: {}", why.0));
    to.judge(&stored(&volume.dir("store"), cycle))
}

#[test]
#[ignore = "needs root and a loop device: run by tests/run ci as root"]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let cycles: u64 = std::env::var("KVASIR_POWER_CUTS").map_or(100, |n| n.parse().unwrap());
    let (mut volume, mut ledger, mut random) = (volume(), Ledger::default(), Random(2_026));
    let begun = Instant::now();
    for number in 0..cycles {
        let durability = if random.below(3) == 0 { "each" } else { "group" };
        let wanted = 1 + random.below(60);
        let wrong = cycle(&mut volume, number, durability, wanted, &mut ledger);
        assert!(wrong.is_empty(), "cycle {number}, cut after {wanted}:\n{}", wrong.join("\n"));
    }
    println!("{cycles} cuts, {} acknowledgements, {:?}", ledger.count, begun.elapsed());
    assert!(ledger.count >= cycles * 10, "{} acknowledgements say little", ledger.count);
}

#[test]
#[ignore = "needs root and a loop device: run by tests/run ci as root"]
fn the_cut_does_lose_what_was_not_synced() {
    let (mut volume, mut ledger) = (volume(), Ledger::default());
    // Without this the test above would show nothing.
    let lost =
        (0..10).any(|number| !cycle(&mut volume, number, "periodic", 40, &mut ledger).is_empty());
    assert!(lost, "ten cuts lost nothing of what was acknowledged without a sync");
}
