//! The scripts of the test cluster, as far as they can be tried without one: whose process is signalled.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kvasir_tests::kube::top;

/// Runs shell lines with the functions of `processes.sh` and a state folder.
fn shell(state: &Path, lines: &str) -> Output {
    let kube = top().join("tests/kube");
    let head = "set -euo pipefail; source $HERE/settings.sh; source $HERE/processes.sh\n";
    let out = Command::new("bash")
        .args(["-c", &format!("{head}{lines}")])
        .env("HERE", &kube)
        .env("KVASIR_KUBE_STATE", state)
        .output();
    out.expect("bash runs")
}

fn good(state: &Path, lines: &str) -> String {
    let out = shell(state, lines);
    let (said, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{lines}\n{said}{err}");
    said.trim().to_string()
}

/// Until the process has recorded itself.
const RECORDED: &str =
    "for _ in $(seq 100); do alive sleeper && break; sleep 0.05; done; alive sleeper;";

#[test]
fn a_process_is_started_once_and_stopped() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let pid =
        |lines: &str| good(state.path(), &format!("{lines} cut -d' ' -f1 <$STATE/pid/sleeper"));
    let first = pid(&format!("start sleeper sleep 300; {RECORDED}"));
    let second = pid("start sleeper sleep 300;");
    assert_eq!(first, second, "it ran already");
    good(state.path(), "stop 20 sleeper; ! alive sleeper; [ -z \"$(names '')\" ]");
    // Whoever adopted it may not have waited for it yet: dead all the same.
    let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{first} still runs: {stat}");
}

#[test]
fn a_process_of_the_same_number_and_another_start_is_nobodys() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut other = Command::new("sleep").arg("300").spawn().expect("sleep runs");
    std::fs::create_dir(state.path().join("pid")).expect("a folder");
    let record = |text: String| {
        std::fs::write(state.path().join("pid/sleeper"), text + "\n").expect("a file")
    };
    for text in [format!("{} 12345", other.id()), format!("{}", other.id()), String::new()] {
        record(text);
        good(state.path(), "! alive sleeper; stop 0 sleeper");
        assert!(other.try_wait().expect("a child").is_none(), "a foreign process was signalled");
    }
    // The very same number with the right start is ours: the test above could not fail otherwise.
    let started = good(state.path(), &format!("started {}", other.id()));
    record(format!("{} {started}", other.id()));
    good(state.path(), "alive sleeper");
    other.kill().expect("a child");
    // It dies when the kernel comes to it, and is a zombie from then on: nobody has waited for it.
    let patience = Instant::now() + Duration::from_secs(20);
    while shell(state.path(), "alive sleeper").status.success() {
        assert!(Instant::now() < patience, "killed and not yet waited for: a zombie is not alive");
    }
    other.wait().expect("a child");
}

#[test]
fn one_that_ignores_the_polite_signal_is_killed() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let stubborn = "start sleeper bash -c 'trap \"\" TERM; while :; do sleep 0.1; done';";
    good(
        state.path(),
        &format!("{stubborn} {RECORDED} sleep 0.2; stop 3 sleeper; ! alive sleeper"),
    );
}
