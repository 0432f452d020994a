//! What the API server refuses by itself: specs that cannot work and changes that cannot be made, each with a
//! message that says what to do. The generated definition is judged by a real API server; no operator runs.

use kvasir_tests::kube::{Kvc, Scenario, kubectl, top, until};
use serde_json::{Value, json};
use std::time::Duration;

/// A spec that must be refused, and a word that the refusal must hold.
fn bad_specs() -> Vec<(&'static str, Value, &'static str)> {
    let with = |key: &str, value: Value| {
        let mut manifest = Kvc::manifest("bad");
        manifest["spec"][key] = value;
        manifest
    };
    let named = |name: &str| {
        let mut manifest = Kvc::manifest("bad");
        manifest["metadata"]["name"] = json!(name);
        manifest
    };
    let long = "a".repeat(41);
    vec![
        ("r over N", with("replication", json!({"readQuorum": 4})), "readQuorum"),
        ("w over N", with("replication", json!({"writeQuorum": 4})), "writeQuorum"),
        (
            "weak",
            with("replication", json!({"readQuorum": 1, "writeQuorum": 1})),
            "allowWeakQuorum",
        ),
        (
            "a level that is none",
            with("replication", json!({"readQuorum": "local_all"})),
            "local_quorum",
        ),
        (
            "a level of 0",
            with("replication", json!({"readQuorum": 0})),
            "greater than or equal to 1",
        ),
        ("a count in quotes", with("replication", json!({"readQuorum": "2"})), "local_quorum"),
        (
            "a weak level",
            with("replication", json!({"readQuorum": "one", "writeQuorum": "local_quorum"})),
            "allowWeakQuorum",
        ),
        ("fewer nodes than N", with("nodes", json!(2)), "nodes must be at least"),
        ("zero nodes", with("nodes", json!(0)), "greater than or equal to 1"),
        ("2^31 nodes", with("nodes", json!(2_147_483_648_i64)), "less than or equal to 512"),
        ("an unknown field", with("nodez", json!(3)), "nodez"),
        ("an over-long name", named(&long), "40 characters"),
        ("no size", with("storage", json!({})), "size"),
    ]
}

fn bad_specs_are_refused(scenario: &Scenario) {
    for (what, manifest, word) in bad_specs() {
        let said = scenario.try_apply(&manifest.to_string());
        assert!(!said.ok, "{what} was taken: {}", said.out);
        assert!(said.err.contains(word), "{what}: the refusal does not say `{word}`: {}", said.err);
    }
}

fn bad_changes_are_refused(kvc: &Kvc<'_>) {
    for (what, spec, word) in [
        ("shrinking storage", json!({"storage": {"size": "512Mi"}}), "shrink"),
        ("another clusterName", json!({"clusterName": "other"}), "clusterName cannot change"),
        (
            "another N",
            json!({"replication": {"factors": [{"datacenter": "dc1", "factor": 1}]}}),
            "fixed",
        ),
        (
            "another zone",
            json!({"topology": {"racks": [{"name": "default", "zone": "z"}]}}),
            "remove it and add one of another name",
        ),
    ] {
        let said = kvc.patch(&spec);
        assert!(!said.ok, "{what} was taken");
        assert!(said.err.contains(word), "{what}: the refusal does not say `{word}`: {}", said.err);
    }
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn bad_resources_are_refused_with_a_word_of_advice() {
    let crds = top().join("crds");
    kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        crds.to_str().expect("a path in UTF-8"),
    ]);
    let scenario = Scenario::new("kvasir-admission");
    until("the definition is in force", Duration::from_secs(60), || {
        let said = scenario.try_kubectl(&["get", "kvc"]);
        if said.ok { Ok(()) } else { Err(said.err) }
    });
    bad_specs_are_refused(&scenario);
    let kvc = Kvc::apply(&scenario, &Kvc::manifest("good"));
    bad_changes_are_refused(&kvc);
    kvc.change(&json!({"storage": {"size": "2Gi"}}));
    // Racks come and go, and levels have names.
    kvc.change(&json!({"topology": {"racks": [{"name": "r1"}, {"name": "r2"}]}}));
    kvc.change(&json!({"topology": {"racks": [{"name": "r3", "zone": "z"}]}}));
    let mut named = Kvc::manifest("named");
    named["spec"]["replication"] =
        json!({"readQuorum": "local_quorum", "writeQuorum": "each_quorum"});
    Kvc::apply(&scenario, &named);
    // The scale subresource reads and writes `nodes`.
    scenario.kubectl(&["scale", "kvc/good", "--replicas=4"]);
    assert_eq!(kvc.object()["spec"]["nodes"], 4);
    let refused = scenario.try_kubectl(&["scale", "kvc/good", "--replicas=1"]);
    assert!(!refused.ok && refused.err.contains("nodes must be at least"), "{refused:?}");
    // Defaults are shown, so that a later version cannot change them unseen.
    let spec = &kvc.object()["spec"];
    assert_eq!(
        spec["replication"]["factors"],
        json!([{"datacenter": "dc1", "factor": 3}]),
        "{spec}"
    );
    scenario.kubectl(&["delete", "kvc", "good", "named"]);
    scenario.remove();
}
