//! The README keeps its word: both languages say the same, and the commands that it shows work.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{KVASIR, free_base};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn readme(name: &str) -> String {
    std::fs::read_to_string(top().join(name)).unwrap()
}

/// Headings outside of code blocks.
fn headings(text: &str) -> Vec<&str> {
    let mut inside = false;
    let outside = |line: &&str| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    };
    text.lines().filter(outside).collect()
}

/// Code blocks with their fences.
fn blocks(text: &str) -> Vec<String> {
    text.split("```").skip(1).step_by(2).map(str::to_owned).collect()
}

/// The shell commands under a heading.
fn commands(heading: &str) -> Vec<String> {
    let text = readme("README.md");
    let section = text.split("\n## ").find(|s| s.starts_with(heading)).unwrap();
    blocks(section).iter().map(|block| block.strip_prefix("sh\n").unwrap().to_owned()).collect()
}

/// Runs a script against a cluster of three nodes; `kvasir` is on its path.
fn run_against_dev(script: &str) -> Output {
    let kvasir = Path::new(KVASIR);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    let path = std::env::var("PATH").unwrap();
    let base = free_base();
    // The numbers that the README shows, moved to ports that are free here.
    let text = format!("set -eu\ncd {}\n{script}", folder.path().display());
    let text = (0..3).fold(text, |text, node| {
        text.replace(&format!("localhost:{}", 8100 + node), &format!("127.0.0.1:{}", base + node))
    });
    std::fs::write(&file, text).unwrap();
    Command::new(kvasir)
        .args(["dev", "--base-port", &base.to_string(), "--exec"])
        .arg(format!("sh {}", file.display()))
        .env("PATH", format!("{}:{path}", kvasir.parent().unwrap().display()))
        .env_remove("KVASIR_URL")
        .env_remove("KVASIR_ADMIN_URL")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text_of(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn both_languages_have_the_same_headings_and_code() {
    let (english, korean) = (readme("README.md"), readme("README.ko.md"));
    assert_eq!(headings(&english), headings(&korean));
    assert_eq!(blocks(&english), blocks(&korean));
    assert!(headings(&english).len() > 5 && blocks(&english).len() > 5);
}

#[test]
fn the_files_that_it_points_to_are_there() {
    for name in ["README.md", "README.ko.md"] {
        let text = readme(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(top().join(link).exists(), "{name} points to {link}");
        }
    }
}

#[test]
fn the_first_session_makes_and_resolves_a_conflict() {
    let curl = Command::new("curl").arg("--version").output();
    assert!(curl.is_ok_and(|c| c.status.success()), "curl is missing. try: apt-get install curl");
    let said = text_of(&run_against_dev(&commands("A first session").join("\necho\n")));
    assert!(said.starts_with("milk"), "{said}");
    assert!(said.contains("HTTP/1.1 300"), "{said}");
    assert!(said.trim_end().ends_with("milk,bread"), "{said}");
    // Both values, in base64.
    assert!(said.contains("bWlsaw==") && said.contains("YnJlYWQ="), "{said}");
}

/// The very first line of the page, with a free port and the first curl as the script that it runs.
#[test]
#[ignore = "builds in release mode; tests/run runs it"]
fn the_first_command_brings_up_three_nodes_and_the_first_curl_works() {
    let section = commands("Try it").join("");
    let command = section.lines().next().unwrap();
    assert_eq!(command, "cargo run --release -p kvasir -- dev");
    let base = free_base();
    let curl = commands("A first session").remove(0);
    let curl = (0..3).fold(curl, |text, node| {
        text.replace(&format!("localhost:{}", 8100 + node), &format!("127.0.0.1:{}", base + node))
    });
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} --base-port {base}")]).current_dir(top());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut dev = shell.spawn().unwrap();
    let mut said = std::io::BufReader::new(dev.stdout.take().unwrap()).lines();
    let ready = said.by_ref().map_while(Result::ok).find(|line| line.contains("nodes are ready"));
    let read = Command::new("sh").args(["-euc", &curl]).output().unwrap();
    dev.stdin.take().unwrap().write_all(b"quit\n").unwrap();
    said.for_each(drop);
    assert!(dev.wait().unwrap().success());
    let ready = ready.expect("it says when the nodes are ready");
    assert!(ready.starts_with("kvasir dev: 3 nodes are ready"), "{ready}");
    assert!(text_of(&read).starts_with("milk"));
}

#[test]
fn the_command_line_does_what_is_shown() {
    let script = commands("Command line").join("\n").replace("cargo install", ": cargo install");
    let said = text_of(&run_against_dev(&script));
    assert!(said.contains("SAFE"), "{said}");
    assert!(said.contains("imported 2 pairs"), "{said}");
    assert!(said.trim_end().ends_with('2'), "{said}");
}

#[test]
fn the_example_configuration_passes_its_check() {
    let folder = tempfile::tempdir().unwrap();
    let lines = commands("Run nodes yourself").join("");
    let script =
        lines.replace("kvasir serve", ": kvasir serve").replace("kvasir config", "$K config");
    let output = Command::new("sh")
        .args(["-euc", &script])
        .env("K", KVASIR)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(text_of(&output).contains("data_dir"));
}
