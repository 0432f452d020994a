//! Single steps on objects that are not what they were when the step was planned: whatever takes
//! something away, or speaks to a node, does nothing then and says so.

use kvasir_core::admin_api::{OperationKind, OperationRequest};
use kvasir_operator::apply::ApplyError;
use kvasir_operator::crd::KVCluster;
use kvasir_operator::pass::PassError;
use kvasir_operator::plan::{PodTarget, Step};
use kvasir_operator::snapshot::ObjectName;
use serde_json::{Value, json};

use crate::api::Fault;
use crate::api::failure::Failure;
use crate::operator::{Bench, Life, NAME, NS};

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn target(bench: &Bench, name: &str) -> PodTarget {
    let pod = bench.object("pods", name).expect("the pod is there");
    let (uid, ip) = (text(&pod["metadata"]["uid"]), text(&pod["status"]["podIP"]));
    PodTarget { name: name.to_owned(), uid, ip }
}

async fn take(bench: &Bench, life: &Life, step: Step) -> Result<(), ApplyError> {
    let cluster = bench.object("kvclusters", NAME).expect("the resource is there");
    let cluster: KVCluster = serde_json::from_value(cluster).expect("a plain resource");
    life.operator.hands.take(&cluster, &step).await
}

fn post(pod: PodTarget) -> Step {
    let request = OperationRequest {
        id: "leave-1-x".to_owned(),
        kind: OperationKind::Leave,
        node: None,
        replaces: None,
        machine: None,
        rebalance: Some(false),
    };
    Step::Post { pod, request }
}

fn is_changed(done: &Result<(), ApplyError>) -> bool {
    matches!(done, Err(ApplyError::Changed(_)))
}

#[tokio::test]
async fn a_pod_of_the_same_name_is_not_the_pod_that_was_meant() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    let real = target(&bench, "demo-default-1");
    let other = PodTarget { uid: "an older one".to_owned(), ..real.clone() };
    let moved = PodTarget { ip: "10.0.0.99".to_owned(), ..real.clone() };
    let gone = PodTarget { name: "demo-default-7".to_owned(), ..real.clone() };
    for pod in [other.clone(), gone] {
        let cancel = Step::Cancel { pod: pod.clone(), id: "leave-1-x".to_owned() };
        let takes_away = [Step::Evict(pod.clone()), Step::DeletePod(pod.clone())];
        for step in takes_away.into_iter().chain([cancel, post(pod.clone())]) {
            let done = take(&bench, &life, step).await;
            assert!(is_changed(&done), "{done:?}");
        }
    }
    let done = take(&bench, &life, post(moved)).await;
    assert!(is_changed(&done), "another process may have the address by now: {done:?}");
    assert_eq!(life.process.writes(), 0, "nothing was sent");
    assert_eq!(target(&bench, "demo-default-1"), real);
}

#[tokio::test]
async fn a_pod_that_runs_is_evicted_under_the_budget_and_never_deleted() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    let pod = target(&bench, "demo-default-1");
    let done = take(&bench, &life, Step::DeletePod(pod.clone())).await;
    assert!(is_changed(&done), "planned when it did not run: {done:?}");
    assert_eq!(life.process.writes(), 0);
    bench.world.holds().unready.insert("demo-default-0".to_owned());
    bench.change("pods", "demo-default-0", |pod| {
        for held in pod["status"]["conditions"].as_array_mut().expect("conditions") {
            held["status"] = json!("False");
        }
    });
    let done = take(&bench, &life, Step::Evict(pod.clone())).await;
    assert!(matches!(done, Err(ApplyError::Budget { .. })), "{done:?}");
    assert_eq!(target(&bench, "demo-default-1"), pod);
}

#[tokio::test]
async fn a_set_gets_smaller_only_by_the_step_that_says_so() {
    let bench = Bench::formed(|spec| spec["nodes"] = json!(4)).await;
    let life = bench.life(None);
    let set = bench.object("statefulsets", "demo-default").expect("the set is there");
    let mut smaller = set.clone();
    smaller["spec"]["replicas"] = json!(3);
    for field in ["managedFields", "uid", "resourceVersion"] {
        smaller["metadata"].as_object_mut().expect("metadata").remove(field);
    }
    let done = take(&bench, &life, Step::Apply(Box::new(smaller.clone()))).await;
    assert!(matches!(done, Err(ApplyError::Defect(_))), "{done:?}");
    let shrink = |version: &str, pod: PodTarget| Step::Shrink {
        object: Box::new(smaller.clone()),
        uid: text(&set["metadata"]["uid"]),
        resource_version: version.to_owned(),
        pod,
    };
    let version = text(&set["metadata"]["resourceVersion"]);
    let wrong = take(&bench, &life, shrink(&version, target(&bench, "demo-default-2"))).await;
    assert!(matches!(wrong, Err(ApplyError::Defect(_))), "not the last pod: {wrong:?}");
    let stale = take(&bench, &life, shrink("1", target(&bench, "demo-default-3"))).await;
    assert!(is_changed(&stale), "{stale:?}");
    let now = bench.object("statefulsets", "demo-default").expect("the set is there");
    assert_eq!(now["spec"]["replicas"], 4);
}

#[tokio::test]
async fn what_nothing_brings_back_is_never_deleted() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    for (kind, name) in [
        ("StatefulSet", "demo-default"),
        ("Service", NAME),
        ("Secret", "demo-admin"),
        ("Pod", "demo-default-0"),
        ("PersistentVolumeClaim", "data-demo-default-0"),
    ] {
        let step = Step::Delete { object: ObjectName::new(kind, name), uid: "any".to_owned() };
        let done = take(&bench, &life, step).await;
        assert!(matches!(done, Err(ApplyError::Defect(_))), "{kind}: {done:?}");
    }
    let claim = "data-demo-default-0".to_owned();
    let uid = "an older one".to_owned();
    let older = Step::DeleteVolume { name: claim.clone(), uid: uid.clone() };
    assert!(is_changed(&take(&bench, &life, older).await));
    for name in [claim, "data-demo-default-9".to_owned()] {
        let grow =
            Step::GrowVolume { name: name.clone(), uid: uid.clone(), size: "9Gi".to_owned() };
        assert!(is_changed(&take(&bench, &life, grow).await), "{name}");
        let own = Step::OwnVolume { name: name.clone(), uid: uid.clone(), owned: true };
        assert!(is_changed(&take(&bench, &life, own).await), "{name}");
    }
    assert_eq!(bench.names("persistentvolumeclaims").len(), 3, "none was made either");
    assert_eq!(bench.harm(), Vec::<String>::new());
}

#[tokio::test]
async fn a_token_is_made_once_and_one_that_is_empty_is_named() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    let before = bench.object("secrets", "demo-admin").expect("the Secret is there");
    let again = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-admin"}});
    take(&bench, &life, Step::CreateToken(Box::new(again))).await.expect("it is there already");
    assert_eq!(bench.object("secrets", "demo-admin").expect("still there"), before);
    bench.change("secrets", "demo-admin", |secret| secret["data"] = json!({}));
    let done = take(&bench, &life, post(target(&bench, "demo-default-0"))).await;
    let Err(ApplyError::Refused { why, .. }) = done else { panic!("{done:?}") };
    assert!(why.contains("demo-admin") && why.contains("delete it"), "{why}");
}

#[tokio::test]
async fn answers_of_the_api_server_are_told_apart() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    for (code, reason) in [
        (403, "RefusedByApiServer"),
        (422, "RefusedByApiServer"),
        (409, "Changed"),
        (429, "ApiServerFailed"),
        (500, "ApiServerFailed"),
    ] {
        let failure = Failure::new(code, "Injected", "injected");
        let fault = Fault { verb: "patch", plural: "configmaps", times: 1, failure };
        bench.world.api.state().faults.push(fault);
        let done = take(&bench, &life, Step::Apply(Box::new(map.clone()))).await;
        assert_eq!(done.expect_err("injected").reason(), reason, "{code}");
    }
}

#[tokio::test]
async fn monitoring_that_cannot_be_had_keeps_nothing_else_from_being_done() {
    let bench = Bench::formed(|_| {}).await;
    bench.edit(|spec| {
        spec["monitoring"] = json!({"podMonitor": true});
        spec["nodes"] = json!(4);
    });
    let mut life = bench.life(None);
    for _ in 0..20 {
        bench.pass(&mut life).await;
        bench.world.settle();
    }
    assert!(life.failures.iter().any(|said| said.contains("PodMonitor")), "{:?}", life.failures);
    assert_eq!(bench.names("pods").len(), 4);
    assert_eq!(bench.condition("Progressing").1, "UnknownKind");
}

#[tokio::test]
async fn a_pass_whose_status_is_refused_does_nothing() {
    let bench = Bench::formed(|_| {}).await;
    bench.edit(|spec| spec["nodes"] = json!(4));
    let failure = Failure::conflict("somebody else wrote");
    let fault = Fault { verb: "update", plural: "kvclusters", times: 1, failure };
    bench.world.api.state().faults.push(fault);
    let life = bench.life(None);
    let done = life.operator.pass(NS, NAME, None).await;
    assert!(matches!(done, Err(PassError::Status(ApplyError::Changed(_)))), "{done:?}");
    assert_eq!(life.process.writes(), 1, "the status alone was tried");
    assert_eq!(bench.names("pods").len(), 3);
}

#[tokio::test]
async fn a_cluster_that_is_gone_or_going_is_left_alone() {
    let bench = Bench::formed(|_| {}).await;
    let life = bench.life(None);
    assert!(matches!(life.operator.pass(NS, "nobody", None).await, Ok(None)));
    bench.change("kvclusters", NAME, |cluster| {
        cluster["metadata"]["finalizers"] = json!(["somebody/else"]);
    });
    bench.edit(|spec| spec["nodes"] = json!(5));
    bench.delete("kvclusters", NAME);
    assert!(matches!(life.operator.pass(NS, NAME, None).await, Ok(None)));
    assert_eq!(life.process.writes(), 0);
}
