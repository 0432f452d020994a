//! Precedence, unknown fields, bounds, and the example that must equal the defaults.

use super::*;

fn none() -> std::iter::Empty<(String, String)> {
    std::iter::empty()
}

fn refused(text: &str) -> String {
    parse("kvasir.yaml", text, &[], none()).expect_err("must be refused").to_string()
}

#[test]
fn the_example_is_the_defaults() {
    let example = parse("example", EXAMPLE, &[], none()).unwrap();
    assert_eq!(example, Config::default());
    // Every field is written down in it.
    let written: serde_json::Value = serde_yaml::from_str(EXAMPLE).unwrap();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for (section, fields) in defaults.as_object().unwrap() {
        for field in fields.as_object().unwrap().keys() {
            assert!(
                written[section].get(field).is_some(),
                "{section}.{field} is not in the example"
            );
        }
    }
}

#[test]
fn later_sources_win() {
    let environment = [
        ("KVASIR_HTTP__LISTEN".to_string(), "127.0.0.1:2".to_string()),
        ("KVASIR_NODE__WEIGHT".to_string(), "7".to_string()),
        ("KVASIR_URL".to_string(), "http://x".to_string()),
    ];
    let text = "http:\n  listen: 127.0.0.1:1\nnode:\n  zone: a\n";
    let sets = ["http.listen=127.0.0.1:3".to_string(), "node.seeds=[a:1, b:2]".to_string()];
    let config = parse("f", text, &sets, environment.into_iter()).unwrap();
    assert_eq!(config.http.listen, "127.0.0.1:3");
    assert_eq!(config.node.weight, 7);
    assert_eq!(config.node.zone, "a");
    assert_eq!(config.node.seeds, ["a:1", "b:2"]);
}

#[test]
fn what_is_unknown_or_wrong_is_named() {
    assert!(refused("htpp:\n  listen: a:1\n").contains("htpp"));
    let unknown = refused("http:\n  lisen: a:1\n");
    assert!(unknown.contains("lisen") && unknown.contains("kvasir.yaml"), "{unknown}");
    assert!(refused("node:\n  weight: heavy\n").contains("kvasir.yaml"));
    assert!(refused("node:\n  weight: 0\n").contains("node.weight"));
    assert!(refused("http:\n  listen: nowhere\n").contains("http.listen"));
    assert!(refused("http:\n  listen: a:0\n").contains("http.listen"));
    assert!(refused("http:\n  listen: a:70000\n").contains("http.listen"));
    assert!(refused("http:\n  value_max_bytes: 17MiB\n").contains("16MiB"));
    assert!(refused("http:\n  timeout: 0ms\n").contains("http.timeout"));
    assert!(refused("storage:\n  memtable_bytes: 0\n").contains("memtable_bytes"));
    assert!(refused("[1, 2]").contains("kvasir.yaml"));
    let sets = ["http.lisen=a:1".to_string()];
    let error = parse("f", "", &sets, none()).unwrap_err().to_string();
    assert!(error.contains("--set http.lisen=a:1"), "{error}");
    assert!(parse("f", "", &["x".to_string()], none()).is_err());
}

#[test]
fn sizes_and_durations_are_read_as_written() {
    let sets = ["storage.memtable_bytes=4MiB".to_string(), "storage.flush_age=2s".to_string()];
    let config = parse("f", "", &sets, none()).unwrap();
    let options = config.storage.options("d".into());
    assert_eq!((options.memtable_bytes, options.flush_age_ms), (4 << 20, 2_000));
}
