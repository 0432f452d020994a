//! The load generator in a pod of its own, told what to do by `kubectl exec`.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::until;
use super::ground::Scenario;

/// A running load pod.
pub struct LoadPod<'a> {
    scenario: &'a Scenario,
    name: String,
}

impl<'a> LoadPod<'a> {
    /// Starts load on `server` and waits until every key was written once and `run` has begun.
    pub fn start(scenario: &'a Scenario, server: &str, keys: u32, arguments: &[&str]) -> Self {
        let name = "load".to_string();
        let keys = keys.to_string();
        let words = [&["run", "--server", server, "--keys", &keys], arguments].concat();
        scenario.apply_value(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "kvasir-load", "kvasir.dev/client": "true"}},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0,
                // A killed worker is part of the test; the one that judges it is not.
                "tolerations": [{"operator": "Exists"}],
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "load", "image": "localhost/kvasir-load:dev", "imagePullPolicy": "IfNotPresent",
                    "args": words,
                    "volumeMounts": [{"name": "control", "mountPath": "/tmp"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
                "volumes": [{"name": "control", "emptyDir": {"medium": "Memory"}}],
            },
        }));
        let pod = Self { scenario, name };
        pod.scenario.until_ready(&pod.name, Duration::from_secs(90));
        until("every key is written once", Duration::from_secs(240), || {
            let progress = pod.progress()?;
            if progress["state"] == "filling" { Err(progress.to_string()) } else { Ok(()) }
        });
        pod
    }

    /// The worker that it runs on: not the one to kill.
    pub fn worker(&self) -> String {
        let pod = self.scenario.get("pod", &self.name).expect("the load pod is there");
        pod["spec"]["nodeName"].as_str().unwrap_or_default().to_string()
    }

    fn progress(&self) -> Result<Value, String> {
        let said = self.scenario.exec(&self.name, &["/kvasir-load", "progress"]);
        if said.ok { Ok(said.json()) } else { Err(format!("{}{}", said.out, said.err)) }
    }

    /// Waits until `more` operations ended after this call: the load really goes on.
    pub fn goes_on(&self, more: u64) {
        let ended = |progress: &Value| progress["operations"].as_u64().unwrap_or(0);
        let mut goal = None;
        until("the load goes on", Duration::from_secs(120), || {
            let progress = self.progress()?;
            let goal = *goal.get_or_insert(ended(&progress) + more);
            if ended(&progress) >= goal { Ok(()) } else { Err(format!("{progress}, goal {goal}")) }
        });
    }

    /// Operations so far that did not succeed.
    ///
    /// # Panics
    /// The load does not answer.
    pub fn failed(&self) -> u64 {
        let progress = self.progress().unwrap_or_else(|error| panic!("the load: {error}"));
        progress["failed"].as_u64().unwrap_or_else(|| panic!("no count: {progress}"))
    }

    /// Ends the load, reads all keys, and holds the whole history against the rules.
    ///
    /// # Panics
    /// A rule is broken; the panic holds the report.
    pub fn judge(&self) -> Value {
        let said = self.scenario.exec(&self.name, &["/kvasir-load", "judge", "--patience", "280"]);
        assert!(said.ok, "the history is not good: {}{}", said.out, said.err);
        println!("history: {}", said.out.trim());
        said.json()
    }
}
