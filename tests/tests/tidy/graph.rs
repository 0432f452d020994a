//! The dependency graph as cargo resolves it for this machine: what each package may never pull in.

use std::process::Command;

use crate::{none, top};

/// Package, and prefixes of names that must not be reachable from it.
const NEVER: &[(&str, &[&str])] = &[
    (
        "kvasir-core",
        &["tokio", "hyper", "mio", "async-", "futures", "kube", "k8s-", "kvasir-storage"],
    ),
    (
        "kvasir-storage",
        &["tokio", "hyper", "mio", "async-", "futures", "kube", "k8s-", "kvasir-core"],
    ),
    ("kvasir", &["kube", "k8s-", "openssl"]),
];

fn reachable(package: &str) -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let out = Command::new(cargo)
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"])
        .current_dir(top())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut names: Vec<String> =
        text.lines().filter_map(|l| l.split(' ').next()).map(str::to_string).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn packages_pull_in_only_what_they_may() {
    let mut found = Vec::new();
    for (package, never) in NEVER {
        let names = reachable(package);
        assert!(names.iter().any(|n| n == package), "{package} is not in its own tree");
        for name in names.iter().filter(|n| *n != package) {
            if never.iter().any(|prefix| name.starts_with(prefix)) {
                found.push(format!("{package} reaches {name}"));
            }
        }
    }
    none("a dependency that must not be there", found);
}
