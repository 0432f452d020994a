//! A wall clock that is wrong and jumps while a node runs, by Debian's `libfaketime`. The clock that only ever
//! rises is left alone, as a machine leaves it alone when its wall clock is set.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ground::Ground;
use super::{Cluster, PATIENCE};
use crate::power::Missing;

/// Jumps, in seconds.
const AHEAD: &str = "+600";
const BACK: &str = "-3600";
/// The library, wherever the machine has it.
fn library() -> Result<PathBuf, Missing> {
    let name = "faketime/libfaketimeMT.so.1";
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|dir| dir.path());
    let mut found = dirs.chain([PathBuf::from("/usr/lib")]).map(|dir| dir.join(name));
    let missing =
        || Missing("libfaketime is missing. try: apt-get install libfaketime".to_string());
    found.find(|path| path.is_file()).ok_or_else(missing)
}

/// Starts a node anew with a clock that can be set, sets it ahead, waits until the node goes by it, and sets it
/// back.
///
/// # Errors
/// There is no `libfaketime`.
pub async fn jump(ground: &mut Ground, node: usize) -> Result<(), Missing> {
    let library = library()?;
    let file = ground.cluster.dir().join(format!("clock-{node}"));
    set(&file, "+0")?;
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
        ("NO_FAKE_STAT", "1".to_string()),
    ];
    ground.cluster.kill(node);
    ground.cluster.nodes[node].variables = variables.map(|(n, v)| (n.to_string(), v)).to_vec();
    ground.cluster.restart(node).await;
    let before = heard_ahead(ground, node).await;
    set(&file, AHEAD)?;
    let until = Instant::now() + PATIENCE;
    while heard_ahead(ground, node).await <= before {
        assert!(Instant::now() < until, "node {node} does not follow the clock");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    set(&file, BACK)
}

fn set(file: &Path, to: &str) -> Result<(), Missing> {
    std::fs::write(file, to).map_err(|e| Missing(format!("{}: {e}", file.display())))
}

/// How many stamps from far ahead the others heard.
async fn heard_ahead(ground: &Ground, node: usize) -> f64 {
    let mut heard = 0.0;
    for other in ground.cluster.running().into_iter().filter(|other| *other != node) {
        heard += ground.cluster.metric(other, "kvasir_clock_stamps_ahead_total").await;
    }
    heard
}

/// What shows that the clock was put back: since its start the node heard stamps from far ahead of it.
pub async fn behind(cluster: &Cluster, node: usize) -> Option<String> {
    let heard = cluster.metric(node, "kvasir_clock_stamps_ahead_total").await;
    (heard > 0.0).then(|| format!("{heard} stamps from ahead"))
}
