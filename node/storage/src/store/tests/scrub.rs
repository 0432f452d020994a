//! The scrub: rounds, rate, what it finds, and where it goes on after a restart.

use super::*;
use crate::disk::memory::Crash;
use crate::manifest::Manifest;

fn options() -> StoreOptions {
    StoreOptions { scrub_interval_ms: 1_000, scrub_bytes_per_s: 1_000, ..tiny() }
}

fn filled(options: StoreOptions) -> Rig {
    let rig = Rig::new(options);
    for number in 0..200 {
        rig.put(number, &value(number)).unwrap();
    }
    rig.flush();
    rig
}

/// Ticks ten times a second, with all background work in between.
fn run(rig: &Rig, from_ms: u64, to_ms: u64) {
    for at_ms in (from_ms..=to_ms).step_by(100) {
        rig.store.tick(at_ms);
        rig.work.run_all();
    }
}

#[test]
fn a_round_reads_every_table_at_the_rate_and_ends() {
    let rig = filled(options());
    run(&rig, 0, 900);
    assert_eq!(rig.store.stats().scrub_bytes, 0, "not due");
    let all = rig.store.stats().table_bytes;
    run(&rig, 1_000, 6_000);
    let stats = rig.store.stats();
    assert!(stats.scrub_bytes > 4_000 && stats.scrub_bytes < 5_000 + 2_500, "{stats:?}");
    assert!(stats.scrub_tables_left > 0 && stats.scrub_rounds == 0, "{stats:?}");
    run(&rig, 6_100, 2_000 + all + 3_000);
    let stats = rig.store.stats();
    assert!(stats.scrub_rounds >= 1 && stats.scrub_bytes >= all, "{stats:?}");
    assert_eq!((stats.scrub_damages, stats.quarantined_tables), (0, 0));
    assert!(rig.store.failed().is_none());
}

#[test]
fn rot_in_a_table_that_nobody_reads_is_found_and_set_aside() {
    let rig = filled(options());
    let tables = rig.disk.paths().into_iter().filter(|p| p.to_string_lossy().ends_with(".table"));
    // The largest: its hundredth byte is data, not a filter that nobody misses.
    let bad = tables.max_by_key(|path| rig.disk.content(path).map_or(0, |bytes| bytes.len()));
    rig.disk.flip_bit(&bad.unwrap(), 100, 0);
    run(&rig, 0, 60_000);
    let stats = rig.store.stats();
    assert!(stats.scrub_rounds > 0 && stats.scrub_damages > 0, "{stats:?}");
    assert_eq!((stats.quarantined_tables, stats.lost_ranges), (1, 1));
}

#[test]
fn it_goes_on_where_an_earlier_run_stopped() {
    let rig = filled(options());
    run(&rig, 0, 8_000);
    let (left, read) = (rig.store.stats().scrub_tables_left, rig.store.stats().scrub_bytes);
    assert!(left > 2 && read > 3_000);
    let all = rig.store.stats().table_bytes;
    let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert_eq!(again.store.stats().scrub_tables_left, left);
    let mut now = 0;
    while again.store.stats().scrub_rounds == 0 {
        run(&again, now, now + 1_000);
        now += 1_100;
        assert!(now < 200_000);
    }
    assert!(again.store.stats().scrub_bytes < all, "only what was left");
}

#[test]
fn a_bad_log_segment_is_made_superfluous_before_it_is_needed() {
    let rig = filled(StoreOptions { memtable_bytes: 50_000, log_segment_bytes: 800, ..options() });
    for number in 0..20 {
        rig.put(number, b"again").unwrap();
    }
    let stored = rig.mirrored();
    let needed = |path: &std::path::PathBuf| {
        let image = rig.disk.image(Crash::KeepAll, 0);
        image.flip_bit(path, 60, 0);
        matches!(Rig::open(image, options()), Err(OpenError::Damaged(_)))
    };
    let logs = rig.disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(".log"));
    let bad = logs.into_iter().find(needed).expect("a closed segment that a start would read");
    rig.disk.flip_bit(&bad, 60, 0);
    run(&rig, 0, 60_000);
    assert!(rig.store.stats().scrub_damages > 0);
    let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert_eq!(again.scan(), stored);
}

#[test]
fn a_bad_manifest_is_written_again() {
    let rig = filled(options());
    let path = Path::new(DIR).join("MANIFEST");
    rig.disk.flip_bit(&path, 40, 0);
    assert!(Manifest::load(&rig.disk, Path::new(DIR)).is_err());
    run(&rig, 0, 60_000);
    assert!(rig.store.stats().scrub_damages > 0);
    let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert_eq!(again.scan(), rig.mirrored());
}

#[test]
fn a_damaged_note_of_progress_costs_a_round_and_no_more() {
    let rig = filled(options());
    run(&rig, 0, 8_000);
    let path = Path::new(DIR).join("SCRUB");
    assert!(rig.disk.flip_bit(&path, 30, 1));
    let again = Rig::open(rig.disk.crash(Crash::DropAll, 0), options()).unwrap();
    assert_eq!(again.store.stats().scrub_tables_left, 0);
    run(&again, 0, 60_000);
    assert_eq!(again.scan(), rig.mirrored());
}
