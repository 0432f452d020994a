//! What is rendered, what is refused, and what counts as a difference.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::check::{Invalid, check};
use super::compare::{amount, differs};
use super::overlay::overlay;
use super::*;

fn cluster(spec: Value) -> KVCluster {
    let mut whole = json!({
        "nodes": 3, "clusterName": "demo", "image": "kvasir:1", "storage": {"size": "20Gi"},
    });
    overlay(&mut whole, &spec);
    serde_json::from_value(json!({
        "apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo", "namespace": "prod", "uid": "u-1"}, "spec": whole,
    }))
    .expect("the spec has the right types")
}

fn rendered(cluster: &KVCluster, live: &BTreeMap<ObjectName, Value>) -> Vec<Value> {
    let counts = racks::spread(&cluster.spec, &BTreeMap::new());
    let racks = racks::of(&cluster.spec).into_iter();
    let racks: Vec<(Rack, i32)> = racks.map(|rack| (rack.clone(), counts[&rack.name])).collect();
    let surroundings = Surroundings { operator_namespace: "ops".to_owned() };
    objects(Wanted { cluster, racks: &racks, live, surroundings: &surroundings })
}

fn one(cluster: &KVCluster, kind: &str) -> Value {
    let all = rendered(cluster, &BTreeMap::new());
    let mut of_kind = all.into_iter().filter(|object| object["kind"] == kind);
    of_kind.next().unwrap_or(Value::Null)
}

#[test]
fn every_object_is_owned_labelled_signed_and_of_a_known_kind() {
    let cluster = cluster(json!({"monitoring": {"podMonitor": true}}));
    let all = rendered(&cluster, &BTreeMap::new());
    let kinds: Vec<&str> = all.iter().filter_map(|object| object["kind"].as_str()).collect();
    let expected = [
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "StatefulSet",
        "PodMonitor",
    ];
    assert_eq!(kinds, expected);
    for object in &all {
        assert_eq!(object["metadata"]["namespace"], "prod");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(object["metadata"]["labels"][names::CLUSTER], "demo");
        assert_eq!(object["metadata"]["annotations"][names::RENDERED].as_str().unwrap().len(), 16);
        let kind = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        assert!(KINDS.contains(&kind), "{kind:?}");
        assert!(!differs(object, object));
    }
    assert_eq!(all, rendered(&cluster, &BTreeMap::new()));
}

#[test]
fn pods_keep_to_the_restricted_profile() {
    let set = one(&cluster(json!({})), "StatefulSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(pod["automountServiceAccountToken"], false);
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume.get("hostPath").is_none());
    }
}

#[test]
fn the_environment_is_what_check_refuses_in_config() {
    let set = one(&cluster(json!({})), "StatefulSet");
    let env = &set["spec"]["template"]["spec"]["containers"][0]["env"];
    for variable in env.as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let Some(setting) = name.strip_prefix("KVASIR_") else { continue };
        let (section, key) = setting.split_once("__").unwrap();
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let config = json!({"config": {section.as_str(): {key.as_str(): "x"}}});
        let reserved = Invalid::ReservedSetting(format!("{section}.{key}"));
        assert_eq!(check(&cluster(config).spec), [reserved]);
    }
    let find = |name: &str| {
        let found = env.as_array().unwrap().iter().find(|v| v["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not set"))["value"].clone()
    };
    assert_eq!(find("KVASIR_NODE__ADVERTISE"), "$(POD_NAME).demo-peers.prod.svc");
    assert_eq!(find("KVASIR_NODE__DRAIN_DELAY"), "5s");
    assert_eq!(find("KVASIR_NODE__GRACE"), "51s");
    let address = peer_address(&cluster(json!({})), "demo-default-0");
    assert_eq!(address, "demo-default-0.demo-peers.prod.svc:8099");
}

#[test]
fn racks_become_stateful_sets_in_their_zones() {
    let racks =
        json!([{"name": "a", "zone": "z1"}, {"name": "b", "nodeSelector": {"disk": "ssd"}}]);
    let cluster = cluster(json!({"topology": {"racks": racks}}));
    let sets: Vec<Value> = rendered(&cluster, &BTreeMap::new())
        .into_iter()
        .filter(|object| object["kind"] == "StatefulSet")
        .collect();
    assert_eq!(sets.len(), 2);
    assert_eq!(
        (&sets[0]["metadata"]["name"], &sets[0]["spec"]["replicas"]),
        (&json!("demo-a"), &json!(2))
    );
    assert_eq!(
        (&sets[1]["metadata"]["name"], &sets[1]["spec"]["replicas"]),
        (&json!("demo-b"), &json!(1))
    );
    let selector = |set: &Value| set["spec"]["template"]["spec"]["nodeSelector"].clone();
    assert_eq!(selector(&sets[0]), json!({"topology.kubernetes.io/zone": "z1"}));
    assert_eq!(selector(&sets[1]), json!({"disk": "ssd"}));
}

#[test]
fn where_workers_are_shared_nodes_of_one_data_center_keep_apart_first() {
    let racks = json!([
        {"name": "a", "datacenter": "east"}, {"name": "b", "datacenter": "west"},
    ]);
    let factors = json!([
        {"datacenter": "east", "factor": 3}, {"datacenter": "west", "factor": 3},
    ]);
    let shared = cluster(json!({
        "nodes": 6, "replication": {"factors": factors},
        "topology": {"racks": racks, "allowMultipleNodesPerWorker": true},
    }));
    let set = one(&shared, "StatefulSet");
    let pod = &set["spec"]["template"];
    let rule = &pod["spec"]["affinity"]["podAntiAffinity"];
    let terms = &rule["preferredDuringSchedulingIgnoredDuringExecution"];
    let near = &terms[0]["podAffinityTerm"]["labelSelector"]["matchLabels"];
    assert_eq!(near[names::DATACENTER], pod["metadata"]["labels"][names::DATACENTER]);
    assert_eq!(near[names::DATACENTER], "east");
    let all = &terms[1]["podAffinityTerm"]["labelSelector"]["matchLabels"];
    assert_eq!(*all, json!(names::selector(&shared)));
    assert!(terms[0]["weight"].as_i64() > terms[1]["weight"].as_i64(), "{terms}");
    let alone = one(&cluster(json!({})), "StatefulSet");
    let rule = &alone["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"];
    assert!(rule["requiredDuringSchedulingIgnoredDuringExecution"].is_array(), "{rule}");
}

#[test]
fn nodes_are_spread_evenly_and_none_moves_without_need() {
    let racks = json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]);
    let spec = |nodes: i32| cluster(json!({"nodes": nodes, "topology": {"racks": racks}})).spec;
    let counts = |spread: &BTreeMap<String, i32>| spread.values().copied().collect::<Vec<i32>>();
    let mut now = racks::spread(&spec(3), &BTreeMap::new());
    assert_eq!(counts(&now), [1, 1, 1]);
    for (nodes, expected) in [(4, [2, 1, 1]), (5, [2, 2, 1]), (8, [3, 3, 2]), (7, [3, 2, 2])] {
        now = racks::spread(&spec(nodes), &now);
        assert_eq!(counts(&now), expected);
    }
    let uneven = BTreeMap::from([("b".to_owned(), 3), ("c".to_owned(), 4)]);
    assert_eq!(counts(&racks::spread(&spec(6), &uneven)), [2, 2, 2]);
    assert_eq!(counts(&racks::spread(&spec(7), &uneven)), [2, 2, 3]);
    assert_eq!(counts(&racks::spread(&spec(8), &uneven)), [2, 3, 3]);
}

#[test]
fn a_data_center_gets_the_nodes_that_its_copies_need_before_others_get_more() {
    let factors = json!([{"datacenter": "x", "factor": 3}, {"datacenter": "y", "factor": 4}]);
    let racks = json!([{"name": "a", "datacenter": "x"}, {"name": "b", "datacenter": "y"}]);
    let spec = cluster(json!({
        "nodes": 7, "replication": {"factors": factors}, "topology": {"racks": racks},
    }));
    let has = BTreeMap::from([("a".to_owned(), 5)]);
    let spread = racks::spread(&spec.spec, &has);
    assert_eq!(spread, BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 4)]));
    assert_eq!(check(&spec.spec), []);
}

#[test]
fn a_rack_is_known_from_its_stateful_set() {
    let racks = json!([
        {"name": "a", "zone": "z1", "datacenter": "dc1", "nodeSelector": {"disk": "ssd"}},
        {"name": "b"},
    ]);
    let cluster = cluster(json!({"topology": {"racks": racks}}));
    let sets = rendered(&cluster, &BTreeMap::new()).into_iter();
    let sets = sets.filter(|object| object["kind"] == "StatefulSet");
    let known: Vec<Rack> = sets.filter_map(|set| racks::rendered(&set)).collect();
    assert_eq!(known, cluster.spec.topology.racks);
}

#[test]
fn only_what_a_person_asked_for_changes_the_inputs() {
    let of = |spec: Value| {
        let cluster = cluster(spec);
        inputs(&cluster.spec, &racks::of(&cluster.spec)[0])
    };
    let base = of(json!({}));
    for change in [
        json!({"image": "kvasir:2"}),
        json!({"config": {"gossip": {"fanout": 3}}}),
        json!({"resources": {"limits": {"memory": "2Gi"}}}),
        json!({"podTemplate": {"metadata": {"annotations": {"x": "y"}}}}),
        json!({"terminationGracePeriodSeconds": 90}),
    ] {
        assert_ne!(of(change.clone()), base, "{change}");
    }
    for change in [
        json!({"nodes": 5}),
        json!({"paused": true}),
        json!({"storage": {"size": "30Gi"}}),
        json!({"monitoring": {"podMonitor": true}}),
    ] {
        assert_eq!(of(change.clone()), base, "{change}");
    }
}

#[test]
fn the_configuration_is_named_by_its_contents() {
    let plain = cluster(json!({}));
    let other = cluster(json!({"config": {"gossip": {"fanout": 3}}}));
    assert_ne!(config_map_name(&plain), config_map_name(&other));
    let map = one(&other, "ConfigMap");
    assert_eq!(map["data"][config::FILE], "gossip:\n  fanout: 3\n");
    assert_eq!(one(&plain, "ConfigMap")["data"][config::FILE], "{}\n");
    let set = one(&other, "StatefulSet");
    let volumes = &set["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["name"], map["metadata"]["name"]);
}

#[test]
fn a_stateful_set_keeps_the_claim_template_it_was_made_with() {
    let small = one(&cluster(json!({})), "StatefulSet");
    let live = BTreeMap::from([(ObjectName::of(&small), small.clone())]);
    let grown = rendered(&cluster(json!({"storage": {"size": "40Gi"}})), &live);
    let grown = grown.iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    let size = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";
    assert_eq!(grown.pointer(size), Some(&json!("20Gi")));
}

#[test]
fn objects_that_are_not_wanted_are_not_rendered() {
    let single = json!({
        "nodes": 1, "networkPolicy": {"enabled": false},
        "replication": {"factors": [{"datacenter": "dc1", "factor": 1}]},
    });
    let cluster = cluster(single);
    for kind in ["NetworkPolicy", "PodDisruptionBudget", "PodMonitor"] {
        assert_eq!(one(&cluster, kind), Value::Null, "{kind}");
    }
}

#[test]
fn the_policy_covers_every_port_of_the_pods() {
    let cluster = cluster(json!({}));
    let set = one(&cluster, "StatefulSet");
    let policy = one(&cluster, "NetworkPolicy");
    let mut ports: Vec<&Value> = policy["spec"]["ingress"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["ports"].as_array().unwrap())
        .map(|port| &port["port"])
        .collect();
    let pod = &set["spec"]["template"]["spec"]["containers"][0]["ports"];
    for port in pod.as_array().unwrap() {
        let at = ports.iter().position(|there| **there == port["containerPort"]).unwrap();
        ports.remove(at);
    }
    assert!(ports.is_empty(), "{ports:?}");
}

#[test]
fn a_pod_template_is_laid_over_by_name() {
    let over = json!({
        "metadata": {"labels": {"team": "x"}},
        "spec": {
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "containers": [
                {"name": "kvasir", "env": [{"name": "TZ", "value": "UTC"}]},
                {"name": "side", "image": "side:1"},
            ],
        },
    });
    let cluster = cluster(json!({"podTemplate": over}));
    assert_eq!(check(&cluster.spec), []);
    let template = &one(&cluster, "StatefulSet")["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["team"], "x");
    assert_eq!(template["metadata"]["labels"][names::CLUSTER], "demo");
    assert_eq!(template["spec"]["tolerations"][0]["key"], "k");
    let containers = template["spec"]["containers"].as_array().unwrap();
    assert_eq!(
        (&containers[0]["image"], &containers[1]["image"]),
        (&json!("kvasir:1"), &json!("side:1"))
    );
    let env = containers[0]["env"].as_array().unwrap();
    assert!(env.iter().any(|v| v["name"] == "TZ") && env.iter().any(|v| v["name"] == "POD_NAME"));
}

#[test]
fn what_the_operator_needs_cannot_be_replaced() {
    for (template, part) in [
        (json!({"status": {}}), "status"),
        (json!({"metadata": {"name": "x"}}), "metadata.name"),
        (
            json!({"metadata": {"labels": {"kvasir.dev/rack": "x"}}}),
            "metadata.labels[kvasir.dev/rack]",
        ),
        (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
        (json!({"spec": {"volumes": [{"name": "data"}]}}), "spec.volumes[data]"),
        (
            json!({"spec": {"containers": [{"name": "kvasir", "image": "x"}]}}),
            "spec.containers[kvasir].image",
        ),
        (
            json!({"spec": {"containers": [{"name": "kvasir", "env": [{"name": "KVASIR_NODE__RACK"}]}]}}),
            "spec.containers[kvasir].env[KVASIR_NODE__RACK]",
        ),
    ] {
        let found = check(&cluster(json!({"podTemplate": template.clone()})).spec);
        assert_eq!(found.len(), 1, "{template}");
        assert!(
            found[0].to_string().starts_with(&format!("spec.podTemplate.{part} ")),
            "{found:?}"
        );
    }
}

#[test]
fn a_data_center_needs_as_many_nodes_as_copies() {
    let spec = cluster(json!({
        "nodes": 4,
        "replication": {"factors": [{"datacenter": "a", "factor": 3}, {"datacenter": "b", "factor": 1}]},
        "topology": {"racks": [{"name": "a", "datacenter": "a"}, {"name": "b", "datacenter": "b"}]},
    }));
    let found = check(&spec.spec);
    let short = Invalid::TooFewNodes { datacenter: "a".to_owned(), nodes: 2, factor: 3 };
    assert_eq!(found, [short]);
}

/// What the API server makes of an object: defaults in it, another manager's fields, amounts in
/// their canonical form, empty values dropped.
fn as_stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = json!("x");
    object["metadata"]["annotations"]["other.dev/a"] = json!("b");
    object["status"] = json!({"replicas": 3});
    let pod = &mut object["spec"]["template"]["spec"];
    pod["dnsPolicy"] = json!("ClusterFirst");
    pod.as_object_mut().unwrap().remove("imagePullSecrets");
    let container = &mut pod["containers"][0];
    container["terminationMessagePath"] = json!("/dev/termination-log");
    container["readinessProbe"]["successThreshold"] = json!(1);
    container["resources"]["limits"]["memory"] = json!("1024Mi");
    for variable in container["env"].as_array_mut().unwrap() {
        if variable["value"] == "" {
            variable.as_object_mut().unwrap().remove("value");
        }
    }
    object
}

#[test]
fn defaults_of_the_server_are_no_difference_and_edits_are() {
    let set = one(&cluster(json!({})), "StatefulSet");
    let live = as_stored(set.clone());
    assert!(!differs(&live, &set));
    let edits: [(&str, Value); 5] = [
        ("/spec/replicas", json!(4)),
        ("/spec/template/spec/containers/0/image", json!("other")),
        ("/spec/template/spec/containers/0/env/2/value", json!("elsewhere")),
        ("/spec/updateStrategy/type", json!("RollingUpdate")),
        ("/metadata/labels/kvasir.dev~1cluster", json!("x")),
    ];
    for (place, value) in edits {
        let mut edited = live.clone();
        *edited.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        assert!(differs(&edited, &set), "{place}");
    }
    let mut removed = live.clone();
    removed["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap().pop();
    assert!(differs(&removed, &set));
    let mut older = live;
    older["metadata"]["annotations"][names::RENDERED] = json!("0123456789abcdef");
    assert!(differs(&older, &set));
}

#[test]
fn amounts_compare_by_value() {
    assert_eq!(amount("1Gi"), amount("1024Mi"));
    assert_eq!(amount("0.5"), amount("500m"));
    assert_eq!(amount("1.5Gi"), amount("1536Mi"));
    assert_eq!(amount("1k"), amount("1000"));
    assert!(amount("2Gi") > amount("2G"));
    assert_eq!(amount("soon"), None);
    assert_eq!(amount(""), None);
}
