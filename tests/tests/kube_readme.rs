//! The section "On Kubernetes" of the README keeps its word: its helm, kubectl and curl lines are run as they
//! stand, taken from the page itself, in the order in which they stand there.
//!
//! Left out are the first lines, `docker build` and `kind`: the cluster and the images are those at hand, and the
//! Dockerfiles are tried by `kube_images`. The two languages must show the same lines.

use std::net::TcpListener;
use std::time::Duration;

use kvasir_tests::kube::{Kvc, Said, Scenario, command, kubectl, top, try_kubectl, until};

/// Longest wait for a whole cluster to be well again.
const WELL: Duration = Duration::from_secs(240);

/// Code blocks and commands in the text of the section, of one language.
fn section(page: &str) -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(top().join(page)).expect("the README is there");
    let section = text.split("\n## ").find(|s| s.starts_with("On Kubernetes"));
    let section = section.unwrap_or_else(|| panic!("{page} has no section On Kubernetes"));
    let parts: Vec<&str> = section.split("```").collect();
    let blocks = parts.iter().skip(1).step_by(2);
    let blocks = blocks.map(|b| b.strip_prefix("sh\n").expect("a block of sh").to_string());
    let prose: Vec<&str> = parts.iter().step_by(2).copied().collect();
    let prose = prose.join("\n");
    let is_command = |code: &&str| code.starts_with("kubectl ") || code.starts_with("helm ");
    let commands = prose.split('`').skip(1).step_by(2).filter(is_command).map(str::to_string);
    (blocks.collect(), commands.collect())
}

/// A person's shell at the top of the checkout, whose current namespace is the scenario's.
struct Shell {
    config: tempfile::NamedTempFile,
}

impl Shell {
    fn new(scenario: &Scenario) -> Self {
        let config = tempfile::NamedTempFile::new().expect("a temporary file");
        let flat = kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
        std::fs::write(config.path(), flat.out).expect("a temporary file");
        let shell = Self { config };
        shell.run(&format!(
            "kubectl config set-context --current --namespace={}",
            scenario.namespace
        ));
        shell
    }

    /// Runs lines as a script. What it leaves in the background ends with it.
    fn run(&self, lines: &str) -> Said {
        let script = format!(
            "cd '{}'\nexport KUBECONFIG='{}'\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n{lines}",
            top().display(),
            self.config.path().display()
        );
        let said = command("timeout", &["280", "bash", "-euo", "pipefail", "-c", &script], "");
        assert!(said.ok, "{lines}\n{}{}", said.out, said.err);
        said
    }
}

/// The README begins on a cluster that never saw Kvasir. The definition that earlier releases left, by their
/// policy, goes only when nobody has a KVCluster.
fn definition_is_gone() {
    let said = try_kubectl(&["get", "kvc", "--all-namespaces", "-o", "name"], "");
    assert!(
        !said.ok || said.out.trim().is_empty(),
        "there are KVClusters, so the definition cannot be removed: {}. try: tests/kube/down, then tests/run kube",
        said.out
    );
    let name = "kvclusters.kvasir.dev";
    kubectl(&["delete", "crd", name, "--ignore-not-found", "--timeout=60s"]);
}

/// The page forwards this port; whatever answers there already would be taken for the cluster.
fn port_is_free() {
    let free = TcpListener::bind(("127.0.0.1", 8098));
    free.expect(
        "port 8098 is taken on this machine; the README forwards it: end what listens there",
    );
}

/// The sentences below the blocks: explained, scaled, uninstalled, and applied without Helm on the same volumes.
fn what_the_text_says(shell: &Shell, kvc: &Kvc<'_>, commands: &[String]) {
    let [explain, without_helm, scale, uninstall] = commands else {
        panic!("the section has other commands in its text than this test knows: {commands:?}")
    };
    assert!(shell.run(explain).out.contains("replication"));
    shell.run(scale);
    until("pods are added", WELL, || {
        let pods = kvc.pods().len();
        if pods > 3 { Ok(()) } else { Err(format!("{pods} pods")) }
    });
    kvc.scenario.kubectl(&["scale", "kvc/demo", "--replicas=3"]);
    until("they are gone again", WELL, || {
        let pods = kvc.pods().len();
        if pods == 3 { Ok(()) } else { Err(format!("{pods} pods")) }
    });
    kvc.wait_ready(WELL);
    shell.run(uninstall);
    until("the pods end", WELL, || {
        let pods = kvc.pods().len();
        if pods == 0 { Ok(()) } else { Err(format!("{pods} pods")) }
    });
    shell.run(without_helm);
    kvc.wait_ready(WELL);
}

#[test]
fn both_languages_show_the_same_lines() {
    let (blocks, commands) = section("README.md");
    assert_eq!((blocks.clone(), commands.clone()), section("README.ko.md"));
    assert_eq!((blocks.len(), commands.len()), (3, 4), "{blocks:?} {commands:?}");
    let left_out = |line: &str| line.starts_with("docker build ") || line.starts_with("kind ");
    assert!(blocks[0].lines().all(left_out), "only docker and kind are left out: {}", blocks[0]);
}

#[test]
#[ignore = "needs a Kubernetes: tests/run kube"]
fn the_lines_of_the_readme_make_a_cluster_that_keeps_its_data() {
    let scenario = Scenario::new("kvasir-readme");
    definition_is_gone();
    port_is_free();
    let (blocks, commands) = section("README.md");
    println!("not run, the cluster and the images are those at hand:\n{}", blocks[0]);
    let shell = Shell::new(&scenario);
    let installed = shell.run(&blocks[1]).out;
    let row = installed.lines().find(|l| l.starts_with("demo ")).unwrap_or_default();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row.get(..4), Some(&["demo", "3", "3", "True"][..]), "{installed}");
    assert!(shell.run(&blocks[2]).out.ends_with("milk"), "what was put is read");

    let kvc = Kvc { scenario: &scenario, name: "demo".to_string() };
    let cluster_id = kvc.object()["status"]["clusterID"].clone();
    what_the_text_says(&shell, &kvc, &commands);
    assert_eq!(kvc.object()["status"]["clusterID"], cluster_id, "the same name finds its data");
    let (forward, curl) = (blocks[2].lines().next(), blocks[2].lines().last());
    let (forward, curl) = (forward.expect("a line"), curl.expect("a line"));
    let wait = "until curl -sf -o /dev/null localhost:8098/v1/kv/default/cart; do sleep 1; done";
    assert_eq!(shell.run(&format!("{forward}\n{wait}\n{curl}")).out, "milk");

    scenario.kubectl(&["delete", "kvc", "demo", "--timeout=120s"]);
    shell.run("helm uninstall kvasir-operator --wait --timeout 120s");
    scenario.remove();
}
