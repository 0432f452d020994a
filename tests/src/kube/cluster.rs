//! The operator by its chart, and one `KVCluster` as a person sees it: apply, conditions, pods.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Said, helm, until};
use super::ground::{Scenario, top};

/// Name of the release and of the Deployment that it makes.
pub const OPERATOR: &str = "kvasir-operator";

/// Installs or upgrades the operator in the scenario's namespace, with the image under test.
pub fn install_operator(scenario: &Scenario, arguments: &[&str]) {
    let chart = top().join("charts/kvasir-operator");
    let chart = chart.to_str().expect("a path in UTF-8");
    let image = [
        "--set",
        "image.repository=localhost/kvasir-operator",
        "--set",
        "image.tag=dev",
        "--set",
        "image.pullPolicy=IfNotPresent",
    ];
    // The definitions of an earlier scenario's release are still there, by their policy.
    let words = ["upgrade", "--install", "--take-ownership", OPERATOR, chart];
    let words = [&words[..], &["-n", &scenario.namespace]].concat();
    helm(&[&words[..], &image, arguments, &["--wait", "--timeout", "120s"]].concat());
}

/// Removes the operator; the definitions of its resources stay, by their policy.
pub fn uninstall_operator(scenario: &Scenario) {
    helm(&["uninstall", OPERATOR, "-n", &scenario.namespace, "--wait", "--timeout", "120s"]);
}

/// One `KVCluster` of a scenario.
pub struct Kvc<'a> {
    /// Where it is.
    pub scenario: &'a Scenario,
    /// Its name.
    pub name: String,
}

impl<'a> Kvc<'a> {
    /// The least that is asked for here: three small nodes.
    pub fn manifest(name: &str) -> Value {
        json!({
            "apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster", "metadata": {"name": name},
            "spec": {
                "nodes": 3, "clusterName": name, "image": "localhost/kvasir:dev",
                "storage": {"size": "1Gi"},
                "resources": {
                    "requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"},
                },
                "updateStrategy": {"minReadySeconds": 2},
                "terminationGracePeriodSeconds": 15,
            },
        })
    }

    /// Applies a manifest.
    pub fn apply(scenario: &'a Scenario, manifest: &Value) -> Self {
        scenario.apply_value(manifest);
        let name = manifest["metadata"]["name"].as_str().expect("a name").to_string();
        Self { scenario, name }
    }

    /// The object as it is.
    ///
    /// # Panics
    /// It is not there.
    pub fn object(&self) -> Value {
        self.scenario.get("kvc", &self.name).expect("the KVCluster is there")
    }

    /// Changes the spec by a merge patch.
    pub fn patch(&self, spec: &Value) -> Said {
        let patch = json!({"spec": spec}).to_string();
        self.scenario.try_kubectl(&["patch", "kvc", &self.name, "--type=merge", "-p", &patch])
    }

    /// As [`Kvc::patch`], which must be taken.
    ///
    /// # Panics
    /// It is not.
    pub fn change(&self, spec: &Value) {
        let said = self.patch(spec);
        assert!(said.ok, "{spec}: {}", said.err);
    }

    /// One condition: status, reason and message.
    pub fn condition(&self, kind: &str) -> Option<Value> {
        let object = self.object();
        object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind).cloned()
    }

    /// Waits for a condition that was computed from the newest spec.
    pub fn until_condition(&self, kind: &str, status: &str, patience: Duration) -> Value {
        until(&format!("{kind}={status} of {}", self.name), patience, || {
            let object = self.object();
            let current = &object["metadata"]["generation"];
            let conditions = object["status"]["conditions"].as_array().cloned();
            conditions
                .unwrap_or_default()
                .into_iter()
                .find(|c| {
                    c["type"] == kind
                        && c["status"] == status
                        && c["observedGeneration"] == *current
                })
                .ok_or_else(|| format!("generation {current}, status {}", object["status"]))
        })
    }

    /// Waits as a person does: `kubectl wait`. What it then shows must be of the newest generation.
    ///
    /// # Panics
    /// It does not become ready, or says so of an older spec.
    pub fn wait_ready(&self, patience: Duration) {
        let timeout = format!("--timeout={}s", patience.as_secs());
        let target = format!("kvc/{}", self.name);
        let said = self.scenario.try_kubectl(&["wait", "--for=condition=Ready", &target, &timeout]);
        let object = self.object();
        assert!(said.ok, "{}: {}", said.err, object["status"]);
        let generation = &object["metadata"]["generation"];
        assert_eq!(&object["status"]["observedGeneration"], generation, "Ready of an older spec");
    }

    /// Its pods by name.
    pub fn pods(&self) -> BTreeMap<String, Value> {
        let pods = self.scenario.list("pod", &format!("kvasir.dev/cluster={}", self.name));
        pods.into_iter()
            .map(|p| (p["metadata"]["name"].as_str().unwrap_or_default().to_string(), p))
            .collect()
    }

    /// Names and UIDs of its pods: what must not change when nothing is restarted.
    pub fn identities(&self) -> BTreeMap<String, String> {
        let uid = |p: &Value| p["metadata"]["uid"].as_str().unwrap_or_default().to_string();
        self.pods().iter().map(|(name, pod)| (name.clone(), uid(pod))).collect()
    }

    /// Pods that are not ready or are about to go.
    pub fn out_of_service(&self) -> Vec<String> {
        let gone = |pod: &Value| {
            let ready = pod["status"]["conditions"].as_array().is_some_and(|conditions| {
                conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
            !ready || pod["metadata"].get("deletionTimestamp").is_some()
        };
        self.pods().iter().filter(|(_, p)| gone(p)).map(|(name, _)| name.clone()).collect()
    }

    /// Looks at the pods for a while: none may be another than in `before`.
    ///
    /// # Panics
    /// One is.
    pub fn stays(&self, before: &BTreeMap<String, String>, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            assert_eq!(&self.identities(), before, "a pod was replaced");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}
