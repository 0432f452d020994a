//! What a crash, a fault and a planted bug do to the simulated disk.

use super::*;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/data").join(name)
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn write(disk: &MemoryDisk, name: &str, bytes: &[u8]) -> Box<dyn AppendFile> {
    let mut file = disk.create(&path(name)).unwrap();
    file.append(bytes).unwrap();
    file
}

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

#[test]
fn unsynced_data_and_names_are_lost_and_synced_ones_stay() {
    let disk = disk();
    write(&disk, "a", b"one").sync().unwrap();
    disk.sync_dir(&dir()).unwrap();
    let mut b = write(&disk, "b", b"two");
    b.sync().unwrap();
    b.append(b"more").unwrap();
    let lost = disk.image(Crash::DropAll, 0);
    assert_eq!((lost.content(&path("a")), lost.content(&path("b"))), (Some(b"one".to_vec()), None));
    disk.sync_dir(&dir()).unwrap();
    assert_eq!(disk.image(Crash::DropAll, 0).content(&path("b")), Some(b"two".to_vec()));
    assert_eq!(disk.image(Crash::KeepAll, 0).content(&path("b")), Some(b"twomore".to_vec()));
    let killed = disk.image(Crash::Process, 0);
    assert_eq!(killed.content(&path("b")), Some(b"twomore".to_vec()));
    assert_eq!(killed.image(Crash::DropAll, 0).content(&path("b")), Some(b"two".to_vec()));
}

#[test]
fn a_directory_not_synced_above_is_lost_with_its_files() {
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    write(&disk, "a", b"one").sync().unwrap();
    disk.sync_dir(&dir()).unwrap();
    assert!(disk.image(Crash::DropAll, 0).paths().is_empty());
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(disk.image(Crash::DropAll, 0).paths(), [path("a")]);
}

#[test]
fn renames_may_be_lost_or_overtake_each_other() {
    let disk = disk();
    for name in ["old", "tmp", "x"] {
        write(&disk, name, name.as_bytes()).sync().unwrap();
    }
    disk.sync_dir(&dir()).unwrap();
    disk.rename(&path("tmp"), &path("old")).unwrap();
    disk.rename(&path("x"), &path("y")).unwrap();
    assert_eq!(disk.image(Crash::DropAll, 0).content(&path("old")), Some(b"old".to_vec()));
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let image = disk.image(Crash::Subset(512), seed);
        seen.insert((
            image.content(&path("old")).unwrap() == b"tmp",
            image.content(&path("y")).is_some(),
        ));
    }
    assert_eq!(seen.len(), 4, "each rename is kept or lost on its own");
}

#[test]
fn subsets_and_torn_writes_keep_what_was_synced() {
    let disk = disk();
    let mut file = write(&disk, "a", &[1; 1000]);
    file.sync().unwrap();
    disk.sync_dir(&dir()).unwrap();
    file.append(&[2; 5000]).unwrap();
    file.append(&[3; 5000]).unwrap();
    let (mut holes, mut lengths) = (0, std::collections::BTreeSet::new());
    for seed in 0..64 {
        let subset = disk.image(Crash::Subset(512), seed).content(&path("a")).unwrap();
        assert_eq!(&subset[..1000], &[1; 1000]);
        holes += usize::from(subset[1000..].iter().any(|byte| !(2..=3).contains(byte)));
        let torn = disk.image(Crash::Torn(4096), seed).content(&path("a")).unwrap();
        assert!(torn.len() >= 4096 && torn.iter().all(|byte| (1..=3).contains(byte)));
        lengths.insert(torn.len());
    }
    assert!(holes > 16 && lengths.len() >= 2, "{holes} {lengths:?}");
    let twice = [(); 2].map(|()| disk.image(Crash::Subset(4096), 7).content(&path("a")));
    assert_eq!(twice[0], twice[1], "the same seed gives the same bytes");
}

#[test]
fn faults_hit_the_call_they_name() {
    let disk = disk();
    disk.fail(Fault::once(Some(Op::Append), "a", 2, io::ErrorKind::Other));
    let mut file = write(&disk, "a", b"1");
    assert!(file.append(b"2").is_err());
    file.append(b"3").unwrap();
    assert_eq!(disk.content(&path("a")), Some(b"13".to_vec()));
    disk.set_capacity(Some(4));
    assert_eq!(file.append(b"456").unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.cut(2).unwrap();
    disk.set_read_only(true);
    assert_eq!(file.append(b"4").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    disk.heal();
    file.append(b"456").unwrap();
    assert_eq!(disk.content(&path("a")), Some(b"13456".to_vec()));
    assert_eq!(disk.calls(Op::Append), 6);
    disk.stop_after(1);
    file.append(b"7").unwrap();
    assert!(file.append(b"8").is_err() && disk.list(&dir()).is_err());
}

#[test]
fn skipped_syncs_say_they_worked() {
    let disk = disk();
    disk.skip_sync(Some(""));
    write(&disk, "a1", b"x").sync().unwrap();
    disk.sync_dir(&dir()).unwrap();
    assert_eq!(disk.image(Crash::DropAll, 0).content(&path("a1")), None);
    disk.skip_sync(Some("a1"));
    disk.sync_dir(&dir()).unwrap();
    assert_eq!(disk.image(Crash::DropAll, 0).content(&path("a1")), Some(vec![]));
}

#[test]
fn removed_files_stay_readable_and_then_free_their_space() {
    let disk = disk();
    drop(write(&disk, "a", b"content"));
    let reader = disk.open_read(&path("a")).unwrap();
    disk.remove(&path("a")).unwrap();
    disk.sync_dir(&dir()).unwrap();
    let mut buf = [0; 7];
    reader.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"content");
    assert!(!reader.try_read_cached(0, &mut buf).unwrap());
    disk.set_warm_page_cache(true);
    assert!(reader.try_read_cached(0, &mut buf).unwrap());
    drop(reader);
    disk.set_capacity(Some(10));
    assert_eq!(disk.free_bytes(&dir()).unwrap(), 10);
}

#[test]
fn a_second_name_is_the_same_file_and_survives_once_its_directory_is_synced() {
    let disk = disk();
    disk.create_dir(Path::new("/copy")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&disk, "a", b"one").sync().unwrap();
    disk.sync_dir(&dir()).unwrap();
    let copy = Path::new("/copy/b");
    disk.link(&path("a"), copy).unwrap();
    assert_eq!(disk.link(&path("a"), copy).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.image(Crash::DropAll, 0).content(copy), None);
    disk.sync_dir(Path::new("/copy")).unwrap();
    disk.remove(&path("a")).unwrap();
    disk.sync_dir(&dir()).unwrap();
    let image = disk.image(Crash::DropAll, 0);
    assert_eq!((image.content(&path("a")), image.content(copy)), (None, Some(b"one".to_vec())));
}

#[test]
fn crash_ends_the_old_disk_and_locks_are_exclusive() {
    let disk = disk();
    let held = disk.lock(&path("LOCK")).unwrap();
    assert!(disk.lock(&path("LOCK")).is_err());
    let next = disk.crash(Crash::KeepAll, 0);
    assert!(disk.list(&dir()).is_err());
    assert!(next.lock(&path("LOCK")).is_ok());
    drop(held);
    disk.set_latency_ms(Lane::Read, 1000);
    assert_eq!((disk.latency_ms(Lane::Read), disk.latency_ms(Lane::Sync)), (1000, 0));
}
