//! The CRD that is checked in, its size, and every rule with an object that breaks it.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn cluster(spec: Value) -> KVCluster {
    let mut whole = json!({
        "nodes": 3, "clusterName": "demo", "image": "kvasir:1", "storage": {"size": "20Gi"},
    });
    merge(&mut whole, spec);
    let object = json!({
        "apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo"}, "spec": whole,
    });
    serde_json::from_value(object).expect("the spec has the right types")
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[track_caller]
fn refused(object: &KVCluster, word: &str) {
    let errors = object.validate_cel().expect_err(word).to_string();
    assert!(errors.contains(word), "{errors}");
}

#[track_caller]
fn change_refused(old: Value, new: Value, word: &str) {
    let errors = cluster(new).validate_cel_update(&cluster(old)).expect_err(word).to_string();
    assert!(errors.contains(word), "{errors}");
}

#[track_caller]
fn change_taken(old: Value, new: Value) {
    if let Err(errors) = cluster(new).validate_cel_update(&cluster(old)) {
        panic!("{errors}");
    }
}

#[test]
fn the_checked_in_crd_is_what_crdgen_writes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/kvclusters.kvasir.dev.yaml");
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let written = crd_yaml().unwrap();
    assert!(there == written, "run `cargo run -p kvasir-operator --bin crdgen` and commit crds/");
    assert!(written.len() < 100 * 1024, "{} bytes", written.len());
}

#[test]
fn nothing_in_the_schema_is_nullable_and_every_property_is_explained() {
    fn walk(path: &str, schema: &Value) {
        assert!(schema.get("nullable").is_none(), "{path} is nullable");
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(inner.get("description").is_some(), "{path} has no description");
            walk(&path, inner);
        }
        if schema["items"].is_object() {
            walk(&format!("{path}[]"), &schema["items"]);
        }
    }
    let crd = serde_json::to_value(crd()).unwrap();
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    walk("spec", &root["spec"]);
    walk("status", &root["status"]);
}

#[test]
fn the_least_object_is_taken_and_has_every_default() {
    let least = cluster(json!({}));
    assert!(least.validate_cel().is_ok(), "{:?}", least.validate_cel());
    let spec = &least.spec;
    assert_eq!(spec.replication.copies(), 3);
    assert_eq!((spec.paused, spec.network_policy.enabled), (false, true));
    assert_eq!(spec.update_strategy.min_ready_seconds, 10);
    assert_eq!(spec.termination_grace_period_seconds, 60);
    assert_eq!(spec.storage.retention, Retention::default());
}

#[test]
fn counts_that_do_not_fit_are_refused() {
    refused(&cluster(json!({"nodes": 2})), "raise nodes");
    let factors = json!([{"datacenter": "a", "factor": 2}, {"datacenter": "b", "factor": 2}]);
    refused(&cluster(json!({"replication": {"factors": factors}})), "raise nodes");
    refused(&cluster(json!({"replication": {"readQuorum": 4}})), "readQuorum is at most");
    refused(&cluster(json!({"replication": {"writeQuorum": 4}})), "writeQuorum is at most");
    refused(&cluster(json!({"replication": {"readQuorum": 1}})), "allowWeakQuorum");
    refused(&cluster(json!({"replication": {"readQuorum": 1, "writeQuorum": 2}})), "allowWeak");
    for fine in [
        json!({"readQuorum": 1, "writeQuorum": 3}),
        json!({"readQuorum": 1, "writeQuorum": 1, "allowWeakQuorum": true}),
        json!({"readQuorum": 3}),
    ] {
        let object = cluster(json!({"replication": fine}));
        assert!(object.validate_cel().is_ok(), "{:?}", object.validate_cel());
    }
    for name in ["one", "quorum", "all", "local_one", "local_quorum", "each_quorum"] {
        let object = cluster(json!({"replication": {"readQuorum": name, "writeQuorum": "all"}}));
        assert!(object.validate_cel().is_ok(), "{name}: {:?}", object.validate_cel());
        assert_eq!(object.spec.replication.read_level().unwrap().to_string(), name);
    }
    let one = json!({"nodes": 1, "replication": {"factors": [{"datacenter": "x", "factor": 1}]}});
    assert!(cluster(one).validate_cel().is_ok());
}

#[test]
fn levels_of_two_data_centers_overlap_within_each_of_them() {
    let rack = |name: &str, datacenter: &str| json!({"name": name, "datacenter": datacenter});
    let racks = json!([rack("r1", "a"), rack("r2", "b")]);
    let with = |read: Value, write: Value, weak: bool| {
        let factors = json!([{"datacenter": "a", "factor": 3}, {"datacenter": "b", "factor": 3}]);
        cluster(json!({
            "nodes": 6, "topology": {"racks": racks},
            "replication": {
                "factors": factors, "readQuorum": read, "writeQuorum": write,
                "allowWeakQuorum": weak,
            },
        }))
    };
    let (local, each) = (json!("local_quorum"), json!("each_quorum"));
    for (read, write) in [
        (local.clone(), local.clone()),
        (local.clone(), each.clone()),
        (each.clone(), each.clone()),
        // A majority of each is four, the rest is two.
        (each.clone(), json!(3)),
        (json!("quorum"), json!("quorum")),
        (local.clone(), json!(5)),
        (json!("local_one"), json!("all")),
    ] {
        let object = with(read.clone(), write.clone(), false);
        assert!(object.validate_cel().is_ok(), "{read} {write}: {:?}", object.validate_cel());
    }
    for (read, write) in [
        (local.clone(), json!("quorum")),
        (json!("quorum"), local.clone()),
        (json!("local_one"), local.clone()),
        (json!("one"), each.clone()),
        (each.clone(), json!(2)),
        (local.clone(), json!(4)),
    ] {
        refused(&with(read.clone(), write.clone(), false), "allowWeakQuorum");
        assert!(with(read, write, true).validate_cel().is_ok());
    }
    refused(&with(json!(7), each, true), "readQuorum is at most");
}

#[test]
fn racks_and_data_centers_name_each_other() {
    let rack = |name: &str, datacenter: &str| json!({"name": name, "datacenter": datacenter});
    let two = json!([{"datacenter": "a", "factor": 1}, {"datacenter": "b", "factor": 1}]);
    let factors = |racks: Value| {
        cluster(json!({"replication": {"factors": two}, "topology": {"racks": racks}}))
    };
    refused(&factors(json!([])), "needs a rack");
    refused(&factors(json!([rack("r1", "a")])), "needs a rack");
    refused(&factors(json!([rack("r1", "a"), rack("r2", "b"), rack("r3", "c")])), "every rack");
    assert!(factors(json!([rack("r1", "a"), rack("r2", "b")])).validate_cel().is_ok());
}

#[test]
fn names_are_short_and_plain() {
    let mut long = cluster(json!({}));
    long.metadata.name = Some("a".repeat(41));
    refused(&long, "at most 40 characters");
    long.metadata.name = Some("a".repeat(40));
    assert!(long.validate_cel().is_ok());
    for name in ["1a", "a.b", "a-"] {
        long.metadata.name = Some(name.to_owned());
        refused(&long, "begins with a letter");
    }
}

#[test]
fn partitions_are_a_power_of_two_and_stay() {
    let cut = |partitions: i32| json!({"ring": {"initialPartitions": partitions}});
    refused(&cluster(cut(96)), "power of two");
    assert!(cluster(cut(64)).validate_cel().is_ok());
    change_refused(cut(64), cut(128), "initialPartitions cannot change");
    change_refused(json!({}), cut(128), "initialPartitions cannot change");
    change_refused(cut(64), json!({}), "initialPartitions cannot change");
    change_taken(cut(64), cut(64));
}

#[test]
fn identity_and_replication_stay() {
    change_refused(json!({}), json!({"clusterName": "other"}), "clusterName cannot change");
    change_refused(json!({}), json!({"replication": {"sloppyQuorum": false}}), "is fixed when");
    change_taken(json!({}), json!({"nodes": 5, "image": "kvasir:2", "paused": true}));
}

#[test]
fn a_volume_grows_and_keeps_its_class() {
    let size = |size: Value| json!({"storage": {"size": size}});
    refused(&cluster(size(json!("1Mi"))), "at least 64Mi");
    change_refused(size(json!("20Gi")), size(json!("19Gi")), "cannot shrink");
    change_refused(size(json!("1Ti")), size(json!("1000Gi")), "cannot shrink");
    change_taken(size(json!("1024Mi")), size(json!("1Gi")));
    change_taken(size(json!("1Gi")), size(json!("1.5Gi")));
    let class = |name: &str| json!({"storage": {"storageClassName": name}});
    change_refused(class("a"), class("b"), "storageClassName cannot change");
    change_refused(class("a"), json!({}), "storageClassName cannot change");
    change_refused(json!({}), class("b"), "storageClassName cannot change");
    change_taken(class("a"), class("a"));
}

#[test]
fn racks_come_and_go_and_stay_where_they_are() {
    let racks = |racks: Value| json!({"topology": {"racks": racks}});
    let rack = |name: &str, zone: &str| json!({"name": name, "zone": zone});
    let both = json!([rack("r1", "a"), rack("r2", "b")]);
    let first = json!([rack("r1", "a")]);
    change_taken(racks(first.clone()), racks(both.clone()));
    change_taken(racks(both.clone()), racks(first.clone()));
    change_taken(racks(first.clone()), racks(json!([rack("r3", "b")])));
    change_taken(json!({}), racks(both.clone()));
    change_taken(racks(both), json!({}));
    change_refused(racks(first.clone()), racks(json!([rack("r1", "b")])), "remove it and add");
    let elsewhere = json!([rack("default", "a")]);
    change_refused(json!({}), racks(elsewhere.clone()), "remove it and add");
    change_refused(racks(elsewhere), json!({}), "remove it and add");
    change_taken(json!({}), racks(json!([rack("default", "")])));
}
