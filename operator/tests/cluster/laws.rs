//! What the fake API server has in common with a real one, as far as an operator depends on it.

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
    WatchEvent, WatchParams,
};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use crate::api::failure::Failure;
use crate::api::process::{Death, Process, Side};
use crate::api::{Api, Fault, key};

const NS: &str = "default";

fn config(data: Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": "c"}, "data": data})).expect("a ConfigMap")
}

fn patch(data: Value) -> Patch<Value> {
    Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data,
    }))
}

fn maps(api: &std::sync::Arc<Api>) -> kube::Api<ConfigMap> {
    kube::Api::namespaced(api.client(&Process::new("test", None)), NS)
}

fn by(manager: &str) -> PatchParams {
    PatchParams::apply(manager)
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the API server: {other}"),
    }
}

fn data(map: &ConfigMap) -> Vec<(&str, &str)> {
    let data = map.data.iter().flatten();
    data.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test]
async fn an_object_has_one_uid_and_a_version_that_guards_replacing() {
    let api = Api::new();
    let maps = maps(&api);
    let post = PostParams::default();
    let first = maps.create(&post, &config(json!({"a": "1"}))).await.unwrap();
    assert_eq!(code(maps.create(&post, &config(json!({}))).await.unwrap_err()), 409);
    let mut second = first.clone();
    second.data.as_mut().unwrap().insert("a".to_owned(), "2".to_owned());
    let second = maps.replace("c", &post, &second).await.unwrap();
    assert_eq!(first.metadata.uid, second.metadata.uid);
    assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    assert_eq!(code(maps.replace("c", &post, &first).await.unwrap_err()), 409);
    let again = maps.replace("c", &post, &second).await.unwrap();
    assert_eq!(again.metadata.resource_version, second.metadata.resource_version);
}

#[tokio::test]
async fn an_apply_removes_what_it_leaves_out_and_nothing_of_others() {
    let api = Api::new();
    let maps = maps(&api);
    maps.patch("c", &by("one"), &patch(json!({"a": "1", "b": "1"}))).await.unwrap();
    let both = maps.patch("c", &by("two"), &patch(json!({"b": "1", "d": "2"}))).await.unwrap();
    assert_eq!(data(&both), [("a", "1"), ("b", "1"), ("d", "2")]);
    let less = maps.patch("c", &by("one"), &patch(json!({"a": "1"}))).await.unwrap();
    assert_eq!(data(&less), [("a", "1"), ("b", "1"), ("d", "2")]);
    let none = maps.patch("c", &by("two"), &patch(json!({"d": "2"}))).await.unwrap();
    assert_eq!(data(&none), [("a", "1"), ("d", "2")]);
}

#[tokio::test]
async fn an_apply_that_changes_nothing_makes_no_version() {
    let api = Api::new();
    let maps = maps(&api);
    let first = maps.patch("c", &by("one"), &patch(json!({"a": "1"}))).await.unwrap();
    let again = maps.patch("c", &by("one"), &patch(json!({"a": "1"}))).await.unwrap();
    assert_eq!(first, again);
}

#[tokio::test]
async fn a_field_of_another_manager_is_a_conflict_unless_forced() {
    let api = Api::new();
    let maps = maps(&api);
    maps.patch("c", &by("one"), &patch(json!({"a": "1"}))).await.unwrap();
    let refused = maps.patch("c", &by("two"), &patch(json!({"a": "2"}))).await;
    assert_eq!(code(refused.unwrap_err()), 409);
    let forced = maps.patch("c", &by("two").force(), &patch(json!({"a": "2"}))).await.unwrap();
    assert_eq!(data(&forced), [("a", "2")]);
    let lost = maps.patch("c", &by("one"), &patch(json!({}))).await.unwrap();
    assert_eq!(data(&lost), [("a", "2")], "a field lost by force is not the first manager's");
    let edited = Patch::Merge(json!({"data": {"a": "3"}}));
    maps.patch("c", &PatchParams::default(), &edited).await.unwrap();
    let back = maps.patch("c", &by("two").force(), &patch(json!({"a": "2"}))).await.unwrap();
    assert_eq!(data(&back), [("a", "2")]);
}

#[tokio::test]
async fn items_of_keyed_lists_are_merged_and_removed_by_key() {
    let api = Api::new();
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client(&Process::new("test", None)), NS);
    let pod = |containers: Value| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": containers},
        }))
    };
    let mine = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
    pods.patch("p", &by("one"), &pod(mine)).await.unwrap();
    let other = json!([{"name": "side", "image": "z"}]);
    pods.patch("p", &by("two"), &pod(other)).await.unwrap();
    let less = pods.patch("p", &by("one"), &pod(json!([{"name": "a", "image": "x2"}]))).await;
    let containers = less.unwrap().spec.unwrap().containers;
    let names: Vec<(&str, Option<&str>)> =
        containers.iter().map(|c| (c.name.as_str(), c.image.as_deref())).collect();
    assert_eq!(names, [("a", Some("x2")), ("side", Some("z"))]);
}

#[tokio::test]
async fn status_and_generation_go_their_own_ways() {
    let api = Api::new();
    let sets: kube::Api<StatefulSet> =
        kube::Api::namespaced(api.client(&Process::new("test", None)), NS);
    let set = |replicas: u64, status: u64| {
        let labels = json!({"app": "x"});
        Patch::Apply(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
            "spec": {
                "replicas": replicas, "serviceName": "s", "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
            },
            "status": {"replicas": status},
        }))
    };
    let made = sets.patch("s", &by("one"), &set(1, 7)).await.unwrap();
    assert_eq!((made.metadata.generation, made.status.is_none()), (Some(1), true));
    let status = sets.patch_status("s", &by("two"), &set(9, 7)).await.unwrap();
    assert_eq!(status.metadata.generation, Some(1));
    assert_eq!(status.spec.as_ref().unwrap().replicas, Some(1));
    assert_eq!(status.status.as_ref().unwrap().replicas, 7);
    let scaled = sets.patch("s", &by("one"), &set(2, 0)).await.unwrap();
    assert_eq!((scaled.metadata.generation, scaled.status.unwrap().replicas), (Some(2), 7));
    let renamed = Patch::Merge(json!({"spec": {"serviceName": "other"}}));
    let refused = sets.patch("s", &PatchParams::default(), &renamed).await.unwrap_err();
    assert_eq!(code(refused), 422);
    let scale = sets.get_scale("s").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));
    let to = Patch::Merge(json!({"spec": {"replicas": 5}}));
    sets.patch_scale("s", &PatchParams::default(), &to).await.unwrap();
    assert_eq!(sets.get("s").await.unwrap().spec.unwrap().replicas, Some(5));
}

#[tokio::test]
async fn deletion_holds_to_preconditions_and_waits_for_finalizers() {
    let api = Api::new();
    let maps = maps(&api);
    let mut held = config(json!({}));
    held.metadata.finalizers = Some(vec!["kvasir.dev/test".to_owned()]);
    let made = maps.create(&PostParams::default(), &held).await.unwrap();
    let on = |uid: &str| {
        let uid = Some(uid.to_owned());
        let preconditions = Some(Preconditions { uid, resource_version: None });
        DeleteParams { preconditions, ..DeleteParams::default() }
    };
    assert_eq!(code(maps.delete("c", &on("another")).await.unwrap_err()), 409);
    maps.delete("c", &on(&made.metadata.uid.unwrap())).await.unwrap();
    let waiting = maps.get("c").await.unwrap();
    assert!(waiting.metadata.deletion_timestamp.is_some());
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("c", &PatchParams::default(), &free).await.unwrap();
    assert_eq!(code(maps.get("c").await.unwrap_err()), 404);
}

#[tokio::test]
async fn an_eviction_is_refused_while_the_budget_has_nothing_to_spare() {
    let api = Api::new();
    let pod = |name: &str, ready: bool| {
        json!({
            "metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": []},
            "status": {"conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    };
    let budget = json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    api.with_store(|store| {
        store.create(key("pods", NS, "p0"), pod("p0", true)).unwrap();
        store.create(key("pods", NS, "p1"), pod("p1", true)).unwrap();
        store.create(key("pods", NS, "p2"), pod("p2", false)).unwrap();
        store.create(key("poddisruptionbudgets", NS, "b"), budget).unwrap();
    });
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client(&Process::new("test", None)), NS);
    let evict = EvictParams::default();
    assert_eq!(code(pods.evict("p0", &evict).await.unwrap_err()), 429);
    pods.evict("p2", &evict).await.expect("a pod that is not ready costs nothing");
    assert_eq!(code(pods.get("p2").await.unwrap_err()), 404);
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order_and_lags_when_told_to() {
    let api = Api::new();
    let maps = maps(&api);
    maps.create(&PostParams::default(), &config(json!({"a": "0"}))).await.unwrap();
    let start = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    api.set_lag(1);
    maps.patch("c", &by("one"), &patch(json!({"b": "1"}))).await.unwrap();
    maps.patch("c", &by("one"), &patch(json!({"b": "2"}))).await.unwrap();
    let mut watch = Box::pin(maps.watch(&WatchParams::default(), &start).await.unwrap());
    let seen = |event: WatchEvent<ConfigMap>| match event {
        WatchEvent::Modified(map) => map.data.unwrap()["b"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(seen(watch.next().await.unwrap().unwrap()), "1");
    assert!(futures_util::FutureExt::now_or_never(watch.next()).is_none());
    let cached = ListParams::default().match_any();
    let old = maps.list(&cached).await.unwrap();
    assert_eq!(old.items[0].data.as_ref().unwrap()["b"], "1");
    assert_eq!(maps.get("c").await.unwrap().data.unwrap()["b"], "2");
    api.set_lag(0);
    assert_eq!(seen(watch.next().await.unwrap().unwrap()), "2");
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), WatchEvent::Deleted(_)));
    api.with_store(crate::api::store::Store::compact);
    let mut late = Box::pin(maps.watch(&WatchParams::default(), &start).await.unwrap());
    match late.next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_selector_chooses_what_is_listed_and_metadata_comes_alone_when_asked() {
    let api = Api::new();
    let maps = maps(&api);
    let mut map = config(json!({"a": "1"}));
    map.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let named = |selector: &str| ListParams::default().labels(selector);
    assert_eq!(maps.list(&named("x=y")).await.unwrap().items.len(), 1);
    assert_eq!(maps.list(&named("x=z")).await.unwrap().items.len(), 0);
    let metas: kube::Api<PartialObjectMeta<ConfigMap>> =
        kube::Api::namespaced(api.client(&Process::new("test", None)), NS);
    let metas = metas.list(&named("x")).await.unwrap();
    assert_eq!(metas.items[0].metadata.name.as_deref(), Some("c"));
    let rights = api.rights_used();
    assert!(rights.contains(&(String::new(), "configmaps".to_owned(), "list")));
}

#[tokio::test]
async fn a_process_dies_on_the_chosen_side_of_a_write_and_injected_errors_arrive() {
    for (side, there) in [(Side::Before, false), (Side::After, true)] {
        let api = Api::new();
        let process = Process::new("doomed", Some(Death { write: 2, side }));
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(api.client(&process), NS);
        maps.patch("c", &by("one"), &patch(json!({"a": "1"}))).await.unwrap();
        let (params, body) = (by("one"), patch(json!({"a": "2"})));
        let write = maps.patch("c", &params, &body);
        tokio::select! {
            () = process.died() => {}
            answer = write => panic!("answered after death: {answer:?}"),
        }
        assert_eq!(process.writes(), 2);
        let stored = api.state().store.get(&key("configmaps", NS, "c")).cloned().unwrap();
        assert_eq!(stored["data"]["a"] == "2", there);
        let read = maps.get("c");
        assert!(futures_util::FutureExt::now_or_never(read).is_none(), "the dead do not read");
    }
    let api = Api::new();
    let failure = Failure::new(500, "InternalError", "injected");
    api.state().faults.push(Fault { verb: "list", plural: "configmaps", times: 1, failure });
    assert_eq!(code(maps(&api).list(&ListParams::default()).await.unwrap_err()), 500);
    assert_eq!(maps(&api).list(&ListParams::default()).await.unwrap().items.len(), 0);
}
