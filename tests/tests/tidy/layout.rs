//! The top level of the repository and what no file may contain.

use crate::{none, top, tracked};

/// The whole top level besides dotfiles.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "node",
    "operator",
    "charts",
    "crds",
    "tests",
    "README.md",
    "README.ko.md",
    "LICENSE",
];

#[test]
fn the_top_level_is_fixed() {
    let mut found: Vec<String> = tracked()
        .iter()
        .filter_map(|p| p.split('/').next())
        .filter(|name| !TOP.contains(name) && !name.starts_with('.'))
        .map(str::to_string)
        .collect();
    found.dedup();
    none("top-level entry outside the layout", found);
}

#[test]
fn no_path_of_one_machine() {
    let marks = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut found = Vec::new();
    for path in tracked() {
        let Ok(text) = std::fs::read_to_string(top().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|m| line.contains(m)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("a path of one machine", found);
}

#[test]
fn the_lock_file_names_no_other_registry() {
    let lock = std::fs::read_to_string(top().join("Cargo.lock")).expect("Cargo.lock is there");
    let found = lock
        .lines()
        .filter(|l| l.starts_with("source = "))
        .filter(|l| !l.contains("registry+https://github.com/rust-lang/crates.io-index"))
        .map(str::to_string)
        .collect();
    none("a source other than crates.io", found);
}
