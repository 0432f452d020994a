//! Stories of one cluster, from its creation to its end.

use std::time::Duration;

use kvasir_core::admin_api::OperationKind;
use kvasir_operator::controller;
use serde_json::json;

use crate::api::Fault;
use crate::api::failure::Failure;
use crate::operator::{Bench, NAME, NS};

fn held(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_cluster_is_created_formed_and_then_left_alone() {
    let bench = Bench::formed(|_| {}).await;
    assert_eq!(bench.world.ready_pods("default").len(), 3);
    assert_eq!(bench.world.nodes().formed, 1);
    let cluster = bench.object("kvclusters", NAME).unwrap();
    assert_eq!(cluster["status"]["readyNodes"], 3);
    assert_eq!(cluster["status"]["phase"], "Running");
    assert!(cluster["status"]["clusterID"].is_string());
    assert_eq!(bench.condition("Initialized"), held("True", "Formed"));
    let mut life = bench.life(None);
    bench.rest(&mut life).await;
    assert_eq!(life.process.writes(), 0, "nothing changed, so nothing is written");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn volumes_of_nodes_that_left_go_where_the_spec_says_so() {
    let retention = json!({"whenScaled": "Delete"});
    let bench = Bench::formed(|spec| spec["storage"]["retention"] = retention).await;
    bench.edit(|spec| spec["nodes"] = json!(4));
    bench.rest(&mut bench.life(None)).await;
    bench.edit(|spec| spec["nodes"] = json!(3));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.names("persistentvolumeclaims").len(), 3);
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_does_not_exist_costs_one_pod_and_mending_it_recovers() {
    let bench = Bench::formed(|_| {}).await;
    bench.world.holds().missing_images.insert("kvasir:none".to_owned());
    bench.edit(|spec| spec["image"] = json!("kvasir:none"));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.world.ready_pods("default").len(), 2);
    assert_eq!(bench.condition("Ready").0, "False");
    assert_eq!(bench.condition("Available").0, "True");
    bench.edit(|spec| spec["image"] = json!("kvasir:1.0.1"));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.world.ready_pods("default").len(), 3);
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.object("kvclusters", NAME).unwrap()["status"]["version"], "1.0.1");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_never_existed_is_mended_before_the_cluster_is_formed() {
    let bench = Bench::new();
    bench.world.holds().missing_images.insert("kvasir:none".to_owned());
    bench.create(|spec| spec["image"] = json!("kvasir:none"));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.condition("Initialized").0, "False");
    bench.edit(|spec| spec["image"] = json!("kvasir:1.0.0"));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_paused_cluster_is_watched_and_not_touched() {
    let bench = Bench::formed(|_| {}).await;
    bench.edit(|spec| {
        spec["paused"] = json!(true);
        spec["image"] = json!("kvasir:2.0.0");
        spec["nodes"] = json!(5);
    });
    bench.delete("services", NAME);
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.object("services", NAME), None);
    assert_eq!(bench.condition("Paused").0, "True");
    assert_eq!(bench.condition("Ready").0, "False");
    bench.edit(|spec| spec["paused"] = json!(false));
    bench.rest(&mut bench.life(None)).await;
    assert!(bench.object("services", NAME).is_some());
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_deleted_or_edited_by_hand_is_restored_and_no_pod_restarts() {
    let bench = Bench::formed(|_| {}).await;
    let uids = || -> Vec<String> {
        let pods = bench.names("pods");
        let uid =
            |name: &String| bench.object("pods", name).unwrap()["metadata"]["uid"].to_string();
        pods.iter().map(uid).collect()
    };
    let before = uids();
    for plural in ["services", "configmaps", "poddisruptionbudgets", "networkpolicies"] {
        for name in bench.names(plural) {
            bench.delete(plural, &name);
        }
    }
    bench.change("statefulsets", "demo-default", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("somebody:else");
    });
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(before, uids());
    for plural in ["services", "configmaps", "poddisruptionbudgets", "networkpolicies"] {
        assert!(!bench.names(plural).is_empty(), "{plural}");
    }
    let set = bench.object("statefulsets", "demo-default").unwrap();
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "kvasir:1.0.0");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_stateful_set_comes_back_with_all_its_pods() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    // A scale-down that does not get on stands while the set is lost: no owner may get lost with it.
    bench.world.nodes().moves_stand = true;
    bench.edit(|spec| spec["nodes"] = json!(3));
    bench.rest(&mut bench.life(None)).await;
    bench.delete("statefulsets", "demo-default");
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.world.ready_pods("default").len(), 4);
    assert_eq!(bench.world.nodes().formed, 1);
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stateful_set_made_smaller_by_hand_gets_its_members_back() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    bench.world.nodes().moves_stand = true;
    bench.edit(|spec| spec["nodes"] = json!(3));
    bench.rest(&mut bench.life(None)).await;
    bench.change("statefulsets", "demo-default", |set| set["spec"]["replicas"] = json!(2));
    bench.world.settle();
    assert_eq!(bench.names("pods").len(), 2);
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.world.ready_pods("default").len(), 4);
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_controller_gets_there_on_watches_that_lag() {
    let bench = Bench::new();
    let life = bench.life(None);
    let run = controller::run(life.operator, Some(NS.to_owned()), std::future::pending());
    let drive = async {
        bench.create(|_| {});
        for second in 0..900 {
            // Most of the time watchers are five changes behind.
            bench.world.api.set_lag(if second % 10 == 0 { 0 } else { 5 });
            tokio::time::sleep(Duration::from_secs(1)).await;
            bench.world.turn();
            if second == 300 {
                bench.edit(|spec| spec["nodes"] = json!(4));
            }
        }
    };
    tokio::select! {
        () = run => panic!("the controller ended"),
        () = drive => {}
    }
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.world.nodes().document().unwrap().members.len(), 4);
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_rollout_waits_while_a_worker_is_dead() {
    let bench = Bench::formed(|_| {}).await;
    let pod = bench.object("pods", "demo-default-1").unwrap();
    let worker = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
    bench.world.kill_worker(&worker);
    bench.world.settle();
    bench.edit(|spec| spec["image"] = json!("kvasir:2.0.0"));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.condition("Degraded"), held("True", "MembersDown"));
    assert_eq!(bench.world.ready_pods("default").len(), 2, "no other pod was taken");
    bench.world.holds().dead_workers.clear();
    bench.world.settle();
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_comes_up_on_another_worker_is_told_to_the_ring() {
    let bench = Bench::formed(|_| {}).await;
    let worker = || bench.object("pods", "demo-default-1").unwrap()["spec"]["nodeName"].clone();
    let old = worker();
    bench.world.api.with_store(|store| {
        let key = crate::api::key("nodes", "", old.as_str().unwrap());
        let mut node = store.get(&key).cloned().unwrap();
        node["spec"]["unschedulable"] = json!(true);
        store.replace(&key, node).unwrap();
    });
    bench.delete("pods", "demo-default-1");
    bench.world.settle();
    assert_ne!(worker(), old);
    bench.rest(&mut bench.life(None)).await;
    let machines: Vec<String> = {
        let nodes = bench.world.nodes();
        nodes.document().unwrap().members.values().map(|member| member.machine.clone()).collect()
    };
    assert!(machines.contains(&worker().as_str().unwrap().to_owned()), "{machines:?}");
    assert!(!machines.contains(&old.as_str().unwrap().to_owned()), "{machines:?}");
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operation_that_the_nodes_refuse_for_good_does_not_hold_up_a_mended_spec() {
    let bench = Bench::formed(|_| {}).await;
    let before = bench.world.nodes().document().unwrap().epoch;
    bench.world.nodes().refuses = Some("place_differs");
    bench.world.api.with_store(|store| {
        let pod = store.get(&crate::api::key("pods", NS, "demo-default-1")).cloned().unwrap();
        let worker = pod["spec"]["nodeName"].as_str().unwrap();
        let key = crate::api::key("nodes", "", worker);
        let mut node = store.get(&key).cloned().unwrap();
        node["spec"]["unschedulable"] = json!(true);
        store.replace(&key, node).unwrap();
    });
    bench.delete("pods", "demo-default-1");
    bench.world.settle();
    let mut life = bench.life(None);
    bench.rest(&mut life).await;
    assert_eq!(bench.condition("Degraded"), held("True", "OperationRefused"));
    let asked = life.failures.len();
    bench.rest(&mut life).await;
    assert_eq!(life.failures.len(), asked, "it is not asked for over and over");
    bench.edit(|spec| spec["image"] = json!("kvasir:2.0.0"));
    bench.rest(&mut life).await;
    let image = |name: &String| {
        bench.object("pods", name).unwrap()["spec"]["containers"][0]["image"].clone()
    };
    assert!(bench.names("pods").iter().all(|name| image(name) == "kvasir:2.0.0"));
    assert_eq!(bench.world.nodes().document().unwrap().epoch, before);
    assert_eq!(bench.condition("Degraded"), held("True", "OperationRefused"));
    // What stood against it is gone; the next pod in its place asks again.
    bench.world.nodes().refuses = None;
    bench.edit(|spec| spec["image"] = json!("kvasir:3.0.0"));
    bench.rest(&mut life).await;
    assert_eq!(bench.world.nodes().document().unwrap().epoch, before + 1);
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_blank_ordinal_0_never_forms_a_second_cluster() {
    let bench = Bench::formed(|_| {}).await;
    for name in bench.names("persistentvolumeclaims") {
        bench.delete("persistentvolumeclaims", &name);
    }
    for name in bench.names("pods") {
        bench.delete("pods", &name);
    }
    bench.world.settle();
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.world.nodes().formed, 1);
    assert_eq!(bench.condition("Ready").0, "False");
    assert_eq!(bench.condition("Degraded"), held("True", "VolumesLost"));
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_new_install_on_kept_volumes_finds_the_cluster() {
    let bench = Bench::formed(|_| {}).await;
    let id = bench.object("kvclusters", NAME).unwrap()["status"]["clusterID"].clone();
    bench.delete("kvclusters", NAME);
    bench.world.settle();
    assert_eq!(bench.names("pods"), Vec::<String>::new());
    assert_eq!(bench.names("persistentvolumeclaims").len(), 3);
    bench.create(|_| {});
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.object("kvclusters", NAME).unwrap()["status"]["clusterID"], id);
    assert_eq!(bench.world.nodes().formed, 1);
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_spec_that_cannot_be_carried_out_changes_nothing() {
    let bench = Bench::formed(|_| {}).await;
    bench.edit(|spec| {
        spec["config"] = json!({"node": {"data_dir": "/elsewhere"}});
        spec["image"] = json!("kvasir:2.0.0");
    });
    let before = bench.names("pods");
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(bench.condition("Valid").0, "False");
    assert_eq!(bench.condition("Ready").0, "False");
    let set = bench.object("statefulsets", "demo-default").unwrap();
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "kvasir:1.0.0");
    assert_eq!(bench.names("pods"), before);
}

#[tokio::test]
async fn errors_of_the_api_server_delay_and_change_nothing() {
    let bench = Bench::new();
    bench.create(|_| {});
    let failure = Failure::new(500, "InternalError", "injected");
    for (verb, plural) in [
        ("patch", "statefulsets"),
        ("list", "pods"),
        ("update", "kvclusters"),
        ("create", "secrets"),
        ("patch", "services"),
    ] {
        let failure = failure.clone();
        bench.world.api.state().faults.push(Fault { verb, plural, times: 2, failure });
    }
    let mut life = bench.life(None);
    bench.rest(&mut life).await;
    assert!(life.failures.len() >= 5, "{:?}", life.failures);
    assert_eq!(bench.condition("Ready").0, "True");
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn every_change_of_the_topology_is_followed_by_a_repair_of_everything() {
    let bench = Bench::formed(|_| {}).await;
    let repairs = |bench: &Bench| {
        let document = bench.world.nodes().document().cloned().unwrap();
        let records = document.operations.values();
        records.filter(|record| record.operation.kind == OperationKind::Repair).count()
    };
    assert_eq!(repairs(&bench), 1);
    assert_eq!(bench.condition("RepairOverdue"), held("False", "InTime"));
    let first = bench.object("kvclusters", NAME).unwrap()["status"]["repair"].clone();
    assert!(first["completedAt"].is_string(), "{first}");
    bench.world.nodes().repairs_stand = true;
    bench.edit(|spec| spec["nodes"] = json!(4));
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(repairs(&bench), 2);
    let status = |bench: &Bench| bench.object("kvclusters", NAME).unwrap()["status"].clone();
    assert_eq!(status(&bench)["operation"]["type"], "Repair");
    assert_eq!(status(&bench)["operation"]["progressPercent"], 50);
    assert_eq!(bench.condition("Ready").0, "True", "nobody waits for a repair");
    bench.world.nodes().repairs_stand = false;
    bench.rest(&mut bench.life(None)).await;
    assert_eq!(status(&bench)["operation"], json!(null));
    assert!(status(&bench)["repair"]["completedAt"].is_string());
    assert_eq!(bench.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_node_that_was_away_for_long_has_all_that_it_holds_compared() {
    let away = json!({"afterAwaySeconds": 0, "overdueAfterSeconds": 100_000});
    for (repair, repairs) in [(away, 1), (json!({}), 0)] {
        let bench = Bench::formed(|spec| spec["repair"] = repair).await;
        let id = bench.world.nodes().id_in("demo-default-1").unwrap();
        let worker = bench.object("pods", "demo-default-1").unwrap()["spec"]["nodeName"].clone();
        bench.world.kill_worker(worker.as_str().unwrap());
        bench.world.settle();
        bench.rest(&mut bench.life(None)).await;
        assert_eq!(bench.condition("Degraded"), held("True", "MembersDown"));
        bench.world.holds().dead_workers.clear();
        bench.world.settle();
        bench.rest(&mut bench.life(None)).await;
        assert_eq!(bench.condition("Ready").0, "True");
        let document = bench.world.nodes().document().cloned().unwrap();
        let of_it = document.operations.values().filter(|record| {
            let operation = &record.operation;
            operation.kind == OperationKind::Repair && operation.node == Some(id)
        });
        assert_eq!(of_it.count(), repairs);
        let status = bench.object("kvclusters", NAME).unwrap()["status"].clone();
        assert_eq!(status["operation"], json!(null), "it is over, and asked for once");
        assert!(status["nodeStatuses"][1].get("awaySince").is_none(), "{status:#}");
        assert_eq!(bench.violations(), Vec::<String>::new());
    }
}
