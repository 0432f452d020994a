//! What stands under a scenario: its namespace, volumes that nobody uses, workers that can be killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Said, command, kubectl, try_kubectl, until};

/// The top of the checkout.
///
/// # Panics
/// Never: the package stands one below.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands under the top").into()
}

/// Is this the cluster of `tests/kube/up`, whose workers can be killed? A kind cluster names its nodes otherwise.
pub fn local_ground() -> bool {
    try_kubectl(&["get", "node", "node-0"], "").ok
}

fn script(name: &str, arguments: &[&str]) {
    let path = top().join("tests/kube").join(name);
    let said = command(path.to_str().expect("a path in UTF-8"), arguments, "");
    assert!(said.ok, "tests/kube/{name} {}: {}{}", arguments.join(" "), said.out, said.err);
}

/// Cuts the power of a worker.
pub fn kill_worker(name: &str) {
    script("worker", &["kill", name]);
}

/// Boots a worker and waits until Kubernetes sees it.
pub fn start_worker(name: &str) {
    script("worker", &["start", name]);
    kubectl(&["wait", "--for=condition=Ready", &format!("node/{name}"), "--timeout=120s"]);
}

/// Empties volumes whose claims are gone, and offers them again.
pub fn fresh_volumes() {
    if local_ground() {
        script("fresh-volumes", &[]);
    }
}

/// One namespace, held to the `restricted` profile.
pub struct Scenario {
    /// Its name.
    pub namespace: String,
}

impl Scenario {
    /// An empty namespace of this name; one of an earlier run is removed first, with its volumes.
    pub fn new(namespace: &str) -> Self {
        kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s"]);
        fresh_volumes();
        let scenario = Self { namespace: namespace.to_string() };
        let enforce = "pod-security.kubernetes.io/enforce";
        scenario.apply_value(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {enforce: "restricted"}},
        }));
        scenario
    }

    /// kubectl in the namespace, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        kubectl(&[&["-n", &self.namespace], arguments].concat())
    }

    /// kubectl in the namespace, whatever it answers.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Said {
        try_kubectl(&[&["-n", &self.namespace], arguments].concat(), "")
    }

    /// `kubectl apply` of YAML or JSON, as the answer comes.
    pub fn try_apply(&self, manifest: &str) -> Said {
        try_kubectl(&["-n", &self.namespace, "apply", "--validate=strict", "-f", "-"], manifest)
    }

    /// `kubectl apply`, which must succeed.
    ///
    /// # Panics
    /// It does not.
    pub fn apply(&self, manifest: &str) {
        let said = self.try_apply(manifest);
        assert!(said.ok, "kubectl apply: {}{}\n{manifest}", said.out, said.err);
    }

    /// As [`Scenario::apply`], of one object.
    pub fn apply_value(&self, object: &Value) {
        self.apply(&object.to_string());
    }

    /// One object, or nothing.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let said = self.try_kubectl(&["get", kind, name, "-o", "json"]);
        said.ok.then(|| said.json())
    }

    /// All objects of a kind that a label selector picks; an empty selector picks all.
    pub fn list(&self, kind: &str, selector: &str) -> Vec<Value> {
        let said = self.kubectl(&["get", kind, "-l", selector, "-o", "json"]);
        said.json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a pod is ready.
    pub fn until_ready(&self, pod: &str, patience: Duration) {
        until(&format!("pod {pod} is ready"), patience, || {
            let pod = self.get("pod", pod).ok_or("there is no such pod")?;
            let ready = pod["status"]["conditions"].as_array().is_some_and(|conditions| {
                conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
            if ready { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }

    /// Runs the binary of a pod's container with other words.
    pub fn exec(&self, pod: &str, arguments: &[&str]) -> Said {
        self.try_kubectl(&[&["exec", pod, "--"], arguments].concat())
    }

    /// Removes the namespace and what is in it.
    pub fn remove(self) {
        kubectl(&["delete", "namespace", &self.namespace, "--timeout=180s"]);
        fresh_volumes();
    }
}
