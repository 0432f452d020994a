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
    let sets = ["storage.memtable_bytes=4MiB", "storage.flush_age=2s", "storage.compression=none"];
    let config = parse("f", "", &sets.map(String::from), none()).unwrap();
    let options = config.storage.options("d".into());
    assert_eq!((options.memtable_bytes, options.flush_age_ms), (4 << 20, 2_000));
    assert_eq!(options.compression, kvasir_storage::Compression::None);
    assert_eq!(options.scrub_interval_ms, 7 * 24 * 3_600_000, "not set: as built in");
    assert!(refused("storage:\n  compression: zip\n").contains("zip"));
}

#[test]
fn what_is_given_fits_the_field() {
    let sets = ["node.zone=1", "node.seeds=a:1, b:2", "node.rack=", "node.machine=true"];
    let config = parse("f", "", &sets.map(String::from), none()).unwrap();
    assert_eq!((config.node.zone.as_str(), config.node.machine.as_str()), ("1", "true"));
    assert_eq!(config.node.seeds, ["a:1", "b:2"]);
    let environment = [("KVASIR_NODE__SEEDS".to_string(), "c:3".to_string())];
    let config = parse("f", "", &[], environment.into_iter()).unwrap();
    assert_eq!(config.node.seeds, ["c:3"]);
    for bad in ["node.weight=heavy", "http.timeout=5", "node=1", "a.b.c=1"] {
        let error = parse("f", "", &[bad.to_string()], none()).unwrap_err().to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[test]
fn addresses_must_be_reachable_and_distinct() {
    assert!(refused("peer: {listen: 127.0.0.1:8098}").contains("peer.listen"));
    assert!(refused("admin: {listen: 127.0.0.1:8098}").contains("admin.listen"));
    assert!(refused("http: {listen: 0.0.0.0:8098}").contains("node.advertise"));
    let all = "http: {listen: 0.0.0.0:8098}\nnode: {advertise: db-1.example}\n";
    assert!(parse("f", all, &[], none()).is_ok());
    let shared = format!("{all}peer: {{listen: 127.0.0.1:8098}}\n");
    assert!(refused(&shared).contains("peer.listen"));
    assert!(refused("node: {advertise: \"http://db\"}").contains("node.advertise"));
    assert!(refused("log: {filter: \"==\"}").contains("log.filter"));
}

#[test]
fn an_error_in_a_file_names_the_line() {
    let error = refused("node:\n  rack: r1\n\nstorage:\n  memtable: 4MiB\n");
    assert!(error.contains("memtable") && error.contains("line 5"), "{error}");
    let error = refused("node:\n  weight: 1\n  weight: 2\n");
    assert!(error.contains("weight") && error.contains("line 3"), "{error}");
    let error = refused("storage:\n  flush_age: soon\n");
    assert!(error.contains("soon") && error.contains("line 2"), "{error}");
}

#[test]
fn files_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &[], none()).map_err(|e| e.to_string())
    };
    assert!(file("empty", b" \n").unwrap_err().contains("empty"));
    assert!(file("binary", &[0xff; 64]).is_err());
    assert!(file("huge", &vec![b'#'; 2 << 20]).unwrap_err().contains("1 MiB"));
    assert!(file("comments", b"# all defaults\n").is_ok());
    assert!(file("deep", "[".repeat(100_000).as_bytes()).is_err());
    let missing = load(Some(&dir.path().join("missing")), &[], none());
    assert!(missing.unwrap_err().to_string().contains("missing"));
    assert_eq!(load(None, &[], none()), Ok(Config::default()));
}

#[test]
fn the_schema_knows_every_section_and_refuses_others() {
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    let sections = schema["properties"].as_object().unwrap();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    assert!(defaults.as_object().unwrap().keys().all(|section| sections.contains_key(section)));
    assert_eq!(schema["additionalProperties"], false);
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "\\PC{0,80}|(node|http|log):\n  [a-z_]{1,9}: \\PC{0,20}\n") {
        let _ = parse("f", &text, &[], none());
        let _ = parse("f", "", &[format!("node.zone={text}")], none());
    }
}
