//! Configuration. Whatever the file says, there is a configuration or a message; one that is taken is
//! written as YAML and read back the same.

use kvasir::config::{ConfigError, parse};
use kvasir_tests::fuzz::{Target, run};

fn fed(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return String::from("no text") };
    let sets: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("#set ").map(str::to_string)).collect();
    match parse("fuzz", text, &sets, std::iter::empty()) {
        Ok(config) => {
            let again = serde_yaml::to_string(&config).expect("plain data");
            assert_eq!(parse("again", &again, &[], std::iter::empty()), Ok(config), "{again}");
            format!("taken {}", sets.len().min(3))
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            match error {
                ConfigError::File { .. } => String::from("file"),
                ConfigError::Syntax { why, .. } => {
                    why.chars().filter(|c| !c.is_numeric()).take(14).collect()
                }
                ConfigError::Invalid { field, .. } => field,
            }
        }
    }
}

#[test]
fn configuration() {
    let whole = serde_yaml::to_string(&kvasir::config::Config::default()).expect("plain data");
    let mut seeds = vec![whole.clone().into_bytes(), b"# nothing\n".to_vec()];
    // Each section alone: short inputs are changed where it matters.
    let lines: Vec<&str> = whole.lines().collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with(' ')) {
        let inside = lines[at + 1..].iter().take_while(|line| line.starts_with([' ', '-']));
        let section: Vec<&str> = std::iter::once(line).chain(inside).copied().collect();
        seeds.push(section.join("\n").into_bytes());
    }
    seeds.push(b"#set http.listen=127.0.0.1:1\n#set node.zone=1\n".to_vec());
    let words: &[&[u8]] = &[
        b"null", b"~", b": ", b"- ", b"&a ", b"*a", b"|\n", b"'", b"\"", b"0x7f", b".inf",
        b"10GiB", b"5ms",
    ];
    let target = Target { name: "config", seeds, words, inputs: 4_000, mend: &|_| (), run: &fed };
    assert!(run(&target).outcomes.len() > 20);
}
