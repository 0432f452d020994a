//! helm lints, renders and refuses; promtool reads the rules and fires them on made-up series.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::{charts, text};

/// Runs a program to its end.
fn call(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(charts()).output().unwrap_or_else(|error| {
        panic!("{program}: {error}. `tests/run charts` provides it and runs this test")
    })
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The objects of a chart with these settings.
fn render(chart: &str, sets: &[&str]) -> Vec<Value> {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let arguments = [&["template", "demo", chart, "--namespace", "ns"], &sets[..]].concat();
    let output = call("helm", &arguments);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let documents = text.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let objects = documents.filter(|document| document.lines().any(|l| l.starts_with("kind:")));
    objects.map(|object| serde_yaml::from_str(object).expect("YAML")).collect()
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Settings that the schema must refuse, with a word of the message.
fn refused(chart: &str, set: &str, word: &str) {
    let output = call("helm", &["template", "demo", chart, "--set", set]);
    assert!(!output.status.success(), "{chart} takes {set}");
    assert!(said(&output).contains(word), "{set}: {}", said(&output));
}

#[test]
#[ignore = "needs helm and promtool; tests/run charts has them"]
fn helm_and_promtool_take_the_charts() {
    for chart in ["kvasir-operator", "kvasir-cluster"] {
        let lint = call("helm", &["lint", "--strict", chart]);
        assert!(lint.status.success(), "{}", said(&lint));
    }
    the_operator();
    the_cluster();
    what_the_schemas_refuse();
    the_alerts();
}

fn the_operator() {
    let objects = render("kvasir-operator", &[]);
    let crd = kind(&objects, "CustomResourceDefinition")[0];
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let written: Value =
        serde_yaml::from_str(&text(&charts().join("../crds/kvclusters.kvasir.dev.yaml")))
            .expect("YAML");
    assert_eq!(crd["spec"], written["spec"], "the definition is rendered as it was written");
    assert_eq!(kind(&objects, "ClusterRole").len(), 0, "one namespace needs no cluster-wide right");
    assert_eq!(kind(&objects, "Role").len(), 1);
    restricted(&kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]);
    for object in objects.iter().filter(|object| object["kind"] != "CustomResourceDefinition") {
        assert_eq!(object["metadata"]["namespace"], "ns", "{object}");
    }
    assert_eq!(given(&kind(&objects, "Role")[0]["rules"]), needed(), "left: chart, right: page");
    let wide = render("kvasir-operator", &["allNamespaces=true"]);
    let both = [&kind(&wide, "Role")[0]["rules"], &kind(&wide, "ClusterRole")[0]["rules"]];
    let both: Rights = both.iter().flat_map(|rules| given(rules)).collect();
    assert_eq!(both, needed(), "the same rights, in every namespace");
    assert_eq!((kind(&wide, "ClusterRole").len(), kind(&wide, "ClusterRoleBinding").len()), (1, 1));
    let lease = &kind(&wide, "Role")[0]["rules"];
    assert_eq!(lease.as_array().map(Vec::len), Some(1), "beside it only the lease: {lease}");
    let arguments =
        &kind(&wide, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(arguments.to_string().contains("--all-namespaces"), "{arguments}");
    let without = render("kvasir-operator", &["crds.install=false"]);
    assert_eq!(kind(&without, "CustomResourceDefinition").len(), 0);
    let gone = render("kvasir-operator", &["crds.keep=false"]);
    let crd = kind(&gone, "CustomResourceDefinition")[0];
    assert!(crd["metadata"]["annotations"].is_null(), "{}", crd["metadata"]);
    let bare = ["rbac.create=false", "serviceAccount.create=false", "serviceAccount.name=mine"];
    let bare = render("kvasir-operator", &bare);
    assert_eq!(kind(&bare, "Role").len() + kind(&bare, "ServiceAccount").len(), 0);
    let account = &kind(&bare, "Deployment")[0]["spec"]["template"]["spec"]["serviceAccountName"];
    assert_eq!(account, "mine");
    let monitored = render("kvasir-operator", &["monitoring.podMonitor=true"]);
    assert_eq!(kind(&monitored, "PodMonitor").len(), 1);
}

/// (group, resource) -> verbs.
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

/// The rights that a rendered role gives.
fn given(rules: &Value) -> Rights {
    let words = |list: &Value| {
        let list = list.as_array().expect("a list").iter();
        list.map(|word| word.as_str().expect("a word").to_string()).collect::<Vec<_>>()
    };
    let mut rights = Rights::new();
    for rule in rules.as_array().expect("rules") {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                let verbs = words(&rule["verbs"]).into_iter().collect();
                let twice = rights.insert((group.clone(), resource.clone()), verbs);
                assert!(twice.is_none(), "{group}/{resource} stands in two rules");
            }
        }
    }
    rights
}

/// The rights that the operator needs, from the table of its own page.
fn needed() -> Rights {
    let page = text(&charts().join("../operator/ARCHITECTURE.md"));
    let table =
        page.split("| group | resource | verbs | for |").nth(1).expect("the table of rights");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut rights = Rights::new();
    for row in rows {
        let cells: Vec<String> = row.split('|').map(|cell| cell.replace('`', "")).collect();
        let group = cells[1].trim().to_string();
        let verbs: BTreeSet<String> = cells[3].split(',').map(|v| v.trim().to_string()).collect();
        for resource in cells[2].split(',') {
            rights.insert((group.clone(), resource.trim().to_string()), verbs.clone());
        }
    }
    assert!(rights.len() > 10, "the table of rights was not read: {rights:?}");
    rights
}

/// What the `restricted` profile of Kubernetes asks of a pod, and a root file system that is read-only.
fn restricted(pod: &Value) {
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().expect("containers") {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    }
}

fn the_cluster() {
    let objects = render("kvasir-cluster", &[]);
    assert_eq!(objects.len(), 1, "switches are off by default");
    let cluster = kind(&objects, "KVCluster")[0];
    assert_eq!(cluster["metadata"]["name"], "demo");
    let spec = serde_json::json!({
        "clusterName": "demo", "image": "localhost/kvasir:dev", "nodes": 3, "storage": {"size": "20Gi"}
    });
    assert_eq!(cluster["spec"], spec, "only what is needed: the API server has the defaults");
    let named =
        ["name=other", "spec.clusterName=prod", "spec.image=k:1", "spec.paused=true", "keep=true"];
    let named = render("kvasir-cluster", &named);
    let cluster = kind(&named, "KVCluster")[0];
    assert_eq!(cluster["metadata"]["name"], "other");
    assert_eq!(cluster["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(
        (&cluster["spec"]["clusterName"], &cluster["spec"]["image"]),
        (&"prod".into(), &"k:1".into())
    );
    // A whole number stays one: the node would refuse 3.3554432e+07.
    let output = call(
        "helm",
        &[
            "template",
            "demo",
            "kvasir-cluster",
            "--set",
            "spec.config.storage.memtable_bytes=33554432",
        ],
    );
    assert!(said(&output).contains("memtable_bytes: 33554432\n"), "{}", said(&output));
    let dashboard = render("kvasir-cluster", &["dashboard.enabled=true"]);
    let map = kind(&dashboard, "ConfigMap")[0];
    let json = map["data"]["kvasir.json"].as_str().expect("a dashboard");
    let dashboard: Value = serde_json::from_str(json).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 15));
}

fn what_the_schemas_refuse() {
    let cluster = |set: &str, word: &str| refused("kvasir-cluster", set, word);
    cluster("spec.nodse=3", "nodse");
    cluster("spec.nodes=0", "nodes");
    cluster("spec.nodes=2147483648", "nodes");
    cluster("spec.nodes=three", "nodes");
    cluster("spec.storage.sise=1Gi", "sise");
    cluster("spec.paused=maybe", "paused");
    cluster("spec.replication.readQuorum=0", "readQuorum");
    cluster("spec.updateStrategy.type=Sometimes", "updateStrategy");
    cluster("prometheusRule=true", "prometheusRule");
    cluster("name=Upper", "name");
    cluster("surprise=1", "surprise");
    refused("kvasir-cluster", "name=a23456789-123456789-123456789-123456789-1", "40");
    let operator = |set: &str, word: &str| refused("kvasir-operator", set, word);
    operator("image.tga=1", "tga");
    operator("replicas=-1", "replicas");
    operator("allNamespaces=sometimes", "allNamespaces");
    operator("monitoring.interval=often", "interval");
    operator("serviceAccount.create=false", "serviceAccount.name");
}

fn the_alerts() {
    let objects = render("kvasir-cluster", &["prometheusRule.enabled=true"]);
    let rule = kind(&objects, "PrometheusRule")[0];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, rule["spec"].to_string()).expect("written");
    promtool(&["check", "rules"], &file);
    let tests = folder.path().join("test.yaml");
    std::fs::write(&tests, include_str!("alerts.yaml")).expect("written");
    promtool(&["test", "rules"], &tests);
}

fn promtool(words: &[&str], file: &Path) {
    let output = call("promtool", &[words, &[file.to_str().expect("UTF-8")]].concat());
    assert!(output.status.success(), "{}", said(&output));
}
