//! Where a soak writes down what it did: a file of JSON lines that outlives the run, one line for each.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A file of this name in the user's cache, or where temporary files go if there is none.
pub fn cache(name: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("kvasir").join(name)
}

/// Adds a line; the file and its directory are made where they are missing.
///
/// # Errors
/// The file cannot be written. Nothing says whether a part of the line was.
pub fn append(ledger: &Path, line: &Value) -> io::Result<()> {
    if let Some(dir) = ledger.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(ledger)?;
    writeln!(file, "{line}")
}

/// The commit that runs, as git names it; empty outside a checkout.
pub fn commit() -> String {
    let out = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    out.ok().map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string()).unwrap_or_default()
}
