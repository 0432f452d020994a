//! The operator's rights and what it did with them. The API server of `tests/kube/up` writes down every call of a
//! service account; after the other scenarios the operator's calls and the rules of its chart must be the same set.
//! Runs last of the suite, by its name. On a cluster without that record it says so and judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_tests::kube::{OPERATOR, command, helm, operator_calls, top};
use serde_json::Value;

/// Group, resource with subresource, verb.
type Right = (String, String, String);

/// What may stand in the Role without a call in the suite: resource, verb, and when it is needed.
const RARELY: &[(&str, &str, &str)] = &[
    ("configmaps", "delete", "something optional is switched off"),
    ("leases", "create", "the chart makes it; without the chart the operator does"),
    ("networkpolicies", "delete", "the policy is switched off"),
    ("persistentvolumeclaims", "delete", "a member left, and its volume is not kept"),
    ("persistentvolumeclaims", "get", "a volume is looked at again before it is deleted"),
    ("persistentvolumeclaims", "patch", "volumes grow, where the storage class lets them"),
    ("poddisruptionbudgets", "delete", "the cluster has one node only"),
    ("podmonitors", "create", "the cluster has the PodMonitor kind"),
    ("podmonitors", "delete", "monitoring is switched off"),
    ("podmonitors", "list", "the cluster has the PodMonitor kind"),
    ("podmonitors", "patch", "the cluster has the PodMonitor kind"),
    ("pods", "delete", "an eviction cannot be had"),
];

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(word).collect()
}

/// The rights that the chart gives, from every Role and ClusterRole that it renders.
fn granted() -> BTreeSet<Right> {
    let chart = top().join("charts/kvasir-operator");
    let rendered = helm(&["template", OPERATOR, chart.to_str().expect("a path in UTF-8")]).out;
    let dry = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"];
    let said = command("kubectl", &dry, &rendered);
    assert!(said.ok, "{}", said.err);
    let objects = serde_json::Deserializer::from_str(&said.out).into_iter::<Value>();
    let objects: Vec<Value> = objects.map(|o| o.expect("JSON")).collect();
    let all = objects.iter().flat_map(|o| match o["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![o.clone()],
    });
    let mut rights = BTreeSet::new();
    for role in all.filter(|o| word(&o["kind"]).ends_with("Role")) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        rights.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    assert!(!rights.is_empty(), "the chart renders no Role");
    rights
}

/// The calls of the operator, and those that were forbidden.
fn used(record: &[Value]) -> (BTreeMap<Right, usize>, BTreeSet<Right>) {
    let (mut calls, mut forbidden) = (BTreeMap::new(), BTreeSet::new());
    for call in record {
        let object = &call["objectRef"];
        let mut resource = word(&object["resource"]);
        if let Some(sub) = object["subresource"].as_str() {
            resource = format!("{resource}/{sub}");
        }
        let right = (word(&object["apiGroup"]), resource, word(&call["verb"]));
        if call["responseStatus"]["code"] == 403 {
            forbidden.insert(right.clone());
        }
        if right.2 == "patch" {
            // Applying what is not there yet needs both, and is on record as a patch.
            calls.entry((right.0.clone(), right.1.clone(), "create".to_string())).or_insert(0);
        }
        *calls.entry(right).or_insert(0) += 1;
    }
    (calls, forbidden)
}

#[test]
#[ignore = "needs the other scenarios to have run: tests/run kube"]
fn the_operators_role_is_what_it_uses() {
    let Some(record) = operator_calls() else {
        println!("not judged: only the API server of tests/kube/up keeps a record of calls");
        return;
    };
    let granted = granted();
    let (calls, forbidden) = used(&record);
    for ((group, resource, verb), times) in &calls {
        println!("{times:>6}  {verb} {resource}.{group}");
    }
    assert!(!calls.is_empty(), "no call of the operator is on record");
    // What the Role gives is refused all the same while helm takes the Role away before the operator.
    let uncovered: Vec<&Right> = forbidden.difference(&granted).collect();
    assert!(uncovered.is_empty(), "calls that its Role does not cover: {uncovered:?}");
    let excused =
        |right: &&Right| RARELY.iter().any(|(name, verb, _)| *name == right.1 && *verb == right.2);
    let unused: Vec<&Right> =
        granted.iter().filter(|r| !calls.contains_key(*r)).filter(|r| !excused(r)).collect();
    assert!(unused.is_empty(), "rights that no call uses: {unused:?}");
}
