//! The values of `kvasir-cluster` are as strict as the resource: their schema is made from the definition in `crds/`.
//!
//! With `KVASIR_WRITE=1` in the environment the test writes the schema instead of comparing it.

use serde_json::{Map, Value, json};

use super::{charts, text};

/// What the chart fills in where it is left out.
const FILLED: &[&str] = &["clusterName", "image"];

/// The definition's schema of `spec`.
fn spec() -> Value {
    let crd: Value =
        serde_yaml::from_str(&text(&charts().join("../crds/kvclusters.kvasir.dev.yaml")))
            .expect("YAML");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The same for helm: without the words that only Kubernetes knows, and without fields that nobody defined.
fn strict(schema: &Value) -> Value {
    let Value::Object(given) = schema else { return schema.clone() };
    let mut made = Map::new();
    for (word, value) in given {
        match word.as_str() {
            // Defaults are the API server's to fill in; the rules are its to judge.
            word if word.starts_with("x-kubernetes-") || word == "default" || word == "format" => {}
            "properties" => {
                let inner = value.as_object().expect("properties are a map");
                let inner = inner.iter().map(|(name, value)| (name.clone(), strict(value)));
                made.insert("properties".to_string(), Value::Object(inner.collect()));
            }
            "items" | "additionalProperties" => drop(made.insert(word.clone(), strict(value))),
            _ => drop(made.insert(word.clone(), value.clone())),
        }
    }
    if given.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        made.remove("anyOf");
        made.insert("type".to_string(), json!(["integer", "string"]));
    }
    let open = given.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if made.contains_key("properties") && !open {
        made.insert("additionalProperties".to_string(), json!(false));
    }
    Value::Object(made)
}

fn values_schema() -> Value {
    let mut spec = strict(&spec());
    if let Some(required) = spec["required"].as_array_mut() {
        required.retain(|field| !FILLED.contains(&field.as_str().unwrap_or_default()));
    }
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "Made from the KVCluster definition by `KVASIR_WRITE=1 cargo test -p kvasir-tests --test charts`.",
        "type": "object",
        "additionalProperties": false,
        "required": ["spec"],
        "properties": {
            "global": {"type": "object", "description": "Set by a parent chart; not used."},
            "name": {"type": "string", "maxLength": 40, "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$"},
            "labels": texts,
            "annotations": texts,
            "keep": {"type": "boolean"},
            "spec": spec,
            "prometheusRule": {
                "type": "object",
                "additionalProperties": false,
                "properties": {"enabled": {"type": "boolean"}, "labels": texts}
            },
            "dashboard": {
                "type": "object",
                "additionalProperties": false,
                "properties": {"enabled": {"type": "boolean"}, "labels": texts, "annotations": texts}
            }
        }
    })
}

#[test]
fn the_schema_of_the_values_is_made_from_the_definition() {
    let path = charts().join("kvasir-cluster/values.schema.json");
    let made = format!("{}\n", serde_json::to_string_pretty(&values_schema()).expect("JSON"));
    if std::env::var("KVASIR_WRITE").is_ok_and(|write| write == "1") {
        std::fs::write(&path, &made).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let how = "run `KVASIR_WRITE=1 cargo test -p kvasir-tests --test charts` and commit charts/";
    assert!(there == made, "the definition changed: {how}");
}

#[test]
fn the_operator_chart_carries_the_definition_and_both_have_one_version() {
    let carried = text(&charts().join("kvasir-operator/files/kvclusters.kvasir.dev.yaml"));
    assert!(carried == text(&charts().join("../crds/kvclusters.kvasir.dev.yaml")));
    let manifest = text(&charts().join("../Cargo.toml"));
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("version = ")).expect("a version");
    for chart in ["kvasir-operator", "kvasir-cluster"] {
        let about: Value =
            serde_yaml::from_str(&text(&charts().join(chart).join("Chart.yaml"))).expect("YAML");
        for field in ["version", "appVersion"] {
            assert_eq!(about[field], version.trim_matches('"'), "{chart}: {field}");
        }
    }
}

#[test]
fn the_least_example_is_what_the_definition_requires() {
    let example: Value =
        serde_yaml::from_str(&text(&charts().join("kvasir-cluster/examples/minimal.yaml")))
            .expect("YAML");
    let given = example["spec"].as_object().expect("a spec");
    let spec = spec();
    let required: Vec<&str> =
        spec["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let mut names: Vec<&str> = given.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut wanted = required.clone();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}
