//! Tidy: the house rules as tests. Each test reads the tracked sources and lists every line that breaks
//! one rule: layout of the top level, import table, budgets of files and functions, headers, module
//! names, `unsafe`, words of unfinished work, and what the dependency graph of each package may hold.

mod budgets;
mod graph;
mod imports;
mod layout;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One tracked Rust file.
pub struct Source {
    /// Path from the top of the repository, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The parsed text.
    pub syntax: syn::File,
}

/// The top of the repository.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ stands under the top")
        .to_path_buf()
}

/// Every tracked path, and untracked ones that are not ignored, so that a new file is seen before its commit.
pub fn tracked() -> Vec<String> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .expect("git runs");
    assert!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    let mut paths: Vec<String> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_string)
        .filter(|p| top().join(p).is_file())
        .collect();
    paths.sort();
    paths.dedup();
    assert!(paths.len() > 20, "only {} files: not a checkout", paths.len());
    paths
}

/// Every tracked Rust file, parsed.
pub fn sources() -> Vec<Source> {
    tracked()
        .into_iter()
        .filter(|p| p.ends_with(".rs"))
        .map(|path| {
            let text =
                std::fs::read_to_string(top().join(&path)).expect("a tracked file is readable");
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
            Source { path, text, syntax }
        })
        .collect()
}

/// Does an item stand only in test builds?
pub fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|a| {
        if a.path().is_ident("test") {
            return true;
        }
        a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test"))
    })
}

/// Production code: not a test file, not a bench.
pub fn is_production(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    !(path.contains("/tests/") || path.contains("/benches/") || file == "tests.rs")
}

/// Fails with the list when it is not empty.
pub fn none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn imports_go_downward() {
    none("a back arrow", imports::violations(&sources()));
}
